"""DESCRIBE by answers: the rows of a forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlTypeError
from lql.execute.asking import asking, facts
from lql.execute.bands import band_name
from lql.execute.slots import not_available, text
from lql.results.browse import EdgeRow
from vindex.signals import Signal
from vindex.store import Vindex

if TYPE_CHECKING:
    from lql.inference.attribution import Carrier
    from lql.inference.facts import Fact

EVIDENCE = "answer"
_LONGEST = 64  # tokens of an entity
#: BRIEF leaves out rows with less than this part of the first one's score.
_BRIEF_SHARE = 0.25
_CARRIERS = 3
UNATTRIBUTED = "models with experts or with norms on the residual stream"


def answer_rows(
    statement: ast.Describe, context: Context, layers: Sequence[int], detail: ast.Detail
) -> tuple[list[EdgeRow], tuple[str, ...]]:
    """What the model answers about an entity, best first, and the kinds it takes it for.

    Raises:
        LqlTypeError: the entity is no name: empty, or longer than names are.
    """
    from lql.inference.facts import WEAK

    entity = " ".join(text(statement.entity).split())
    if not any(map(str.isalnum, entity)):
        raise _no_name("an entity is a name: letters or digits", statement)
    held = asking(statement.title, context)
    if len(entity) > 2000 or held.describer.tokens(entity) > _LONGEST:
        raise _no_name(f"an entity is a name, of {_LONGEST} tokens at most", statement)
    least = WEAK if detail is ast.Detail.BRIEF else 0.0
    found, kinds = facts(entity, held, context, least)
    clear = [fact for fact in found if fact.signal is Signal.CLEAR]
    if not clear:
        context.note(
            f'no clear signal: names that mean nothing get answers like these for "{entity}"'
            if found
            else f'no signal: the model says nothing of "{entity}" that it does not say of others'
        )
    if detail is ast.Detail.BRIEF:
        floor = _BRIEF_SHARE * max((fact.score for fact in found), default=0.0)
        found = [f for f in found if f.signal is not Signal.NONE and f.score >= floor]
    carried: dict[int, tuple[Carrier, ...]] = {}
    causal: dict[int, float] = {}
    describer = held.describer
    if statement.causal and not describer.attributes:
        raise not_available(f"CAUSAL for {UNATTRIBUTED}", statement.span)
    if detail is ast.Detail.VERBOSE and not describer.attributes:
        context.note(f"no features are named: attribution is not available yet for {UNATTRIBUTED}")
    elif (detail is ast.Detail.VERBOSE or statement.causal) and found:
        shown = found[: _shown(statement)]
        per_fact = describer.carriers(shown, layers, top=_CARRIERS, cancel=context.cancel)
        carried = dict(enumerate(per_fact))
        if statement.causal:
            firsts = [each[0] if each else None for each in per_fact]
            without = describer.ablated(shown, firsts, cancel=context.cancel)
            causal = {at: share for at, share in enumerate(without) if share is not None}
    source = context.source()
    vindex = source if isinstance(source, Vindex) else None
    rows = [
        _row(text(statement.entity), fact, carried.get(at, ()), causal.get(at), vindex)
        for at, fact in enumerate(found)
    ]
    return rows, tuple(score.kind for score in kinds)


def _shown(statement: ast.Describe) -> int:
    limit = statement.limit
    return limit.value if isinstance(limit, ast.Integer) else 10


def _row(
    entity: str,
    fact: Fact,
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
