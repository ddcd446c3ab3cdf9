"""WHERE relation = "word": a word that no relation is called, read as one that means the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lql import ast
from lql.context import Context
from lql.execute.asking import Asking, asking, is_name, kinds_background, known_catalogue
from lql.execute.kept import keep_meanings, kept_meanings
from lql.names import nearest
from lql.tables.conditions import pinned
from lql.tables.edges import Evidence
from lql.tables.scope import Scope
from vindex.errors import VindexError
from vindex.kinds import ExtractLevel
from vindex.labels import Labels
from vindex.store import Vindex

if TYPE_CHECKING:
    from lql.inference.answers import Meaning

#: A word is taken for a relation with this confidence, and this much more than for any other.
#: Chosen on half of the words of ``tests/bench/relation_words.toml``.
_LEAST, _LEAD = 0.45, 0.05
_TABLES = (ast.Table.EDGES, ast.Table.FEATURES, ast.Table.RELATIONS)


def by_meaning(select: ast.Select, scope: Scope, context: Context) -> ast.Select:
    """The statement with relations in the place of words that mean them; each is told in a note.

    Only ``relation = "word"`` is read so, where no relation has exactly that name; EXACT switches
    it off.
    """
    if select.exact or select.where is None:
        return select
    words = {each.value: each for each in _words(select.where, scope)}
    if not words:
        return select
    vindex = context.vindex("SELECT")
    entity = _asked_about(select, vindex)
    known = _known(select, entity, vindex, context)
    own = {relation.name for relation in known_catalogue().relations} | {*context.state.defined}
    for word in [word for word in words if word not in known]:
        if word in own:  # it means itself
            context.note(
                f'no row has the relation "{word}": PROBE RELATION "{word}" FOR … asks for it'
            )
            continue
        meant = _meant(word, known, entity, vindex, context)
        if meant is not None:
            select = replace(select, where=_replaced(select.where, scope, word, meant))
            assert select.where is not None
    return select


def _words(node: ast.Condition, scope: Scope) -> Iterator[ast.Text]:
    match node:
        case ast.Comparison(comparator=ast.Comparator.EQ, value=ast.Text() as text):
            if _is_relation(node.operand, scope):
                yield text
        case ast.And() | ast.Or():
            for part in node.conditions:
                yield from _words(part, scope)
        case _:
            pass


def _is_relation(operand: ast.Operand, scope: Scope) -> bool:
    if not isinstance(operand, ast.Column) or operand.name != "relation":
        return False
    source = scope.column(operand).source
    return source is not None and source.schema.table in _TABLES


def _replaced(
    node: ast.Condition | None, scope: Scope, word: str, meant: str
) -> ast.Condition | None:
    match node:
        case ast.Comparison(comparator=ast.Comparator.EQ, value=ast.Text(value=value)):
            if value == word and _is_relation(node.operand, scope):
                return replace(node, value=ast.Text(meant, span=node.value.span))
            return node
        case ast.And() | ast.Or():
            parts = (_replaced(part, scope, word, meant) for part in node.conditions)
            return replace(node, conditions=tuple(part for part in parts if part is not None))
        case _:
            return node


def _asked_about(select: ast.Select, vindex: Vindex) -> str | None:
    """The first entity that a statement asks the model about, if it asks."""

    def only(name: str) -> list[str] | None:
        return pinned(select.where, lambda each: isinstance(each, ast.Column) and each.name == name)

    evidence, entities = only("evidence"), only("entity")
    if ast.Table.EDGES not in _tables(select) or not _can_ask(vindex) or not entities:
        return None
    return entities[0] if evidence is None or Evidence.ANSWER.value in evidence else None


def _tables(select: ast.Select) -> tuple[ast.Table, ...]:
    return (select.table, *(join.table for join in select.joins))


def _known(select: ast.Select, entity: str | None, vindex: Vindex, context: Context) -> list[str]:
    """The relations that rows of the statement's tables can have."""
    view, tables = context.state.overlay.view, _tables(select)
    found = set(_labels(vindex.labels))
    if ast.Table.EDGES in tables or ast.Table.RELATIONS in tables:
        found.update(probe.relation for probe in view.probes.values())
        found.update(fact.relation for fact in view.facts.values())
    if ast.Table.RELATIONS in tables:
        found.update(context.state.defined)
    if entity is not None:
        found.update(relation.name for relation in known_catalogue().relations)
        found.update(context.state.defined)
    return sorted(found)


