"""What is special about each dense family's configuration, and how fused tensors come apart."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.checkpoint_files import Arrays, write_directory
from tests.unit.vindex_files import VINDEXES, copy_golden
from vindex.checkpoint import CheckpointSource, Ledger, balance, open_checkpoint
from vindex.errors import CheckpointError, LedgerRefusal, Unsupported, VindexIncomplete
from vindex.families import family_of, spec_from_config, spec_from_index
from vindex.index import VindexIndex, parse_index
from vindex.kinds import ExtractLevel
from vindex.spec import (
    Activation,
    LearnedPositions,
    ModelSpec,
    Placement,
    Role,
    RopeScaling,
    TensorSpec,
)
from vindex.store import open_vindex

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}


def spec(model_type: str, **changes: Any) -> ModelSpec:
    return spec_from_config({"model_type": model_type, **SIZES, **changes})


def windows(model: ModelSpec) -> list[int | None]:
    return [layer.attention.window for layer in model.layers]


@pytest.mark.parametrize(
    ("model_type", "changes", "expected"),
    [
        ("mistral", {}, [4096] * 4),
        ("mistral", {"sliding_window": None}, [None] * 4),
        ("mistral", {"sliding_window": 8}, [8] * 4),
        ("qwen2", {"sliding_window": 8}, [None] * 4),
        ("qwen2", {"sliding_window": 8, "use_sliding_window": True}, [None] * 4),
        (
            "qwen2",
            {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 3},
            [None, None, None, 8],
        ),
        (
            "qwen3",
            {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": None},
            [None] * 4,
        ),
        (
            "qwen3",
            {
                "sliding_window": 8,
                "use_sliding_window": True,
                "layer_types": ["sliding_attention"] + ["full_attention"] * 3,
            },
            [8, None, None, None],
        ),
        ("qwen3", {"layer_types": ["sliding_attention"] * 4}, [None] * 4),
        ("gemma2", {"sliding_window": 8}, [8, None, 8, None]),
        ("gemma2", {}, [4096, None, 4096, None]),
        ("phi3", {}, [None] * 4),
        ("phi3", {"sliding_window": 8}, [8] * 4),
        ("starcoder2", {"num_key_value_heads": 4}, [None] * 4),
        ("starcoder2", {"num_key_value_heads": 4, "sliding_window": 8}, [8] * 4),
    ],
)
def test_windows(model_type: str, changes: dict[str, Any], expected: list[int | None]) -> None:
    assert windows(spec(model_type, **{"num_key_value_heads": 4, **changes})) == expected


def test_gemma_1_releases_say_gelu_and_mean_its_tanh_form() -> None:
    for act in ("gelu", "gelu_pytorch_tanh"):
        model = spec("gemma", hidden_act=act, head_dim=8)
        assert model.layers[0].ffn.activation is Activation.GELU_TANH
    assert model.embed_scale == math.sqrt(32)
    with pytest.raises(Unsupported, match="hidden_act is 'relu'"):
        spec("gemma", hidden_act="relu", head_dim=8)


def test_gemma_2_caps_are_defaults_unless_null() -> None:
    model = spec("gemma2")
    assert (model.layers[0].attention.softcap, model.logit_softcap) == (50.0, 30.0)
    model = spec("gemma2", attn_logit_softcapping=None, final_logit_softcapping=None)
    assert (model.layers[0].attention.softcap, model.logit_softcap) == (None, None)


FACTORS = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


@pytest.mark.parametrize("name", ["su", "yarn", "longrope"])
def test_phi_3_names_longrope_in_three_ways(name: str) -> None:
    model = spec(
        "phi3",
        rope_scaling={"type": name, **FACTORS},
        original_max_position_embeddings=64,
    )
    rope = model.layers[0].attention.rope
    assert rope is not None
    assert (rope.scaling, rope.original_max_positions) == (RopeScaling.LONGROPE, 64)
    assert rope.attention_factor == pytest.approx(math.sqrt(1 + math.log(4) / math.log(64)))


def test_longrope_factors_must_be_one_for_each_pair() -> None:
    with pytest.raises(CheckpointError, match="expected a list of 3 numbers"):
        spec(
            "phi3",
            rope_scaling={"type": "su", **FACTORS},
            partial_rotary_factor=0.75,
        )


def test_yarn_without_a_factor_stretches_to_the_context_length() -> None:
    scaling = {"rope_type": "yarn", "original_max_position_embeddings": 64}
    rope = spec("qwen2", rope_scaling=scaling).layers[0].attention.rope
    assert rope is not None
    assert rope.factor == 4.0
    assert rope.attention_factor == pytest.approx(0.1 * math.log(4) + 1)


def test_gpt_2_has_its_own_names_of_sizes() -> None:
    model = spec_from_config(
        {"model_type": "gpt2", "vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
    )
    assert (model.num_layers, model.hidden_size, model.intermediate_size) == (2, 32, 128)
    assert model.positions == LearnedPositions(1024)
    assert model.layers[0].attention.rope is None
    assert spec("gpt2", n_inner=40, intermediate_size=None).intermediate_size == 40
    with pytest.raises(Unsupported, match="scale_attn_by_inverse_layer_idx"):
        spec("gpt2", scale_attn_by_inverse_layer_idx=True)


def test_opt_positions_begin_at_row_two() -> None:
    model = spec("opt", ffn_dim=40)
    assert model.positions == LearnedPositions(258, 2)
    assert (model.intermediate_size, model.final_norm.eps) == (40, 1e-5)


def test_opt_350m_norms_sums_and_projects_embeddings() -> None:
    model = spec("opt", ffn_dim=40, do_layer_norm_before=False, word_embed_proj_dim=16)
    assert (model.embedding_size, model.final_norm) == (16, None)
    assert model.layers[0].placement is Placement.SUM
    shapes = {tensor.key: tensor.shape for tensor in model.tensors}
    assert shapes["embed_tokens.weight"] == (model.vocab_size, 16)
    assert shapes["project_in.weight"] == (model.hidden_size, 16)
    assert shapes["project_out.weight"] == (16, model.hidden_size)
    assert "final_layer_norm.weight" not in shapes


def test_gpt_neox_may_be_sequential() -> None:
    assert spec("gpt_neox").layers[0].placement is Placement.PARALLEL
    sequential = spec("gpt_neox", use_parallel_residual=False)
    assert sequential.layers[0].placement is Placement.PRE


def test_phi_may_norm_q_and_k_with_offsets() -> None:
    model = spec("phi", qk_layernorm=True)
    keys = {tensor.key for tensor in model.tensors if tensor.layer == 0}
    assert {f"layers.0.self_attn.{each}_layernorm.bias" for each in "qk"} <= keys


QWEN2_GOLDEN: dict[str, Any] = {
    "model_type": "qwen2",
    "vocab_size": 384,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 0.003,
    "rope_theta": 1000000.0,
    "sliding_window": 8,
    "use_sliding_window": True,
    "max_window_layers": 2,
    "tie_word_embeddings": True,
}


def test_larqls_qwen2_lacks_its_biases_with_and_without_its_config(tmp_path: Path) -> None:
    path = copy_golden("qwen2_h96.f16", tmp_path / "v")
    with open_vindex(path) as vindex, pytest.raises(Unsupported, match="biases") as caught:
        vindex.require(ExtractLevel.INFERENCE, "INFER")
    assert "EXTRACT MODEL" in (caught.value.hint or "")
    (path / "config.json").write_text(json.dumps(QWEN2_GOLDEN))
    with pytest.raises(VindexIncomplete) as lost, open_vindex(path) as vindex:
        vindex.require(ExtractLevel.INFERENCE, "INFER")
    assert len(lost.value.details) == 15
    assert all(key.endswith("_proj.bias") for key in lost.value.details)
    assert "EXTRACT MODEL" in (lost.value.hint or "")


def larql_index(model_type: str, **changes: Any) -> VindexIndex:
    """The index of the golden Qwen 2 as if it were of another family."""
    document = json.loads((VINDEXES / "qwen2_h96.f16" / "index.json").read_text())
    document["model_config"] |= {"model_type": model_type, "sliding_window": None, **changes}
    return parse_index(json.dumps(document).encode(), Path("index.json"))


BIAS = "layers.0.self_attn.q_proj.bias"


def test_qwen2_with_bias_entries_is_rebuilt_unless_a_window_is_recorded() -> None:
    model, notes = spec_from_index(larql_index("qwen2"), {BIAS})
    assert model.layers[0].attention.qkv_bias
    assert windows(model) == [None] * 5
    assert "index.json does not record rope scaling; none is assumed" in notes
    with pytest.raises(Unsupported, match="which layers use it"):
        spec_from_index(larql_index("qwen2", sliding_window=8), {BIAS})


def test_mistral_without_a_recorded_window_is_noted() -> None:
    model, notes = spec_from_index(larql_index("mistral"), {"lm_head.weight"})
    assert windows(model) == [None] * 5
    assert any("full attention is assumed" in note for note in notes)
    model, _ = spec_from_index(larql_index("mistral", sliding_window=8), {"lm_head.weight"})
    assert windows(model) == [8] * 5


def test_granites_multipliers_are_recorded() -> None:
    index = larql_index(
        "granite", attention_multiplier=0.25, residual_multiplier=0.5, logits_scaling=4.0
    )
    model, _ = spec_from_index(index, {"lm_head.weight"})
    assert model.layers[0].attention.scale == 0.25
    assert (model.layers[0].residual_multiplier, model.logit_divisor) == (0.5, 4.0)


@pytest.mark.parametrize(
    "model_type",
    ["gemma2", "olmo2", "phi3", "glm4", "starcoder2", "gpt_neox", "phi", "gpt2", "opt"],
)
def test_what_larql_cannot_record_is_refused(model_type: str) -> None:
    with pytest.raises(Unsupported, match=f"'{model_type}' is lossy") as caught:
        spec_from_index(larql_index(model_type), set())
    assert "EXTRACT MODEL" in (caught.value.hint or "")


def source_shapes(model: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Every checkpoint tensor of a model, by key."""
    shapes: dict[str, tuple[int, ...]] = {}
    for tensor in model.tensors:
        key, shape = (
            (tensor.key, tensor.shape) if tensor.cut is None else (tensor.cut.key, tensor.cut.shape)
        )
        assert shapes.setdefault(key, shape) == shape
    return shapes


