"""What a cell says: a name to keep the answer under, and the statements."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlUsageError

if TYPE_CHECKING:
    from lql.params import ParameterValue

_BINDING = re.compile(r"\s*([^\W\d]\w*)\s*<<(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Cell:
    """One magic, taken apart.

    Attributes:
        target: the Python name that the last result is kept under; ``None``: it is shown.
        text: the statements.
        name: what messages call the text.
    """

    target: str | None
    text: str
    name: str


def cell_of(line: str, body: str | None) -> Cell:
    """Read ``%lql line``, or ``%%lql line`` with the cell's body.

    Raises:
        LqlUsageError: a body, and something other than ``name <<`` beside ``%%lql``.
    """
    if body is None:
        return _bound(line, "<%lql>")
    if not line.strip():
        return _bound(body, "<%%lql>")
    beside = _bound(line, "<%%lql>")
    if beside.target is None or beside.text.strip():
        raise LqlUsageError(
            Diagnostic(
                Code.USAGE,
                f"%%lql {line.strip()}: statements stand below %%lql, not beside it",
                helps=("beside it only a name for the result: %%lql found <<",),
            )
        )
    return Cell(beside.target, body, "<%%lql>")


def _bound(text: str, name: str) -> Cell:
    found = _BINDING.fullmatch(text)
    return Cell(None, text, name) if found is None else Cell(found[1], found[2], name)


def values(namespace: Mapping[str, Any]) -> dict[str, ParameterValue]:
    """The variables of a notebook that can stand for a ``:name``.

    NumPy and pandas values are what they hold; anything else than text, numbers, paths and lists
    of them is left out, so that a statement that asks for it hears that it has no value.
    """
    return {
        name: plain
        for name, value in namespace.items()
        if not name.startswith("_") and (plain := _plain(value)) is not None
    }


def _plain(value: Any) -> ParameterValue | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str | int | float | PathLike):
        return value
    if hasattr(value, "tolist"):  # NumPy, pandas and torch alike
        value = value.tolist()
        return value if isinstance(value, str | int | float | list) else None
    return list(value) if isinstance(value, list | tuple) else None
