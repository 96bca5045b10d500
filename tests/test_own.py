"""Images of one's own: read from folders and parquet files as they say themselves, split by rule, refused by the file or row that lacks something."""

import csv
import hashlib
import html
import io
import json
import re
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from forks import forked_kernels
from papermill.translators import PythonTranslator
from PIL import Image
from typer.testing import CliRunner

from guidebook.book import new as module
from guidebook.book.chapter import Chapter
from guidebook.book.notebook import run_experiment
from guidebook.book.stage import stage
from guidebook.cli import app
from guidebook.conditioning.captions import caption_of
from guidebook.conditioning.source import conditions, sample_labels
from guidebook.config import own
from guidebook.config import rows as reading
from guidebook.config.datasets import ATTRIBUTES, DataError
from guidebook.config.params import ParamsError, load
from guidebook.data import images
from guidebook.metrics.judge import judge
from guidebook.runs.progress import Bar
from guidebook.runs.run import open_run
from guidebook.training.step import prepared


def png(number: int, side: int = 12) -> bytes:
    raw = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (side, side + number % 3, 3), np.uint8)).save(
        raw, "PNG"
    )
    return raw.getvalue()


def classes(root, n=40, kinds=("red_kite", "barn owl")):
    for i in range(n):
        folder = root / kinds[i % len(kinds)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:03}.png").write_bytes(png(i))
    return root


