"""Answers as facts: what a model says of one entity and not of any other.

A candidate is the first token of an answer. With p its mean probability over the templates of a
relation and b the same over other entities of the kind, it scores ``p (log p - log b)``: the
part that the candidate has in the divergence of the answer from anybody's answer. The best ones
are completed to whole words by greedy decoding, all in one pass a token.

Notation: Q questions, V vocabulary.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch

from lql.cancel import CancelToken
from lql.catalogue import Question
from lql.inference.asking import COMPLETION, Asked, Asker
from lql.inference.packed import PackedSequence
from vindex.answers import AnswerBackground
from vindex.signals import WEAK_ANSWER
from vindex.signals import Signal as Signal

#: A probability that anything has: no answer is more surprising than this.
FLOOR = 1e-5
#: An answer that a template gives less often than this is none.
_LEAST = 0.02
_TOKENS_PER_RELATION, _ROWS_PER_RELATION = 12, 2
_COMPLETED = 16
_WORDS = 3
_NEXT_WORD = 0.3  # least probability with which an answer goes on to another word
_ENDS = frozenset('\n,;:!?()[]{}<>|"“”/\\=*#')
_TRAILING = frozenset(("de", "la", "le", "van", "von", "der", "di", "da", "del", "el"))
_WORD = re.compile(r"[^\W_]+(?:['’.-][^\W_]+)*")

_STOP_TEXT = """
a an the this that these those it its he him his she her hers they them their we us our you your i
my me and or but nor so yet if then than as of in on at to for from by with into onto over under
about after before between through during without within against among is are was were be been
being am do does did has have had will would shall should can could may might must not no yes also
just only very more most less least much many some any all such own same other another each both
few several which what who whom whose when where why how there here one two first new known called
named used made various different certain well good great famous
unknown none nothing something anything thing things etc
"""
STOP_WORDS = frozenset(_STOP_TEXT.split())


@dataclass(frozen=True, slots=True)
class Fact:
    """One answer of the model.

    Attributes:
        target: whole words.
        probability: of the target's tokens after the prompt: that of the first one is the mean
            over the relation's templates.
        lift_nats: log of how many times more probable its first token is than for other entities.
        score: what facts are ranked by: the first token's probability times ``lift_nats``.
        prompt: the model was given, as token ids; ``answer``: the target's tokens after it.
        source: the template's text with the entity, without examples.
    """

    relation: str
    target: str
    probability: float
    lift_nats: float
    score: float
    signal: Signal
    kind: str
    source: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    question: int
    token: int
    share: float
    lift: float

    @property
    def score(self) -> float:
        return self.share * self.lift


def find_facts(
    asker: Asker,
    asked: Asked,
    questions: Sequence[Question],
    entity: str,
    kind: str,
    background: AnswerBackground,
    spell: Callable[[Sequence[int]], str],
    *,
    leave_out: bool,
    least: float = 0.0,
    cancel: CancelToken | None = None,
) -> list[Fact]:
    """The facts in the answers to questions about one entity, best first: see ``find_all``."""
    (found,) = find_all(
        asker,
        [asked],
        questions,
        [entity],
        kind,
        background,
        spell,
        leave_out=[leave_out],
        least=least,
        cancel=cancel,
    )
    return found


def find_all(
    asker: Asker,
    answers: Sequence[Asked],
    questions: Sequence[Question],
    entities: Sequence[str],
    kind: str,
    background: AnswerBackground,
    spell: Callable[[Sequence[int]], str],
    *,
    leave_out: Sequence[bool],
    least: float = 0.0,
    per_relation: int = _ROWS_PER_RELATION,
    cancel: CancelToken | None = None,
) -> list[list[Fact]]:
    """The facts in the answers to questions about several entities, best first for each.

    Args:
        answers: of each entity, all of one pass.
        background: of the same questions.
        spell: text of token ids in a row.
        leave_out: whether each entity is itself one of the background's.
        least: facts of a lower score are not wanted, which saves completing them.
        per_relation: candidates of each relation, at most.
    """
    candidates = [
        [
            each
            for each in _candidates(asked, questions, background, spell, left_out, per_relation)
            if each.score >= least
        ]
        for asked, left_out in zip(answers, leave_out, strict=True)
    ]
    begun = [
        (asked.leaves[each.question], each)
        for asked, own in zip(answers, candidates, strict=True)
        for each in own
    ]
    endings = iter(_complete(asker, answers[0].sequence, begun, spell, cancel))
    return [
        _facts(
            asked, own, list(islice(endings, len(own))), questions, entity, kind, background, spell
        )
        for asked, own, entity in zip(answers, candidates, entities, strict=True)
    ]


def _facts(
    asked: Asked,
    candidates: Sequence[_Candidate],
    endings: Sequence[tuple[tuple[int, ...], float]],
    questions: Sequence[Question],
    entity: str,
    kind: str,
    background: AnswerBackground,
    spell: Callable[[Sequence[int]], str],
) -> list[Fact]:
    facts: list[Fact] = []
    seen: set[str] = set()
    for candidate, (tokens, probability) in zip(candidates, endings, strict=True):
        target = clean(spell(tokens), cut=len(tokens) > COMPLETION)
        if not is_answer(target, entity) or fold(target) in seen:
            continue
        seen.add(fold(target))
        question = questions[candidate.question]
        facts.append(
            Fact(
                relation=question.relation,
                target=target,
                probability=probability,
                lift_nats=candidate.lift,
                score=candidate.score,
                signal=_signal(candidate.score, target, entity, background.clear),
                kind=kind,
                source=question.asked(entity),
                prompt=asked.sequence.tree.prompt(asked.leaves[candidate.question]),
                answer=tokens,
            )
        )
    return facts


def merge(groups: Iterable[Sequence[Fact]]) -> list[Fact]:
    """Facts of several kinds as one list, best first, none twice."""
    best: dict[str, Fact] = {}
    for fact in sorted((fact for group in groups for fact in group), key=_rank):
        best.setdefault(fold(fact.target), fact)
    return list(best.values())


def weaken(fact: Fact, factor: float) -> Fact:
    """The same fact with less weight, where the entity may not be of the fact's kind."""
    score = fact.score * factor
    return replace(fact, score=score)


