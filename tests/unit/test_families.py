"""Configurations in every spelling become the right specification, or a typed refusal."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    LlamaConfig,
)
from transformers.models.gemma3.configuration_gemma3 import Gemma3Config

from tests.unit.checkpoint_files import GEMMA3, LLAMA
from vindex import families
from vindex.errors import CheckpointError, Unsupported, VindexError
from vindex.families import normalise_key, spec_from_config, spec_from_index
from vindex.index import VindexIndex, parse_index
from vindex.kinds import ExtractLevel
from vindex.spec import (
    Activation,
    AttentionKind,
    ModelSpec,
    NormKind,
    Placement,
    Role,
    RopeScaling,
    RopeSpec,
)

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def changed(base: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(dict(base)), **changes}


def frequencies(rope: RopeSpec) -> torch.Tensor:
    """The rotary table that a specification stands for (inference.md 1.1.3), float64."""
    lanes = torch.arange(0, rope.rotary_size, 2, dtype=torch.float64)
    table = rope.theta ** (-lanes / rope.rotary_size)
    if rope.scaling is RopeScaling.LINEAR:
        return table / rope.factor
    if rope.scaling is RopeScaling.LLAMA3:
        turns = rope.original_max_positions * table / (2 * math.pi)
        band = rope.high_freq_factor - rope.low_freq_factor
        smooth = ((turns - rope.low_freq_factor) / band).clamp(0, 1)
        return (1 - smooth) * table / rope.factor + smooth * table
    assert rope.scaling in (RopeScaling.NONE, RopeScaling.DYNAMIC)
    return table


def assert_same_tensors(spec: ModelSpec, model: torch.nn.Module) -> None:
    """Names and shapes are exactly those of transformers' model."""
    expected = {
        normalise_key(spec, name): tuple(value.shape) for name, value in model.state_dict().items()
    }
    if spec.tied:
        expected.pop("lm_head.weight", None)
    found = {tensor.key: tensor.shape for tensor in spec.tensors if not tensor.optional}
    assert found == expected


