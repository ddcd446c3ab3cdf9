"""Multi-head latent attention as attention of all heads to one small key.

A head's score with a token is ``q · [K c | r] = [Kᵀ q_plain | q_turned] · [c | r]``, and what it
gathers is ``Σ p V c = V (Σ p c)``. So queries are carried over to the latent, every head attends to
the same keys ``[c | r]``, whose first lanes are the values too, and the result is carried back.
The cache holds R + dr numbers a token instead of those of all heads, and never expands them.

Shape legend: T tokens, H heads, S head size, dr of it turn, dn = S - dr do not, dv value size,
R rank of the latent of keys and values, Q that of queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lql.inference.linear import Linear
from lql.inference.norms import Norm
from lql.inference.rope import rotate_


@dataclass(frozen=True, slots=True, eq=False)
class Latent:
    """Weights between the projections of x and attention.

    Attributes:
        query: norm [Q] and projection [H * S, Q] of the queries' latent; ``None`` where queries
            are projected from x.
        norm: [R].
        keys: float32 [H, dn, R].
        values: float32 [H, R, dv].
    """

    query: tuple[Norm, Linear] | None
    norm: Norm
    keys: Tensor
    values: Tensor

    @property
    def resident_bytes(self) -> int:
        """Memory of ``keys`` and ``values``."""
        return sum(each.numel() * each.element_size() for each in (self.keys, self.values))

    def heads(self, projected: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and the key of new tokens.

        Args:
            projected: float32 [T, Q + R + dr], or [T, H * S + R + dr] without a queries' latent.
            rotations: complex64 [T, 1, dr / 2].

        Returns:
            Queries [T, H, R + dr] and keys [1, T, R + dr].
        """
        count, plain, rank = self.keys.shape
        turning = 2 * rotations.shape[-1]
        of_queries, of_keys = projected[:, : -rank - turning], projected[:, -rank - turning :]
        latent, turned = of_keys[:, :rank], of_keys[:, rank:]
        if self.query is not None:
            norm, up = self.query
            of_queries = up(norm(of_queries))
        queries = of_queries.view(len(projected), count, -1)  # [T, H, S]
        both = torch.cat([queries[..., plain:], turned.unsqueeze(1)], dim=1)  # [T, H + 1, dr]
        rotate_(both, rotations)
        carried = torch.bmm(queries[..., :plain].transpose(0, 1), self.keys)  # [H, T, R]
        q = torch.cat([carried.transpose(0, 1), both[:, :count]], dim=-1)
        key = torch.cat([self.norm(latent), both[:, count]], dim=-1)  # [T, R + dr]
        return q, key.unsqueeze(0)

    def outputs(self, gathered: Tensor) -> Tensor:
        """What heads give of what they gathered: [T, H * R] to [T, H * dv], float32."""
        heads = gathered.view(len(gathered), *self.values.shape[:2])  # [T, H, R]
        values = torch.bmm(heads.transpose(0, 1), self.values)  # [H, T, dv]
        return values.transpose(0, 1).reshape(len(gathered), -1)
