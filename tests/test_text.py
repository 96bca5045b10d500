"""The embedded encoder: an embedding is a function of its caption alone."""

import hashlib
import os
import subprocess
import sys

import pytest
import torch

from guidebook.conditioning.captions import NULL
from guidebook.conditioning.encoders import encode, width
from guidebook.config.params import Text
from guidebook.config.pretrained import EMBEDDED

TEXT = Text(encoder=EMBEDDED, tokens=8)
DIGITS = [f"A handwritten digit {i}" for i in range(10)]
CLOSE = {"rtol": 0, "atol": 1e-5}  # embeddings have unit variance; what is left is the order of floating-point sums


def test_embeddings_are_captions_by_tokens_by_width():
    for tokens in (3, 8, 77):
        hidden = encode(TEXT.model_copy(update={"tokens": tokens}), [*DIGITS, NULL])
        assert hidden.shape == (11, tokens, 512)
        assert hidden.dtype == torch.float32
        assert hidden.isfinite().all()
    assert width(TEXT) == 512


def test_embeddings_have_the_scale_of_a_layer_norm():
    assert encode(TEXT, DIGITS).std().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    "others",
    [
        [],
        ["aardvark", "a zebra", "zzz 0 ! ?"],  # words that sort before and after: other rows of the vocabulary
        DIGITS[::-1],
        [NULL, "a digit handwritten"],
        [f"word{i}" for i in range(100)],
    ],
    ids=["alone", "new words", "backwards", "null", "many"],
)
def test_a_caption_has_the_same_embedding_whatever_else_is_encoded(others):
    reference = encode(TEXT, DIGITS)
    for i in (0, 7):
        torch.testing.assert_close(encode(TEXT, [*others, DIGITS[i]])[-1], reference[i], **CLOSE)
        torch.testing.assert_close(encode(TEXT, [DIGITS[i], *others])[0], reference[i], **CLOSE)


def test_a_caption_given_twice_has_one_embedding():
    hidden = encode(TEXT, ["a cat", "a dog", "a cat"])
    assert torch.equal(hidden[0], hidden[2])
    assert not torch.equal(hidden[0], hidden[1])


def test_embeddings_come_in_the_order_asked_for():
    forward, backward = encode(TEXT, DIGITS), encode(TEXT, DIGITS[::-1])
    torch.testing.assert_close(forward, backward.flip(0), **CLOSE)


def test_captions_that_differ_have_embeddings_that_differ():
    hidden = encode(TEXT, [*DIGITS, NULL, "digit handwritten A 7", "A handwritten digit 7 7"])
    apart = torch.cdist(hidden.flatten(1), hidden.flatten(1)) + 1e9 * torch.eye(len(hidden))
    assert apart.min() > 1  # of a norm of 64


def test_a_long_caption_is_cut_to_the_tokens_there_are():
    text = TEXT.model_copy(update={"tokens": 6})
    long, cut, other = encode(text, ["one two three four five six seven", "one two three four", "one two three five"])
    torch.testing.assert_close(long, cut, **CLOSE)
    assert (long - other).abs().max() > 0.1


def test_a_caption_reads_the_same_up_to_its_end_however_long_the_padding():
    short, long = (encode(TEXT.model_copy(update={"tokens": n}), ["a digit"])[0] for n in (4, 20))
    torch.testing.assert_close(short, long[:4], **CLOSE)


def test_capitals_do_not_matter_and_signs_do():
    a, b, c = encode(TEXT, ["A Digit", "a digit", "a digit!"])
    assert torch.equal(a, b) or torch.allclose(a, b, **CLOSE)
    assert (b - c).abs().max() > 0.1


def test_embeddings_are_the_same_in_every_process_whatever_was_drawn_before():
    program = (
        "import sys, hashlib, torch\n"
        "torch.manual_seed(int(sys.argv[1])); torch.rand(7)\n"
        "from guidebook.config.params import Text\nfrom guidebook.conditioning.encoders import encode\n"
        "hidden = encode(Text(encoder='embedded', tokens=8), ['A handwritten digit 7', ''])\n"
        "print(hashlib.sha256(hidden.numpy().tobytes()).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "1"],
        env=os.environ | {"PYTHONHASHSEED": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    torch.manual_seed(2)
    here = encode(TEXT, ["A handwritten digit 7", ""])
    assert done.stdout.split()[-1] == hashlib.sha256(here.numpy().tobytes()).hexdigest()


def test_several_encoders_stand_side_by_side():
    twice = TEXT.model_copy(update={"encoder": (EMBEDDED, EMBEDDED)})
    one, both = encode(TEXT, DIGITS), encode(twice, DIGITS)
    assert width(twice) == both.shape[-1] == 2 * width(TEXT)
    assert torch.equal(both, torch.cat([one, one], -1))


def test_the_vector_of_a_caption_is_its_end_which_has_read_every_word():
    captions = ["one two three", "one two", "two one three", ""]
    rows = encode(TEXT, captions, pooled=True)
    assert rows.shape == (4, 8 + 1, 512)
    assert torch.equal(rows[:, :8], encode(TEXT, captions))
    for row, caption in zip(rows, captions, strict=True):
        assert torch.equal(row[8], row[len(caption.split()) + 1])  # behind the start and the words
    pooled = rows[:, 8]
    assert all((a - b).abs().max() > 0.1 for i, a in enumerate(pooled) for b in pooled[:i])


def test_of_encoders_side_by_side_the_vectors_stand_side_by_side_too():
    twice, captions = TEXT.model_copy(update={"encoder": [EMBEDDED, EMBEDDED]}), [*DIGITS, NULL]
    one, both = (encode(text, captions, pooled=True) for text in (TEXT, twice))
    torch.testing.assert_close(both, torch.cat([one, one], -1), **CLOSE)
