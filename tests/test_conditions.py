"""Conditions: what training and sampling give the denoiser for (labels, index, epoch), whichever way it was encoded."""

import dataclasses

import pytest
import torch

from guidebook.conditioning.captions import NULL, caption_of, class_captions, told
from guidebook.conditioning.condition import Condition
from guidebook.conditioning.encoders import encode
from guidebook.conditioning.grammar import attribute_caption
from guidebook.conditioning.source import conditions, kept_captions, sample_labels
from guidebook.config.datasets import ATTRIBUTES, CATALOG
from guidebook.config.params import Params
from guidebook.config.params import load as load_params
from guidebook.data.batches import feed
from guidebook.data.images import Images, Split, load
from guidebook.diffusion.objective import Objective
from guidebook.runtime import lanes
from guidebook.training.step import prepared

N, BATCH, TOKENS = 22, 8, 60  # 22 images are no whole number of batches: the third one spans two epochs
HALF = 2**-11  # of a value, what fp16 may be off
INDEX = torch.tensor([0, 3, 9, 10, 25])


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


def embeddings(params: Params, captions: list[str]) -> torch.Tensor:
    return encode(params.text, captions)


def near(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal but for the order of sums, which the captions beside them change."""
    return torch.allclose(a, b, rtol=0, atol=1e-5)


def halved(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Where a is b in half precision."""
    return (a - b).abs() <= 1.05 * HALF * b.abs() + 1e-5


# The container


def full(n: int, start: float) -> Condition:
    shapes = {"tokens": (n, 3, 4), "pooled": (n, 5), "numbers": (n, 2), "image": (n, 3, 2, 2)}
    return Condition(**{k: torch.arange(start, start + torch.Size(s).numel()).reshape(s) for k, s in shapes.items()})


def test_rows_and_cat_take_every_part_and_keep_what_is_not_there():
    a, b = full(3, 0), full(2, 1000)
    both = a.cat(b)
    for field in dataclasses.fields(Condition):
        x, y, z = (getattr(c, field.name) for c in (a, b, both))
        assert torch.equal(z, torch.cat([x, y]))
        assert torch.equal(getattr(both[torch.tensor([4, 0])], field.name), torch.stack([y[1], x[0]]))
    assert Condition(tokens=a.tokens).cat(Condition(tokens=b.tokens)).pooled is None
    assert Condition(tokens=a.tokens)[:1].image is None


def test_dropout_replaces_the_text_and_nothing_else():
    a, null, dropped = full(3, 0), full(1, 1000), torch.tensor([True, False, True])
    some = a.drop(dropped, null)
    for name in ("tokens", "pooled"):
        for i, gone in enumerate(dropped.tolist()):
            assert torch.equal(getattr(some, name)[i], getattr(null, name)[0] if gone else getattr(a, name)[i])
    assert torch.equal(some.numbers, a.numbers)
    assert torch.equal(some.image, a.image)


# Training


@pytest.mark.parametrize("phrasings", [1, 2, 3, None])
def test_captions_are_those_of_the_images_that_are_fed(runs, faces, data, phrasings):
    params = faces.replace(data={"phrasings": phrasings})
    fed, source = feed(data, params.train), conditions(params, data.train.labels)
    spoken = []
    for nimg in range(0, 5 * N, BATCH):
        images, *about = fed.batch(nimg)
        numbers = images[:, 0, 0, 0].tolist()
        epochs = [(nimg + i) // N for i in range(BATCH)]
        expected = [
            caption(params, data, image, epoch % phrasings if phrasings else epoch)
            for image, epoch in zip(numbers, epochs, strict=True)
        ]
        assert [caption_of(params, *image) for image in zip(*(x.tolist() for x in about), strict=True)] == expected
        spoken += zip(epochs, numbers, expected, strict=True)
        if nimg in (0, 16, 40, 56):  # the second and the last of them span two epochs
            found, right = source(*about).tokens, embeddings(params, expected)
            assert found.shape == (BATCH, TOKENS, 512)
            assert found.dtype == torch.float32
            assert halved(found, right).all()
            # Other captions are further away than that.
            others = [one != other for one, other in zip(expected, [expected[-1], *expected[:-1]], strict=True)]
            assert sum(others) >= BATCH - 1
            assert (found - right.roll(1, 0)).abs().amax((1, 2))[others].min() > 0.1
    by_epoch = [{i: c for e, i, c in spoken if e == epoch} for epoch in range(4)]
    assert all(set(captions) == set(range(N)) for captions in by_epoch)
    assert [by_epoch[0] == later for later in by_epoch[1:]] == [
        bool(phrasings) and e % phrasings == 0 for e in (1, 2, 3)
    ]


def test_kept_captions_are_half_precision_in_memory_maps(runs, faces, data):
    kept = kept_captions(faces, data.train.labels)
    assert kept.shape == (2 * N, TOKENS, 512)
    assert kept.dtype == torch.float16


@pytest.mark.parametrize(
    "change",
    [{"train": {"seed": 6}}, {"data": {"phrasings": 3}}, {"text": {"tokens": 20}}, {"data": {"limit": N - 1}}],
    ids=["seed", "phrasings", "tokens", "images"],
)
def test_other_captions_are_kept_apart_and_the_same_are_encoded_once(runs, faces, data, change, monkeypatch):
    calls = []
    monkeypatch.setattr("guidebook.conditioning.source.encode", lambda *a: calls.append(len(a[1])) or encode(*a))
    conditions(faces, data.train.labels)
    conditions(faces, data.train.labels)
    assert calls == [2 * N, 1, 1]  # all of them, and the null caption each time
    other = faces.replace(**change)
    conditions(other, data.train.labels[: other.data.limit])
    assert len(list(runs.glob("data/captions-*"))) == 2


def test_in_a_step_every_image_meets_its_own_caption(runs, faces, data, monkeypatch):
    """Through all of it: batches, parts of batches, mirrored images, dropped captions."""
    params, seen, losses = faces.replace(train={"micro_batch": 3}), [], Objective.loss

    def spy(self, net, x0, eps, t, cond):
        seen.append((x0, cond.tokens))
        return losses(self, net, x0, eps, t, cond)

    monkeypatch.setattr(Objective, "loss", spy)
    monkeypatch.setattr(lanes, "MOST", 1)  # what is spied on comes in order
    trainer = prepared(params, data)
    for _ in range(6):
        trainer.step()
    trainer.feed.close()
    assert [len(x0) for x0, _ in seen] == [3, 3, 2] * 6
    images = ((torch.cat([x0 for x0, _ in seen])[:, 0, 0, 0] + 1) * 127.5).round().long().tolist()
    cond, null, dropped = torch.cat([c for _, c in seen]), embeddings(params, [NULL])[0], 0
    right = embeddings(params, [caption(params, data, image, i // N % 2) for i, image in enumerate(images)])
    for found, expected in zip(cond, right, strict=True):
        gone = near(found, null)
        dropped += gone
        assert gone or halved(found, expected).all()
    assert 5 < dropped < 25  # of 48, three in ten
    assert sorted(images[:N]) == list(range(N))


# Sampling


def test_classes_come_in_turn_in_training_and_sampling_alike(tiny):
    source, every = conditions(tiny), class_captions(tiny.data.caption, CATALOG[tiny.data.name].classes)
    labels = sample_labels(tiny, INDEX)
    assert labels.tolist() == [0, 3, 9, 0, 5]
    assert [caption_of(tiny, label, i) for label, i in zip(labels.tolist(), INDEX.tolist(), strict=True)] == [
        every[i] for i in (0, 3, 9, 0, 5)
    ]
    table = embeddings(tiny, [*every, NULL])
    for found in (source(labels, INDEX), source(labels, INDEX, INDEX), source(labels, None, None)):
        assert torch.equal(found.tokens, table[[0, 3, 9, 0, 5]])
    assert torch.equal(source.null.tokens, table[-1:])


def test_attributes_are_those_of_test_faces_in_turn(faces):
    tests = load(faces.data).test.labels
    assert sample_labels(faces, INDEX).tolist() == tests[INDEX % len(tests)].tolist()
    assert sample_labels(faces, torch.tensor([len(tests) + 1])) == tests[1]
    assert not set(sample_labels(faces, INDEX).tolist()) & set(load(faces.data).train.labels.tolist())


def test_a_face_that_is_drawn_twice_has_words_of_its_own_each_time(faces):
    n = 3 * len(load(faces.data).test.labels)
    labels = sample_labels(faces, torch.arange(n)).tolist()
    captions = [caption_of(faces, label, i) for i, label in enumerate(labels)]
    assert captions == [attribute_caption(a, faces.sample.seed, i, 0) for i, a in enumerate(labels)]
    assert len(set(captions)) > 0.8 * n
    assert [caption_of(faces.replace(sample={"seed": 1}), a, i) for i, a in enumerate(labels)] != captions


def test_a_condition_does_not_depend_on_those_beside_it(faces):
    source = conditions(faces)
    among = source(sample_labels(faces, torch.arange(12)), torch.arange(12)).tokens
    for index in ([11], [4, 2], [0, 5, 11]):
        index = torch.tensor(index)
        assert near(source(sample_labels(faces, index), index).tokens, among[index])
    assert (among[1:] - among[:-1]).abs().amax((1, 2)).min() > 0.1


def test_prompts_take_the_place_of_captions(faces, tiny):
    prompts = ["A photo of an old man with a hat", NULL]
    for params in (faces, tiny):
        source = conditions(params)
        found = source.prompts(prompts)
        assert near(found.tokens, embeddings(params, prompts))
        assert near(found[1:].tokens, source.null.tokens)
        assert not near(found[:1].tokens, source.null.tokens)


TEMPLATE = "A photo of a {gender}"


def test_one_caption_of_all_faces_says_their_gender_and_nothing_else(runs, faces, data):
    plain = faces.replace(data={"caption": TEMPLATE})
    labels, male = data.train.labels.tolist(), ATTRIBUTES.index("Male")
    said = [f"A photo of a {'man' if a >> male & 1 else 'woman'}" for a in labels]
    assert [caption_of(plain, a, i) for i, a in enumerate(labels)] == said
    assert [caption_of(plain, a, i, 3) for i, a in enumerate(labels)] == said
    assert [told(plain, a, i) for i, a in enumerate(labels)] == [a & 1 << male for a in labels]
    index = torch.arange(N)
    seen = conditions(plain, data.train.labels)(data.train.labels, index, torch.ones_like(index)).tokens
    assert halved(seen, embeddings(plain, said)).all()
    assert len(set(said)) == 2


def test_captions_of_another_template_are_kept_apart(runs, faces, data):
    for caption in (None, TEMPLATE, TEMPLATE + "."):
        kept_captions(faces.replace(data={"caption": caption}), data.train.labels)
    assert len(list(runs.glob("data/captions-*"))) == 3


def test_in_file_order_a_training_sees_few_classes_at_a_time(tiny):
    few, many = (
        feed(load(tiny.data), tiny.replace(train={"file_rows": rows}).train).batch(0).labels.unique()
        for rows in (8, None)
    )
    assert len(few) <= 6 < len(many)  # two files of three classes each, at most


# The vector of a caption as a whole

MMDIT = {"kind": "mmdit", "vae": None, "patch": 2, "hidden": 64, "layers": 1, "num_heads": 1, "qk_norm": True}


def test_a_network_that_takes_the_vector_of_a_caption_gets_it_and_another_does_not(runs, faces, tiny, data):
    for params, labels in ((tiny, None), (faces, data.train.labels)):
        for model, pooled in (({}, False), (MMDIT, True)):
            changed = params.replace(model=model)
            source, index = conditions(changed, labels), torch.arange(6)
            given = labels if labels is not None else sample_labels(changed, index)
            found = [
                source(given[index], index, index // 4),
                source(given[index], index),
                source.prompts(["digit 1", NULL]),
            ]
            found.append(found[0].drop(torch.tensor([True] * 6), source.null))
            assert [(c.pooled is not None) for c in (*found, source.null)] == [pooled] * 5
            assert all(c.tokens.shape[1:] == (changed.text.tokens, 512) for c in found)
            if pooled:
                captions = [caption_of(changed, int(given[i]), i, i // 4) for i in range(6)]
                rows = encode(changed.text, captions, pooled=True)
                torch.testing.assert_close(found[0].pooled, rows[:, -1], rtol=HALF, atol=1e-5)
                torch.testing.assert_close(found[0].tokens, rows[:, :-1], rtol=HALF, atol=1e-5)
                assert near(found[3].pooled, source.null.pooled.expand(6, -1))


def test_kept_captions_with_their_vectors_are_kept_apart(runs, faces, data):
    plain, whole = (kept_captions(faces.replace(model=m), data.train.labels) for m in ({}, MMDIT))
    assert (plain.shape[1], whole.shape[1]) == (TOKENS, TOKENS + 1)
    assert near(whole[:, :TOKENS].float(), plain.float())
