"""Two vindexes of one shape compared by content: feature vectors, described tokens, stored facts.

Shape legend: D hidden, F features of a layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vindex.downmeta import Records, present
from vindex.edits import ChangeFeature, DropFeature, Float32, Operation, Vector, WrittenToken
from vindex.errors import VindexError
from vindex.features import token_texts
from vindex.source import StoredTensor
from vindex.spec import Role
from vindex.store import Vindex

_ROLES = {"gate": Role.GATE, "up": Role.UP, "down": Role.DOWN}


@dataclass(frozen=True, slots=True)
class FeatureDifference:
    """A feature that is not the same on both sides.

    Attributes:
        changed: what differs: ``gate``, ``up``, ``down``, ``token``, ``score``.
        left, right: the token each side describes it with, or ``None``.
    """

    layer: int
    feature: int
    changed: tuple[str, ...]
    left: WrittenToken | None
    right: WrittenToken | None


def refuse_other_shape(left: Vindex, right: Vindex) -> None:
    """Check that features of the same number can be compared.

    Raises:
        VindexError: layers, hidden size, vocabulary or features differ.
    """
    for what, ours, theirs in (
        ("layers", left.index.num_layers, right.index.num_layers),
        ("hidden size", left.index.hidden_size, right.index.hidden_size),
        ("vocabulary", left.index.vocab_size, right.index.vocab_size),
        ("features", *(tuple(map(vx.num_features, vx.layers)) for vx in (left, right))),
    ):
        if ours != theirs:
            raise VindexError(
                f"{left.path} and {right.path} cannot be compared: they differ in {what}",
                path=right.path,
                details=(f"{what}: {ours} and {theirs}",),
            )


def compared_parts(left: Vindex, right: Vindex) -> tuple[str, ...]:
    """The vectors that both sides hold in every layer."""
    return tuple(
        name
        for name, role in _ROLES.items()
        if all(vx.has(role, layer) for vx in (left, right) for layer in vx.layers)
        and all(_is_readable(vx, role) for vx in (left, right))
    )


def _is_readable(vx: Vindex, role: Role) -> bool:
    """Whether the vectors are stored as a matrix; block-quantised ones are not."""
    if role is Role.GATE or not vx.layers:
        return True
    try:
        vx.tensor(role, vx.layers[0])
    except KeyError:
        return False
    return True


def differing_features(
    left: Vindex, right: Vindex, layers: Iterable[int]
) -> Iterator[FeatureDifference]:
    """The features that differ, by layer and number. Memory is that of one layer.

    Args:
        left, right: of one shape, see ``refuse_other_shape``.
        layers: which to compare.
    """
    parts = compared_parts(left, right)
    for layer in layers:
        width = left.num_features(layer)
        masks = {name: _rows_differ(left, right, name, layer) for name in parts}
        described = [_described(vx, layer) for vx in (left, right)]
        ours, theirs = described
        masks["token"] = np.asarray(
            (present(ours) != present(theirs)) | (ours["token"] != theirs["token"])
        )
        masks["score"] = np.asarray(~masks["token"] & (ours["score"] != theirs["score"]))
        anything = np.zeros(width, np.bool_)
        for mask in masks.values():
            anything |= mask
        for feature in np.flatnonzero(anything).tolist():
            yield FeatureDifference(
                layer=layer,
                feature=feature,
                changed=tuple(name for name, mask in masks.items() if mask[feature]),
                left=_token(left, ours, feature),
                right=_token(right, theirs, feature),
            )


def change_of(difference: FeatureDifference, right: Vindex) -> Operation:
    """The operation that makes the left side's feature the right side's.

    Raises:
        VindexError: the right side's has no token and is not switched off: no patch says that.
    """
    layer, feature = difference.layer, difference.feature
    if "token" in difference.changed and difference.right is None:
        parts = compared_parts(right, right)
        if not any(_row(right, name, layer, feature).any() for name in parts):
            return DropFeature(layer, feature)
        raise VindexError(
            f"feature {layer}:{feature} of {right.path} has no token, which no patch can say",
            path=right.path,
        )
    vectors = {
        name: Vector.of(_row(right, name, layer, feature))
        for name in difference.changed
        if name in _ROLES
    }
    told = {"token", "score"} & set(difference.changed)
    writes = difference.right if told else None
    return ChangeFeature(
        layer, feature, vectors.get("gate"), vectors.get("up"), vectors.get("down"), writes
    )


def _rows_differ(left: Vindex, right: Vindex, name: str, layer: int) -> npt.NDArray[np.bool_]:
    """Which features' vectors differ, ``[F]``."""
    role = _ROLES[name]
    ours, theirs = _matrix(left, role, layer), _matrix(right, role, layer)
    axis = 0 if role is Role.DOWN else 1
    if ours.dtype is theirs.dtype:
        if ours.array is theirs.array:
            return np.zeros(ours.shape[1 - axis], np.bool_)
        return np.asarray((ours.array != theirs.array).any(axis=axis))
    return np.asarray((ours.float32() != theirs.float32()).any(axis=axis))


def _row(vx: Vindex, name: str, layer: int, feature: int) -> Float32:
    role = _ROLES[name]
    values = _matrix(vx, role, layer).float32()
    return values[:, feature] if role is Role.DOWN else values[feature]


def _matrix(vx: Vindex, role: Role, layer: int) -> StoredTensor:
    """The vectors of a layer; gates of all its experts, where it has some."""
    return vx.gate(layer) if role is Role.GATE else vx.tensor(role, layer)


def _described(vx: Vindex, layer: int) -> Records:
    return vx.down_meta.records(layer)


def _token(vx: Vindex, records: Records, feature: int) -> WrittenToken | None:
    record = records[feature]
    if not (record["token"] or record["score"]):
        return None
    token = int(record["token"])
    return WrittenToken(token_texts(vx, [token])[0], token, float(record["score"]))
