"""Causal tracing: indirect effects of windows of layers, and what the report says of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lql.inference.cache import KvCache
from lql.inference.causal import NOISE, SEED, Asked, indirect_effects
from lql.inference.decoder import Decoder, Tap
from lql.session import Session, connect
from tests.unit.statements import one
from tests.unit.tiny_models import GEMMA3_TINY, LLAMA_TINY, decoder, source
from vindex.effects import effects_path
from vindex.verify import verify

PROMPTS = [Asked((1, 7, 30 + shift, 31, 32, 9, 50), 2, 4) for shift in range(8)]
INSERT = (
    'INSERT INTO EDGES (entity, relation, target) VALUES ("Hungary", "capital", "Oslo") '
    "AT LAYERS 1-2 MODE MEMIT CHECK FULL;"
)


def _one_by_one(model: Decoder, prompt: Asked, width: int) -> tuple[Tensor, float]:
    """The definition, a pass for each window."""

    def chances(noise: Tensor | None, window: int | None, said: list[Tensor]) -> Tensor:
        def intervene(tap: Tap, layer: int, values: Tensor) -> Tensor:
            if tap is Tap.INPUT and layer == 0 and noise is not None:
                values = values.clone()
                values[prompt.first : prompt.last + 1] += noise * float(spread[0])
            if tap is Tap.FFN and window is not None and window <= layer < window + width:
                values = values.clone()
                values[prompt.last] = said[layer]
            return values

        def see(tap: Tap, layer: int, values: Tensor) -> None:
            if tap is Tap.INPUT and layer == 0 and noise is None:
                spread.append(values.std())
            if tap is Tap.FFN and noise is None:
                said.append(values[prompt.last].clone())

        cache = KvCache(model.spec, len(prompt.ids), model.device, keep_all=True)
        h = model.forward(prompt.ids, cache, intervene=intervene, observe=see)
        return model.logits(h[-1:]).softmax(-1)[0]

    spread: list[Tensor] = []
    said: list[Tensor] = []
    clean = chances(None, None, said)
    answer = int(clean.argmax())
    random = torch.Generator().manual_seed(SEED)
    noise = torch.randn(3, model.spec.hidden_size, generator=random) * NOISE
    worst = chances(noise, None, said)[answer]
    windows = range(model.spec.num_layers - width + 1)
    back = [chances(noise, window, said)[answer] - worst for window in windows]
    taken = clean[answer] - worst
    return torch.stack(back) / taken, float(taken)


@pytest.mark.parametrize("config", [LLAMA_TINY, GEMMA3_TINY], ids=["llama", "gemma3"])
@pytest.mark.parametrize("width", [1, 2])
def test_all_windows_at_once_are_each_alone(
    tmp_path: Path, config: dict[str, object], width: int
) -> None:
    with source(tmp_path, config) as opened:
        model = decoder(opened)
        compared = 0
        for prompt in PROMPTS:
            found = indirect_effects(model, [prompt], width, rounds=1, least=1e-4)
            with torch.inference_mode():
                wanted, taken = _one_by_one(model, prompt, width)
            assert bool(found.any()) == (taken > 1e-4)
            if taken > 1e-4:
                compared += 1
                assert torch.allclose(torch.from_numpy(found), wanted, rtol=1e-3, atol=1e-3)
    assert compared >= 2


def test_where_a_relation_is_looked_up_is_told_and_kept(
    vindex: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = tmp_path / "held.vindex"
    held.mkdir()
    for file in vindex.iterdir():
        os.link(file, held / file.name)
    with connect(held) as session:
        first = _told(session)
        assert verify(held).ok
        assert effects_path(held, "capital").exists()
        monkeypatch.setattr("lql.inference.causal.indirect_effects", None)  # nothing is traced
        assert _told(session) == first


def _told(session: Session) -> list[str]:
    notes = one(session, INSERT).meta.notes
    one(session, "UNDO;")
    (found,) = [note for note in notes if "causal tracing of capital" in note]
    return [found]
