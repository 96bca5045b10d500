"""What the words of a command line mean: `--set` and `--seeds`."""

import yaml

from guidebook.config.params import ParamsError


def seeds(text: str | None) -> list[int] | None:
    """`0,1,2` as numbers. Raises ParamsError."""
    words = text.split(",") if text is not None else None
    if words is None or all(w.strip().isdecimal() and len(w) < 30 for w in words):
        return words and [int(w) for w in words]
    raise ParamsError(f"--seeds {text[:60]!r}: write whole numbers with commas between them: 0,1,2")


def overrides(pairs: list[str] | None) -> dict:
    """`train.lr=1e-4` as `{"train.lr": 1e-4}`, its values as YAML reads them. Raises ParamsError."""
    values = {}
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ParamsError(f"--set {pair[:60]!r}: write section.key=value")
        try:
            value = yaml.safe_load(text)
            values[key] = float(value) if isinstance(value, str) and value[:1].isdigit() else value
        except (yaml.YAMLError, ValueError):
            values[key] = text
    return values