def _labels(labels: Labels) -> Iterator[str]:
    yield from labels.probes.values()
    if labels.assignments:
        yield from labels.clusters.values()


def _can_ask(vindex: Vindex) -> bool:
    try:
        vindex.require(ExtractLevel.INFERENCE, "asking the model itself")
    except VindexError:
        return False
    return True


def _meant(
    word: str, known: Sequence[str], entity: str | None, vindex: Vindex, context: Context
) -> str | None:
    """The relation that a word means, if the model is sure enough."""
    if not known:
        context.note(f'no relation is called "{word}", nor anything else: see LABEL FEATURES')
        return None
    alike = nearest(word, known)
    if not _can_ask(vindex) or not any(map(str.isalnum, word)):
        also = f"; there is {', '.join(alike)}" if alike else ""
        context.note(f'no relation is called "{word}"{also}')
        return None
    about = entity or f"any {_usual_kind(known, context)}"
    before = kept_meanings(word, about, known, context)
    if before is None:
        before = _asked(word, known, entity, context)
        keep_meanings(word, about, known, *before, context)
    kind, (best, *rest) = before
    told = (
        f"confidence {best.confidence:.2f}: of a {kind}, words alike {best.similarity:.2f}, "
        f"answers agree {best.agreement:.2f}, called so {best.called:.2f}"
    )
    if taken(best, rest):
        context.note(
            f'relation "{word}" is read as "{best.relation}" ({told}); EXACT takes it as written'
        )
        return best.relation
    context.note(
        f'no relation is called "{word}", and none is near enough: "{best.relation}" ({told})'
        + "".join(f', "{each.relation}" ({each.confidence:.2f})' for each in rest[:1])
    )
    return None


def taken(best: Meaning, rest: Sequence[Meaning]) -> bool:
    """Whether the likeliest relation is likely enough, the next ones being what they are."""
    lead = best.confidence - (rest[0].confidence if rest else 0.0)
    return best.confidence >= _LEAST and lead >= _LEAD


def _asked(
    word: str, known: Sequence[str], entity: str | None, context: Context
) -> tuple[str, list[Meaning]]:
    """The kind that a word is tried on, and the two of the known relations that it fits best."""
    held = asking("SELECT", context)
    kind = _kind(known, entity, held, context)
    # Words are told apart by all that can be asked about a kind, and taken for what is known here.
    catalogue = held.describer.catalogue
    unsuited = {each.name for each in catalogue.relations if not each.suits(kind)}
    own = [each.name for each in catalogue.relations if each.suits(kind)]
    candidates = [name for name in known if name not in unsuited] or list(known)
    context.progress.phase(f'what "{word}" means', 1, "")
    relations = list(dict.fromkeys((*own, *candidates)))
    every = held.describer.meanings(word, relations, kind, cancel=context.cancel)
    return kind, [each for each in every if each.relation in candidates][:2]


def _kind(known: Sequence[str], entity: str | None, held: Asking, context: Context) -> str:
    """The kind of entities that words are tried on: the entity's, else the usual one."""
    if entity is not None and is_name(entity, held):
        held.describer.set_usual(kinds_background(held, context))
        return held.describer.kinds(" ".join(entity.split()), cancel=context.cancel)[0].kind
    return _usual_kind(known, context)


def _usual_kind(known: Sequence[str], context: Context) -> str:
    """The kind that was probed most often, else the one that most known relations suit."""
    catalogue = known_catalogue()
    probes = context.state.overlay.view.probes.values()
    probed = Counter(probe.kind for probe in probes if probe.kind in catalogue.kinds)
    asked = Counter(
        kind
        for relation in catalogue.relations
        if relation.name in known
        for kind in catalogue.kinds
        if relation.suits(kind)
    )
    for counts in (probed, asked):
        if counts:
            return min(counts, key=lambda kind: (-counts[kind], kind))
    return next(iter(catalogue.kinds))
