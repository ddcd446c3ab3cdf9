"""From the last layer with keys of its own on, only the tokens that are asked for are run."""

from __future__ import annotations

import pytest
import torch

from lql.inference.decoder import Decoder, Tap
from lql.inference.sequence import Sequence as TokenSequence
from tests.parity.checkpoints import PROMPT_TOKENS, Row
from tests.parity.laboratory import EXACT_FORMS, Laboratory, decoder, largest, prompt_ids
from tests.parity.rows import ROWS
from tests.parity.test_parity import LOGITS_WITHIN

pytestmark = pytest.mark.usefixtures("one_thread")

SHARING = {
    "gemma4-e2b": 5,
    "gemma4-e4b-multimodal": 4,
    "gemma4-all-at-once": 3,
    "gemma4-all-and-experts": 3,
    "gemma4-bf16": 2,
}


def ffn_tokens(model: Decoder, keep: int, chunk: int) -> tuple[list[int], torch.Tensor]:
    """Tokens that each layer's FFN is run for in the last chunk of the prompt, and its outputs."""
    tokens: list[int] = []

    def observe(tap: Tap, layer: int, values: torch.Tensor) -> None:
        if tap is Tap.FFN_INPUT:
            tokens.append(len(values))

    ids = prompt_ids()
    sequence = TokenSequence(model, len(ids))
    for start in range(0, len(ids), chunk):
        tokens.clear()
        part = ids[start : start + chunk]
        outputs = sequence.read(part, keep=min(keep, len(part)), observe=observe)
    return tokens, outputs


@torch.inference_mode()
@pytest.mark.parametrize("keep", [1, 3])
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_kept_tokens_have_the_same_logits(row: Row, keep: int, laboratory: Laboratory) -> None:
    expected = laboratory.expected(row)
    with laboratory.source(row, EXACT_FORMS[0]) as source:
        model = decoder(source)
        tokens, outputs = ffn_tokens(model, keep, PROMPT_TOKENS)
        found = model.logits(outputs).numpy()
    layers, narrow = model.spec.num_layers, 1 + SHARING.get(row.name, 0)
    assert tokens == [PROMPT_TOKENS] * (layers - narrow) + [keep] * narrow
    assert largest(found, expected.logits[-keep:]) <= LOGITS_WITHIN


@torch.inference_mode()
@pytest.mark.parametrize("name", SHARING)
def test_chunks_of_a_prompt_too(name: str, laboratory: Laboratory) -> None:
    """Keys of sliding layers reach further back than the kept queries see."""
    row = next(row for row in ROWS if row.name == name)
    with laboratory.source(row, EXACT_FORMS[0]) as source:
        model = decoder(source)
        for chunk in (7, 23):
            _, outputs = ffn_tokens(model, 2, chunk)
            found = model.logits(outputs).numpy()
            assert largest(found, laboratory.expected(row).logits[-len(found) :]) <= LOGITS_WITHIN
