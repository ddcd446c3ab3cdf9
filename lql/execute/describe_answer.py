"""DESCRIBE by answers: the rows of a forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlTypeError
from lql.execute.asking import Asking, asking, facts
from lql.execute.bands import band_name
from lql.execute.kept import keep, kept
from lql.execute.slots import not_available, text
from lql.results.browse import EdgeRow
from vindex.kept_answers import Answer, KeptAnswers
from vindex.signals import WEAK_ANSWER, Signal
from vindex.store import Vindex

if TYPE_CHECKING:
    from lql.inference.attribution import Carrier
    from lql.inference.facts import Fact

AnswerT = TypeVar("AnswerT", bound=Answer)

EVIDENCE = "answer"
_LONGEST = 64  # tokens of an entity
#: BRIEF leaves out rows with less than this part of the first one's score.
_BRIEF_SHARE = 0.25
_CARRIERS = 3
UNATTRIBUTED = "models with experts or with norms on the residual stream"


def answer_rows(
    statement: ast.Describe, context: Context, layers: Sequence[int], detail: ast.Detail
) -> tuple[list[EdgeRow], tuple[str, ...]] | None:
    """What the model answers about an entity, best first, and the kinds it takes it for.

    Returns:
        ``None`` where the questions do not fit the model and EVIDENCE does not ask for answers.

    Raises:
        LqlTypeError: the entity is no name: empty, or longer than names are.
    """
    entity = _name(statement)
    if not any(map(str.isalnum, entity)):
        raise _no_name("an entity is a name: letters or digits", statement)
    known = answered_before(statement, context)
    if known is not None:
        rows = [
            _row(text(statement.entity), answer, (), None, None)
            for answer in _shown(entity, known.answers, detail, context)
        ]
        return rows, known.kinds
    return _asked(entity, statement, context, layers, detail)


def _asked(
    entity: str,
    statement: ast.Describe,
    context: Context,
    layers: Sequence[int],
    detail: ast.Detail,
) -> tuple[list[EdgeRow], tuple[str, ...]] | None:
    """The rows of a forward pass now, whose answers are kept; see ``answer_rows``."""
    from lql.inference.errors import PromptTooLong

    held = asking(statement.title, context)
    if len(entity) > 2000 or held.describer.tokens(entity) > _LONGEST:
        raise _no_name(f"an entity is a name, of {_LONGEST} tokens at most", statement)
    least = _least(detail)
    try:
        found, scores = facts(entity, held, context, least)
    except PromptTooLong as error:
        if statement.evidence is not None:
            raise
        context.note(f"static evidence only: the questions do not fit the model: {error}")
        return None
    kinds = tuple(score.kind for score in scores)
    keep(entity, least, kinds, found, context)
    return _rows(statement, _shown(entity, found, detail, context), layers, held, context), kinds


def answered_before(statement: ast.Describe, context: Context) -> KeptAnswers | None:
    """The kept answers that DESCRIBE shows without asking the model, if it can.

    Which features carry an answer is not kept.
    """
    detail = statement.detail or ast.Detail.BRIEF
    if detail is ast.Detail.VERBOSE or statement.causal:
        return None
    return kept(_name(statement), _least(detail), context)


def _name(statement: ast.Describe) -> str:
    return " ".join(text(statement.entity).split())


def _least(detail: ast.Detail) -> float:
    """The lowest score that is asked for; what is below it is not completed."""
    return WEAK_ANSWER if detail is ast.Detail.BRIEF else 0.0


def _shown(
    entity: str, found: Sequence[AnswerT], detail: ast.Detail, context: Context
) -> Sequence[AnswerT]:
    """The answers of those that were found which this much detail shows."""
    if not any(answer.signal is Signal.CLEAR for answer in found):
        context.note(
            f'no clear signal: names that mean nothing get answers like these for "{entity}"'
            if found
            else f'no signal: the model says nothing of "{entity}" that it does not say of others'
        )
    if detail is not ast.Detail.BRIEF:
        return found
    floor = _BRIEF_SHARE * max((answer.score for answer in found), default=0.0)
    return [each for each in found if each.signal is not Signal.NONE and each.score >= floor]


def _rows(
    statement: ast.Describe,
    found: Sequence[Fact],
    layers: Sequence[int],
    held: Asking,
    context: Context,
) -> list[EdgeRow]:
    """Answers with the features that carry them, where those are asked for."""
    detailed = statement.detail is ast.Detail.VERBOSE
    carried: dict[int, tuple[Carrier, ...]] = {}
    causal: dict[int, float] = {}
    describer = held.describer
    if statement.causal and not describer.attributes:
        raise not_available(f"CAUSAL for {UNATTRIBUTED}", statement.span)
    if detailed and not describer.attributes:
        context.note(f"no features are named: attribution is not available yet for {UNATTRIBUTED}")
    elif (detailed or statement.causal) and found:
        shown = found[: _attributed(statement)]
        per_fact = describer.carriers(shown, layers, top=_CARRIERS, cancel=context.cancel)
        carried = dict(enumerate(per_fact))
        if statement.causal:
            firsts = [each[0] if each else None for each in per_fact]
            without = describer.ablated(shown, firsts, cancel=context.cancel)
            causal = {at: share for at, share in enumerate(without) if share is not None}
    source = context.source()
    vindex = source if isinstance(source, Vindex) else None
    return [
        _row(text(statement.entity), fact, carried.get(at, ()), causal.get(at), vindex)
        for at, fact in enumerate(found)
    ]


def _attributed(statement: ast.Describe) -> int:
    limit = statement.limit
    return limit.value if isinstance(limit, ast.Integer) else 10


def _row(
    entity: str,
    fact: Answer,
    carriers: Sequence[Carrier],
    causal: float | None,
    vindex: Vindex | None,
) -> EdgeRow:
    first = carriers[0] if carriers else None
    return EdgeRow(
        entity=entity,
        relation=fact.relation,
        target=fact.target,
        evidence=EVIDENCE,
        score=fact.score,
        layer=None if first is None else first.layer,
        feature=None if first is None else first.feature,
        band=None if first is None or vindex is None else band_name(vindex, first.layer),
        signal=fact.signal.value,
        probability=fact.probability,
        lift_nats=fact.lift_nats,
        source=fact.source,
        via=tuple(f"L{c.layer} F{c.feature} {100 * c.share:.0f} %" for c in carriers),
        causal=causal,
    )


def _no_name(message: str, statement: ast.Describe) -> LqlTypeError:
    return LqlTypeError(
        Diagnostic(
            Code.OUT_OF_RANGE,
            message,
            span=statement.entity.span,
            helps=("EVIDENCE STATIC takes any text",),
        )
    )
