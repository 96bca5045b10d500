"""Promise 8: nothing that is read (files, captions, parameters) runs code or writes outside the run folder."""

import ast
import html.parser
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import guidebook
from guidebook.book import pages
from guidebook.config.errors import plain
from guidebook.config.params import Data, ParamsError, digest, read
from guidebook.config.params import load as load_params
from guidebook.config.paths import BOOK
from guidebook.data.images import DataError, load
from guidebook.report import banner, tables, widgets
from guidebook.report.claims import Answer, Answers
from guidebook.runs.manifest import MANIFEST, checksum
from guidebook.runs.run import every_run, foremost, open_run, opened
from guidebook.sampling.sets import image_set
from guidebook.training import checkpoint
from guidebook.training.model import load_model

LIBRARY = sorted(Path(guidebook.__file__).parent.rglob("*.py"))

# The library's own source


def forbidden(source: str) -> list[str]:
    """What in a source could run what it reads."""
    names = {"eval", "exec", "compile", "__import__", "breakpoint", "input"}
    modules = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "tarfile", "code"}
    calls = {
        "torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen", "np.load", "numpy.load",
        "pd.read_pickle", "pandas.read_pickle", "torch.hub.load", "subprocess.getoutput", "shutil.unpack_archive",
    }  # fmt: skip
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            words = {k.arg: ast.unparse(k.value) for k in node.keywords if k.arg}
            # with weights_only torch's own reader builds tensors and nothing else
            safe = name == "torch.load" and words.get("weights_only") == "True"
            if name in names or (name in calls and not safe) or name.endswith((".extractall", ".read_pickle")):
                found.append(name)
            bad = {"shell": "False", "trust_remote_code": "False", "allow_pickle": "False", "weights_only": "True"}
            found += [f"{k}={words[k]}" for k, good in bad.items() if words.get(k, good) != good]
            found += [k for k in ("custom_pipeline", "custom_revision") if k in words]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            imported = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [m for m in imported if m.partition(".")[0] in modules]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value == "trust_remote_code":
            found.append(node.value)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in {
            "yaml.Loader",
            "yaml.UnsafeLoader",
            "yaml.FullLoader",
        }:
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from pickle import loads", "torch.load(f)", "eval('1')", "exec(x)", "os.system('x')", "x.extractall()",
     "subprocess.run('x', shell=True)", "yaml.load(x, Loader=L)", "f(trust_remote_code=True)", "f(**{'trust_remote_code': 1})",
     "yaml.UnsafeLoader(x)", "np.load(f, allow_pickle=True)", "torch.load(f, weights_only=False)"],
)  # fmt: skip
def test_the_check_of_the_source_finds_what_it_looks_for(source):
    assert forbidden(source)


def test_the_library_runs_nothing_that_it_reads(tally):
    found = {p.name: bad for p in LIBRARY if (bad := forbidden(p.read_text()))}
    assert found == {}
    tally(
        8,
        "source file of the library",
        len(LIBRARY),
        len(LIBRARY),
        "no pickle, eval, exec, shell, unsafe YAML, remote code",
    )


# Text in pages

HOSTILE = [
    "<script>alert(1)</script>", "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\"><svg onload=alert(1)>",
    "' onmouseover='alert(1)", "<iframe src='javascript:alert(1)'></iframe>", "<style>@import 'x'</style>", "<!-- x", "]]><x>",
    "&lt;script&gt;alert(1)&lt;/script&gt;", "<a href=javascript:alert(1)>x</a>", "{{ x }}", "$\\href{javascript:alert(1)}{x}$",
]  # fmt: skip
ALLOWED = {
    "div",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "br",
    "strong",
    "span",
    "svg",
    "g",
    "title",
    "text",
    "line",
    "circle",
}
OWN = {
    "class",
    "id",
    "viewbox",
    "role",
    "aria-label",
    "x",
    "y",
    "x1",
    "x2",
    "y1",
    "y2",
    "cx",
    "cy",
    "r",
    "fill",
    "stroke",
    "stroke-width",
    "stroke-dasharray",
    "text-anchor",
}


class Tags(html.parser.HTMLParser):
    """The tags, attributes and text of a piece of HTML, as a browser would read them."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text = set(), set(), ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        own = (("style", "text-align: right;"), ("border", "0"))  # what pandas writes
        self.attributes |= {name for name, value in attrs if (name, value) not in own}

    def handle_data(self, data):
        self.text += data

    def handle_comment(self, data):
        self.tags.add("!--")


def harmless(text: str, *shown: str) -> bool:
    """Whether only the library's own tags are in it, and the text is shown as it was written."""
    read_ = Tags(text)
    return read_.tags <= ALLOWED and read_.attributes <= OWN and all(s in read_.text for s in shown)


