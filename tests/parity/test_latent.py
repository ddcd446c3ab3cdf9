"""DeepSeek, GPT-OSS, the odd ones of OPT and Phi: the walk, long generation, the cache."""

from __future__ import annotations

import pytest
import torch

from lql.inference.cache import KvCache
from lql.inference.feedforward import FeatureWalk
from lql.inference.sequence import Sequence as TokenSequence
from tests.parity.checkpoints import Row, Spelling
from tests.parity.laboratory import Form, Laboratory, decoder, largest, loaded, prompt_ids
from tests.parity.latent import LATENT
from tests.parity.rows import ROWS
from tests.parity.test_parity import LOGITS_WITHIN
from vindex.kinds import StorageDtype

pytestmark = pytest.mark.usefixtures("one_thread")

FORM = Form(Spelling.HUB, StorageDtype.F32)
ODD = (
    *(row for row in LATENT if row.dtype is torch.float32),
    *(row for row in ROWS if row.name in ("opt-350m", "phi-qk-norm")),
)
LONG = 64

odd = pytest.mark.parametrize("row", ODD, ids=str)


@odd
def test_the_walk_over_features_answers_the_same(row: Row, laboratory: Laboratory) -> None:
    ids = prompt_ids()
    with laboratory.source(row, FORM) as source, torch.inference_mode():
        model, walk = decoder(source), FeatureWalk(source)
        h = TokenSequence(model, len(ids)).read(ids, keep=len(ids), feed_forward=walk)
        found = model.logits(h).numpy()
    assert largest(found, laboratory.expected(row).logits) <= LOGITS_WITHIN


@odd
def test_long_generation_with_a_cache_is_that_without(row: Row, laboratory: Laboratory) -> None:
    with laboratory.source(row, FORM) as source:
        model = loaded(source)
        generation = model.generate("one two", max_tokens=LONG)
        cached = [token.token_id for token in generation]
        text = list(generation.encoded.ids)
        for token in cached:
            assert token == int(model.next_logits(tuple(text)).argmax())
            text.append(token)
    assert len(cached) == LONG


def test_latents_are_kept_not_what_heads_make_of_them(laboratory: Laboratory) -> None:
    row = next(row for row in LATENT if row.name == "deepseek-v3")
    with laboratory.source(row, FORM) as source:
        cache = KvCache(source.spec, capacity=100)
    # A latent of 24 and a rotated key of 8; the four heads' keys of 24 and values of 12 are 144.
    assert cache.resident_bytes == 4 * 100 * len(source.spec.layers) * (24 + 8)
