"""An exported run draws in another process what it draws here, knows its words, and proves its own bytes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizerFast

from guidebook.conditioning import encoders
from guidebook.conditioning.captions import NULL, caption_of
from guidebook.conditioning.grammar import attribute_caption
from guidebook.conditioning.source import sample_labels
from guidebook.config import params as P
from guidebook.config import pretrained
from guidebook.config.datasets import ATTRIBUTES
from guidebook.export import pipeline as module
from guidebook.export.pipeline import CARD, export, sayable
from guidebook.models import small_vae
from guidebook.models.autoencoder import autoencoder
from guidebook.runs.manifest import MANIFEST, Corrupt
from guidebook.runs.run import NotRecorded, Run, open_run
from guidebook.runtime.seeds import seed_of
from guidebook.sampling.draw import draw
from guidebook.sampling.sampler import Sampler
from guidebook.sampling.spec import Draw
from guidebook.training.loop import train

N = torch.arange(4)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A run in latents, trained for eight steps on 64 faces, in a folder of runs that is this module's own."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GUIDEBOOK_RUNS", str(folder))
        patch.setitem(small_vae.STEPS, 16, 20)
        opened = open_run(
            P.load("celeba", "demo").replace(
                data={"limit": 64, "resolution": 16, "phrasings": 1},
                text={"tokens": 48},
                model={"channels": [32, 32], "num_heads": 4},
                train={"batch": 16, "epochs": 2, "warmup": 0, "ema": [0.9], "precision": "fp32"},
                sample={"steps": 4, "guidance": [1, 3], "weights": "ema-0.9"},
            )
        )
        train(opened)
        yield opened
    autoencoder.cache_clear()


@pytest.fixture
def digits(trained_run):
    """A run in pixels, of which 0 … 1 is the range."""
    return trained_run


def loaded(folder: Path) -> DiffusionPipeline:
    """The pipeline in a folder that has its own code."""
    return DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)


def told(run: Run, **sample) -> Run:
    """The run, sampled another way."""
    return Run(run.params.replace(sample=sample), run.path, recorded=False)


def ours(run: Run, w: float) -> np.ndarray:
    """The first images (N, H, W[, 3]) by the run's own sampler."""
    sampler = Sampler(run, Draw.of(run.params, w, len(N)))
    *_, (_, x) = sampler.steps(N)
    return pixels(sampler.images(x))


def pixels(images: torch.Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).squeeze(-1).numpy().astype(int)


def theirs(run: Run, pipe: DiffusionPipeline, w: float) -> np.ndarray:
    """The same images by a pipeline."""
    s = run.params.sample
    pipe.set_progress_bar_config(disable=True)
    rngs = [torch.Generator().manual_seed(seed_of((s.seed << 32) + i, "image")) for i in N.tolist()]
    prompts = [caption_of(run.params, label, i) for i, label in enumerate(sample_labels(run.params, N).tolist())]
    images = pipe(prompts, num_inference_steps=s.steps, guidance_scale=w, generator=rngs, eta=s.eta).images
    return np.stack(images).astype(int)


def same(run: Run, pipe: DiffusionPipeline, w: float) -> None:
    """Asserts that both draw the same, but for values on the edge between two."""
    mine, other = ours(run, w), theirs(run, pipe, w)
    assert np.abs(mine - other).max() <= 1
    assert np.mean(mine != other) < 0.01
    assert np.abs(mine[0] - mine[1]).max() > 10


@pytest.mark.parametrize("w", [1.0, 3.0])
@pytest.mark.parametrize(
    ("sampler", "spacing", "eta"),
    [("ddpm", "trailing", 0.0), ("ddim", "trailing", 0.0), ("ddim", "trailing", 0.5), ("dpmpp-2m", "linspace", 0.0),
     ("unipc", "linspace", 0.0), ("heun", "karras", 0.0)],
)  # fmt: skip
def test_a_stock_pipeline_draws_what_the_sampler_draws(faces, sampler, spacing, eta, w):
    run = told(faces, sampler=sampler, spacing=spacing, eta=eta)
    pipe = DiffusionPipeline.from_pretrained(export(run))
    same(run, pipe, w)


