"""What an experiment needs, brought to this machine: for nodes that have no internet."""

import os
from collections.abc import Iterable, Iterator

from guidebook.config import pretrained
from guidebook.config.datasets import CATALOG, DataError
from guidebook.config.params import Params
from guidebook.config.paths import local_data
from guidebook.data.hub import downloaded
from guidebook.data.images import Images, Streamed, load
from guidebook.models.autoencoder import autoencoder
from guidebook.models.latents import encoded
from guidebook.runs.manifest import intact


def fetched(wanted: Iterable[Params], decode: bool) -> Iterator[str]:
    """Data and weights for each, downloaded where they are missing: a line for each of them.

    With `decode`, every image of a set too large for memory is decoded once too, and every latent encoded, for all runs; of the latents a
    task of a SLURM array does its share. Raises DataError, PretrainedMissing and OSError.
    """
    for params in wanted:
        name, entry = params.data.name, CATALOG[params.data.name]
        place = (local_data(name) or downloaded(name)) if entry.hub else None
        for weights in filter(None, (params.text.encoder, params.model.vae)):
            yield f"{weights}: {pretrained.fetch(weights)}"
        if entry.mapped and not decode:
            yield f"{name}: in {place}"
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
        raise DataError("the tasks of the array are not numbered without gaps: submit it as --array=0-15, say, whole")
    share = (int(os.environ["SLURM_ARRAY_TASK_ID"]) - first, tasks) if tasks > 1 else None
    model = autoencoder(params.model.vae, params.data)
    folder = encoded(model, images.train.images, images.fingerprint, params.data.flips, share=share)
    what = f"{params.data.name}: latents of {model.name}"
    return (
        f"{what} in {folder}"
        if intact(folder)
        else f"{what}: this share is done, the last task to end puts them together"
    )
