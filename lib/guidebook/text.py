"""Frozen text encoders: captions to (L, D) embeddings.

CLIP (Radford et al. 2021) where its weights are in the cache, else `embedded`: a small text transformer of CLIP's
architecture with fixed random weights. It tells captions apart but knows nothing of what words mean.
"""

import logging
import os
import re
import zlib

import torch
from transformers import CLIPTextConfig, CLIPTextModel

from guidebook.sections import Text

EMBEDDED, WIDTH = "embedded", 512
# CLIP's repository holds pickled weights; this commit of it adds the same weights as safetensors.
REVISION = "c237dc49a33fc61debc9276459120b7eac67e7ef"
FILES = ("config.json", "tokenizer.json", "model.safetensors")
log = logging.getLogger(__name__)


class EncoderMissing(RuntimeError):
    """A text encoder's weights that are neither in the cache nor to be had."""


def at_hand(encoder: str) -> bool:
    """Whether an encoder needs no download."""
    from huggingface_hub import try_to_load_from_cache

    files = () if encoder == EMBEDDED else FILES
    return all(isinstance(try_to_load_from_cache(encoder, f, revision=REVISION), str) for f in files)


def resolve(encoder: str) -> str:
    """The encoder that can really be used: `embedded` (with a warning) where CLIP's weights are not in the cache.

    Raises EncoderMissing instead in a job of SLURM.
    """
    if at_hand(encoder):
        return encoder
    if "SLURM_JOB_ID" in os.environ:  # nobody would see the warning, and the run is another than the one submitted
        raise EncoderMissing(
            f"text encoder {encoder} is not in this node's cache: is HF_HOME the same here as where it was fetched? "
            "--set text.encoder=embedded takes a stand-in"
        )
    log.warning("the weights of %s are not in the cache: the embedded stand-in encoder takes its place", encoder)
    return EMBEDDED


def fetch(encoder: str) -> str:
    """Downloads an encoder's weights into the cache; says where it lies."""
    if encoder == EMBEDDED:
        return "comes with the library"
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(encoder, revision=REVISION, allow_patterns=["*.json", "*.txt", "model.safetensors"])
    except Exception as error:  # the hub's client raises its own kinds
        raise EncoderMissing(
            f"text encoder {encoder}: the hub did not give it ({type(error).__name__}); fetch it on a machine with internet, "
            "or set text.encoder=embedded, a stand-in"
        ) from None


@torch.no_grad()
def encode(text: Text, captions: list[str]) -> torch.Tensor:
    """Embeddings (N, L, D) float32 of N captions, padded or cut to `text.tokens` tokens; each distinct one is run once."""
    distinct = list(dict.fromkeys(captions))
    hidden = (_embedded if text.encoder == EMBEDDED else _clip)(text, distinct)
    return hidden[[distinct.index(c) for c in captions]]


def _clip(text: Text, captions: list[str]) -> torch.Tensor:
    from transformers import CLIPTokenizerFast

    pinned = {"revision": REVISION, "local_files_only": True}
    tokenizer = CLIPTokenizerFast.from_pretrained(text.encoder, **pinned)
    model = CLIPTextModel.from_pretrained(text.encoder, use_safetensors=True, **pinned).eval()
    ids = tokenizer(
        captions, padding="max_length", truncation=True, max_length=text.tokens, return_tensors="pt"
    ).input_ids
    return model(ids).last_hidden_state.float()


def _embedded(text: Text, captions: list[str]) -> torch.Tensor:
    """Words are the tokens. A word's vector depends on the word alone, so captions never seen before encode the same way."""
    words = [re.findall(r"\w+|[^\w\s]", c.lower()) for c in captions]
    vocabulary = ["<start>", "<end>", *sorted({w for line in words for w in line})]
    index = {w: i for i, w in enumerate(vocabulary)}
    ids = torch.ones(len(captions), text.tokens, dtype=torch.int64)  # <end> is the padding too, as in CLIP
    for row, line in zip(ids, words, strict=True):
        tokens = [0, *(index[w] for w in line[: text.tokens - 2]), 1]
        row[: len(tokens)] = torch.tensor(tokens)
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
    return model(ids).last_hidden_state


def _normal(name: str, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
