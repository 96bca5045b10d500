"""Frozen text encoders: captions to (L, D) embeddings.

CLIP (Radford et al. 2021) where its weights are in the cache, else `embedded`: a small text transformer of CLIP's
architecture with fixed random weights. It tells captions apart but knows nothing of what words mean.
"""

import copy
import functools
import re
import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from guidebook.config.pretrained import EMBEDDED, located
from guidebook.config.schema import Text

if TYPE_CHECKING:  # seconds, which a page that only shows what was made does not spend
    from transformers import CLIPTextModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

WIDTH = 512
START, END, WORD = "<start>", "<end>", re.compile(r"\w+|[^\w\s]")  # of the stand-in


@torch.no_grad()
def parts(text: Text, captions: Iterable[str]) -> "tuple[PreTrainedTokenizerBase, CLIPTextModel]":
    """The tokenizer, which pads and cuts to `text.tokens`, and the text model, on the CPU, that `encode` uses.

    The stand-in's know the words of `captions` and no others.
    """
    if text.encoder != EMBEDDED:
        tokenizer, model = map(copy.deepcopy, _clip_parts(text.encoder, torch.device("cpu")))
        tokenizer.model_max_length = text.tokens
        return tokenizer, model
    vocabulary, model = _stand_in({w for caption in captions for w in WORD.findall(caption.lower())})
    return _word_tokenizer(vocabulary, text.tokens), model


@torch.no_grad()
def encode(text: Text, captions: list[str], device: torch.device | str = "cpu") -> torch.Tensor:
    """Embeddings (N, L, D) float32 of N captions, padded or cut to `text.tokens` tokens; each distinct one runs once."""
    place = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
    hidden = (_embedded if text.encoder == EMBEDDED else _clip)(text, list(place), torch.device(device))
    return hidden[[place[c] for c in captions]]


def _clip(text: Text, captions: list[str], device: torch.device) -> torch.Tensor:
    tokenizer, model = _clip_parts(text.encoder, device)
    told = tokenizer(captions, padding="max_length", truncation=True, max_length=text.tokens, return_tensors="pt")
    return model(told.input_ids.to(device)).last_hidden_state.float()


@functools.lru_cache(maxsize=2)
def _clip_parts(encoder: str, device: torch.device):
    from transformers import CLIPTextModel, CLIPTokenizerFast

    folder = located(encoder)
    model = CLIPTextModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    return CLIPTokenizerFast.from_pretrained(folder, local_files_only=True), model.eval().to(device)


def _embedded(text: Text, captions: list[str], device: torch.device) -> torch.Tensor:
    """Words are the tokens. A word's vector depends on the word alone: captions never seen before encode the same way."""
    words = [WORD.findall(c.lower()) for c in captions]
    vocabulary, model = _stand_in({w for line in words for w in line})
    index = {w: i for i, w in enumerate(vocabulary)}
    ids = torch.ones(len(captions), text.tokens, dtype=torch.int64)  # <end> is the padding too, as in CLIP
    for row, line in zip(ids, words, strict=True):
        tokens = [0, *(index[w] for w in line[: text.tokens - 2]), 1]
        row[: len(tokens)] = torch.tensor(tokens)
    return model.to(device)(ids.to(device)).last_hidden_state


def _stand_in(words: set[str]) -> "tuple[list[str], CLIPTextModel]":
    """The vocabulary of these words, `<start>` and `<end>` first, and the stand-in encoder that knows it."""
    from transformers import CLIPTextConfig, CLIPTextModel

    vocabulary = [START, END, *sorted(words)]
    config = CLIPTextConfig(
        vocab_size=len(vocabulary), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2,
        num_attention_heads=8, max_position_embeddings=77, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        model = CLIPTextModel(config).eval()
    for name, weight in sorted(model.named_parameters()):
        if name.endswith("token_embedding.weight"):
            for w, row in zip(vocabulary, weight, strict=True):
                row.copy_(_normal(w, WIDTH))
        elif weight.ndim == 2:
            weight.copy_(_normal(name, *weight.shape) / weight.shape[1] ** 0.5)
    return vocabulary, model


def _word_tokenizer(vocabulary: list[str], tokens: int) -> "PreTrainedTokenizerFast":
    """What `_embedded` does to a caption, as a tokenizer: a word outside the vocabulary makes it raise an exception."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Split(Regex(WORD.pattern), "removed", invert=True)
    ends = [(word, vocabulary.index(word)) for word in (START, END)]
    words.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
    special = {"bos_token": START, "eos_token": END, "pad_token": END}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=tokens, **special)


def _normal(name: str, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
