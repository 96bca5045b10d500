"""The grammar of params files: what each parameter may be and what it may not, written down apart from the library.

So a wrong file that is accepted, and a right one that is refused, is a fault of the library, never of a test.
"""

import copy
from typing import Any

import yaml
from hypothesis import strategies as st

from guidebook.config.paths import PARAMS

# Every parameter: what it is, and an allowed value that mnist/demo does not have. A count is a whole number from 1, a seed one
# from 0, a rate a number above 0, a share one from 0 to 1.
GRAMMAR = {
    "experiment": ("name", "other"), "profile": ("name", "other"),
    "data.name": ("choice", "mnist"), "data.resolution": ("count", 16), "data.range": ("list", [-1.0, 1.0]),
    "data.caption": ("caption", "A {label}"), "data.phrasings": ("count or null", 3), "data.limit": ("count or null", 100),
    "data.flips": ("switch", True),
    "text.encoder": ("choice", "openai/clip-vit-base-patch32"), "text.tokens": ("count", 9),
    "model.kind": ("choice", None), "model.vae": ("choice or null", "embedded"), "model.channels": ("list", [32, 64, 96]),
    "model.layers_per_block": ("count", 2), "model.num_heads": ("count", 16),
    "model.modulation": ("choice", "scale-shift"),
    "model.patch": ("count", 4), "model.hidden": ("count", 48), "model.layers": ("count", 3),
    "model.conditioning": ("choice", "in-context"), "model.state": ("count", 16), "model.qk_norm": ("switch", False),
    "objective.kind": ("choice", "flow"), "objective.schedule": ("choice", "scaled_linear"),
    "objective.betas": ("list or null", [0.00085, 0.012]), "objective.timesteps": ("count", 500),
    "objective.prediction": ("choice", "v_prediction"), "objective.min_snr_gamma": ("rate or null", 5.0),
    "objective.zero_terminal_snr": ("switch", True), "objective.sigma_data": ("rate", 0.7), "objective.mean": ("number", 0.5),
    "objective.std": ("rate", 0.9), "objective.largest": ("rate", 60.0), "objective.times": ("choice", "uniform"),
    "objective.shift": ("rate", 3.0),
    "train.batch": ("count", 64), "train.micro_batch": ("count or null", 16), "train.lr": ("rate", 0.002),
    "train.warmup": ("seed", 1000), "train.weight_decay": ("not negative", 0.02), "train.epochs": ("rate", 41),
    "train.file_rows": ("count or null", 5), "train.caption_dropout": ("share", 0.1), "train.ema": ("list", [0.99, 0.9]), "train.clip_norm": ("rate or null", None),
    "train.precision": ("choice", "bf16"), "train.seed": ("seed", 1), "train.checkpoint_every": ("rate", 5),
    "train.keep_checkpoints": ("count", 3), "train.snapshots": ("count", 32), "train.processes": ("count", 2), "train.tracker": ("choice or null", "tensorboard"),
    "train.channels_last": ("switch", True), "train.compile": ("switch", True),
    "train.gradient_checkpointing": ("switch", True),
    "sample.sampler": ("choice", "ddim"), "sample.steps": ("count", 26), "sample.eta": ("share", 0.5),
    "sample.v": ("share", 0.5), "sample.spacing": ("choice", "trailing"), "sample.guidance": ("list", [1]),
    "sample.methods": ("list", [{"name": "rescaled", "combine": "rescaled", "w": [2], "phi": 0.7}]),
    "sample.solvers": ("list", [{"sampler": "heun", "steps": 5, "eta": 0.0, "spacing": "karras"}]),
    "sample.seed": ("seed", 1), "sample.batch": ("count", 10), "sample.weights": ("choice", "raw"),
    "evaluate.samples": ("count", 510),
}  # fmt: skip
# Parameters that may be left out: where and how a run happens and who watches, which no training depends on, and what only some
# experiments have.
HOW = {
    f"train.{name}"
    for name in ("snapshots", "processes", "tracker", "channels_last", "compile", "gradient_checkpointing")
}
DEFAULTED = {
    *HOW,
    "sample.methods",
    "sample.solvers",
    "sample.v",
    "data.phrasings",
    "model.vae",
    "model.modulation",
    "objective.betas",
    "objective.times",
    "objective.shift",
    "train.file_rows",
}
FREE = {"train.micro_batch", "train.checkpoint_every", "train.keep_checkpoints", *HOW}
SECTIONS = sorted({key.partition(".")[0] for key in GRAMMAR if "." in key})
OBJECTIVES = {
    "flow": {"kind": "flow", "mean": 0.0, "std": 1.0},
    "edm": {"kind": "edm", "sigma_data": 0.5, "mean": -1.2, "std": 1.2, "largest": 80.0},
}
MODELS = {
    "dit": {"kind": "dit", "patch": 2, "hidden": 32, "layers": 2, "num_heads": 8, "conditioning": "adaln-zero"},
    "ssm": {"kind": "ssm", "patch": 2, "hidden": 32, "layers": 2, "num_heads": 8, "state": 8},
    "mmdit": {"kind": "mmdit", "patch": 2, "hidden": 64, "layers": 2, "num_heads": 1, "qk_norm": True},
}  # fmt: skip

