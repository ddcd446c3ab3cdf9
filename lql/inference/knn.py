"""Stored facts (INSERT … MODE KNN) in a forward pass: one tap, one override of the next token.

A fact holds keys: FFN inputs of its layer at the last token of prompts that its target completes.
A pass observes that layer's FFN input at its own last token. Where the text asks for the fact
(``lql.inference.naming``) and the two are alike enough, the target takes the place of the model's
next token, and in generation of as many tokens as it has. Logits are never changed, so the model
without the fact is the same bit for bit.

Shape legend: D hidden, N keys of a layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from lql.inference.answers import Encoded, FactHit, TokenScore
from lql.inference.decoder import Tap
from lql.inference.naming import Names, goes_on, relation_words
from lql.syntax_words import PromptMode
from vindex.edits import Fact

# Measured on SmolLM2-135M (layer 23) and Gemma 3 270M (layer 13) over five facts: prompts that name
# entity and relation and end where the answer begins reach .55-.98 (86 % of them above .65), those
# that name both and end elsewhere .57 at most.
NAMED_COSINE = 0.65
ALIKE_COSINE = 0.75  # larql's gate, where words cannot decide
VERIFY_TOPK = 5


@dataclass(frozen=True, slots=True)
class Routing:
    """How stored facts are looked up.

    Attributes:
        topk: only the nearest facts of each layer are considered; ``None`` for all.
        fallback: where no fact is asked for by name, the nearest one may answer.
        exit: stop the pass at the layer of the fact.
    """

    topk: int | None = None
    fallback: bool = False
    exit: bool = False


class Reached(Exception):
    """Ends a pass at the layer whose fact answers (``Routing.exit``)."""

    def __init__(self, match: Match) -> None:
        super().__init__()
        self.match = match


@dataclass(frozen=True, slots=True)
class Match:
    """A fact that answers, and how alike its nearest key is."""

    fact: Fact
    cosine: float


class FactStore:
    """Facts, ready to be compared with FFN inputs.

    Args:
        facts: any number; one target per entity and relation.
    """

    def __init__(self, facts: Sequence[Fact] = ()) -> None:
        self.facts = tuple(facts)
        self._names = Names(self.facts)
        self._layers: dict[int, tuple[Tensor, list[int]]] = {}
        for layer in sorted({fact.layer for fact in self.facts}):
            owners = [
                (number, key)
                for number, fact in enumerate(self.facts)
                if fact.layer == layer
                for key in fact.keys
            ]
            keys = torch.stack([torch.from_numpy(key.array.copy()) for _, key in owners])
            normed = torch.nn.functional.normalize(keys, dim=1)  # [N, D]
            self._layers[layer] = (normed, [number for number, _ in owners])

    def __bool__(self) -> bool:
        return bool(self.facts)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers whose FFN input is compared, ascending."""
        return tuple(self._layers)

    def match(self, text: str, inputs: dict[int, Tensor], routing: Routing) -> Match | None:
        """The fact that answers after a text, or ``None``.

        Args:
            text: what the user wrote and the model has said since.
            inputs: layer -> FFN input at the last token, float32 [D]; layers may be absent.
        """
        nearest = {layer: self._nearest(layer, x) for layer, x in inputs.items()}
        if routing.topk is not None:
            nearest = {
                layer: dict(sorted(found.items(), key=lambda item: -item[1])[: routing.topk])
                for layer, found in nearest.items()
            }
        asked = self._names.asked_for(text)
        found = [
            Match(fact, cosine)
            for number, fact in enumerate(self.facts)
            if fact in asked
            and (cosine := nearest.get(fact.layer, {}).get(number, -1.0)) > _threshold(fact)
        ]
        if found:
            return max(found, key=lambda match: match.cosine)
        if routing.fallback:
            for layer in sorted(nearest):
                best = max(nearest[layer].items(), key=lambda item: item[1], default=None)
                if best is not None and best[1] > ALIKE_COSINE:
                    return Match(self.facts[best[0]], best[1])
        return None

    def _nearest(self, layer: int, x: Tensor) -> dict[int, float]:
        """The cosine of each fact's nearest key."""
        keys, owners = self._layers[layer]
        cosines = (keys @ torch.nn.functional.normalize(x, dim=0)).tolist()
        best: dict[int, float] = {}
        for number, cosine in zip(owners, cosines, strict=True):
            best[number] = max(cosine, best.get(number, -1.0))
        return best