LLAMA_VARIANTS = {
    "plain": {},
    "no head_dim": {"head_dim": None, "hidden_size": 64},
    "wide heads": {"head_dim": 24},
    "one kv head": {"num_key_value_heads": 1},
    "kv heads absent": {"num_key_value_heads": None},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "tied": {"tie_word_embeddings": True},
    "llama3 rope": {"rope_scaling": LLAMA3_ROPE},
    "linear rope": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "dynamic rope": {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
}


@pytest.mark.parametrize("variant", LLAMA_VARIANTS)
def test_llama_agrees_with_transformers(variant: str) -> None:
    hub = changed(LLAMA, **LLAMA_VARIANTS[variant])
    spec = spec_from_config(hub)
    config = LlamaConfig.from_dict(copy.deepcopy(hub))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert_same_tensors(spec, model)
    layer, attention = spec.layers[1], spec.layers[1].attention
    theirs = model.model.layers[1]
    assert attention.scale == theirs.self_attn.scaling
    assert attention.head_size == theirs.self_attn.head_dim
    assert attention.heads // attention.kv_heads == theirs.self_attn.num_key_value_groups
    assert layer.norm.eps == spec.final_norm.eps == theirs.input_layernorm.variance_epsilon
    assert (layer.norm.kind, layer.placement) == (NormKind.RMS, Placement.PRE)
    assert (spec.embed_scale, spec.logit_softcap) == (1.0, None)
    assert attention.rope is not None
    table = type(model.model.rotary_emb)(config).inv_freq.double()
    assert torch.allclose(frequencies(attention.rope), table, rtol=1e-6)
    # transformers 5's own spelling of the same configuration
    assert spec_from_config(json.loads(config.to_json_string(use_diff=False))) == spec


def test_reading_one_model_imports_one_family() -> None:
    code = (
        "import sys; from vindex.families import families, spec_from_config;"
        f"spec_from_config({LLAMA!r});"
        "loaded = set(sys.modules);"
        "print(*(each.name for each in families() if f'vindex.families.{each.name}' in loaded))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["llama"]


def test_llama_defaults() -> None:
    config = changed(LLAMA)
    for key in ("rope_theta", "rms_norm_eps", "tie_word_embeddings", "head_dim"):
        del config[key]
    spec = spec_from_config(config)
    rope = spec.layers[0].attention.rope
    assert rope == RopeSpec(theta=10000.0, rotary_size=8)
    assert spec.final_norm.eps == 1e-6
    assert not spec.tied


@pytest.mark.parametrize("spelling", ["hub", "transformers 5"])
def test_gemma3_agrees_with_transformers(spelling: str) -> None:
    hub = changed(
        GEMMA3,
        num_hidden_layers=6,
        rope_theta=1e6,
        rope_local_base_freq=1e4,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
        final_logit_softcapping=None,
    )
    config = Gemma3TextConfig.from_dict(copy.deepcopy(hub))
    written = json.loads(config.to_json_string(use_diff=False))
    spec = spec_from_config(hub if spelling == "hub" else written)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert_same_tensors(spec, model)
    assert spec.embed_scale == math.sqrt(32)
    assert spec.tied
    rotary = type(model.model.rotary_emb)(config)
    for layer, theirs in zip(spec.layers, model.model.layers, strict=True):
        attention = layer.attention
        assert attention.kind.value == theirs.self_attn.layer_type
        sliding = attention.kind is AttentionKind.SLIDING
        assert attention.window == (8 if sliding else None)
        assert attention.scale == theirs.self_attn.scaling == 24**-0.5
        assert attention.qk_norm == layer.norm == spec.final_norm
        assert (layer.norm.kind, layer.norm.eps) == (NormKind.RMS_OFFSET, 3e-3)
        assert layer.placement is Placement.SANDWICH
        assert layer.ffn.activation is Activation.GELU_TANH
        assert attention.rope is not None
        table = getattr(rotary, f"{attention.kind.value}_inv_freq").double()
        assert torch.allclose(frequencies(attention.rope), table, rtol=1e-6)
    kinds = [layer.attention.kind for layer in spec.layers]
    assert kinds == [AttentionKind.SLIDING, AttentionKind.SLIDING, AttentionKind.FULL] * 2


def test_gemma3_layer_types_win_over_the_pattern() -> None:
    types = ["full_attention", "sliding_attention", "full_attention"]
    spec = spec_from_config(changed(GEMMA3, layer_types=types))
    assert [layer.attention.kind.value for layer in spec.layers] == types


def test_gemma3_released_multimodal_config_relies_on_class_defaults() -> None:
    """The text_config of google/gemma-3-4b-it, as published."""
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    spec = spec_from_config(
        {"model_type": "gemma3", "text_config": text, "torch_dtype": "bfloat16"}
    )
    attention = spec.layers[5].attention
    assert (attention.heads, attention.kv_heads, attention.head_size) == (8, 4, 256)
    assert attention.rope == RopeSpec(1e6, 256, RopeScaling.LINEAR, factor=8.0)
    assert spec.layers[4].attention.rope == RopeSpec(1e4, 256)
    assert spec.layers[4].attention.window == 1024
    assert (spec.vocab_size, spec.max_positions, spec.num_layers) == (262208, 131072, 34)
    assert spec.model_type == "gemma3_text"


def test_gemma3_multimodal_names() -> None:
    """Both prefixes of a multimodal checkpoint; its vision tower is dropped by a named rule."""
    text = changed(GEMMA3)
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = Gemma3Config(
        text_config=Gemma3TextConfig.from_dict(text), vision_config=vision, mm_tokens_per_image=4
    )
    with torch.device("meta"):
        model = Gemma3ForConditionalGeneration(config)
    spec = spec_from_config(json.loads(config.to_json_string(use_diff=False)))
    rule = next(drop for drop in families.family_of(spec).drops if "vision" in drop.name)
    names = list(model.state_dict())
    text_names = {name for name in names if not rule.pattern.search(name)}
    assert len(text_names) < len(names)
    needed = {tensor.key for tensor in spec.tensors if not tensor.optional}
    assert {normalise_key(spec, name) for name in text_names} - {"lm_head.weight"} == needed
    released = {
        name.replace("model.language_model.", "language_model.model.") for name in text_names
    }
    assert {normalise_key("gemma3", name) for name in released} - {"lm_head.weight"} == needed
    assert rule.pattern.search("vision_tower.vision_model.embeddings.patch_embedding.weight")
    assert normalise_key("gemma3", "language_model.lm_head.weight") == "lm_head.weight"


def test_final_softcap_is_honoured() -> None:
    assert spec_from_config(changed(GEMMA3, final_logit_softcapping=30.0)).logit_softcap == 30.0


def test_every_needed_tensor_has_a_level_and_a_file() -> None:
    spec = spec_from_config(LLAMA)
    browse = {tensor.role for tensor in spec.needed(ExtractLevel.BROWSE)}
    assert browse == {Role.EMBED, Role.GATE}
    attention = {tensor.role for tensor in spec.needed(ExtractLevel.ATTENTION)} - browse
    norms = {Role.ATTN_NORM, Role.FFN_NORM, Role.FINAL_NORM}
    assert attention == {Role.Q, Role.K, Role.V, Role.O, *norms}
    assert {tensor.role for tensor in spec.needed(ExtractLevel.INFERENCE)} - browse - attention == {
        Role.UP,
        Role.DOWN,
        Role.HEAD,
    }


REFUSALS: list[tuple[dict[str, Any], type[VindexError], str]] = [
    ({"model_type": "mamba"}, Unsupported, "model_type is 'mamba'"),
    ({"model_type": None}, Unsupported, "model_type is null"),
    ({"model_type": ["llama"]}, CheckpointError, "model_type is ['llama']"),
    ({"hidden_size": 0}, CheckpointError, "hidden_size is 0, expected an integer from 1"),
    ({"hidden_size": -32}, CheckpointError, "hidden_size is -32"),
    ({"hidden_size": 32.0}, CheckpointError, "hidden_size is 32.0"),
    ({"hidden_size": True}, CheckpointError, "hidden_size is true"),
    ({"hidden_size": "32"}, CheckpointError, "hidden_size is '32'"),
    ({"hidden_size": None}, CheckpointError, "hidden_size is missing"),
    ({"hidden_size": 10**400}, CheckpointError, "hidden_size is an integer of more than 18"),
    ({"num_hidden_layers": 10**9}, CheckpointError, "num_hidden_layers is 1000000000"),
    ({"num_attention_heads": 0}, CheckpointError, "num_attention_heads is 0"),
    ({"num_key_value_heads": 3}, CheckpointError, "num_key_value_heads 3"),
    ({"head_dim": 15}, CheckpointError, "head_dim is 15"),
    ({"head_dim": None, "num_attention_heads": 6}, CheckpointError, "head_dim missing"),
    ({"vocab_size": 2**40}, CheckpointError, "vocab_size is 1099511627776"),
    ({"rms_norm_eps": math.nan}, CheckpointError, "rms_norm_eps is nan"),
    ({"rms_norm_eps": -1e-6}, CheckpointError, "rms_norm_eps is -1e-06"),
    ({"rope_theta": math.inf}, CheckpointError, "rope_theta is inf"),
    ({"rope_theta": 0}, CheckpointError, "rope_theta is 0"),
    ({"rope_theta": 10**400}, CheckpointError, "rope_theta is an integer of more than 18"),
    ({"rope_scaling": {"rope_type": "ntk", "factor": 4.0}}, Unsupported, "rope_type is 'ntk'"),
    ({"rope_scaling": {"rope_type": "longrope"}}, CheckpointError, "short_factor is null"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 0}}, CheckpointError, "factor is 0"),
    ({"rope_scaling": {"type": "su", "factor": 4.0}}, Unsupported, "type is 'su'"),
    ({"rope_scaling": {"type": "linear"}}, CheckpointError, "factor is missing"),
    (
        {"rope_scaling": {**LLAMA3_ROPE, "low_freq_factor": 4}},
        CheckpointError,
        "low_freq_factor is 4",
    ),
    ({"rope_scaling": "linear"}, CheckpointError, "rope_scaling is 'linear', expected an object"),
    ({"partial_rotary_factor": 0.5}, Unsupported, "partial_rotary_factor is 0.5"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, Unsupported, "partial_rotary_factor"),
    ({"hidden_act": "mish"}, Unsupported, "hidden_act is 'mish'"),
    ({"attention_bias": 1}, CheckpointError, "attention_bias is 1, expected true or false"),
    ({"quantization_config": {"quant_method": "awq"}}, Unsupported, "quantization_config"),
    ({"sliding_window": 4096}, Unsupported, "sliding_window is 4096"),
]


