"""Captions: what the model is told about an image."""

NULL = ""  # the null caption: what guidance calls unconditional


def caption(template: str, label: str) -> str:
    """`A handwritten digit {label}` with the class name put in. A plain replacement: the template cannot reach further."""
    return template.replace("{label}", label)


def class_captions(template: str, classes: tuple[str, ...]) -> list[str]:
    """One caption per class, in label order."""
    return [caption(template, name) for name in classes]