def arrays(model: ModelSpec, prefix: str) -> Arrays:
    rng = np.random.default_rng(0)
    return {
        key if key.startswith("lm_head") else prefix + key: rng.standard_normal(
            shape, dtype=np.float32
        )
        for key, shape in source_shapes(model).items()
    }


def account(directory: Path, config: dict[str, Any], tensors: Arrays) -> Ledger:
    write_directory(directory, config, tensors)
    with open_checkpoint(directory) as checkpoint:
        return balance(checkpoint, spec_from_config(config))


NEOX: dict[str, Any] = {"model_type": "gpt_neox", **SIZES}
PHI3: dict[str, Any] = {"model_type": "phi3", **SIZES, "num_key_value_heads": 2}
GPT2: dict[str, Any] = {
    "model_type": "gpt2",
    "vocab_size": 64,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 16,
}


def test_phi_3_tensors_are_rows_of_the_fused_ones(tmp_path: Path) -> None:
    tensors = arrays(spec_from_config(PHI3), "model.")
    write_directory(tmp_path, PHI3, tensors)
    qkv = tensors["model.layers.2.self_attn.qkv_proj.weight"]
    gate_up = tensors["model.layers.2.mlp.gate_up_proj.weight"]
    assert (qkv.shape, gate_up.shape) == ((64, 32), (96, 32))
    with open_checkpoint(tmp_path) as checkpoint:
        source = CheckpointSource(checkpoint)
        for role, expected in (
            (Role.Q, qkv[:32]),
            (Role.K, qkv[32:48]),
            (Role.V, qkv[48:]),
            (Role.GATE, gate_up[:48]),
            (Role.UP, gate_up[48:]),
        ):
            stored = source.tensor(role, 2)
            assert np.array_equal(stored.array, expected), role
            assert stored.array.flags.c_contiguous
        assert source.tensor(Role.K, 2).key == "layers.2.self_attn.k_proj.weight"


