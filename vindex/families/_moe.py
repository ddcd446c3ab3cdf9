"""What configurations say about mixtures of experts, in the words that families share."""

from __future__ import annotations

from collections.abc import Sequence

from vindex.families._config import MAX_LAYERS, ConfigReader
from vindex.families._experts import FUSED_EXPERTS, GGUF_EXPERTS
from vindex.families._geometry import Geometry
from vindex.families._tensors import LLAMA
from vindex.spec import FfnSpec, MoeSpec, Role

MAX_EXPERTS = 1 << 14

#: Keys of experts under ``mlp``, as all Qwen and DeepSeek models have them.
MLP_EXPERTS = LLAMA.with_experts(
    {
        Role.ROUTER: "layers.{layer}.mlp.gate.weight",
        Role.EXPERT_GATE: "layers.{layer}.mlp.experts.{expert}.gate_proj.weight",
        Role.EXPERT_UP: "layers.{layer}.mlp.experts.{expert}.up_proj.weight",
        Role.EXPERT_DOWN: "layers.{layer}.mlp.experts.{expert}.down_proj.weight",
    },
    *FUSED_EXPERTS,
    *GGUF_EXPERTS,
)


def read_counts(
    config: ConfigReader,
    keys: Sequence[str],
    experts: int | None,
    chosen: int | None,
    *,
    chosen_key: str = "num_experts_per_tok",
) -> tuple[int, int]:
    """How many experts there are, and how many a token visits.

    Args:
        keys: spellings of the first; those that are there must agree.
        experts, chosen: what absent keys mean; ``None`` where they are required.
        chosen_key: spelling of the second.
    """
    present = [key for key in keys if config.has(key)] or [keys[0]]
    counts = [config.integer(key, experts, high=MAX_EXPERTS) for key in present]
    if len(set(counts)) > 1:
        config.contradiction(
            " and ".join(f"{key} is {count}" for key, count in zip(present, counts, strict=True)),
            "the same number",
        )
    visited = config.integer(chosen_key, chosen, high=MAX_EXPERTS)
    if visited > counts[0]:
        config.contradiction(
            f"{chosen_key} is {visited} of {counts[0]} experts", "no more than there are"
        )
    return counts[0], visited


def sparse_layers(
    config: ConfigReader, geometry: Geometry, moe: MoeSpec
) -> list[FfnSpec | MoeSpec]:
    """Qwen's rule: every ``decoder_sparse_step``-th layer but ``mlp_only_layers`` has experts."""
    step = config.integer("decoder_sparse_step", 1)
    excluded = frozenset(config.integers("mlp_only_layers", low=0, high=MAX_LAYERS))
    dense = FfnSpec(geometry.intermediate_size, moe.expert.activation)
    return [
        dense if index in excluded or (index + 1) % step else moe
        for index in range(geometry.num_layers)
    ]
