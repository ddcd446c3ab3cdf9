"""Results of statements that change what is in use: EXTRACT, USE, SET, DEFINE RELATION."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from lql.results.base import Form, Record, fields_of


@dataclass(frozen=True, slots=True, kw_only=True)
class UseResult(Record):
    """What became current.

    Attributes:
        path: of the vindex, or the reference of the model.
        level, dtype: of a vindex; ``None`` for a model used without extraction.
    """

    form: ClassVar[Form] = Form.STATUS
    path: str
    model: str
    family: str
    layers: int
    features: int
    level: str | None
    dtype: str | None

    def to_dict(self) -> dict[str, Any]:
        """The facts."""
        return fields_of(self, without=("meta",))


@dataclass(frozen=True, slots=True, kw_only=True)
class DefineRelationResult(Record):
    """A relation that DESCRIBE asks for from now on.

    Attributes:
        kind: of the entities it is asked about; ``None`` for all.
    """

    form: ClassVar[Form] = Form.STATUS
    relation: str
    templates: tuple[str, ...]
    kind: str | None

    def to_dict(self) -> dict[str, Any]:
        """The facts."""
        return {
            "relation": self.relation,
            "templates": list(self.templates),
            "kind": self.kind,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractResult(Record):
    """The vindex that was written.

    Attributes:
        size_bytes: of all its files.
        dropped: checkpoint tensors left out on purpose, by the name of the rule.
        seconds: wall time by phase.
    """

    model: str
    path: str
    family: str
    level: str
    dtype: str
    quant: str
    layers: int
    features: int
    size_bytes: int
    dropped: dict[str, int]
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """The facts."""
        return fields_of(self, without=("meta",))


@dataclass(frozen=True, slots=True, kw_only=True)
class SetResult(Record):
    """What an option, or a variable, is from now on."""

    form: ClassVar[Form] = Form.STATUS
    option: str
    value: str | int | float
    variable: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The facts."""
        return fields_of(self, without=("meta",))