@pytest.mark.parametrize(("change", "error", "text"), REFUSALS, ids=lambda value: str(value)[:40])
def test_llama_refuses(change: dict[str, Any], error: type[VindexError], text: str) -> None:
    with pytest.raises(error) as caught:
        spec_from_config(changed(LLAMA, **change))
    assert type(caught.value) is error
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"layer_types": ["full_attention"]}, CheckpointError, "a list of 3 strings"),
        ({"layer_types": ["full_attention", "x", "y"]}, CheckpointError, "layer_types"),
        ({"sliding_window_pattern": 0}, CheckpointError, "sliding_window_pattern is 0"),
        ({"sliding_window": 0}, CheckpointError, "sliding_window is 0"),
        ({"query_pre_attn_scalar": 0}, CheckpointError, "query_pre_attn_scalar is 0"),
        ({"use_bidirectional_attention": True}, Unsupported, "use_bidirectional_attention"),
        ({"text_config": 5}, CheckpointError, "text_config is 5"),
        ({"final_logit_softcapping": -1}, CheckpointError, "final_logit_softcapping is -1"),
    ],
)
def test_gemma3_refuses(change: dict[str, Any], error: type[VindexError], text: str) -> None:
    with pytest.raises(error, match=text.replace("[", r"\[")):
        spec_from_config(changed(GEMMA3, **change))