def test_gpt_neox_tensors_are_rows_of_every_head(tmp_path: Path) -> None:
    tensors = arrays(spec_from_config(NEOX), "gpt_neox.")
    tensors["embed_out.weight"] = tensors.pop("lm_head.weight")
    tensors["gpt_neox.layers.0.attention.masked_bias"] = np.zeros(1, np.float32)
    write_directory(tmp_path, NEOX, tensors)
    fused = tensors["gpt_neox.layers.1.attention.query_key_value.weight"].reshape(4, 3, 8, 32)
    biases = tensors["gpt_neox.layers.1.attention.query_key_value.bias"].reshape(4, 3, 8)
    with open_checkpoint(tmp_path) as checkpoint:
        source = CheckpointSource(checkpoint)
        for index, (role, bias) in enumerate(
            ((Role.Q, Role.Q_BIAS), (Role.K, Role.K_BIAS), (Role.V, Role.V_BIAS))
        ):
            found = source.tensor(role, 1).array
            assert np.array_equal(found, fused[:, index].reshape(32, 32))
            assert np.array_equal(source.tensor(bias, 1).array, biases[:, index].ravel())
        assert np.array_equal(source.tensor(Role.HEAD).array, tensors["embed_out.weight"])
        assert [drop.rule for drop in source.ledger.dropped] == ["gpt-neox-masks"]


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_gpt_2_matrices_are_turned(prefix: str, tmp_path: Path) -> None:
    tensors = arrays(spec_from_config(GPT2), prefix)
    tensors.pop("lm_head.weight")
    tensors[f"{prefix}h.0.attn.bias"] = np.zeros((1, 1, 16, 16), np.float32)
    write_directory(tmp_path, GPT2, tensors)
    fused = tensors[f"{prefix}h.1.attn.c_attn.weight"]
    assert fused.shape == (32, 96)
    with open_checkpoint(tmp_path) as checkpoint:
        source = CheckpointSource(checkpoint)
        assert np.array_equal(source.tensor(Role.K, 1).array, fused[:, 32:64].T)
        up = tensors[f"{prefix}h.1.mlp.c_fc.weight"].T
        for role in (Role.UP, Role.GATE):
            assert np.array_equal(source.tensor(role, 1).array, up)
        assert [drop.rule for drop in source.ledger.dropped] == ["gpt2-masks"]


