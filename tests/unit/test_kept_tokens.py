"""From the last keys of its own on, a model runs only the tokens whose outputs are wanted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lql.inference.decoder import Decoder, Tap
from lql.inference.sequence import Sequence
from tests.unit.tiny_models import GEMMA3_TINY, LLAMA_TINY, VOCABULARY, decoder, source

IDS = np.random.default_rng(8).integers(0, VOCABULARY, 60).tolist()


@pytest.fixture(params=[LLAMA_TINY, GEMMA3_TINY], ids=["llama", "gemma3"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Decoder]:
    with source(tmp_path, request.param) as opened, torch.inference_mode():
        yield decoder(opened)


def work(model: Decoder, sequence: Sequence, ids: list[int], keep: int) -> tuple[Any, list[int]]:
    """The outputs, and for how many tokens each layer's FFN was run."""
    tokens: list[int] = []

    def observe(tap: Tap, layer: int, values: torch.Tensor) -> None:
        if tap is Tap.FFN_INPUT:
            tokens.append(len(values))

    return sequence.read(ids, keep=keep, observe=observe), tokens


@pytest.mark.parametrize("keep", [1, 2, 7, 59])
def test_the_last_layer_runs_the_kept_tokens_only(model: Decoder, keep: int) -> None:
    layers = model.spec.num_layers
    every, all_tokens = work(model, Sequence(model, 60), IDS, 60)
    kept, tokens = work(model, Sequence(model, 60), IDS, keep)
    assert all_tokens == [60] * layers
    assert tokens == [60] * (layers - 1) + [keep]
    torch.testing.assert_close(kept, every[-keep:], atol=1e-5, rtol=0)
