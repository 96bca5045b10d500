"""Promise 9: a params file that is wrong is refused before a kernel starts, in one line; one that is right is accepted.

Every file here is made from a whole one by one change that is wrong by the grammar of params.
"""

import copy
import itertools
import json
import re
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from grammar import BOOL, GRAMMAR, NAN, NO_NUMBER, PATHS, PROFILES, RAW, SECTIONS, WORDS, WRONG, keys, place
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guidebook import cli
from guidebook.config import params


class File(NamedTuple):
    kind: str
    data: bytes
    key: str | None  # what the refusal must name
    value: str | None = None  # what it must show the beginning of


def dump(raw: dict) -> bytes:
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")


profiles = st.sampled_from(sorted(RAW))


@st.composite
def value(draw):
    """A value that its parameter cannot have."""
    raw = copy.deepcopy(RAW[draw(profiles)])
    key = draw(st.sampled_from(keys(raw)))
    wrong = draw(WRONG[GRAMMAR[key][0]])
    owner, name = place(raw, key)
    owner[name] = wrong
    if (
        key == "data.caption" and wrong is None
    ):  # captions from attributes: refused for what it means, as YAML writes it
        shown = "null"
    elif isinstance(wrong, bool | None):
        shown = str(wrong)
    elif isinstance(wrong, str) and wrong.isascii() and wrong.isalnum():
        shown = wrong[:20]
    else:
        shown = None
    kind = "path for a value" if isinstance(wrong, str) and ("/" in wrong or ".." in wrong) else "value"
    return File(f"{kind} of a {GRAMMAR[key][0]}", dump(raw), key, shown)


def misspelt(draw, name: str) -> str:
    at = draw(st.integers(0, len(name) - 1))
    homoglyphs = {"a": "а", "e": "е", "i": "і", "o": "ο", "p": "р", "s": "ѕ", "c": "с", "t": "т"}
    return draw(st.sampled_from([
        name[:at] + name[at + 1 :], name[: at + 1] + name[at:], name + "s", name.upper(), name + " ", name + "\u200b",
        name[:at] + homoglyphs.get(name[at], "ｘ") + name[at + 1 :], name.replace("_", "-") + "-", name + "\n", "x" * 5000,
        f"../{name}", f"{name}.{name}", "\u202e" + name, "\x1b[31m" + name, f"<script>{name}</script>",
    ]))  # fmt: skip


@st.composite
def unknown(draw):
    """A key that does not exist: beside the others, or in place of one it resembles."""
    raw = copy.deepcopy(RAW[draw(profiles)])
    key = draw(st.sampled_from([*keys(raw), *SECTIONS]))
    owner, name = place(raw, key)
    other = draw(st.one_of(st.builds(misspelt, st.just(draw), st.just(name)), st.text(max_size=12), st.integers()))
    if other in owner or str(other) in {k.rpartition(".")[2] for k in GRAMMAR} | {"extends"}:
        other = "zzz"
    beside = draw(BOOL)
    owner[other] = draw(st.one_of(st.just(owner[name]), NO_NUMBER))
    if not beside:
        del owner[name]
    plain = isinstance(other, str) and other.isascii() and other.isalnum()
    if name == "kind" and not beside:  # without it nothing is known of the other keys
        return File("unknown key", dump(raw), key)
    return File("unknown key", dump(raw), other[:40] if plain else None)


@st.composite
def absent(draw):
    raw = copy.deepcopy(RAW[draw(profiles)])
    key = draw(st.sampled_from([*keys(raw), *SECTIONS]))
    owner, name = place(raw, key)
    del owner[name]
    return File("key left out", dump(raw), key)


@st.composite
def extending(draw):
    """A profile to extend that is none, is not there, lies elsewhere, or leads back."""
    raw = copy.deepcopy(RAW[draw(profiles)])
    raw["extends"] = draw(
        st.one_of(
            PATHS, BOOL, NAN, st.integers(), st.just([]), st.sampled_from(["dmeo", "x" * 5000, "mnist/", "/demo"])
        )
    )
    del raw[draw(st.sampled_from(SECTIONS))]
    return File("extends what is none", dump(raw), None)


@st.composite
def section(draw):
    raw, key = copy.deepcopy(RAW[draw(profiles)]), draw(st.sampled_from(SECTIONS))
    raw[key] = draw(st.one_of(st.none(), BOOL, NAN, WORDS, PATHS, st.integers(), st.just([raw[key]]), st.just([])))
    return File("section that is none", dump(raw), key)


