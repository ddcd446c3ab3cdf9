"""Everything ``lql.inference`` raises on purpose, besides ``lql.cancel.Cancelled``.

::

    InferenceError
    ├── WeightsMissing        INF01  the source lacks tensors that a forward pass needs
    ├── WeightsInvalid        INF02  a tensor's shape or values cannot be computed with
    ├── EmptyPrompt           INF03  no tokens to start from
    ├── TokenOutOfRange       INF04  a token id outside the vocabulary
    ├── PromptTooLong         INF05  more positions than the model was made for
    ├── NoChatTemplate        INF06  CHAT on a model that has no template
    ├── ChatTemplateFailed    INF07  the model's template is refused, fails, or exceeds its limits
    └── PromptNotText         INF08  a prompt that no encoding can write

Facts are attributes; ``message`` is one sentence, ``hint`` the next step. Importing this module
does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class InferenceError(Exception):
    """Root of the package's errors.

    Attributes:
        message: what happened, on what, one sentence without a full stop.
        hint: the next step for the user, or ``None``.
        details: further lines, e.g. every missing tensor.
    """

    code: ClassVar[str] = "INF00"

    def __init__(
        self, message: str, *, hint: str | None = None, details: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = tuple(details)


class WeightsMissing(InferenceError):
    """The source lacks tensors that a forward pass needs."""

    code = "INF01"


class WeightsInvalid(InferenceError):
    """A tensor's shape or values cannot be computed with."""

    code = "INF02"


class EmptyPrompt(InferenceError):
    """The prompt has no tokens, so there is no position to predict from."""

    code = "INF03"


class TokenOutOfRange(InferenceError):
    """A token id that the model's embedding has no row for."""

    code = "INF04"


class PromptTooLong(InferenceError):
    """More tokens than the model has positions.

    Attributes:
        tokens: positions asked for.
        limit: positions the model was made for.
    """

    code = "INF05"

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(
            f"{tokens} tokens do not fit the model's {limit} positions",
            hint="shorten the prompt or ask for fewer tokens",
        )
        self.tokens = tokens
        self.limit = limit


class NoChatTemplate(InferenceError):
    """CHAT was asked of a model that has no chat template."""

    code = "INF06"


class ChatTemplateFailed(InferenceError):
    """The model's chat template is refused, fails, or exceeds its limits."""

    code = "INF07"


class PromptNotText(InferenceError):
    """The prompt holds something that is no Unicode text."""

    code = "INF08"
