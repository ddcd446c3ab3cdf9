"""The change of a down matrix that maps given keys to given vectors and little else to anything.

MEMIT's closed form. The down matrix W of a layer gets the smallest change, measured by how other
text uses it, that maps the keys K of facts to the vectors R:

    dW = R (I + Kᵀ A⁻¹ K)⁻¹ Kᵀ A⁻¹,    A = weight · C + guard · P Pᵀ

C are the second moments of keys on ordinary text, P keys that shall stay as they are: those of
other subjects in the same sentences, and of facts written before. All facts are solved together.

AlphaEdit (arXiv 2410.02355) is the same with keys K in the null space of what is kept: projected on
the eigenvectors of A whose eigenvalues are small. The weighing by A⁻¹ does that softly.

Shape legend: D hidden, F features of the layer, M keys, N facts, P guarded keys.
"""

from __future__ import annotations

import torch
from torch import Tensor

_RIDGE = 1e-4
"""Of the mean of C's diagonal: directions that no text of the sample used are not free either."""


def solve(
    keys: Tensor,
    owners: Tensor,
    count: int,
    moments: Tensor,
    guarded: Tensor,
    *,
    weight: float,
    guard: float,
    threshold: float | None = None,
) -> Tensor:
    """The left factor of the change; the right one are the vectors R.

    Args:
        keys: float32 [M, F].
        owners: the fact of each key, int64 [M]; keys of one fact are mapped to one vector.
        count: N.
        moments: C, float32 [F, F].
        guarded: float32 [P, F]; P may be 0.
        weight, guard: how much either counts against the facts.
        threshold: directions in which A is larger than this, in means of its eigenvalues, are
            not used at all; ``None`` for none.

    Returns:
        float32 [F, N]: a key k gives ``k @ left @ R`` more, R float32 [N, D].
    """
    a = moments.double() * weight
    a.diagonal().add_(_RIDGE * float(a.diagonal().mean()))
    p = guarded.double()
    a.addmm_(p.T, p, alpha=guard)
    k = keys.double().T  # [F, M]
    q = _weighed(a, k, threshold)
    inner = torch.eye(k.shape[1], dtype=torch.float64) + k.T @ q
    spread = torch.linalg.solve(inner, q, left=False)  # [F, M]
    left = torch.zeros(k.shape[0], count, dtype=torch.float64)
    return left.index_add_(1, owners, spread).float()


def _weighed(a: Tensor, k: Tensor, threshold: float | None) -> Tensor:
    """A⁻¹ K, float64 [F, M]; with a threshold in the null space alone."""
    if threshold is None:
        whole: Tensor = torch.cholesky_solve(k, torch.linalg.cholesky(a))
        return whole
    values, vectors = torch.linalg.eigh(a)
    free = values < threshold * values.mean()
    null: Tensor = vectors[:, free]
    projected: Tensor = null @ ((null.T @ k) / values[free, None])
    return projected
