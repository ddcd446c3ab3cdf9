"""OPT: learned positions that start at row 2, LayerNorms, biases, a ReLU FFN without gate.

The 350M release alone norms after each addition, also the last one, and projects its embeddings.
"""

from __future__ import annotations

from vindex.families import _larql_index
from vindex.families._assemble import make_layers, make_model, read_attention
from vindex.families._base import Family
from vindex.families._config import ConfigReader
from vindex.families._geometry import Defaults, read_geometry
from vindex.families._tensors import LLAMA
from vindex.spec import FfnSpec, LearnedPositions, ModelSpec, NormKind, NormSpec, Placement, Role

_DEFAULTS = Defaults(max_positions=2048)
_FIRST_ROW = 2
_NAMING = LLAMA.but(
    {
        Role.POSITIONS: "embed_positions.weight",
        Role.FINAL_NORM: "final_layer_norm.weight",
        Role.FINAL_NORM_BIAS: "final_layer_norm.bias",
        Role.ATTN_NORM: "layers.{layer}.self_attn_layer_norm.weight",
        Role.ATTN_NORM_BIAS: "layers.{layer}.self_attn_layer_norm.bias",
        Role.FFN_NORM: "layers.{layer}.final_layer_norm.weight",
        Role.FFN_NORM_BIAS: "layers.{layer}.final_layer_norm.bias",
        Role.ATTN_SUM_NORM: "layers.{layer}.self_attn_layer_norm.weight",
        Role.ATTN_SUM_NORM_BIAS: "layers.{layer}.self_attn_layer_norm.bias",
        Role.FFN_SUM_NORM: "layers.{layer}.final_layer_norm.weight",
        Role.FFN_SUM_NORM_BIAS: "layers.{layer}.final_layer_norm.bias",
        Role.EMBED_PROJECTION: "project_in.weight",
        Role.HEAD_PROJECTION: "project_out.weight",
        Role.O: "layers.{layer}.self_attn.out_proj.weight",
        Role.O_BIAS: "layers.{layer}.self_attn.out_proj.bias",
        Role.UP: "layers.{layer}.fc1.weight",
        Role.UP_BIAS: "layers.{layer}.fc1.bias",
        Role.DOWN: "layers.{layer}.fc2.weight",
        Role.DOWN_BIAS: "layers.{layer}.fc2.bias",
    }
)


def build(config: ConfigReader) -> ModelSpec:
    """The specification of an OPT configuration."""
    config = config.renamed({"ffn_dim": "intermediate_size"})
    geometry = read_geometry(config, _DEFAULTS)
    for key in ("enable_bias", "layer_norm_elementwise_affine"):
        config.must_be_default(key, True)
    norms_first = config.flag("do_layer_norm_before", True)
    for key in ("num_key_value_heads", "head_dim"):
        config.must_be_default(key)
    norm = NormSpec(NormKind.LAYER, 1e-5)
    attention = read_attention(config, geometry, rope=None, qkv_bias=True, output_bias=True)
    ffn = FfnSpec(
        geometry.intermediate_size,
        config.activation("activation_function", "relu"),
        gated=False,
        bias=True,
    )
    return make_model(
        config,
        geometry,
        make_layers(
            [attention] * geometry.num_layers,
            ffn,
            norm,
            Placement.PRE if norms_first else Placement.SUM,
        ),
        family=FAMILY.name,
        tied=True,
        naming=_NAMING,
        positions=LearnedPositions(geometry.max_positions + _FIRST_ROW, _FIRST_ROW),
        embedding_size=config.integer("word_embed_proj_dim", geometry.hidden_size),
        has_final_norm=norms_first and not config.flag("_remove_final_layer_norm", False),
    )


FAMILY = Family(
    name="opt",
    model_types=("opt",),
    prefixes=("model.decoder.", "decoder."),
    build=build,
    from_index=_larql_index.lossy(
        "biases, LayerNorm offsets and learned positions are not in the vindex"
    ),
)
