"""Llama 1 to 3.x and what is built like it: SmolLM, SmolLM2, TinyLlama, Yi, ...

RMS norms before attention and FFN, grouped-query attention with rotary positions, gated SiLU FFN.
``attention_bias`` puts a bias on q, k, v and o; ``mlp_bias`` on gate, up and down.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from vindex.errors import Unsupported
from vindex.families import _gguf_config, _larql_index
from vindex.families._assemble import make_layers, make_model, read_attention
from vindex.families._base import (
    ROTARY_INV_FREQ,
    Family,
    GgufFacts,
    GgufRules,
    Rebuilt,
)
from vindex.families._config import ConfigReader
from vindex.families._geometry import Defaults, read_geometry
from vindex.families._rope import RopeDefaults
from vindex.index import VindexIndex
from vindex.spec import (
    FfnSpec,
    ModelSpec,
    NormKind,
    NormSpec,
    Role,
)

_DEFAULTS = Defaults(max_positions=2048)
_LLAMA3_THETA = 500000.0
_LARQL_THETA = 10000.0  # what larql writes for a base it did not find
# Mistral 7B v0.1 and its fine-tunes: alone of all that GGUF calls llama they slide, and llama.cpp's
# converter leaves the window out. Later versions have another rope base.
_SLIDING = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "rope_theta": 10000.0,
}
_SLIDING_WINDOW = 4096


def build(config: ConfigReader) -> ModelSpec:
    """The specification of a llama configuration."""
    geometry = read_geometry(config, _DEFAULTS)
    config.must_be_default("sliding_window")
    norm = NormSpec(NormKind.RMS, config.number("rms_norm_eps", 1e-6, high=1.0))
    bias = config.flag("attention_bias", False)
    attention = read_attention(
        config, geometry, rope=RopeDefaults(), qkv_bias=bias, output_bias=bias
    )
    ffn = FfnSpec(
        width=geometry.intermediate_size,
        activation=config.activation("hidden_act", "silu"),
        bias=config.flag("mlp_bias", False),
    )
    layers = make_layers([attention] * geometry.num_layers, ffn, norm)
    return make_model(config, geometry, layers, family=FAMILY.name, tied=False)


def from_index(index: VindexIndex, have_keys: Container[str]) -> Rebuilt:
    """larql records everything of a llama but its rope scaling.

    Llama 3's base of 500000 came with scaling in every release since 3.1, and Llama 3.0 cannot be
    told from those, so running one is refused; any other base is taken as unscaled, with a note.
    A vindex without attention weights does not rotate anything.
    """
    rebuilt = _larql_index.rebuild(index, have_keys, embed_scale=1.0)
    rebuilt.config["attention_bias"] = "layers.0.self_attn.q_proj.bias" in have_keys
    rebuilt.config["mlp_bias"] = "layers.0.mlp.gate_proj.bias" in have_keys
    if not _larql_index.runs(index):
        return rebuilt
    theta = rebuilt.config["rope_theta"]
    if theta == _LLAMA3_THETA:
        raise Unsupported(
            "index.json does not record rope scaling, and a rope base of 500000 is Llama 3's,"
            " which is scaled since 3.1",
            hint=_larql_index.SUPPLY_CONFIG,
        )
    notes = ["index.json does not record rope scaling; none is assumed"]
    if theta == _LARQL_THETA:
        notes.append(
            "larql also writes a rope base of 10000 where it cannot read the model's own;"
            f" to be sure, {_larql_index.SUPPLY_CONFIG}"
        )
    return Rebuilt(rebuilt.config, (*rebuilt.notes, *notes))


def gguf_config(facts: GgufFacts) -> dict[str, Any]:
    """``config.json`` of a GGUF file of architecture ``llama``, which Mistral's files have too.

    With experts it is a Mixtral.
    """
    config = _gguf_config.common(facts, experts=True)
    own = _gguf_config.reader(facts)
    own.must_be_default("attention.sliding_window")
    if own.integer("expert_count", 0, low=0):
        own.must_be_default("expert_weights_norm", True)
        counts = _gguf_config.expert_counts(own)
        scaling = _gguf_config.rope_scaling(facts)
        return {
            **config,
            "model_type": "mixtral",
            "hidden_act": "silu",
            "num_local_experts": counts["num_experts"],
            "num_experts_per_tok": counts["num_experts_per_tok"],
            "rope_scaling": scaling,
            "sliding_window": None,
        }
    config["model_type"] = "llama"
    config["hidden_act"] = "silu"
    config["attention_bias"] = facts.has_tensor("blk.0.attn_q.bias")
    config["mlp_bias"] = facts.has_tensor("blk.0.ffn_gate.bias")
    scaling = _gguf_config.llama3_scaling(facts, config) or _gguf_config.rope_scaling(facts)
    if scaling is not None:
        config["rope_scaling"] = scaling
    elif _SLIDING.items() <= config.items():
        config |= {"model_type": "mistral", "sliding_window": _SLIDING_WINDOW}
    return config


FAMILY = Family(
    name="llama",
    model_types=("llama",),
    prefixes=("model.",),
    build=build,
    from_index=from_index,
    drops=(ROTARY_INV_FREQ, _gguf_config.ROPE_FREQS),
    gguf=GgufRules(
        architectures=("llama",),
        config=gguf_config,
        permuted=frozenset({Role.Q, Role.K, Role.Q_BIAS, Role.K_BIAS}),
        known=_gguf_config.EXPERT_KEYS,
    ),
)
