"""Points of a forward pass that can be looked at, and where other values can be put in.

What stands at a tap is float32 [T, D] unless it says otherwise; [Q, D] after the last keys (see
``Decoder.forward``). A pass that nobody watches pays for none of this.

Of a layer, ``OUTPUT`` is the previous layer's (for the first, ``INPUT``), plus ``ATTENTION``,
``ATTENTION_NORM``, ``FFN``, ``FFN_NORM``, ``PER_LAYER``, ``SCALAR`` and every ``INTERVENTION``, as
far as the model has them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from torch import Tensor


class Tap(Enum):
    """A point of a layer."""

    INPUT = "input"  # the residual stream before the layer; can be changed
    HEADS = "heads"  # [T, H * S'] what the heads gathered, before the projection; can be changed
    ATTENTION = "attention"  # what attention adds to the residual stream; can be changed
    ATTENTION_NORM = "attention_norm"  # what a norm on the stream changes, attention added
    FFN_RESIDUAL = "ffn_residual"  # the residual stream that the FFN's input is made of
    FFN_INPUT = "ffn_input"  # the normed input of the FFN; can be changed
    FFN = "ffn"  # what the FFN adds to the residual stream; can be changed
    FFN_NORM = "ffn_norm"  # what a norm on the stream changes, the FFN added
    PER_LAYER = "per_layer"  # what a per-layer embedding adds; can be changed
    SCALAR = "scalar"  # what the layer's factor on the whole stream changes
    INTERVENTION = "intervention"  # what an intervention at INPUT or OUTPUT changes
    OUTPUT = "output"  # the residual stream after the layer; can be changed


class Observer(Protocol):
    """Looks at values of a forward pass. They are only valid during the call: copy to keep."""

    def __call__(self, tap: Tap, layer: int, values: Tensor) -> None:
        """Called for every tap of every layer, in order of computation."""


class Intervene(Protocol):
    """Puts other values in the place of those at a tap that can be changed."""

    def __call__(self, tap: Tap, layer: int, values: Tensor) -> Tensor:
        """The values to go on with: the same object, or others of the same shape."""


class PatternObserver(Protocol):
    """Looks at what the heads attend to."""

    def __call__(self, layer: int, shares: Tensor) -> None:
        """Called for every layer with the last token's attention.

        Args:
            shares: float32 [H, n], of the n last tokens; a sink's share is missing from the sum.
        """


@dataclass(frozen=True, slots=True, eq=False)
class HeadHooks:
    """The hooks inside one layer's attention."""

    gathered: Callable[[Tensor], Tensor]
    pattern: Callable[[Tensor], None] | None


@dataclass(frozen=True, slots=True, eq=False)
class Hooks:
    """Everybody who watches or changes one forward pass."""

    observe: Observer | None
    intervene: Intervene | None
    patterns: PatternObserver | None

    @staticmethod
    def of(
        observe: Observer | None, intervene: Intervene | None, patterns: PatternObserver | None
    ) -> Hooks | None:
        """Hooks, or ``None`` where nobody watches."""
        if observe is None and intervene is None and patterns is None:
            return None
        return Hooks(observe, intervene, patterns)

    def see(self, tap: Tap, layer: int, values: Tensor) -> None:
        """Values that can be looked at only."""
        if self.observe is not None:
            self.observe(tap, layer, values)

    def value(self, tap: Tap, layer: int, values: Tensor) -> Tensor:
        """Values that can be changed; observers see what is gone on with."""
        if self.intervene is not None:
            values = self.intervene(tap, layer, values)
        self.see(tap, layer, values)
        return values

    def stream(self, tap: Tap, layer: int, h: Tensor) -> Tensor:
        """The residual stream, which can be changed; what that changes is a contribution.

        At ``INPUT`` observers see the stream as it came, so that contributions follow it; at
        ``OUTPUT`` as it goes.
        """
        if tap is Tap.INPUT:
            self.see(tap, layer, h)
        if self.intervene is not None:
            after = self.intervene(tap, layer, h)
            if after is not h:
                self.see(Tap.INTERVENTION, layer, after - h)
                h = after
        if tap is Tap.OUTPUT:
            self.see(tap, layer, h)
        return h

    def heads(self, layer: int) -> HeadHooks:
        """The hooks inside a layer's attention."""
        patterns = self.patterns
        return HeadHooks(
            gathered=lambda values: self.value(Tap.HEADS, layer, values),
            pattern=None if patterns is None else lambda shares: patterns(layer, shares),
        )