def _rank(fact: Fact) -> tuple[float, str]:
    return -fact.score, fact.target


def _signal(score: float, target: str, entity: str, clear: float) -> Signal:
    if score < WEAK_ANSWER:
        return Signal.NONE
    # What begins like the name can be guessed from its letters.
    return Signal.CLEAR if score > clear and not sounds_like(target, entity) else Signal.WEAK


# --------------------------------------------------------------------------- candidates


def _candidates(
    asked: Asked,
    questions: Sequence[Question],
    background: AnswerBackground,
    spell: Callable[[Sequence[int]], str],
    leave_out: bool,
    per_relation: int,
) -> list[_Candidate]:
    shares = asked.logprobs.exp()  # [Q, V]
    known = background.lookup()
    others = background.entities - 1 if leave_out else background.entities
    rows: list[_Candidate] = []
    for relation in dict.fromkeys(question.relation for question in questions):
        places = [at for at, each in enumerate(questions) if each.relation == relation]
        mean = shares[places].mean(dim=0)  # [V]
        best = mean.topk(min(_TOKENS_PER_RELATION, len(mean)))
        found = []
        for token, share in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            if share < _LEAST or not _begins_answer(spell((token,))):
                continue
            usual = sum(known[place].get(token, 0.0) for place in places) / len(places)
            if leave_out:
                usual = max(0.0, usual * background.entities - share) / max(others, 1)
            lift = math.log(share / (usual + FLOOR))
            if lift > 0:
                place = max(places, key=lambda at: float(shares[at, token]))
                found.append(_Candidate(place, token, share, lift))
        found.sort(key=lambda each: (-each.score, each.token))
        rows += found[:per_relation]
    rows.sort(key=lambda each: (-each.score, each.question, each.token))
    return rows[:_COMPLETED]


def _begins_answer(text: str) -> bool:
    """Whether a token can be the beginning of an answer worth completing."""
    word = text.strip()
    return any(map(str.isalpha, word)) and fold(word) not in STOP_WORDS


# --------------------------------------------------------------------------- whole words


