"""EXTRACT and USE: making a vindex, and making one current."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import assert_never

from lql import ast
from lql.context import Context
from lql.execute.slots import not_available, text
from lql.names import nearest
from lql.results import Result
from lql.results.lifecycle import ExtractResult, UseResult
from vindex.errors import VindexNotFound
from vindex.kinds import ExtractLevel, Quant, StorageDtype

DEFAULT_LEVEL = ExtractLevel.INFERENCE
DEFAULT_DTYPE = StorageDtype.F16


def run(statement: ast.Extract | ast.UseVindex | ast.UseModel, context: Context) -> Result:
    """Run EXTRACT, USE or USE MODEL."""
    match statement:
        case ast.Extract():
            return _extract(statement, context)
        case ast.UseVindex():
            return _use_vindex(statement, context)
        case ast.UseModel():
            return _use_model(statement, context)
        case _:
            assert_never(statement)


def _extract(statement: ast.Extract, context: Context) -> ExtractResult:
    _refuse_clauses(statement)
    context.keep_edits(statement.title)
    from lql.inference.token_scorer import TorchScorer
    from vindex.checkpoint import open_checkpoint
    from vindex.extract import extract
    from vindex.store import open_vindex

    level, dtype = statement.level or DEFAULT_LEVEL, statement.dtype or DEFAULT_DTYPE
    target = Path(text(statement.target)).expanduser()
    with open_checkpoint(_home(text(statement.model)), progress=context.progress) as checkpoint:
        report = extract(
            checkpoint,
            target,
            level=level,
            dtype=dtype,
            quant=statement.quant or Quant.NONE,
            down_q4k=statement.down_q4k,
            drop_gate_vectors=statement.drop_gate_vectors,
            overwrite=statement.overwrite,
            scorer=TorchScorer(),
            progress=context.progress,
        )
    context.state.replace(open_vindex(target))
    for note in report.notes:
        context.note(note)
    return ExtractResult(
        model=report.model,
        path=str(report.path),
        family=report.family,
        level=report.level.value,
        dtype=report.dtype.value,
        quant=(statement.quant or Quant.NONE).value,
        layers=report.num_layers,
        features=report.num_features,
        size_bytes=report.size_bytes,
        dropped=dict(Counter(drop.rule for drop in report.dropped)),
        seconds={phase.name: phase.seconds for phase in report.phases},
    )


def _refuse_clauses(statement: ast.Extract) -> None:
    """Clauses that parse and that no executor honours yet."""
    clauses = {
        "COMPONENTS": bool(statement.components),
        "LAYERS": statement.layers is not None,
        "RESUME": statement.resume,
    }
    for clause, written in clauses.items():
        if written:
            raise not_available(f"EXTRACT … {clause}", statement.span)


def _use_vindex(statement: ast.UseVindex, context: Context) -> UseResult:
    from vindex.store import open_vindex

    context.keep_edits(statement.title)
    path = text(statement.path)
    if path.startswith("hf://"):
        raise not_available("USE of a vindex on the hub", statement.path.span)
    config = None if statement.config is None else text(statement.config)
    try:
        opened = open_vindex(Path(path).expanduser(), config=config)
    except VindexNotFound as error:
        raise _with_neighbours(error, path) from error
    context.state.replace(opened)
    for note in opened.notes:
        context.note(note)
    index = opened.index
    return UseResult(
        path=str(opened.path),
        model=index.model,
        family=index.family,
        layers=index.num_layers,
        features=index.num_features,
        level=opened.level.value,
        dtype=index.dtype.value,
    )


def _with_neighbours(error: VindexNotFound, path: str) -> VindexNotFound:
    """The error with the vindexes nearby whose names are like the one that is not there."""
    parent = Path(path).expanduser().parent
    try:
        there = [entry.name for entry in parent.iterdir() if (entry / "index.json").is_file()]
    except OSError:
        return error
    close = [str(Path(path).parent / name) for name in nearest(Path(path).name, there)]
    if not close:
        return error
    quoted = " or ".join(f'"{name}"' for name in close)
    return VindexNotFound(
        error.message,
        hint=f"did you mean {quoted}?",
        path=error.path,
        details=error.details,
    )


def _use_model(statement: ast.UseModel, context: Context) -> UseResult:
    from vindex.checkpoint import CheckpointSource, open_checkpoint

    context.keep_edits(statement.title)
    if statement.auto_extract:
        raise not_available(
            "AUTO_EXTRACT", statement.span, "EXTRACT MODEL writes a vindex, USE opens it"
        )
    checkpoint = open_checkpoint(_home(text(statement.model)), progress=context.progress)
    try:
        source = CheckpointSource(checkpoint)
    except BaseException:
        checkpoint.close()
        raise
    context.state.replace(source)
    for note in source.notes:
        context.note(note)
    spec = source.spec
    return UseResult(
        path=source.name,
        model=source.name,
        family=spec.family,
        layers=spec.num_layers,
        features=sum(layer.ffn.width for layer in spec.layers),
        level=None,
        dtype=None,
    )


def _home(model: str) -> str:
    """A model reference with ``~`` resolved; nothing else of it may be read as a path here."""
    return str(Path(model).expanduser()) if model.startswith("~") else model
