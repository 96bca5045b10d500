"""Parameters: what is accepted, what is refused and in what words, and what a training depends on."""

import copy
import math
import string
from typing import Literal

import pytest
import yaml
from grammar import DEFAULTED, DEMO, FREE, GRAMMAR, MODELS, OBJECTIVES, SECTIONS, edited, keys
from hypothesis import given, settings
from hypothesis import strategies as st
from papermill.inspection import inspect_notebook
from papermill.iorw import load_notebook_node, read_yaml_file
from papermill.parameterize import parameterize_notebook

from guidebook.conditioning.captions import class_captions
from guidebook.conditioning.encoders import encode
from guidebook.config import networks, schema
from guidebook.config import params as P
from guidebook.config.budget import images, kept_checkpoints, rows
from guidebook.config.params import Params, ParamsError, check, differences, from_notebook, load, load_file, read
from guidebook.config.paths import NOTEBOOKS, PARAMS, RESULTS
from guidebook.config.yamlfile import overrides
from guidebook.runs.run import opened

FILES = sorted(PARAMS.glob("*/*.yml"))
EXPERIMENTS = sorted({path.parent.name for path in FILES})
# Everything that mnist/demo resolves to, its parameters, and those of other objectives and networks
WHOLE = load("mnist", "demo").model_dump(mode="json")
EVERY = [key for key in keys(WHOLE) if "." in key and not key.endswith(".kind")]
OTHERS = [(kind, f"objective.{key}") for kind, values in OBJECTIVES.items() for key in values if key != "kind"]
OTHERS += [(kind, f"model.{key}") for kind, values in MODELS.items() for key in values if key != "kind"]
OTHERS += [("flow", "objective.times"), ("flow", "objective.shift")]  # which need not be given


def refusal(raw, where="demo.yml") -> str:
    """The one line with which a mapping is refused."""
    with pytest.raises(ParamsError) as caught:
        check(raw, where)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert text.isprintable()
    assert len(text) < 500
    return text


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_params_file_loads_and_bears_the_name_of_its_place(path):
    params = load(path.parent.name, path.stem)
    assert (params.experiment, params.profile) == (path.parent.name, path.stem)


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_params_written_and_read_again_are_equal(path, tmp_path):
    params = load(path.parent.name, path.stem)
    (tmp_path / "params.yml").write_text(params.yaml())
    assert check(read(tmp_path / "params.yml"), "params.yml") == params


def test_paper_profile_is_the_published_setting():
    params = load("mnist", "paper")
    train = params.train
    assert (params.data.name, params.text.encoder) == ("mnist", "openai/clip-vit-base-patch32")
    assert params.model.channels == (32, 64, 64, 32)
    assert (train.batch, train.lr, train.epochs, train.caption_dropout) == (512, 1e-3, 20, 0)
    assert (train.ema, train.clip_norm) == ((), None)
    assert (params.objective.schedule, params.objective.timesteps) == ("squaredcos_cap_v2", 1000)
    assert (params.sample.sampler, params.sample.steps, params.sample.seed) == ("ddpm", 50, 422)


def test_the_header_of_a_published_setting_says_where_it_departs():
    papers = {name: load(name, "paper") for name in ("wikiart", "celeba", "imagenet100")}
    heads = {name: (PARAMS / name / "paper.yml").read_text().partition("experiment:")[0] for name in papers}
    assert [name for name in ("wikiart", "celeba") if f"{rows(papers[name].data):,}" not in heads[name]] == []
    assert f"every {papers['celeba'].train.checkpoint_every:g} epochs, not 5" in heads["celeba"]
    assert "no number of attention heads" in heads["celeba"]
    assert (
        f"{papers['imagenet100'].train.epochs:g} epochs, where its second open question asks for 200"
        in heads["imagenet100"]
    )


def test_how_samples_improve_is_seen_from_the_first_half_of_the_training_or_the_record_says_that_it_is_not():
    plots = {page.stem for page in NOTEBOOKS.glob("*.ipynb") if "kept_checkpoints(params)" in page.read_text()}
    runs_ = [load(path.parent.name, path.stem) for path in FILES if path.parent.name in plots]
    recorded = [opened(path.parent) for path in RESULTS.glob("*/*/params.yml") if path.parent.parent.name in plots]
    late = [r for r in recorded if kept_checkpoints(r.params)[0] > images(r.params) / 2]
    assert len(runs_) + len(recorded) > 20
    assert [p.profile for p in runs_ if kept_checkpoints(p)[0] > images(p) / 2] == []
    assert [r.name for r in late if "checkpoints" not in r.provenance().get("caveat", "")] == []


