"""Parameters: what is accepted, what is refused and in what words, and what a training depends on."""

import copy
import json
import string

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from guidebook.conditioning.captions import class_captions
from guidebook.config import params as P
from guidebook.config.params import Params, ParamsError, check, differences, from_notebook, load, read
from guidebook.config.paths import NOTEBOOKS, PARAMS

FILES = sorted(PARAMS.glob("*/*.yml"))
DEMO = load("mnist", "demo").model_dump(mode="json")
SECTIONS = [name for name, value in DEMO.items() if isinstance(value, dict)]
# For every parameter another value that is allowed there.
OTHER = {
    "data": {
        "name": "mnist", "resolution": 16, "range": [-1.0, 1.0], "caption": "A {label}", "limit": 100, "flips": True,
        "phrasings": 3,
    },
    "text": {"encoder": "openai/clip-vit-base-patch32", "tokens": 9},
    "model": {"channels": [32, 64, 96], "layers_per_block": 2, "num_heads": 16, "vae": "embedded"},
    "objective": {
        "schedule": "linear", "timesteps": 500, "prediction": "v_prediction", "min_snr_gamma": 5.0,
        "zero_terminal_snr": True,
    },
    "train": {
        "batch": 64, "micro_batch": 16, "lr": 0.002, "warmup": 1000, "weight_decay": 0.02, "epochs": 41, "caption_dropout": 0.1,
        "ema": [0.99, 0.9], "clip_norm": None, "precision": "bf16", "seed": 1, "checkpoint_every": 5,
        "keep_checkpoints": 3, "processes": 2, "tracker": "tensorboard", "channels_last": True,
        "compile": True,
    },
    "sample": {
        "sampler": "ddim", "steps": 26, "eta": 0.5, "spacing": "trailing", "guidance": [1], "seed": 1, "batch": 10,
        "weights": "raw", "methods": [{"name": "rescaled", "combine": "rescaled", "w": [2], "phi": 0.7}],
        "solvers": [{"sampler": "heun", "steps": 5, "eta": 0.0, "spacing": "karras"}],
    },
    "evaluate": {"samples": 510},
}  # fmt: skip
# Where and how a run happens, who watches, and what is compared with it: no choice of the run itself;
HOW = {"train.processes", "train.tracker", "train.channels_last", "train.compile"}
# and what only some experiments have.
DEFAULTED = {*HOW, "sample.methods", "sample.solvers", "data.phrasings", "model.vae"}
FREE = {"train.micro_batch", "train.checkpoint_every", "train.keep_checkpoints", *HOW}
EVERY = [(s, k) for s in SECTIONS for k in DEMO[s]]


def edited(section: str | None, key, value) -> dict:
    raw = copy.deepcopy(DEMO)
    (raw[section] if section else raw)[key] = value
    return raw


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