@st.composite
def twice(draw):
    """A key that stands twice, with the value of the first or another."""
    profile = draw(profiles)
    lines = PROFILES[profile].splitlines()
    at = draw(st.sampled_from([i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")]))
    key, _, rest = lines[at].partition(":")
    name = key.strip()
    if not rest.strip():  # a section: the whole of it again, at the end
        again = [lines[at]]
        for line in lines[at + 1 :]:
            if not line.startswith(" "):
                break
            again.append(line)
        lines += again
    else:
        spelt = draw(
            st.sampled_from([name, f'"{name}"', f"'{name}'", f"!!str {name}", f"? {name}\n{key[: -len(name)]}"])
        )
        lines.insert(at + 1, key.replace(name, spelt) + ":" + draw(st.sampled_from([rest, " 1", " null", " [1, 2]"])))
    return File("key twice", "\n".join(lines).encode(), name)


TAGS = [
    "!!python/object/apply:os.system ['touch pwned']", "!!python/object/new:subprocess.Popen [['touch', 'pwned']]",
    "!!python/object/apply:builtins.open ['pwned', 'w']", "!!python/name:os.system ''", "!!python/module:os ''",
    "!!python/object/apply:builtins.exec [\"open('pwned', 'w')\"]", "!!python/tuple [1, 2]", "!!python/bytes ''",
    "!!python/object:guidebook.config.params.Params {}", "!env HOME", "!include ../x.yml", "!%1B[31m x", "!<tag:x.org,1:y> z",
    "!!js/function 'x'", "!!merge x",
]  # fmt: skip


@st.composite
def tagged(draw):
    """A tag that asks for an object, as a value, a key or the whole file."""
    profile, tag = draw(profiles), draw(st.sampled_from(TAGS))
    lines = PROFILES[profile].splitlines()
    at = draw(st.sampled_from([i for i, x in enumerate(lines) if ": " in x and not x.startswith("#")]))
    where = draw(st.sampled_from(["value", "entry", "key", "file", "more"]))
    if where == "file":
        lines = [tag]
    elif where == "more":
        lines.append(f"more: {tag}")
    elif where == "key":
        lines.append(f"? {tag}\n: 1")
    else:
        lines[at] = lines[at].partition(":")[0] + (f": {tag}" if where == "value" else f": [{tag}]")
    return File(f"tag as {where}", "\n".join(lines).encode(), None)


@st.composite
def bomb(draw):
    """Aliases that unfold to more than any memory holds, depth without end, files without measure."""
    text, wide, deep = PROFILES[draw(profiles)], draw(st.integers(2, 9)), draw(st.integers(3, 60))
    names = [f"b{i}" for i in range(deep)]
    links = list(itertools.pairwise(names))
    open_, close = draw(st.sampled_from([("[", "]"), ("{a: ", "}")]))
    # Nested in two ways: by aliases of what came before, and by merge keys.
    aliases = "b0: &b0 [x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * wide)}]\n" for a, b in links)
    merged = "b0: &b0 {x: 1}\n" + "".join(f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * wide)}]}}\n" for a, b in links)
    last = names[-1]
    return draw(st.sampled_from([
        File("alias bomb", (aliases + text).encode(), None),
        File("alias bomb", f"{aliases}{text}".replace("  lr: 0.001", f"  lr: *{last}").encode(), None),
        File("alias bomb", f"{aliases}{text}".replace("  kind: unet", f"  kind: *{last}").encode(), None),
        File("alias bomb", f"{aliases}{text}extends: *{last}\n".encode(), None),
        File("merge bomb", (merged + text).encode(), None),
        File("merge bomb", (merged + text.replace("train:\n", f"train:\n  <<: *{last}\n")).encode(), None),
        File("file within itself", text.replace("train:\n", "train: &t\n  zzz: *t\n").encode(), None),
        File("list within itself", text.replace("  lr: 0.001", "  lr: &l [*l]").encode(), "train.lr"),
        File("depth", (text + f"deep: {open_ * deep * 20}{close * deep * 20}\n").encode(), None),
        File("depth without end", (text + f"deep: {open_ * 1000 * wide}\n").encode(), None),
        File("long", (text + "#" * 10**5).encode(), None),
        File("long", (text + f"{'x' * 10**5 * wide}: 1\n").encode(), None),
        File("digits", text.replace("batch: ", f"batch: {'9' * 500 * deep}").encode(), None),
        File("digits", text.replace("batch: ", f"batch: 0x{'f' * 500 * deep}").encode(), None),
        File("digits", text.replace("batch: ", f"batch: 1{':59' * 100 * deep}:").encode(), None),
    ]))  # fmt: skip


