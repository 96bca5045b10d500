"""YAML in files of parameters, read without trusting what is in them, and in the words of a command line."""

from pathlib import Path

import yaml

from guidebook.config.errors import ParamsError, plain

LONGEST = 100_000  # bytes of a params file


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
        raw = _Loader(text.decode()).get_single_data()
    except (FileNotFoundError, NotADirectoryError):
        raise ParamsError(f"{name}: there is no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise ParamsError(f"{name} cannot be read as YAML: {plain(error)[:200]}") from None
    if not isinstance(raw, dict):
        raise ParamsError(f"{name} must hold `key: value` lines, found {type(raw).__name__}")
    return raw


class _Loader(yaml.SafeLoader):
    """YAML without objects, duplicate keys, and the merge key `<<`, which can grow a file a millionfold."""

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
        try:
            value = yaml.safe_load(text)
            values[key] = float(value) if isinstance(value, str) and value[:1].isdigit() else value
        except (yaml.YAMLError, ValueError):
            values[key] = text
    return values


def seeds(text: str | None) -> list[int] | None:
    """The words of `--seeds`: `0,1,2` as numbers. Raises ParamsError."""
    words = text.split(",") if text is not None else []
    if not all(w.strip().isdecimal() and len(w) < 30 for w in words):
        raise ParamsError(f"--seeds {text[:60]!r}: write whole numbers with commas between them: 0,1,2")
    return [int(w) for w in words] or None
