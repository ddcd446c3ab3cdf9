"""What a GGUF file says of a model besides its tensors: the reader's ``gguf_config``, inverted.

The keys are llama.cpp's. Everything is read back by the same function that reads foreign files and
must give the specification that is being written; a model that the keys cannot say, or that a
reader would take for another, is refused.

Shape legend: D hidden, L layers, S head size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from vindex.errors import CheckpointError, Unsupported
from vindex.families import Family, GgufRules, families, family_of, spec_from_config
from vindex.families._gguf_config import llama3_table
from vindex.spec import (
    AttentionKind,
    AttentionSpec,
    FfnSpec,
    ModelSpec,
    MoeSpec,
    NormKind,
    Placement,
    RopeScaling,
)
from vindex.spec_ffn import DenseBeside

Tables = dict[str, list[float]]

_STANDS_STILL = 1e30  # what llama.cpp divides the frequency of a pair by that does not turn
_SWA_THETA = 10000.0  # what llama.cpp takes for sliding layers where nothing is said
_YARN = {
    "attention_factor": "rope.scaling.yarn_attn_factor",
    "beta_fast": "rope.scaling.yarn_beta_fast",
    "beta_slow": "rope.scaling.yarn_beta_slow",
}


def gguf_rules(spec: ModelSpec) -> tuple[Family, GgufRules]:
    """The family as whose file a model is written, and the rules of such files.

    Raises:
        Unsupported: there are none; the families that have some are listed.
    """
    family = family_of(spec)
    if family.gguf is None and family.gguf_as is not None:
        family = family_of(family.gguf_as)
    if family.gguf is None:
        able = sorted(each.name for each in families() if each.gguf or each.gguf_as)
        raise Unsupported(
            f"models of family {family.name} cannot be written as GGUF",
            hint=f"FORMAT safetensors; writes any. GGUF: {', '.join(able)}",
        )
    return family, family.gguf


def gguf_metadata(
    spec: ModelSpec, config: Mapping[str, Any], architecture: str
) -> tuple[dict[str, Any], Tables]:
    """The metadata of the architecture, keys without its prefix, and its tables by tensor name.

    Args:
        config: the model's ``config.json``, text part, for what a specification has computed away.
    """
    full = _first(spec, AttentionKind.FULL) or spec.layers[0].attention
    sliding = _first(spec, AttentionKind.SLIDING)
    norm = spec.layers[0].norm
    eps = "rms_" if norm.kind is not NormKind.LAYER else ""
    result: dict[str, Any] = {
        "block_count": spec.num_layers,
        "context_length": spec.max_positions,
        "embedding_length": spec.hidden_size,
        "feed_forward_length": _widths(spec, config),
        "attention.head_count": full.heads,
        "attention.head_count_kv": _key_heads(spec),
        f"attention.layer_norm_{eps}epsilon": norm.eps,
        "attention.key_length": full.head_size,
        "attention.value_length": full.head_size,
        "final_logit_softcapping": spec.logit_softcap,
        "attn_logit_softcapping": full.softcap,
        "attention.sliding_window": None if sliding is None else sliding.window,
    }
    if full.rope is not None:
        result["rope.dimension_count"] = full.rope.rotary_size
        result["rope.freq_base"] = full.rope.theta
    if sliding is not None and sliding.rope is not None and full is not sliding:
        theta = sliding.rope.theta
        own = full.rope is None or theta != full.rope.theta
        result["rope.freq_base_swa"] = theta if own and theta != _SWA_THETA else None
    scaling, tables = _scaling(full, config)
    result |= scaling | _experts(spec)
    match architecture:
        case "granite":
            result |= {
                "attention.scale": full.scale,
                "embedding_scale": spec.embed_scale,
                "residual_scale": spec.layers[0].residual_multiplier,
                "logit_scale": spec.logit_divisor,
            }
        case "gptneox":
            parallel = spec.layers[0].placement is Placement.PARALLEL
            result["use_parallel_residual"] = parallel
        case "gemma4":
            result |= _gemma4(spec, full, sliding)
    return {key: value for key, value in result.items() if value is not None}, tables


def check_metadata(spec: ModelSpec, rules: GgufRules, facts: PlannedFacts) -> None:
    """Compare what the reader would make of a file with the model.

    Raises:
        Unsupported: it is another model.
    """
    try:
        found = nameless(spec_from_config(rules.config(facts)))
    except (Unsupported, CheckpointError) as error:
        raise Unsupported(
            f"GGUF cannot say what this model computes: {error.message}",
            hint="FORMAT safetensors; writes any model",
        ) from error
    wanted = nameless(spec)
    if found != wanted:
        names = [each.name for each in dataclasses.fields(ModelSpec)]
        different = [name for name in names if getattr(found, name) != getattr(wanted, name)]
        raise Unsupported(
            "GGUF cannot say what this model computes: llama.cpp would take its "
            f"{' and '.join(different)} for another's",
            hint="FORMAT safetensors; writes any model",
            details=[_difference(found, wanted)],
        )


def nameless(spec: ModelSpec) -> ModelSpec:
    """What is computed, less what a GGUF file does not distinguish: names, and who is tied."""
    return dataclasses.replace(spec, family="", model_type="", tied=False, tensors=())


class PlannedFacts:
    """A file that is not written yet, for the reader's questions; see ``GgufFacts``.

    Args:
        metadata: by whole keys. Numbers are rounded to the float32 of a file.
        rows: the slowest dimension of each tensor.
        tables: values of the small ones.
    """

    def __init__(
        self,
        metadata: Mapping[str, Any],
        rows: Mapping[str, int],
        tables: Tables,
        rules: GgufRules,
        architecture: str,
    ) -> None:
        self.architecture = architecture
        self.known = rules.known
        self._metadata = {
            key: float(np.float32(value)) if isinstance(value, float) else value
            for key, value in metadata.items()
        }
        self._rows = rows
        self._tables = tables

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Key to scalar, string or array."""
        return self._metadata

    def has_tensor(self, name: str) -> bool:
        """Whether the file will hold a tensor."""
        return name in self._rows or name in self._tables

    def vector(self, name: str) -> list[float]:
        """The values of a table."""
        return [float(np.float32(value)) for value in self._tables[name]]

    def rows(self, name: str) -> int:
        """The slowest dimension of a tensor."""
        if name in self._tables:
            return len(self._tables[name])
        if name not in self._rows:
            raise CheckpointError(f"the file would have no tensor {name}")
        return self._rows[name]


