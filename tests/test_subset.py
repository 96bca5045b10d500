"""Parts of published sets: declared ones are trained on and named with their share, others are refused with both numbers."""

import io
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from guidebook.book.notebook import run_experiment
from guidebook.conditioning.captions import caption_of
from guidebook.conditioning.source import sample_labels
from guidebook.config.datasets import ATTRIBUTES, CATALOG, DataError
from guidebook.config.params import FREE, LATER, ParamsError, departures, digest
from guidebook.config.params import load as load_params
from guidebook.data.files import available
from guidebook.data.images import load
from guidebook.metrics.judge import judge
from guidebook.report.banner import banner, fraction
from guidebook.runs.run import open_run
from guidebook.training.step import prepared

STYLES = CATALOG["wikiart"].classes
CHOSEN = ("Ukiyo-e", "Baroque", "Cubism")  # not in the order of the files' numbers


def jpeg(number: int) -> bytes:
    raw, low = io.BytesIO(), np.random.default_rng(number).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    Image.fromarray(low).resize((18, 22), Image.BICUBIC).save(raw, "JPEG", quality=95)
    return raw.getvalue()


def write(folder, split: str, n: int, **columns: list) -> None:
    """A parquet file as the hub has them, five rows a row group."""
    folder.mkdir(parents=True, exist_ok=True)
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    image = pa.array([{"bytes": jpeg(i), "path": None} for i in range(n)], struct)
    pq.write_table(pa.table({"image": image, **columns}), folder / f"{split}-00000-of-00002.parquet", row_group_size=5)


