"""Putting many questions about one entity to a model in one pass.

The examples before a question are the same for every entity: their keys and values are kept, as
the trunk of a tree on which each entity's own tokens are branches. Asking costs those alone.

Notation: Q questions, V vocabulary, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from lql.cancel import CancelToken
from lql.catalogue import Question
from lql.inference.decoder import Decoder, Observer, Tap
from lql.inference.errors import WeightsInvalid
from lql.inference.packed import PackedSequence
from lql.inference.prompt import PromptEncoder
from lql.inference.tree import TokenTree

#: Tokens by which each answer may be continued.
COMPLETION = 9
#: Keys and values of trunks that are kept, bytes; the one in use is kept whatever its size.
_TRUNK_BYTES = 512 << 20
#: Nodes to make room for beside a trunk: an entity's branches and their completions.
_ROOM = 320


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Questions about one entity, answered up to the first token.

    Attributes:
        sequence: to go on from.
        leaves: the last node of each of the Q prompts.
        logprobs: of the next token, float32 [Q, V].
    """

    sequence: PackedSequence
    leaves: Sequence[int]
    logprobs: Tensor


class Asker:
    """Asks questions of one model."""

    def __init__(self, decoder: Decoder, encoder: PromptEncoder) -> None:
        self._decoder = decoder
        self._encoder = encoder
        self.num_layers = decoder.spec.num_layers
        self._trunks: dict[tuple[Question, ...], tuple[PackedSequence, int]] = {}

    def tokens(self, text: str) -> int:
        """How many tokens a text has."""
        return len(self._encoder.ids(text))

    def ask(
        self,
        questions: tuple[Question, ...],
        entity: str,
        *,
        observe: Observer | None = None,
        cancel: CancelToken | None = None,
    ) -> Asked:
        """Put questions about an entity. The answer is good until the next call.

        Args:
            questions: one at least; the same ones are cheaper the second time.
            entity: not empty; put into the templates as it is.

        Raises:
            PromptTooLong, PromptNotText, WeightsInvalid, Cancelled
        """
        (asked,) = self.ask_all(questions, (entity,), observe=observe, cancel=cancel)
        return asked

    def ask_all(
        self,
        questions: tuple[Question, ...],
        entities: Sequence[str],
        *,
        completed: int | None = None,
        observe: Observer | None = None,
        cancel: CancelToken | None = None,
    ) -> list[Asked]:
        """Put the same questions about several entities in one pass; see ``ask``.

        Args:
            completed: answers to make room for, in all; by default one for each prompt.
        """
        prompts = [
            self._encoder.ids(question.prompt(entity))
            for entity in entities
            for question in questions
        ]
        answers = len(prompts) if completed is None else completed
        sequence, start = self._trunk(questions, cancel)
        leaves = [sequence.tree.add_new(ids, start) for ids in prompts]
        if len(sequence.tree) + answers * COMPLETION > sequence.capacity:
            branches = len(sequence.tree) - start + answers * COMPLETION
            sequence, start = self._trunk(questions, cancel, branches)
            leaves = [sequence.tree.add_new(ids, start) for ids in prompts]
        h = sequence.read(observe=observe, cancel=cancel)
        logprobs = self.logprobs(h[[leaf - start for leaf in leaves]])
        width = len(questions)
        return [
            Asked(sequence, leaves[at : at + width], logprobs[at : at + width])
            for at in range(0, len(leaves), width)
        ]

    def after(
        self, prompts: Sequence[Sequence[int]], *, cancel: CancelToken | None = None
    ) -> Tensor:
        """Log probabilities of the next token after prompts of any kind, in one pass, [n, V]."""
        tree = TokenTree()
        leaves = [tree.add(ids) for ids in prompts]
        h = PackedSequence(self._decoder, len(tree), tree).read(cancel=cancel)
        return self.logprobs(h[leaves])

    def states(
        self,
        prompts: Sequence[Sequence[int]],
        depth: int,
        *,
        cancel: CancelToken | None = None,
    ) -> Tensor:
        """The residual stream after layer ``depth`` at the ends of prompts, in one pass, [n, D]."""
        tree, seen = TokenTree(), list[Tensor]()
        leaves = [tree.add(ids) for ids in prompts]

        def observe(tap: Tap, layer: int, values: Tensor) -> None:
            if tap is Tap.OUTPUT and layer == depth:
                seen.append(values[leaves].float().cpu())

        PackedSequence(self._decoder, len(tree), tree).read(observe=observe, cancel=cancel)
        return seen[0]

    def logprobs(self, h: Tensor) -> Tensor:
        """Log probabilities of the next token after rows of the residual stream, [n, V]."""
        logprobs = self._decoder.logits(h).log_softmax(dim=-1).cpu()
        if not torch.isfinite(logprobs.amax()):
            raise WeightsInvalid(
                "the forward pass gives numbers that are not finite",
                hint="verify the vindex: its weights may be damaged",
            )
        return logprobs

    def _trunk(
        self, questions: tuple[Question, ...], cancel: CancelToken | None, room: int = _ROOM
    ) -> tuple[PackedSequence, int]:
        """A sequence that holds what precedes any entity, and how many nodes that is."""
        known = self._trunks.pop(questions, None)
        if known is None or known[1] + room > known[0].capacity:
            tree = TokenTree()
            for question in questions:
                tree.add(self._common(question))
            sequence = PackedSequence(self._decoder, len(tree) + room, tree)
            if len(tree):
                sequence.read(cancel=cancel)
            known = sequence, len(tree)
        sequence, start = known
        sequence.cut(start)
        self._trunks[questions] = known  # the last one is the latest
        while len(self._trunks) > 1 and self._held > _TRUNK_BYTES:
            del self._trunks[next(iter(self._trunks))]
        return known

    @property
    def _held(self) -> int:
        return sum(sequence.resident_bytes for sequence, _ in self._trunks.values())

    def _common(self, question: Question) -> list[int]:
        """The tokens with which a question begins, whatever the entity."""
        one, other = (self._encoder.ids(question.prompt(name)) for name in ("Q", "7"))
        pairs = zip(one, other, strict=False)
        return [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
