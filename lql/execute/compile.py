"""COMPILE: edits in the files of a vindex, or of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlRuntimeError
from lql.execute.slots import text
from lql.results import Result
from lql.results.compile import CompileModelResult, CompileVindexResult
from vindex.compiling import compile_vindex
from vindex.conflicts import contests, most_confident
from vindex.edge_store import read_edge_store
from vindex.edited import EditedVindex
from vindex.edits import Fact, folded
from vindex.knn_store import read_knn_store
from vindex.probes import Probe, PutLabel, PutProbe
from vindex.store import Vindex, open_vindex

if TYPE_CHECKING:
    from vindex.export.gguf import GgufQuant

_SHOWN = 10


def run(statement: ast.CompileVindex | ast.CompileModel, context: Context) -> Result:
    """Run COMPILE."""
    match statement:
        case ast.CompileVindex():
            return _into_vindex(statement, context)
        case ast.CompileModel():
            return _into_model(statement, context)
        case _:
            assert_never(statement)


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """What is written: a vindex with the edits that count over it.

    Attributes:
        name: for people.
        facts: the stored facts in effect.
        probes: the kept answers in effect.
        conflicts: how many facts and features patches did not agree about.
        effective: the edits are those in effect, all of them.
    """

    name: str
    vindex: Vindex
    facts: Sequence[Fact]
    probes: Sequence[Probe]
    conflicts: int
    effective: bool = False


@contextmanager
def compiled(
    statement: ast.CompileVindex | ast.CompileModel, context: Context
) -> Iterator[Compiled]:
    """The source of a COMPILE, conflicts settled as the statement says.

    Raises:
        LqlRuntimeError: ON CONFLICT FAIL, and there are conflicts.
    """
    if not isinstance(statement.source, ast.Current):
        path = Path(text(statement.source)).expanduser()
        with open_vindex(path) as opened:
            facts = read_knn_store(opened.path, opened.index)
            yield Compiled(str(path), opened, facts, read_edge_store(opened), 0)
        return
    vindex = context.vindex(statement.title)
    overlay = context.state.overlay
    base, view = vindex.base, overlay.view
    stored = read_knn_store(base.path, base.index)
    found = contests(overlay.edits, stored)
    if found and statement.on_conflict is ast.PatchConflict.FAIL:
        raise LqlRuntimeError(
            Diagnostic(
                Code.PATCH_CONFLICT,
                f"patches do not agree about {len(found)} facts or features",
                helps=(
                    "ON CONFLICT LAST_WINS; takes what came last",
                    "ON CONFLICT HIGHEST_CONFIDENCE; takes what is said to be surest",
                ),
                notes=tuple(str(contest) for contest in found[:_SHOWN]),
            )
        )
    if found and statement.on_conflict is ast.PatchConflict.HIGHEST_CONFIDENCE:
        probes = overlay.base_view.probes.values()
        view = folded(stored, most_confident(overlay.edits, stored), probes)
        vindex = EditedVindex.of(base, view)
    edits = len(overlay.edits)
    count = "no edits" if not edits else "1 edit" if edits == 1 else f"{edits} edits"
    whole = view is overlay.view
    yield Compiled(
        f"{base.path} with {count}",
        vindex,
        tuple(view.facts.values()),
        tuple(view.probes.values()),
        len(found),
        whole,
    )


def _into_vindex(statement: ast.CompileVindex, context: Context) -> CompileVindexResult:
    if statement.format is not None:
        raise LqlRuntimeError(
            Diagnostic(
                Code.CLAUSE_MISPLACED,
                "a vindex has one format; FORMAT belongs to COMPILE … INTO MODEL",
                span=statement.span,
                helps=("leave out FORMAT",),
            )
        )
    target = Path(text(statement.target)).expanduser()
    with compiled(statement, context) as source:
        report = compile_vindex(
            source.vindex,
            source.facts,
            target,
            overwrite=statement.overwrite,
            probes=source.probes,
            progress=context.progress,
        )
    if source.effective:
        context.state.overlay.baked()
    return CompileVindexResult(
        source=source.name,
        path=str(target),
        rewritten=report.rewritten,
        shared={name: how.value for name, how in report.shared.items()},
        left_out=report.left_out,
        facts=report.facts,
        probes=report.probes,
        conflicts=source.conflicts,
        size_bytes=report.size_bytes,
        new_bytes=report.new_bytes,
        edited_values=report.floats.values,
        rounding=report.floats.largest,
        requantised_values=report.blocks.values,
        requantised_error=report.blocks.largest,
        requantised_relative=report.blocks.relative,
        seconds=report.seconds,
    )


def _into_model(statement: ast.CompileModel, context: Context) -> CompileModelResult:
    from vindex.export.directory import export_safetensors
    from vindex.export.gguf import export_gguf

    target = Path(text(statement.target)).expanduser()
    model_format = _format(statement, target)
    with compiled(statement, context) as source:
        _refuse_facts(source)
        if source.probes:
            context.note(
                f"answers about {len(source.probes)} entities that PROBE kept are left out: a "
                "checkpoint has no place for them"
            )
        if model_format is ast.ModelFormat.GGUF:
            report = export_gguf(
                source.vindex,
                target,
                quant=_gguf_quant(statement),
                overwrite=statement.overwrite,
                progress=context.progress,
            )
        else:
            report = export_safetensors(
                source.vindex,
                target,
                dtype=statement.dtype,
                overwrite=statement.overwrite,
                progress=context.progress,
            )
    if source.effective:
        context.state.overlay.baked(without=(PutProbe, PutLabel))
    for note in report.notes:
        context.note(note)
    return CompileModelResult(
        source=source.name,
        path=str(target),
        format=model_format.name.lower(),
        files=dict(report.files),
        encodings=dict(report.encodings),
        conflicts=source.conflicts,
        size_bytes=report.size_bytes,
        rounding=report.rounding.largest,
        rounding_relative=report.rounding.relative,
        seconds=report.seconds,
    )


def _format(statement: ast.CompileModel, target: Path) -> ast.ModelFormat:
    """What to write: as FORMAT says, else as the file's name does.

    Raises:
        LqlRuntimeError: clauses that do not belong together.
    """
    is_gguf = target.suffix.lower() == ".gguf"
    chosen = statement.format or (
        ast.ModelFormat.GGUF if is_gguf or statement.quant else ast.ModelFormat.SAFETENSORS
    )
    problem = None
    if chosen is ast.ModelFormat.SAFETENSORS and statement.quant is not None:
        problem = "QUANT belongs to FORMAT gguf; safetensors hold floats", "leave out QUANT"
    elif statement.quant is not None and statement.dtype is not None:
        problem = "QUANT and DTYPE exclude each other", "leave out one of them"
    elif chosen is ast.ModelFormat.GGUF and not is_gguf:
        problem = f"FORMAT gguf writes one file, and {target} does not end in .gguf", "add .gguf"
    if problem is not None:
        raise LqlRuntimeError(
            Diagnostic(Code.CLAUSE_MISPLACED, problem[0], span=statement.span, helps=(problem[1],))
        )
    return chosen


def _gguf_quant(statement: ast.CompileModel) -> GgufQuant | None:
    from vindex.export.gguf import GgufQuant

    if statement.quant is not None:
        return GgufQuant[statement.quant.name]
    return None if statement.dtype is None else GgufQuant.of(statement.dtype)


def _refuse_facts(source: Compiled) -> None:
    """Facts beside the weights have no place in a checkpoint, and are not dropped silently."""
    if not source.facts:
        return
    count = "1 stored fact" if len(source.facts) == 1 else f"{len(source.facts)} stored facts"
    raise LqlRuntimeError(
        Diagnostic(
            Code.FACTS_NO_WEIGHTS,
            f"{count} (MODE KNN) cannot be written into a checkpoint: they are no weights",
            helps=(
                "INSERT … MODE MEMIT; writes a fact into weights",
                "DELETE FROM EDGES WHERE …; removes stored facts",
                'COMPILE … INTO VINDEX "…"; keeps them',
            ),
            notes=tuple(str(fact) for fact in source.facts[:_SHOWN]),
        )
    )
