"""The tensor ledger: every tensor of a checkpoint is used, dropped by a named rule, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vindex.checkpoint._base import Checkpoint
from vindex.checkpoint.cutting import source_key, ways
from vindex.errors import LedgerRefusal, Unsupported
from vindex.families import DropRule, family_of
from vindex.families._config import show
from vindex.spec import ModelSpec, Role, TensorSpec

_SHOWN = 4
_COMPARE_ROWS = 1024

TIED_HEAD_COPY = "tied-head-copy"


@dataclass(frozen=True, slots=True)
class Dropped:
    """A checkpoint tensor that is left out on purpose."""

    name: str
    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class Ledger:
    """A balanced account of a checkpoint.

    Attributes:
        used: every tensor that is read, with the name of the checkpoint tensor it is or is cut
            from, model order.
        dropped: every tensor that is not, with the rule that says so.
        notes: what a person should know, e.g. an untied head in a model that says it is tied.
    """

    used: Mapping[TensorSpec, str]
    dropped: tuple[Dropped, ...]
    notes: tuple[str, ...] = ()


def balance(checkpoint: Checkpoint, spec: ModelSpec) -> Ledger:
    """Account for every tensor of a checkpoint.

    Args:
        checkpoint: only names, shapes and, for the head of a tied model, values are read.
        spec: what the model needs.

    Raises:
        LedgerRefusal: tensors are unknown, missing, ambiguous, of the wrong shape or of an
            unreadable dtype. ``details`` lists all of them.
    """
    family = family_of(spec)
    rules = family.drop_rules(spec)
    known = {source_key(way): way for tensor in spec.tensors for way in ways(tensor)}
    dropped: list[Dropped] = []
    found: dict[str, str] = {}
    problems: list[str] = []
    for name in checkpoint.names():
        key = family.key(name)
        rule = _rule(rules, name)
        if rule is not None:
            dropped.append(Dropped(name, rule.name, rule.reason))
        elif key not in known:
            problems.append(f"unknown: {show(name, 200)}")
        elif key in found:
            problems.append(f"ambiguous: {show(found[key], 200)} and {show(name, 200)}")
        else:
            found[key] = name
            problem = _mismatch(checkpoint, name, known[key])
            if problem is not None:
                problems.append(problem)
    used, missing = _choose(spec, found)
    problems += [f"missing: {key}" for key in missing]
    read = {source_key(tensor) for tensor in used}
    problems += [
        f"ambiguous: {show(name, 200)} holds what other tensors hold as well"
        for key, name in found.items()
        if key not in read
    ]
    if problems:
        raise _refusal(checkpoint.name, problems)
    notes: list[str] = []
    head = next(tensor for tensor in spec.tensors if tensor.role is Role.HEAD)
    if spec.tied and head.key in found:
        embed = next(tensor for tensor in spec.tensors if tensor.role is Role.EMBED)
        if _equal(checkpoint, found[head.key], found[embed.key]):
            name = used.pop(head)
            dropped.append(Dropped(name, TIED_HEAD_COPY, "a copy of the tied embedding"))
        else:
            notes.append(
                "the config says the head is tied to the embedding, but the checkpoint has an"
                f" {found[head.key]} that differs; it is used"
            )
    return Ledger(used, tuple(dropped), tuple(notes))


def _choose(
    spec: ModelSpec, found: Mapping[str, str]
) -> tuple[dict[TensorSpec, str], tuple[str, ...]]:
    """For every tensor the first place that the checkpoint has; keys of those that have none."""
    used: dict[TensorSpec, str] = {}
    missing: dict[str, None] = {}
    for tensor in spec.tensors:
        way = next((way for way in ways(tensor) if source_key(way) in found), None)
        if way is not None:
            used[way] = found[source_key(way)]
        elif not tensor.optional:
            missing[source_key(tensor)] = None
    return used, tuple(missing)


def _rule(rules: tuple[DropRule, ...], name: str) -> DropRule | None:
    return next((rule for rule in rules if rule.pattern.search(name)), None)


def _mismatch(checkpoint: Checkpoint, name: str, tensor: TensorSpec) -> str | None:
    try:
        shape = checkpoint.info(name).shape
    except Unsupported as error:
        return f"unreadable: {error.message}"
    expected = tensor.shape if tensor.cut is None else tensor.cut.shape
    if shape != expected:
        return f"shape: {show(name, 200)} is {list(shape)}, expected {list(expected)}"
    return None


def _refusal(name: str, problems: list[str]) -> LedgerRefusal:
    more = len(problems) - _SHOWN
    shown = "; ".join(problems[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
    count = "1 tensor" if len(problems) == 1 else f"{len(problems)} tensors"
    return LedgerRefusal(
        f"{count} of {name} cannot be accounted for: {shown}",
        hint="nothing was written; the model differs from what its config.json describes",
        details=problems,
    )


def _equal(checkpoint: Checkpoint, left: str, right: str) -> bool:
    """Whether two matrices hold the same values, compared block by block."""
    dtypes = checkpoint.info(left).dtype, checkpoint.info(right).dtype
    if dtypes[0] is not dtypes[1]:
        return False
    rows = checkpoint.info(left).shape[0]
    for start in range(0, rows, _COMPARE_ROWS):
        stop = min(start + _COMPARE_ROWS, rows)
        one = checkpoint.read_rows(left, start, stop, dtypes[0])
        if not np.array_equal(one, checkpoint.read_rows(right, start, stop, dtypes[0])):
            return False
    checkpoint.release()
    return True
