"""What samples are asked to show: a class in turn, or the attributes of a face that no training has seen."""

import pytest
import torch

from guidebook.conditioning.captions import NULL, attribute_caption, class_captions
from guidebook.conditioning.encoders import encode
from guidebook.conditioning.sampling import Asked
from guidebook.config.datasets import CATALOG
from guidebook.config.params import load as load_params
from guidebook.data.images import load


@pytest.fixture(scope="module")
def faces():
    return load_params("celeba", "demo").replace(
        data={"limit": 7, "resolution": 8}, text={"tokens": 24}, evaluate={"samples": 30}
    )


def near(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal but for the order of sums, which the captions beside them change."""
    return torch.allclose(a, b, rtol=0, atol=1e-5)


INDEX = torch.tensor([0, 3, 9, 10, 25])


def test_classes_come_in_turn(tiny):
    asked, every = Asked(tiny), class_captions(tiny.data.caption, CATALOG[tiny.data.name].classes)
    assert asked.labels(INDEX) == [0, 3, 9, 0, 5]
    assert asked.captions(INDEX) == [every[i] for i in (0, 3, 9, 0, 5)]
    cond, uncond = asked.embeddings(INDEX, None)
    table = encode(tiny.text, [*every, NULL])
    assert torch.equal(cond, table[[0, 3, 9, 0, 5]])
    assert torch.equal(uncond, table[[10] * 5])


def test_attributes_are_those_of_test_faces_in_turn(faces):
    asked, tests = Asked(faces), load(faces.data).test.labels
    assert len(tests) == 7
    assert asked.labels(INDEX) == tests[[0, 3, 2, 3, 4]].tolist()
    assert not set(asked.labels(INDEX)) & set(load(faces.data).train.labels.tolist())


def test_a_face_that_is_asked_for_twice_has_words_of_its_own_each_time(faces):
    asked = Asked(faces)
    captions = asked.captions(torch.arange(70))
    assert captions == [
        attribute_caption(a, faces.sample.seed, i, 0) for i, a in enumerate(asked.labels(torch.arange(70)))
    ]
    assert len(set(captions)) > 60
    assert Asked(faces.replace(sample={"seed": 1})).captions(torch.arange(70)) != captions


def test_what_an_image_is_asked_for_does_not_depend_on_those_beside_it(faces):
    asked = Asked(faces)
    whole, _ = asked.embeddings(torch.arange(12), None)
    for index in ([11], [4, 2], [0, 5, 11]):
        assert asked.captions(torch.tensor(index)) == [asked.captions(torch.arange(12))[i] for i in index]
        assert near(asked.embeddings(torch.tensor(index), None)[0], whole[index])
    assert (whole[1:] - whole[:-1]).abs().amax((1, 2)).min() > 0.1


def test_embeddings_are_those_of_the_captions_and_of_the_null_caption(faces):
    asked = Asked(faces)
    cond, uncond = asked.embeddings(INDEX, None)
    assert near(cond, encode(faces.text, asked.captions(INDEX)))
    assert near(uncond, encode(faces.text, [NULL]).expand(5, -1, -1))


@pytest.mark.parametrize("prompt", ["A photo of an old man with a hat", NULL], ids=["words", "none"])
def test_a_prompt_is_told_to_all(faces, tiny, prompt):
    for params in (faces, tiny):
        cond, uncond = Asked(params).embeddings(INDEX, prompt)
        assert near(cond, encode(params.text, [prompt]).expand(5, -1, -1))
        assert near(uncond, encode(params.text, [NULL]).expand(5, -1, -1))
        assert near(cond, uncond) == (prompt == NULL)
