"""What an experiment needs, brought to this machine: for nodes that have no internet."""

from collections.abc import Iterable, Iterator

from guidebook.data.catalog import CATALOG
from guidebook.data.hub import downloaded
from guidebook.data.images import load
from guidebook.data.streamed import Streamed
from guidebook.params import Params
from guidebook.paths import local_data
from guidebook.text import fetch as fetch_text


def fetched(wanted: Iterable[Params], decode: bool) -> Iterator[str]:
    """Data and weights for each, downloaded where they are missing: a line for each of them. Raises DataError and OSError.

    With `decode`, every image of a streamed set is decoded once too, for all runs.
    """
    for params in wanted:
        name = params.data.name
        if CATALOG[name].hub and not local_data(name):
            downloaded(name)
        images = load(params.data)
        yield f"{name}: {images.source}"
        if decode and isinstance(images, Streamed):
            yield f"{name}: decoded in {images.decoded.folder}"
        yield f"{params.text.encoder}: {fetch_text(params.text.encoder)}"
