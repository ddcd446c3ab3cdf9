"""UPDATE and DELETE of features of the model: turn one to another token, or switch it off.

Notation: D hidden, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlNameError, LqlRuntimeError, LqlTypeError
from lql.execute.chosen import chosen_features
from lql.execute.making import made
from lql.names import nearest
from lql.results.edits import EditResult, FeatureRow
from vindex.edits import ChangeFeature, DropFeature, FeatureOperation, Slot, Vector, WrittenToken
from vindex.features import down_tokens, embedding_rows
from vindex.kinds import ExtractLevel
from vindex.source import ModelSource
from vindex.spec import FfnPart, Role, ffn_parts, part_roles
from vindex.store import Vindex

Floats = npt.NDArray[np.float32]

_BLOCK = 8192  # rows of the head that are held in float32 at a time
_TARGET = ("target", "token", "top_token")


def delete(statement: ast.Delete, context: Context) -> EditResult:
    """Switch features off: they answer nothing and write nothing."""
    started = time.perf_counter()
    slots = chosen_features(statement, context)
    vindex = context.vindex(statement.title)
    rows = [FeatureRow(*slot, _writes(vindex, slot), None) for slot in slots]
    operations = [DropFeature(*slot, "DELETE") for slot in slots]
    return _made(statement, "switch off", operations, rows, context, started)


def update(statement: ast.Update, context: Context) -> EditResult:
    """Turn what features write towards a token's row of the head, as strong as before."""
    started = time.perf_counter()
    target = target_of(statement)
    vindex = context.vindex(statement.title)
    vindex.require(ExtractLevel.INFERENCE, f"{statement.title} of features")
    token = _first_token(vindex, target)
    slots = chosen_features(statement, context)
    direction = head_direction(vindex, token.token_id) if slots else np.zeros(0, np.float32)
    operations = []
    for layer, feature in slots:
        context.cancel.check(f"feature {layer}:{feature}")
        strength = float(np.linalg.norm(down_vector(vindex, (layer, feature))))
        down = (direction * strength).astype(np.float32)
        score = float(embedding_rows(vindex, [token.token_id])[0] @ down)
        writes = WrittenToken(token.token, token.token_id, score)
        operations.append(ChangeFeature(layer, feature, down=Vector.of(down), writes=writes))
    rows = [FeatureRow(*slot, _writes(vindex, slot), token.token) for slot in slots]
    return _made(statement, f"turn to {token.token}", operations, rows, context, started)


def _made(
    statement: ast.Delete | ast.Update,
    what: str,
    operations: Sequence[FeatureOperation],
    rows: Sequence[FeatureRow],
    context: Context,
    started: float,
) -> EditResult:
    if not rows:
        context.note("no feature matches: nothing was changed")
    which = rows[0].name if len(rows) == 1 else f"{len(rows)} features"
    title = f"{statement.title} {which}: {what}"
    return made(statement, title, operations, context, started, mode="features", features=rows)


def target_of(statement: ast.Update) -> str:
    """The token that UPDATE sets.

    Raises:
        LqlNameError, LqlTypeError: another column, or no text.
    """
    texts = []
    for assignment in statement.assignments:
        if assignment.column.name not in _TARGET:
            raise LqlNameError(
                Diagnostic(
                    Code.UNKNOWN_COLUMN,
                    f'UPDATE cannot set "{assignment.column.name}" of a feature',
                    span=assignment.column.span,
                    suggestions=nearest(assignment.column.name, _TARGET[:1]),
                    notes=("it sets target, the token that the feature writes",),
                )
            )
        if not isinstance(assignment.value, ast.Text) or not assignment.value.value.strip():
            raise LqlTypeError(
                Diagnostic(Code.WRONG_TYPE, "target is a text", span=assignment.value.span)
            )
        texts.append(assignment.value.value.strip())
    return texts[-1]


def _first_token(vindex: Vindex, target: str) -> WrittenToken:
    """The first token of a target as it goes on after other text."""
    for text in (f" {target}", target):
        ids = [i for i in vindex.encode(text, special=False) if i < vindex.index.vocab_size]
        if ids and vindex.token_texts.texts(ids[:1])[0].strip():
            return WrittenToken(vindex.token_texts.texts(ids[:1])[0].strip(), ids[0], 0.0)
    raise LqlRuntimeError(Diagnostic(Code.FACTS_INVALID, f'the target "{target}" holds no token'))


def _writes(vindex: Vindex, slot: Slot) -> str | None:
    layer, feature = slot
    if feature >= vindex.down_meta.num_features(layer):
        return None
    tokens = down_tokens(vindex, vindex.down_meta.records(layer)[feature])[:1]
    return tokens[0].token if tokens else None


# --------------------------------------------------------------------------- vectors


def head_direction(source: ModelSource, token: int) -> Floats:
    """The unit vector along which the head reads a token rather than others, ``[D]``.

    It is the token's row less the mean row.

    Raises:
        LqlCapabilityError: rows of the head are of another size than the residual stream.
    """
    head = source.matrix(Role.HEAD if source.has(Role.HEAD) else Role.EMBED)
    rows, columns = head.shape
    if columns != source.spec.hidden_size:
        from lql.errors import LqlCapabilityError

        raise LqlCapabilityError(
            Diagnostic(
                Code.UNSUPPORTED,
                f"the head of this model reads {columns} numbers, and features write "
                f"{source.spec.hidden_size}",
            )
        )
    total = np.zeros(columns, np.float64)
    for start in range(0, rows, _BLOCK):
        total += _rows(head, start, min(start + _BLOCK, rows)).sum(axis=0, dtype=np.float64)
    own = _rows(head, token, token + 1)[0] - total / rows
    unit: Floats = (own / np.linalg.norm(own)).astype(np.float32)
    return unit


def _rows(head: object, start: int, stop: int) -> Floats:
    return head.rows(start, stop)  # type: ignore[attr-defined,no-any-return]


def down_vector(source: ModelSource, slot: Slot) -> Floats:
    """What a feature adds to the residual stream, for an activation of 1, ``[D]`` float32."""
    part, feature = part_of(source, slot)
    stored = source.matrix(part_roles(part.kind)[2], slot[0], part.expert)
    return np.ascontiguousarray(stored.columns(feature, feature + 1)[:, 0], np.float32)


def part_of(source: ModelSource, slot: Slot) -> tuple[FfnPart, int]:
    """The FFN that holds a feature of a layer, and the feature's number in it."""
    layer, feature = slot
    for part in ffn_parts(source.spec.layers[layer].ffn):
        if part.first <= feature < part.first + part.ffn.width:
            return part, feature - part.first
    raise AssertionError(f"FEATURES has no feature {layer}:{feature}")
