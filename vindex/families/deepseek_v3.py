"""DeepSeek 3: latent attention, experts after the first layers."""

from __future__ import annotations

import re

from vindex.families import _larql_index
from vindex.families._base import DropRule, Family
from vindex.families._config import ConfigReader
from vindex.families._deepseek import make_latent_model, read_groups
from vindex.families._moe import read_counts
from vindex.spec import GroupScore, ModelSpec, RoutingSpec, Scoring


def build(config: ConfigReader) -> ModelSpec:
    """The specification of a DeepSeek 3 configuration."""
    return make_latent_model(
        config,
        FAMILY.name,
        _routing,
        max_positions=4096,
        interleaved=config.flag("rope_interleave", True),
        ffn_bias=False,
        first=3,
        width=2048,
        shared=1,
    )


def _routing(config: ConfigReader) -> RoutingSpec:
    experts, chosen = read_counts(config, ("n_routed_experts", "num_local_experts"), 256, 8)
    config.must_be_default("scoring_func", "sigmoid")
    config.must_be_default("topk_method", "noaux_tc")
    return RoutingSpec(
        experts,
        chosen,
        Scoring.SIGMOID,
        normalised=config.flag("norm_topk_prob", True),
        sum_eps=1e-20,
        factor=config.number("routed_scaling_factor", 2.5),
        groups=read_groups(config, experts, chosen, GroupScore.BEST_TWO, default=(8, 4)),
        correction=True,
    )


def _predicts_further(spec: ModelSpec) -> tuple[DropRule, ...]:
    """The layer after the last, which released files have, is no part of the model."""
    return (
        DropRule(
            "multi-token-prediction",
            re.compile(rf"^model\.layers\.{spec.num_layers}\."),
            "a layer after the last, which guesses the token after the next one",
        ),
    )


FAMILY = Family(
    name="deepseek_v3",
    model_types=("deepseek_v3",),
    prefixes=("model.",),
    build=build,
    spec_drops=_predicts_further,
    from_index=_larql_index.lossy("the sizes of latent attention are not recorded"),
)
