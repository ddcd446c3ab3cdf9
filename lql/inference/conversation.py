"""A chat in turns. The cache outlives them: a turn reads only the tokens that are new.

Every turn renders the whole conversation in the model's own template. Where that begins like what
was read before, nothing is read again; where the template rewrites history (it may drop what the
model thought), or an answer is split into other tokens than it was generated in, the cache goes
back to the last token that is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Self

from lql.cancel import CancelToken
from lql.inference.answers import GeneratedToken
from lql.inference.decoder import Decoder
from lql.inference.generate import Generation
from lql.inference.knn import FactRoute, FactStore
from lql.inference.prompt import PromptEncoder
from lql.inference.sampling import GREEDY, Sampling
from lql.inference.sequence import Sequence


class Speaker(Enum):
    """Whose words a message is; the values are those that templates know."""

    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn."""

    speaker: Speaker
    text: str


class Reply(Iterator[GeneratedToken]):
    """An answer, token by token. What was taken from it is what the model has said.

    Attributes:
        generation: the prompt, and why the answer ended.
        reused: tokens of the prompt that were in the cache.
    """

    def __init__(self, question: str, generation: Generation, reused: int) -> None:
        self.generation = generation
        self.reused = reused
        self._question = question
        self._pieces: list[str] = []
        self._over = False

    def __iter__(self) -> Self:
        """Itself."""
        return self

    def __next__(self) -> GeneratedToken:
        """The next token; see ``Generation``."""
        if self._over:
            raise StopIteration
        token = next(self.generation)
        self._pieces.append(token.text)
        return token

    def end(self) -> None:
        """Give no more tokens: the next turn has begun."""
        self._over = True

    @property
    def messages(self) -> tuple[Message, ...]:
        """The question and the answer so far; nothing if there is none yet."""
        if not self._pieces:
            return ()
        answer = "".join(self._pieces)
        return Message(Speaker.USER, self._question), Message(Speaker.ASSISTANT, answer)


class Conversation:
    """Turns with one model. An answer that is broken off counts as far as it was taken.

    Not to be mixed with other work on the same model from another thread.

    Args:
        facts: gives the stored facts that answer in the model's place, asked at every turn.
    """

    def __init__(
        self, decoder: Decoder, encoder: PromptEncoder, facts: Callable[[], FactStore] = FactStore
    ) -> None:
        self._decoder = decoder
        self._encoder = encoder
        self._facts = facts
        self.reset()

    def reset(self) -> None:
        """Forget everything that was said."""
        self._past: tuple[Message, ...] = ()
        self._reply: Reply | None = None
        self._sequence: Sequence | None = None

    @property
    def messages(self) -> tuple[Message, ...]:
        """What was said so far."""
        return self._past if self._reply is None else (*self._past, *self._reply.messages)

    def reply(
        self,
        text: str,
        *,
        max_tokens: int,
        stop: tuple[str, ...] = (),
        sampling: Sampling = GREEDY,
        cancel: CancelToken | None = None,
    ) -> Reply:
        """Answer what the user says. The answer before it is over; no more can be taken from it.

        Args:
            stop, sampling, cancel: see ``LoadedModel.generate``.

        Raises:
            NoChatTemplate, ChatTemplateFailed, PromptNotText, PromptTooLong: nothing was said.
        """
        past = self.messages
        turns = [(each.speaker.value, each.text) for each in past]
        encoded = self._encoder.encode_chat([*turns, (Speaker.USER.value, text)])
        if self._reply is not None:
            self._reply.end()
        sequence = self._sequence or Sequence(self._decoder, len(encoded.ids))
        sequence.go_back_to(encoded.ids[:-1])  # the last one has to be read, to have an output
        self._sequence = sequence
        reused = len(sequence.ids)
        store = self._facts()
        generation = Generation(
            self._decoder,
            self._encoder.tokenizer,
            encoded,
            route=FactRoute(store, self._encoder.tokenizer, encoded) if store else None,
            max_tokens=max_tokens,
            stop_ids=self._encoder.stop_ids(),
            stop_texts=stop,
            sampling=sampling,
            sequence=sequence,
            cancel=cancel,
        )
        self._past = past
        self._reply = Reply(text, generation, reused)
        return self._reply
