"""Mixtral: Mistral with experts in the place of every FFN."""

from __future__ import annotations

from collections.abc import Container

from vindex.families import _larql_index
from vindex.families._assemble import make_layers, make_model, read_attention
from vindex.families._base import Family, Rebuilt
from vindex.families._config import MAX_POSITIONS, ConfigReader
from vindex.families._experts import FUSED_EXPERTS, GGUF_EXPERTS
from vindex.families._geometry import Defaults, read_geometry
from vindex.families._moe import read_counts
from vindex.families._rope import RopeDefaults
from vindex.families._tensors import LLAMA
from vindex.index import VindexIndex
from vindex.spec import (
    AttentionKind,
    FfnSpec,
    ModelSpec,
    MoeSpec,
    NormKind,
    NormSpec,
    Role,
    RoutingSpec,
)

_DEFAULTS = Defaults(max_positions=131072, kv_heads=8)
_THETA = 1000000.0
_NAMING = LLAMA.with_experts(
    {
        Role.ROUTER: "layers.{layer}.block_sparse_moe.gate.weight",
        Role.EXPERT_GATE: "layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight",
        Role.EXPERT_UP: "layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight",
        Role.EXPERT_DOWN: "layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight",
    },
    *FUSED_EXPERTS,
    *GGUF_EXPERTS,
    aliases={Role.ROUTER: "layers.{layer}.mlp.gate.weight"},
)


def build(config: ConfigReader) -> ModelSpec:
    """The specification of a Mixtral configuration; it slides only where it states a window."""
    geometry = read_geometry(config, _DEFAULTS)
    config.must_be_default("layer_types")
    norm = NormSpec(NormKind.RMS, config.number("rms_norm_eps", 1e-5, high=1.0))
    window = (
        config.integer("sliding_window", high=MAX_POSITIONS)
        if config.has("sliding_window")
        else None
    )
    attention = read_attention(
        config,
        geometry,
        kind=AttentionKind.FULL if window is None else AttentionKind.SLIDING,
        rope=RopeDefaults(theta=_THETA),
        window=window,
    )
    experts, chosen = read_counts(config, ("num_local_experts", "num_experts"), 8, 2)
    moe = MoeSpec(
        RoutingSpec(experts, chosen, normalised=True),
        FfnSpec(geometry.intermediate_size, config.activation("hidden_act", "silu")),
    )
    layers = make_layers([attention] * geometry.num_layers, moe, norm)
    return make_model(config, geometry, layers, family=FAMILY.name, tied=False, naming=_NAMING)


def from_index(index: VindexIndex, have_keys: Container[str]) -> Rebuilt:
    """larql keeps everything of a Mixtral but rope scaling, though it cannot run it."""
    rebuilt = _larql_index.assume_unscaled(
        _larql_index.rebuild(index, have_keys, embed_scale=1.0, has_experts=True), index
    )
    assert index.model_config is not None, "rebuild refuses an index without model_config"
    moe = index.model_config.moe
    if moe is None:
        raise _larql_index.lossy_error(index, "the experts are not recorded")
    counts = {"num_local_experts": moe.num_experts, "num_experts_per_tok": moe.top_k}
    return Rebuilt({**rebuilt.config, **counts}, rebuilt.notes)


FAMILY = Family(
    name="mixtral",
    model_types=("mixtral",),
    prefixes=("model.",),
    build=build,
    from_index=from_index,
    gguf_as="llama",
)