def _difference(found: ModelSpec, wanted: ModelSpec) -> str:
    """The first layer, or the first field, that is not the same."""
    for ours, theirs in zip(wanted.layers, found.layers, strict=False):
        if ours != theirs:
            return f"layer {ours.index}: {ours}, read back as {theirs}"
    return f"{wanted}, read back as {found}"


def _first(spec: ModelSpec, kind: AttentionKind) -> AttentionSpec | None:
    return next((layer.attention for layer in spec.layers if layer.attention.kind is kind), None)


def _dense(ffn: FfnSpec | MoeSpec) -> FfnSpec | None:
    if isinstance(ffn, FfnSpec):
        return ffn
    return ffn.beside.ffn if isinstance(ffn.beside, DenseBeside) else None


def _widths(spec: ModelSpec, config: Mapping[str, Any]) -> int | list[int]:
    """Features of the dense FFNs: one number, or one for each layer."""
    stated = config.get("intermediate_size")
    widths = []
    for layer in spec.layers:
        dense = _dense(layer.ffn)
        if dense is not None:
            widths.append(dense.width)
        elif isinstance(layer.ffn, MoeSpec):
            widths.append(stated if isinstance(stated, int) else layer.ffn.expert.width)
    return widths[0] if len(set(widths)) == 1 else widths


def _key_heads(spec: ModelSpec) -> int | list[int]:
    heads = [layer.attention.kv_heads for layer in spec.layers]
    return heads[0] if len(set(heads)) == 1 else heads


def _scaling(full: AttentionSpec, config: Mapping[str, Any]) -> tuple[dict[str, Any], Tables]:
    """The rule that stretches positions, as the configuration states its parameters."""
    rope, stated = full.rope, _stated_rope(config)
    if rope is None:
        return {}, {}
    original = rope.original_max_positions
    match rope.scaling:
        case RopeScaling.LINEAR:
            return {"rope.scaling.type": "linear", "rope.scaling.factor": rope.factor}, {}
        case RopeScaling.YARN:
            return {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": rope.factor,
                "rope.scaling.original_context_length": stated.get(
                    "original_max_position_embeddings", original
                ),
                **{key: stated[name] for name, key in _YARN.items() if stated.get(name)},
            }, {}
        case RopeScaling.LLAMA3:
            parameters = {
                "factor": rope.factor,
                "low_freq_factor": rope.low_freq_factor,
                "high_freq_factor": rope.high_freq_factor,
                "original_max_position_embeddings": original,
            }
            table = llama3_table(rope.theta, rope.rotary_size, parameters)
            return {"rope.scaling.original_context_length": original}, {"rope_freqs.weight": table}
        case RopeScaling.LONGROPE:
            tables = {
                "rope_factors_long.weight": list(rope.long_factors or ()),
                "rope_factors_short.weight": list(rope.short_factors or ()),
            }
            return {
                "rope.scaling.original_context_length": original,
                "rope.scaling.attn_factor": rope.attention_factor,
            }, tables
        case RopeScaling.PROPORTIONAL:
            turning, pairs = rope.turning_pairs or 0, full.head_size // 2
            still = [_STANDS_STILL] * (pairs - turning)
            return {}, {"rope_freqs.weight": [1.0] * turning + still}
        case _:
            return {}, {}


def _stated_rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rope parameters of full layers, in either spelling."""
    stated = config.get("rope_parameters") or config.get("rope_scaling") or {}
    full = stated.get(AttentionKind.FULL.value, stated)
    return full if isinstance(full, Mapping) else {}


def _experts(spec: ModelSpec) -> dict[str, Any]:
    moe = next((layer.ffn for layer in spec.layers if isinstance(layer.ffn, MoeSpec)), None)
    if moe is None:
        return {}
    shared = None if moe.shared is None else moe.shared.width
    return {
        "expert_count": moe.routing.experts,
        "expert_used_count": moe.routing.chosen,
        "expert_feed_forward_length": moe.expert.width,
        "expert_shared_feed_forward_length": shared,
    }


def _gemma4(spec: ModelSpec, full: AttentionSpec, sliding: AttentionSpec | None) -> dict[str, Any]:
    """Sizes by kind of layer, layers that read the keys of others, per-layer embeddings."""
    narrow = sliding or full
    attentions = [layer.attention for layer in spec.layers]
    shared = sum(each.kv_source is not None for each in attentions)
    return {
        "attention.sliding_window_pattern": [
            each.kind is AttentionKind.SLIDING for each in attentions
        ],
        "attention.shared_kv_layers": shared,
        "embedding_length_per_layer_input": 0 if spec.ple is None else spec.ple.size,
        "attention.key_length_swa": narrow.head_size,
        "attention.value_length_swa": narrow.head_size,
        "rope.dimension_count": full.head_size,
        "rope.dimension_count_swa": narrow.head_size,
    }
