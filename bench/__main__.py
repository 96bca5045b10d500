"""`python -m bench NAME`: measures on this machine, as ratios within one run, and writes `book/results/bench/<name>-….json`.

`six` measures no speed but what a Fréchet distance of six images says, on CIFAR-100, and writes `book/results/six-images.json`.
`foundations` executes the notebook of that name and keeps it as `book/results/foundations.ipynb`, which is the page of the book.
`loop` and `checkpoint` are the library's own cost and write nothing. `train`, `sample` and `quality` compare it with diffusers' examples
and pipelines, `loader` ways to load images, `batch` sizes of a batch, `latents` ways to train in latents and pixels, `cache` how
the building of latents scales with processes, `networks` transformers and layers that join tokens.
"""

import argparse
import sys
from pkgutil import resolve_name

from guidebook.config import params as P
from guidebook.config.errors import nearest
from guidebook.config.paths import PARAMS

# Benches of one setting, and of any experiment: which is measured if none is named
FIXED = {"loop": "mnist/demo", "checkpoint": "mnist/demo", "loader": "wikiart/demo", "latents": "celeba/paper",
    "cache": "celeba/demo", "six": "cifar10/paper", "foundations": "mnist/demo",
    "networks": "cifar10/demo"}  # fmt: skip
FREE = {"train": "cifar10", "sample": "cifar10", "quality": "cifar10", "batch": "wikiart"}
MODULES = dict.fromkeys(("loop", "checkpoint"), "own")


def setting(name: str, experiment: str | None, profile: str | None) -> P.Params:
    """The parameters that a bench measures; the profile is `best` where there are one and a GPU, else `demo`. Raises ParamsError."""
    if name not in (known := [*FIXED, *FREE]):
        raise P.ParamsError(f"bench {name[:60]!r} is not known{nearest(name, known)}; there are: {', '.join(known)}")
    if name in FIXED:
        if experiment or profile:
            given = "--experiment" if experiment else "--profile"
            raise P.ParamsError(f"{given} is for {', '.join(FREE)}: bench {name} measures {FIXED[name]}, leave it out")
        return P.load(*FIXED[name].split("/"))
    experiment = experiment or FREE[name]
    params = P.load(experiment, profile or "demo")
    if profile is None and (PARAMS / experiment / "best.yml").exists():
        import torch

        params = P.load(experiment, "best") if torch.cuda.is_available() else params
    return params


def main(words: list[str] | None = None) -> None:
    """The command; wrong words are one line on stderr and exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", help=f"of one setting: {', '.join(FIXED)}; of an experiment: {', '.join(FREE)}")
    parser.add_argument("--experiment", help="cifar10 if not given, wikiart for batch")
    parser.add_argument("--profile", help="of the experiment; if not given demo, or best where there are one and a GPU")
    given = parser.parse_args(words)
    try:
        params = setting(given.name, given.experiment, given.profile)
    except P.ParamsError as error:
        sys.exit(f"bench: {error}")
    resolve_name(f"bench.{MODULES.get(given.name, given.name)}:{given.name}")(params)


if __name__ == "__main__":
    main()
