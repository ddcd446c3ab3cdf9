"""Results of statements that scripts are made of: ASSERT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from lql.results.base import Form, Record, fields_of


@dataclass(frozen=True, slots=True, kw_only=True)
class AssertResult(Record):
    """Something that holds; what does not is an error.

    Attributes:
        claim: what was asked and expected, in words of the language.
        expected: the comparator and the value after it.
        found: what was there.
        message: the user's own words for it.
    """

    form: ClassVar[Form] = Form.STATUS
    claim: str
    expected: str
    found: str
    message: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The facts."""
        return fields_of(self, without=("meta",))
