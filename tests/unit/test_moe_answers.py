"""What mixtures of experts answer: products, the walk over features, explanations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lql.inference import ComputeDtype, load
from lql.inference.cache import KvCache
from lql.inference.decoder import Decoder, Tap
from lql.inference.explain import LastPosition
from lql.inference.mixture import Mixture
from lql.inference.weights import load_weights
from tests.unit.moe_models import ALL, MIXTRAL, extracted, released_arrays
from tests.unit.tiny_models import LLAMA_TINY, source
from vindex.kinds import StorageDtype
from vindex.spec import PartKind, Role, ffn_parts, part_roles
from vindex.store import open_vindex

Floats = npt.NDArray[np.float32]
models = pytest.mark.parametrize("config", ALL.values(), ids=ALL)


@pytest.mark.parametrize(
    ("config", "rounds"), [(MIXTRAL, False), (LLAMA_TINY, True)], ids=["mixtral", "llama"]
)
def test_long_prompts_are_rounded_only_without_experts(
    config: dict[str, Any], rounds: bool, tmp_path: Path
) -> None:
    with open_vindex(extracted(tmp_path, config, dtype=StorageDtype.F16)) as vindex:
        model = Decoder(vindex.spec, load_weights(vindex, ComputeDtype.AUTO, None))
        assert (model.coarse() is not None) is rounds


@models
def test_walk_and_explanation_agree_with_the_products(
    config: dict[str, Any], tmp_path: Path
) -> None:
    with source(tmp_path, config, released_arrays(config)) as opened:
        model = load(opened)
        both = model.compare("The capital of France")
        assert both.logit_difference < 1e-4
        explanation = model.explain("The capital of France", per_layer=5)
    for layer in explanation.layers:
        spec = opened.spec.layers[layer.layer]
        assert len(layer.hits) == 5
        assert all(0 <= hit.feature < spec.ffn.width for hit in layer.hits)


@models
def test_responses_times_down_vectors_are_the_output(
    config: dict[str, Any], tmp_path: Path
) -> None:
    with source(tmp_path, config, released_arrays(config)) as opened:
        model = Decoder(opened.spec, load_weights(opened, ComputeDtype.AUTO, None))
        kept = LastPosition()
        taps: dict[tuple[Tap, int], torch.Tensor] = {}

        def observe(tap: Tap, layer: int, values: torch.Tensor) -> None:
            taps[tap, layer] = values[-1:].clone()
            kept(tap, layer, values)

        with torch.inference_mode():
            model.forward([5, 6, 7], KvCache(opened.spec, 3), observe=observe)
            mixture = model.feed_forward_of(2)
            assert isinstance(mixture, Mixture)
            features, _, activations = mixture.responses(
                taps[Tap.FFN_INPUT, 2], taps[Tap.FFN_RESIDUAL, 2]
            )
        activation = np.zeros(opened.spec.layers[2].ffn.width, np.float32)
        activation[features.numpy()] = activations.numpy()
        shown = {hit.feature: hit.activation for hit in kept.top_features(model, 2, 10_000)}
        assert shown == dict(zip(features.tolist(), activations.tolist(), strict=True))
        sums = {kind: np.zeros(32, np.float32) for kind in PartKind}
        for part in ffn_parts(opened.spec.layers[2].ffn):
            down = opened.tensor(part_roles(part.kind)[2], 2, part.expert).float32()
            sums[part.kind] += down @ activation[part.first : part.first + part.ffn.width]
        output = sum(sums.values())
        if mixture.beside is not None:
            norm = opened.tensor(Role.FFN_POST_NORM, 2).float32()
            dense, experts = (
                rms(sums[kind], opened.tensor(role, 2).float32())
                for kind, role in (
                    (PartKind.DENSE, Role.DENSE_POST_NORM),
                    (PartKind.EXPERT, Role.EXPERTS_POST_NORM),
                )
            )
            output = rms(dense + experts, norm)
    np.testing.assert_allclose(output, taps[Tap.FFN, 2][0].numpy(), rtol=1e-4, atol=1e-5)


def rms(values: Floats, weight: Floats) -> Floats:
    """RMS norm with Gemma 4's epsilon."""
    return np.asarray(values / np.sqrt(np.mean(values**2) + 1e-6) * weight, np.float32)


def test_an_explanation_shows_features_of_the_experts_visited(tmp_path: Path) -> None:
    """Asked for all, a layer gives the features of the experts that the token visits."""
    config = {**MIXTRAL, "num_experts_per_tok": 1}
    with source(tmp_path, config, released_arrays(config)) as opened:
        explanation = load(opened).explain("The capital", per_layer=10_000)
    for layer in explanation.layers:
        features = sorted(hit.feature for hit in layer.hits)
        expert = features[0] // 24
        assert features == list(range(24 * expert, 24 * expert + 24))
