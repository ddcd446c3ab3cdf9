"""How the next token of a generated text is chosen. Importing this module does not import torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Self

from lql.inference.errors import SamplingInvalid

_LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Sampling:
    """The most probable token (greedy, the default), or a random one of the likely ones.

    The steps, in transformers' order: repetition penalty, temperature, top-k, top-p, min-p; then
    one token is drawn from what is left, in proportion to its probability.

    Attributes:
        temperature: what logits are divided by; 0 is greedy.
        top_k: keep the ``top_k`` most probable tokens, and those equal to the last of them.
        top_p: keep the fewest tokens, most probable first, whose probabilities reach ``top_p``.
        min_p: keep tokens of at least ``min_p`` times the highest probability.
        repetition_penalty: what the logit of a token that has occurred, in the prompt or since, is
            divided by if positive and multiplied by if negative. Greedy choice heeds it as well.
        seed: of a random generator of the text's own; ``None`` for one that differs every time.

    Raises:
        SamplingInvalid: a value out of range; or a filter or seed, which a greedy choice ignores.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < math.inf:
            _refuse("temperature", self.temperature, "0 (greedy) or a positive number")
        if self.top_k is not None and self.top_k < 1:
            _refuse("top-k", self.top_k, "at least 1")
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            _refuse("top-p", self.top_p, "above 0 and at most 1")
        if self.min_p is not None and not 0.0 <= self.min_p <= 1.0:
            _refuse("min-p", self.min_p, "from 0 to 1")
        if not 0.0 < self.repetition_penalty < math.inf:
            _refuse("repetition-penalty", self.repetition_penalty, "a positive number")
        if self.seed is not None and not 0 <= self.seed <= _LARGEST_SEED:
            _refuse("seed", self.seed, f"from 0 to {_LARGEST_SEED}")
        only_random = {
            "top-k": self.top_k,
            "top-p": self.top_p,
            "min-p": self.min_p,
            "seed": self.seed,
        }
        idle = [name for name, value in only_random.items() if value is not None]
        if self.is_greedy and idle:
            raise SamplingInvalid(
                f"{idle[0]} has no effect on greedy generation",
                hint="choose a temperature above 0 as well, e.g. 1",
            )

    @property
    def is_greedy(self) -> bool:
        """Whether the most probable token is taken."""
        return self.temperature == 0.0

    @classmethod
    def of_generation_config(cls, config: Mapping[str, Any], *, seed: int | None = None) -> Self:
        """What the makers of a model recommend in its ``generation_config.json``.

        Without ``do_sample`` that is greedy choice, as it is for transformers. What the file does
        not say is left out; transformers would take a top-k of 50.

        Args:
            seed: kept if the choice is random.

        Raises:
            SamplingInvalid: the file holds a value that is not a number, or out of range.
        """
        random = config.get("do_sample") is True
        if not random:
            return cls(repetition_penalty=_number(config, "repetition_penalty", 1.0))
        top_k = _number(config, "top_k", 0.0)  # 0: off, in transformers' files
        top_p = _number(config, "top_p", 1.0)
        min_p = _number(config, "min_p", 0.0)
        return cls(
            temperature=_number(config, "temperature", 1.0),
            top_k=int(top_k) or None,
            top_p=None if top_p == 1.0 else top_p,
            min_p=min_p or None,
            repetition_penalty=_number(config, "repetition_penalty", 1.0),
            seed=seed,
        )


GREEDY = Sampling()


def _number(config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SamplingInvalid(
            f"generation_config.json: {key} is not a number", hint="give the values as options"
        )
    return float(value)


def _refuse(name: str, value: float, expected: str) -> NoReturn:
    raise SamplingInvalid(f"{name} is {value:g}, expected {expected}")
