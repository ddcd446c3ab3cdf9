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
    ├── PromptNotText         INF08  a prompt that no encoding can write
    ├── SamplingInvalid       INF09  a sampling parameter out of range, or one without effect
    ├── DeviceMissing         INF10  the device asked for is not there
    ├── DeviceMemoryShort     INF11  the device has too little memory for the model
    ├── InterventionInvalid   INF12  an intervention at a place that is not there
    ├── TraceOpen             INF13  contributions that do not add up to the residual stream
    └── PositionInvalid       INF14  a position that the prompt does not have

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


class SamplingInvalid(InferenceError):
    """A parameter of sampling is out of range, or has no effect beside the others."""

    code = "INF09"


class DeviceMissing(InferenceError):
    """The device asked for is not there, or torch was built without it."""

    code = "INF10"


class DeviceMemoryShort(InferenceError):
    """The device has too little memory for the model.

    Attributes:
        needed: bytes that the model takes, or ``None`` where it ran out while computing.
        free: bytes that are free.
    """

    code = "INF11"

    def __init__(self, device: str, needed: int | None, free: int) -> None:
        if needed is None:
            message = f"{device} ran out of memory with {free:,} bytes free"
        else:
            message = f"the model takes {needed:,} bytes on {device}, which has {free:,} free"
        super().__init__(message, hint="run it on the CPU: --device cpu, or SET device = cpu;")
        self.needed = needed
        self.free = free


class InterventionInvalid(InferenceError):
    """An intervention names a layer, head, feature or position that is not there, or misfits."""

    code = "INF12"


class TraceOpen(InferenceError):
    """The contributions of a trace do not add up to the residual stream.

    Attributes:
        gap: the largest distance, relative to the stream's length.
    """

    code = "INF13"

    def __init__(self, layer: int, gap: float) -> None:
        super().__init__(
            f"the parts of layer {layer} miss the residual stream by {gap:.1e} of its length",
            hint="this is a bug in lql, or the model's numbers overflow: please report it",
        )
        self.gap = gap


class PositionInvalid(InferenceError):
    """A trace is asked for at a position that the prompt does not have, or at none.

    Attributes:
        position: the first such, or ``None``.
        count: tokens of the prompt.
    """

    code = "INF14"

    def __init__(self, position: int | None, count: int) -> None:
        what = "no position is asked for" if position is None else f"no position {position}"
        super().__init__(f"{what}: the prompt has {count} tokens, 0 to {count - 1}")
        self.position = position
        self.count = count