@pytest.mark.parametrize(("which", "kind"), [("faces", "StableDiffusionPipeline"), ("digits", "PixelPipeline")])
def test_a_fresh_process_without_this_library_draws_the_sets_first_images(which, kind, request, tmp_path):
    """By the code that the card shows."""
    run = request.getfixturevalue(which)
    w = run.params.sample.guidance[-1]
    images, folder = draw(run, float(w), 10).images[: len(N)], export(run)
    code = re.search(r"```python\n(.*?)```", (folder / CARD).read_text(), re.S)[1]
    check = (
        "import json, sys\nimport numpy as np\n"
        f"np.save({str(tmp_path / 'seen.npy')!r}, np.stack([np.asarray(image) for image in images]))\n"
        "print(json.dumps([type(pipe).__name__, any(name.startswith('guidebook') for name in sys.modules)]))"
    )
    hidden = "import sys\nsys.modules['guidebook'] = None\n"  # wherever it is installed
    done = subprocess.run(
        [sys.executable, "-W", "error::FutureWarning", "-c", hidden + code + check.replace("in sys.modules", "in sys.modules if sys.modules[name]")],
        cwd=folder, env=os.environ | {"PYTHONPATH": "", "HF_MODULES_CACHE": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [kind, False]
    assert np.abs(np.load(tmp_path / "seen.npy").astype(int) - pixels(images)).max() <= 1


@pytest.mark.parametrize(
    "objective",
    [{"kind": "flow", "mean": 0.0, "std": 1.0}, {"kind": "edm", "sigma_data": 0.5, "mean": -1.2, "std": 1.2, "largest": 80.0}],
)  # fmt: skip
def test_whatever_objective_it_learnt_in_pixels(runs, tiny, objective):
    run = open_run(tiny.replace(objective=objective, sample={"sampler": "ddim", "spacing": "linspace", "steps": 3}))
    train(run)
    same(run, loaded(export(run)), 5.0)


def test_where_timesteps_lead_the_card_puts_the_folders_scheduler_back(faces):
    run = told(faces, sampler="ddpm", spacing="leading")
    folder, line = export(run), 'pipe.scheduler = DDPMScheduler.from_pretrained(".", subfolder="scheduler")'
    for part in ("import DDPMScheduler, DiffusionPipeline\n", line):
        assert part in (folder / CARD).read_text()
    with pytest.warns(FutureWarning, match="steps_offset"):
        pipe = DiffusionPipeline.from_pretrained(folder)
    theirs(run, pipe, 3.0)
    shifted = pipe.scheduler.timesteps
    pipe.scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    same(run, pipe, 3.0)
    assert torch.equal(shifted, pipe.scheduler.timesteps + 1)


@pytest.mark.parametrize("w", [0.0, 1.0, 5.0])
@pytest.mark.parametrize(
    ("sampler", "eta"), [("ddpm", 0.0), ("ddim", 0.0), ("ddim", 0.5), ("dpmpp-2m", 0.0), ("heun", 0.0)]
)
def test_the_pixel_pipeline_draws_what_the_sampler_draws(digits, sampler, eta, w):
    run = told(digits, sampler=sampler, eta=eta, steps=3, spacing="linspace")
    pipe = loaded(export(run))
    assert pipe.config.range == [0.0, 1.0]
    same(run, pipe, w)


def test_one_generator_per_prompt_or_it_is_refused_and_none_is_torchs_own_seed(digits):
    pipe, one = loaded(export(digits)), torch.Generator()
    with pytest.raises(ValueError, match="2 prompts and 1 generators: give one generator per prompt"):
        pipe(["A handwritten digit 1"] * 2, 2, 1.0, one)
    assert len(pipe("A handwritten digit 1", 2, 1.0, one).images) == 1
    drawn = []
    for seed in (0, 0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            drawn.append(np.stack(pipe(["A handwritten digit 1"] * 2).images))
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).any()
    assert (drawn[0][0] != drawn[0][1]).any()


@pytest.mark.parametrize(
    "given", [{"num_inference_steps": 0}, {"num_inference_steps": 1001}, {"guidance_scale": float("nan")}]
)
def test_steps_and_scales_that_mean_nothing_are_refused(digits, given):
    with pytest.raises(ValueError, match="steps at guidance_scale"):
        loaded(export(digits))("A handwritten digit 1", **given)


def test_the_exported_words_mean_what_encode_makes_of_them(faces):
    """The same embeddings, of captions that are shorter and longer than the tokens there are."""
    section, rng = faces.params.text, np.random.default_rng(0)
    captions = [attribute_caption(int(rng.integers(2 ** len(ATTRIBUTES))), 1, i, 0) for i in range(100)] + [NULL]
    tokenizer, model = encoders.parts(section, sayable(faces.params))
    ids = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert ids.shape == (101, section.tokens)
    assert any(len(encoders.WORD.findall(c)) > section.tokens - 2 for c in captions)
    with torch.no_grad():
        told = model(ids).last_hidden_state
    torch.testing.assert_close(told, encoders.encode(section, captions), rtol=0, atol=1e-5)


def test_a_word_that_no_caption_has_raises_an_exception_which_or_whose_card_says_those_there_are(faces, digits):
    pipe = DiffusionPipeline.from_pretrained(export(faces))
    with pytest.raises(Exception, match="UNK"):
        pipe("A photo of a zebra", num_inference_steps=1)
    assert re.search("They are: .*, fringe, .*, photo, ", (export(faces) / CARD).read_text())
    said = "^the model's captions have no ',', zebra, but 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, a, digit, handwritten$"
    with pytest.raises(ValueError, match=said):
        loaded(export(digits))("A handwritten, zebra")


def test_clip_is_copied_with_the_runs_number_of_tokens(runs, tiny, monkeypatch):
    """A CLIP of random weights whose tokens are letters."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    tokenizer = CLIPTokenizerFast(vocab={w: i for i, w in enumerate(words)}, merges=[])
    with torch.random.fork_rng():
        config = CLIPTextConfig(
            vocab_size=len(words), hidden_size=encoders.WIDTH, intermediate_size=64, num_hidden_layers=1,
            num_attention_heads=8, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )  # fmt: skip
        model = CLIPTextModel(config).eval()
    monkeypatch.setattr(encoders, "_clip", lambda *_: (tokenizer, model))
    monkeypatch.setattr(pretrained, "available", lambda _: True)
    run = open_run(tiny.replace(text={"encoder": "openai/clip-vit-base-patch32", "tokens": 20}))
    train(run)
    pipe = loaded(export(run))
    assert pipe.tokenizer.model_max_length == 20
    assert tokenizer.model_max_length > 77
    same(run, pipe, 5.0)


def test_it_is_made_once_and_found_afterwards(digits, monkeypatch):
    folder = export(digits)
    before = {f: f.stat().st_mtime_ns for f in folder.rglob("*")}
    monkeypatch.setattr(module, "pipeline", lambda _: pytest.fail("made again"))
    assert export(digits) == folder
    assert {f: f.stat().st_mtime_ns for f in folder.rglob("*")} == before
    assert not list(digits.path.glob(".pipeline*"))


def test_it_is_made_anew_where_it_would_be_another(digits):
    runs = digits, told(digits, weights="raw")
    averaged, plain = (loaded(export(run)).unet for run in runs)
    assert any(not torch.equal(a, b) for a, b in zip(averaged.parameters(), plain.parameters(), strict=True))
    record = {"metric": "fd_judge", "value": 3.0, "low": 2.0, "high": 4.0, "n": 30, "guidance": 1.0}
    digits.add_metrics([record | {"interval": "normal", "draw": None, "extractor": "judge", "reference": None}])
    assert "3.00 [2.00, 4.00]" in (export(digits) / CARD).read_text()


def test_a_byte_that_changed_in_any_file_and_a_part_that_is_gone_are_noticed(digits):
    folder = export(digits)
    files = [f for f in folder.rglob("*") if f.is_file()]
    assert {f.parent.name for f in files} == {"pipeline", "unet", "text_encoder", "tokenizer"}
    for file in files:
        whole = file.read_bytes()
        file.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
        with pytest.raises(Corrupt, match=rf"({re.escape(file.name)}|{MANIFEST}).* is not what was written; delete"):
            export(digits)
        file.write_bytes(whole)
    assert export(digits) == folder
    (folder / "unet").rename(folder.with_name("elsewhere"))
    with pytest.raises(Corrupt, match="unet: manifest"):
        export(digits)


def test_no_file_is_pickled_and_none_says_where_it_was_made(faces):
    files = [f for f in export(faces).rglob("*") if f.is_file()]
    assert {f.suffix for f in files} == {".json", ".safetensors", ".md"}
    for file in files:
        assert str(faces.path.parents[1]).encode() not in file.read_bytes()


def test_what_cannot_be_exported_says_why(runs, tiny, faces):
    run = open_run(tiny)
    with pytest.raises(FileNotFoundError, match=r"mnist/smoke is not trained to its end: `guidebook run mnist` first"):
        export(run)
    with pytest.raises(NotRecorded, match="the pipeline is not in the record of mnist/smoke"):
        export(Run(run.params, run.path, recorded=True))
    odd = Run(faces.params.replace(data={"resolution": 20}), run.path, recorded=False)
    (run.path / "model").mkdir()
    with pytest.raises(ValueError, match=r"data\.resolution = 20: StableDiffusionPipeline draws multiples of 8 only"):
        export(odd)


@pytest.mark.parametrize(("sampler", "spacing"), [("dpmpp-2m", "linspace"), ("unipc", "leading")])
def test_steps_that_diffusers_schedulers_do_not_draw_are_refused(faces, sampler, spacing):
    """They divide by 0 or step beyond their list where every timestep is visited; our solvers do not."""
    whole = {"timesteps": 50, "kind": "vp"}
    params = faces.params.replace(objective=whole, sample={"steps": 50, "sampler": sampler, "spacing": spacing})
    with pytest.raises(ValueError, match=rf"{sampler}, 50 steps.*: diffusers' .* take fewer steps"):
        module._drawable(params)
    module._drawable(params.replace(sample={"steps": 49}))


def test_it_is_put_where_one_asks_and_never_over_other_files(digits, tmp_path):
    folder = export(digits, tmp_path / "mine")
    assert folder == export(digits, folder) == tmp_path / "mine"
    same(digits, loaded(folder), 5.0)
    other = tmp_path / "other"
    other.mkdir()
    (other / "kept.txt").write_text("")
    with pytest.raises(FileExistsError, match="other holds other files: name a new folder"):
        export(digits, other)
    assert (other / "kept.txt").exists()
