"""What a bench is asked to measure, settled before anything heavy is imported."""

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