@st.composite
def rubbish(draw):
    """What is no mapping, or no text, or not the whole of a file."""
    text = PROFILES[draw(profiles)].encode()
    noise = draw(st.binary(min_size=1, max_size=200))
    lines = text.splitlines(keepends=True)
    at = draw(st.integers(0, len(lines) - 1))
    return draw(st.sampled_from([
        File("binary", noise, None),
        File("binary", b"\x00" + text, None),
        File("binary", text.replace(b"train", b"tr\xff\xfein"), None),
        File("UTF-16 without its mark", text.decode().encode("utf-16-be"), None),
        File("terminal codes", text.replace(b"mnist", b"\x1b[2Jmnist"), None),
        File("cut", b"".join(lines[:at]), None),
        File("no mapping", b"- " + b"- ".join(lines[:at] or [b"x\n"]), None),
        File("no mapping", draw(st.sampled_from([b"", b"~", b"5", b"train", b"[]", b"# x", b"--- x", b"!!set {a}"])), None),
        File("two documents", text + b"---\n" + text, None),
        File("tabs", text.replace(b"  ", b"\t"), None),
        File("blanks that are none", text.replace(b"  ", "\u00a0 ".encode()), None),
        File("colons that are none", text.replace(b":", "：".encode()), None),
        File("HTML", b"<!doctype html><script>alert(1)</script>" + noise, None),
        File("notebook", json.dumps({"cells": [], "metadata": {}, "nbformat": 4}).encode(), None),
    ]))  # fmt: skip


wrong_files = st.one_of(
    value(), value(), value(), unknown(), absent(), section(), twice(), tagged(), bomb(), rubbish(), extending()
)


@st.composite
def right_files(draw):
    """Another way of writing a profile, or other values that every parameter of that kind may have: `(profile, file)`."""
    profile = draw(profiles)
    raw, text = copy.deepcopy(RAW[profile]), PROFILES[profile]
    way = draw(
        st.sampled_from(["order", "JSON", "values", "line ends", "byte order mark", "quotes", "alias", "comments"])
    )
    if way == "order":
        raw = {k: dict(draw(st.permutations(list(v.items())))) if isinstance(v, dict) else v for k, v in raw.items()}
        text = yaml.safe_dump(dict(draw(st.permutations(list(raw.items())))), sort_keys=False)
    elif way == "JSON":
        text = json.dumps(raw, indent=draw(st.sampled_from([None, 1])))
    elif way == "values":
        raw["train"] |= {
            "seed": draw(st.integers(0, 2**63 - 1)), "lr": draw(st.floats(1e-9, 10)), "batch": draw(st.integers(1, 10**6)),
            "caption_dropout": draw(st.floats(0, 1)), "clip_norm": draw(st.none() | st.floats(1e-6, 1e6)),
        }  # fmt: skip
        raw["sample"]["guidance"] = draw(st.lists(st.floats(0, 1000), min_size=1, max_size=20, unique=True))
        raw["data"]["caption"] = "{label}" + draw(st.text("aé字😀<&\"'`$%:#- ", max_size=290))
        raw["data"]["limit"] = draw(st.none() | st.integers(1, 10**9))
        text = yaml.safe_dump(raw, sort_keys=False, allow_unicode=draw(BOOL))
    elif way == "line ends":
        text = text.replace("\n", draw(st.sampled_from(["\r\n", "\n\n"])))
    elif way == "byte order mark":
        text = "\ufeff" + text
    elif way == "quotes":
        text = (
            text.replace("name: ", 'name: "').replace("\n  resolution", '"\n  resolution').replace("train:", "'train':")
        )
    elif way == "alias":
        text = text.replace("  seed: 0", "  seed: &seed 0").replace("  seed: 422", "  seed: *seed")
    else:
        text = "\n".join(f"{line}  # {i}" for i, line in enumerate(text.splitlines()))
    return profile, text.encode()


QUIET = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


def said_of(file: File, folder) -> str:
    """The line with which the library's own entry refuses a file, checked for its form."""
    path = folder / "file.yml"
    path.write_bytes(file.data)
    with pytest.raises(params.ParamsError) as caught:
        params.load_file(path)
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    assert all(c.isprintable() for c in said), said
    assert len(said) < 700
    assert said.startswith("file.yml")
    if b"\\uD800" in file.data:  # a lone surrogate is no YAML, and its line is named
        assert re.search(r"cannot be read as YAML: .+ line \d+, column \d+", said), said
    elif file.key:
        assert file.key in said, (file.key, said)
    if file.value:
        assert file.value in said, (file.value, said)
    if file.kind.startswith(("value", "path")):
        assert len(said.partition(" = ")[2] or said.partition(": ")[2]) > 10  # and what is allowed
    return said


