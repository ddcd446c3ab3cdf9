"""Gemma 4's configurations: the released geometries, both spellings, what is refused, BOS."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from lql.inference import load
from lql.syntax_words import PromptMode
from tests.unit.vindex_files import VINDEXES, checkpoint
from vindex.checkpoint import CheckpointSource
from vindex.errors import CheckpointError, Unsupported
from vindex.families import family_of, normalise_key, spec_from_config, spec_from_index
from vindex.index import parse_index
from vindex.spec import AttentionKind, ModelSpec, RopeScaling, StorageFile
from vindex.store import open_vindex

DATA = Path(__file__).parents[1] / "data" / "gemma4"

FULL, SLIDING = AttentionKind.FULL.value, AttentionKind.SLIDING.value

# inference.md 2.1, as the multimodal releases spell it.
E2B = {
    "model_type": "gemma4",
    "text_config": {
        "model_type": "gemma4_text",
        "hidden_size": 1536,
        "intermediate_size": 6144,
        "num_hidden_layers": 35,
        "num_attention_heads": 8,
        "num_key_value_heads": 1,
        "layer_types": [FULL if (index + 1) % 5 == 0 else SLIDING for index in range(35)],
        "num_kv_shared_layers": 20,
        "use_double_wide_mlp": True,
        "final_logit_softcapping": 30.0,
    },
    "vision_config": {"hidden_size": 768},
}
E4B = {
    "model_type": "gemma4",
    "text_config": {
        "model_type": "gemma4_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 42,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "num_kv_shared_layers": 18,
    },
}
LARGE = {
    "model_type": "gemma4",
    "text_config": {
        "model_type": "gemma4_text",
        "hidden_size": 5376,
        "intermediate_size": 21504,
        "num_hidden_layers": 60,
        "num_attention_heads": 32,
        "num_key_value_heads": 16,
        "num_global_key_value_heads": 4,
        "attention_k_eq_v": True,
        "hidden_size_per_layer_input": None,
        "sliding_window": 1024,
        "use_bidirectional_attention": "vision",
    },
}
UNIFIED = {
    "model_type": "gemma4_unified",
    "text_config": {
        "model_type": "gemma4_unified_text",
        "hidden_size": 3840,
        "intermediate_size": 15360,
        "num_hidden_layers": 48,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "num_global_key_value_heads": 1,
        "attention_k_eq_v": True,
    },
}


def changed(base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**base, "text_config": {**base["text_config"], **changes}}


def shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    return {tensor.key: tensor.shape for tensor in spec.tensors}


def test_e2b() -> None:
    spec = spec_from_config(E2B)
    found = shapes(spec)
    assert found["layers.0.self_attn.q_proj.weight"] == (2048, 1536)
    assert found["layers.4.self_attn.q_proj.weight"] == (4096, 1536)
    assert found["layers.0.self_attn.k_proj.weight"] == (256, 1536)
    assert found["layers.4.self_attn.v_proj.weight"] == (512, 1536)
    assert found["layers.4.self_attn.o_proj.weight"] == (1536, 4096)
    assert found["layers.4.self_attn.k_norm.weight"] == (512,)
    assert found["layers.14.mlp.gate_proj.weight"] == (6144, 1536)
    assert found["layers.15.mlp.gate_proj.weight"] == (12288, 1536)
    assert found["embed_tokens_per_layer.weight"] == (262144, 8960)
    assert found["per_layer_model_projection.weight"] == (8960, 1536)
    assert found["layers.34.per_layer_input_gate.weight"] == (256, 1536)
    assert found["layers.34.per_layer_projection.weight"] == (1536, 256)
    assert found["layers.0.layer_scalar"] == (1,)
    assert found["per_layer_projection_norm.weight"] == (256,)
    sources = {layer.attention.kv_source for layer in spec.layers}
    assert sources == {None, 13, 14}
    assert all(layer.attention.kv_source is not None for layer in spec.layers[15:])
    for part in ("k_proj", "v_proj", "k_norm"):
        assert f"layers.15.self_attn.{part}.weight" not in found
    assert spec.layers[0].attention.window == 512
    assert spec.layers[0].attention.scale == 1.0
    assert spec.embed_scale == pytest.approx(39.19, abs=0.01)
    assert spec.model_type == "gemma4_text"


def test_e4b_by_the_defaults_of_the_class() -> None:
    spec = spec_from_config(E4B)
    assert {layer.attention.kv_source for layer in spec.layers} == {None, 22, 23}
    assert [layer.index for layer in spec.layers if layer.attention.window is None] == list(
        range(5, 42, 6)
    )
    found = shapes(spec)
    assert found["embed_tokens_per_layer.weight"] == (262144, 10752)
    assert found["layers.41.mlp.up_proj.weight"] == (10240, 2560)
    sidecar = [tensor for tensor in spec.tensors if tensor.file is StorageFile.PLE]
    size = sum(2 * tensor.shape[0] * tensor.shape[1] for tensor in sidecar)
    assert size == 5_802_295_296  # vindex-format.md section 11
    full = spec.layers[5].attention.rope
    assert full is not None
    assert full.scaling is RopeScaling.PROPORTIONAL
    assert (full.theta, full.rotary_size, full.turning_pairs) == (1e6, 512, 64)
    sliding = spec.layers[0].attention.rope
    assert sliding is not None
    assert (sliding.theta, sliding.rotary_size, sliding.scaling) == (1e4, 256, RopeScaling.NONE)


def test_the_large_model() -> None:
    spec = spec_from_config(LARGE)
    found = shapes(spec)
    assert found["layers.5.self_attn.q_proj.weight"] == (16384, 5376)
    assert found["layers.5.self_attn.k_proj.weight"] == (2048, 5376)
    assert "layers.5.self_attn.v_proj.weight" not in found
    assert found["layers.4.self_attn.v_proj.weight"] == (4096, 5376)
    assert spec.ple is None
    assert "layers.59.layer_scalar" in found
    assert spec.layers[0].attention.window == 1024


def test_the_unified_model_has_no_per_layer_embeddings_by_default() -> None:
    spec = spec_from_config(UNIFIED)
    assert spec.ple is None
    assert spec.max_positions == 262144
    assert spec.layers[0].attention.window == 1024
    assert spec.layers[5].attention.kv_heads == 1


def test_key_heads_of_full_layers_need_values_that_are_keys() -> None:
    spec = spec_from_config(changed(LARGE, attention_k_eq_v=False))
    assert spec.layers[5].attention.kv_heads == 16


def test_the_last_layer_is_full_whatever_the_list_says() -> None:
    listed = [SLIDING, FULL, *[SLIDING] * 58]
    spec = spec_from_config(changed(LARGE, layer_types=listed))
    assert spec.layers[-1].attention.kind is AttentionKind.FULL
    assert spec.layers[-2].attention.kind is AttentionKind.SLIDING


def test_the_table_by_layer_of_transformers_5_means_the_same() -> None:
    text = LARGE["text_config"]
    assert isinstance(text, dict)
    saved = {key: value for key, value in text.items() if key != "num_global_key_value_heads"}
    full = {"head_dim": 512, "num_key_value_heads": 4}
    saved["per_layer_config"] = {str(index): full for index in range(5, 60, 6)}
    assert spec_from_config({"model_type": "gemma4", "text_config": saved}) == spec_from_config(
        LARGE
    )


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"enable_moe_block": True}, CheckpointError, "num_experts is missing"),
        ({"use_bidirectional_attention": "all"}, Unsupported, "use_bidirectional_attention"),
        ({"attention_bias": True}, Unsupported, "attention_bias"),
        ({"rope_theta": 1e4}, Unsupported, "rope_theta"),
        ({"rope_parameters": {FULL: {"rope_type": "yarn"}, SLIDING: {}}}, Unsupported, "yarn"),
        ({"rope_parameters": {SLIDING: {}}}, CheckpointError, "rope_parameters has no full"),
        ({"rope_parameters": {"rope_theta": 5.0}}, CheckpointError, "rope_parameters has no"),
        ({"num_kv_shared_layers": 35}, CheckpointError, "num_kv_shared_layers"),
        ({"num_kv_shared_layers": 31}, CheckpointError, "leaves layer 4"),
        ({"vocab_size_per_layer_input": 100}, CheckpointError, "vocab_size_per_layer_input"),
        ({"global_head_dim": 511}, CheckpointError, "size 511"),
        ({"per_layer_config": {"x": {}}}, CheckpointError, "per_layer_config"),
        ({"per_layer_config": {"4": {"window": 4}}}, Unsupported, "window"),
        ({"per_layer_config": {"34": {"head_dim": 128}}}, CheckpointError, "other key heads"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(
    changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        spec_from_config(changed(E2B, **changes))


@pytest.mark.parametrize(
    "prefix",
    ["model.language_model.model.", "model.language_model.", "language_model.model.", "model."],
)
def test_prefixes(prefix: str) -> None:
    assert normalise_key("gemma4", f"{prefix}layers.0.layer_scalar") == "layers.0.layer_scalar"


def test_left_over_keys_are_dropped_by_name_in_sharing_layers_only() -> None:
    spec = spec_from_config(E2B)
    rules = {rule.name: rule for rule in family_of(spec).drop_rules(spec)}
    stale = rules["kv-shared-layer-stale-kv"].pattern
    name = "model.language_model.layers.{}.self_attn.{}.weight"
    for part in ("k_proj", "v_proj", "k_norm"):
        assert stale.search(name.format(15, part))
        assert stale.search(name.format(34, part))
        assert not stale.search(name.format(14, part))
        assert not stale.search(name.format(1, part))
    assert not stale.search(name.format(15, "q_proj"))
    assert "kv-shared-layer-stale-kv" not in {
        rule.name for rule in family_of("gemma4").drop_rules(spec_from_config(LARGE))
    }


@pytest.mark.parametrize(
    "name",
    [
        "model.vision_tower.encoder.layers.0.self_attn.k_proj.linear.weight",
        "model.audio_tower.layers.0.norm_out.weight",
        "model.embed_vision.embedding_projection.weight",
        "model.embed_audio.embedding_projection.weight",
        "model.vision_embedder.patch_dense.weight",
    ],
)
def test_image_and_audio_parts_are_dropped_by_name(name: str) -> None:
    spec = spec_from_config(E2B)
    (rule,) = [rule for rule in family_of(spec).drop_rules(spec) if rule.pattern.search(name)]
    assert rule.name == "gemma4-vision-and-audio"


def test_larqls_index_of_an_e2b_gives_the_specification_of_its_config() -> None:
    """Double width is not recorded; it shows in the widths of the layers."""
    config = json.loads((DATA / "e2b_config.json").read_text())
    expected = spec_from_config(config)
    path = DATA / "e2b_index.json"
    found, notes = spec_from_index(parse_index(path.read_bytes(), path), frozenset())
    assert found.layers[9].ffn.width == 2 * found.layers[0].ffn.width
    assert notes == ()
    positions = {"max_positions": expected.max_positions}  # larql does not record them
    assert dataclasses.replace(found, **positions) == expected


@pytest.mark.parametrize("key", ["rope_base", "rope_local_base"])
def test_an_index_with_a_rope_base_of_larqls_own_is_refused(key: str) -> None:
    document = json.loads((DATA / "e2b_index.json").read_text())
    document["model_config"][key] = 12345.0
    path = DATA / "e2b_index.json"
    index = parse_index(json.dumps(document).encode(), path)
    with pytest.raises(Unsupported, match="12345") as caught:
        spec_from_index(index, frozenset())
    assert "config.json" in (caught.value.hint or "")


def test_bos_is_prepended_once_although_the_tokenizer_adds_none() -> None:
    with open_vindex(VINDEXES / "gemma4_h96.f16") as vindex:
        assert vindex.encode("Hello", special=True)[:1] != [2]
        model = load(vindex)
    raw = model.encode("Hello")
    assert raw.ids[0] == 2
    assert raw.ids.count(2) == 1
    assert model.encode("<bos>Hello").ids == raw.ids
    chat = model.encode("Hello", PromptMode.CHAT)
    assert chat.text == "<bos><|turn>user\nHello<turn|>\n<|turn>model\n"
    assert chat.ids[0] == 2
    assert chat.ids.count(2) == 1


def test_the_checkpoint_gets_its_bos_as_well() -> None:
    with checkpoint("gemma4_h96") as source:
        assert load(CheckpointSource(source)).encode("Hello").ids[0] == 2
