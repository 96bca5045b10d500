"""What a step tells the model of its images: the captions of exactly these, in every epoch and for every process."""

import dataclasses

import pytest
import torch

from guidebook.conditioning.captions import NULL, attribute_caption, class_captions
from guidebook.conditioning.encoders import WIDTH, encode
from guidebook.conditioning.training import Fresh, Kept, OfClasses, conditions
from guidebook.config.datasets import CATALOG
from guidebook.config.params import Params
from guidebook.config.params import load as load_params
from guidebook.data.batches import Resident, feed
from guidebook.data.images import Images, Split, load
from guidebook.diffusion.objective import loss
from guidebook.training.trainer import Trainer

N, BATCH, TOKENS = 22, 8, 60  # 22 images are no whole number of batches: the third one spans two epochs
HALF = 2**-11  # of a value, what fp16 may be off


@pytest.fixture(scope="module")
def faces() -> Params:
    return load_params("celeba", "demo").replace(
        data={"limit": N, "resolution": 8, "phrasings": 2, "flips": True},
        text={"tokens": TOKENS},
        model={"vae": None, "channels": [32, 32]},
        train={"batch": BATCH, "precision": "fp32", "seed": 5, "caption_dropout": 0.3},
        evaluate={"samples": 30},
    )


@pytest.fixture(scope="module")
def data(faces) -> Images:
    """Images of one grey each, their number, so that it can be seen which one is fed."""
    found = load(faces.data)
    grey = torch.arange(N, dtype=torch.uint8)[:, None, None, None].expand(N, 3, 8, 8).contiguous()
    return dataclasses.replace(found, train=Split(grey, found.train.labels))


def caption(params: Params, data: Images, image: int, phrasing: int) -> str:
    return attribute_caption(int(data.train.labels[image]), params.train.seed, image, phrasing)


def told(params: Params, captions: list[str]) -> torch.Tensor:
    return encode(params.text, captions)


def of_two(rank: int):
    return type("World", (), {"process_index": rank, "num_processes": 2, "device": torch.device("cpu")})