@pytest.mark.parametrize("experiment", sorted({p.parent.name for p in FILES}))
def test_parameters_cell_of_the_notebook_holds_the_demo_profile(experiment):
    notebook = json.loads((NOTEBOOKS / f"{experiment}.ipynb").read_text())
    [cell] = [c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", [])]
    namespace = {"__name__": "__main__"}
    exec("".join(cell["source"]), namespace)
    assert from_notebook(namespace) == load(experiment, "demo")


# What is refused: (section, key, value, what the line must say)
REFUSED = {
    "unknown key": ("train", "epoch", 3, ["train.epoch", "not a parameter", "nearest: epochs", "checkpoint_every"]),
    "unknown section": (None, "trian", {}, ["trian", "not a parameter", "nearest: train", "evaluate"]),
    "wrong type": ("train", "batch", "many", ["train.batch", "'many'", "integer"]),
    "float for int": ("train", "batch", 1.5, ["train.batch", "1.5", "integer"]),
    "bool for int": ("train", "batch", True, ["train.batch", "True", "integer"]),
    "bool for float": ("train", "lr", True, ["train.lr", "True", "number"]),
    "bool in a list": ("sample", "guidance", [1, True], ["sample.guidance.1", "True", "number"]),
    "number as text": ("train", "lr", "1e-4", ["train.lr", "'1e-4'", "text", "1.0e-4"]),
    "NaN": ("train", "lr", float("nan"), ["train.lr", "nan", "finite"]),
    "infinity": ("train", "epochs", float("inf"), ["train.epochs", "inf", "finite"]),
    "minus infinity in a list": ("data", "range", [float("-inf"), 1.0], ["data.range.0", "-inf", "finite"]),
    "negative size": ("train", "batch", -1, ["train.batch", "-1", "greater than or equal to 1"]),
    "zero size": ("data", "limit", 0, ["data.limit", "0", "greater than or equal to 1"]),
    "negative rate": ("train", "lr", -0.1, ["train.lr", "-0.1", "greater than 0"]),
    "probability above one": ("train", "caption_dropout", 1.5, ["train.caption_dropout", "1.5", "less than or equal"]),
    "decay of one": ("train", "ema", [1.0], ["train.ema.0", "1.0", "less than 1"]),
    "one checkpoint": ("train", "keep_checkpoints", 1, ["train.keep_checkpoints", "1", "greater than or equal to 2"]),
    "path up": (None, "experiment", "../x", ["experiment", "'../x'", "pattern"]),
    "absolute path": (None, "profile", "/etc/passwd", ["profile", "'/etc/passwd'", "pattern"]),
    "path with a line end": (None, "profile", "demo\n", ["profile", "'demo\\n'", "pattern"]),
    "hidden name": (None, "experiment", ".mnist", ["experiment", "'.mnist'", "pattern"]),
    "encoder from a path": ("text", "encoder", "../clip", ["text.encoder", "'../clip'", "'embedded'"]),
    "weights from a path": ("sample", "weights", "../raw", ["sample.weights", "'../raw'", "raw"]),
    "empty list": ("sample", "guidance", [], ["sample.guidance", "[]", "at least 1"]),
    "list for a section": (None, "train", [1], ["train", "[1]", "dictionary"]),
    "nothing for a section": (None, "train", None, ["train", "None", "dictionary"]),
    "range upside down": ("data", "range", [1.0, 0.0], ["data", "low < high"]),
    "weights that are not kept": ("sample", "weights", "ema-0.5", ["sample.weights", "raw", "ema-0.99"]),
    "more steps than timesteps": ("sample", "steps", 1001, ["sample.steps", "objective.timesteps"]),
    "classes of unequal size": ("evaluate", "samples", 501, ["evaluate.samples", "multiple of 10"]),
    "channels no group norm divides": ("model", "channels", [32, 48, 64], ["model.channels.1", "48", "multiple of 32"]),
    "phrasings of a class": ("data", "phrasings", 2, ["data.phrasings", "digits"]),
    "no caption for classes": ("data", "caption", None, ["data.caption", "needs a caption"]),
    "latents of grey images": ("model", "vae", "embedded", ["model.vae", "colour images", "[-1, 1]"]),
    "key that is a number": ("train", 7, 1, ["train.7"]),
    "key of two lines": ("train", "a\nb", 1, ["train.a", "not a parameter"]),
    "key with a terminal code": (None, "\x1b[31mred", 1, ["red", "not a parameter"]),
    "number of 6000 digits": ("train", "batch", 16**5000, ["train.batch", "less than or equal"]),
    "text of 10⁶ letters": ("train", "batch", "x" * 10**6, ["train.batch", "xxx", "integer"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_value_is_refused_in_one_line_that_names_it(case):
    section, key, value, said = REFUSED[case]
    text = refusal(edited(section, key, value))
    assert text.startswith("demo.yml: ")
    assert [s for s in said if s not in text] == []


@pytest.mark.parametrize(("section", "key"), [(s, k) for s, k in EVERY if f"{s}.{k}" not in DEFAULTED])
def test_every_parameter_of_the_study_must_be_given(section, key):
    raw = copy.deepcopy(DEMO)
    del raw[section][key]
    text = refusal(raw)
    assert f"{section}.{key} is missing" in text


@pytest.mark.parametrize("name", DEMO)
def test_every_section_must_be_given(name):
    assert f"{name} is missing" in refusal({k: v for k, v in DEMO.items() if k != name})


def test_of_several_mistakes_the_line_counts_the_others():
    raw = edited("train", "batch", -1)
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
    "a section within itself": b"train: &a {lr: *a}\n",
    "a date that is none": b"train: 2026-99-01\n",
    "a list as key": b"? [a, b]\n: c\n",
    "a number of 6000 digits": b"train: {batch: 0x" + b"f" * 5000 + b"}\n",
    "an alias bomb": b"".join(
        b"%c: &%c [%s]\n" % (n, n, b", ".join([b"*%c" % (n - 1)] * 9) if n > 97 else b"x") for n in range(97, 107)
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_refused_in_one_line_and_calls_nothing(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yml").write_bytes(BAD_FILES[case])
    with pytest.raises(ParamsError, match=r"bad\.yml") as caught:
        check(read(tmp_path / "bad.yml"), "bad.yml")
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 500
    assert [p.name for p in tmp_path.iterdir()] == ["bad.yml"]


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


def test_an_override_changes_one_value_and_nothing_else():
    changed = load("mnist", "demo", {"train.lr": 0.5})
    assert differences(load("mnist", "demo"), changed) == [("train.lr", 0.001, 0.5)]


@pytest.mark.parametrize("key", ["train", "lr", "nope.lr", "experiment", "profile.x", "", ".", "a\nb", "train.lr.x"])
def test_an_override_without_section_and_key_is_refused(key):
    with pytest.raises(ParamsError) as caught:
        load("mnist", "demo", {key: 1})
    assert len(str(caught.value).splitlines()) == 1


# A notebook's variables


def after_parameters_cell() -> dict:
    import math

    def shell(): ...

    jupyter = {"In": [], "Out": {}, "exit": object(), "quit": object(), "open": open, "get_ipython": shell, "_ih": []}
    return {"__name__": "__main__", "math": math, "from_notebook": from_notebook} | jupyter | copy.deepcopy(DEMO)


def test_variables_of_a_notebook_become_its_parameters():
    assert from_notebook(after_parameters_cell()) == load("mnist", "demo")


@pytest.mark.parametrize("name", ["trian", "lr", "guidance"])
def test_a_variable_that_is_no_section_is_refused(name):
    with pytest.raises(ParamsError, match=f"notebook: {name} is not a parameter"):
        from_notebook(after_parameters_cell() | {name: 3})


def test_the_cell_may_be_run_again_among_later_variables():
    namespace = after_parameters_cell()
    first = from_notebook(namespace)
    namespace |= {"params": first, "run": object(), "n": 50}
    assert from_notebook(namespace) == first


def test_the_cell_run_again_sees_a_changed_section():
    namespace = after_parameters_cell()
    from_notebook(namespace)
    namespace["train"] = namespace["train"] | {"lr": 0.5}
    assert from_notebook(namespace).train.lr == 0.5


# What a training depends on


def test_another_value_is_known_for_every_parameter():
    assert {(s, k) for s in OTHER for k in OTHER[s]} == set(EVERY)
    assert not [(s, k) for s, k in EVERY if OTHER[s][k] == DEMO[s][k]]


# What else must be so for the other value to be allowed
NEEDS = {
    "objective.zero_terminal_snr": {"objective": {"prediction": "v_prediction"}, "sample": {"spacing": "trailing"}},
    "sample.eta": {"sample": {"sampler": "ddim"}},
    "data.phrasings": {"data": {"name": "faces", "caption": None}},
    "model.vae": {"data": {"name": "scenes", "range": [-1.0, 1.0]}},
}


@pytest.mark.parametrize(("section", "key"), EVERY)
def test_training_key_changes_with_what_training_depends_on_and_with_nothing_else(section, key):
    a = load("mnist", "demo").replace(**NEEDS.get(f"{section}.{key}", {}))
    b = a.replace(**{section: {key: OTHER[section][key]}})
    depends = section not in ("sample", "evaluate") and f"{section}.{key}" not in FREE
    assert (a.training_key != b.training_key) == depends


def test_training_key_is_the_same_in_every_profile_of_equal_training():
    a = load("mnist", "demo")
    assert a.replace(profile="best").training_key == a.training_key


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


# Anything at all

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.binary(max_size=5), st.dates(),
    st.just(5000).map(lambda digits: 10**digits),  # Hypothesis cannot print it
    st.sampled_from([-1, 0, 1e308, "1e-4", "nan", "../x", "{label.__class__}", "a\nb", "</script>"]),
)  # fmt: skip
keys = st.one_of(st.text(max_size=10), st.sampled_from(["lr", "train", "a\nb"]), st.integers(), st.booleans())
values = st.recursive(scalars, lambda x: st.lists(x, max_size=4) | st.dictionaries(keys, x, max_size=3), max_leaves=8)
edits = st.lists(st.tuples(st.sampled_from([None, *SECTIONS]), keys, values, st.booleans()), min_size=1, max_size=3)
known = st.sampled_from(EVERY).flatmap(lambda e: st.tuples(st.just(e[0]), st.just(e[1]), values, st.booleans()))


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
        ({"sample": {"spacing": "karras"}}, "spacing = karras is for sampler = heun"),
        ({"sample": {"eta": 0.5}}, "eta = 0.5 is for sampler = ddim"),
        ({"objective": {"zero_terminal_snr": True}}, "zero_terminal_snr = True needs objective.prediction"),
        ({"objective": {"zero_terminal_snr": True, "prediction": "v_prediction"}}, "visit the last timestep"),
        ({"objective": {"prediction": "sample"}, "sample": {"sampler": "heun"}}, "heun does not take"),
        ({"sample": {"methods": [{"name": "own", "combine": "rescaled", "w": [2]}]}}, "rescaled.phi = None must be from 0 to 1"),
        ({"sample": {"methods": [{"name": "own", "combine": "rescaled", "w": [2], "phi": 2.0}]}}, "must be from 0 to 1"),
        ({"sample": {"methods": [{"name": "own", "w": [2], "against": {"weights": "ema-0.123"}}]}}, "must be one of"),
        ({"sample": {"methods": [{"name": "cfg-plus-plus", "combine": "cfg-plus-plus", "w": [w]} for w in (1, 2)]}},
         "['cfg-plus-plus', 'cfg-plus-plus'] must name every method once: put all its scales into one entry's guidance"),
    ],
)  # fmt: skip
def test_what_cannot_go_together_is_refused_with_both_named(change, said):
    with pytest.raises(ParamsError) as caught:
        load("mnist", "demo").replace(**change)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
