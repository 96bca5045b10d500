"""YAML in files of parameters, read without trusting what is in them, and in the words of a command line."""

import re
from pathlib import Path
from typing import Any

import yaml

from guidebook.config.errors import ParamsError, plain

LONGEST = 100_000  # bytes of a params file
DEEPEST = 100  # levels of lists and mappings
# Numbers and truths as they look, and not 010 (8 in YAML 1.1), 1:30 (90), 1_000 or yes
PLAIN = re.compile(r"[-+]?(0|[1-9]\d*|0x[\da-f]+|\d*\.\d*(e[-+]\d+)?|\.inf)|\.nan|true|false", re.ASCII | re.IGNORECASE)
TYPED = {f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool")}
POWER = re.compile(r"[-+]?\d+(\.\d*)?e[-+]?\d+", re.ASCII | re.IGNORECASE)  # of ten: text in YAML 1.1


def read(path: Path) -> dict:
    """The mapping in a YAML file, unchecked. Raises ParamsError."""
    name = plain(path.name)
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no file")  # and no device, which might never end
        with open(path, "rb") as file:
            text = file.read(LONGEST + 1)
        if len(text) > LONGEST:
            raise ValueError(f"it is longer than the {LONGEST:,} bytes that are allowed")
        raw = _parsed(text.decode())
    except (FileNotFoundError, NotADirectoryError):
        raise ParamsError(f"{name}: there is no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise ParamsError(f"{name} cannot be read as YAML: {plain(error)[:200]}") from None
    if not isinstance(raw, dict):
        raise ParamsError(f"{name} must hold `key: value` lines, found {type(raw).__name__}")
    return raw


def _parsed(text: str) -> Any:
    """The value of a YAML text. Raises ParamsError, YAMLError, ValueError."""
    level = 0
    for event in yaml.parse(text, _Loader):  # libyaml would recurse until its stack ends
        level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if level > DEEPEST:
            raise ValueError(f"it is nested deeper than the {DEEPEST} levels that are allowed")
    return _Loader(text).get_single_data()


class _Loader(yaml.CSafeLoader):
    """YAML without objects, duplicate keys, numbers that are not what they look like, and the merge key `<<`, which can grow a file
    a millionfold."""

    def construct_scalar(self, node):
        if node.tag in TYPED and not PLAIN.fullmatch(node.value):
            raise ParamsError(
                f"YAML takes {plain(node.value)[:60]} for another value: write 8 or true, or text in quotes"
            )
        return super().construct_scalar(node)

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, "the merge key << is not allowed", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                name = self.construct_object(key)
                if name in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{name!r:.60} stands twice", key.start_mark)
                seen.add(name)
        return super().construct_mapping(node, deep)


def overrides(pairs: list[str] | None) -> dict:
    """The words of `--set`: `train.lr=1e-4` becomes `{"train.lr": 1e-4}`. Raises ParamsError."""
    values = {}
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ParamsError(f"--set {pair[:60]!r}: write section.key=value")
        try:  # as in a file, but 1e-4 is a number, and what is no YAML is text
            values[key] = float(text) if POWER.fullmatch(text) else _parsed(text)
        except ParamsError:
            raise
        except (yaml.YAMLError, ValueError, RecursionError):
            values[key] = text
    return values


def seeds(text: str | None) -> list[int] | None:
    """The words of `--seeds`: `0,1,2` as numbers. Raises ParamsError."""
    words = text.split(",") if text is not None else []
    if not all(w.strip().isdecimal() and len(w) < 30 for w in words):
        raise ParamsError(f"--seeds {text[:60]!r}: write whole numbers with commas between them: 0,1,2")
    return [int(w) for w in words] or None
