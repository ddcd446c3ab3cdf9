"""64 generated tokens: a cached step chooses what the whole text would, on every family."""

from __future__ import annotations

import pytest

from lql.inference.sequence import position_limit
from tests.parity.checkpoints import WINDOW, Row
from tests.parity.laboratory import EXACT_FORMS, Laboratory, loaded
from tests.parity.rows import ROWS
from vindex.spec import RopeScaling

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENS = 64
# Of some 50 tokens: generation passes longrope's switch at 96 positions, many windows, and the
# places where a sliding layer's slots are used up. Dynamic rope (32) changes at every step.
PROMPT = "The quick brown fox jumps over the lazy dog and nobody knows why; one"
NEAR_TIE = 1e-4


LENGTH_COUNTS = (RopeScaling.DYNAMIC, RopeScaling.LONGROPE)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_64_tokens_equal_recomputation(row: Row, laboratory: Laboratory) -> None:
    """By transformers, which reads the whole text without a cache."""
    with laboratory.source(row, EXACT_FORMS[0]) as source:
        room = position_limit(source.spec)
        ropes = [layer.attention.rope for layer in source.spec.layers]
        prompt = PROMPT if room >= 124 else PROMPT[: room // 3]
        generation = loaded(source).generate(prompt, max_tokens=TOKENS)
        found = tuple(token.token_id for token in generation)
    assert len(found) == min(TOKENS, room - len(generation.encoded.ids)) >= 40
    reference = laboratory.expected(row).reference
    text = generation.encoded.ids
    assert room < 124 or (2 * WINDOW < len(text) < 96 < len(text) + TOKENS)
    by_length = any(rope is not None and rope.scaling in LENGTH_COUNTS for rope in ropes)
    if not by_length:  # one pass has the logits of every prefix: attention is causal
        every = reference.logits((*text, *found[:-1]))[len(text) - 1 :]
    for step, token in enumerate(found):
        logits = reference.logits(text)[-1] if by_length else every[step]
        assert logits[token] >= logits.max() - NEAR_TIE, f"token {step + 1}"
        text += (token,)
