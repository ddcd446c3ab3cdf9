"""INSERT … MODE MEMIT: facts written into the down matrices of a few layers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
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
from vindex.edits import DropFacts, Float32, Piece, Vector, WrittenFact, fact_name
from vindex.errors import VindexError
from vindex.moments import read_moments, write_moments
from vindex.overlay import Edit
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


def written_facts(statement: ast.Insert, context: Context) -> list[WrittenFact]:
    """The facts of a statement with what they add to the weights.

    Raises:
        LqlRuntimeError: two targets for one fact, or a target that is no token.
        LqlCapabilityError: a layer that has no down matrix of its own, or a model on a GPU.
        LqlTypeError: a layer that the model has not, or both AT LAYER and AT LAYERS.
    """
    from lql.inference.writing import Writer

    vindex = context.vindex(statement.title)
    confidence = confidence_of(statement.confidence)
    rows = rows_of(statement)
    _refuse_two_targets(rows)
    model = _model_without(rows, statement, context)
    if model.device != "cpu":
        raise LqlCapabilityError(
            Diagnostic(
                Code.UNSUPPORTED,
                f"MODE MEMIT searches on the processor, and the model is on {model.device}",
                span=statement.span,
                helps=("SET device = cpu; brings it back",),
            )
        )
    layers = _layers(statement, vindex, model.spec)
    writer = Writer(model, layers)
    wishes = [wish_of(row, writer, model) for row in rows]
    moments = _moments(statement, layers, vindex, context)
    found = []
    for number, (row, wish) in enumerate(zip(rows, wishes, strict=True), 1):
        context.cancel.check(f"fact {number}/{len(rows)}")
        found.append(writer.find(wish, context.cancel))
        if found[-1].first[0] < _LIKELY:
            context.note(
                f"{row.entity} —{row.relation}→ {row.target}: no change was found that makes the "
                f"target likely (probability {found[-1].first[0]:.2g})"
            )
    guards = guards_of(rows, context.state.overlay.view.written.values(), writer)
    pieces = writer.write(found, guards, moments, cancel=context.cancel)
    if statement.check is ast.Check.FULL:
        base = context.model_with(context.state.overlay.base_view, statement.title)
        tell_where(rows, Writer(base, layers), vindex, context)
    return [
        WrittenFact(
            row.entity,
            row.relation,
            row.target,
            tuple(Piece(at, Vector.of(left), Vector.of(right)) for at, left, right in own),
            confidence,
            row.aliases,
        )
        for row, own in zip(rows, pieces, strict=True)
    ]


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


def _model_without(rows: Sequence[Row], statement: ast.Insert, context: Context) -> LoadedModel:
    """The model as it is, without what earlier statements wrote for the same facts."""
    drops = tuple(DropFacts(row.entity, row.relation) for row in rows)
    view = context.state.overlay.with_edit(Edit("", drops))
    return context.model_with(view, statement.title)


def _layers(statement: ast.Insert, vindex: Vindex, spec: ModelSpec) -> tuple[int, ...]:
    """The layers that are written into, ascending."""
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
        chosen: Sequence[int] = (layer(statement.layer, spec.num_layers),)
    elif statement.layers is not None:
        chosen = layer_range(statement.layers, spec.num_layers)
    else:
        from lql.inference.writing import default_layers

        chosen = default_layers(spec.num_layers)
    for each in chosen:
        if not isinstance(spec.layers[each].ffn, FfnSpec):
            raise LqlCapabilityError(
                Diagnostic(
                    Code.UNSUPPORTED,
                    f"layer {each} is a mixture of experts, which has no one down matrix",
                    helps=("MODE KNN stores facts beside the weights",),
                )
            )
    return tuple(chosen)


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


def guards_of(
    rows: Sequence[Row], written: Iterable[WrittenFact], writer: Writer
) -> list[Sentence]:
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
    statement: ast.Insert, layers: Sequence[int], vindex: Vindex, context: Context
) -> Mapping[int, Float32]:
    """How ordinary text uses the layers: kept in the vindex, or computed now and then kept."""
    from lql.inference.statistics import moments_of, own_text, recipe

    model = context.model_with(context.state.overlay.base_view, statement.title)
    path = None if statement.statistics is None else Path(text(statement.statistics)).expanduser()
    words = None if path is None else _read_text(path)
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
