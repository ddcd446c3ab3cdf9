"""What can be changed in a forward pass: ablate, steer, patch. Plain values; no torch.

::

    model.infer(prompt, interventions=[AblateHead(layer=3, head=2)])
    model.infer(prompt, interventions=[Steer(12, model.direction("Paris", "Rome"), by=20.0)])
    other = model.trace(b)
    model.infer(a, interventions=[Patch(12, other.residual[13, -1:], positions=(-1,))])

Ablating is zero ablation. Positions count from 0, or from the prompt's end if they are negative.
``grammar/README.md`` names the same interventions in TransformerLens.

Notation: T tokens, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AblateFeature:
    """A feature of an FFN adds nothing, at any position."""

    layer: int
    feature: int


@dataclass(frozen=True, slots=True)
class AblateHead:
    """An attention head adds nothing, at any position."""

    layer: int
    head: int


@dataclass(frozen=True, slots=True)
class AblateLayer:
    """A layer hands on what it was given, at every position. Its keys and values stay."""

    layer: int


@dataclass(frozen=True, slots=True, eq=False)
class Steer:
    """``by * direction`` is added to the residual stream after a layer.

    Attributes:
        direction: float32 [D]; ``LoadedModel.direction`` gives one of length 1.
        positions: where; ``None`` for every position.
    """

    layer: int
    direction: Floats
    by: float
    positions: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """The residual stream after a layer is that of another run.

    Attributes:
        residual: float32 [n, D], a row for each of the positions.
        positions: n of them, all different; ``None`` for the first n.
    """

    layer: int
    residual: Floats
    positions: tuple[int, ...] | None = None


Intervention: TypeAlias = AblateFeature | AblateHead | AblateLayer | Steer | Patch