@pytest.fixture
def folder(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("GUIDEBOOK_DATA", str(tmp_path / "data"))
    load.cache_clear()
    judge.cache_clear()
    yield tmp_path / "data"
    load.cache_clear()
    judge.cache_clear()


@pytest.fixture
def faces(folder):
    """40 training and 12 test photographs of CelebA."""
    for split, n in (("train", 40), ("test", 12)):
        write(folder / "celeba", split, n, **{name: [i % 2 == 0 for i in range(n)] for name in ATTRIBUTES})


@pytest.fixture
def paintings(folder):
    """60 rows of WikiArt in three styles, in a folder of another name."""
    write(folder / "wikiart3", "train", 60, style=[STYLES.index(CHOSEN[i % 3]) for i in range(60)])


def celeba(subset=None, **data):
    """Params of a tiny training on CelebA, in pixels."""
    params = load_params("celeba", "smoke").replace(model={"vae": None})
    return params.replace(data={"name": "celeba", "resolution": 8, "limit": None, "subset": subset, **data})


def wikiart(**subset):
    told = {"name": "wikiart", "resolution": 8, "limit": None}
    part = {"folder": "wikiart3", "train": 54, "classes": CHOSEN, **subset}
    return load_params("wikiart", "smoke").replace(data=told | {"subset": part}, evaluate={"samples": 30})


def test_a_download_cut_short_is_refused_with_both_numbers_and_what_to_set(faces, folder):
    for split in ("train", "test"):  # as if they were all the files that there are
        (file,) = (folder / "celeba").glob(f"{split}-*")
        file.rename(file.with_name(f"{split}-00000-of-00001.parquet"))
    with pytest.raises(DataError) as refused:
        prepared(celeba())
    assert "celeba has 40 train images, expected 162,770" in str(refused.value)
    assert "set data.subset={train: 40, test: 12}" in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(DataError, match="celeba has 40 train images, expected 162,770"):
        prepared(celeba(limit=20))  # a part of a part is none of the whole


def test_a_stream_cut_short_is_refused_too(folder):
    write(folder / "wikiart", "train", 60, style=[0] * 60)
    file = folder / "wikiart" / "train-00000-of-00002.parquet"
    file.rename(file.with_name("train-00000-of-00001.parquet"))
    params = load_params("wikiart", "smoke").replace(data={"name": "wikiart", "resolution": 8, "limit": None})
    with pytest.raises(DataError, match=r"wikiart has 54 train images, expected 72,900: .* data\.subset={train: 54}$"):
        prepared(params)


def test_a_declared_part_is_trained_on_although_files_are_missing(faces):
    trainer = prepared(celeba({"train": 40, "test": 12}))
    assert len(trainer.data.train) == 40
    trainer.step()
    trainer.flush()
    assert "40 training images, 0.025 % of the published 162,770, and 12 test images" in trainer.data.note
    assert "photographs of one person may stand in both splits" in trainer.data.note


@pytest.mark.parametrize(
    ("declared", "found"), [((39, 12), "40 train images, expected 39"), ((40, 13), "12 test .* 13")]
)
def test_files_that_hold_something_else_than_declared_are_refused(faces, declared, found):
    with pytest.raises(DataError, match=found):
        prepared(celeba(dict(zip(("train", "test"), declared, strict=True))))


def test_a_stream_of_some_classes_numbers_them_as_declared(paintings, folder):
    params = wikiart()
    trainer, raw = prepared(params), pq.read_table(*(folder / "wikiart3").glob("*"))["style"].to_pylist()
    seen = trainer.feed.batch(0)
    trainer.feed.close()  # its threads decode, too
    kept = [label for i, label in enumerate(raw) if i % 10 < 9]
    assert [STYLES[kept[i]] for i in seen.index.tolist()] == [CHOSEN[label] for label in seen.labels.tolist()]
    data = load(params.data)
    assert (data.classes, len(data.test)) == (CHOSEN, 6)
    assert sorted(set(data.train.labels.tolist() + data.test.labels.tolist())) == [0, 1, 2]
    assert "3 of its 27 classes" in data.note


def test_captions_samples_and_judge_know_the_classes_that_occur_alone(paintings):
    params = wikiart()
    assert sample_labels(params, torch.arange(5)).tolist() == [0, 1, 2, 0, 1]
    assert caption_of(params, 0, 0) == "A painting in the style of Ukiyo-e"
    assert judge(params.data).network.out.out_features == 3


def test_a_row_of_another_class_is_refused_by_its_place(paintings):
    with pytest.raises(DataError, match=r"row 1 has label 4; allowed are \(26, 7\)"):
        load(wikiart(classes=("Ukiyo-e", "Cubism")).data).train.labels.sum()


def test_parts_of_one_folder_with_other_classes_are_not_mixed_up(paintings):
    one, other = (load(wikiart(classes=c).data) for c in (CHOSEN, CHOSEN[::-1]))
    assert one.fingerprint != other.fingerprint
    assert torch.equal(one.train.labels, 2 - other.train.labels)


def test_a_set_in_memory_keeps_the_declared_classes_apart(folder):
    for split, n in (("train", 20), ("test", 6)):
        write(folder / "two", split, n, label=[(3, 8)[i % 2] for i in range(n)])
    part = {"folder": "two", "train": 20, "test": 6, "classes": ["8", "3"]}
    params = load_params("mnist", "smoke").replace(data={"name": "mnist", "subset": part}, evaluate={"samples": 30})
    images = load(params.data)
    assert (images.classes, images.train.labels.tolist()) == (("8", "3"), [1, 0] * 10)
    other = params.replace(data={"subset": part | {"classes": ["8", "4"]}})
    with pytest.raises(DataError, match=r"mnist/train row 0 has label 3; allowed are \(8, 4\)"):
        load(other.data)


def test_a_part_is_looked_for_in_its_folder_alone(folder):
    params = wikiart(folder="elsewhere")
    assert not available("wikiart", params.data.subset)
    with pytest.raises(DataError, match=r"none of the train-\*\.parquet in \$GUIDEBOOK_DATA/elsewhere"):
        prepared(params)


def test_a_set_without_a_hub_is_found_or_refused_on_this_machine(folder, monkeypatch):
    assert not available("imagenette")
    with pytest.raises(DataError, match=r"imagenette: none of the train-\*\.parquet in \$GUIDEBOOK_DATA/imagenette"):
        load(load_params("imagenet100", "imagenette").data)
    monkeypatch.delenv("GUIDEBOOK_DATA")
    monkeypatch.chdir(folder.parent)
    (folder.parent / "imagenette").mkdir()
    for split in ("train", "test"):
        write(folder / "imagenette", split, 10, label=list(range(10)))
        (file,) = (folder / "imagenette").glob(f"{split}-*")
        file.rename(file.with_name(f"{split}-00000-of-00001.parquet"))
        shutil.copy(folder / "imagenette" / f"{split}-00000-of-00001.parquet", "imagenette")
    assert not available("imagenette")  # what lies in the working folder was not meant
    monkeypatch.setenv("GUIDEBOOK_DATA", str(folder))
    assert available("imagenette")


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        ({"name": "digits", "subset": {"train": 9, "test": 9}}, "which is made by code, names classes and no folder"),
        ({"name": "mnist", "subset": {"train": 9}}, "data.subset.test is missing for data.name = mnist"),
        ({"name": "wikiart", "subset": {"train": 9, "test": 9}}, "data.subset.test is not taken"),
        ({"name": "mnist", "subset": {"train": 60_001, "test": 9}}, "60001 is more than the published 60000"),
        ({"name": "mnist", "subset": {"train": 9, "test": 9, "classes": ["1", "1"]}}, "'1' is no class of mnist, or is named twice"),
        ({"name": "wikiart", "subset": {"train": 9, "classes": ["Barok", "Cubism"]}}, r"'Barok' .*\(nearest: Baroque\)"),
        ({"name": "celeba", "caption": None, "subset": {"train": 9, "test": 9, "classes": ["Male", "Bald"]}}, "which has attributes"),
        ({"name": "mnist", "subset": {"folder": "../x", "train": 9, "test": 9}}, "folder"),
    ],
)  # fmt: skip
def test_a_part_that_cannot_be_one_is_refused_with_the_params(data, refusal):
    with pytest.raises(ParamsError, match=refusal):
        load_params("mnist", "smoke").replace(data=data)


