"""Whether an edit of one attribute in a caption is seen in the image."""

from guidebook.config.datasets import ATTRIBUTES
from guidebook.metrics.intervals import wilson
from guidebook.metrics.judge import judge
from guidebook.metrics.measure import once
from guidebook.metrics.subject import Subject, of_samples
from guidebook.runs.run import Run
from guidebook.sampling.sets import ImageSet


def edit_records(run: Run, images: ImageSet) -> list[dict]:
    """`edit` of each attribute: the share of faces in which the judge sees it as the changed caption has it.

    `edit_before` is the same before the change, which a model that ignores it stays at.
    """
    names = images.draw.edits

    def make(run: Run, subject: Subject) -> list[dict]:
        network, records = judge(run.params.data), []
        seen = network.features(subject.images)["classes"]
        for i, name in enumerate(names):
            bit = 1 << ATTRIBUTES.index(name)
            wanted = subject.labels[i + 1 :: 1 + len(names)] & bit
            for metric, at in (("edit_before", 0), ("edit", i + 1)):
                right = (seen[at :: 1 + len(names)] & bit) == wanted
                value, n = wilson(int(right.sum()), len(right)), len(right)
                records.append(subject.record(metric, value, "Wilson", network, attribute=name, n=n))
        return records

    return once(run, of_samples(images), "edits", make, names, needed=True)
