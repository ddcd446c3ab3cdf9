"""Layer bands: which layers larql calls syntax, knowledge and output.

The table is larql's, by (family, number of layers). A stored value is trusted, as there; an absent
one falls back to the table, and a model too small for bands is one band, the whole stack.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import assert_never


class Band(Enum):
    """A named range of layers."""

    SYNTAX = "syntax"
    KNOWLEDGE = "knowledge"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Bands:
    """Three layer ranges, both ends inclusive."""

    syntax: tuple[int, int]
    knowledge: tuple[int, int]
    output: tuple[int, int]

    def span(self, band: Band) -> tuple[int, int]:
        """First and last layer of a band."""
        match band:
            case Band.SYNTAX:
                return self.syntax
            case Band.KNOWLEDGE:
                return self.knowledge
            case Band.OUTPUT:
                return self.output
            case _:
                assert_never(band)

    def layers(self, band: Band) -> range:
        """The layers of a band, ascending."""
        first, last = self.span(band)
        return range(first, last + 1)

    def band_of(self, layer: int) -> Band | None:
        """The first band, in model order, that holds a layer."""
        return next((band for band in Band if layer in self.layers(band)), None)

    def to_json(self) -> dict[str, list[int]]:
        """As ``index.json`` holds it."""
        return {band.value: list(self.span(band)) for band in Band}


#: (family, layers) -> (last syntax layer, last knowledge layer).
_TABLE: Mapping[tuple[str, int], tuple[int, int]] = {
    ("gemma3", 34): (13, 27),
    ("gemma3", 42): (16, 34),
    ("gemma2", 42): (16, 34),
    ("gemma2", 26): (10, 20),
    ("gemma2", 46): (18, 37),
    ("gemma4", 30): (11, 23),
    ("gemma4", 35): (13, 27),
    ("gemma4", 36): (14, 28),
    ("gemma4", 60): (23, 47),
    **{(family, 32): (12, 25) for family in ("llama", "mistral", "mixtral", "qwen2", "phi")},
    **{(family, 40): (15, 32) for family in ("llama", "qwen2", "phi")},
    **{(family, 80): (31, 63) for family in ("llama", "qwen2")},
    ("qwen2", 28): (10, 22),
    ("qwen2", 64): (25, 51),
    ("gpt2", 12): (4, 9),
    ("gpt2", 24): (9, 19),
    ("gpt2", 36): (14, 28),
    ("gpt2", 48): (19, 38),
}

_FEWEST_LAYERS = 8


def bands_for(family: str, num_layers: int) -> Bands | None:
    """larql's bands for a model, or ``None`` when it has fewer than eight layers."""
    if (family, num_layers) in _TABLE:
        last_syntax, last_knowledge = _TABLE[family, num_layers]
    elif num_layers >= _FEWEST_LAYERS:
        last_syntax, last_knowledge = 2 * num_layers // 5 - 1, 4 * num_layers // 5 - 1
    else:
        return None
    return Bands(
        (0, last_syntax), (last_syntax + 1, last_knowledge), (last_knowledge + 1, num_layers - 1)
    )
