"""Gemma 4 text models: E2B, E4B, 12B (unified), 26B-A4B, 31B; alone or in multimodal models.

Like Gemma 3 with plain ``w`` norms and attention scale 1, and on top of it: heads of another size
on full layers, whose rope turns only the first quarter of the lane pairs; values that are keys
(K=V) on the full layers of the large models; last layers that read the keys and values of earlier
ones; per-layer embeddings; experts beside every FFN; a factor on every layer's output.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

from vindex.errors import Unsupported
from vindex.families import _gemma4_gguf, _gguf_config, _larql_index
from vindex.families._assemble import layer_kinds, make_model
from vindex.families._base import ROTARY_INV_FREQ, DropRule, Family, Rebuilt
from vindex.families._config import MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, ConfigReader, show
from vindex.families._experts import Stacked
from vindex.families._geometry import Defaults, Geometry, read_geometry
from vindex.families._moe import read_counts
from vindex.families._tensors import FOUR_NORMS
from vindex.index import VindexIndex
from vindex.spec import (
    Activation,
    AttentionKind,
    AttentionSpec,
    DenseBeside,
    FfnSpec,
    LayerSpec,
    ModelSpec,
    MoeSpec,
    NormKind,
    NormSpec,
    Placement,
    PleSpec,
    Role,
    RopeScaling,
    RopeSpec,
    RoutingSpec,
)

_UNIFIED = ("gemma4_unified", "gemma4_unified_text")

# The class defaults of transformers, which released configs rely on.
_DEFAULTS = Defaults(max_positions=131072, vocab_size=262144, heads=8, kv_heads=4, head_size=256)
_DEFAULTS_UNIFIED = replace(_DEFAULTS, max_positions=262144)
_GLOBAL_HEAD_SIZE = 512
_PLE_SIZE = 256
_WINDOW = 512
_WINDOW_UNIFIED = 1024
_PATTERN = 6
_THETA = 1000000.0
_LOCAL_THETA = 10000.0
_PARTIAL = 0.25

_NAMING = FOUR_NORMS.with_experts(
    {
        Role.ROUTER: "layers.{layer}.router.proj.weight",
        Role.ROUTER_SCALE: "layers.{layer}.router.scale",
        Role.EXPERT_SCALE: "layers.{layer}.router.per_expert_scale",
        Role.EXPERT_GATE: "layers.{layer}.experts.{expert}.gate_proj.weight",
        Role.EXPERT_UP: "layers.{layer}.experts.{expert}.up_proj.weight",
        Role.EXPERT_DOWN: "layers.{layer}.experts.{expert}.down_proj.weight",
        Role.DENSE_POST_NORM: "layers.{layer}.post_feedforward_layernorm_1.weight",
        Role.EXPERTS_NORM: "layers.{layer}.pre_feedforward_layernorm_2.weight",
        Role.EXPERTS_POST_NORM: "layers.{layer}.post_feedforward_layernorm_2.weight",
    },
    Stacked(
        "layers.{layer}.experts.gate_up_proj", (Role.EXPERT_GATE, Role.EXPERT_UP), released=True
    ),
    Stacked("layers.{layer}.experts.down_proj", (Role.EXPERT_DOWN,), released=True),
)

_MEDIA = DropRule(
    "gemma4-vision-and-audio",
    re.compile(r"^(model\.)?(vision_tower|audio_tower|vision_embedder|embed_vision|embed_audio)\."),
    "image and audio input are not part of the text model",
)


def build(config: ConfigReader) -> ModelSpec:
    """The specification of a Gemma 4 configuration, multimodal or text-only."""
    text = config.section("text_config")
    has_ple = (text or config).states("hidden_size_per_layer_input")  # null means: none
    if text is not None:
        config = text.merged_over(config)
    unified = config.text("model_type") in _UNIFIED
    _refuse_what_is_missing(config)
    geometry = read_geometry(config, _DEFAULTS_UNIFIED if unified else _DEFAULTS)
    norm = NormSpec(NormKind.RMS, config.number("rms_norm_eps", 1e-6, high=1.0))
    ple = _per_layer_embeddings(config, geometry, norm, 0 if has_ple or unified else _PLE_SIZE)
    layers = _layers(config, geometry, norm, _WINDOW_UNIFIED if unified else _WINDOW)
    return make_model(
        config,
        geometry,
        layers,
        family=FAMILY.name,
        tied=True,
        naming=_NAMING,
        embed_scale=math.sqrt(geometry.hidden_size),
        logit_softcap=config.number_or_none("final_logit_softcapping"),
        ple=ple,
        starts_with_bos=True,
    )


def _refuse_what_is_missing(config: ConfigReader) -> None:
    # "vision" concerns image tokens only; text is causal.
    config.must_be_default("use_bidirectional_attention", "vision")
    config.must_be_default("attention_bias", False)
    # Keys of older generations, which no Gemma 4 has: another spelling would go unnoticed.
    for key in ("rope_scaling", "rope_theta", "rope_local_base_freq"):
        config.must_be_default(key)


def _per_layer_embeddings(
    config: ConfigReader, geometry: Geometry, norm: NormSpec, default: int
) -> PleSpec | None:
    size = config.integer("hidden_size_per_layer_input", default, low=0)
    if size == 0:
        return None
    rows = config.integer("vocab_size_per_layer_input", _DEFAULTS.vocab_size)
    if rows < geometry.vocab_size:
        config.contradiction(
            f"vocab_size_per_layer_input is {rows} and vocab_size {geometry.vocab_size}",
            "a per-layer embedding for every token",
        )
    return PleSpec(size=size, vocab_size=rows, activation=_activation(config), norm=norm)


def _layers(
    config: ConfigReader, geometry: Geometry, norm: NormSpec, default_window: int
) -> tuple[LayerSpec, ...]:
    kinds = _kinds(config, geometry.num_layers)
    shared = config.integer("num_kv_shared_layers", 0, low=0, high=geometry.num_layers - 1)
    first_sharing = geometry.num_layers - shared
    heads = _Heads.read(config, geometry)
    window = config.integer("sliding_window", default_window, high=MAX_POSITIONS)
    values_are_keys = config.flag("attention_k_eq_v", False)
    double = 2 if config.flag("use_double_wide_mlp", False) else 1
    has_experts = config.flag("enable_moe_block", False)
    layers = []
    for index, kind in enumerate(kinds):
        sharing = index >= first_sharing
        full = kind is AttentionKind.FULL
        head_size, kv_heads = heads.of(index, full=full)
        attention = AttentionSpec(
            kind=kind,
            heads=geometry.heads,
            kv_heads=kv_heads,
            head_size=head_size,
            scale=1.0,
            rope=_rope(config, kind, head_size),
            window=None if full else window,
            qk_norm=norm,
            v_norm=None if sharing else norm,
            values_are_keys=values_are_keys and full and not sharing,
            kv_source=_kv_source(config, kinds, first_sharing, index) if sharing else None,
        )
        dense = FfnSpec(
            geometry.intermediate_size * (double if sharing else 1), _activation(config)
        )
        ffn = _beside_experts(config, dense, norm) if has_experts else dense
        layers.append(LayerSpec(index, attention, ffn, Placement.SANDWICH, norm, scaled=True))
    for layer in layers:
        _check_source(config, layers, layer)
    return tuple(layers)


def _beside_experts(config: ConfigReader, dense: FfnSpec, norm: NormSpec) -> MoeSpec:
    """The experts of a layer, beside its dense FFN; larger models have them in every layer."""
    experts, chosen = read_counts(config, ("num_experts",), None, None, chosen_key="top_k_experts")
    return MoeSpec(
        RoutingSpec(experts, chosen, normalised=True, expert_scale=True, norm=norm),
        FfnSpec(config.integer("moe_intermediate_size"), dense.activation),
        beside=DenseBeside(dense, norm),
    )


def _activation(config: ConfigReader) -> Activation:
    return config.activation("hidden_activation", "gelu_pytorch_tanh")


def _kinds(config: ConfigReader, count: int) -> tuple[AttentionKind, ...]:
    kinds = layer_kinds(config, count, lambda index: bool((index + 1) % _PATTERN))
    return (*kinds[:-1], AttentionKind.FULL)  # the last is full whatever the list says


def _kv_source(
    config: ConfigReader, kinds: Sequence[AttentionKind], first_sharing: int, index: int
) -> int:
    """The last layer with keys of its own that has the same kind of attention."""
    for source in reversed(range(first_sharing)):
        if kinds[source] is kinds[index]:
            return source
    config.contradiction(
        f"num_kv_shared_layers is {len(kinds) - first_sharing}, which leaves layer {index}"
        f" ({kinds[index].value}) no keys to read",
        "a layer of every kind of attention with keys of its own",
    )


def _check_source(config: ConfigReader, layers: Sequence[LayerSpec], layer: LayerSpec) -> None:
    attention = layer.attention
    if attention.kv_source is None:
        return
    source = layers[attention.kv_source].attention
    if (source.kv_heads, source.head_size) != (attention.kv_heads, attention.head_size):
        config.contradiction(
            f"layer {layer.index} has other key heads than layer {attention.kv_source}, whose keys"
            " it reads",
            "key heads of the same number and size",
        )


@dataclass(frozen=True, slots=True)
class _Heads:
    """Head size and number of key heads of each layer, in either spelling."""

    sliding: tuple[int, int]
    full: tuple[int, int]
    by_layer: Mapping[int, tuple[int, int]] | None

    @staticmethod
    def read(config: ConfigReader, geometry: Geometry) -> _Heads:
        """The hub names the values of full layers; transformers 5 saves a table by layer."""
        own = (geometry.head_size, geometry.kv_heads)
        table = config.section("per_layer_config")
        if table is not None:
            return _Heads(own, own, _overrides(config, table, geometry))
        kv_heads = geometry.kv_heads
        if config.flag("attention_k_eq_v", False):
            kv_heads = config.integer("num_global_key_value_heads", kv_heads, high=MAX_HEADS)
        head_size = config.integer("global_head_dim", _GLOBAL_HEAD_SIZE, low=2)
        _check_heads(config, geometry.heads, head_size, kv_heads)
        return _Heads(own, (head_size, kv_heads), None)

    def of(self, layer: int, *, full: bool) -> tuple[int, int]:
        """Head size and key heads of a layer."""
        if self.by_layer is not None:
            return self.by_layer.get(layer, self.sliding)
        return self.full if full else self.sliding


def _overrides(
    config: ConfigReader, table: ConfigReader, geometry: Geometry
) -> dict[int, tuple[int, int]]:
    found = {}
    for key in table.names():
        if not key.isascii() or not key.isdecimal() or len(key) > len(str(MAX_LAYERS)):
            config.contradiction(f"per_layer_config names {show(key)}", "layer numbers")
        values = table.section(key)
        if values is None:
            continue
        for other in values.names():
            if other not in ("head_dim", "num_key_value_heads"):
                values.must_be_default(other)
        head_size = values.integer("head_dim", geometry.head_size, low=2)
        kv_heads = values.integer("num_key_value_heads", geometry.kv_heads, high=MAX_HEADS)
        _check_heads(values, geometry.heads, head_size, kv_heads)
        found[int(key)] = (head_size, kv_heads)
    return found


def _check_heads(config: ConfigReader, heads: int, head_size: int, kv_heads: int) -> None:
    if heads % kv_heads or head_size % 2:
        config.contradiction(
            f"{heads} query heads, {kv_heads} key heads of size {head_size}",
            "a whole number of query heads for every key head, of an even size",
        )


def _rope(config: ConfigReader, kind: AttentionKind, head_size: int) -> RopeSpec:
    """The rope of a layer: proportional by default on full layers, plain on sliding ones."""
    full = kind is AttentionKind.FULL
    theta, rule = (_THETA, RopeScaling.PROPORTIONAL) if full else (_LOCAL_THETA, RopeScaling.NONE)
    own = ConfigReader({"rope_type": rule.value, "partial_rotary_factor": _PARTIAL}, config.where)
    parameters = config.section("rope_parameters")
    if parameters is not None:
        section = parameters.section(kind.value)
        if section is None:
            config.contradiction(
                f"rope_parameters has no {kind.value}", "the rope of every kind of attention"
            )
        own = section
    plain = RopeSpec(own.number("rope_theta", theta), rotary_size=head_size)
    match own.text("rope_type", RopeScaling.NONE.value):
        case RopeScaling.NONE.value:
            return plain  # transformers looks at no other key of the plain rule
        case RopeScaling.PROPORTIONAL.value:
            share = own.number("partial_rotary_factor", 1.0, high=1.0)
            return replace(
                plain,
                scaling=RopeScaling.PROPORTIONAL,
                factor=own.number("factor", 1.0, high=1e6),
                turning_pairs=int(share * head_size // 2),
            )
        case other:
            raise Unsupported(
                f"{own.where}: rope_type is {show(other)}, which is not supported for Gemma 4",
                hint="supported: default, proportional",
            )


def stale_keys(spec: ModelSpec) -> tuple[DropRule, ...]:
    """Released files still hold k and v of the layers that read those of others: left-overs."""
    sharing = [str(each.index) for each in spec.layers if each.attention.kv_source is not None]
    if not sharing:
        return ()
    layers = "|".join(sharing)
    return (
        DropRule(
            "kv-shared-layer-stale-kv",
            re.compile(
                rf"\blayers\.({layers})\.self_attn\.(k_proj|v_proj|k_norm|v_norm)\."
                rf"|^blk\.({layers})\.attn_(k|v|k_norm)\."
            ),
            "the layer reads the keys and values of an earlier one; these are never used",
        ),
    )


def from_index(index: VindexIndex, have_keys: Container[str]) -> Rebuilt:
    """larql records everything of a dense Gemma 4 but the wide FFNs of sharing layers.

    Those show in the widths of the layers. A rope base other than Gemma 4's means that larql could
    not read the config's spelling and wrote its own default.
    """
    rebuilt = _larql_index.rebuild(
        index, have_keys, embed_scale=math.sqrt(index.hidden_size), tied_by_family=True
    )
    recorded, config = index.model_config, rebuilt.config
    assert recorded is not None, "rebuild refuses an index without model_config"
    theta, local = config.pop("rope_theta"), config.pop("rope_local_base_freq", _LOCAL_THETA)
    if _larql_index.runs(index) and (theta, local) != (_THETA, _LOCAL_THETA):
        raise Unsupported(
            f"index.json: rope_base is {theta:g} and rope_local_base {local:g}, expected"
            f" {_THETA:g} and {_LOCAL_THETA:g} for Gemma 4",
            hint=_larql_index.SUPPLY_CONFIG,
        )
    shared = recorded.num_kv_shared_layers or 0
    last = index.layer_info(index.num_layers - 1)
    notes = []
    partial = recorded.partial_rotary_factor
    if partial is None and _larql_index.runs(index):
        partial = _PARTIAL
        notes.append(f"index.json does not record partial_rotary_factor; {_PARTIAL:g} is assumed")
    config |= {
        "global_head_dim": recorded.global_head_dim,
        "num_global_key_value_heads": recorded.num_global_kv_heads,
        "attention_k_eq_v": recorded.attention_k_eq_v,
        "num_kv_shared_layers": shared,
        "hidden_size_per_layer_input": recorded.per_layer_embed_dim or 0,
        "vocab_size_per_layer_input": index.vocab_size,
        "use_double_wide_mlp": bool(
            shared and last is not None and last.num_features == 2 * index.intermediate_size
        ),
        "rope_parameters": {
            AttentionKind.FULL.value: {
                "rope_type": RopeScaling.PROPORTIONAL.value,
                "rope_theta": theta,
                "partial_rotary_factor": partial,
            },
            AttentionKind.SLIDING.value: {"rope_type": "default", "rope_theta": local},
        },
    }
    return Rebuilt(config, (*rebuilt.notes, *notes))


FAMILY = Family(
    name="gemma4",
    model_types=("gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text"),
    prefixes=(
        "model.language_model.model.",
        "model.language_model.",
        "language_model.model.",
        "language_model.",
        "model.",
    ),
    build=build,
    from_index=from_index,
    drops=(ROTARY_INV_FREQ, _MEDIA, _gguf_config.ROPE_FREQS),
    spec_drops=stale_keys,
    gguf=_gemma4_gguf.GGUF,
)
