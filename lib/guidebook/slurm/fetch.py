"""Data and weights of experiments, downloaded for nodes that have no internet."""

import os
from collections.abc import Iterable, Iterator

from guidebook.config import pretrained
from guidebook.config.datasets import DataError
from guidebook.config.params import Params, origin
from guidebook.data.files import files_of
from guidebook.data.images import Images, Streamed, load
from guidebook.models.autoencoder import of_run
from guidebook.models.latents import encoded
from guidebook.runs.manifest import intact


def fetched(wanted: Iterable[Params], decode: bool) -> Iterator[str]:
    """A line for each data set and model, which is downloaded where it is missing. Raises DataError, PretrainedMissing and OSError.

    With `decode`, every image of a set too large for memory is decoded and every latent encoded, of which a task of an array does its share.
    """
    for params in (each for one in wanted for each in ([one] if origin(one) is one else [origin(one), one])):
        name, entry = params.data.name, params.data.entry
        files = files_of(params.data, download=True) if entry.stand_in else None
        for weights in pretrained.named(params):
            yield f"{weights}: {pretrained.fetch(weights)}"
        if entry.mapped and not decode:
            yield f"{name}: in {params.data.path or files.train[0].parent}"
            continue
        images = load(params.data)
        yield f"{name}: {images.source}"
        if decode and isinstance(images, Streamed):
            images.cache.decode()
            yield f"{name}: decoded in {images.cache.folder}"
        if decode and params.model.vae:
            yield _encoded(params, images)


def _encoded(params: Params, images: Images) -> str:
    tasks = int(os.environ.get("SLURM_ARRAY_TASK_COUNT", 1))
    first = int(os.environ.get("SLURM_ARRAY_TASK_MIN", 0))
    if tasks > 1 and int(os.environ["SLURM_ARRAY_TASK_MAX"]) - first + 1 != tasks:
        raise DataError("the tasks of the array must be numbered without gaps: submit all of it, as --array=0-15, say")
    share = (int(os.environ["SLURM_ARRAY_TASK_ID"]) - first, tasks) if tasks > 1 else None
    model = of_run(params)
    folder = encoded(model, images.train.images, images.fingerprint, params.data.flips, share=share)
    state = f" in {folder}" if intact(folder) else ": this share is done, the last task to end puts them together"
    return f"{params.data.name}: latents of {model.name}{state}"
