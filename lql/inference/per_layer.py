"""Per-layer embeddings: a second embedding of every token, of which each layer adds its own part.

They depend on a token's id and its scaled embedding alone, not on its position or on other tokens:
every call computes them for its own tokens, and there is nothing to cache. The table is the largest
tensor of the model; only the rows of these tokens are read from it.

Shape legend: T tokens, D hidden, L layers, E size of a layer's vector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lql.inference.feedforward import activation
from lql.inference.linear import Linear
from lql.inference.norms import Norm
from lql.inference.rows import torch_view
from vindex.dtypes import to_float32
from vindex.source import StoredTensor
from vindex.spec import Activation, PleSpec


@dataclass(frozen=True, slots=True, eq=False)
class PerLayerEmbeddings:
    """What makes the vectors of all layers.

    Attributes:
        table: [V, L * E], as stored.
        projection: D to L * E.
        norm: of each layer's part, over E.
    """

    spec: PleSpec
    table: StoredTensor
    projection: Linear
    norm: Norm

    def __call__(self, ids: Sequence[int], h: Tensor) -> Tensor:
        """The vectors of tokens.

        Args:
            ids: T token ids.
            h: their scaled embeddings, float32 [T, D].

        Returns:
            float32 [T, L, E].
        """
        rows = to_float32(self.table.array[list(ids)], self.table.dtype)  # [T, L * E]
        own = torch_view(rows).to(h.device).view(len(ids), -1, self.spec.size)
        own = own * math.sqrt(self.spec.size)
        context = self.projection(h).mul_(h.shape[1] ** -0.5).view(own.shape)
        self.norm.apply_(context)
        return context.add_(own).mul_(math.sqrt(0.5))


@dataclass(frozen=True, slots=True, eq=False)
class PerLayer:
    """How one layer adds its vectors to the residual stream.

    Attributes:
        gate: D to E.
        output: E to D.
    """

    activation: Activation
    gate: Linear
    output: Linear
    norm: Norm

    def __call__(self, h: Tensor, own: Tensor) -> Tensor:
        """What is added to ``h`` [T, D] for the layer's vectors ``own`` [T, E]: [T, D]."""
        act = activation(self.activation)
        return self.norm(self.output(act(self.gate(h)).mul_(own)))
