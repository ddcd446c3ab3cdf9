"""Every family computes where its weights are; see ``tests/unit/test_devices.py``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from lql.inference import mixture
from lql.inference.decoder import Decoder
from lql.inference.precision import ComputeDtype
from lql.inference.sequence import Sequence as TokenSequence
from lql.inference.weights import load_weights
from tests.parity.checkpoints import VOCABULARY, Row
from tests.parity.laboratory import EXACT_FORMS, Laboratory, prompt_ids
from tests.parity.rows import ROWS

META = torch.device("meta")


def _visit_the_first(
    experts: torch.Tensor, weights: torch.Tensor
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Every token visits the first experts: whom it would visit depends on values, which meta
    tensors lack."""
    for expert in range(experts.shape[1]):
        yield expert, torch.arange(len(experts), device=META), weights[:, expert : expert + 1]


@torch.inference_mode()
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_every_tensor_is_where_the_weights_are(
    row: Row, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixture, "visits", _visit_the_first)
    with laboratory.source(row, EXACT_FORMS[0]) as source:
        weights = load_weights(source, ComputeDtype.F32, None, META)
        model = Decoder(source.spec, weights, META)
        ids = prompt_ids()
        sequence = TokenSequence(model, len(ids))
        for part, keep in ((ids[:30], 1), (ids[30:31], 1), (ids[31:], 5)):
            logits = model.logits(sequence.read(part, keep=keep))
            assert (logits.device, logits.shape) == (META, (keep, VOCABULARY))
