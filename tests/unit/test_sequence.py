"""Reading tokens: in any chunks, exactly where it is asked for, within the model's limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lql.cancel import Cancelled, CancelToken
from lql.inference import sequence
from lql.inference.decoder import Decoder, Tap
from lql.inference.errors import EmptyPrompt, PromptTooLong, TokenOutOfRange
from lql.inference.sequence import Sequence, position_limit
from tests.unit.tiny_models import (
    DYNAMIC_TINY,
    GEMMA3_TINY,
    LLAMA_TINY,
    VOCABULARY,
    decoder,
    source,
    tame_arrays,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Products this small are fastest with one thread, and on a busy machine by far."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


IDS = np.random.default_rng(3).integers(0, VOCABULARY, 60).tolist()


@pytest.fixture(params=[LLAMA_TINY, GEMMA3_TINY, DYNAMIC_TINY], ids=["llama", "gemma3", "dynamic"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Decoder]:
    with source(tmp_path, request.param) as opened, torch.inference_mode():
        yield decoder(opened)


@pytest.fixture
def llama(tmp_path: Path) -> Iterator[Decoder]:
    with source(tmp_path, LLAMA_TINY) as opened, torch.inference_mode():
        yield decoder(opened)


@pytest.mark.parametrize("chunk", [1, 4, 23])
def test_chunks_make_no_difference(model: Decoder, chunk: int) -> None:
    whole = Sequence(model, 60).read(IDS, keep=1)
    growing = Sequence(model, 60)
    for start in range(0, 60, chunk):
        last = growing.read(IDS[start : start + chunk])
    torch.testing.assert_close(last, whole, atol=2e-5, rtol=0)


def test_every_position_can_be_kept(model: Decoder) -> None:
    every = Sequence(model, 20).read(IDS[:20], keep=20)
    for count in (1, 7, 20):
        last = Sequence(model, count).read(IDS[:count])
        torch.testing.assert_close(last[0], every[count - 1], atol=2e-5, rtol=0)


def test_room_that_is_not_used_makes_no_difference(model: Decoder) -> None:
    tight, roomy = Sequence(model, 30), Sequence(model, 100)
    assert torch.equal(tight.read(IDS[:30]), roomy.read(IDS[:30]))


def test_no_tokens_are_refused(llama: Decoder) -> None:
    with pytest.raises(EmptyPrompt, match="no tokens"):
        Sequence(llama, 5).read([])


@pytest.mark.parametrize("token", [-1, VOCABULARY, 10**12])
def test_ids_outside_the_vocabulary_are_refused(llama: Decoder, token: int) -> None:
    growing = Sequence(llama, 5)
    with pytest.raises(TokenOutOfRange, match=str(token)):
        growing.read([1, token])
    assert torch.equal(growing.read([1, 2]), Sequence(llama, 5).read([1, 2]))


def test_more_tokens_than_positions_are_refused(llama: Decoder) -> None:
    with pytest.raises(PromptTooLong) as caught:
        Sequence(llama, 257)
    assert (caught.value.tokens, caught.value.limit) == (257, 256)
    full = Sequence(llama, 3)
    full.read([1, 2])
    with pytest.raises(PromptTooLong):
        full.read([3, 4])


def test_dynamic_rope_stretches_the_positions(tmp_path: Path) -> None:
    with source(tmp_path, DYNAMIC_TINY) as opened:
        assert position_limit(opened.spec) == 128


def test_cancellation_stops_between_layers(llama: Decoder) -> None:
    token = CancelToken()
    seen: list[int] = []

    def observe(tap: Tap, layer: int, values: torch.Tensor) -> None:
        seen.append(layer)
        token.cancel()

    with pytest.raises(Cancelled, match="layer 1/2"):
        Sequence(llama, 5).read([1, 2], observe=observe, cancel=token)
    assert set(seen) == {0}


# --------------------------------------------------------------------------- going back


@pytest.mark.parametrize("shared", [0, 1, 5, 31, 33, 40, 59, 60])
@pytest.mark.parametrize("chunk", [1, 60])
def test_going_back_equals_reading_anew(model: Decoder, shared: int, chunk: int) -> None:
    """Sliding windows of 8 and dynamic rope's switch at 32 positions lie in between."""
    other = [(token + 1) % VOCABULARY for token in IDS]
    growing = Sequence(model, 80)
    for start in range(0, 60, chunk):
        growing.read(IDS[start : start + chunk])
    wanted = [*IDS[:shared], *other[shared:], 7]
    growing.go_back_to(wanted)
    known = len(growing.ids)
    assert list(growing.ids) == wanted[:known]
    assert known in (0, shared)
    found = growing.read(wanted[known:])
    torch.testing.assert_close(found, Sequence(model, 80).read(wanted), atol=2e-5, rtol=0)