def test_unknown_model_type_lists_the_supported_ones() -> None:
    with pytest.raises(Unsupported) as caught:
        spec_from_config({"model_type": "mamba"})
    assert caught.value.hint == f"supported: {', '.join(families.model_types())}"
    assert {"gemma3_text", "gemma4", "llama"} <= set(families.model_types())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = sorted({*LLAMA, *GEMMA3, "rope_scaling", "rope_parameters", "layer_types", "text_config"})


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([LLAMA, GEMMA3]), st.dictionaries(st.sampled_from(KEYS), JSON, max_size=3))
def test_any_config_gives_a_spec_or_a_typed_error(
    base: dict[str, Any], changes: dict[str, Any]
) -> None:
    outcome: ModelSpec | VindexError
    try:
        outcome = spec_from_config({**base, **changes})
    except VindexError as error:
        outcome = error
    if isinstance(outcome, VindexError):
        assert str(outcome).isprintable()
        assert len(str(outcome)) < 400


def larql_index(**changes: Any) -> VindexIndex:
    """An index as larql writes it for a llama."""
    model_config = {
        "model_type": "llama",
        "head_dim": 16,
        "num_q_heads": 4,
        "num_kv_heads": 2,
        "rope_base": 20000.0,
        "sliding_window": None,
        "moe": None,
        "attention_k_eq_v": False,
        "norm_eps": 0.003,
        **changes.pop("model_config", {}),
    }
    index = {
        "version": 2,
        "model": "m",
        "family": "llama",
        "num_layers": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "vocab_size": 64,
        "embed_scale": 1.0,
        "extract_level": "inference",
        "dtype": "f16",
        "layers": [],
        "down_top_k": 10,
        "has_model_weights": True,
        "model_config": model_config,
        **changes,
    }
    return parse_index(json.dumps(index).encode(), Path("index.json"))


def test_llama_from_a_larql_index() -> None:
    spec, notes = spec_from_index(larql_index(), {"lm_head.weight"})
    expected = spec_from_config(changed(LLAMA, max_position_embeddings=2048))
    assert spec == expected
    assert notes == ("index.json does not record rope scaling; none is assumed",)


