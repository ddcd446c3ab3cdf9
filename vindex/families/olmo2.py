"""OLMo 2: norms only after the sublayers, and on q and k over all heads together."""

from __future__ import annotations

from typing import Any

from vindex.families import _gguf_config, _larql_index
from vindex.families._assemble import make_layers, make_model, read_attention
from vindex.families._base import Family, GgufFacts, GgufRules
from vindex.families._config import ConfigReader
from vindex.families._geometry import Defaults, read_geometry
from vindex.families._rope import RopeDefaults
from vindex.families._tensors import FOUR_NORMS
from vindex.spec import FfnSpec, ModelSpec, NormKind, NormSpec, Placement, QkNormSpan

_DEFAULTS = Defaults(max_positions=2048)


def build(config: ConfigReader) -> ModelSpec:
    """The specification of an OLMo 2 configuration."""
    geometry = read_geometry(config, _DEFAULTS)
    norm = NormSpec(NormKind.RMS, config.number("rms_norm_eps", 1e-5, high=1.0))
    bias = config.flag("attention_bias", False)
    attention = read_attention(
        config,
        geometry,
        rope=RopeDefaults(),
        qk_norm=norm,
        qk_norm_span=QkNormSpan.PROJECTION,
        qkv_bias=bias,
        output_bias=bias,
    )
    ffn = FfnSpec(geometry.intermediate_size, config.activation("hidden_act", "silu"))
    return make_model(
        config,
        geometry,
        make_layers([attention] * geometry.num_layers, ffn, norm, Placement.POST),
        family=FAMILY.name,
        tied=False,
        naming=FOUR_NORMS,
    )


def gguf_config(facts: GgufFacts) -> dict[str, Any]:
    """``config.json`` of a GGUF file of architecture ``olmo2``; OLMo 3, which slides, is another.

    Raises:
        Unsupported: the file is of OLMo 3.
    """
    config = _gguf_config.common(facts)
    _gguf_config.reader(facts).must_be_default("attention.sliding_window")
    return {
        **config,
        "model_type": "olmo2",
        "hidden_act": "silu",
        "rope_scaling": _gguf_config.rope_scaling(facts),
    }


FAMILY = Family(
    name="olmo2",
    model_types=("olmo2",),
    prefixes=("model.",),
    build=build,
    from_index=_larql_index.lossy("larql stores the norms after the sublayers of other models"),
    gguf=GgufRules(architectures=("olmo2",), config=gguf_config),
)
