"""Checkpoints, vindexes and expected values of a session, each made when first asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch

from lql.inference import Device, load
from lql.inference.decoder import Decoder
from lql.inference.model import LoadedModel
from lql.inference.precision import ComputeDtype
from lql.inference.weights import load_weights
from tests.parity.checkpoints import PROMPT_TOKENS, VOCABULARY, Row, Spelling, Written, write
from tests.parity.reference import Floats, Reference
from vindex.checkpoint import CheckpointSource, open_checkpoint
from vindex.extract import extract
from vindex.kinds import Quant, StorageDtype
from vindex.source import ModelSource
from vindex.store import open_vindex

ALL_THREADS = torch.get_num_threads()
LOGITS_WITHIN = 3e-4


@dataclass(frozen=True, slots=True)
class Form:
    """How a checkpoint reaches the backend: its config's spelling, and extracted as or not."""

    spelling: Spelling
    dtype: StorageDtype | None = None
    quant: Quant = Quant.NONE

    def __str__(self) -> str:
        stored = "checkpoint" if self.dtype is None else self.dtype.value
        blocks = "" if self.quant is Quant.NONE else f"-{self.quant.value}"
        return f"{self.spelling.value}-{stored}{blocks}"


EXACT_FORMS = tuple(
    Form(spelling, dtype) for spelling in Spelling for dtype in (None, StorageDtype.F32)
)


class Expected:
    """What transformers answers on a checkpoint, computed once."""

    def __init__(self, written: Written) -> None:
        self.reference = Reference(written.model)
        self.greedy = cache(self.reference.greedy)

    @cached_property
    def logits(self) -> Floats:
        """Of ``prompt_ids``, [T, V]."""
        return self.reference.logits(prompt_ids())

    @cached_property
    def layer_outputs(self) -> Floats:
        """Of ``prompt_ids``, [L, T, D]."""
        return self.reference.layer_outputs(prompt_ids())


class Laboratory:
    """The rows of ``rows.ROWS`` on disk."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.written = cache(self._write)
        self.expected = cache(self._expect)
        self._extracted = cache(self._extract)

    @contextmanager
    def source(self, row: Row, form: Form) -> Iterator[ModelSource]:
        """A row, opened in a form."""
        if form.dtype is None:
            path = self.written(row).directories[form.spelling]
            with open_checkpoint(path) as checkpoint:
                yield CheckpointSource(checkpoint)
        else:
            with open_vindex(self._extracted(row, form)) as vindex:
                yield vindex

    def _write(self, row: Row) -> Written:
        return write(row, self._directory)

    def _expect(self, row: Row) -> Expected:
        return Expected(self.written(row))

    def _extract(self, row: Row, form: Form) -> Path:
        assert form.dtype is not None
        out = self._directory / f"{row.name}-{form}.vindex"
        with open_checkpoint(self.written(row).directories[form.spelling]) as checkpoint:
            extract(checkpoint, out, dtype=form.dtype, quant=form.quant)
        return out


def loaded(
    source: ModelSource,
    device: Device = Device.CPU,
    *,
    dtype: ComputeDtype = ComputeDtype.AUTO,
) -> LoadedModel:
    """A model ready to run."""
    with threads(ALL_THREADS):
        return load(source, device=device, dtype=dtype)


def decoder(source: ModelSource, device: str = "cpu") -> Decoder:
    """The decoder alone, for what ``LoadedModel`` does not offer."""
    where = torch.device(device)
    with threads(ALL_THREADS):
        weights = load_weights(source, ComputeDtype.AUTO, None, where)
    return Decoder(source.spec, weights, where)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch compute with so many threads.

    Small products are fastest with one, and on a busy machine all are, by far. Loading has threads
    of its own, which this does not reach: with one here they wait for each other.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def prompt_ids() -> tuple[int, ...]:
    """``PROMPT_TOKENS`` ids out of the whole vocabulary."""
    ids = np.random.default_rng(1).integers(0, VOCABULARY, PROMPT_TOKENS)
    return tuple(ids.tolist())


def largest(found: Floats, expected: Floats) -> float:
    """The largest absolute difference; infinite when any value is not finite."""
    assert found.shape == expected.shape
    difference = np.abs(found.astype(np.float64) - expected)
    return float(difference.max()) if np.isfinite(difference).all() else float("inf")