@pytest.mark.parametrize("phrasings", [1, 2, 3, None])
def test_captions_are_those_of_the_images_that_are_fed(runs, faces, data, phrasings):
    params = faces.replace(data={"phrasings": phrasings})
    fed, found = feed(data, params.train), conditions(params, data)
    assert type(fed) is Resident
    assert type(found) is (Kept if phrasings else Fresh)
    spoken = []
    for nimg in range(0, 5 * N, BATCH):
        images, labels = fed.batch(nimg)
        epochs = [(nimg + i) // N for i in range(BATCH)]
        expected = [
            caption(params, data, image, epoch % phrasings if phrasings else epoch)
            for image, epoch in zip(images[:, 0, 0, 0].tolist(), epochs, strict=True)
        ]
        rows = found.rows(nimg, labels)
        assert found._captions(rows.tolist()) == expected
        spoken += zip(epochs, images[:, 0, 0, 0].tolist(), expected, strict=True)
        if nimg in (0, 16, 40, 56):  # the second and the last of them span two epochs
            embedded, right = found.embedded(rows, torch.zeros(BATCH, dtype=torch.bool)), told(params, expected)
            assert embedded.shape == (BATCH, TOKENS, WIDTH)
            assert embedded.dtype == torch.float32
            assert ((embedded - right).abs() <= 1.05 * HALF * right.abs() + 1e-5).all()
            # Other captions are further away than that.
            others = [one != other for one, other in zip(expected, [expected[-1], *expected[:-1]], strict=True)]
            assert sum(others) >= BATCH - 1
            assert (embedded - right.roll(1, 0)).abs().amax((1, 2))[others].min() > 0.1
    by_epoch = [{i: c for e, i, c in spoken if e == epoch} for epoch in range(4)]
    assert all(set(told) == set(range(N)) for told in by_epoch)
    assert [by_epoch[0] == later for later in by_epoch[1:]] == [
        bool(phrasings) and e % phrasings == 0 for e in (1, 2, 3)
    ]


def test_kept_captions_are_the_fresh_ones_until_they_repeat(runs, faces, data):
    kept = Kept(faces, data.train.labels)
    fresh = Fresh(faces.replace(data={"phrasings": None}), data.train.labels)
    nothing = torch.zeros(BATCH, dtype=torch.bool)
    for nimg in (0, 16, 32, 48, 64):
        a, b = (c.embedded(c.rows(nimg, None), nothing) for c in (kept, fresh))
        same = torch.arange(nimg, nimg + BATCH) // N < faces.data.phrasings
        assert ((a - b).abs() <= 1.05 * HALF * b.abs() + 1e-5)[same].all()
        if not same.all():
            assert ((a - b).abs().amax((1, 2))[~same] > 0.1).all()
    assert kept.kept.shape == (2 * N, TOKENS, WIDTH)
    assert kept.kept.dtype == torch.float16


@pytest.mark.parametrize("phrasings", [2, None])
def test_two_processes_tell_every_second_image_of_a_batch_its_caption(runs, faces, data, phrasings, monkeypatch):
    params = faces.replace(data={"phrasings": phrasings})
    found = conditions(params, data)
    for nimg in (0, 16, 48):
        whole = found.rows(nimg, None)
        for rank in range(2):
            with monkeypatch.context() as patch:
                patch.setattr("guidebook.conditioning.training.world", lambda rank=rank: of_two(rank))
                patch.setattr("guidebook.data.feed.world", lambda rank=rank: of_two(rank))
                images, labels = feed(data, params.train).batch(nimg)
                rows = found.rows(nimg, labels)
            assert torch.equal(rows, whole[rank::2])
            assert (rows % N).tolist() == images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("phrasings", [2, None])
def test_where_a_caption_is_dropped_the_null_caption_is_told(runs, faces, data, phrasings):
    found = conditions(faces.replace(data={"phrasings": phrasings}), data)
    rows, dropped = found.rows(0, None), torch.arange(BATCH) % 3 == 0
    some, none = found.embedded(rows, dropped), found.embedded(rows, torch.zeros_like(dropped))
    null = told(faces, [NULL])[0]
    for i, gone in enumerate(dropped.tolist()):
        assert torch.equal(some[i], none[i]) == (not gone)
        assert torch.allclose(some[i], null, rtol=0, atol=1e-5) == gone


@pytest.mark.parametrize(
    "change",
    [{"train": {"seed": 6}}, {"data": {"phrasings": 3}}, {"text": {"tokens": 20}}, {"data": {"limit": N - 1}}],
    ids=["seed", "phrasings", "tokens", "images"],
)
def test_other_captions_are_kept_apart_and_the_same_are_encoded_once(runs, faces, data, change, monkeypatch):
    calls = []
    monkeypatch.setattr("guidebook.conditioning.training.encode", lambda *a: calls.append(len(a[1])) or encode(*a))
    Kept(faces, data.train.labels)
    Kept(faces, data.train.labels)
    assert calls == [1, 2 * N, 1]  # the null caption, all of them, the null caption
    other = faces.replace(**change)
    Kept(other, data.train.labels[: other.data.limit])
    assert len(list(runs.glob("data/captions-*"))) == 2


def test_of_classes_every_image_is_told_the_caption_of_its_class(runs, tiny):
    data = load(tiny.data)
    found, entry = conditions(tiny, data), CATALOG[tiny.data.name]
    assert type(found) is OfClasses
    labels, dropped = torch.tensor([3, 0, 9, 9]), torch.tensor([False, True, False, True])
    rows = found.rows(16, labels)
    every = told(tiny, [*class_captions(tiny.data.caption, entry.classes), NULL])
    assert torch.equal(found.embedded(rows, dropped), every[[3, 10, 9, 10]])


def test_in_a_step_every_image_meets_its_own_caption(runs, faces, data, monkeypatch):
    """Through the whole of it: batches, parts of batches, mirrored images, dropped captions."""
    params, seen = faces.replace(train={"micro_batch": 3}), []

    def spy(model, process, x0, eps, steps, cond, *rest):
        seen.append((x0, cond))
        return loss(model, process, x0, eps, steps, cond, *rest)

    monkeypatch.setattr("guidebook.training.trainer.loss", spy)
    trainer = Trainer(params, data)
    for _ in range(6):
        trainer.step()
    trainer.close()
    assert [len(x0) for x0, _ in seen] == [3, 3, 2] * 6
    images = ((torch.cat([x0 for x0, _ in seen])[:, 0, 0, 0] + 1) * 127.5).round().long().tolist()
    cond, null, dropped = torch.cat([c for _, c in seen]), told(params, [NULL])[0], 0
    right = told(params, [caption(params, data, image, i // N % 2) for i, image in enumerate(images)])
    for found, expected in zip(cond, right, strict=True):
        gone = torch.allclose(found, null, rtol=0, atol=1e-5)
        dropped += gone
        assert gone or ((found - expected).abs() <= 1.05 * HALF * expected.abs() + 1e-5).all()
    assert 5 < dropped < 25  # of 48, three in ten
    assert sorted(images[:N]) == list(range(N))
