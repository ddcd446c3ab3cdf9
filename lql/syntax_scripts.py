"""The statements of scripts: options and variables, other files, and what must hold.

``lql.ast`` re-exports them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from lql.syntax_nodes import Node, Scalar, TextSlot, Word
from lql.syntax_words import Comparator

if TYPE_CHECKING:
    from lql.ast import Infer, Select


@dataclass(frozen=True, slots=True)
class SetOption(Node):
    """``SET option = value``: an option of the session, or a variable that ``:name`` stands for."""

    title: ClassVar[str] = "SET"
    option: Word
    value: Word | Scalar


@dataclass(frozen=True, slots=True)
class Include(Node):
    """``INCLUDE path``: the statements of another file, in this one's place."""

    title: ClassVar[str] = "INCLUDE"
    path: TextSlot


@dataclass(frozen=True, slots=True)
class Probability(Node):
    """``PROBABILITY prompt OF target``: how likely the model goes on with a text."""

    prompt: TextSlot
    target: TextSlot


Claim: TypeAlias = "Infer | Select | Probability"


@dataclass(frozen=True, slots=True)
class Assert(Node):
    """``ASSERT subject comparator expected [message]``.

    Attributes:
        subject: what is asked.
        comparator: of INFER only ``=`` and ``!=``.
        expected: of INFER a token, of SELECT any value, of PROBABILITY a number.
        message: said where it does not hold.
    """

    title: ClassVar[str] = "ASSERT"
    subject: Claim
    comparator: Comparator
    expected: Scalar
    message: TextSlot | None = None
