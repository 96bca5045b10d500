"""The published setting of Stable Diffusion, from a folder of its architecture to an exported pipeline."""

import io

import numpy as np
import pipelines
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from diffusers import DDPMScheduler, PNDMScheduler, StableDiffusionPipeline
from forks import forked_kernels
from PIL import Image
from test_pipeline import same

from guidebook.book.notebook import missing, run_experiment
from guidebook.config.params import load

EACH = 3  # images of each of the hundred classes


def rows(folder, split, seed):
    """Images of 32 × 32 pixels in the hub's layout, each class of a colour of its own."""
    rng = np.random.default_rng(seed)
    labels = np.arange(100 * EACH) % 100
    colours = np.random.default_rng(0).integers(0, 256, (100, 1, 1, 3))[labels]
    pixels = (colours + rng.normal(0, 20, (len(labels), 32, 32, 3))).clip(0, 255).astype(np.uint8)
    files = []
    for image in pixels:
        Image.fromarray(image).save(file := io.BytesIO(), "PNG")
        files.append({"bytes": file.getvalue(), "path": None})
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table({"img": files, "fine_label": labels, "coarse_label": labels // 5})
    pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")


@pytest.mark.slow
def test_the_published_setting_runs_from_a_folder_of_its_architecture(tmp_path, runs, monkeypatch):
    for seed, split in enumerate(("train", "test")):
        rows(tmp_path / "data" / "cifar100", split, seed)
    monkeypatch.setenv("GUIDEBOOK_DATA", str(tmp_path / "data"))
    widths = (32, 64, 64, 64)
    folder = pipelines.pipeline(
        tmp_path / "v1-4", widths, vae=(8, 8, 16, 16), heads=8, layers=2, text=32, published=True
    )
    assert type(StableDiffusionPipeline.from_pretrained(folder).scheduler) is PNDMScheduler
    params = load("stable-diffusion", "paper").replace(
        data={"subset": {"train": 100 * EACH, "test": 100 * EACH}},
        text={"encoder": str(folder)},
        model={"init": str(folder), "vae": str(folder), "channels": widths},
        train={"epochs": 0.5, "checkpoint_every": 0.5, "precision": "fp32", "ema": [0.9999]},
        sample={"steps": 3, "guidance": [1, 4]},
        evaluate={"samples": 100 * EACH},
    )
    with forked_kernels():
        run, _ = run_experiment(params)
    assert missing(run.path / "notebook.ipynb") == []
    assert 0 < run.provenance()["moved"]["raw"] < run.provenance()["moved"]["most"]
    made = StableDiffusionPipeline.from_pretrained(run.path / "pipeline")
    assert type(made.scheduler) is DDPMScheduler
    same(run, made, 4.0)
