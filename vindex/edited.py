"""A vindex with weights edited: what it holds differs, and nothing that reads it knows.

Browse statements, the loader of the forward pass, comparison and writers all read a ``Vindex``
through the same few methods; here those give the edited rows. The base is never written.

Shape legend: D hidden, F features of a layer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import overload

import numpy as np
import numpy.typing as npt

from vindex.downmeta import DownMeta, Records
from vindex.edits import AnyWritten, EditView, FeatureEdit, Float32, Piece, Slot
from vindex.kinds import StorageDtype
from vindex.labels import Labels, Measured
from vindex.probes import FeatureLabel
from vindex.source import QuantTensor, StoredTensor
from vindex.spec import PartKind, Role, ffn_parts, part_roles
from vindex.store import Vindex

_ROLES = {
    role: name
    for kind in PartKind
    for role, name in zip(part_roles(kind), ("gate", "up", "down"), strict=True)
}

_Place = tuple[int, int | None]  # a layer, and an expert of it
_ALL = -1  # in an expert's place: all FFNs of the layer


class EditedVindex(Vindex):
    """A base with features edited. It lives on the base's open files: close only the base.

    Args:
        base: an open vindex.
        features: edits by (layer, feature), each within the base.
        labels: labels of features, over the base's.
        written: facts, and forgotten ones, that are added to down matrices, after the features'
            own vectors.
    """

    def __init__(
        self,
        base: Vindex,
        features: Mapping[Slot, FeatureEdit],
        labels: Mapping[Slot, FeatureLabel] = MappingProxyType({}),
        written: Iterable[AnyWritten] = (),
    ) -> None:
        self.__dict__.update(base.__dict__)
        for name in ("down_meta", "labels"):
            self.__dict__.pop(name, None)
        self._base = base
        self._given = labels
        self._edits: dict[int, dict[int, FeatureEdit]] = defaultdict(dict)
        for (layer, feature), edit in features.items():
            self._edits[layer][feature] = edit
        self._pieces: dict[int, list[Piece]] = defaultdict(list)
        for fact in written:
            for piece in fact.pieces:
                self._pieces[piece.layer].append(piece)
        self._edited: dict[tuple[Role, _Place, bool], StoredTensor] = {}

    @classmethod
    def of(cls, base: Vindex, view: EditView) -> EditedVindex:
        """A base as a view edits it."""
        return cls(base, view.features, view.labels, view.written.values())

    @property
    def base(self) -> Vindex:
        """What the edits stand over."""
        return self._base

    @cached_property
    def down_meta(self) -> DownMeta:
        """The base's, with the tokens of edited features."""
        return EditedDownMeta(self._base.down_meta, self._edits)

    @cached_property
    def labels(self) -> Labels:
        """The base's, under those given, under the relations of facts written into features."""
        base = self._base.labels
        own = {
            (layer, feature): edit.relation
            for layer, edits in self._edits.items()
            for feature, edit in edits.items()
            if edit.relation is not None
        }
        given = {slot: label.relation for slot, label in self._given.items()}
        measured = {
            slot: Measured(label.support, label.precision)
            for slot, label in self._given.items()
            if label.support is not None and label.precision is not None and slot not in own
        }
        return replace(base, probes={**base.probes, **given, **own}, measured=measured)

    def edited_features(self, layer: int) -> Collection[int]:
        """The features of a layer that an edit stands over."""
        return self._edits.get(layer, {}).keys()

    @property
    def edited_layers(self) -> tuple[int, ...]:
        """The layers whose FFN is not the base's, ascending."""
        return tuple(sorted({*self._edits, *self._pieces}))

    def gate(self, layer: int) -> StoredTensor:
        """The gate matrix of a layer, ``[F, D]``."""
        edits = self._edits.get(layer, {})
        return self._with_rows(Role.GATE, (layer, _ALL), self._base.gate(layer), edits)

    def has(self, role: Role, layer: int | None = None, expert: int | None = None) -> bool:
        """Whether the tensor is stored."""
        return self._base.has(role, layer, expert)

    def tensor(
        self, role: Role, layer: int | None = None, expert: int | None = None
    ) -> StoredTensor:
        """A tensor, with the rows or columns of edited features."""
        stored = self._base.tensor(role, layer, expert)
        if layer is None or role not in _ROLES:
            return stored
        return self._with_rows(role, (layer, expert), stored, self._edits_of(role, layer, expert))

    def matrix(
        self, role: Role, layer: int | None = None, expert: int | None = None
    ) -> StoredTensor | QuantTensor:
        """A matrix to multiply by: as floats where features are edited, else as stored."""
        stored = self._base.matrix(role, layer, expert)
        if layer is None or role not in _ROLES:
            return stored
        return self._with_rows(role, (layer, expert), stored, self._edits_of(role, layer, expert))

    def stored(self, key: str) -> StoredTensor:
        """A tensor of the manifest by its key."""
        for (role, layer, expert), known in self._keys.items():
            if known == key and layer is not None and role in _ROLES:
                return self.tensor(role, layer, expert)
        return self._base.stored(key)

    def _edits_of(self, role: Role, layer: int, expert: int | None) -> Mapping[int, FeatureEdit]:
        """The edits of one FFN of a layer, by its own numbers."""
        edits = self._edits.get(layer, {})
        spec = self._base.known_spec
        if not edits or spec is None:
            return edits
        for part in ffn_parts(spec.layers[layer].ffn):
            if part.expert == expert and role in part_roles(part.kind):
                stop = part.first + part.ffn.width
                return {
                    feature - part.first: edit
                    for feature, edit in edits.items()
                    if part.first <= feature < stop
                }
        return {}

    @overload
    def _with_rows(
        self, role: Role, place: _Place, stored: StoredTensor, edits: Mapping[int, FeatureEdit]
    ) -> StoredTensor: ...

    @overload
    def _with_rows(
        self,
        role: Role,
        place: _Place,
        stored: StoredTensor | QuantTensor,
        edits: Mapping[int, FeatureEdit],
    ) -> StoredTensor | QuantTensor: ...

    def _with_rows(
        self,
        role: Role,
        place: _Place,
        stored: StoredTensor | QuantTensor,
        edits: Mapping[int, FeatureEdit],
    ) -> StoredTensor | QuantTensor:
        name = _ROLES[role]
        written = name == "down" and place[1] is None and place[0] in self._pieces
        touched = any(edit.off or getattr(edit, name) is not None for edit in edits.values())
        if not touched and not written:
            return stored
        key = role, place, isinstance(stored, QuantTensor)
        if key not in self._edited:
            values = np.array(stored.rows(0, stored.shape[0]))
            rows = values.T if name == "down" else values  # [F, D]
            for feature, edit in edits.items():
                vector = getattr(edit, name)
                if edit.off and vector is None:
                    rows[feature] = 0.0
                elif vector is not None:
                    rows[feature] = vector.array
            if written:
                off = [feature for feature, edit in edits.items() if edit.off]
                _add_pieces(rows, self._pieces[place[0]], off)
            values.flags.writeable = False
            self._edited[key] = StoredTensor(stored.key, StorageDtype.F32, values)
        return self._edited[key]


