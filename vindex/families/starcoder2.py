"""StarCoder 2: LayerNorms, biases everywhere, an FFN without gate, sliding windows if set."""

from __future__ import annotations

from vindex.families import _larql_index
from vindex.families._assemble import make_layers, make_model, read_attention
from vindex.families._base import Family
from vindex.families._config import MAX_POSITIONS, ConfigReader
from vindex.families._geometry import Defaults, read_geometry
from vindex.families._rope import RopeDefaults
from vindex.families._tensors import LLAMA
from vindex.spec import AttentionKind, FfnSpec, ModelSpec, NormKind, NormSpec, Role

_DEFAULTS = Defaults(max_positions=4096, kv_heads=2)
_NAMING = LLAMA.but(
    {
        Role.UP: "layers.{layer}.mlp.c_fc.weight",
        Role.UP_BIAS: "layers.{layer}.mlp.c_fc.bias",
        Role.DOWN: "layers.{layer}.mlp.c_proj.weight",
        Role.DOWN_BIAS: "layers.{layer}.mlp.c_proj.bias",
    }
)


def build(config: ConfigReader) -> ModelSpec:
    """The specification of a StarCoder 2 configuration."""
    geometry = read_geometry(config, _DEFAULTS)
    norm = NormSpec(NormKind.LAYER, config.number("norm_epsilon", 1e-5, high=1.0))
    bias = config.flag("use_bias", True)
    slides = config.has("sliding_window")
    attention = read_attention(
        config,
        geometry,
        kind=AttentionKind.SLIDING if slides else AttentionKind.FULL,
        rope=RopeDefaults(),
        window=config.integer("sliding_window", high=MAX_POSITIONS) if slides else None,
        qkv_bias=bias,
        output_bias=bias,
    )
    ffn = FfnSpec(
        geometry.intermediate_size,
        config.activation("hidden_act", "gelu_pytorch_tanh"),
        gated=False,
        bias=bias,
    )
    return make_model(
        config,
        geometry,
        make_layers([attention] * geometry.num_layers, ffn, norm),
        family=FAMILY.name,
        tied=True,
        naming=_NAMING,
    )


FAMILY = Family(
    name="starcoder2",
    model_types=("starcoder2",),
    prefixes=("model.",),
    build=build,
    from_index=_larql_index.lossy("biases and LayerNorm offsets are not in the vindex"),
)
