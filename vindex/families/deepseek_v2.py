"""DeepSeek 2: latent attention, adjacent pairs of lanes turn, experts after the first layers."""

from __future__ import annotations

from vindex.families import _larql_index
from vindex.families._base import Family
from vindex.families._config import ConfigReader
from vindex.families._deepseek import make_latent_model, read_groups
from vindex.families._moe import read_counts
from vindex.spec import GroupScore, ModelSpec, RoutingSpec


def build(config: ConfigReader) -> ModelSpec:
    """The specification of a DeepSeek 2 configuration."""
    return make_latent_model(
        config,
        FAMILY.name,
        _routing,
        max_positions=2048,
        interleaved=True,
        ffn_bias=config.flag("mlp_bias", False),
        first=0,
        width=1407,
        shared=2,
    )


def _routing(config: ConfigReader) -> RoutingSpec:
    """``norm_topk_prob`` is without effect, as in transformers."""
    experts, chosen = read_counts(config, ("n_routed_experts", "num_experts"), 64, None)
    method = config.text("topk_method", "greedy")
    groups = None
    if method == "group_limited_greedy":
        groups = read_groups(config, experts, chosen, GroupScore.BEST)
    else:
        config.must_be_default("topk_method", "greedy")
    config.must_be_default("scoring_func", "softmax")
    return RoutingSpec(
        experts,
        chosen,
        factor=config.number("routed_scaling_factor", 1.0),
        groups=groups,
    )


FAMILY = Family(
    name="deepseek_v2",
    model_types=("deepseek_v2",),
    prefixes=("model.",),
    build=build,
    from_index=_larql_index.lossy("the sizes of latent attention are not recorded"),
)
