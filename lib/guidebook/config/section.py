"""Sections of values that are checked, and refused in one line: the base of all params files. Nothing here imports torch."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from guidebook.config.errors import nearest, shown, unknown


def Tuple(low: int, high: int = 64) -> Any:
    """A YAML list of `low` to `high` entries, kept as a tuple."""
    return Field(strict=False, min_length=low, max_length=high)


class Section(BaseModel):
    """Values with a name each, refused where a name is unknown or missing, or a value is not allowed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def conflicts(self) -> Iterable[str]:
        """A sentence on each pair of values that cannot go together."""
        return ()

    @classmethod
    def parameters(cls) -> set[str]:
        """Names of its values, whatever its kind."""
        return set(cls.model_fields)

    @model_validator(mode="wrap")
    @classmethod
    def _checked(cls, raw, handler):
        for key in raw if isinstance(raw, Mapping) else ():
            if key not in cls.model_fields:
                raise unknown(key, cls.model_fields, raw[key])
        section = handler(raw)
        for conflict in section.conflicts():
            raise ValueError(conflict)
        return section


class Kinds(Section):
    """A section of several kinds, told apart by `kind`: a class below names the section, and each class below that is one kind."""

    kind: str
    kinds: ClassVar[dict[str, type["Kinds"]]]

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        if Kinds in cls.__bases__:
            cls.kinds = {}
        else:
            cls.kinds[cls.model_fields["kind"].default] = cls

    @classmethod
    def parameters(cls) -> set[str]:
        return {name for kind in cls.kinds.values() for name in kind.model_fields}

    @model_validator(mode="wrap")
    @classmethod
    def _checked(cls, raw, handler):
        if Kinds not in cls.__bases__ or not isinstance(raw, Mapping):
            return super()._checked(raw, handler)
        if isinstance(kind := raw.get("kind"), str) and kind in cls.kinds:
            return cls.kinds[kind].model_validate(raw)
        near = nearest(kind, list(cls.kinds)) if isinstance(kind, str) else ""
        given = f"= {shown(kind)} is not known{near}" if "kind" in raw else "is missing"
        raise ValueError(f"{cls.__name__.lower()}.kind {given}; allowed there: {', '.join(cls.kinds)}")