def record(text: str) -> dict:
    return {
        "metric": "adherence", "value": 0.5, "low": 0.4, "high": 0.6, "n": 50, "guidance": 1, "extractor": text, "reference": text,
        "interval": text,
        "draw": {
            "n": 50, "guidance": {"w": 1.0}, "prompt": text, "weights": "raw", "seed": 0,
            "solver": {"sampler": "ddpm", "steps": 3, "eta": 0.0, "spacing": "leading"},
        },
    }  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_outside_is_shown_and_never_run(text, runs, tiny, tally):
    run = open_run(tiny.replace(data={"caption": f"{{label}} {text}"}))
    run.note(data_note=text, device=text, images_seen=64, train_seconds=1.0, commit=text, versions={"torch": text})
    run.note(data={"fingerprint": text, "name": text})
    run.add_metrics([record(text)])
    demo = open_run(tiny.replace(data={"caption": f"{{label}} {text}"}, profile="demo"))
    demo.note(**run.provenance())
    demo.add_metrics([record(text)])
    main, _, rest = pages.results([demo]).partition("## All records")
    data = re.search('id="records-data">([^<>&]*)</script>', rest)  # no sign of HTML in it
    status = pages.status([run, demo])
    held = [
        harmless(banner.banner(run), text),
        harmless(tables.metric_table([record(text)]).text),
        harmless(Answers(run, [("mnist-grain", text, ("holds", text))])._repr_html_()[0], text),
        harmless(tables.table(["a", text], [[text, text]]).text, text),
        harmless(main.partition("## ")[2], text),
        data is not None and plain(text) in json.loads(data[1])["words"],
        harmless(status.partition("<div")[2], text[:8]),
    ]
    assert all(held), held
    detail = "banner, tables, results, status: escaped, and no tag of its own"
    tally(8, "hostile text in a page", len(held), sum(held), detail)


def test_text_from_outside_is_shown_and_never_run_on_the_page_of_claims():
    page = pages.claims(
        [("", text, text, [Answer("mnist-grain", text, "holds", text, (1.0, 0.5, 1.5))]) for text in HOSTILE]
    )
    choices = re.search('<div class="filter".+?</div>', (BOOK / "claims.md").read_text(), re.DOTALL)[0]
    (script,) = re.findall(r"<script.*</script>", (BOOK / "claims.md").read_text())
    rest = page.replace(choices, "").replace(script, "").partition("<div")[2]
    for own in (".html#mnist-grain", "atlas.html"):
        rest = rest.replace(f'<a href="{own}">', "")
    rest = re.sub(r'<a href="#[a-z0-9-]+" title="[^"<>]*">', "", rest)  # of the forest plot
    assert harmless(rest, *HOSTILE)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_caption_cannot_end_the_script_that_holds_a_widgets_state(text, runs, tiny):
    from ipywidgets.embed import embed_data

    run = open_run(tiny.replace(data={"caption": f"{{label}} {text}"}))
    state = json.dumps(embed_data(views=[widgets.live_explorer(run)])["manager_state"])
    assert "<" not in state
    assert "HTMLModel" not in state
    assert "HTMLMathModel" not in state


@pytest.mark.parametrize("text", ["A\n\n```{include} /etc/passwd\n```", "A\r\n\r\n[x](y)", "A\u2028b", "A\x1b[31m"])
def test_a_caption_is_one_line_so_it_cannot_begin_a_directive(text, tiny):
    with pytest.raises(ParamsError, match=r"data\.caption"):
        tiny.replace(data={"caption": text})


# Names and paths

UPWARDS = ["../x", "../../x", "/tmp/x", "..", ".", "a/b", "a\\b", "x\0", "~", "", "con:", "x\n"]


@pytest.mark.parametrize("name", UPWARDS)
def test_a_name_that_leads_elsewhere_is_refused(name, tiny, tally):
    tried = [
        lambda: load_params(name, "demo"),
        lambda: load_params("mnist", name),
        lambda: tiny.replace(experiment=name),
        lambda: tiny.replace(profile=name),
        lambda: tiny.replace(data={"name": name}),
        lambda: tiny.replace(text={"encoder": name}),
        lambda: tiny.replace(sample={"weights": name}),
    ]
    for attempt in tried:
        with pytest.raises(ParamsError):
            attempt()
    tally(8, "name or path that leads elsewhere", len(tried), len(tried), "experiment, profile, data, encoder, weights")


