"""Which row of the comparison with transformers fails when a part of a family is neutralised.

``python -m tests.parity.bites`` prints the table: for each family and each group of its tensors
(norms to 1, biases and matrices to 0, ...) and each term of its mathematics that no tensor holds
(window, soft caps, scales, ...), the row that shows it most, and by how much more than allowed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from tests.parity.breaking import MISTAKES, BrokenSource, Mistake
from tests.parity.breaking_attention import ATTENTION_MISTAKES
from tests.parity.breaking_experts import EXPERT_MISTAKES
from tests.parity.checkpoints import Row, Spelling
from tests.parity.laboratory import (
    LOGITS_WITHIN,
    Form,
    Laboratory,
    largest,
    loaded,
    prompt_ids,
    threads,
)
from tests.parity.reference import Floats
from tests.parity.rows import ROWS
from vindex.checkpoint import open_checkpoint
from vindex.families import spec_from_config
from vindex.source import ModelSource, StoredTensor
from vindex.spec import ModelSpec, Role

# The smallest difference of all, gelu by tanh instead of erf, is 2.3 times the tolerance, which is
# 30 times the rounding of a right answer.
CLEARLY = 2
FORM = Form(Spelling.HUB)
# Rows that differ in what they compute, not only in how it is stored.
DISTINCT = tuple(row for row in ROWS if row.dtype is torch.float32 and not row.multimodal)

Pair = tuple[str, str]

# Terms that are neutralised in the specification, because no tensor holds them.
_TERMS = (
    "attention scale of the head size",
    "attention scale 1",
    "no attention softcap",
    "no final softcap",
    "window: full",
    "rope left out",
    "rope unscaled",
    "rope of whole heads",
    "rope attention factor 1",
    "sliding layers: global theta",
    "sliding layers: global scaling",
    "qk-norm left out",
    "v-norm left out",
    "norm eps 1e-6",
    "embed scale 1",
    "no residual multiplier",
    "no logit divisor",
    "layers not scaled",
    "per-layer embeddings left out",
)
_EXPERT_TERMS = (
    "weights divided by their sum, or not",
    "experts not scaled",
    "router reads what the experts read",
    "shared experts always whole",
)
_ALL = (*MISTAKES, *ATTENTION_MISTAKES, *EXPERT_MISTAKES)
_BY_NAME = {mistake.name: mistake for mistake in _ALL}
GROUPS: Mapping[str, Mistake] = {
    **{
        next(iter(mistake.tensors)).value: mistake
        for mistake in reversed(_ALL)  # the first for each role: the one that neutralises it
        if len(mistake.tensors) == 1
    },
    **{name: _BY_NAME[name] for name in (*_TERMS, *_EXPERT_TERMS)},
}

_NO_GATE = (
    "the model has none: a vindex keeps the up rows in its place, for browsing; no forward pass"
    " reads it"
)
_SOFTMAX = (
    "without rope q (k + b) = q k + q b, and q b is the same for every key: the softmax cancels it"
)
#: What cannot show, and why; ``test_bites`` checks that it does not.
EXCUSES: Mapping[Pair, str] = {
    **{(family, "gate"): _NO_GATE for family in ("gpt2", "gpt_neox", "opt", "phi", "starcoder2")},
    **{(family, "k_bias"): _SOFTMAX for family in ("gpt2", "opt")},
}


@dataclass(frozen=True, slots=True)
class Bite:
    """A part of a family that was neutralised, and the row that shows it most.

    Attributes:
        row: its name.
        error: the largest difference of its logits to those of transformers.
    """

    family: str
    group: str
    row: str
    error: float

    @property
    def caught(self) -> bool:
        """Whether the comparison fails, and not only just."""
        return self.error > CLEARLY * LOGITS_WITHIN


@cache
def difference(laboratory: Laboratory, row: Row, mistake: Mistake) -> float | None:
    """How far a mistake moves a row's logits; ``None`` if it changes nothing about the row.

    Measured once for all tests of a session.
    """
    with laboratory.source(row, FORM) as source:
        if not mistake.concerns(source):
            return None
        found = loaded(BrokenSource(source, mistake)).logits(prompt_ids())
    return largest(found, laboratory.expected(row).logits)


@cache
def spec(laboratory: Laboratory, row: Row) -> ModelSpec:
    """The specification of a row."""
    with open_checkpoint(laboratory.written(row).directories[FORM.spelling]) as checkpoint:
        return spec_from_config(checkpoint.config)


def required(laboratory: Laboratory) -> set[Pair]:
    """Every family with every role of a tensor that any of its rows stores."""
    pairs = set()
    for row in ROWS:
        with laboratory.source(row, FORM) as source:
            pairs |= {
                (source.spec.family, tensor.role.value)
                for tensor in source.spec.tensors
                if source.has(*tensor.identity)
            }
    return pairs


def bites(laboratory: Laboratory) -> Iterator[Bite]:
    """One for each family and group that a row of the family has; the row that shows it most."""
    families: dict[str, list[Row]] = {}
    for row in DISTINCT:
        families.setdefault(spec(laboratory, row).family, []).append(row)
    for family, rows in sorted(families.items()):
        for group, mistake in GROUPS.items():
            if (family, group) in EXCUSES:
                continue
            errors = {row.name: difference(laboratory, row, mistake) for row in rows}
            measured = {name: error for name, error in errors.items() if error is not None}
            if measured:
                worst = max(measured, key=measured.__getitem__)
                yield Bite(family, group, worst, measured[worst])


def zeroed(role: Role) -> Mistake:
    """All of a role's tensors zero, whatever it is for."""

    def zeros(_source: ModelSource, stored: StoredTensor) -> Floats:
        return np.zeros(stored.shape, np.float32)

    return Mistake(f"{role.value}: zero", tensors={role: zeros})


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as directory, threads(1):
        laboratory = Laboratory(Path(directory))
        found = list(bites(laboratory))
        missing = required(laboratory) - {(bite.family, bite.group) for bite in found}
    print(f"{'family':<12}{'neutralised':<34}{'caught by':<26}{'error':>9}{'x bound':>10}")
    for bite in found:
        verdict = f"{bite.error / LOGITS_WITHIN:>10.0f}" if bite.caught else "  NOT CAUGHT"
        print(f"{bite.family:<12}{bite.group:<34}{bite.row:<26}{bite.error:>9.2g}{verdict}")
    for (family, group), reason in sorted(EXCUSES.items()):
        print(f"{family:<12}{group:<34}cannot show: {reason}")
    unseen = sorted(missing - set(EXCUSES))
    caught = sum(bite.caught for bite in found)
    print(f"{caught} of {len(found)} caught, {len(EXCUSES)} excused, {len(unseen)} without a row")
    for family, group in unseen:
        print(f"{family:<12}{group:<34}NO ROW")


if __name__ == "__main__":
    main()
