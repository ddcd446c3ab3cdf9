"""Interleaved timing: every subject once per round, so that a busy machine disturbs all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Times:
    """Wall times of one subject over all rounds, in seconds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        """The smallest: the one least disturbed by other programs."""
        return min(self.seconds)


def interleaved(subjects: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Times]:
    """Time every subject ``rounds`` times in turn, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    for counts in (False, *[True] * rounds):
        for name, run in subjects.items():
            started = time.perf_counter()
            run()
            if counts:
                seconds[name].append(time.perf_counter() - started)
    return {name: Times(tuple(values)) for name, values in seconds.items()}