# What is refused: (key, value, what the line must say)
REFUSED = {
    "unknown key": ("train.epoch", 3, ["train.epoch", "not a parameter", "nearest: epochs", "checkpoint_every"]),
    "unknown section": ("trian", {}, ["trian", "not a parameter", "nearest: train", "evaluate"]),
    "wrong type": ("train.batch", "many", ["train.batch", "'many'", "integer"]),
    "float for int": ("train.batch", 1.5, ["train.batch", "1.5", "integer"]),
    "bool for int": ("train.batch", True, ["train.batch", "True", "integer"]),
    "bool for float": ("train.lr", True, ["train.lr", "True", "number"]),
    "bool in a list": ("sample.guidance", [1, True], ["sample.guidance.1", "True", "number"]),
    "number as text": ("train.lr", "1e-4", ["train.lr", "'1e-4'", "text", "1.0e-4"]),
    "NaN": ("train.lr", float("nan"), ["train.lr", "nan", "finite"]),
    "infinity": ("train.epochs", float("inf"), ["train.epochs", "inf", "finite"]),
    "minus infinity in a list": ("data.range", [float("-inf"), 1.0], ["data.range.0", "-inf", "finite"]),
    "negative size": ("train.batch", -1, ["train.batch", "-1", "greater than or equal to 1"]),
    "zero size": ("data.limit", 0, ["data.limit", "0", "greater than or equal to 1"]),
    "negative rate": ("train.lr", -0.1, ["train.lr", "-0.1", "greater than 0"]),
    "probability above one": ("train.caption_dropout", 1.5, ["train.caption_dropout", "1.5", "less than or equal"]),
    "decay of one": ("train.ema", [1.0], ["train.ema.0", "1.0", "less than 1"]),
    "one checkpoint": ("train.keep_checkpoints", 1, ["train.keep_checkpoints", "1", "greater than or equal to 2"]),
    "path up": ("experiment", "../x", ["experiment", "'../x'", "pattern"]),
    "absolute path": ("profile", "/etc/passwd", ["profile", "'/etc/passwd'", "pattern"]),
    "path with a line end": ("profile", "demo\n", ["profile", "'demo\\n'", "pattern"]),
    "hidden name": ("experiment", ".mnist", ["experiment", "'.mnist'", "pattern"]),
    "encoder from a path": ("text.encoder", "../clip", ["text.encoder", "'../clip'", "model.vae = None", "one pipeline"]),
    "weights from a path": ("sample.weights", "../raw", ["sample.weights", "'../raw'", "raw"]),
    "empty list": ("sample.guidance", [], ["sample.guidance", "[]", "at least 1"]),
    "list for a section": ("train", [1], ["train", "[1]", "dictionary"]),
    "nothing for a section": ("train", None, ["train", "None", "dictionary"]),
    "range upside down": ("data.range", [1.0, 0.0], ["data", "low < high"]),
    "weights that are not kept": ("sample.weights", "ema-0.5", ["sample.weights", "raw", "ema-0.99"]),
    "more steps than timesteps": ("sample.steps", 1001, ["sample.steps", "objective.timesteps"]),
    "classes of unequal size": ("evaluate.samples", 501, ["evaluate.samples", "multiple of 10"]),
    "channels no group norm divides": ("model.channels", [32, 48, 64], ["model.channels.1", "48", "multiple of 32"]),
    "phrasings of a class": ("data.phrasings", 2, ["data.phrasings", "digits"]),
    "no caption for classes": ("data.caption", None, ["data.caption", "needs a caption"]),
    "one caption of all faces": ("data", DEMO["data"] | {"name": "faces"}, ["data.caption must be null", "{gender}", "faces"]),
    "latents of grey images": ("model.vae", "embedded", ["model.vae", "colour images", "[-1, 1]"]),
    "key that is a number": ("train", {**DEMO["train"], 7: 1}, ["train.7", "not a parameter"]),
    "key of two lines": ("train.a\nb", 1, ["train.a", "not a parameter"]),
    "key with a terminal code": ("\x1b[31mred", 1, ["red", "not a parameter"]),
    "number of 6000 digits": ("train.batch", 16**5000, ["train.batch", "less than or equal"]),
    "text of 10⁶ letters": ("train.batch", "x" * 10**6, ["train.batch", "xxx", "integer"]),
    "unknown kind": ("objective.kind", "vpp", ["objective.kind", "'vpp'", "nearest: vp", "vp, flow, edm"]),
    "kind that is a list": ("model.kind", [], ["model.kind", "[]", "unet"]),
    "key of another kind": ("objective.sigma_data", 0.5, ["objective.sigma_data", "not a parameter", "timesteps"]),
    "misspelt key in a section of kinds": ("model.num_head", 8, ["model.num_head", "not a parameter", "nearest: num_heads"]),
    "misspelt key in an entry of a list": ("sample.methods", [{"nmae": "x"}], ["sample.methods.0.nmae", "nearest: name"]),
    "betas of a cosine": ("objective.betas", [0.0001, 0.02], ["objective.betas", "squaredcos_cap_v2 takes null"]),
    "linear without betas": ("objective.schedule", "linear", ["objective.betas = None", "linear", "[0.0001, 0.02]"]),
    "velocity of another path": ("objective.prediction", "velocity", ["objective.prediction", "'velocity'", "epsilon"]),
    "shift of no size": ("objective", OBJECTIVES["flow"] | {"shift": 0.0}, ["objective.shift", "0.0", "greater than 0"]),
    "shift below zero": ("objective", OBJECTIVES["flow"] | {"shift": -3.0}, ["objective.shift", "-3.0", "greater than 0"]),
    "min-SNR of a flow": ("objective", OBJECTIVES["flow"] | {"min_snr_gamma": 5.0}, ["objective.min_snr_gamma", "not a parameter"]),
    "a further network of no kind": ("evaluate.networks", [{"name": "x", "model": {"kind": "vit"}}], ["evaluate.networks.0.model: model.kind", "'vit'", "unet"]),
    "a further network's misspelt key": ("evaluate.networks", [{"name": "x", "model": MODELS["dit"] | {"pach": 2}}], ["evaluate.networks.0.model.pach", "nearest: patch"]),
    "a further network with latents of its own": ("evaluate.networks", [{"name": "x", "model": MODELS["dit"] | {"vae": "embedded"}}], ["evaluate.networks.0: x takes model.vae", "leave out vae"]),
    "a further network that no image fits": ("evaluate.networks", [{"name": "x", "model": MODELS["dit"] | {"patch": 3}}], ["evaluate.networks: x.patch = 3", "8 pixels"]),
    "a further network whose name is no folder's": ("evaluate.networks", [{"name": "../x", "model": MODELS["dit"]}], ["evaluate.networks.0.name", "pattern"]),
    "scaled_linear without betas": ("objective.schedule", "scaled_linear", ["objective.betas = None", "[0.00085, 0.012]"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_value_is_refused_in_one_line_that_names_it(case):
    key, value, said = REFUSED[case]
    text = refusal(edited(key, value))
    assert text.startswith("demo.yml: ")
    assert [s for s in said if s not in text] == []


@pytest.mark.parametrize("key", sorted({*keys(DEMO)} - DEFAULTED))
def test_every_parameter_of_the_study_must_be_given(key):
    raw = copy.deepcopy(DEMO)
    section, _, name = key.rpartition(".")
    del (raw[section] if section else raw)[name]
    assert f"{key} is missing" in refusal(raw)


@pytest.mark.parametrize("name", SECTIONS)
def test_every_section_must_be_given(name):
    assert f"{name} is missing" in refusal({k: v for k, v in DEMO.items() if k != name})


def test_of_several_mistakes_the_line_counts_the_others():
    raw = edited("train.batch", -1)
    raw["train"]["lr"] = "fast"
    assert refusal(raw).endswith("(and 1 more)")


BAD_FILES = {
    "empty": b"",
    "comments alone": b"# nothing\n",
    "a list": b"- train\n- sample\n",
    "a word": b"train",
    "broken YAML": b"train: {lr: [1, 2\nsample: }",
    "a tag that calls": b"!!python/object/apply:os.system ['touch pwned']",
    "a tag that calls, inside": b"train: !!python/object/apply:os.system ['touch pwned']",
    "a tag that makes an object": b"train: !!python/object/new:subprocess.Popen [['touch', 'pwned']]",
    "an unknown tag": b"train: !env HOME",
    "not UTF-8": b"\xff\xfe\x00train",
    "a zero byte": b"train: 'a\x00b'",
    "nested too deep": b"[" * 5000 + b"]" * 5000,
    "nested too deep for a parser that recurses": b"[" * 49_999 + b"]" * 49_999,
    "nested too deep in one line": b"- " * 49_999 + b"x",
    "a section within itself": b"train: &a {lr: *a}\n",
    "an octal number": b"train: {seed: 010}\n",
    "a sexagesimal number": b"train: {seed: 1:30}\n",
    "a number with a gap": b"train: {seed: 1_000}\n",
    "a binary number": b"train: {seed: 0b11}\n",
    "yes": b"train: {compile: yes}\n",
    "a tag that makes an octal number": b"train: {seed: !!int '010'}\n",
    "a date that is none": b"train: 2026-99-01\n",
    "a list as key": b"? [a, b]\n: c\n",
    "a number of 6000 digits": b"train: {batch: 0x" + b"f" * 5000 + b"}\n",
    "an alias bomb": b"".join(
        b"%c: &%c [%s]\n" % (n, n, b", ".join([b"*%c" % (n - 1)] * 9) if n > 97 else b"x") for n in range(97, 107)
    ),
}


LOOKS = [
    ("0", 0), ("-7", -7), ("+7", 7), ("0x1F", 31), ("1.5", 1.5), ("010.5", 10.5), (".5", 0.5), ("1.0e-4", 1e-4), ("1e-4", 1e-4),
    ("-2E+3", -2000.0), ("true", True), ("False", False), ("null", None), ("", None), ("~", None), ("[1, 2.5]", [1, 2.5]),
    ("'010'", "010"), ("a word", "a word"), ("{label}: x", "{label}: x"), ("[1, 2", "[1, 2"), ("1e", "1e"), ("\uff11", "\uff11"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), LOOKS)
def test_a_value_of_set_is_what_it_looks_like(text, value):
    (found,) = overrides([f"a.b={text}"]).values()
    assert (found, type(found)) == (value, type(value))


MISREAD = ["010", "-01", "1:30", "1:30.5", "1_000", "0b11", "yes", "Off", "[1, 010]", "{a: on}", "1_0.5"]


@pytest.mark.parametrize("text", MISREAD)
def test_a_value_of_set_that_yaml_takes_for_another_is_refused(text):
    with pytest.raises(ParamsError, match="for another value: write 8 or true, or text in quotes"):
        overrides([f"a.b={text}"])


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_refused_in_one_line_and_calls_nothing(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yml").write_bytes(BAD_FILES[case])
    with pytest.raises(ParamsError, match=r"bad\.yml") as caught:
        check(read(tmp_path / "bad.yml"), "bad.yml")
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 500
    assert [p.name for p in tmp_path.iterdir()] == ["bad.yml"]


def test_a_hundred_levels_are_read_and_one_more_is_refused(tmp_path):
    (tmp_path / "deep.yml").write_text("x: " + "[" * 99 + "]" * 99)
    assert list(read(tmp_path / "deep.yml")) == ["x"]
    (tmp_path / "deep.yml").write_text("x: " + "[" * 100 + "]" * 100)
    with pytest.raises(ParamsError, match="deeper than the 100 levels"):
        read(tmp_path / "deep.yml")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ParamsError, match=r"none\.yml: there is no such file"):
        read(tmp_path / "none.yml")


@pytest.mark.parametrize(
    ("experiment", "profile", "said"),
    [
        ("mnsit", "demo", "experiment 'mnsit' is not known (nearest: mnist)"),
        ("mnist", "dmeo", "profile 'dmeo' is not known (nearest: demo); there are: demo"),
        ("../params/mnist", "demo", "experiment '../params/mnist' is not known"),
        ("mnist", "../mnist/demo", "profile '../mnist/demo' is not known"),
        ("mnist", "", "profile '' is not known"),
        ("a\nb", "demo", "is not known"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(experiment, profile, said):
    with pytest.raises(ParamsError) as caught:
        load(experiment, profile)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_calls_itself_otherwise_is_refused(tmp_path, monkeypatch):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "best.yml").write_text(load("mnist", "demo").yaml())
    monkeypatch.setattr(P, "PARAMS", tmp_path)
    with pytest.raises(ParamsError, match=r"best\.yml calls itself mnist/demo; expected mnist/best"):
        load("mnist", "best")


def test_experiments_are_found_by_a_profile_that_they_have():
    assert P.having("best") == ["celeba", "cifar10", "flows", "imagenet100", "samplers", "stable-diffusion", "wikiart"]


def test_an_override_changes_one_value_and_nothing_else():
    changed = load("mnist", "demo", {"train.lr": 0.5})
    assert differences(load("mnist", "demo"), changed) == [("train.lr", 0.001, 0.5)]


@pytest.mark.parametrize("key", ["train", "lr", "nope.lr", "experiment", "profile.x", "", ".", "a\nb", "train.lr.x"])
def test_an_override_without_section_and_key_is_refused(key):
    with pytest.raises(ParamsError) as caught:
        load("mnist", "demo", {key: 1})
    assert len(str(caught.value).splitlines()) == 1


# Profiles that extend others


@pytest.fixture
def profiles(tmp_path, monkeypatch):
    """`profiles({"a/paper": {...}})` writes profiles where the library looks for them."""
    monkeypatch.setattr(P, "PARAMS", tmp_path)

    def write(files: dict[str, dict]):
        for name, raw in files.items():
            experiment, profile = name.split("/")
            (tmp_path / experiment).mkdir(exist_ok=True)
            text = yaml.safe_dump({"experiment": experiment, "profile": profile, **raw}, sort_keys=False)
            (tmp_path / experiment / f"{profile}.yml").write_text(text)

    return write


TRAILING = {"sampler": "ddim", "spacing": "trailing"}  # which every objective takes
SETTING = {section: DEMO[section] for section in SECTIONS}


def test_a_profile_says_only_what_differs_from_the_one_it_extends(profiles):
    best = {"extends": "paper", "train": {"lr": 0.5}, "sample": {"guidance": [1]}}
    other = {"extends": "a/best", "train": {"epochs": 3}, "objective": OBJECTIVES["edm"], "sample": TRAILING}
    profiles({"a/paper": SETTING, "a/best": best, "b/demo": other})
    assert differences(load("a", "paper"), load("a", "best")) == [
        ("train.lr", 0.001, 0.5), ("sample.guidance", load("a", "paper").model_dump(mode="json")["sample"]["guidance"], [1]),
    ]  # fmt: skip
    assert load("b", "demo") == load("a", "best").replace(
        experiment="b", profile="demo", train={"epochs": 3}, objective=OBJECTIVES["edm"], sample=TRAILING
    )
    assert load("b", "demo", {"train.lr": 0.25}).train.lr == 0.25
    assert load_file(P.PARAMS / "b" / "demo.yml") == load("b", "demo")


@pytest.mark.parametrize(
    ("extends", "said"),
    [
        ("papre", "best.yml: extends = 'papre': profile 'papre' is not known (nearest: paper); there are: best, paper"),
        ("c/paper", "best.yml: extends = 'c/paper': experiment 'c' is not known; there are: a"),
        ("/paper", "experiment '' is not known"),
        ("../a/paper", "experiment '../a' is not known"),
        ("best", "best.yml: extends = 'best': a/best extends itself"),
        (3, "best.yml: extends = 3: it is the name of a profile"),
        (["paper"], "best.yml: extends = ['paper']: it is the name of a profile"),
    ],
)
def test_a_profile_that_cannot_be_extended_is_refused_in_one_line(profiles, extends, said):
    profiles({"a/paper": SETTING, "a/best": {"extends": extends}})
    with pytest.raises(ParamsError) as caught:
        load("a", "best")
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_profiles_that_extend_each_other_are_refused_in_one_line(profiles):
    profiles({"a/paper": {"extends": "b/paper"}, "b/paper": {"extends": "a/paper"}})
    with pytest.raises(ParamsError, match="a/paper extends itself") as caught:
        load("b", "paper") if load("a", "paper") else None
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_no_profile_repeats_what_it_extends(path):
    raw = read(path)
    if parent := raw.get("extends"):
        experiment, _, profile = parent.rpartition("/")
        base = load(experiment or path.parent.name, profile).model_dump(mode="json")
        # A section that becomes another kind is replaced, so it says all of its own
        kept = [s for s in SECTIONS if raw.get(s, {}).get("kind", base[s].get("kind")) == base[s].get("kind")]
        own = {f"{s}.{k}": v for s in kept for k, v in raw.get(s, {}).items()}
        assert [
            key for key, v in own.items() if base[key.partition(".")[0]].get(key.partition(".")[2], "none") == v
        ] == []


# A notebook's variables: papermill's own words, its cell of injected parameters, and the library


def cells(experiment: str, /, **injected) -> dict:
    """The variables of a notebook whose parameters papermill has set, when the cell after them has run."""
    notebook = load_notebook_node(str(NOTEBOOKS / f"{experiment}.ipynb"))
    made = parameterize_notebook(notebook, injected) if injected else notebook
    namespace = {"__name__": "__main__"}
    for cell in (c for c in made.cells if c.cell_type == "code"):
        exec(cell.source, namespace)
        if "params" in namespace:
            return namespace
    raise AssertionError("no cell makes params")


def injected(file) -> dict:
    """What `papermill -f FILE` injects."""
    return read_yaml_file(str(file))


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_papermill_with_a_file_and_with_a_profile_and_the_command_mean_the_same(path):
    experiment, profile = path.parent.name, path.stem
    params = load(experiment, profile)  # `guidebook run EXPERIMENT --profile PROFILE`
    assert cells(experiment, **injected(path))["params"] == params
    assert cells(experiment, profile=profile)["params"] == params
    assert cells(experiment, **params.model_dump(mode="json"))["params"] == params  # what the command injects


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_notebook_opened_by_hand_shows_the_demo_and_knows_every_section(experiment):
    assert cells(experiment)["params"] == load(experiment, "demo")
    known = inspect_notebook(str(NOTEBOOKS / f"{experiment}.ipynb"))
    assert set(known) == {"experiment", "profile", "extends", *SECTIONS}


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(
    st.sets(st.sampled_from([k for k in EVERY if k.startswith(("train.", "text.tokens"))]), max_size=5), st.booleans()
)
def test_injected_values_win_over_the_profile_key_by_key(changed, every_section):
    changes = {key: GRAMMAR[key][1] for key in changed if key not in ("train.ema", "train.processes")}
    sections = {section: {} for section in SECTIONS} if every_section else {}
    for key, value in changes.items():
        sections.setdefault(key.partition(".")[0], {})[key.partition(".")[2]] = value
    assert cells("mnist", **sections)["params"] == load("mnist", "demo", changes)


def test_papermill_changes_one_value_by_a_line_of_yaml():
    """`papermill NOTEBOOK OUT -p profile paper -y "train: {epochs: 3}"`."""
    changed = {"profile": "paper"} | yaml.safe_load("train: {epochs: 3}")
    assert cells("mnist", **changed)["params"] == load("mnist", "paper", {"train.epochs": 3})


HOSTILE = [
    '"); import os; os.mkdir("pwned")  # {label}',
    "'''\\'\"\"\" {label} \\",
    "{label}\\u0022 + str(1) + \\u0022",
    "%s {label} \\N{DIGIT ONE}",
]


@pytest.mark.parametrize("caption", HOSTILE)
def test_a_text_that_the_command_injects_stays_a_text(caption, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = {
        "experiment": "mnist",
        "profile": "mine",
        "extends": "mnist/smoke",
        "data": {"caption": caption},
        "text": {"tokens": 77},
    }
    (tmp_path / "theirs.yml").write_text(yaml.safe_dump(raw))
    params = load_file(tmp_path / "theirs.yml")
    assert cells("mnist", **params.model_dump(mode="json"))["params"].data.caption == caption
    assert [p.name for p in tmp_path.iterdir()] == ["theirs.yml"]


def test_a_file_of_ones_own_may_extend_a_profile_or_be_whole(tmp_path):
    paper, file = load("mnist", "paper"), tmp_path / "mine.yml"
    file.write_text("experiment: mnist\nprofile: mine\nextends: paper\ntrain: {epochs: 3}\n")
    mine = cells("mnist", **injected(file))["params"]
    assert mine == paper.replace(profile="mine", train={"epochs": 3}) == load_file(file)
    file.write_text(mine.yaml())
    assert cells("mnist", **injected(file))["params"] == mine


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"trian": {"lr": 0.5}}, "notebook: trian is not a parameter (nearest: train)"),
        ({"lr": 0.5}, "notebook: lr is not a parameter"),
        ({"train": {"epoch": 3}}, "notebook: train.epoch is not a parameter (nearest: epochs)"),
        ({"profile": "papre"}, "profile 'papre' is not known (nearest: paper)"),
        ({"profile": "mine"}, "profile 'mine' is not known"),
        ({"extends": "papre"}, "profile 'papre' is not known (nearest: paper)"),
        ({"experiment": "mnsit"}, "experiment 'mnsit' is not known (nearest: mnist)"),
        ({"objective": {"kind": "flwo"}}, "notebook: objective.kind = 'flwo' is not known (nearest: flow)"),
        ({"train": [1]}, "notebook: train = [1]"),
    ],
)
def test_a_wrong_parameter_is_refused_by_the_first_cell_after_them(given_, said):
    with pytest.raises(ParamsError) as caught:
        cells("mnist", **given_)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def after_parameters_cell() -> dict:
    def shell(): ...

    jupyter = {"In": [], "Out": {}, "exit": object(), "quit": object(), "open": open, "get_ipython": shell, "_ih": []}
    blank = {"experiment": "mnist", "profile": "demo", "extends": None, **dict.fromkeys(SECTIONS)}
    return {"__name__": "__main__", "math": math, "from_notebook": from_notebook} | jupyter | blank


def test_what_jupyter_defines_is_no_parameter():
    assert from_notebook(after_parameters_cell()) == load("mnist", "demo")


def test_the_cell_may_be_run_again_among_later_variables():
    namespace = after_parameters_cell()
    first = from_notebook(namespace)
    namespace |= {"params": first, "run": object(), "n": 50}
    assert from_notebook(namespace) == first


def test_the_cell_run_again_sees_a_changed_section():
    namespace = after_parameters_cell()
    from_notebook(namespace)
    namespace["train"] = {"lr": 0.5}
    assert from_notebook(namespace) == load("mnist", "demo", {"train.lr": 0.5})


# Sections of several kinds


def test_a_section_that_becomes_another_kind_is_replaced():
    demo = load("mnist", "demo").replace(sample=TRAILING)
    flow = {f"objective.{k}": v for k, v in OBJECTIVES["flow"].items()}
    changed = demo.replace(objective=OBJECTIVES["flow"])
    assert changed.objective == schema.Flow(mean=0.0, std=1.0)
    assert load("mnist", "demo", {f"sample.{k}": v for k, v in TRAILING.items()} | flow) == changed
    assert ("objective.kind", "vp", "flow") in differences(demo, changed)
    assert ("objective.timesteps", 1000, None) in differences(demo, changed)
    assert ("objective.std", None, 1.0) in differences(demo, changed)
    assert check(yaml.safe_load(changed.yaml()), "params.yml") == changed
    assert changed.training_key != demo.training_key


def test_a_new_kind_is_one_class(monkeypatch):
    monkeypatch.setattr(networks.Model, "kinds", dict(networks.Model.kinds))  # no later test knows this kind

    class Tiny(networks.Model):
        kind: Literal["tiny"] = "tiny"
        width: int

    params = load("mnist", "demo", {"model.kind": "tiny", "model.width": 4})
    wider = params.replace(model={"width": 5})
    assert params.model == Tiny(width=4)
    assert wider.training_key != params.training_key
    assert differences(params, wider) == [("model.width", 4, 5)]
    assert check(yaml.safe_load(params.yaml()), "params.yml") == params
    said = refusal(edited("model", {"kind": "tiny", "widht": 4}))
    assert "model.widht is not a parameter (nearest: width)" in said
    assert "nearest: tiny" in refusal(edited("model.kind", "tniy"))


def test_networks_that_are_compared_have_the_space_of_the_run_and_change_no_training():
    demo = load("imagenet100", "demo")
    both = demo.replace(evaluate={"networks": [{"name": "dit", "model": MODELS["dit"]}]})
    other = both.replace(model=both.network("dit"))
    with pytest.raises(ParamsError, match=r"evaluate\.networks has no ssm, .*; it has: dit$"):
        both.network("ssm")
    with pytest.raises(ParamsError, match=r"must name each once$"):
        both.replace(evaluate={"networks": 2 * [{"name": "dit", "model": MODELS["dit"]}]})
    assert hash(both) != hash(demo)
    assert both.training_key == demo.training_key
    assert (other.model.kind, other.model.vae) == ("dit", demo.model.vae)
    assert other.training_key == demo.replace(model=MODELS["dit"] | {"vae": "embedded"}).training_key


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("key", ["steps", "sampler", "spacing", "methods"])
def test_what_discrete_timesteps_alone_can_do_is_refused_for_other_objectives(kind, key):
    params = load("mnist", "demo").replace(objective=OBJECTIVES[kind], sample=TRAILING)
    if key == "steps":  # there are no timesteps to exceed
        assert params.replace(sample={"steps": 5000}).sample.steps == 5000
        return
    value = {"sampler": "unipc", "spacing": "leading", "methods": [{"name": "x", "combine": "classifier", "w": [1]}]}[
        key
    ]
    with pytest.raises(ParamsError, match=f"(unipc|leading|classifier) needs objective.kind = vp, not {kind}$"):
        params.replace(sample={key: value})


def test_a_run_departs_from_its_profile_by_what_was_changed_and_not_by_how_it_ran():
    demo = load("cifar10", "demo")
    assert P.departures(demo.replace(train={"precision": "bf16", "compile": True})) == []
    assert P.departures(demo.replace(train={"precision": "fp32", "lr": 0.5})) == [("train.lr", 0.002, 0.5)]
    assert P.departures(demo.replace(profile="mine", train={"lr": 0.5})) == []
    assert P.departures(load("cifar10", "best").replace(train={"precision": "fp32"})) == [
        ("train.precision", "bf16", "fp32")
    ]


# What a training depends on


def test_another_value_is_known_for_every_parameter():
    assert {*EVERY, *(key for _, key in OTHERS)} == {k for k in GRAMMAR if "." in k and not k.endswith(".kind")}
    for key in EVERY:
        section, _, name = key.partition(".")
        assert GRAMMAR[key][1] != WHOLE[section][name]


LINEAR = {"schedule": "linear", "betas": [0.0001, 0.02]}
# What else must be so for the other value to be allowed
NEEDS = {
    "objective.zero_terminal_snr": {"objective": {"prediction": "v_prediction"}, "sample": {"spacing": "trailing"}},
    "objective.schedule": {"objective": LINEAR},
    "objective.betas": {"objective": LINEAR},
    "sample.eta": {"sample": {"sampler": "ddim"}},
    "data.phrasings": {"data": {"name": "faces", "caption": None}},
    "model.vae": {"data": {"name": "scenes", "range": [-1.0, 1.0]}},
}
WIDER = {"hidden": 128, "num_heads": 2}  # what MM-DiT has at once


@pytest.mark.parametrize(("kind", "key"), [*(("vp", key) for key in EVERY), *OTHERS])
def test_training_key_changes_with_what_training_depends_on_and_with_nothing_else(kind, key):
    section, _, name = key.partition(".")
    changes = {"objective": OBJECTIVES.get(kind, {}), "model": MODELS.get(kind, {})}
    a = load("mnist", "demo").replace(**changes, sample=TRAILING if kind != "vp" else {})
    a = a.replace(**NEEDS.get(key, {}))
    b = a.replace(**{section: WIDER if kind == "mmdit" and name in WIDER else {name: GRAMMAR[key][1]}})
    assert (a.training_key != b.training_key) == (section not in ("sample", "evaluate") and key not in FREE)


@pytest.mark.parametrize(
    ("experiment", "key"), [("mnist", "46fc5713"), ("celeba", "9da5e0d8"), ("wikiart", "6ad774dd")]
)
def test_a_parameter_that_came_later_leaves_the_key_of_a_published_training_as_it_was(experiment, key):
    assert load(experiment, "paper").training_key == key


def test_a_flow_keeps_the_key_that_it_had_before_its_times_could_be_uniform_or_shifted():
    flow = load("mnist", "demo").replace(objective=OBJECTIVES["flow"], sample=TRAILING)
    assert flow.training_key == "6b097926"
    said = flow.replace(objective={"times": "logit-normal", "shift": 1.0})
    assert said.training_key == flow.training_key
    others = [flow.replace(objective=change).training_key for change in ({"times": "uniform"}, {"shift": 3.0})]
    assert len({flow.training_key, *others}) == 3


@pytest.mark.parametrize(
    "path", sorted(RESULTS.rglob("params.yml")), ids=lambda p: p.parent.relative_to(RESULTS).as_posix()
)
def test_a_record_keeps_the_key_of_what_its_params_said_when_it_was_made(path):
    """Its file holds all parameters of that day: what came later is not in the key, but for `ema_warmup`."""
    told = {section: dict(read(path)[section]) for section in ("data", "text", "model", "objective", "train")}
    told["train"].setdefault("ema_warmup", True)
    for section, name in (key.split(".") for key in (*FREE, *P.LATER)):
        if told[section].get(name) == P.LATER.get(f"{section}.{name}", told[section].get(name)):
            told[section].pop(name, None)
    assert load_file(path).training_key == P.digest(told)


def test_training_key_is_the_same_in_every_profile_of_equal_training():
    a = load("mnist", "demo")
    assert a.replace(profile="best").training_key == a.training_key


def test_files_are_for_images_in_memory():
    assert load("celeba", "paper").replace(train={"file_rows": 1000}).train.file_rows == 1000
    with pytest.raises(ParamsError, match="file_rows sorts images that are in memory, and wikiart is streamed"):
        load("wikiart", "paper").replace(train={"file_rows": 1000})


def test_params_cannot_be_changed_in_place():
    params = load("mnist", "demo")
    with pytest.raises(ValueError, match="frozen"):
        params.train.lr = 1.0


# Captions


@pytest.mark.parametrize("template", ["{label.__class__}", "{label[0]}", "{0}", "{label!r}", "{label:>1000000}", "%s"])
def test_a_caption_template_replaces_the_label_and_reaches_nothing_else(template):
    assert class_captions(template, ("7",)) == [template]


def test_a_caption_template_gets_the_class_name():
    assert class_captions("{label}, the digit {label}", ("7", "8")) == ["7, the digit 7", "8, the digit 8"]


@pytest.mark.parametrize(
    ("caption", "tokens", "said"),
    [
        ("A handwritten digit", 8, "holds no {label}, so that every class has the same caption"),
        ("A digit {lable}", 8, "{lable} is not known (nearest: {label})"),
        ("A {label} of {gender}", 8, "{gender} is not known"),
        ("A handwritten digit {label}", 5, "text.tokens = 5 cuts the captions of '0' and '1' to the same words"),
    ],
)
def test_a_caption_that_does_not_tell_the_classes_apart_is_refused(caption, tokens, said):
    raw = load("mnist", "demo").model_dump(mode="json")
    raw["data"]["caption"], raw["text"]["tokens"] = caption, tokens
    assert said in refusal(raw)


def test_one_word_more_and_the_caption_is_read_whole():
    params = load("mnist", "demo").replace(text={"tokens": 6})
    assert (
        len({row.numpy().tobytes() for row in encode(params.text, class_captions(params.data.caption, ("0", "1")))})
        == 2
    )


# Anything at all

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.binary(max_size=5), st.dates(),
    st.just(5000).map(lambda digits: 10**digits),  # Hypothesis cannot print it
    st.sampled_from([-1, 0, 1e308, "1e-4", "nan", "../x", "{label.__class__}", "a\nb", "</script>"]),
)  # fmt: skip
names = st.one_of(st.text(max_size=10), st.sampled_from(["lr", "train", "a\nb"]), st.integers(), st.booleans())
values = st.recursive(scalars, lambda x: st.lists(x, max_size=4) | st.dictionaries(names, x, max_size=3), max_leaves=8)
edits = st.lists(st.tuples(st.sampled_from([None, *SECTIONS]), names, values, st.booleans()), min_size=1, max_size=3)
known = st.sampled_from([*GRAMMAR, *SECTIONS]).map(lambda key: (key.rpartition(".")[0] or None, key.rpartition(".")[2]))
known = st.tuples(known, values, st.booleans()).map(lambda drawn: (*drawn[0], *drawn[1:]))


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(st.one_of(edits, st.lists(known, min_size=1, max_size=3)))
def test_any_mapping_gives_params_or_one_line(changes):
    raw = copy.deepcopy(DEMO)
    for section, key, value, delete in changes:
        place = raw.get(section) if section else raw
        if not isinstance(place, dict):
            continue
        if delete:
            place.pop(key, None)
        else:
            place[key] = value
    try:
        result = check(raw, "x.yml")
    except ParamsError as error:
        line = str(error)
    else:
        assert isinstance(result, Params)
        assert yaml.safe_load(result.yaml()) == result.model_dump(mode="json")
        return
    assert len(line.splitlines()) == 1
    assert len(line) < 600


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.text(alphabet=string.printable, max_size=60))
def test_any_text_as_a_file_gives_one_line(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yml"
    path.write_text(text)
    with pytest.raises(ParamsError) as caught:
        check(read(path), path.name)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sample": {"eta": 0.5}}, "eta = 0.5 is for sampler = ddim"),
        ({"objective": {"zero_terminal_snr": True}}, "zero_terminal_snr = True needs objective.prediction"),
        ({"objective": {"zero_terminal_snr": True, "prediction": "v_prediction"}}, "visit the last timestep"),
        ({"objective": OBJECTIVES["flow"], "sample": {"sampler": "ddim", "spacing": "karras"}}, "karras needs a finite first noise level"),
        ({"objective": OBJECTIVES["flow"], "sample": {"spacing": "trailing"}}, "ddpm and eta add noise on the way"),
        ({"objective": OBJECTIVES["flow"], "sample": TRAILING | {"eta": 0.5}}, "ddpm and eta add noise on the way"),
        ({"objective": OBJECTIVES["flow"], "sample": TRAILING | {"solvers": [TRAILING | {"steps": 5, "eta": 0.5}]}},
         "ddpm and eta add noise on the way"),
        ({"objective": OBJECTIVES["flow"] | {"times": "uniform", "std": 2.0}}, "std = 2 are of logit-normal times"),
        ({"model": MODELS["mmdit"] | {"hidden": 96}}, "model.hidden = 96 must be 64 × model.num_heads = 64"),
        ({"model": MODELS["mmdit"] | {"patch": 3}}, "model.patch = 3 must divide the 8 pixels across"),
        ({"model": MODELS["mmdit"] | {"patch": 1}, "data": {"resolution": 200}}, "200 pixels across have more than 192"),
        ({"model": MODELS["ssm"] | {"num_heads": 3}}, "model.num_heads = 3 must divide model.hidden = 32"),
        ({"model": MODELS["ssm"] | {"patch": 3}}, "model.patch = 3 must divide the 8 pixels across"),
        ({"sample": {"methods": [{"name": "x", "combine": "rescaled", "w": [2]}]}}, "rescaled.phi = None must be from 0 to 1"),
        ({"sample": {"methods": [{"name": "x", "combine": "rescaled", "w": [2], "phi": 2.0}]}}, "rescaled.phi = 2.0 must be from"),
        ({"sample": {"methods": [{"name": "x", "w": [2], "phi": 0.5}]}}, "linear.phi = 0.5 is not taken"),
        ({"sample": {"methods": [{"name": "x", "w": [2], "between": [5.0, 0.3]}]}}, "between = [5.0, 0.3] must be [low, high]"),
        ({"sample": {"methods": [{"name": "x", "w": [2], "against": {}}]}}, "against: give run and share, or weights or at"),
        ({"sample": {"methods": [{"name": "x", "w": [2], "against": {"weights": "ema-0.5"}}]}}, "'ema-0.5' must be one of"),
        ({"sample": {"methods": [{"name": "x", "w": [2], "weights": ["raw", "power-0.1"]}]}}, "'power-0.1' must be one of"),
        ({"sample": {"methods": [{"name": "x", "w": [w]} for w in (1, 2)]}},
         "['x', 'x'] must name every method once: put all its scales into one entry's w"),
    ],
)  # fmt: skip
def test_what_cannot_go_together_is_refused_with_both_named(change, said):
    with pytest.raises(ParamsError) as caught:
        load("mnist", "demo").replace(**change)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
