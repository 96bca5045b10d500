"""Frozen text encoders: captions to embeddings (L, D), where D is the encoder's width.

CLIP (Radford et al. 2021), that of a pipeline, or `embedded`: a small text transformer of CLIP's architecture with fixed random weights, by which
captions differ but have no meaning.
"""

import copy
import functools
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from guidebook.conditioning.captions import WORD
from guidebook.config.pretrained import EMBEDDED, is_pipeline, located, text_width
from guidebook.config.schema import Text

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import CLIPTextModel, PreTrainedTokenizerBase

    Parts = tuple[PreTrainedTokenizerBase, CLIPTextModel]

START, END = "<start>", "<end>"  # of the embedded encoder
WIDTH = 512  # of the embedded encoder


@dataclass(frozen=True)
class Encoder:
    """A frozen text encoder."""

    width: int
    # Captions → tokenizer and text model, on the CPU; the embedded encoder's know the words of these captions alone
    parts: "Callable[[Iterable[str]], Parts]"

    @torch.no_grad()
    def __call__(self, captions: list[str], tokens: int, device: torch.device) -> torch.Tensor:
        """Embeddings (N, L + 1, D) float32 of N captions, padded or cut to L = `tokens` tokens, and of each as a whole, the last row:
        that of the token at its end, which has read the others (Radford et al. 2021, section 2.4)."""
        tokenizer, model = self.parts(captions)
        padded = tokenizer(captions, padding="max_length", truncation=True, max_length=tokens, return_tensors="pt")
        found = model.to(device)(padded.input_ids.to(device))
        return torch.cat([found.last_hidden_state, found.pooler_output[:, None]], 1).float()


@functools.lru_cache(maxsize=2)
def _clip(name: str) -> "Parts":
    from transformers import CLIPTextModel, CLIPTokenizerFast

    model = CLIPTextModel.from_pretrained(located(name, "text_encoder"), use_safetensors=True, local_files_only=True)
    return CLIPTokenizerFast.from_pretrained(located(name, "tokenizer"), local_files_only=True), model.eval()


@torch.no_grad()
def _embedded(captions: Iterable[str]) -> "Parts":
    """Words are its tokens, and a word's vector depends on the word alone."""
    lower, split = _to_words()
    words = {word for text in captions for word, _ in split.pre_tokenize_str(lower.normalize_str(text))}
    vocabulary = [START, END, *sorted(words)]
    model, vectors = copy.deepcopy(_layers()), torch.stack([_normal(word, WIDTH) for word in vocabulary])
    model.set_input_embeddings(torch.nn.Embedding.from_pretrained(vectors))
    model.config.vocab_size = len(vocabulary)
    return _word_tokenizer(vocabulary), model


@functools.cache
@torch.no_grad()
def _layers() -> "CLIPTextModel":
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=2, hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2, num_attention_heads=8,
        max_position_embeddings=77, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        model = CLIPTextModel(config).eval()
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            weight.copy_(_normal(name, *weight.shape) / weight.shape[1] ** 0.5)
    return model


def _word_tokenizer(vocabulary: list[str]) -> "PreTrainedTokenizerBase":
    """Captions to word numbers between <start> and <end>, padded by <end> as CLIP's; raises for a word outside the vocabulary."""
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}))
    words.normalizer, words.pre_tokenizer = _to_words()
    ends = [(word, vocabulary.index(word)) for word in (START, END)]
    words.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token=START, eos_token=END, pad_token=END)


def _to_words() -> tuple:
    """The tokenizer's normalizer and splitter. The vocabulary is made by them, too: others read some scripts otherwise."""
    from tokenizers import Regex, normalizers, pre_tokenizers

    return normalizers.Lowercase(), pre_tokenizers.Split(Regex(WORD.pattern), "removed", invert=True)


def _normal(name: str, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


CLIP = "openai/clip-vit-base-patch32"
ENCODERS = {EMBEDDED: Encoder(WIDTH, _embedded), CLIP: Encoder(512, lambda captions: _clip(CLIP))}


def encoders(text: Text) -> list[Encoder]:
    """Those of a run: one, or several side by side."""
    names = [text.encoder] if isinstance(text.encoder, str) else text.encoder
    return [Encoder(text_width(n), lambda captions, n=n: _clip(n)) if is_pipeline(n) else ENCODERS[n] for n in names]


def width(text: Text) -> int:
    """D of `encode`: the widths of the run's encoders together."""
    return sum(encoder.width for encoder in encoders(text))


def encode(
    text: Text, captions: Sequence[str], device: torch.device | str = "cpu", pooled: bool = False
) -> torch.Tensor:
    """Embeddings (N, L, D) float32 of N captions, the encoders' side by side; a caption that repeats is encoded once.

    With `pooled` (N, L + 1, D): the last row is of the caption as a whole.
    """
    row = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
    rows = [row[caption] for caption in captions]
    found = torch.cat([encoder([*row], text.tokens, torch.device(device)) for encoder in encoders(text)], -1)
    return found[rows, : text.tokens + pooled]


def parts(text: Text, captions: Iterable[str]) -> "Parts":
    """Copies of the tokenizer, which pads and cuts to `text.tokens`, and of the text model, for an exported pipeline."""
    (encoder,) = encoders(text)
    tokenizer, model = map(copy.deepcopy, encoder.parts(captions))
    tokenizer.model_max_length = text.tokens
    return tokenizer, model.cpu()