def captions(root, n=40, form="csv", text="a bird, number {}"):
    root.mkdir(parents=True, exist_ok=True)
    rows = [{"file_name": f"{i:03}.png", "text": text.format(i)} for i in range(n)]
    for i, row in enumerate(rows):
        (root / row["file_name"]).write_bytes(png(i))
    if form == "csv":
        with open(root / "metadata.csv", "w", newline="") as file:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)
    else:
        (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def shard(file, n=40, names=None, first=0, **columns):
    """A parquet file of the hub's form, eight rows a row group."""
    file.parent.mkdir(parents=True, exist_ok=True)
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = pa.array([{"bytes": png(first + i), "path": None} for i in range(n)], struct)
    table = pa.table({"picture": cells, **columns})
    if names:
        features = {"picture": {"_type": "Image"}, "kind": {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, file, row_group_size=8)
    return file


@pytest.fixture(autouse=True)
def fresh(runs):
    for cache in (own.found, images.load, judge):
        cache.cache_clear()


def params(path, **data):
    base, told = load("cifar10", "smoke"), {"name": "folder", "path": str(path), "limit": None, "resolution": 8}
    told |= {"caption": "A photo of a {label}"} | data
    return base.replace(data=told, text={"tokens": 9}, evaluate={"samples": 60}, sample={"methods": []})


def labelled(split) -> dict[bytes, int]:
    return {image.numpy().tobytes(): int(label) for image, label in zip(split.images, split.labels, strict=True)}


def test_a_folder_a_class_is_a_set_of_classes(tmp_path):
    p = params(classes(tmp_path / "birds"))
    data = images.load(p.data)
    assert (p.data.entry.classes, len(data.train), len(data.test)) == (("barn owl", "red kite"), 36, 4)
    assert caption_of(p, 1, 0) == "A photo of a red kite"
    known = {png(i): ("red kite", "barn owl")[i % 2] for i in range(40)}
    from guidebook.data.decode import decode

    expected = {decode(raw, 3, 8).tobytes(): data.classes.index(name) for raw, name in known.items()}
    assert labelled(data.train) | labelled(data.test) == expected
    assert "36 training and 4 test images, a tenth of all, with 2 classes" in data.note
    assert judge(p.data).network.out.out_features == 2


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_every_image_has_its_own_caption_in_training_and_prompts_are_held_out(tmp_path, form):
    p = params(captions(tmp_path / "birds", form=form), caption="{label}!", phrasings=1)
    trainer = prepared(p)
    data, text = trainer.data, own.found(p.data.path).captions
    from guidebook.data.decode import decode

    expected = {decode(png(i), 3, 8).tobytes(): f"a bird, number {i}" for i in range(40)}
    for split in (data.train, data.test):
        assert {pixels: text[label] for pixels, label in labelled(split).items()}.items() <= expected.items()
    prompts = p.data.entry.classes
    assert set(prompts) == {text[label] for label in data.test.labels}
    assert not set(prompts) & {text[label] for label in data.train.labels}
    assert sample_labels(p, torch.arange(6)).tolist() == [0, 1, 2, 3, 0, 1]
    seen = trainer.feed.batch(0)
    given = trainer.conditions(seen.labels, seen.index, seen.epoch).tokens
    plain = trainer.conditions.prompts([f"{text[label]}!" for label in seen.labels]).tokens
    assert torch.allclose(given, plain, atol=2e-3)  # kept in half precision
    assert not torch.allclose(given[0], given[1], atol=2e-3)
    held = conditions(p)(data.test.labels, torch.arange(4)).tokens
    assert torch.equal(held, trainer.conditions.prompts([f"{text[label]}!" for label in data.test.labels]).tokens)
    trainer.step()
    with pytest.raises(DataError, match="these images have captions of their own"):
        judge(p.data)


def test_captions_kept_of_one_set_are_none_of_another(tmp_path):
    for words in ("a bird, number {}", "a fish with {} fins"):
        p = params(captions(tmp_path / words[2:6], text=words), caption="{label}", phrasings=1)
        trainer = prepared(p)
        seen = trainer.feed.batch(0)
        mine = trainer.conditions.prompts([own.found(p.data.path).captions[label] for label in seen.labels])
        assert torch.allclose(trainer.conditions(*seen[1:]).tokens, mine.tokens, atol=2e-3)


def test_a_table_that_begins_with_a_byte_order_mark_is_read(tmp_path):
    table = captions(tmp_path / "birds") / "metadata.csv"  # as Excel writes it
    table.write_text(table.read_text(), encoding="utf-8-sig")
    assert len(own.found(str(tmp_path / "birds")).captions) == 40


def test_captions_that_differ_in_capitals_alone_are_taken(tmp_path):
    root = captions(tmp_path / "birds")
    kinds = ("a bird", "A Bird")
    (root / "metadata.csv").write_text("file_name,text\n" + "".join(f"{i:03}.png,{kinds[i % 2]}\n" for i in range(40)))
    p = params(root, caption="{label}", phrasings=1)
    assert set(p.data.entry.classes) == set(kinds)
    assert conditions(p).null.tokens.shape[0] == 1


@pytest.mark.parametrize("make", [classes, captions])
def test_a_caption_that_is_cut_before_what_differs_is_refused(tmp_path, make):
    with pytest.raises(ParamsError, match=r"text\.tokens = 9 cuts the captions of"):
        params(make(tmp_path / "birds"), caption="A photo of a very very small {label}")


def test_classes_of_one_embedding_are_refused_before_training(tmp_path):
    p = params(classes(tmp_path / "birds"))
    assert conditions(p).null.tokens.shape[0] == 1
    alike = mock.patch(
        "guidebook.conditioning.source.encode", lambda text, captions, *_: torch.ones(len(captions), 3, 4)
    )
    with alike, pytest.raises(DataError, match="to the same words, so that the model cannot tell them apart"):
        conditions(p)


def test_names_of_every_script_are_read_and_told_apart(tmp_path):
    kinds = ("e\N{COMBINING ACUTE ACCENT}toile", "हिन्दी पक्षी", "İstanbul 🦆", "鳥")
    p = params(classes(tmp_path / "birds", kinds=kinds))
    assert set(p.data.entry.classes) == {"\N{LATIN SMALL LETTER E WITH ACUTE}toile", *kinds[1:]}
    tokens = conditions(p)(torch.arange(4), torch.arange(4)).tokens
    assert len({row.numpy().tobytes() for row in tokens}) == 4


def test_parquet_of_the_hub_gives_classes_captions_and_attributes(tmp_path):
    shard(tmp_path / "a" / "train-0.parquet", names=["tall_tree", "shrub"], kind=[i % 2 for i in range(40)])
    entry = params(tmp_path / "a").data.entry
    assert (entry.classes, entry.captioned, entry.image) == (("tall tree", "shrub"), False, "picture")
    data = images.load(params(tmp_path / "a").data)
    assert data.train.labels.tolist() == [i % 2 for i in range(40) if i % 10 < 9]
    shard(tmp_path / "b.parquet", text=[f"tree {i}" for i in range(40)])
    assert params(tmp_path / "b.parquet").data.entry.captioned
    shard(tmp_path / "c" / "train.parquet", **{name: [i % 3 == 0 for i in range(40)] for name in ATTRIBUTES})
    faces = params(tmp_path / "c", caption=None)
    assert faces.data.entry.attributes
    assert images.load(faces.data).train.labels[:4].tolist() == [2**40 - 1, 0, 0, 2**40 - 1]
    shard(tmp_path / "d.parquet", wet_leaf=[True] * 40, old=[i % 2 == 0 for i in range(40)])
    assert set(own.found(str(tmp_path / "d.parquet")).captions) == {"wet leaf", "wet leaf, old"}


def test_a_test_split_of_its_own_is_kept(tmp_path):
    for split, n, first in (("train", 20, 0), ("validation", 8, 20)):
        kind = [(i + first) % 3 // 2 for i in range(n)]
        shard(tmp_path / "p" / f"{split}-0.parquet", n, names=["a", "b"], kind=kind, first=first)
    data = images.load(params(tmp_path / "p").data)
    assert (len(data.train), len(data.test)) == (20, 8)
    for split in ("test", "validation"):
        classes(tmp_path / split / "train", 20)
        classes(tmp_path / split / split, 6)
        data = images.load(params(tmp_path / split).data)
        assert (len(data.train), len(data.test), data.classes) == (20, 6, ("barn owl", "red kite"))
    limited = images.load(params(tmp_path / "p", limit=4).data)
    assert limited.test.labels.tolist() == [1, 0, 0, 1]


def test_contents_decide_the_key_and_not_their_place(tmp_path):
    first = params(classes(tmp_path / "a"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for file in [*(tmp_path / "b").rglob("*.png")]:
        file.rename(file.with_name(f"{999 - int(file.stem)}.png"))
    assert params(tmp_path / "b").training_key == first.training_key
    (tmp_path / "b" / "red_kite" / "999.png").write_bytes(png(99))
    own.found.cache_clear()
    other = params(tmp_path / "b")
    assert other.training_key != first.training_key
    assert images.load(other.data).fingerprint != images.load(first.data).fingerprint
    images.load.cache_clear()
    shutil.move(tmp_path / "a" / "red_kite" / "000.png", tmp_path / "a" / "barn owl")
    own.found.cache_clear()
    assert params(tmp_path / "a").training_key != first.training_key
    with pytest.raises(DataError, match="holds other images than those that this run is of"):
        images.load(first.data)
    shutil.rmtree(tmp_path / "a")
    assert first.replace().training_key == first.training_key  # what a record holds is read without the images


def held_out(path) -> tuple[set, set]:
    """Bytes of the images of a folder, and of those that are held out."""
    own.found.cache_clear()
    every = [Path(file).read_bytes() for group in own.found(str(path)).files["train"] for file in group]
    return set(every), set(every[9::10])


def test_one_image_more_or_less_leaves_the_others_on_their_sides_but_one(tmp_path):
    root = captions(tmp_path / "birds", 43)
    table = root / "metadata.csv"
    before, held = held_out(root)
    assert len(before) == 43
    assert held == set(sorted(before, key=lambda raw: hashlib.sha256(raw).digest())[:4])
    lines = table.read_text().splitlines(keepends=True)
    moves = []
    for i in range(43):
        raw = (root / f"{i:03}.png").read_bytes()
        (root / f"{i:03}.png").unlink()
        table.write_text("".join(line for line in lines if not line.startswith(f"{i:03}")))
        after, still = held_out(root)
        assert after == before - {raw}
        moves.append(len((held ^ still) - {raw}))
        (root / f"{i:03}.png").write_bytes(raw)
    assert set(moves) == {0, 1}


def test_a_large_folder_is_streamed_and_gives_the_same_images(tmp_path, monkeypatch):
    whole = labelled(images.load(params(classes(tmp_path / "birds")).data).train)
    monkeypatch.setattr(own, "MANY", 30)
    monkeypatch.setattr(own, "TOGETHER", 8)
    own.found.cache_clear()
    images.load.cache_clear()
    trainer = prepared(params(tmp_path / "birds"))
    assert isinstance(trainer.data, images.Streamed)
    batch = trainer.feed.batch(0)
    trainer.feed.close()
    for image, label in zip(batch.images, batch.labels, strict=True):
        assert whole[image.numpy().tobytes()] == label


def lacking(tmp_path, how):
    root = tmp_path / "birds"
    if how in ("csv", "name", "unnamed", "headless", "broken", "empty", "comma"):
        captions(root)
    match how:
        case "loose":
            (classes(root) / "9.png").write_bytes(png(9))
        case "webp":
            (classes(root) / "red_kite" / "x.webp").write_bytes(b"RIFF")
        case "csv":
            (root / "extra.png").write_bytes(png(77))
        case "name":
            (root / "007.png").unlink()
        case "unnamed":
            (root / "metadata.csv").write_text("file,text\n000.png,a bird\n")
        case "headless":
            (root / "metadata.csv").write_text((root / "metadata.csv").read_text().partition("\n")[2])
        case "broken":
            (root / "metadata.csv").rename(root / "metadata.jsonl")
        case "empty":
            (root / "metadata.csv").write_text("file_name,text\n000.png,  \n")
        case "comma":
            (root / "metadata.csv").write_text("file_name,text\n000.png,a bird, in snow\n")
        case "few":
            classes(root, 9)
        case "label":
            shard(root / "t.parquet", names=["a", "b"], kind=[*[0, 1] * 19, 1, -1])
        case "text":
            shard(root / "t.parquet", text=["a"] * 39 + [None])
        case "columns":
            shard(root / "t.parquet", number=list(range(40)))
        case "cut":
            file = shard(root / "t.parquet", text=["a"] * 40)
            file.write_bytes(file.read_bytes()[:-9])
        case "nothing":
            cells = pa.nulls(2_000_000, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
            root.mkdir()
            pq.write_table(pa.table({"image": cells, "text": ["a"] * 2_000_000}), root / "t.parquet")
        case "escape":
            (tmp_path / "secret.png").write_bytes(png(5))
            captions(root)
            (root / "metadata.csv").write_text("file_name,text\n../secret.png,a bird\n")
    return root


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("loose", r"birds/9\.png lacks a caption: write it into metadata\.csv"),
        ("webp", r"red_kite/x\.webp is neither PNG nor JPEG"),
        ("csv", r"birds/extra\.png lacks a caption"),
        ("name", r"metadata\.csv row 8 names '007\.png', which is not there"),
        ("unnamed", r"metadata\.csv begins with 'file,text': its first line has to be file_name,text"),
        ("headless", r"metadata\.csv begins with '000\.png,a bird, number 0': its first line has to be"),
        ("broken", r"metadata\.jsonl cannot be read"),
        ("empty", r"metadata\.csv row 1 lacks a text"),
        ("comma", r"metadata\.csv row 1 lacks a file_name, or quotes around commas: its columns"),
        ("few", "holds 9 images: at least ten are needed"),
        ("label", r"t\.parquet row 39 has label -1; allowed are 0 to 1"),
        ("text", r"t\.parquet row 39 lacks a caption"),
        ("columns", r"no column of captions \(text\)"),
        ("cut", r"t\.parquet: "),
        ("escape", r"names '\.\./secret\.png', which is not there"),
        ("nothing", r"t\.parquet: 2,000,000 rows in [0-9,]+ bytes are no images"),
        ("none", "there is no "),
    ],
)
def test_what_lacks_something_is_refused_at_once_by_its_name(tmp_path, how, said):
    with pytest.raises(ParamsError, match=said) as refused:
        params(lacking(tmp_path, how))
    assert "\n" not in str(refused.value)


def test_an_image_that_cannot_be_read_is_named_by_its_file(tmp_path):
    (classes(tmp_path / "birds") / "red_kite" / "006.png").write_bytes(png(6)[:-30])
    with pytest.raises(DataError, match=r"red_kite/006\.png: truncated") as refused:
        images.load(params(tmp_path / "birds").data)
    with pytest.raises(DataError, match=f"^{re.escape(str(refused.value))}$"):
        module.found(tmp_path / "birds")
    shard(tmp_path / "p.parquet", text=["a"] * 40)
    table = pq.read_table(tmp_path / "p.parquet").to_pylist()
    table[3]["picture"] = None
    pq.write_table(pa.Table.from_pylist(table, pq.read_schema(tmp_path / "p.parquet")), tmp_path / "p.parquet")
    with pytest.raises(DataError, match=r"p\.parquet row 3: no bytes"):
        images.load(params(tmp_path / "p.parquet").data)


def test_a_file_that_ends_its_reader_is_named(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        shard(tmp_path / "p" / f"{name}.parquet", text=["a"] * 40)
    abort = "print(file, flush=True)\n    if 'b.parquet' in file: __import__('os').abort()"
    monkeypatch.setattr(reading, "READER", reading.READER.replace("print(file, flush=True)", abort))
    with pytest.raises(ParamsError, match=r"p/b\.parquet is damaged: it ends the process that reads it \(signal 6\)"):
        params(tmp_path / "p")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"name": "folder"}, "needs it"),
        ({"path": "/somewhere"}, "data.path is for data.name = folder"),
    ],
)
def test_a_path_and_a_folder_belong_together(data, said):
    with pytest.raises(ParamsError, match=said):
        load("cifar10", "smoke").replace(data=data)


def test_missing_data_are_known_before_a_notebook_starts(tmp_path, monkeypatch):
    p = params(classes(tmp_path / "birds"))
    shutil.rmtree(tmp_path / "birds")
    own.found.cache_clear()
    monkeypatch.setattr("guidebook.book.notebook.execute", lambda *_, **__: pytest.fail("a kernel was started"))
    for wanted, said in ((p, "there is no"), (load("mnist", "paper"), "data set mnist: no ")):
        with pytest.raises(DataError, match=said):
            run_experiment(wanted)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A checkout's params and notebooks, with cifar10's to extend and the template."""
    for name in ("params", "notebooks"):
        (tmp_path / name).mkdir()
    shutil.copytree(module.PARAMS / "cifar10", tmp_path / "params" / "cifar10")
    for where in ("guidebook.book.new", "guidebook.config.params"):
        monkeypatch.setattr(f"{where}.PARAMS", tmp_path / "params")
    monkeypatch.setattr(module, "NOTEBOOKS", tmp_path / "notebooks")
    return tmp_path


@pytest.mark.parametrize("make", [classes, captions])
def test_a_new_experiment_has_params_that_load_and_a_notebook_of_its_kind(place, make):
    demo, smoke, notebook = module.written("birds", make(place / "images"))
    cells = json.loads(notebook.read_text())["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    for cell in code:
        compile(cell, "cell", "exec")
    text = "".join("".join(c["source"]) for c in cells)
    assert ("judge_record" in text) == (make is classes)
    assert ("Each image has a caption. It goes" in text) == (make is captions)
    glued = {
        name for cell in code for call in re.findall(r"glue\((.*)\)", cell) for name in re.findall(r"(\w+)=", call)
    }
    assert {*re.findall(r"{glue:text}`(\w+)`", text)} == glued >= {"chance", "matched", "images"}
    assert re.search(r"\*\*Copying\*\* is .*\n\*\*Copies\*\* is ", text)
    assert "36" not in text  # images may come and go
    assert ('"judge"' in text) == (make is classes)
    assert not {"classes", "captions"} & {tag for c in cells for tag in c["metadata"].get("tags", [])}
    assert 'experiment = "birds"' in text
    assert [c["id"] for c in cells] == [str(i) for i in range(len(cells))]
    for profile in (demo.stem, smoke.stem):
        assert load("birds", profile).data.entry.train == 36
    with pytest.raises(ParamsError, match="is there already"):
        module.written("birds", place / "images")
    assert str(place / "images") in demo.read_text()
    assert ("One seed per caption, by its number in the table above, over" in text) == (make is captions)
    assert ("One seed per class, over" in text) == (make is classes)


@pytest.mark.parametrize("make", [classes, captions])
def test_the_notebook_of_a_new_experiment_reaches_its_last_cell(place, runs, monkeypatch, make):
    monkeypatch.setenv("GUIDEBOOK_ROOT", str(place))
    monkeypatch.setattr("guidebook.book.notebook.NOTEBOOKS", place / "notebooks")
    module.written("birds", make(place / "images"))
    with forked_kernels():
        run, done = run_experiment(load("birds", "smoke"))
    assert done
    assert "36 images of one's own, with 4 more held out" in (run.path / "notebook.ipynb").read_text()


def test_what_a_new_experiment_found_is_said(place):
    said = CliRunner().invoke(app, ["new", "birds", "--data", str(classes(place / "a"))])
    assert said.exit_code == 0, said.exception
    first, wrote, last = said.stdout.splitlines()
    assert first == "found 36 training and 4 test images, a tenth of all, with 2 classes; 12×12 to 14×12 pixels"
    assert wrote.startswith("wrote ")
    assert str(place / "notebooks" / "birds.ipynb") in wrote
    assert last == "next: guidebook run birds, then guidebook build"
    shard(place / "c.parquet", text=[f"tree {i}" for i in range(40)])
    assert module.found(place / "c.parquet") == [
        "found 36 training and 4 test images, a tenth of all, with 40 captions; 12×12 to 14×12 pixels"
    ]


def test_how_far_the_decoding_is_is_said_by_a_new_experiment_and_by_a_run(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("guidebook.runs.progress.tell", said.append)
    monkeypatch.setattr(module, "Bar", lambda *args, delay, **kwargs: Bar(*args, **kwargs))  # at once
    module.found(classes(tmp_path / "birds"))
    assert said[0] == "decoding images, 0 of 40 images"
    said.clear()
    images.load(params(tmp_path / "birds").data)
    assert said[0] == "decoding folder, 0 of 1 parts"


def test_files_that_cannot_be_read_are_refused_before_a_new_experiment_is_written(place):
    (classes(place / "a") / "red_kite" / "006.png").write_bytes(png(6)[:-30])
    done = CliRunner().invoke(app, ["new", "birds", "--data", str(place / "a")])
    assert isinstance(done.exception, DataError)
    assert "1 of 40 images" in str(done.exception)
    assert not (place / "params" / "birds").exists()


def test_one_bad_image_in_a_thousand_is_named_and_skipped_by_a_new_experiment_as_by_a_run(
    tmp_path, caplog, monkeypatch
):
    file = shard(tmp_path / "p.parquet", 1000, text=["a bird"] * 1000)
    table = pq.read_table(file).to_pylist()
    table[3]["picture"]["bytes"] = table[3]["picture"]["bytes"][:-30]
    pq.write_table(pa.Table.from_pylist(table, pq.read_schema(file)), file)
    assert len(module.found(file)) == 1
    said = [*caplog.messages]
    caplog.clear()
    images.load(params(file).data)
    assert said == caplog.messages
    assert len(said) == 2
    assert re.fullmatch(r"p\.parquet row 3: truncated.* is skipped", said[0])
    caplog.clear()
    monkeypatch.setattr(module, "DECODED", 3)
    assert module.found(file)[1] == "decoded the first 3 of these images: guidebook run decodes every one"
    assert not caplog.messages


def test_captions_that_repeat_are_told_and_are_classes_where_folders_name_them(place):
    root = captions(place / "birds")
    rows = [(f"{i:03}.png", ("a red kite", "a barn owl", "a wren", "a coot")[i % 4]) for i in range(40)]
    (root / "metadata.csv").write_text("\n".join(map(",".join, [("file_name", "text"), *rows])))
    _, told = module.found(root)
    assert told.startswith(
        "only 4 captions for 40 images: where they are classes, put the images of each into a folder"
    )
    for name, text in rows:
        (root / text).mkdir(exist_ok=True)
        (root / name).rename(root / text / name)
    (root / "metadata.csv").unlink()
    own.found.cache_clear()
    assert own.found(str(root)).contents.entry.classes == ("a barn owl", "a coot", "a red kite", "a wren")
    assert len(module.found(root)) == 1


@pytest.mark.parametrize("command", ["train", "run"])
def test_a_run_whose_images_are_refused_leaves_nothing(tmp_path, runs, monkeypatch, command):
    (classes(tmp_path / "birds") / "red_kite" / "006.png").write_bytes(png(6)[:-30])
    (tmp_path / "birds.yml").write_text(params(tmp_path / "birds").yaml())
    monkeypatch.setattr("guidebook.training.estimate.check_memory", mock.Mock(side_effect=DataError("refused")))
    done = CliRunner().invoke(app, [command, str(tmp_path / "birds.yml")])
    assert isinstance(done.exception, DataError)
    assert list(runs.glob("cifar10*")) == []


def test_a_page_names_no_folder_of_the_machine_that_drew_it(tmp_path, runs):
    run = open_run(params(classes(tmp_path / "é" / "birds")))
    values = run.params.model_dump(mode="json")
    cells = [
        ("# Birds", ()),
        ("data = None", ["parameters"]),
        (PythonTranslator.codify(values), ["injected-parameters"]),
    ]
    for name, shown in (("source", cells[:2]), ("executed", cells)):
        written = [
            {"cell_type": "code" if tags else "markdown", "source": text, "metadata": {"tags": [*tags]}}
            for text, tags in shown
        ]
        written = [c | ({"execution_count": 1, "outputs": []} if c["cell_type"] == "code" else {}) for c in written]
        (tmp_path / f"{name}.ipynb").write_text(json.dumps({"cells": written, "metadata": {}}))
    c = Chapter("birds", run, (tmp_path / "source.ipynb", tmp_path / "executed.ipynb", values, None))
    stage(c, [], [c], tmp_path, print)
    page = json.loads((tmp_path / "birds.ipynb").read_text())
    text = "\n".join(cell["source"] for cell in page["cells"])
    assert str(tmp_path) not in text
    (shown,) = re.findall('<pre id="params">(.*?)</pre>', text)
    shown = yaml.safe_load(html.unescape(shown))
    assert shown == values | {"data": values["data"] | {"path": "birds"}}
