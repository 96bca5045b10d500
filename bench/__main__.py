"""`python -m bench NAME`: measures speed on this machine, as ratios within one run, and keeps what it found in `book/results/bench/`."""

import argparse
import sys

from guidebook.config import params as P
from guidebook.config.errors import nearest
from guidebook.config.paths import PARAMS

# Benches that have a setting of their own, and which
OWN = {
    "loop": "mnist/demo",
    "checkpoint": "mnist/demo",
    "loader": "wikiart/demo",
    "latents": "celeba/paper",
    "cache": "celeba/demo",
}
AGAINST = ("train", "sample", "quality", "batch")  # of an experiment: against others, or by size


def asked(what: str, experiment: str | None, profile: str | None) -> P.Params | None:
    """The parameters that the bench `what` measures; None where it has its own. Raises ParamsError.

    The experiment, if not given, is cifar10, or wikiart where the batch is the matter; the profile `best` where there are
    one and a GPU, else `demo`.
    """
    if what not in (known := [*OWN, *AGAINST]):
        raise P.ParamsError(f"bench {what[:60]!r} is not known{nearest(what, known)}; there are: {', '.join(known)}")
    if what in OWN:
        if experiment or profile:
            given = "--experiment" if experiment else "--profile"
            raise P.ParamsError(f"{given} is for {', '.join(AGAINST)}: bench {what} measures {OWN[what]}, leave it out")
        return None
    experiment = experiment or ("wikiart" if what == "batch" else "cifar10")
    params = P.load(experiment, profile or "demo")
    if profile is None and (PARAMS / experiment / "best.yml").exists():
        import torch

        if torch.cuda.is_available():
            return P.load(experiment, "best")
    return params


def main(words: list[str] | None = None) -> None:
    """The command; wrong words are one line on stderr and exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", help=f"the library's own cost: {', '.join(OWN)}; against others: {', '.join(AGAINST)}")
    parser.add_argument("--experiment", help="whose data; cifar10, or wikiart for batch")
    parser.add_argument("--profile", help="of the experiment; if not given demo, or best where there are one and a GPU")
    given = parser.parse_args(words)
    try:
        params = asked(given.name, given.experiment, given.profile)
    except P.ParamsError as error:
        sys.exit(f"bench: {error}")
    import bench  # after a refusal, for it is heavy

    bench.BENCHES[given.name](print, **({"params": params} if params else {}))


if __name__ == "__main__":
    main()
