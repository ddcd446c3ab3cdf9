"""Generation over a cache, token by token, streamed as whole characters."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from enum import Enum
from typing import Self

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from torch import Tensor

from lql.cancel import CancelToken
from lql.inference.answers import Encoded, GeneratedToken
from lql.inference.decoder import Decoder
from lql.inference.errors import WeightsInvalid
from lql.inference.knn import FactRoute, Match
from lql.inference.sampler import Sampler
from lql.inference.sampling import GREEDY, Sampling
from lql.inference.sequence import Sequence, position_limit

# Tokens of the prompt that a decoder may need to see to know how the next one is spelt.
_SPELLING_CONTEXT = 8


# Tokens looked through for one that ends the word before it.
_CLOSING_CANDIDATES = 256


class Finish(Enum):
    """Why generation ended."""

    STOP_TOKEN = "stop_token"  # the model said so
    STOP_TEXT = "stop_text"  # a text that the caller named
    LENGTH = "length"  # as many tokens as asked for
    POSITIONS = "positions"  # the model has no more positions


class Generation(Iterator[GeneratedToken]):
    """Generated tokens, one at a time; the prompt is read with the first.

    A stop token is the last one given, with no text of its own.

    Attributes:
        encoded: the prompt.
        finish: why it ended; ``None`` until then.

    Args:
        sequence: what was read so far, at most a beginning of the prompt; by default nothing. It
            gets the rest of the prompt and every generated token but the last.
        sampling: how tokens are chosen.
        route: stored facts, which may force tokens; ``None`` where there are none.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        encoded: Encoded,
        *,
        max_tokens: int,
        stop_ids: Collection[int],
        stop_texts: tuple[str, ...],
        sampling: Sampling = GREEDY,
        sequence: Sequence | None = None,
        cancel: CancelToken | None,
        route: FactRoute | None = None,
    ) -> None:
        self._route = route
        self.encoded = encoded
        self.finish: Finish | None = None
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._stop_ids = stop_ids
        self._cancel = cancel
        self._text = _TextStream(tokenizer, encoded.ids, stop_texts)
        room = position_limit(decoder.spec) - len(encoded.ids)
        self._limit = min(max_tokens, max(room, 0))
        self._cut_by = Finish.LENGTH if max_tokens <= room else Finish.POSITIONS
        capacity = len(encoded.ids) + self._limit
        if sequence is None:
            sequence = Sequence(decoder, capacity)
        else:
            sequence.reserve(capacity)
        self._sequence = sequence
        self._unread = encoded.ids[len(sequence.ids) :]
        self._count = 0
        greedy = sampling == GREEDY
        self._sampler = None if greedy else Sampler(sampling, encoded.ids)

    @property
    def facts(self) -> tuple[Match, ...]:
        """The stored facts that have answered so far."""
        return () if self._route is None else tuple(self._route.matches)

    def __iter__(self) -> Self:
        """Itself."""
        return self

    def __next__(self) -> GeneratedToken:
        """The next token.

        Raises:
            StopIteration: see ``finish``.
            Cancelled: the token was set; there is nothing more to get.
        """
        if self.finish is not None:
            raise StopIteration
        if self._count == self._limit:
            self.finish = self._cut_by
            raise StopIteration
        if self._cancel is not None:
            self._cancel.check(f"token {self._count + 1}/{self._limit}")
        token, logprob = self._next_token()
        self._count += 1
        self._unread = (token,)
        if token in self._stop_ids:
            self.finish = Finish.STOP_TOKEN
            return GeneratedToken(token, self._text.rest(), logprob)
        text = self._text.push(token)
        if self._text.stopped:
            self.finish = Finish.STOP_TEXT
        elif self._count == self._limit:
            text += self._text.rest()
        return GeneratedToken(token, text, logprob)

    @torch.inference_mode()
    def _next_token(self) -> tuple[int, float]:
        h = self._sequence.read(self._unread, observe=self._route, cancel=self._cancel)
        forced = None if self._route is None else self._route.next_token()
        if forced is not None:
            self._note(forced)
            return forced, 0.0  # the logarithm of certainty
        greedy = self._sampler is None and self._route is None
        logits = self._decoder.logits(h, largest=greedy)[0].cpu()  # [V]
        logprobs = logits.log_softmax(0)
        token = int(logits.numpy().argmax())  # torch's takes ten times as long
        if not math.isfinite(float(logprobs[token])):
            raise WeightsInvalid("the forward pass gives numbers that are not finite")
        if self._sampler is not None:
            token = self._sampler.choose(logits)
        if self._route is not None:
            if self._route.closing and not self._route.fits(self._spelt(token)):
                token = self._whole_word_after(self._route, logits)
            self._note(token)
            self._route.said(self._spelt(token))
        return token, float(logprobs[token])

    def _note(self, token: int) -> None:
        """Let the sampler know of a token that it did not choose."""
        if self._sampler is not None:
            self._sampler.occurred(token)

    def _whole_word_after(self, route: FactRoute, logits: Tensor) -> int:
        """The best token that does not make another word of the target before it."""
        count = min(_CLOSING_CANDIDATES, logits.shape[0])
        best = [int(token) for token in logits.topk(count).indices]
        return next((token for token in best if route.fits(self._spelt(token))), best[0])

    def _spelt(self, token: int) -> str:
        """The text of a token inside a text: decoders strip the space that a text begins with."""
        alone, twice = (
            self._tokenizer.decode([token] * count, skip_special_tokens=False) for count in (1, 2)
        )
        return twice[len(alone) :] if twice.startswith(alone) else alone


class _TextStream:
    """Token ids -> text, holding back what is not a whole character or may begin a stop text."""

    def __init__(
        self, tokenizer: Tokenizer, prompt: tuple[int, ...], stop_texts: tuple[str, ...]
    ) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop_texts = tuple(text for text in stop_texts if text)
        self._stream = DecodeStream(list(prompt[-_SPELLING_CONTEXT:]), skip_special_tokens=False)
        self._held = ""

    def push(self, token: int) -> str:
        """The text that can be given out now; sets ``stopped`` when a stop text appeared."""
        self._held += self._stream.step(self._tokenizer, token) or ""
        found = [at for at in (self._held.find(text) for text in self._stop_texts) if at >= 0]
        if found:
            self.stopped = True
            return self._held[: min(found)]
        keep = max((_overlap(self._held, text) for text in self._stop_texts), default=0)
        given = len(self._held) - keep
        out, self._held = self._held[:given], self._held[given:]
        return out

    def rest(self) -> str:
        """What was held back because it might have begun a stop text. Broken bytes are left out."""
        out, self._held = self._held, ""
        return out


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a proper beginning of ``stop``."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)
