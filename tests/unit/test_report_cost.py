"""The timing line says what a statement took of the model."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from lql.report import Reporter
from lql.results.base import Meta
from lql.session import connect
from tests.repl.conftest import tiny_vindex as tiny_vindex
from tests.unit.samples import INFER


def timed(meta: Meta) -> str:
    err = io.StringIO()
    Reporter(io.StringIO(), err, timing=True).finished(replace(INFER, meta=meta))
    return err.getvalue()


@pytest.mark.parametrize(
    ("meta", "line"),
    [
        (Meta(elapsed_s=0.031), "4 rows, 31 ms\n"),
        (
            Meta(elapsed_s=0.031, tokens=6, forward_s=0.025, device="cpu"),
            "4 rows, 31 ms, 6 tokens at 240/s, cpu\n",
        ),
        (
            Meta(elapsed_s=0.031, load_s=0.01, tokens=1, forward_s=0.5),
            "4 rows, 31 ms, 10 ms of it loading weights, 1 token at 2/s\n",
        ),
        (Meta(elapsed_s=0.031, touched_bytes=3 << 20), "4 rows, 31 ms, 3.0 MiB of weights read\n"),
    ],
)
def test_the_line(meta: Meta, line: str) -> None:
    assert timed(meta) == line


def test_statements_count_what_they_read(tiny_vindex: Path) -> None:
    with connect(tiny_vindex) as session:
        vindex = session.source
        assert vindex is not None
        gates = [vindex.gate(layer).array.nbytes for layer in range(4)]  # type: ignore[union-attr]

        assert session.query('WALK "The" LAYERS 1-2').meta.touched_bytes == sum(gates[1:3])
        assert session.query('EXPLAIN WALK "The"').meta.touched_bytes == sum(gates)
        assert session.query('DESCRIBE "France" EVIDENCE STATIC').meta.touched_bytes > 0
        meta = session.query('INFER "The capital"').meta
        assert meta.tokens >= 2
        assert meta.forward_s > 0
        assert meta.touched_bytes == 0
        assert session.query("SHOW LAYERS").meta.tokens == 0
