"""Edited features in a forward pass: their rows and columns are multiplied beside the matrices.

The prepared matrices stay as they are. Of a product with edited rows the edited numbers are
computed from the vectors of the edit and put in the place of the stored ones; an edited column
gets no activation in the stored matrix and all of it in its own. So an edit costs no loading, and
the model without it is the same bit for bit.

Shape legend: T tokens, D hidden, F features, n edited features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from lql.inference.feedforward import FeedForward
from lql.inference.linear import Coarse, Linear
from lql.inference.mixture import Mixture
from vindex.edits import FeatureEdit, Vector
from vindex.source import ModelSource
from vindex.spec import part_roles


class EditedRows:
    """A matrix [N, C] of which some rows are others. See ``Linear``.

    Args:
        base: the matrix.
        rows: int64 [n], which.
        values: float32 [n, C], in their place.
        bias: float32 [n], of those rows, or ``None``.
    """

    def __init__(self, base: Linear, rows: Tensor, values: Tensor, bias: Tensor | None) -> None:
        self._base = base
        self._rows = rows
        self._values = values
        self._bias = bias
        self.elements = base.elements
        self.kernel = base.kernel
        self.can_be_coarse = base.can_be_coarse
        self.resident_bytes = base.resident_bytes + values.nbytes

    def __call__(self, x: Tensor, coarse: Coarse | None = None) -> Tensor:
        """Multiply."""
        y = self._base(x, coarse)
        own = x @ self._values.T  # [T, n]
        y[:, self._rows] = own if self._bias is None else own + self._bias
        return y

    def weight(self) -> Tensor:
        """The matrix; see ``Linear``."""
        return self._base.weight().index_copy(0, self._rows, self._values)


class EditedColumns:
    """A matrix [N, C] of which some columns are others. See ``Linear``.

    Args:
        base: the matrix.
        columns: int64 [n], which.
        values: float32 [n, N], in their place.
    """

    def __init__(self, base: Linear, columns: Tensor, values: Tensor) -> None:
        self._base = base
        self._columns = columns
        self._values = values
        self.elements = base.elements
        self.kernel = base.kernel
        self.can_be_coarse = base.can_be_coarse
        self.resident_bytes = base.resident_bytes + values.nbytes

    def __call__(self, x: Tensor, coarse: Coarse | None = None) -> Tensor:
        """Multiply."""
        own = x[:, self._columns]  # [T, n], a copy
        rest = x.clone()
        rest[:, self._columns] = 0.0
        return self._base(rest, coarse).add_(own @ self._values)

    def weight(self) -> Tensor:
        """The matrix; see ``Linear``."""
        return self._base.weight().index_copy(1, self._columns, self._values.T)


def edited(
    layer: FeedForward | Mixture,
    edits: Mapping[int, FeatureEdit],
    source: ModelSource,
    device: torch.device,
) -> FeedForward | Mixture:
    """A layer's FFN, or experts, with features edited; the prepared matrices are shared.

    Args:
        layer: as loaded.
        edits: by the layer's feature.
        source: the model's, for biases.
        device: where the layer's matrices are.
    """
    if isinstance(layer, FeedForward):
        return _part(layer, edits, source, device)
    shared, beside = layer.shared, layer.beside
    if shared is not None:
        shared = _part(shared, edits, source, device)
    if beside is not None:
        beside = replace(beside, dense=_part(beside.dense, edits, source, device))
    experts = tuple(_part(expert, edits, source, device) for expert in layer.experts)
    return replace(layer, experts=experts, shared=shared, beside=beside)


def _part(
    part: FeedForward,
    edits: Mapping[int, FeatureEdit],
    source: ModelSource,
    device: torch.device,
) -> FeedForward:
    first, width = part.part.first, part.spec.width
    own = {f - first: edit for f, edit in edits.items() if first <= f < first + width}
    size = source.spec.hidden_size
    gate, up, _ = part_roles(part.part.kind)
    matrices = [(gate, "gate", 0), (up, "up", width)] if part.spec.gated else [(up, "up", 0)]
    rows: dict[int, Tensor] = {}
    biases: list[Tensor] = []
    for role, name, offset in matrices:
        replaced = _replaced(own, name, size)
        rows |= {offset + feature: values for feature, values in replaced.items()}
        if part.spec.bias:
            stored = source.tensor(role.bias, part.layer, part.part.expert).float32()
            biases += [torch.tensor(float(stored[feature])) for feature in replaced]
    columns = _replaced(own, "down", size)
    inner, down = part.inner, part.down
    if rows:
        bias = torch.stack(biases).to(device) if biases else None
        inner = EditedRows(inner, *_tensors(rows, device), bias)
    if columns:
        down = EditedColumns(down, *_tensors(columns, device))
    return replace(part, inner=inner, down=down, fused=None)


def _replaced(edits: Mapping[int, FeatureEdit], name: str, size: int) -> dict[int, Tensor]:
    """The vectors of one matrix that edits replace; a feature that is off has zeros."""
    found: dict[int, Tensor] = {}
    for feature, edit in edits.items():
        vector: Vector | None = getattr(edit, name)
        if vector is not None:
            found[feature] = torch.from_numpy(vector.array.copy())
        elif edit.off:
            found[feature] = torch.zeros(size)
    return found


def _tensors(vectors: Mapping[int, Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Where vectors stand, and the vectors."""
    return torch.tensor(list(vectors), device=device), torch.stack(list(vectors.values())).to(
        device
    )