def test_a_larql_index_without_a_head_is_taken_as_tied_with_a_note() -> None:
    spec, notes = spec_from_index(larql_index(), set())
    assert spec.tied
    assert "there is no lm_head; tied embeddings are assumed" in notes


def test_a_browse_level_index_needs_no_notes() -> None:
    index = larql_index(extract_level="browse", model_config={"rope_base": 500000.0})
    assert spec_from_index(index, set())[1] == ()


def test_biases_that_we_added_are_found_by_their_keys() -> None:
    keys = {"lm_head.weight", "layers.0.self_attn.q_proj.bias", "layers.0.mlp.gate_proj.bias"}
    spec, _ = spec_from_index(larql_index(), keys)
    assert spec == spec_from_config(
        changed(LLAMA, max_position_embeddings=2048, attention_bias=True, mlp_bias=True)
    )


def test_larqls_own_default_rope_base_is_noted() -> None:
    _, notes = spec_from_index(larql_index(model_config={"rope_base": 10000.0}), {"lm_head.weight"})
    assert any("rope base of 10000" in note for note in notes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model_config": {"rope_base": 500000.0}}, "rope base of 500000 is Llama 3's"),
        ({"model_config": {"model_type": "qwen2"}}, "q, k and v biases are not in the vindex"),
        ({"model_config": {"model_type": "mixtral"}}, "the experts are not recorded"),
        ({"model_config": {"model_type": "rwkv"}}, "model_type is 'rwkv', which is not supported"),
        ({"model_config": {"residual_multiplier": 0.5}}, "residual_multiplier is 0.5"),
        ({"model_config": {"moe": {"num_experts": 4, "top_k": 2}}}, "moe is"),
        ({"embed_scale": 12.0}, "embed_scale is 12, expected 1"),
    ],
)
def test_lossy_indexes_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(Unsupported) as caught:
        spec_from_index(larql_index(**changes), {"lm_head.weight"})
    assert text in str(caught.value)
    assert caught.value.hint or "multiplier" in text or "moe" in text


def gemma3_index(**changes: Any) -> VindexIndex:
    model_config = {
        "model_type": "gemma3_text",
        "rope_base": 1e6,
        "rope_local_base": 1e4,
        "query_pre_attn_scalar": 24.0,
        "sliding_window": 8,
        "sliding_window_pattern": 3,
        **changes.pop("model_config", {}),
    }
    return larql_index(
        **{
            "family": "gemma3",
            "num_layers": 3,
            "embed_scale": 5.656854,
            "model_config": model_config,
            **changes,
        }
    )


def test_gemma3_from_a_larql_index() -> None:
    spec, notes = spec_from_index(gemma3_index(), set())
    assert spec == spec_from_config(changed(GEMMA3, max_position_embeddings=131072))
    assert notes == ("index.json does not record rope scaling; none is assumed",)


def test_gemma3_releases_with_stretched_positions_are_known_by_their_depth() -> None:
    spec, notes = spec_from_index(gemma3_index(num_layers=34), set())
    full = spec.layers[2].attention.rope
    assert full == RopeSpec(1e6, 16, RopeScaling.LINEAR, factor=8.0)
    assert spec.layers[0].attention.rope == RopeSpec(1e4, 16)
    assert "the factor 8" in notes[0]


def test_gemma3_with_larqls_fallback_rope_base_is_refused() -> None:
    with pytest.raises(Unsupported, match="rope_base is 10000, expected 1e\\+06"):
        spec_from_index(gemma3_index(model_config={"rope_base": 10000.0}), set())


def test_a_new_module_is_all_that_a_new_family_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "twin.py").write_text(
        "from dataclasses import replace\n"
        "from vindex.families.llama import FAMILY as LLAMA\n"
        "FAMILY = replace(LLAMA, name='twin', model_types=('twin',), gguf=None)\n"
    )
    before = families.model_types()
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    families._names.cache_clear()
    try:
        assert families.model_types() == tuple(sorted((*before, "twin")))
        assert spec_from_config(changed(LLAMA, model_type="twin")).num_layers == 2
        assert normalise_key("twin", "model.norm.weight") == "norm.weight"
    finally:
        families._names.cache_clear()
        sys.modules.pop("vindex.families.twin", None)