def _add_pieces(rows: Float32, pieces: list[Piece], off: list[int]) -> None:
    """Add what facts write to the down vectors of a layer ``[F, D]``; silent features stay so."""
    lefts = np.stack([piece.left.array for piece in pieces], axis=1)  # [F, N]
    rights = np.stack([piece.right.array for piece in pieces])  # [N, D]
    lefts[off] = 0.0
    rows += lefts @ rights


class EditedDownMeta(DownMeta):
    """``down_meta.bin`` with the tokens of edited features: one token each, or none."""

    def __init__(self, base: DownMeta, edits: Mapping[int, Mapping[int, FeatureEdit]]) -> None:
        self.__dict__.update(base.__dict__)
        self._edits = edits
        self._copies: dict[int, Records] = {}

    def records(self, layer: int) -> Records:
        """All records of a layer, ``[F]``."""
        edits = self._edits.get(layer, {})
        if not any(edit.off or edit.writes is not None for edit in edits.values()):
            return super().records(layer)
        if layer not in self._copies:
            records: npt.NDArray[np.void] = np.array(super().records(layer))
            for feature, edit in edits.items():
                if edit.off or edit.writes is not None:
                    records[feature] = np.zeros((), records.dtype)
                if edit.writes is not None:
                    token, score = edit.writes.token_id, edit.writes.score
                    records[feature]["token"], records[feature]["score"] = token, score
                    if self.top_k:
                        records["top"]["token"][feature, 0] = token
                        records["top"]["score"][feature, 0] = score
            self._copies[layer] = records
        return self._copies[layer]
