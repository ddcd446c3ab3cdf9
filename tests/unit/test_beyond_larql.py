"""Vindexes of models that larql has no words for: what it is told, and that browsing is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.checkpoint_files import Arrays, write_directory
from tests.unit.tiny_models import LLAMA_TINY, VOCABULARY, byte_tokenizer
from vindex.checkpoint import open_checkpoint
from vindex.checkpoint.cutting import source_key
from vindex.extract import extract
from vindex.families import family_of, spec_from_config
from vindex.features import prompt_query
from vindex.kinds import ExtractLevel, StorageDtype
from vindex.spec import Role
from vindex.store import open_vindex
from vindex.verify import verify

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
DEEPSEEK: dict[str, Any] = {
    **_COMMON,
    "model_type": "deepseek_v2",
    "first_k_dense_replace": 2,
    "n_routed_experts": 4,
    "kv_lora_rank": 12,
    "q_lora_rank": None,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
}
OPT_350M: dict[str, Any] = {
    **_COMMON,
    "model_type": "opt",
    "ffn_dim": 24,
    "do_layer_norm_before": False,
    "word_embed_proj_dim": 16,
    "max_position_embeddings": 64,
}
PHI: dict[str, Any] = {**_COMMON, "model_type": "phi", "qk_layernorm": True}


def random_arrays(config: dict[str, Any]) -> Arrays:
    """Every tensor that a checkpoint of the model has."""
    spec = spec_from_config(config)
    prefix = family_of(spec).prefixes[0]
    random = np.random.default_rng(5)
    arrays: Arrays = {}
    for tensor in spec.tensors:
        key = source_key(tensor)
        name = key if key.startswith("lm_head.") else prefix + key
        if not tensor.optional and name not in arrays:
            shape = tensor.shape if tensor.cut is None else tensor.cut.shape
            arrays[name] = random.standard_normal(shape, dtype=np.float32)
    return arrays


def extracted(config: dict[str, Any], directory: Path) -> Path:
    source = write_directory(directory / "model", config, random_arrays(config))
    byte_tokenizer().save(str(source / "tokenizer.json"))
    with open_checkpoint(source) as checkpoint:
        extract(checkpoint, directory / "v", dtype=StorageDtype.F32)
    return directory / "v"


@pytest.mark.parametrize(
    ("config", "terms"),
    [
        (LLAMA_TINY, None),
        (DEEPSEEK, ["latent attention"]),
        (PHI, ["LayerNorms of q and k"]),
        (OPT_350M, ["norms of sums", "projected embeddings"]),
    ],
    ids=lambda value: value.get("model_type") if isinstance(value, dict) else "",
)
def test_larql_is_told_that_it_cannot_run_the_model(
    config: dict[str, Any], terms: list[str] | None, tmp_path: Path
) -> None:
    path = extracted(config, tmp_path)
    index = json.loads((path / "index.json").read_text())
    assert index["has_model_weights"] is (terms is None)
    assert index["lql"].get("beyond_larql") == terms
    assert index["model_config"]["model_type"] == index["family"] == config["model_type"]
    assert verify(path).ok
    with open_vindex(path) as vindex:
        vindex.require(ExtractLevel.INFERENCE, "INFER")


def test_projected_embeddings_are_projected_for_queries_and_for_feature_tokens(
    tmp_path: Path,
) -> None:
    with open_vindex(extracted(OPT_350M, tmp_path)) as vindex:
        embed = vindex.embeddings.float32()
        assert embed.shape == (VOCABULARY, 16)
        found = prompt_query(vindex, "hello")
        assert found is not None
        query, token = found
        into = vindex.tensor(Role.EMBED_PROJECTION).float32()
        assert np.allclose(query, into @ embed[token], atol=1e-5)
        back = vindex.tensor(Role.HEAD_PROJECTION).float32()
        scores = embed @ back @ vindex.tensor(Role.DOWN, 1).float32()  # [V, F]
        records = vindex.down_meta.records(1)
        assert np.allclose(np.sort(scores, 0)[-1], records["top"]["score"][:, 0], rtol=1e-5)
        assert np.array_equal(scores.argmax(0), records["top"]["token"][:, 0])
