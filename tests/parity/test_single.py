"""Layers recorded for one token: the same bits as the functions that they are recordings of."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lql.inference import decoder as decoders
from lql.inference.decoder import Decoder
from lql.inference.linear import half_kernel_works
from lql.inference.mixture import Mixture
from lql.inference.sequence import Sequence
from tests.parity.checkpoints import Row, Spelling
from tests.parity.laboratory import Form, Laboratory, decoder, prompt_ids
from tests.parity.rows import ROWS
from vindex.kinds import Quant, StorageDtype

pytestmark = pytest.mark.usefixtures("one_thread")

F16 = Form(Spelling.HUB, StorageDtype.F16)
Q4K = Form(Spelling.HUB, StorageDtype.F32, Quant.Q4K)
READ_AT_ONCE = 5

rows = pytest.mark.parametrize("row", ROWS, ids=str)


@rows
@pytest.mark.parametrize("form", [F16, Q4K], ids=str)
def test_recorded_layers_give_the_same_bits(
    row: Row, form: Form, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with laboratory.source(row, form) as source:
        model = decoder(source)
        monkeypatch.setattr(decoders, "RECORD_AFTER", 10_000)
        expected = outputs(model)
        assert model._recorded is None
        monkeypatch.setattr(decoders, "RECORD_AFTER", 1)
        found = outputs(model)
        assert model._recorded is not None
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)
        if form is F16 and half_kernel_works():
            for layer, recorded in zip(model.weights.layers, model._recorded, strict=True):
                other = isinstance(layer.feed_forward, Mixture) or layer.attention.latent
                assert (recorded is None) == bool(other)


@torch.inference_mode()
def outputs(model: Decoder) -> list[Tensor]:
    """The residual stream after each token, most of them read one at a time; past every window."""
    ids = prompt_ids()
    sequence = Sequence(model, len(ids))
    sequence.read(ids[:READ_AT_ONCE])
    return [sequence.read([token]) for token in ids[READ_AT_ONCE:]]
