"""DIFF: two vindexes compared by content, the session's edits included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlNameError
from lql.execute.paging import page
from lql.execute.patching import patch_path
from lql.execute.slots import layer, text
from lql.names import nearest
from lql.results.edits import DiffResult, DiffRow
from vindex.comparing import (
    FeatureDifference,
    change_of,
    compared_parts,
    differing_features,
    refuse_other_shape,
)
from vindex.edits import (
    ChangeFeature,
    DropFacts,
    Fact,
    FactName,
    FeatureEdit,
    Operation,
    PutFact,
    PutFeature,
    Slot,
    plain_relation,
)
from vindex.errors import TargetExists
from vindex.knn_store import read_knn_store
from vindex.patch import Patch, base_of, write_patch
from vindex.store import Vindex, open_vindex

DEFAULT_LIMIT = 20


@dataclass(frozen=True, slots=True)
class _Side:
    name: str
    vindex: Vindex
    facts: Mapping[FactName, Fact]
    edits: Mapping[Slot, FeatureEdit]


def run(statement: ast.Diff, context: Context) -> DiffResult:
    """Run DIFF."""
    with ExitStack() as opened:
        left = _side(statement.left, context, opened, statement.title)
        right = _side(statement.right, context, opened, statement.title)
        refuse_other_shape(left.vindex, right.vindex)
        parts = compared_parts(left.vindex, right.vindex)
        if len(parts) < 3:
            context.note(f"only {', '.join(parts)} vectors are compared: a side holds no others")
        chosen = _Chosen(statement, left, right)
        facts = list(chosen.facts())
        features = list(chosen.features())
        written = None
        if statement.into_patch is not None:
            operations = [
                *(_fact_operation(name, right) for name in facts),
                *(_feature_operation(each, right) for each in features),
            ]
            written = _write(statement.into_patch, operations, left, right, context)
        rows = [
            *(_fact_row(left.facts.get(name), right.facts.get(name)) for name in facts),
            *(_feature_row(each, left.vindex, right.vindex) for each in features),
        ]
    shown, meta = page(rows, statement.limit, default=DEFAULT_LIMIT)
    return DiffResult(left=left.name, right=right.name, differences=shown, patch=written, meta=meta)


def _side(ref: ast.VindexRef, context: Context, opened: ExitStack, title: str) -> _Side:
    if isinstance(ref, ast.Current):
        vindex = context.vindex(title)
        view = context.state.overlay.view
        return _Side("CURRENT", vindex, view.facts, view.features)
    path = Path(text(ref)).expanduser()
    vindex = opened.enter_context(open_vindex(path))
    facts = read_knn_store(vindex.path, vindex.index)
    return _Side(str(path), vindex, {fact.name: fact for fact in facts}, {})


class _Chosen:
    """The differences that LAYER and RELATION let through."""

    def __init__(self, statement: ast.Diff, left: _Side, right: _Side) -> None:
        self._left = left
        self._right = right
        count = left.vindex.index.num_layers
        self._layers: Sequence[int] = left.vindex.layers
        if statement.layer is not None:
            only = layer(statement.layer, count)
            self._layers = [each for each in self._layers if each == only]
        self._relation: str | None = None
        if statement.relation is not None:
            self._relation = _plain(text(statement.relation))
            known = set(_relations(left)) | set(_relations(right))
            if self._relation not in known:
                raise LqlNameError(
                    Diagnostic(
                        Code.UNKNOWN_RELATION,
                        f'neither side knows the relation "{text(statement.relation)}"',
                        span=statement.relation.span,
                        suggestions=nearest(self._relation, known),
                    )
                )

    def facts(self) -> Iterator[FactName]:
        """Names of facts that differ, those of the left side first."""
        ours, theirs = self._left.facts, self._right.facts
        for name in dict.fromkeys((*ours, *theirs)):
            fact = theirs.get(name) or ours[name]
            wanted = self._relation in (None, _plain(fact.relation))
            if ours.get(name) != theirs.get(name) and wanted and fact.layer in self._layers:
                yield name

    def features(self) -> Iterator[FeatureDifference]:
        """Features that differ."""
        for each in differing_features(self._left.vindex, self._right.vindex, self._layers):
            labels = [
                side.vindex.labels.of(each.layer, each.feature)
                for side in (self._left, self._right)
            ]
            names = [_plain(label.text) for label in labels if label is not None]
            if self._relation is None or self._relation in names:
                yield each


def _relations(side: _Side) -> Iterator[str]:
    labels = side.vindex.labels
    yield from (_plain(label) for label in (*labels.probes.values(), *labels.clusters.values()))
    yield from (_plain(fact.relation) for fact in side.facts.values())


def _plain(relation: str) -> str:
    return plain_relation(relation).casefold()


def _fact_operation(name: FactName, right: _Side) -> Operation:
    fact = right.facts.get(name)
    return DropFacts(*name) if fact is None else PutFact(fact)


def _feature_operation(each: FeatureDifference, right: _Side) -> Operation:
    """What makes a feature the right side's, with the fact that was written into it."""
    change = change_of(each, right.vindex)
    edit = right.edits.get((each.layer, each.feature))
    if not isinstance(change, ChangeFeature) or edit is None or edit.entity is None:
        return change
    return PutFeature(
        each.layer,
        each.feature,
        edit.entity,
        edit.target or "",
        edit.relation,
        edit.confidence,
        change.gate,
        change.up,
        change.down,
        change.writes or each.right,
    )


def _fact_row(left: Fact | None, right: Fact | None) -> DiffRow:
    fact = right or left
    assert fact is not None, "a difference has a side"
    return DiffRow(
        status="added" if left is None else "removed" if right is None else "modified",
        layer=fact.layer,
        feature=None,
        entity=fact.entity,
        relation=fact.relation,
        left=None if left is None else left.target,
        right=None if right is None else right.target,
        changed="fact",
    )


def _feature_row(each: FeatureDifference, left: Vindex, right: Vindex) -> DiffRow:
    label = right.labels.of(each.layer, each.feature) or left.labels.of(each.layer, each.feature)
    status = "modified"
    if "token" in each.changed and each.left is None:
        status = "added"
    elif "token" in each.changed and each.right is None:
        status = "removed"
    return DiffRow(
        status=status,
        layer=each.layer,
        feature=each.feature,
        entity=None,
        relation=None if label is None else label.text,
        left=None if each.left is None else each.left.token,
        right=None if each.right is None else each.right.token,
        changed=", ".join(each.changed),
    )


def _write(
    slot: ast.TextSlot, operations: list[Operation], left: _Side, right: _Side, context: Context
) -> str:
    path = patch_path(slot)
    if path.exists():
        raise TargetExists(f"{path} exists", hint="choose another path", path=path)
    description = f"Diff: {left.name} vs {right.name}"
    size = write_patch(path, Patch(base_of(left.vindex), tuple(operations), description))
    context.note(f"wrote {path}: {len(operations)} operations, {size:,} bytes")
    return str(path)