def test_a_params_file_of_a_run_that_was_tampered_with_is_refused(runs, tiny, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    run = open_run(tiny)
    good = run.params.yaml()  # and no checksum, which whoever tampers can make, too
    for bad in (
        good.replace("experiment: mnist", "experiment: ../../x"),
        good.replace("profile: smoke", "profile: /tmp/x"),
        good.replace("seed: 0", "seed: !!python/object/apply:os.system ['touch pwned']"),
        good + "hook: !!python/name:os.system\n",
        good.replace("encoder: embedded", "encoder: ../../clip"),
        good.replace("name: digits", "name: ../digits"),
        good + good,
    ):
        assert bad != good
        (run.path / "params.yml").write_text(bad)
        with pytest.raises(ParamsError) as caught:
            opened(run.path)
        assert len(str(caught.value).splitlines()) == 1
        caplog.clear()
        assert run.path not in [r.path for r in foremost(every_run())]
        assert "left out" in caplog.text
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("tag", ["object/apply:os.system ['touch pwned']", "object/new:subprocess.Popen [['touch','pwned']]",
                                 "name:os.system", "object/apply:builtins.open ['pwned', 'w']", "module:antigravity"])  # fmt: skip
def test_yaml_makes_no_objects(tag, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in (
        f"!!python/{tag}",
        f"train: !!python/{tag}",
        f"train: {{lr: [!!python/{tag}]}}",
        f"? !!python/{tag}\n: 1",
    ):
        (tmp_path / "x.yml").write_text(text)
        with pytest.raises(ParamsError):
            read(tmp_path / "x.yml")
    assert [p.name for p in tmp_path.iterdir()] == ["x.yml"]


def test_the_path_beside_an_images_bytes_is_never_opened(tmp_path, monkeypatch):
    from test_decode import encoded

    image = encoded(torch.zeros(8, 8, dtype=torch.uint8).numpy())
    (tmp_path / "secret.png").write_bytes(image)
    (tmp_path / "mnist").mkdir()
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())])
    for split in ("train", "test"):
        rows = [
            {"bytes": None, "path": p} for p in ("../secret.png", str(tmp_path / "secret.png"), "https://example.org/x")
        ]
        table = pa.table({"image": rows, "label": [0, 1, 2]}, schema=schema)
        pq.write_table(table, tmp_path / "mnist" / f"{split}-00000-of-00001.parquet")
    monkeypatch.setenv("GUIDEBOOK_DATA", str(tmp_path))
    load.cache_clear()
    with pytest.raises(DataError, match=r"3 of 3 images .* row 0: no bytes"):
        load(Data(name="mnist", resolution=8, range=(0.0, 1.0), caption="{label}", limit=None, flips=False))


# Weights