def try_wrong(n: int, folder) -> Counter:
    """Tries n wrong files; how many different ones of each kind were refused as they should."""
    seen: set[bytes] = set()
    kinds: Counter = Counter()

    @settings(QUIET, max_examples=n)
    @given(wrong_files)
    def one(file):
        said_of(file, folder)
        if file.data not in seen:
            seen.add(file.data)
            kinds[file.kind] += 1

    one()
    assert not [*folder.rglob("pwned"), *Path.cwd().glob("pwned")]
    return kinds


def test_wrong_files_are_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sum(try_wrong(250, tmp_path).values()) > 150


@pytest.mark.slow
def test_2000_wrong_files_are_refused_in_one_line(tmp_path, monkeypatch, tally):
    monkeypatch.chdir(tmp_path)
    kinds = try_wrong(3600, tmp_path)
    n = sum(kinds.values())
    assert n >= 2000, kinds
    assert len(kinds) > 25
    tally(
        9,
        "mutated parameter files",
        n,
        n,
        f"{len(kinds)} kinds of mistake in three whole files, each refused in one line",
    )


def try_right(n: int, folder) -> int:
    seen: set[bytes] = set()

    @settings(QUIET, max_examples=n)
    @given(right_files())
    def one(given_):
        profile, data = given_
        (folder / "file.yml").write_bytes(data)
        assert params.load_file(folder / "file.yml").profile == RAW[profile]["profile"]
        seen.add(data)

    one()
    return len(seen)


def test_right_files_are_accepted(tmp_path):
    assert try_right(100, tmp_path) > 30


@pytest.mark.slow
def test_500_right_files_are_accepted(tmp_path, tally):
    n = try_right(1000, tmp_path)
    tally(
        9, "parameter files written otherwise but right", n, n, "control: order, quotes, JSON, comments, other values"
    )


# The commands themselves: nothing starts


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """`command(words, file)` runs `guidebook` here; its exit status, what it said, and how often a kernel would have started."""
    started = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr("guidebook.config.params.PARAMS", tmp_path / "params")
    monkeypatch.setattr("guidebook.book.notebook._papermill", lambda *a: started.append(a))
    monkeypatch.setattr("guidebook.training.loop.train", started.append)
    (tmp_path / "params" / "mnist").mkdir(parents=True)

    def call(way: str, data: bytes, profile: str = "demo"):
        file = tmp_path / "params" / "mnist" / f"{profile}.yml"
        file.write_bytes(data)
        words = ["run", "mnist", "--profile", profile] if way == "run" else ["train", str(file)]
        monkeypatch.setattr(sys, "argv", ["guidebook", *words])
        started.clear()
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, capsys.readouterr().err, len(started)

    return call


@pytest.mark.parametrize("way", ["run", "train"])
def test_a_right_file_does_start_something(command, way):
    assert command(way, PROFILES["demo"].encode())[2] == 1


def try_commands(command, tmp_path, n: int) -> int:
    tried = 0

    @settings(QUIET, max_examples=n)
    @given(wrong_files, st.sampled_from(["run", "train"]))
    def one(file, way):
        nonlocal tried
        status, said, started = command(way, file.data)
        assert (status, started) == (1, 0), (file.kind, said)
        assert said.startswith("guidebook: ")
        assert len(said.splitlines()) == 1
        assert "Traceback" not in said
        tried += 1

    one()
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "pwned").exists()
    return tried


def test_the_commands_refuse_wrong_files_before_a_kernel_starts(command, tmp_path):
    assert try_commands(command, tmp_path, 30) >= 30


@pytest.mark.slow
def test_the_commands_refuse_300_wrong_files_before_a_kernel_starts(command, tmp_path, tally):
    n = try_commands(command, tmp_path, 300)
    tally(
        9, "`guidebook run` and `guidebook train` on a wrong file", n, n, "exit 1, one line, no kernel, no run folder"
    )


def test_the_tricks_are_what_they_seem():
    """The texts above that look like a good value are not one."""
    names = ["mn\u0456st", "ｍｎｉｓｔ", "mni\u0301st"]
    assert all(n != "mnist" for n in names)
    assert unicodedata.normalize("NFKC", "ｍｎｉｓｔ") == "mnist"
