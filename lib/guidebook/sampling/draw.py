"""Sets of samples: drawn once with everything that their specification says, found afterwards."""

import logging
import os
from pkgutil import resolve_name
from typing import Any

from guidebook.config.sampling import Guidance
from guidebook.runs import launch
from guidebook.runs.run import Run
from guidebook.sampling.sets import ImageSet, image_set, path_of
from guidebook.sampling.spec import Draw

log = logging.getLogger(__name__)


def draw(run: Run, guidance: Guidance | float, n: int, **spec: Any) -> ImageSet:
    """n samples guided in one way (a number is a scale of plain guidance); `spec` as in `Draw.of`.

    Image i has seed (sample.seed, i), the same at every scale, by every solver and way to guide, and shows class i mod K, or
    `prompt` where one is given. A record holds fewer than it drew: the first of them; that it has not all is said, but not while a page is redrawn.
    """
    found = sample_set(run, Draw.of(run.params, guidance, n, **spec))
    if (kept := len(found.pixels)) < n and "GUIDEBOOK_RECORD" not in os.environ:
        log.warning("the record of %s keeps the first %d of these %d images", run.name, kept, n)
    return found


def sample_set(run: Run, draw: Draw | dict) -> ImageSet:
    """The set of a `Draw`, or of its JSON: found in the run folder, else drawn. A stage of `runs.launch`."""
    draw = Draw.model_validate(draw)
    spec = {"draw": draw.json}
    folder = path_of(run, draw.name, spec)
    if not folder.exists() and not run.recorded and launch.wanted(run.params):
        launch.do(run, "draw", **spec)
    # Imported where it draws: a record is read without torch.
    return image_set(run, draw.name, spec, lambda: resolve_name("guidebook.sampling.sampler:drawn")(run, draw, folder))