def _complete(
    asker: Asker,
    sequence: PackedSequence,
    begun: Sequence[tuple[int, _Candidate]],
    spell: Callable[[Sequence[int]], str],
    cancel: CancelToken | None,
) -> list[tuple[tuple[int, ...], float]]:
    """Of each candidate after its prompt's leaf, the answer's tokens and their probability."""
    tokens = [[each.token] for _, each in begun]
    odds = [each.share for _, each in begun]
    ends = [leaf for leaf, _ in begun]
    going = list(range(len(begun)))
    for _ in range(COMPLETION):
        if not going:
            break
        start = len(sequence.tree)
        for each in going:
            ends[each] = sequence.tree.add([tokens[each][-1]], ends[each])
        h = sequence.read(cancel=cancel)
        best = asker.logprobs(h).max(dim=-1)
        on = []
        for each in going:
            at = ends[each] - start
            token, share = int(best.indices[at]), math.exp(float(best.values[at]))
            if _goes_on(spell(tokens[each]), spell((token,)), share):
                tokens[each].append(token)
                odds[each] *= share
                on.append(each)
        going = on
    return [(tuple(each), share) for each, share in zip(tokens, odds, strict=True)]


def _goes_on(text: str, token: str, share: float) -> bool:
    """Whether a token continues an answer rather than ending it."""
    if not token.strip() or len(_first_answer(text + token)) < len(text + token):
        return False
    if not token[0].isspace():
        return True
    words = [word for word in text.split() if not _is_initial(word)]
    return share >= _NEXT_WORD and len(words) < _WORDS


def _first_answer(text: str) -> str:
    """A text up to where an answer ends: a full stop does not end it behind an initial."""
    for at, character in enumerate(text):
        if character in _ENDS:
            return text[:at]
        if character == "." and not _is_initial(f"{text[:at].split(' ')[-1]}."):
            return text[:at]
    return text


def _is_initial(word: str) -> bool:
    return len(word) == 2 and word[0].isupper() and word[1] == "."


def clean(text: str, *, cut: bool = False) -> str:
    """An answer as it is shown: its words, without stop words at either end.

    Args:
        cut: the last word may be unfinished and is left out, unless it is the only one.
    """
    words = _first_answer(text.strip()).replace("\ufffd", "").split()
    if cut and len(words) > 1:
        words.pop()
    while len(words) > 1 and fold(words[-1]) in STOP_WORDS | _TRAILING:
        words.pop()
    while words and fold(words[0]) in STOP_WORDS:
        words.pop(0)
    return " ".join(words)


def is_answer(target: str, entity: str) -> bool:
    """Whether a cleaned answer says something: a word or a symbol, and not the entity's name.

    An answer all of whose words stand in the name (in the singular or plural) is the name.
    """
    words = _WORD.findall(fold(target))
    if not words or not any(map(str.isalpha, target)):
        return False
    if len(target) == 1 and not target.isupper():
        return False
    own = {_stem(word) for word in _WORD.findall(fold(entity))}
    return any(_stem(word) not in own for word in words if word not in STOP_WORDS)


def sounds_like(target: str, entity: str) -> bool:
    """Whether a target begins like a word of the entity's name: four letters, half of the word."""
    for name in _WORD.findall(fold(entity)):
        for word in _WORD.findall(fold(target)):
            same = _common(name, word)
            if same >= 4 and 2 * same >= len(name):
                return True
    return False


def fold(text: str) -> str:
    """A text without case and accents."""
    apart = unicodedata.normalize("NFKD", text)
    return "".join(each for each in apart if not unicodedata.combining(each)).casefold()


def _stem(word: str) -> str:
    for ending in ("'s", "’s", "es", "s"):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            return word[: -len(ending)]
    return word


def _common(one: str, other: str) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


# --------------------------------------------------------------------------- background


def mean_answer(
    answers: Iterable[torch.Tensor], kept: int
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """The mean of answers [Q, V] given as log probabilities.

    Returns:
        Its most probable tokens [Q, kept], their shares, and how many answers there were.
    """
    total: torch.Tensor | None = None
    count = 0
    for logprobs in answers:
        shares = logprobs.exp()
        total = shares if total is None else total.add_(shares)
        count += 1
    assert total is not None, "a background has entities"
    best = total.div_(count).topk(min(kept, total.shape[-1]))
    return best.indices, best.values, count
