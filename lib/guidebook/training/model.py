"""The trained model of a run, with raw or averaged weights: written at the end of training, and read back."""

import shutil

from guidebook import models
from guidebook.runs import manifest
from guidebook.runs.run import Run
from guidebook.runtime.distributed import world
from guidebook.training import checkpoint
from guidebook.training.provenance import conclude
from guidebook.training.reconstruction import reconstructed
from guidebook.training.step import Trainer


def publish(run: Run, trainer: Trainer) -> None:
    """Writes `model/`, one folder per set of weights, each loadable by `from_pretrained`; all of them or none.

    The main process does. Raises OSError where the disk is full.
    """
    if not world().is_main_process:
        return
    for leftover in run.path.glob(".model-*"):
        shutil.rmtree(leftover)
    conclude(run, trainer)
    with manifest.whole(run.path / "model", "model/") as aside:
        trainer.model.save_pretrained(aside / "raw")
        for average in trainer.averages:
            trainer.model.load_state_dict(average.weights, strict=False)
            trainer.model.save_pretrained(aside / average.name)


def load_model(run: Run, weights: str, at: int | None = None) -> "models.Backbone":
    """The backbone with raw, averaged or initial weights, in evaluation mode: trained to its end, or as it was after `at` images.

    Weights `power-LENGTH` that the training did not keep are reconstructed from its snapshots. Raises manifest.Corrupt, and
    FileNotFoundError where no checkpoint was kept `at` so many.
    """
    run.needs(f"the model ({weights})")
    if weights == "init":
        return models.initial(run.params).eval()
    if weights not in run.params.train.tracks:
        return models.load(reconstructed(run, weights, at))
    if at is None:
        folder = run.path / "model" / weights
        manifest.verify(folder, f"delete {folder.parent} and run again: training goes on from its last checkpoint")
        return models.load(folder)
    folder = run.path / "checkpoints"
    kept = {checkpoint.images(path): path for path in checkpoint.complete(folder)}
    if at not in kept:
        raise FileNotFoundError(
            f"{run.name} keeps no checkpoint after {at:,} images, but after {sorted(kept)}: take one of those, or let "
            f"train.checkpoint_every and train.keep_checkpoints include it, delete {folder} and {run.path / 'model'} and "
            "run again, which trains from the beginning"
        )
    net, (tensors, _) = models.build(run.params), checkpoint.load(kept[at])
    net.load_state_dict(tensors["model"] | (tensors[weights] if weights != "raw" else {}))
    return net.eval()