# Three whole files: two profiles that extend no other, and one of another objective
PROFILES = {name: (PARAMS / "mnist" / f"{name}.yml").read_text() for name in ("demo", "paper")}
_demo = PROFILES["demo"]
PROFILES["flow"] = "".join([
    _demo[: _demo.index("objective:")], yaml.safe_dump({"objective": OBJECTIVES["flow"]}, sort_keys=False),
    _demo[_demo.index("train:") :].replace("spacing: leading", "spacing: trailing").replace("ddpm", "ddim"),
])  # fmt: skip
RAW = {name: yaml.safe_load(text) for name, text in PROFILES.items()}
DEMO = RAW["demo"]


def place(raw: dict, key: str) -> tuple[dict, str]:
    """The mapping in which `section.key` stands, and its key there."""
    section, _, name = key.rpartition(".")
    return (raw[section] if section else raw), name


def edited(key: str, value: Any, base: dict = DEMO) -> dict:
    """A copy of `base` in which `section.key` has the value."""
    raw = copy.deepcopy(base)
    owner, name = place(raw, key)
    owner[name] = value
    return raw


def keys(raw: dict) -> list[str]:
    """The parameters that stand in a mapping, the sections left out."""
    return [key for key in GRAMMAR if place(raw, key)[1] in place(raw, key)[0]]


NAN = st.sampled_from([float("nan"), float("inf"), float("-inf")])
HUGE = st.integers(20, 4000).map(lambda digits: 10**digits)
FRACTION = st.integers(0, 1000).map(lambda n: n + 0.5)
NUMBER_TEXT = st.sampled_from(
    ["1e-4", "5", "0.5", "1_0", "0x10", "128", " 128 ", "1,000", "１２８", "٣", "NaN", ".inf "]
)
WORDS = st.sampled_from(["many", "", "null ", "true!", "~/x", "None", "${HOME}", "$(touch pwned)", "`id`", "x" * 5000])
TRICKS = st.sampled_from([
    "mn\u0456st", "mnist\u200b", "\u202emnist", "mni\u0301st", "ｍｎｉｓｔ", "mnist\u2028", "mnist\x00", "\ufeffmnist",
    "demo\n", "de\tmo", "\x1b[31mdemo", "demo\x85", "😀" * 30, "\ud800", "MNIST", "mn ist", "K\u212a",
])  # fmt: skip
PATHS = st.sampled_from([
    "../x", "../../etc/passwd", "/etc/passwd", "./demo", "demo/../../x", "..", ".", "a/b", "C:\\x", "\\\\host\\x", "~root",
    "demo.yml", "file:///etc/passwd", "https://example.org/x", "%2e%2e%2fx", "-rf", ".hidden", "demo\0.yml",
])  # fmt: skip
NO_SCALAR = st.sampled_from([[], {}, [[]], [1], {"a": 1}, {"{label}": None}, [None], b"\x00\xff"])
BOOL = st.booleans()
BELOW = st.integers(-(10**9), -1)

NO_NUMBER = st.one_of(BOOL, NAN, NUMBER_TEXT, WORDS, TRICKS, PATHS, NO_SCALAR)
NO_COUNT = st.one_of(NO_NUMBER, BELOW, st.just(0), HUGE, FRACTION)
NO_RATE = st.one_of(NO_NUMBER, BELOW, st.sampled_from([0, 0.0, -0.0, -1e-9]), HUGE)
NO_WORD = st.one_of(BOOL, NAN, PATHS, TRICKS, NO_SCALAR, HUGE, FRACTION, st.integers(), st.just("x" * 5000))
NO_ENTRY = st.one_of(NO_NUMBER, st.just(-1), HUGE, st.none())
NO_LIST = st.one_of(
    NO_NUMBER.filter(lambda x: not isinstance(x, list)), st.integers(), FRACTION, st.just([1.0] * 5000),
    NO_ENTRY.map(lambda x: [0.5, x]),
)  # fmt: skip
# Values that no parameter of a kind may have
WRONG = {
    "count": st.one_of(NO_COUNT, st.none()),
    "count or null": NO_COUNT,
    "seed": st.one_of(NO_NUMBER, BELOW, FRACTION, HUGE, st.none()),
    "rate": st.one_of(NO_RATE, st.none()),
    "rate or null": NO_RATE,
    "number": st.one_of(NO_NUMBER, HUGE, st.none()),
    "not negative": st.one_of(NO_NUMBER, BELOW, HUGE, st.none()),
    "switch": st.one_of(NO_NUMBER.filter(lambda x: not isinstance(x, bool)), st.integers(), st.none()),
    "share": st.one_of(NO_NUMBER, BELOW, st.sampled_from([1.0001, 2, 50]), HUGE, st.none()),
    "choice": st.one_of(NO_WORD, st.none(), st.just("")),
    "choice or null": st.one_of(NO_WORD, st.just("")),
    "name": st.one_of(NO_WORD, st.none(), st.just("")),
    "caption": st.one_of(
        BOOL, NAN, NO_SCALAR, st.integers(), FRACTION, st.none(), st.just(""), st.integers(301, 9000).map("x".__mul__),
        st.sampled_from(["A digit", "A {lable}", "A {Label} {label}", "a\nb", "a\n\n```{raw} html\n:file: x.html\n```", "\x1b]0;x\x07", "a\u2028b", "\x00", "a\rb"]),
    ),
    "list": st.one_of(NO_LIST, st.none()),
    "list or null": NO_LIST,
}  # fmt: skip
