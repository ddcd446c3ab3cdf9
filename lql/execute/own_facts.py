"""Facts of the model's own that UPDATE and DELETE reach: what it clearly answers when asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlRuntimeError
from lql.tables.conditions import pinned
from vindex.edits import FactName, fact_name
from vindex.probes import Probe
from vindex.signals import Signal

EVIDENCE = "answer"
_ANSWERS = 2  # of each question that are looked at
_SHOWN = 5

OwnRow = tuple[str, str, str]
"""Entity, relation, target."""


@dataclass(frozen=True, slots=True)
class OwnFact:
    """What the model itself says of an entity.

    Attributes:
        answers: the clear ones that WHERE chose, the surest first.
        sources: the questions that they were the surest answers to.
    """

    entity: str
    relation: str
    answers: tuple[str, ...]
    sources: tuple[str, ...]

    @property
    def name(self) -> FactName:
        """What identifies the fact."""
        return fact_name(self.entity, self.relation)

    def __str__(self) -> str:
        return f"{self.entity} —{self.relation}→ {' or '.join(self.answers)}"


def named_pairs(where: ast.Condition) -> list[tuple[str, str]]:
    """The entities and relations that a condition names, each with each.

    None where it leaves one of the two open, or speaks of inserted facts only.
    """

    def only(name: str) -> list[str] | None:
        return pinned(
            where, lambda operand: isinstance(operand, ast.Column) and operand.name == name
        )

    entities, relations, evidence = only("entity"), only("relation"), only("evidence")
    if not entities or not relations or (evidence is not None and EVIDENCE not in evidence):
        return []
    return list(product(entities, relations))


def own_facts(
    pairs: Sequence[tuple[str, str]],
    statement: ast.Delete | ast.Update,
    matching: Callable[[Sequence[OwnRow]], Sequence[int]],
    context: Context,
    *,
    alone: bool,
) -> list[OwnFact]:
    """What the model clearly answers about pairs of entity and relation, as far as WHERE wants it.

    Args:
        matching: the rows that WHERE lets through, by number.
        alone: whether the statement touches nothing else; it is refused where nothing is known.

    Raises:
        LqlNameError: nobody has said how to ask for a relation.
        LqlRuntimeError: the model knows none of it clearly.
        LevelTooLow: the vindex does not hold every weight.
    """
    probes = [_asked(entity, relation, statement, context) for entity, relation in pairs]
    clear = [
        (pair, answer)
        for pair, probe in zip(pairs, probes, strict=True)
        for answer in probe.answers
        if answer.signal == Signal.CLEAR.value
    ]
    unknown = [
        (pair, probe)
        for pair, probe in zip(pairs, probes, strict=True)
        if pair not in {known for known, _ in clear}
    ]
    if unknown and alone and not clear:
        raise _unknown(unknown, statement)
    for (entity, relation), _ in unknown:
        context.note(f"the model has no clear answer to {entity} —{relation}→: it was left alone")
    chosen = [clear[at] for at in matching([(*pair, each.target) for pair, each in clear])]
    if clear and not chosen:
        said = ", ".join(f"{e} —{r}→ {answer.target}" for (e, r), answer in clear[:_SHOWN])
        context.note(f"the model's own answers are others than WHERE asks for: {said}")
    return [
        OwnFact(
            *pair,
            tuple(answer.target for known, answer in chosen if known == pair),
            tuple(answer.source for known, answer in chosen if known == pair),
        )
        for pair in dict.fromkeys(known for known, _ in chosen)
    ]


def _asked(
    entity: str, relation: str, statement: ast.Delete | ast.Update, context: Context
) -> Probe:
    """What the model answers about one pair."""
    from lql.execute.asking import Questions, asking, is_name
    from lql.execute.probe import ask, known_relation

    held = asking(statement.title, context)
    name = " ".join(entity.split())
    if not is_name(name, held):
        raise LqlRuntimeError(
            Diagnostic(
                Code.ENTITIES_INVALID, f'"{name[:40]}" is no name', span=statement.where.span
            )
        )
    known = known_relation(relation, statement.where.span, held, context)
    made: list[Probe] = []
    ask([name], Questions.of(known, held, context), _ANSWERS, 1, made, context)
    return made[0]


def _unknown(
    unknown: Sequence[tuple[tuple[str, str], Probe]], statement: ast.Delete | ast.Update
) -> LqlRuntimeError:
    (entity, relation), probe = unknown[0]
    best = probe.answers[0] if probe.answers else None
    said = (
        "says nothing of it that it does not say of others"
        if best is None
        else f"answers {best.target} at {best.probability:.1%}, as it would of a made-up name"
    )
    more = f" (nor {len(unknown) - 1} others)" if len(unknown) > 1 else ""
    return LqlRuntimeError(
        Diagnostic(
            Code.OWN_FACT_UNKNOWN,
            f"the model does not clearly know {entity} —{relation}→{more}: it {said}",
            span=statement.where.span,
            helps=(
                f'INSERT INTO EDGES (entity, relation, target) VALUES ("{entity}", "{relation}", '
                '"…"); tells it',
                f'DESCRIBE "{entity}"; shows what it knows',
            ),
        )
    )
