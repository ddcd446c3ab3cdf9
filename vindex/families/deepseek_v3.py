"""DeepSeek 3: latent attention, experts after the first layers."""

from __future__ import annotations

from vindex.families import _larql_index
from vindex.families._assemble import make_layers, make_model
from vindex.families._base import Family
from vindex.families._config import ConfigReader
from vindex.families._deepseek import geometry_of, latent_attention, naming_of
from vindex.spec import FfnSpec, ModelSpec, NormKind, NormSpec


def build(config: ConfigReader) -> ModelSpec:
    """The specification of a DeepSeek 3 configuration."""
    geometry = geometry_of(config, max_positions=4096)
    norm = NormSpec(NormKind.RMS, config.number("rms_norm_eps", 1e-6, high=1.0))
    interleaved = config.flag("rope_interleave", True)
    attention = latent_attention(config, geometry, interleaved=interleaved)
    ffn = FfnSpec(geometry.intermediate_size, config.activation("hidden_act", "silu"))
    return make_model(
        config,
        geometry,
        make_layers([attention] * geometry.num_layers, ffn, norm),
        family=FAMILY.name,
        tied=False,
        naming=naming_of(attention),
    )


FAMILY = Family(
    name="deepseek_v3",
    model_types=("deepseek_v3",),
    prefixes=("model.",),
    build=build,
    from_index=_larql_index.lossy("the sizes of latent attention are not recorded"),
)