def _threshold(fact: Fact) -> float:
    return NAMED_COSINE if relation_words(fact.relation) else ALIKE_COSINE


class FactRoute:
    """Stored facts at work over one prompt: observes each pass, then says what comes next.

    Args:
        store: the facts.
        tokenizer: the model's.
        encoded: the prompt.
    """

    def __init__(
        self,
        store: FactStore,
        tokenizer: Tokenizer,
        encoded: Encoded,
        routing: Routing | None = None,
    ) -> None:
        self._store = store
        self._routing = routing or Routing()
        self._tokenizer = tokenizer
        pairs = zip(encoded.pieces, encoded.from_user, strict=True)
        chat = encoded.mode is PromptMode.CHAT
        typed = "".join(piece for piece, own in pairs if own) + "\n" if chat else encoded.text
        self._text = typed
        self._inputs: dict[int, Tensor] = {}
        self._forced: list[int] = []
        self._just_said = ""
        self.matches: list[Match] = []

    def __call__(self, tap: Tap, layer: int, values: Tensor) -> None:
        """See ``Observer``.

        Raises:
            Reached: a fact of this layer answers, and the route says EXIT.
        """
        if tap is not Tap.FFN_INPUT or layer not in self._store.layers:
            return
        self._inputs[layer] = values[-1].to("cpu", copy=True)
        if self._routing.exit:
            only = {layer: self._inputs[layer]}
            match = self._store.match(self._text, only, self._routing)
            if match is not None:
                raise Reached(match)

    def match(self) -> Match | None:
        """The fact that answers after the pass that was observed."""
        return self._store.match(self._text, self._inputs, self._routing)

    def next_token(self) -> int | None:
        """The token that a fact forces after the pass that was observed, or ``None``."""
        if not self._forced:
            match = self.match()
            if match is None:
                return None
            self.matches.append(match)
            self._forced = self.target_ids(match.fact)
            self._text += " " + match.fact.target
            self._just_said = match.fact.target
        return self._forced.pop(0)

    def said(self, text: str) -> None:
        """Hear what the model said of itself."""
        self._text += text
        self._just_said = ""

    def fits(self, text: str) -> bool:
        """Whether the model may go on like this: a target that was just said is a whole word."""
        return not goes_on(self._just_said, text)

    @property
    def closing(self) -> bool:
        """Whether a target has just been said."""
        return bool(self._just_said)

    def target_ids(self, fact: Fact) -> list[int]:
        """The target as tokens, as it goes on after the text."""
        spaced = bool(self._text) and not self._text[-1].isspace()
        return continuation(self._tokenizer, fact.target, spaced=spaced)


def continuation(tokenizer: Tokenizer, target: str, *, spaced: bool = True) -> list[int]:
    """The tokens of a target as they follow a text: behind a space, or where one stands already.

    A tokenizer may put a space before every text, so the target is cut out of a longer one.
    """
    head, joint = ("The", " ") if spaced else ("\n", "")
    before = tokenizer.encode(head, add_special_tokens=False).ids
    whole = tokenizer.encode(head + joint + target, add_special_tokens=False).ids
    if whole[: len(before)] == before and len(whole) > len(before):
        return list(whole[len(before) :])
    return list(tokenizer.encode(joint + target, add_special_tokens=False).ids)


def overridden(
    rows: Sequence[TokenScore], forced: TokenScore, match: Match
) -> tuple[tuple[TokenScore, ...], FactHit]:
    """The rows of a prediction with a fact's token before the model's own.

    Args:
        rows: the model's own, best first; empty where the pass ended early.
        forced: the fact's first token.
    """
    others = [row for row in rows if row.token_id != forced.token_id]
    first = TokenScore(1, forced.token, forced.token_id, 1.0, forced.logit)
    own = rows[0] if rows else None
    shown = [first, *others][: max(1, len(rows))]
    ranked = tuple(
        TokenScore(rank, row.token, row.token_id, row.probability, row.logit)
        for rank, row in enumerate(shown, 1)
    )
    fact = match.fact
    return ranked, FactHit(fact.entity, fact.relation, fact.target, fact.layer, match.cosine, own)


NOWHERE = math.nan
"""The logit of a token in a pass that ended before there were any."""
