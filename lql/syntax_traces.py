"""The statements that look into a forward pass, and what they can change in it.

``lql.ast`` re-exports them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from lql.syntax_nodes import IntegerSlot, LayerRange, Node, NumberSlot, TextSlot
from lql.syntax_words import PromptMode, TracePositions


class Ablated(Enum):
    """What ABLATE takes out of a model."""

    FEATURE = "FEATURE"
    HEAD = "HEAD"
    LAYER = "LAYER"


@dataclass(frozen=True, slots=True)
class Ablation(Node):
    """``FEATURE layer:index``, ``HEAD layer.index`` or ``LAYER layer``, which has no index."""

    kind: Ablated
    layer: IntegerSlot
    index: IntegerSlot | None = None


@dataclass(frozen=True, slots=True)
class Steering(Node):
    """``toward [- away] BY amount AT LAYER layer``."""

    toward: TextSlot
    away: TextSlot | None
    amount: NumberSlot
    layer: IntegerSlot


@dataclass(frozen=True, slots=True)
class PositionRange(Node):
    """``first - last``, both ends included; a negative one counts back from the prompt's end.

    ``first <= last`` when both are literals of one sign.
    """

    first: IntegerSlot
    last: IntegerSlot


@dataclass(frozen=True, slots=True)
class Trace(Node):
    """``TRACE prompt …``; without a prompt, of the trace that USE TRACE opened.

    Attributes:
        answer: what FOR follows through the layers.
        positions: of the prompt; ranges in any order, which may overlap.
        heads, features: show these in the place of layers; they exclude each other.
        diff: another prompt, to compare with.
        patch_layer: where the pass gets the residual stream of ``diff``.
    """

    title: ClassVar[str] = "TRACE"
    prompt: TextSlot | None = None
    answer: TextSlot | None = None
    decompose: bool = False
    layers: LayerRange | None = None
    positions: TracePositions | tuple[PositionRange, ...] | None = None
    save: TextSlot | None = None
    prompt_mode: PromptMode | None = None
    limit: IntegerSlot | None = None
    heads: bool = False
    features: bool = False
    overwrite: bool = False
    diff: TextSlot | None = None
    patch_layer: IntegerSlot | None = None
    ablate: tuple[Ablation, ...] = ()
    steer: tuple[Steering, ...] = ()


@dataclass(frozen=True, slots=True)
class UseTrace(Node):
    """``USE TRACE path``: a saved trace for TRACE without a prompt."""

    title: ClassVar[str] = "USE TRACE"
    path: TextSlot
