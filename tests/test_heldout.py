"""Real photographs, paintings and faces that nothing was tuned to: the last rows of each test split, where they are at hand."""

import io
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps
from test_captions import WORD, at_hand, clip_words, heard, tokens

from guidebook.conditioning.captions import caption_of
from guidebook.conditioning.grammar import FEW, active, attribute_caption, consistent
from guidebook.config import own
from guidebook.config.datasets import ATTRIBUTES, CATALOG, DataError
from guidebook.config.params import load as load_params
from guidebook.data import images
from guidebook.training.step import prepared

ROWS = 160  # the last ones of a test split
SETS = {"celeba": "image", "wikiart7": "image", "imagenette": "image"}


def last(name: str):
    """The last rows of a set's test split, as a table with the hub's metadata."""
    if not (folder := at_hand(name)):
        pytest.skip(f"needs $GUIDEBOOK_DATA/{name}")
    table = pq.read_table(max(folder.glob("test-*.parquet")))
    return table.slice(len(table) - ROWS)


@pytest.fixture(autouse=True)
def fresh(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("GUIDEBOOK_DATA", str(tmp_path / "data"))
    for cache in (own.found, images.load):
        cache.cache_clear()


def own_params(path, **data):
    told = {
        "name": "folder",
        "path": str(path),
        "limit": None,
        "resolution": 32,
        "caption": "A photo of a {label}",
    } | data
    base = load_params("cifar10", "smoke")
    return base.replace(data=told, text={"tokens": 9}, evaluate={"samples": 210}, sample={"methods": []})


@pytest.mark.parametrize("name", SETS)
def test_every_image_comes_out_as_pillow_sees_it(tmp_path, name):
    table = last(name)
    pq.write_table(table, tmp_path / "test.parquet", row_group_size=40)
    faces = name == "celeba"
    data = images.load(own_params(tmp_path / "test.parquet", caption=None if faces else "A {label}").data)
    assert len(data.train) + len(data.test) == ROWS
    assert data.skipped == ()
    both = {"train": iter(data.train.images), "test": iter(data.test.images)}
    off = []
    for i, raw in enumerate(table["image"].combine_chunks().field("bytes").to_pylist()):
        mine = next(both["test" if i % 10 == 9 else "train"]).numpy().transpose(1, 2, 0).astype(int)
        picture = ImageOps.exif_transpose(Image.open(io.BytesIO(raw)).convert("RGB"))
        w, h = (32 * length // min(picture.size) for length in picture.size)
        x, y = round((w - 32) / 2), round((h - 32) / 2)
        theirs = picture.resize((w, h), Image.BILINEAR).crop((x, y, x + 32, y + 32))
        off.append(np.abs(mine - np.asarray(theirs, int)).mean())
    assert np.median(off) < 1.5  # of 255: a JPEG may be read at half its size
    assert max(off) < 4


def test_faces_have_captions_of_the_grammar_that_clip_reads_whole(tmp_path):
    table, words = last("celeba"), clip_words()
    people = table.select(list(ATTRIBUTES)).to_pylist()
    labels = [sum(value << i for i, value in enumerate(person.values())) for person in people]
    for i, (label, person) in enumerate(zip(labels, people, strict=True)):
        assert set(active(label)) == {name for name, value in person.items() if value}
        for epoch in range(3):
            text = attribute_caption(label, 0, i, epoch)
            assert set(heard(text)) <= set(active(consistent(label)))
            assert tokens(text) <= 77 or consistent(label).bit_count() <= FEW
            if words:
                assert tokens(text) == 2 + sum(len(words.tokenize(w)) for w in re.findall(WORD, text.lower()))


def test_paintings_and_photographs_have_the_captions_of_their_own_names(tmp_path):
    for name, column in (("wikiart7", "style"), ("imagenette", "label")):
        table = last(name)
        pq.write_table(table, tmp_path / f"{name}.parquet")
        p = own_params(tmp_path / f"{name}.parquet")
        known = pq.read_schema(tmp_path / f"{name}.parquet").metadata[b"huggingface"].decode()
        data = images.load(p.data)
        labels = iter(data.train.labels.tolist())
        for i, number in enumerate(table[column].to_pylist()):
            if i % 10 < 9:
                said = caption_of(p, next(labels), 0).removeprefix("A photo of a ")
                assert said.replace(" ", "_") in known.replace(" ", "_")
                published = CATALOG["wikiart" if name == "wikiart7" else name].classes[number]
                assert said.lower() == published.lower()


@pytest.mark.parametrize(
    ("files", "name", "subset", "said"),
    [
        ("imagenette", "imagenet100", {}, r"calls 'tench' what imagenet100 calls 'bonnet'"),
        ("wikiart7", "wikiart", None, "wikiart has 144 train images, expected 72,900"),
        ("celeba", "celeba", None, "celeba has 160 train images, expected 162,770"),
    ],
)
def test_real_data_do_not_pass_for_others(tmp_path, files, name, subset, said):
    folder = tmp_path / "data" / name
    folder.mkdir(parents=True)
    for split in ("train", CATALOG[name].test_split):
        pq.write_table(last(files), folder / f"{split}-00000-of-00001.parquet")
    part = None if subset is None else {"train": ROWS, "test": ROWS}
    told = {"name": name, "subset": part, "limit": None if part else 20, "resolution": 16}
    p = load_params("wikiart" if name == "wikiart" else "imagenet100", "smoke")
    if name == "celeba":
        p = load_params("celeba", "smoke")
    p = p.replace(data=told, model={"vae": None}, evaluate={"samples": 300 if name == "imagenet100" else 81})
    with pytest.raises(DataError, match=said):
        prepared(p)