def test_as_many_samples_as_the_classes_that_occur(paintings):
    with pytest.raises(ParamsError, match="must be a multiple of 3, the number of classes"):
        wikiart().replace(evaluate={"samples": 40})


def test_a_run_on_a_part_is_named_with_its_share_of_the_data(runs):
    params = load_params("wikiart", "paper").replace(data=wikiart(train=1890).data.model_dump(exclude={"name"}))
    run = open_run(params)
    assert "2.6 % of wikiart (3 of 27 classes) at 8×8" in fraction(run)
    assert "data.subset" in {key for key, *_ in departures(params)}
    assert "wikiart3 train 1890 classes Ukiyo-e, Baroque, Cubism instead of None" in banner(run)
    limited = load_params("celeba", "paper").replace(data={"limit": 16_277})
    assert "10 % of celeba at 256×256" in fraction(open_run(limited))
    assert "celeba at 256×256" in fraction(open_run(load_params("celeba", "paper")))
    assert "% of celeba" not in fraction(open_run(load_params("celeba", "paper")))


def test_runs_on_published_sets_keep_their_key(faces):
    parts = celeba().model_dump(mode="json", include={"data", "text", "model", "objective", "train"})
    assert celeba().training_key != celeba({"train": 40, "test": 12}).training_key
    for free in FREE:
        del parts["train"][free]
    for later, usual in LATER.items():
        section, name = later.split(".")
        if section != "objective" or name in parts[section]:  # of flows alone
            assert parts[section].pop(name) == usual
    assert celeba().training_key == digest(parts)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([26, 4, 7] * 20, r"wikiart has label 4; allowed are \(26, 7\)"),
        ([26, 7, -1] * 20, r"wikiart has label -1; allowed are \(26, 7\)"),
        ([7] * 60, r"wikiart has no training image of Ukiyo-e: set data\.subset\.classes"),
        ([0] * 60, r"wikiart has label 0; allowed are"),
    ],
)
def test_other_classes_than_declared_are_refused_before_a_notebook_starts(folder, monkeypatch, labels, said):
    write(folder / "wikiart3", "train", 60, style=labels)
    monkeypatch.setattr("guidebook.book.notebook.execute", lambda *_, **__: pytest.fail("a kernel was started"))
    for start in (run_experiment, prepared):
        with pytest.raises(DataError, match=said):
            start(wikiart(classes=("Ukiyo-e", "Cubism")).replace(data={"limit": 9}))