@pytest.mark.parametrize("shared", [5, 25])
def test_going_back_to_a_shorter_text(model: Decoder, shared: int) -> None:
    """Shorter than dynamic rope's 32 positions: keys were turned for the longer one."""
    growing = Sequence(model, 80)
    growing.read(IDS)
    wanted = [*IDS[:shared], (IDS[shared] + 1) % VOCABULARY, 7]
    growing.go_back_to(wanted)
    found = growing.read(wanted[len(growing.ids) :])
    torch.testing.assert_close(found, Sequence(model, 80).read(wanted), atol=2e-5, rtol=0)


def test_full_attention_forgets_only_what_differs(llama: Decoder) -> None:
    growing = Sequence(llama, 60)
    growing.read(IDS)
    growing.go_back_to([*IDS[:41], 0 if IDS[41] else 1])
    assert list(growing.ids) == IDS[:41]


def test_room_can_grow(model: Decoder) -> None:
    growing = Sequence(model, 5)
    growing.read(IDS[:5])
    for stop in (6, 20, 60):
        growing.reserve(stop)
        found = growing.read(IDS[len(growing.ids) : stop])
        torch.testing.assert_close(found, Sequence(model, 60).read(IDS[:stop]), atol=2e-5, rtol=0)
    with pytest.raises(PromptTooLong):
        growing.reserve(257)


@pytest.mark.parametrize("count", [1, 20])
def test_a_sequence_survives_cancellation(model: Decoder, count: int) -> None:
    growing = Sequence(model, 60)
    growing.read(IDS[:30])
    cancel = CancelToken()

    def observe(tap: Tap, layer: int, values: torch.Tensor) -> None:
        if layer == 0:
            cancel.cancel()

    with pytest.raises(Cancelled):
        growing.read(IDS[30 : 30 + count], observe=observe, cancel=cancel)
    known = len(growing.ids)
    assert list(growing.ids) == IDS[:known]
    found = growing.read(IDS[known:])
    torch.testing.assert_close(found, Sequence(model, 60).read(IDS), atol=2e-5, rtol=0)


# --------------------------------------------------------------------------- long prompts

LONG: dict[str, Any] = {**LLAMA_TINY, "max_position_embeddings": 2048}
LONG_IDS = np.random.default_rng(4).integers(0, VOCABULARY, 700).tolist()


@pytest.fixture
def half(tmp_path: Path) -> Iterator[Decoder]:
    """A model of 16-bit weights, whose long prompts are read in two parts."""
    with source(tmp_path, LONG, tame_arrays(LONG, np.float16)) as opened, torch.inference_mode():
        yield decoder(opened)


def lengths(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Records the tokens of every forward pass, and whether it is coarse."""
    seen: list[tuple[int, bool]] = []
    forward = model.forward

    def recording(ids: list[int], *args: Any, **options: Any) -> torch.Tensor:
        seen.append((len(ids), options.get("coarse") is not None))
        return forward(ids, *args, **options)

    monkeypatch.setattr(model, "forward", recording)
    return seen


def test_a_long_prompt_is_coarse_but_for_its_end(
    half: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = lengths(half, monkeypatch)
    rounded = half.logits(Sequence(half, 700).read(LONG_IDS)).softmax(-1)
    assert seen == [(512, True), (700 - 512 - 32, True), (32, False)]
    monkeypatch.setattr(sequence, "COARSE_FROM", 10_000)
    exact = half.logits(Sequence(half, 700).read(LONG_IDS)).softmax(-1)
    assert seen[3:] == [(700, False)]
    difference = float((rounded - exact).abs().max())
    assert 0 < difference < 1e-3


def test_short_prompts_and_kept_positions_are_exact(
    half: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = lengths(half, monkeypatch)
    Sequence(half, 700).read(LONG_IDS[: sequence.COARSE_FROM + 31])
    Sequence(half, 700).read(LONG_IDS, keep=600)
    assert [coarse for _, coarse in seen] == [False, False]


def test_float32_weights_are_never_coarse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with source(tmp_path, LONG) as opened, torch.inference_mode():
        model = decoder(opened)
        seen = lengths(model, monkeypatch)
        Sequence(model, 700).read(LONG_IDS)
    assert seen == [(700, False)]