class Payload:
    """Pickled, it makes a file called `pwned` when it is loaded."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self):
        return open, (str(self.place), "w")


def pickled(place: Path) -> dict[str, bytes]:
    torch.save({"x": Payload(place)}, place.with_name("x.pt"))
    return {"pickle": pickle.dumps(Payload(place)), "torch": place.with_name("x.pt").read_bytes()}


@pytest.fixture(scope="module")
def trained(trained_runs):
    (found,) = trained_runs.glob("mnist/smoke-*")
    return opened(found)


def test_the_payload_would_run(tmp_path):
    pickle.loads(pickled(tmp_path / "pwned")["pickle"]).close()
    assert (tmp_path / "pwned").exists()


@pytest.mark.parametrize("kind", ["pickle", "torch"])
@pytest.mark.parametrize("sealed", [False, True])
def test_a_pickle_called_safetensors_is_refused_and_does_not_run(kind, sealed, trained, tmp_path, tally):
    payload, tried, held = pickled(tmp_path / "pwned")[kind], 0, 0
    [last] = checkpoint.complete(trained.path / "checkpoints")[-1:]
    raw = trained.path / "model" / "raw"
    copy, model = tmp_path / last.name, tmp_path / "run" / "model" / "raw"
    for whole, folder, use in (
        (last, copy, lambda: checkpoint.load(copy)),
        (raw, model, lambda: load_model(type(trained)(trained.params, tmp_path / "run", False), "raw")),
    ):
        names = [f.name for f in whole.glob("*.safetensors")]
        for name in [*names, *(n.replace(".safetensors", ".bin") for n in names if whole == raw)]:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(whole, folder)
            use()  # as it is, it is read
            for file in folder.glob("*.safetensors") if name.endswith(".bin") else ():
                file.unlink()
            (folder / name).write_bytes(payload)
            if sealed:  # the attacker has written a manifest that agrees
                (folder / MANIFEST).unlink()
                checksum(folder)
            tried += 1
            try:
                use()
            except Exception:
                held += not (tmp_path / "pwned").exists()
    tally(
        8, "pickle in place of weights", tried, held, "checkpoints and model/, with and without a manifest that agrees"
    )


def test_a_configuration_of_a_model_names_no_code(trained, tmp_path):
    model = tmp_path / "run" / "model" / "raw"
    shutil.copytree(trained.path / "model" / "raw", model)
    config = json.loads((model / "config.json").read_text())
    config |= {"_class_name": "evil.Evil", "auto_map": {"AutoModel": "evil.Evil"}, "custom_pipeline": "evil"}
    (model / "config.json").write_text(json.dumps(config))
    (model / "evil.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')\nclass Evil: pass\n")
    (model / MANIFEST).unlink()
    checksum(model)
    with pytest.raises(ValueError, match=r"config.json names 'evil.Evil', none of the backbones UNet"):
        load_model(type(trained)(trained.params, tmp_path / "run", False), "raw")
    assert not (tmp_path / "pwned").exists()
    assert "evil" not in sys.modules


# JSON of a run folder


@pytest.mark.parametrize(
    "text", ["__import__('os').system('touch pwned')", "../../pwned", "$(touch pwned)", *HOSTILE[:3]]
)
def test_facts_of_a_set_stay_text(text, runs, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, spec = open_run(tiny), {"guidance": 1}
    folder = run.path / "samples" / f"x-{digest(spec)}"
    images = torch.zeros(10, 1, 8, 8, dtype=torch.uint8)
    image_set(run, "x", spec, lambda: (images, {"labels": [0] * 10}))
    facts = json.loads((folder / "set.json").read_text())
    before = set(tmp_path.rglob("*"))

    def put(**other):
        (folder / "set.json").write_text(json.dumps(facts | other))
        (folder / MANIFEST).unlink()
        checksum(folder)  # whoever changes a set can write a manifest that agrees

    put(name=text, __class__=text, note=text)
    found = image_set(run, "x", spec, dict)
    assert found.facts["note"] == text
    assert torch.equal(found.images, images)
    put(labels=[text], shape=text, guidance=text)
    with pytest.raises((TypeError, ValueError)):
        _ = image_set(run, "x", spec, dict).labels
    assert set(tmp_path.rglob("*")) == before


# A whole training, watched

WATCHED = """
import os, sys
seen = []
def hook(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)):
        mode, flags = args[1], args[2]
        if (mode and set(mode) & set("wax+")) or (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            seen.append(os.path.abspath(os.fsdecode(args[0])))
    elif event in ("os.mkdir", "os.remove", "os.rmdir"):
        seen.append(os.path.abspath(os.fsdecode(args[0])))
    elif event in ("os.rename", "os.link", "os.symlink"):
        seen.extend(os.path.abspath(os.fsdecode(a)) for a in args[:2] if isinstance(a, (str, bytes)))
    elif event == "os.system":
        seen.append("os.system")
    elif event == "subprocess.Popen":
        seen.append("run:" + os.path.basename(os.fsdecode(args[0])))
sys.addaudithook(hook)
from guidebook.cli import main
try:
    main()
finally:
    print("SEEN", *sorted(set(filter(None, seen))), sep="\\n")
"""


def test_a_training_with_hostile_parameters_writes_only_into_its_run_folder(tiny, tmp_path, tally):
    caption = "../../x {label.__class__} $(touch pwned) `touch pwned` <script>alert(1)</script> {label}"
    params = tiny.replace(data={"caption": caption}, text={"tokens": 77}, train={"epochs": 0.5})
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "tiny.yml").write_text(params.yaml())
    places = {"GUIDEBOOK_RUNS": str(tmp_path / "runs"), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(tmp_path / "tmp")}
    places["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path / "tmp" / "inductor")
    (tmp_path / "tmp").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, "train", "tiny.yml"], cwd=tmp_path / "here",
        env=os.environ | places, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written, runs = done.stdout.partition("SEEN\n")[2].splitlines(), str(tmp_path / "runs")
    assert any(s.startswith(f"{runs}/mnist/") and s.endswith("/stats.jsonl") for s in written)  # it is watched
    elsewhere = [s for s in written if not s.startswith((runs, str(tmp_path / "tmp"), "/dev/", "/proc/"))]
    commands = {s for s in elsewhere if s.startswith("run:")}
    assert "run:git" in commands
    assert commands <= {"run:git", "run:ldconfig"}, commands  # the commit; a dependency that looks for a library
    assert sorted(set(elsewhere) - commands) == []
    assert [p.name for p in (tmp_path / "here").iterdir()] == ["tiny.yml"]
    assert sorted(p.name for p in (tmp_path / "runs").rglob("*") if p.is_dir() and p.parent.name == "mnist") == [
        f"smoke-{params.training_key}"
    ]
    tally(8, "training with hostile parameters", 1, 1, "every file it opened to write lay in its run folder")
