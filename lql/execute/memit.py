"""INSERT … MODE MEMIT: facts written into the down matrices of a few layers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlCapabilityError, LqlRuntimeError, LqlTypeError
from lql.execute.facts import Row, confidence_of, rows_of
from lql.execute.locating import tell_where
from lql.execute.slots import layer, layer_range, text
from lql.probes import bystanders, essence_prompt, writing_prompts
from lql.span import Span
from vindex.edits import (
    AnyWritten,
    DropFacts,
    EditView,
    Float32,
    Piece,
    Vector,
    WrittenFact,
    fact_name,
    with_operations,
)
from vindex.errors import VindexError
from vindex.moments import read_moments, write_moments
from vindex.spec import FfnSpec

if TYPE_CHECKING:
    from lql.inference.memit import Sentence, Wish
    from lql.inference.model import LoadedModel
    from lql.inference.writing import Writer
    from vindex.spec import ModelSpec
    from vindex.store import Vindex

_METHOD = "own text 1"
_MAX_TEXT = 64 << 20
_LIKELY = 0.2
"""A target that the search leaves below this probability is told of."""


@dataclass(frozen=True, slots=True)
class Writing:
    """How a statement writes into the weights.

    Attributes:
        layers: that are written into, ascending; ``None`` for those of the model's size.
        statistics: text by which ordinary text's use of the layers is measured, or ``None`` for
            the model's own.
    """

    title: str
    span: Span
    layers: Sequence[int] | None = None
    statistics: Path | None = None
    confidence: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """What facts are written with.

    Attributes:
        view: the edits in effect, without those of the same names.
        model: with those edits.
        moments: how ordinary text uses the writer's layers.
    """

    view: EditView
    model: LoadedModel
    writer: Writer
    moments: Mapping[int, Float32]
    guards: Sequence[Sentence]


def written_facts(statement: ast.Insert, context: Context) -> list[WrittenFact]:
    """The facts of a statement with what they add to the weights: see ``write``."""
    vindex = context.vindex(statement.title)
    confidence = confidence_of(statement.confidence)
    rows = rows_of(statement)
    path = None if statement.statistics is None else Path(text(statement.statistics)).expanduser()
    layers = _layers(statement, vindex.index.num_layers)
    how = Writing(statement.title, statement.span, layers, path, confidence)
    facts = write(rows, how, context)
    if statement.check is ast.Check.FULL:
        _tell_where(rows, how, context)
    return facts


def write(
    rows: Sequence[Row], how: Writing, context: Context, start: EditView | None = None
) -> list[WrittenFact]:
    """Facts with what they add to the weights, solved together.

    Args:
        start: what is written over; the edits in effect where it is not given.

    Raises:
        LqlRuntimeError: two targets for one fact, or a target that is no token.
        LqlCapabilityError: a layer that has no down matrix of its own, or a model on a GPU.
    """
    _refuse_two_targets(rows)
    bench = bench_for(rows, how, context, start)
    writer = bench.writer
    found = []
    for number, row in enumerate(rows, 1):
        context.cancel.check(f"fact {number}/{len(rows)}")
        found.append(writer.find(wish_of(row, writer, bench.model), context.cancel))
        if found[-1].first[0] < _LIKELY:
            context.note(
                f"{row.entity} —{row.relation}→ {row.target}: no change was found that makes the "
                f"target likely (probability {found[-1].first[0]:.2g})"
            )
    pieces = writer.write(found, bench.guards, bench.moments, cancel=context.cancel)
    return [
        WrittenFact(
            row.entity, row.relation, row.target, pieces_of(own), how.confidence, row.aliases
        )
        for row, own in zip(rows, pieces, strict=True)
    ]


def _tell_where(rows: Sequence[Row], how: Writing, context: Context) -> None:
    """Note in which layers the unedited model looks the facts up."""
    from lql.inference.writing import Writer, default_layers

    vindex = context.vindex(how.title)
    base = context.model_with(context.state.overlay.base_view, how.title)
    layers = default_layers(base.spec.num_layers) if how.layers is None else how.layers
    tell_where(rows, Writer(base, tuple(layers)), vindex, context)


def bench_for(
    rows: Sequence[Row], how: Writing, context: Context, start: EditView | None = None
) -> Bench:
    """The model, the writer and the statistics that facts are written with: see ``write``.

    Raises:
        LqlCapabilityError: a layer that has no down matrix of its own, or a model on a GPU.
    """
    from lql.inference.writing import Writer, default_layers

    vindex = context.vindex(how.title)
    start = context.state.overlay.view if start is None else start
    # Without what earlier statements wrote for the same facts.
    view = with_operations(start, (DropFacts(row.entity, row.relation) for row in rows))
    model = context.model_with(view, how.title)
    if model.device != "cpu":
        raise LqlCapabilityError(
            Diagnostic(
                Code.UNSUPPORTED,
                f"what to write is searched for on the processor, and the model is on "
                f"{model.device}",
                span=how.span,
                helps=("SET device = cpu; brings it back",),
            )
        )
    layers = default_layers(model.spec.num_layers) if how.layers is None else how.layers
    _refuse_mixtures(layers, model.spec)
    writer = Writer(model, tuple(layers))
    guards = guards_of(rows, start.written.values(), writer)
    return Bench(view, model, writer, _moments(how, layers, vindex, context), guards)


def pieces_of(solved: Iterable[tuple[int, Float32, Float32]]) -> tuple[Piece, ...]:
    """What a ``Writer`` solved for a fact, as an edit holds it."""
    return tuple(Piece(at, Vector.of(left), Vector.of(right)) for at, left, right in solved)


def _refuse_two_targets(rows: Sequence[Row]) -> None:
    seen: dict[tuple[str, str], Row] = {}
    for row in rows:
        name = fact_name(row.entity, row.relation)
        if name in seen:
            raise LqlRuntimeError(
                Diagnostic(
                    Code.FACTS_INVALID,
                    f"{row.entity} —{row.relation}→ is written twice: "
                    f"{seen[name].target} and {row.target}",
                )
            )
        seen[name] = row


def _layers(statement: ast.Insert, count: int) -> Sequence[int] | None:
    """The layers that a statement names.

    Raises:
        LqlTypeError: a layer that the model has not, or both AT LAYER and AT LAYERS.
    """
    if statement.layer is not None and statement.layers is not None:
        raise LqlTypeError(
            Diagnostic(
                Code.WRONG_TYPE,
                "AT LAYER and AT LAYERS exclude each other",
                span=statement.layers.span,
                helps=("keep one of the two",),
            )
        )
    if statement.layer is not None:
        return (layer(statement.layer, count),)
    return None if statement.layers is None else layer_range(statement.layers, count)


def _refuse_mixtures(layers: Iterable[int], spec: ModelSpec) -> None:
    for each in layers:
        if not isinstance(spec.layers[each].ffn, FfnSpec):
            raise LqlCapabilityError(
                Diagnostic(
                    Code.UNSUPPORTED,
                    f"layer {each} is a mixture of experts, which has no one down matrix",
                    helps=("MODE KNN stores facts beside the weights",),
                )
            )


def wish_of(row: Row, writer: Writer, model: LoadedModel) -> Wish:
    """A row as the search takes it.

    Raises:
        LqlRuntimeError: the target is no token.
    """
    from lql.inference.memit import Wish

    target = model.target_ids(row.target)
    if not target:
        raise LqlRuntimeError(
            Diagnostic(Code.FACTS_INVALID, f'the target "{row.target}" holds no token')
        )
    sentences = [
        writer.sentence(prompt, name)
        for name in (row.entity, *row.aliases)
        for prompt in writing_prompts(name, row.relation)
    ]
    essence = writer.sentence(essence_prompt(row.entity), row.entity)
    return Wish(tuple(sentences), essence, target)


def guards_of(rows: Sequence[Row], written: Iterable[AnyWritten], writer: Writer) -> list[Sentence]:
    """What shall stay: the same sentences about others, and what was written before."""
    edited = {row.entity.casefold() for row in rows}
    found: dict[tuple[str, str], None] = {}
    for row in rows:
        for name in bystanders(row.entity, row.relation):
            if name.casefold() not in edited:
                found[name, row.relation] = None
    own = {fact_name(row.entity, row.relation) for row in rows}
    for fact in written:
        if fact.name not in own:
            found[fact.entity, fact.relation] = None
    return [
        writer.sentence(prompt, entity)
        for entity, relation in found
        for prompt in writing_prompts(entity, relation)
    ]


# --------------------------------------------------------------------------- statistics


def _moments(
    how: Writing, layers: Sequence[int], vindex: Vindex, context: Context
) -> Mapping[int, Float32]:
    """How ordinary text uses the layers: kept in the vindex, or computed now and then kept."""
    from lql.inference.statistics import moments_of, own_text, recipe

    model = context.model_with(context.state.overlay.base_view, how.title)
    words = None if how.statistics is None else _read_text(how.statistics)
    made_for = recipe() if words is None else hashlib.sha256(words.encode()).hexdigest()
    known: dict[int, Float32] = {}
    for each in layers:
        width = vindex.num_features(each)
        held = read_moments(vindex.path, each, width, made_for, own=words is None)
        if held is not None:
            known[each] = held
    missing = [each for each in layers if each not in known]
    if not missing:
        return known
    context.progress.phase("how ordinary text uses the layers", 0, "")
    if words is None:
        texts = own_text(model, cancel=context.cancel)
    else:
        texts = [list(model.encoder.ids(words))]
    fresh = moments_of(model, texts, missing, cancel=context.cancel)
    for each, values in fresh.items():
        try:
            write_moments(vindex.path, each, values, made_for, own=words is None)
        except (OSError, VindexError) as error:
            context.note(f"the statistics of layer {each} could not be stored: {error}")
            break
    return {**known, **fresh}


def _read_text(path: Path) -> str:
    if path.stat().st_size > _MAX_TEXT:
        raise LqlRuntimeError(
            Diagnostic(
                Code.STATISTICS_INVALID, f"{path} is larger than the {_MAX_TEXT >> 20} MB of a text"
            )
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise LqlRuntimeError(
            Diagnostic(
                Code.STATISTICS_INVALID, f"{path} is not UTF-8: byte {error.start} cannot be read"
            )
        ) from None
