"""TRACE and USE TRACE: the residual stream of a prompt, and of a saved trace."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, assert_never

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlRuntimeError, LqlTypeError
from lql.execute.changes import Changes, changes_of, excluded
from lql.execute.infer import note_prompt_mode, token_row
from lql.execute.positions import only_last, positions_of
from lql.execute.slots import integer_or, layer_range, text
from lql.execute.trace_rows import layer_rows, saved_file, saved_rows
from lql.results import Meta, Result, Truncation
from lql.results.trace import (
    FeatureRow,
    HeadRow,
    TraceFeaturesResult,
    TraceHeadsResult,
    TraceResult,
    UseTraceResult,
)
from lql.span import Span
from vindex.errors import LevelTooLow
from vindex.features import down_tokens
from vindex.tracefile import (
    ATTENTION,
    REST,
    keeps_positions,
    read_trace_file,
    write_trace_file,
)

if TYPE_CHECKING:
    from lql.inference.model import LoadedModel
    from lql.inference.traces import FeatureShare, Trace
    from vindex.store import Vindex
    from vindex.tracefile import TraceFile

DEFAULT_SHARES = 20
TOP = 5

_Row = TypeVar("_Row")


def run(statement: ast.Trace | ast.UseTrace, context: Context) -> Result:
    """Run TRACE or USE TRACE."""
    match statement:
        case ast.UseTrace():
            return _use(statement, context)
        case ast.Trace():
            _refuse_clauses(statement)
            if statement.diff is not None:
                from lql.execute.trace_diff import run as run_diff

                return run_diff(statement, context)
            return (
                _saved(statement, context)
                if statement.prompt is None
                else _run(statement, statement.prompt, context)
            )
        case _:
            assert_never(statement)


def _refuse_clauses(statement: ast.Trace) -> None:
    """Refuse clauses that make no sense together, or without another."""
    span = statement.span
    shares = "HEADS" if statement.heads else "FEATURES" if statement.features else None
    several = not only_last(statement.positions)
    wide = {
        "DECOMPOSE": statement.decompose,
        "POSITIONS": statement.positions is not None,
        "SAVE": statement.save is not None,
    }
    if shares is not None:
        for name in [name for name, there in (wide | {"POSITIONS": several}).items() if there]:
            raise excluded(shares, name, span)
    if statement.diff is not None:
        wide |= {"HEADS": statement.heads, "FEATURES": statement.features}
        for name in [name for name, there in wide.items() if there]:
            raise excluded("DIFF", name, span)
    if statement.patch_layer is not None and statement.diff is None:
        raise _needs("PATCH AT LAYER", "DIFF", statement)
    if statement.overwrite and statement.save is None:
        raise _needs("OVERWRITE", "SAVE", statement)
    if statement.prompt is None:
        live = {
            "HEADS or FEATURES": bool(shares),
            "DIFF": statement.diff is not None,
            "ABLATE or STEER": bool(statement.ablate or statement.steer),
            "CHAT or RAW": statement.prompt_mode is not None,
            "SAVE": statement.save is not None,
        }
        for name in [name for name, there in live.items() if there]:
            raise _needs(name, "a prompt", statement)


def _needs(what: str, other: str, statement: ast.Trace) -> LqlTypeError:
    return LqlTypeError(
        Diagnostic(Code.TRACE_CLAUSES, f"{what} needs {other}", span=statement.span)
    )


# --------------------------------------------------------------------------- a prompt


def _run(statement: ast.Trace, prompt: ast.TextSlot, context: Context) -> Result:
    layers = layer_range(statement.layers, context.source().spec.num_layers)
    model = context.model(statement.title)
    mode = statement.prompt_mode or ast.PromptMode.RAW
    changes = changes_of(statement, model)
    note_prompt_mode(model, mode, context)
    target = None if statement.answer is None else text(statement.answer)
    shown = integer_or(statement.limit, DEFAULT_SHARES)
    trace = model.trace(
        text(prompt),
        target=target,
        positions=_positions(statement, text(prompt), mode, model),
        mode=mode,
        interventions=changes.wanted,
        heads=statement.heads,
        features=shown if statement.features else 0,
        layers=layers,
        top=TOP,
        cancel=context.cancel,
    )
    _note(statement, prompt, trace, model, context)
    if statement.heads:
        return _heads(text(prompt), target, trace, shown)
    if statement.features:
        return _features(text(prompt), target, trace, layers, context)
    saved = _save(statement, trace, text(prompt), changes, context)
    rows = layer_rows(trace)
    if statement.layers is not None:
        rows = tuple(row for row in rows if row.layer in layers)
    rows, truncated = _cut(rows, integer_or(statement.limit, len(rows)))
    return TraceResult(
        meta=Meta(truncated=truncated),
        prompt=text(prompt),
        prompt_mode=mode.value.lower(),
        target=target,
        layers=rows,
        lengths=statement.decompose or target is None,
        share=statement.decompose,
        gap=float(trace.stream.gaps().max()),
        constant=None if trace.direct is None else trace.direct.constant,
        prediction=tuple(map(token_row, trace.prediction)),
        interventions=changes.written,
        saved=saved,
    )


def _positions(
    statement: ast.Trace, prompt: str, mode: ast.PromptMode, model: LoadedModel
) -> tuple[int, ...]:
    """The positions that a statement asks for, of the prompt as the model reads it."""
    if only_last(statement.positions):
        return (-1,)
    pieces = model.encode(prompt, mode).pieces
    return positions_of(statement.positions, len(pieces), pieces)


def _note(
    statement: ast.Trace,
    prompt: ast.TextSlot,
    trace: Trace,
    model: LoadedModel,
    context: Context,
) -> None:
    """What a reader of the numbers ought to know."""
    if len(trace.target_ids) > 1:
        pieces = [model.token_text(each) for each in trace.target_ids]
        context.note(
            f"the target is {len(pieces)} tokens: rank, probability and logits are of the first, "
            f'"{pieces[0]}", word_probability is of all'
        )
    if trace.target_ids and trace.positions[-1] != len(trace.encoded.ids) - 1:
        context.note("contributions are of the last position, which POSITIONS leaves out")
    if model.facts:
        mode = statement.prompt_mode or ast.PromptMode.RAW
        fact = model.infer(text(prompt), top=1, mode=mode, cancel=context.cancel).fact
        if fact is not None:
            context.note("a stored fact answers this prompt; TRACE shows the model without it")


def _save(
    statement: ast.Trace, trace: Trace, prompt: str, changes: Changes, context: Context
) -> str | None:
    if statement.save is None:
        return None
    if "\0" in text(statement.save):
        raise LqlTypeError(
            Diagnostic(Code.WRONG_TYPE, "no path holds a NUL", span=statement.save.span)
        )
    path = Path(text(statement.save)).expanduser()
    file = saved_file(trace, prompt, _model_name(context), changes.written)
    write_trace_file(path, file, overwrite=statement.overwrite)
    if len(trace.positions) < len(trace.encoded.ids) and not keeps_positions(path):
        held = ", ".join(map(str, trace.positions))
        context.note(
            f"larql's format does not say which positions it holds ({held}); .safetensors does"
        )
    context.note(f"wrote {path} ({path.stat().st_size:,} bytes)")
    return str(path)


def _model_name(context: Context) -> str:
    from vindex.store import Vindex

    source = context.source()
    return source.index.model if isinstance(source, Vindex) else source.name


def _heads(prompt: str, target: str | None, trace: Trace, shown: int) -> TraceHeadsResult:
    found = sorted(
        trace.heads, key=lambda head: -(head.length if head.logit is None else abs(head.logit))
    )
    rows = tuple(HeadRow(each.layer, each.head, each.length, each.logit) for each in found)
    rows, truncated = _cut(rows, shown)
    return TraceHeadsResult(
        meta=Meta(truncated=truncated), prompt=prompt, target=target, heads=rows
    )


def _features(
    prompt: str, target: str | None, trace: Trace, layers: range, context: Context
) -> TraceFeaturesResult:
    from vindex.store import Vindex

    vindex = None
    if isinstance(context.source(), Vindex):
        vindex = context.vindex("TRACE")
    else:
        context.note("features have no tokens or labels without a vindex; EXTRACT makes one")
    spec = context.source().spec
    total = sum(spec.layers[layer].ffn.width for layer in layers)
    cut = len(trace.features) < total
    return TraceFeaturesResult(
        meta=Meta(truncated=Truncation(len(trace.features), total, "LIMIT n") if cut else None),
        prompt=prompt,
        target=target,
        features=tuple(_feature(share, vindex) for share in trace.features),
    )


def _feature(share: FeatureShare, vindex: Vindex | None) -> FeatureRow:
    token = relation = None
    if vindex is not None:
        if share.feature < vindex.down_meta.num_features(share.layer):
            record = vindex.down_meta.records(share.layer)[share.feature]
            tokens = down_tokens(vindex, record)
            token = tokens[0].token if tokens else None
        label = vindex.labels.of(share.layer, share.feature)
        relation = None if label is None else label.text
    return FeatureRow(
        layer=share.layer,
        feature=share.feature,
        relation=relation,
        token=token,
        activation=share.activation,
        length=share.length,
        logit=share.logit,
    )


def _cut(rows: Sequence[_Row], shown: int) -> tuple[tuple[_Row, ...], Truncation | None]:
    if len(rows) <= shown:
        return tuple(rows), None
    return tuple(rows[:shown]), Truncation(shown, len(rows), "LIMIT n")


# --------------------------------------------------------------------------- a saved trace


def _use(statement: ast.UseTrace, context: Context) -> UseTraceResult:
    path = Path(text(statement.path)).expanduser()
    file = read_trace_file(path)
    context.state.trace = file
    _, positions, hidden = file.residual.shape
    return UseTraceResult(
        path=str(path),
        prompt=file.prompt,
        model=file.model,
        layers=file.num_layers,
        positions=positions,
        hidden=hidden,
    )


def _saved(statement: ast.Trace, context: Context) -> TraceResult:
    """TRACE without a prompt: the saved trace, with the lens of the model in use if it is its."""
    file = context.state.trace
    if file is None:
        raise LqlRuntimeError(
            Diagnostic(
                Code.NO_TRACE,
                "no saved trace is in use, and TRACE has no prompt",
                span=statement.span,
                helps=('TRACE "prompt"; runs the model', 'USE TRACE "file"; opens a saved trace'),
            )
        )
    layers = layer_range(statement.layers, file.num_layers)
    needed_for = None if statement.answer is None else "FOR"
    model = lens_model(file, context, statement.title, needed_for, statement.span)
    target = None if statement.answer is None else text(statement.answer)
    rows, gap = saved_rows(file, target, model, context.cancel)
    chosen = _saved_positions(statement, file)
    rows = tuple(row for row in rows if row.position in chosen)
    if set(file.parts) == {ATTENTION, REST}:
        context.note("this format keeps attention apart; ffn is all else that a layer changes")
    if statement.layers is not None:
        rows = tuple(row for row in rows if row.layer in layers)
    rows, truncated = _cut(rows, integer_or(statement.limit, len(rows)))
    return TraceResult(
        meta=Meta(truncated=truncated),
        prompt=file.prompt,
        prompt_mode=None,
        target=target,
        layers=rows,
        lengths=statement.decompose or target is None,
        share=statement.decompose,
        gap=gap,
        interventions=file.interventions,
    )


def _saved_positions(statement: ast.Trace, file: TraceFile) -> frozenset[int]:
    """The positions of a saved trace that are asked for; LAST is the last that it holds.

    Raises:
        LqlTypeError: one that the prompt does not have, or that was not saved.
    """
    held = file.places
    if only_last(statement.positions):
        return frozenset(held[-1:])
    if statement.positions is ast.TracePositions.ALL:
        return frozenset(held)
    count = len(file.token_ids) or len(held)  # larql's format knows no other tokens
    wanted = positions_of(statement.positions, count, file.pieces)
    missing = [position for position in wanted if position not in held]
    if missing:
        assert isinstance(statement.positions, tuple)
        raise LqlTypeError(
            Diagnostic(
                Code.NO_POSITION,
                f"the trace was saved without position {missing[0]}",
                span=statement.positions[0].span.join(statement.positions[-1].span),
                label=f"it holds {', '.join(map(str, held))}",
                helps=("TRACE … POSITIONS ALL SAVE keeps every one",),
            )
        )
    return frozenset(wanted)


def lens_model(
    file: TraceFile, context: Context, title: str, needed_for: str | None, span: Span
) -> LoadedModel | None:
    """The model in use, if it can read a saved trace.

    Args:
        title: the statement that asks.
        needed_for: what cannot be had without it; ``None`` where the rest is worth something.
        span: where that is asked for.

    Returns:
        ``None`` where nothing that fits is in use; a note says so.

    Raises:
        LqlRuntimeError: it is needed, and is not in use.
        LevelTooLow: it is needed, and the vindex in use does not hold its weights.
    """
    source = context.state.source
    shape = file.num_layers, file.residual.shape[2]
    fits = source is not None and (source.spec.num_layers, source.spec.hidden_size) == shape
    if not fits:
        missing = f"a model of {shape[0]} layers of {shape[1]} is not in use"
        if needed_for is not None:
            raise LqlRuntimeError(
                Diagnostic(
                    Code.NO_TRACE,
                    f"{needed_for} is read from a trace with its model, and {missing}",
                    span=span,
                    helps=("USE the vindex that the trace was made with",),
                )
            )
        context.note(f"without a lens: {missing}")
        return None
    try:
        model = context.model(title)
    except LevelTooLow as error:
        if needed_for is not None:
            raise
        context.note(f"without a lens: {error.message}")
        return None
    name = _model_name(context)
    if file.model is None:
        context.note(f"the file does not say its model; the lens is that of {name}")
    elif file.model != name:
        context.note(f"the trace is of {file.model}; the lens is that of {name}")
    return model
