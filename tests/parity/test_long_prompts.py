"""Long prompts are read in parts; the rotations of every part are those of the whole."""

from __future__ import annotations

import numpy as np
import pytest

from lql.inference import load, sequence
from tests.parity.checkpoints import VOCABULARY, Spelling
from tests.parity.laboratory import Form, Laboratory, largest
from tests.parity.rows import ROWS
from vindex.kinds import StorageDtype

pytestmark = pytest.mark.usefixtures("one_thread")

COARSE_WITHIN = 0.1  # measured: 0.011; with the rotations of each part 2.5


def test_parts_of_a_prompt_turn_by_its_whole_length(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first parts end before longrope's switch at 96 positions, the prompt after it."""
    monkeypatch.setattr(sequence, "_COARSE_CHUNK", 32)
    row = next(row for row in ROWS if row.name == "phi3-short")
    ids = tuple(np.random.default_rng(5).integers(0, VOCABULARY, 192).tolist())
    with laboratory.source(row, Form(Spelling.HUB, StorageDtype.F16)) as source:
        model = load(source)
        in_parts, exact = model.next_logits(ids), model.logits(ids)[-1]
    difference = largest(in_parts, exact)
    print(f"in parts: {difference:.2g}")
    assert 0 < difference < COARSE_WITHIN
