"""The fields by which every metric record says what was measured; `Subject.record` writes them."""

HOW = ("guidance", "prompt", "sampler", "steps", "weights", "seed")  # facts of a draw that every record repeats
ALSO = ("eta", "spacing", "method", "settings", "guide", "at")  # given only where they are not as usual
REAL = dict.fromkeys((*HOW, "seconds_per_image"))  # the same fields of real images


def fields(facts: dict) -> dict:
    """The fields of the records of a set of samples, from the facts in its `set.json`."""
    return {k: facts.get(k) for k in (*REAL, "n")} | {k: facts[k] for k in ALSO if k in facts}
