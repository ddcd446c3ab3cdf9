"""PROBE: one question about many entities, and the answers as edges of the overlay."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lql import ast
from lql.cancel import Cancelled
from lql.catalogue import Relation
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlNameError, LqlRuntimeError, LqlTypeError
from lql.execute.asking import Asking, Questions, asking, is_name, kinds_background
from lql.execute.define import templates_of
from lql.execute.slots import integer_or, text
from lql.names import nearest
from lql.results import Column, Kind, Unit
from lql.results.table import TableResult
from lql.span import Span
from vindex.edits import FactName, fact_name
from vindex.overlay import Edit
from vindex.probes import Probe, ProbeAnswer, PutProbe

if TYPE_CHECKING:
    from lql.inference.facts import Fact

BATCH = 8
"""Entities that are asked about in one forward pass where BATCH does not say."""

_MAX_BYTES = 16 << 20
_MAX_ENTITIES = 100_000

COLUMNS = (
    Column("entity", Kind.TEXT),
    Column("relation", Kind.TEXT),
    Column("target", Kind.TOKEN),
    Column("probability", Kind.NUMBER, Unit.PROBABILITY),
    Column("lift_nats", Kind.NUMBER),
    Column("signal", Kind.TEXT),
    Column("kind", Kind.TEXT),
    Column("source", Kind.TEXT),
)


@dataclass(frozen=True, slots=True)
class _Entity:
    """A name to ask about, and where it stands for messages."""

    name: str
    place: str


def run(statement: ast.Probe, context: Context) -> TableResult:
    """Run PROBE RELATION. Cancelled, it keeps the answers that it has and goes on from there."""
    context.vindex(statement.title)
    top = _top(statement)
    named = _entities(statement)
    held = asking(statement.title, context)
    relation = _asked(statement, held, context)
    questions = Questions.of(relation, held, context)
    known = context.state.overlay.view.probes
    todo = []
    for each in named:
        _check_name(each, held)
        before = known.get(fact_name(each.name, relation.name))
        if before is None or before.templates != relation.templates or before.top < top:
            todo.append(each.name)
    made: list[Probe] = []
    title = f"PROBE {relation.name}"
    try:
        ask(todo, questions, top, integer_or(statement.batch, BATCH), made, context)
    except Cancelled as stopped:
        if not made:
            raise
        _keep(f"{title} of {len(made)} of {len(todo)} entities", made, context)
        raise Cancelled(
            f"{stopped.where}; {len(made)} of {len(todo)} entities are kept, and the same "
            "statement goes on after them"
        ) from stopped
    if made:
        count = made[0].entity if len(made) == 1 else f"{len(made)} entities"
        _keep(f"{title} of {count}", made, context)
    if len(todo) < len(named):
        context.note(f"{len(named) - len(todo)} of {len(named)} entities had been probed before")
    silent = [probe.entity for probe in made if not probe.answers]
    if silent:
        context.note(
            f"no answer about {len(silent)} of {len(made)} entities that is not said of others "
            f"as well: {', '.join(silent[:5])}{', …' if len(silent) > 5 else ''}"
        )
    probes = context.state.overlay.view.probes
    return _table([probes[fact_name(each.name, relation.name)] for each in named])


def _keep(title: str, made: Sequence[Probe], context: Context) -> None:
    context.state.overlay.commit(Edit(title, tuple(PutProbe(probe) for probe in made)))


def _table(probes: Iterable[Probe]) -> TableResult:
    rows = [
        (
            probe.entity,
            probe.relation,
            answer.target,
            answer.probability,
            answer.lift_nats,
            answer.signal,
            probe.kind,
            answer.source,
        )
        for probe in probes
        for answer in probe.answers
    ]
    return TableResult(shape=COLUMNS, values=tuple(rows))


# --------------------------------------------------------------------------- asking


def ask(
    entities: Sequence[str],
    questions: Questions,
    top: int,
    batch: int,
    made: list[Probe],
    context: Context,
) -> None:
    """Ask about entities in batches; what is answered joins ``made`` at once."""
    if not entities:
        return
    kinds = _kinds(entities, questions, batch, context)
    backgrounds = {kind: questions.background(kind, context) for kind in dict.fromkeys(kinds)}
    by_kind: defaultdict[str, list[str]] = defaultdict(list)
    for entity, kind in zip(entities, kinds, strict=True):
        by_kind[kind].append(entity)
    prober = questions.describer.probes()
    relation = questions.relation
    context.progress.phase(f"probing {relation.name}", len(entities), "")
    for kind, alike in by_kind.items():
        for start in range(0, len(alike), batch):
            part = alike[start : start + batch]
            context.cancel.check(f"entity {len(made) + 1}/{len(entities)}")
            found = prober.answers(
                part, relation.name, kind, backgrounds[kind], top=top, cancel=context.cancel
            )
            made += [
                _probe(entity, relation, kind, top, facts)
                for entity, facts in zip(part, found, strict=True)
            ]
            context.progress.advance(len(part))


def _kinds(
    entities: Sequence[str], questions: Questions, batch: int, context: Context
) -> list[str]:
    """As what each entity is asked about: the likeliest of the kinds that the relation suits."""
    suited = questions.kinds
    if len(suited) == 1:
        return [suited[0]] * len(entities)
    describer = questions.held.describer
    describer.set_usual(kinds_background(questions.held, context))
    found = []
    for start in range(0, len(entities), batch):
        part = entities[start : start + batch]
        for scores in describer.kinds_of(part, cancel=context.cancel):
            found.append(next(score.kind for score in scores if score.kind in suited))
    return found


def _probe(entity: str, relation: Relation, kind: str, top: int, facts: Sequence[Fact]) -> Probe:
    answers = tuple(
        ProbeAnswer(
            target=fact.target,
            token_id=fact.answer[0],
            probability=fact.probability,
            lift_nats=fact.lift_nats,
            signal=fact.signal.value,
            source=fact.source,
        )
        for fact in facts
    )
    return Probe(entity, relation.name, kind, relation.templates, top, answers)


# --------------------------------------------------------------------------- what is asked


def _asked(statement: ast.Probe, held: Asking, context: Context) -> Relation:
    """The relation with its templates: the statement's, else those that are known.

    Raises:
        LqlNameError: there is no template.
    """
    name = " ".join(text(statement.relation).split())
    if statement.templates:
        if not name:
            raise LqlTypeError(
                Diagnostic(Code.OUT_OF_RANGE, "a relation has a name", span=statement.relation.span)
            )
        return Relation(name, templates_of(statement.templates), {})
    how = 'TEMPLATE "The capital of {entity} is" says how, for this statement'
    return known_relation(name, statement.relation.span, held, context, how)


def known_relation(name: str, span: Span, held: Asking, context: Context, *helps: str) -> Relation:
    """A relation that the user defined, or one of the catalogue.

    Raises:
        LqlNameError: there is none.
    """
    known = {
        **{each.name: each for each in held.describer.catalogue.relations},
        **context.state.defined,
    }
    wanted = fact_name("", name)
    for each in known.values():
        if fact_name("", each.name) == wanted:
            return each
    raise LqlNameError(
        Diagnostic(
            Code.UNKNOWN_QUESTION,
            f'nobody has said how to ask for "{name}"',
            span=span,
            suggestions=nearest(name, known),
            helps=(*helps, "DEFINE RELATION says how for the session"),
        )
    )


def _top(statement: ast.Probe) -> int:
    from lql.inference.probing import MAX_TOP

    top = integer_or(statement.top, 1)
    if top > MAX_TOP:
        assert statement.top is not None
        raise LqlTypeError(
            Diagnostic(
                Code.OUT_OF_RANGE,
                f"PROBE keeps {MAX_TOP} answers of an entity at most, not {top}",
                span=statement.top.span,
            )
        )
    return top


def _entities(statement: ast.Probe) -> list[_Entity]:
    """The entities of the statement or of its file, each once.

    Raises:
        LqlRuntimeError: a file that cannot be read, or no entity.
        OSError: there is no such file.
    """
    if statement.path is None:
        listed = [_Entity(text(slot), "FOR") for slot in statement.entities]
    else:
        listed = _from_file(Path(text(statement.path)).expanduser())
    clean = [_Entity(" ".join(each.name.split()), each.place) for each in listed]
    found: dict[FactName, _Entity] = {}
    for each in clean:
        found.setdefault(fact_name(each.name, ""), each)
    return list(found.values())


def _from_file(path: Path) -> list[_Entity]:
    """One entity a line; blank lines do not count."""
    if path.stat().st_size > _MAX_BYTES:
        raise _refused(f"{path} is larger than the {_MAX_BYTES >> 20} MB that are read")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise _refused(f"{path} is not UTF-8: byte {error.start} cannot be read") from error
    found = [_Entity(line, f"{path}:{n}") for n, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise _refused(f"{path} names no entity")
    if len(found) > _MAX_ENTITIES:
        raise _refused(f"{path} names {len(found):,} entities, more than {_MAX_ENTITIES:,}")
    return found


def _check_name(entity: _Entity, held: Asking) -> None:
    if not is_name(entity.name, held):
        shown = entity.name if len(entity.name) <= 40 else f"{entity.name[:40]}…"
        raise _refused(
            f'{entity.place}: "{shown}" is no name, which has letters or digits, and not many words'
        )


def _refused(message: str) -> LqlRuntimeError:
    return LqlRuntimeError(
        Diagnostic(Code.ENTITIES_INVALID, message, helps=("one entity a line, UTF-8",))
    )