def test_a_missing_fused_tensor_is_reported_once(tmp_path: Path) -> None:
    tensors = arrays(spec_from_config(PHI3), "model.")
    del tensors["model.layers.0.self_attn.qkv_proj.weight"]
    tensors["model.layers.0.self_attn.q_proj.weight"] = np.zeros((32, 32), np.float32)
    tensors["model.layers.1.mlp.gate_up_proj.weight"] = np.zeros((95, 32), np.float32)
    with pytest.raises(LedgerRefusal) as caught:
        account(tmp_path, PHI3, tensors)
    assert sorted(caught.value.details) == [
        "missing: layers.0.self_attn.qkv_proj.weight",
        "shape: 'model.layers.1.mlp.gate_up_proj.weight' is [95, 32], expected [96, 32]",
        "unknown: 'model.layers.0.self_attn.q_proj.weight'",
    ]


@pytest.mark.parametrize("model_type", ["phi", "gpt_neox", "starcoder2", "opt"])
def test_biases_and_positions_have_keys_of_their_own(model_type: str) -> None:
    heads = {"num_key_value_heads": 4} if model_type != "opt" else {}
    model = spec(model_type, ffn_dim=48, **heads)
    keys = [tensor.key for tensor in model.tensors]
    assert len(keys) == len(set(keys))
    assert len(model.by_key()) == len(model.tensors)
    assert family_of(model).name == model_type


def test_a_model_without_gates_shows_its_up_rows_as_gates() -> None:
    model = spec("starcoder2", num_key_value_heads=4)
    by_role: dict[Role, TensorSpec] = {t.role: t for t in model.tensors if t.layer == 1}
    gate, up = by_role[Role.GATE], by_role[Role.UP]
    assert gate.cut is not None
    assert gate.cut.key == up.key == "layers.1.mlp.c_fc.weight"
    assert gate.shape == up.shape == (48, 32)
    assert Role.GATE_BIAS not in by_role
