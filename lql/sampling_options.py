"""The options of the command line that say how tokens are chosen."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace
from typing import Any

from lql.arguments import Parser, count, usage
from lql.inference.errors import SamplingInvalid
from lql.inference.sampling import Sampling


def sampling_options(parser: Parser) -> None:
    """Add a section about the choice of tokens to a parser."""
    option = parser.section("how tokens are chosen, in this order")
    option(
        "--repetition-penalty",
        type=_number,
        metavar="X",
        help="divide positive logits of tokens that have occurred by X, multiply negative ones",
    )
    option("--temperature", type=_number, metavar="T", help="divide logits by T; 0 is greedy (0)")
    option("--top-k", type=count, metavar="K", help="keep the K most probable tokens")
    option("--top-p", type=_number, metavar="P", help="keep the likeliest that together reach P")
    option("--min-p", type=_number, metavar="P", help="keep those of P times the highest or more")
    option("--seed", type=_whole, metavar="N", help="the same N draws the same tokens")
    option(
        "--recommended",
        action="store_true",
        help="begin with what the model's generation_config.json says of these",
    )


@dataclass(frozen=True, slots=True)
class SamplingWords:
    """What the command line says about sampling.

    Attributes:
        values: the options that were written.
        recommended: they change what the model's makers recommend, not greedy choice.
    """

    values: dict[str, Any]
    recommended: bool

    @staticmethod
    def of(words: argparse.Namespace) -> SamplingWords:
        """Read and, where no model is needed for that, check the options."""
        names = ("repetition_penalty", "temperature", "top_k", "top_p", "min_p", "seed")
        written = {name: getattr(words, name) for name in names if getattr(words, name) is not None}
        choice = SamplingWords(written, words.recommended)
        if not choice.recommended:
            choice.sampling(Sampling())
        return choice

    def sampling(self, base: Sampling) -> Sampling:
        """The options over a base.

        Raises:
            LqlUsageError: values that make no sense, by themselves or together.
        """
        try:
            return replace(base, **self.values)
        except SamplingInvalid as error:
            raise usage(error.message, *([error.hint] if error.hint else [])) from error


def _whole(word: str) -> int:
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f'"{word}" is not a whole number of at least 0')
    return int(word)


def _number(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f'"{word}" is not a number')
    return value
