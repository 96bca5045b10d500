"""Whether an attribute that is switched in a caption is switched in the image."""

from guidebook.config.datasets import ATTRIBUTES
from guidebook.config.params import digest
from guidebook.metrics.features import features
from guidebook.metrics.intervals import wilson
from guidebook.metrics.measure import once
from guidebook.metrics.networks import JudgeNetwork
from guidebook.metrics.subject import drawn, record
from guidebook.runs.run import Run
from guidebook.sampling.sets import ImageSet


def edit_records(run: Run, images: ImageSet) -> list[dict]:
    """`edit` of each attribute: of the faces whose caption was changed in it, in how many the judge sees it as the new caption says.

    `edit_before` is the same of those faces before the change, which a model that ignores it stays at.
    """
    names, known = images.draw.edits, drawn(images)
    key = digest(["edits and before", known])

    def make() -> list[dict]:
        network, found = JudgeNetwork(run.params.data), []
        seen = features(images.images, network)["classes"]
        for i, name in enumerate(names):
            bit = 1 << ATTRIBUTES.index(name)
            wanted = images.labels[i + 1 :: 1 + len(names)] & bit
            for metric, at in (("edit_before", 0), ("edit", i + 1)):
                right = (seen[at :: 1 + len(names)] & bit) == wanted
                value, of = wilson(int(right.sum()), len(right)), {"attribute": name, "n": len(right)}
                found.append(record(metric, value, "Wilson", network, None, known | of))
        return found

    return once(run, images.name, key, "edits", make)
