"""Edited features of FFNs with biases, and of those without gates, beside the loaded matrices."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity.checkpoints import Row, Spelling, write
from tests.parity.rows import ROWS
from tests.unit.test_overlaid import compared
from vindex.checkpoint import open_checkpoint
from vindex.extract import extract
from vindex.kinds import ExtractLevel, StorageDtype

BIASED = [row for row in ROWS if row.name in ("starcoder2", "gpt2")]


@pytest.mark.parametrize("row", BIASED, ids=[row.name for row in BIASED])
def test_biases_of_edited_features_stay(row: Row, tmp_path: Path) -> None:
    directory = write(row, tmp_path).directories[Spelling.V5]
    with open_checkpoint(directory) as checkpoint:
        options = {"level": ExtractLevel.INFERENCE, "dtype": StorageDtype.F32}
        extract(checkpoint, tmp_path / "v", **options)
    compared(tmp_path / "v", 1e-3)
