"""Edited features beside the loaded matrices: the same model as one loaded with them in place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lql.inference import load
from tests.unit.moe_models import QWEN2, extracted
from tests.unit.vindex_files import VINDEXES, extract_golden
from vindex.edited import EditedVindex
from vindex.edits import FeatureEdit, Slot, Vector
from vindex.kinds import ExtractLevel
from vindex.store import Vindex, open_vindex

IDS = tuple(range(5, 25))


def edits_at_random(vindex: Vindex, seed: int = 0) -> dict[Slot, FeatureEdit]:
    """Edits of every kind, in every layer."""
    rng = np.random.default_rng(seed)

    def vector() -> Vector:
        return Vector.of(rng.normal(0, 0.3, vindex.index.hidden_size))

    found: dict[Slot, FeatureEdit] = {}
    for layer in range(vindex.index.num_layers):
        count = vindex.num_features(layer)
        features = rng.choice(count, 6, replace=False).tolist()
        kinds = (
            FeatureEdit(off=True),
            FeatureEdit(gate=vector()),
            FeatureEdit(up=vector()),
            FeatureEdit(down=vector()),
            FeatureEdit(gate=vector(), up=vector(), down=vector()),
            FeatureEdit(off=True, down=vector()),
        )
        found |= {(layer, f): edit for f, edit in zip(features, kinds, strict=True)}
        found[layer, count - 1] = FeatureEdit(gate=vector(), up=vector(), down=vector())
    return found


def compared(path: Path, tolerance: float) -> None:
    with open_vindex(path) as base:
        edits = edits_at_random(base)
        source = EditedVindex(base, edits)
        model = load(base)
        before = model.logits(IDS)
        edited = model.edited(edits, source)
        found, wanted = edited.logits(IDS), load(source).logits(IDS)
        assert np.abs(wanted - before).max() > 50 * tolerance
        np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=0)
        assert np.array_equal(model.logits(IDS), before)
        assert edited.resident_bytes > model.resident_bytes
        both = edited.compare("The capital of France is")
        assert both.probability_difference < tolerance


@pytest.mark.parametrize("name", ["llama_h96.f32", "gemma3_h96.f16", "gemma4_h96.f16"])
def test_edits_beside_the_matrices_are_edits_of_them(name: str, tmp_path: Path) -> None:
    target = tmp_path / "v"
    extract_golden(name.partition(".")[0], target, level=ExtractLevel.INFERENCE)
    compared(target, 1e-3)


def test_edits_of_a_quantised_vindex_stand_over_its_blocks() -> None:
    """The rest of the layer stays quantised: loaded with the rows in place it would be decoded."""
    with open_vindex(VINDEXES / "llama_h96.q4k") as base:
        edits = {(1, 7): FeatureEdit(off=True)}
        model = load(base)
        edited = model.edited(edits, EditedVindex(base, edits))
        assert edited.compute == model.compute
        assert not np.array_equal(edited.logits(IDS), model.logits(IDS))


def test_features_of_experts_are_edited_in_their_expert(tmp_path: Path) -> None:
    path = extracted(tmp_path, QWEN2, level=ExtractLevel.INFERENCE)
    compared(path, 1e-3)
