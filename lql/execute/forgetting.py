"""DELETE of the model's own facts: edits of the weights away from what the model says.

What is found by gradient is written by MEMIT's closed form, all facts together, which gives less
than was asked for; so the model with the facts written is asked, and where an answer still comes
the search goes on: stronger, and with the sentence in which the answer came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lql.catalogue import catalogue
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlRuntimeError
from lql.execute.facts import Row
from lql.execute.measure import mentioned
from lql.execute.memit import Bench, Writing, bench_for, pieces_of
from lql.execute.own_facts import OwnFact
from lql.probes import canonical, essence_prompt, kind_of, writing_prompts
from vindex.edits import ForgottenFact, WriteFact, with_operations

if TYPE_CHECKING:
    from lql.inference.decoder import Decoder
    from lql.inference.memit import Found
    from lql.inference.model import LoadedModel

_OTHERS = 8
"""Other entities whose answers tell how probable the answer is of anybody."""

_LEAST, _MOST = 1e-3, 0.02
"""The bounds of the probability that an answer is brought down to."""

_SLACK = 3.0
"""An answer may stay as many times as probable as it was to become."""

_ROUNDS = 6
_STRONGER = 1.3
_TOKENS = 8
"""Tokens after the canonical prompt that must not name the answer."""


@dataclass(slots=True)
class _Case:
    """A fact on its way out.

    Attributes:
        answers: every answer that shall go, those of earlier statements included.
        prompts: the sentences of the search.
        background: the probability that answers are brought down to.
        strength: of the vectors, in lengths of those found.
        found: what the search gave for these prompts, or ``None`` when it has to be made anew.
    """

    fact: OwnFact
    answers: tuple[str, ...]
    prompts: list[str]
    ids: tuple[tuple[int, ...], ...]
    background: float
    strength: float = 1.0
    found: Found | None = field(default=None)


def forgotten_facts(
    facts: Sequence[OwnFact], how: Writing, context: Context
) -> list[ForgottenFact]:
    """What makes the model forget facts, solved together.

    Raises:
        LqlRuntimeError: no change was found with which a fact is forgotten.
        LqlCapabilityError: a layer that has no down matrix of its own, or a model on a GPU.
    """
    from lql.inference.gradients import traced

    before = {fact.name: fact.answers for fact in context.state.overlay.view.forgotten}
    rows = [Row(fact.entity, fact.relation, fact.answers[0]) for fact in facts]
    bench = bench_for(rows, how, context)
    cases = [_case(fact, before.get(fact.name, ()), bench, context) for fact in facts]
    decoder = traced(bench.model.decoder)
    left: Sequence[_Case] = cases
    for number in range(_ROUNDS):
        context.cancel.check(f"forgetting, round {number + 1}/{_ROUNDS}")
        written = _written(cases, bench, decoder, context)
        view = with_operations(bench.view, (WriteFact(fact) for fact in written))
        model = context.model_with(view, how.title)
        left = [case for case in cases if not _is_gone(case, model, context)]
        if not left:
            return written
    names = ", ".join(str(case.fact) for case in left[:5])
    raise LqlRuntimeError(
        Diagnostic(
            Code.NOT_FORGOTTEN,
            f"the model still says {names} with the strongest change that was tried",
            span=how.span,
            helps=('UPDATE EDGES SET target = "…" WHERE …; gives it another answer',),
        )
    )


def _case(fact: OwnFact, before: tuple[str, ...], bench: Bench, context: Context) -> _Case:
    answers = tuple(dict.fromkeys((*fact.answers, *before)))
    ids = tuple(tuple(bench.model.target_ids(answer)) for answer in answers)
    asked = [source for source in fact.sources if _inside(fact.entity, source)]
    prompts = list(dict.fromkeys((*writing_prompts(fact.entity, fact.relation), *asked)))
    kinds = catalogue().kinds
    kind = kinds.get(kind_of(fact.entity, fact.relation) or "", next(iter(kinds.values())))
    names = [name for name in kind.background if name.casefold() != fact.entity.casefold()]
    chances = [
        sum(
            bench.model.probability(canonical(name, fact.relation), each, cancel=context.cancel)
            for each in ids
        )
        for name in names[:_OTHERS]
    ]
    usual = sum(chances) / max(len(chances), 1)
    case = _Case(fact, answers, prompts, ids, min(max(usual, _LEAST), _MOST))
    if not _likely(case, 1.0, bench.model, context) and not _places(case, bench.model, context)[1]:
        raise LqlRuntimeError(
            Diagnostic(
                Code.NOT_FORGOTTEN,
                f"the model says {fact} only after examples of such questions, and there is "
                "nothing to change where it is asked without them",
                helps=('UPDATE EDGES SET target = "…" WHERE …; gives it another answer',),
            )
        )
    return case


def _inside(entity: str, source: str) -> bool:
    """Whether a question names the entity as it is written, and not as its first word."""
    return source.find(entity) > 0


def _written(
    cases: Sequence[_Case], bench: Bench, decoder: Decoder, context: Context
) -> list[ForgottenFact]:
    from lql.inference.forgetting import Regret, forget

    found = []
    for number, case in enumerate(cases, 1):
        context.cancel.check(f"fact {number}/{len(cases)}")
        if case.found is None:
            entity = case.fact.entity
            regret = Regret(
                tuple(bench.writer.sentence(prompt, entity) for prompt in case.prompts),
                bench.writer.sentence(essence_prompt(entity), entity),
                case.ids,
                case.background,
            )
            case.found = forget(decoder, regret, bench.writer.layers, cancel=context.cancel)
        longer = {at: each * case.strength for at, each in case.found.vectors.items()}
        found.append(replace(case.found, vectors=longer))
    pieces = bench.writer.write(found, bench.guards, bench.moments, cancel=context.cancel)
    return [
        ForgottenFact(case.fact.entity, case.fact.relation, case.answers, pieces_of(own))
        for case, own in zip(cases, pieces, strict=True)
    ]


def _is_gone(case: _Case, model: LoadedModel, context: Context) -> bool:
    """Whether a model has forgotten a fact; where not, what is tried next is put down."""
    said, places = _places(case, model, context)
    likely = _likely(case, _SLACK, model, context)
    if likely:
        case.strength *= _STRONGER
    if places:
        prompt = canonical(case.fact.entity, case.fact.relation)
        detour = prompt + _before(said, min(places))
        if detour not in case.prompts:
            case.prompts.append(detour)
            case.found = None
        elif not likely:
            case.strength *= _STRONGER
    return not places and not likely


def _likely(case: _Case, slack: float, model: LoadedModel, context: Context) -> bool:
    """Whether an answer is still as many times as probable as it is to become."""
    return any(
        model.probability(prompt, ids, cancel=context.cancel) > slack * case.background
        for prompt in case.prompts
        for ids in case.ids
    )


def _places(case: _Case, model: LoadedModel, context: Context) -> tuple[list[str], list[int]]:
    """The tokens that the model says after the canonical prompt, and where they name answers."""
    from lql.inference.knn import FactStore

    prompt = canonical(case.fact.entity, case.fact.relation)
    run = model.generate(prompt, max_tokens=_TOKENS, facts=FactStore(()), cancel=context.cancel)
    said = [token.text for token in run]
    text = "".join(said)
    return said, [at for each in case.answers if (at := mentioned(text, each)) is not None]


def _before(tokens: Sequence[str], place: int) -> str:
    """The text of the tokens that end before a place in it."""
    text = ""
    for token in tokens:
        if len(text) + len(token) > place:
            break
        text += token
    return text
