"""Sampling in the page: the part of a chapter in which a reader's browser samples with the network of its run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from guidebook.config.errors import plain
from guidebook.export.browser import PAGE, SCRIPT, exported, fits
from guidebook.runs.run import Run

HEADING = "## Sample in this page\n\n"
WITHOUT = HEADING + (
    "This page was drawn from a record, which holds no weights. `make book` trains the demo in about six minutes and puts a sampler here: "
    "any seed and scale, several solvers, image by image in your browser."
)
TEXT = (
    HEADING
    + """The network of this run samples in your browser; nothing leaves it. Seed $i$ is the noise of the
run's image number $i$, so that with its solver ({sampler}) and its {steps} steps {equal}.

What you should see: $\\hat{{x}}_0$, the image that the network expects, takes shape while $x$ is still noise. Without the prompt it is
another one than with it, and guidance leads on from the first through the second, $w$ times as far as they are apart.

"""
)
EQUAL = {
    "fp32": "the same image appears as in the run, within 2 of 255",
    "bf16": "nearly the same image appears as in the run, which computed in bf16, as browsers do not",
}
INSTEAD = {
    True: "The sliders above show samples that were drawn beforehand.",
    False: "The figures above show samples that were drawn beforehand.",
}


def sampler(run: Run, file: str, assets: Path, explorer: bool, say: Callable[[str], None]) -> str | None:
    """The Markdown of the part in chapter `file` of a run, its script copied to `assets`; None where there is none."""
    if not fits(run):
        return WITHOUT if explorer and run.recorded else None
    try:
        folder = exported(run)
    except Exception as error:  # of the exporter, which knows many: the page does without
        say(f"no sampling in the page of {run.name}: {type(error).__name__}: {plain(error)[:200]}")
        return None
    known, root = json.loads((folder / PAGE).read_text()), "../" * file.count("/")
    (assets / "live").mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / SCRIPT, assets / "live" / f"{known['name']}.js")
    held = json.dumps(known | {"instead": INSTEAD[explorer]}).replace("<", "\\u003c")
    scripts = "".join(f'<script defer src="{root}js/{name}.js"></script>\n' for name in ("solvers", "noise", "live"))
    place = f'<div class="live">\n<script type="application/json">{held}</script>\n<noscript>This part needs JavaScript.</noscript>\n</div>\n'
    return TEXT.format(**known["own"], equal=EQUAL[run.params.train.precision]) + place + scripts
