"""MERGE: another vindex's facts and features, into the session, a vindex or a patch."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlRuntimeError
from lql.execute.slots import text
from lql.results.compile import MergeResult
from vindex import files, kquant
from vindex.baking import same
from vindex.comparing import (
    FeatureDifference,
    change_of,
    compared_parts,
    differing_features,
    refuse_other_shape,
)
from vindex.compiling import compile_vindex
from vindex.edge_store import read_edge_store
from vindex.edited import EditedVindex
from vindex.edits import Fact, Operation, PutFact, folded
from vindex.errors import TargetExists
from vindex.kinds import ExtractLevel, Quant
from vindex.knn_store import read_knn_store
from vindex.overlay import Edit
from vindex.patch import Patch, base_of, write_patch
from vindex.seal import read_seal
from vindex.spec import StorageFile
from vindex.store import Vindex, open_vindex

_PATCH = ".vlp"
_OF_FEATURES = frozenset(
    {
        StorageFile.GATE.value,
        StorageFile.UP.value,
        StorageFile.DOWN.value,
        files.DOWN_META,
        kquant.FFN,
    }
)
_VECTORS = 3  # gate, up, down


def run(statement: ast.Merge, context: Context) -> MergeResult:
    """Run MERGE."""
    started = time.perf_counter()
    path = Path(text(statement.source)).expanduser()
    with open_vindex(path) as source:
        facts = read_knn_store(source.path, source.index)
        if statement.target is None:
            merged, target = _into_session(source, facts, statement, context)
        else:
            into = Path(text(statement.target)).expanduser()
            if into.suffix.lower() == _PATCH:
                merged, target = _into_patch(source, facts, into, statement, context)
            else:
                merged, target = _into_vindex(source, facts, into, statement, context)
    if not merged.operations:
        context.note("nothing was taken: nothing was written")
    return MergeResult(
        source=str(path),
        target=target,
        on_conflict=_strategy(statement).name,
        facts=merged.facts,
        features=merged.features,
        conflicts=merged.conflicts,
        kept=merged.kept,
        seconds=time.perf_counter() - started,
    )


def _strategy(statement: ast.Merge) -> ast.MergeConflict:
    return statement.on_conflict or ast.MergeConflict.KEEP_SOURCE


@dataclass(slots=True)
class _Merged:
    """What a MERGE comes to.

    Attributes:
        operations: that make the target what it is to be.
        facts, features: how many were taken.
        conflicts: facts and features that both sides have, and have differently.
        kept: of these, those where the target's stayed.
    """

    operations: list[Operation] = field(default_factory=list)
    facts: int = 0
    features: int = 0
    conflicts: int = 0
    kept: int = 0


def _into_session(
    source: Vindex, facts: Sequence[Fact], statement: ast.Merge, context: Context
) -> tuple[_Merged, str]:
    """An edit like any other: UNDO takes it back, SAVE PATCH writes it."""
    target = _without_written(statement, context)
    overlay = context.state.overlay
    merged = _merged(target, overlay.view.facts.values(), source, facts, statement, context)
    if merged.operations:
        overlay.commit(Edit(f"MERGE {source.path}", tuple(merged.operations)))
    return merged, "CURRENT"


def _into_patch(
    source: Vindex,
    facts: Sequence[Fact],
    into: Path,
    statement: ast.Merge,
    context: Context,
) -> tuple[_Merged, str]:
    """A patch over the vindex in use."""
    target = _without_written(statement, context)
    if into.exists():
        raise TargetExists(f"{into} exists", hint="choose another path", path=into)
    own = context.state.overlay.view.facts.values()
    merged = _merged(target, own, source, facts, statement, context)
    if merged.operations:
        description = f"Merge: {source.path} into {target.path}"
        write_patch(into, Patch(base_of(target), tuple(merged.operations), description))
    return merged, str(into)


def _without_written(statement: ast.Merge, context: Context) -> Vindex:
    """The vindex in use with its edits, but for the facts that are written into down matrices.

    Those stand over the features' own vectors, whichever these are: else all features of a layer
    that holds one fact would differ from the source's.
    """
    effective = context.vindex(statement.title)
    view = context.state.overlay.view
    if not view.written:
        return effective
    return context.state.edited_as(replace(view, written={}))


def _into_vindex(
    source: Vindex,
    facts: Sequence[Fact],
    into: Path,
    statement: ast.Merge,
    context: Context,
) -> tuple[_Merged, str]:
    """The target anew: the old one until all of it is on the disk, then the new one."""
    current = context.state.source
    if isinstance(current, Vindex) and into.exists() and current.path.samefile(into):
        raise LqlRuntimeError(
            Diagnostic(
                Code.MERGE_MISFIT,
                f"{into} is in use, and statements read its files",
                helps=(
                    f'MERGE "{source.path}"; without INTO merges into the session',
                    'COMPILE CURRENT INTO VINDEX "…"; then writes that',
                ),
            )
        )
    with open_vindex(into) as target:
        own = read_knn_store(target.path, target.index)
        merged = _merged(target, own, source, facts, statement, context)
        if merged.operations:
            view = folded(own, merged.operations)
            compile_vindex(
                EditedVindex.of(target, view),
                view.facts.values(),
                into,
                overwrite=True,
                in_place=True,
                probes=read_edge_store(target),
                progress=context.progress,
            )
    return merged, str(into)


def _merged(
    target: Vindex,
    own: Iterable[Fact],
    source: Vindex,
    facts: Sequence[Fact],
    statement: ast.Merge,
    context: Context,
) -> _Merged:
    _refuse_misfit(target, source)
    strategy = _strategy(statement)
    merged = _Merged()
    stored = {fact.name: fact for fact in own}
    for fact in facts:
        before = stored.get(fact.name)
        if before == fact:
            continue
        wins = before is None or _wins(strategy, fact.confidence, before.confidence)
        merged.conflicts += before is not None
        merged.kept += not wins
        if wins:
            merged.operations.append(PutFact(fact))
            merged.facts += 1
    for each in _features(target, source, context):
        before_score = 0.0 if each.left is None else each.left.score
        score = None if each.right is None else each.right.score
        is_new = each.left is None and each.right is not None
        wins = is_new or _wins(strategy, score, before_score)
        merged.conflicts += not is_new
        merged.kept += not wins
        if wins:
            merged.operations.append(change_of(each, source))
            merged.features += 1
    return merged


def _features(target: Vindex, source: Vindex, context: Context) -> Iterator[FeatureDifference]:
    for layer in target.layers:
        context.cancel.check(f"layer {layer}")
        yield from differing_features(target, source, (layer,))


def _wins(strategy: ast.MergeConflict, ours: float | None, theirs: float) -> bool:
    """Whether the source's stands where both sides have something.

    Args:
        ours: the source's confidence; ``None`` where it switched a feature off.
    """
    match strategy:
        case ast.MergeConflict.KEEP_SOURCE:
            return True
        case ast.MergeConflict.KEEP_TARGET:
            return False
        case ast.MergeConflict.HIGHEST_CONFIDENCE:
            return ours is not None and ours > theirs


def _refuse_misfit(target: Vindex, source: Vindex) -> None:
    """Only features and facts are merged, so all else must be the same.

    Raises:
        VindexError: other shapes.
        LqlRuntimeError: other tensors, or feature vectors that cannot be compared.
    """
    refuse_other_shape(target, source)
    runs = min(target.level, source.level) >= ExtractLevel.INFERENCE
    whole = len(compared_parts(target, source)) == _VECTORS
    blocks = any(each.index.quant is not Quant.NONE for each in (target, source))
    if runs and (not whole or blocks):
        raise _misfit(
            target,
            source,
            "their feature vectors are quantised, or those of experts, which are not compared",
        )
    different = [name for name in _shared_files(target, source) if not _equal(target, source, name)]
    if different:
        raise _misfit(target, source, f"they differ in {', '.join(different)}")


def _misfit(target: Vindex, source: Vindex, reason: str) -> LqlRuntimeError:
    return LqlRuntimeError(
        Diagnostic(
            Code.MERGE_MISFIT,
            f"{source.path} cannot be merged into {target.path}: {reason}",
            helps=("MERGE takes facts and features of vindexes of one model and dtype",),
        )
    )


def _shared_files(target: Vindex, source: Vindex) -> list[str]:
    names = (target.base.mapped_files.keys() | source.base.mapped_files.keys()) - _OF_FEATURES
    weights = {each.value for each in StorageFile}
    return sorted(name for name in names if name in weights)


def _equal(target: Vindex, source: Vindex, name: str) -> bool:
    """Whether both have the same file: told by their seals, else by the tensors in it."""
    seals = [read_seal(each.base.path) for each in (target, source)]
    known = [None if seal is None else seal.sealed.get(name) for seal in seals]
    if None not in known and known[0] == known[1]:
        return True
    if name == files.EMBEDDINGS:
        return same(target.embeddings, source.embeddings)
    keys = [
        {key for key, entry in each.base.entries.items() if entry.file == name}
        for each in (target, source)
    ]
    return keys[0] == keys[1] and all(
        same(target.stored(key), source.stored(key)) for key in keys[0]
    )
