"""``index.json``: the directory's table of contents, as a frozen value.

Read the way larql reads it (its defaults, its required keys, its refusal of nulls and of fractional
integers) but stricter: duplicate keys, NaN, numbers out of range and a layer listed twice are
errors. Keys nobody here knows are kept and written back. Written so that larql opens the result;
what it has no key for stands in keys it ignores (``tie_word_embeddings``, ``lql``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vindex import files
from vindex.bands import Bands
from vindex.errors import Unsupported
from vindex.kinds import ExtractLevel, Quant, StorageDtype
from vindex.strict_json import Fields, load

FORMAT_VERSION = 2

_MAX_BYTES = 64 << 20
_MAX_LAYERS = 1 << 16
_MAX_WIDTH = 1 << 28  # rows or columns of one matrix
_MAX_FEATURES = 1 << 40  # of all experts of a layer together
_QUANT_ALIASES = {"kquant": Quant.Q4K}


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """Where one layer's gate block lies in ``gate_vectors.bin``.

    Attributes:
        layer: layer index.
        num_features: rows of the block (F).
        offset, length: bytes.
        num_experts, num_features_per_expert: mixture-of-experts only.
    """

    layer: int
    num_features: int
    offset: int
    length: int
    num_experts: int | None = None
    num_features_per_expert: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Source:
    """Where the weights came from. ``extracted_at`` of larql's own files is off by weeks."""

    extracted_at: str
    larql_version: str
    huggingface_repo: str | None = None
    huggingface_revision: str | None = None
    safetensors_sha256: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MoeConfig:
    """Mixture-of-experts facts that larql records."""

    num_experts: int
    top_k: int
    shared_expert: bool = False
    router_type: str = "top_k_softmax"
    moe_intermediate_size: int | None = None
    hybrid: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class IndexModelConfig:
    """``model_config``: the part of a model's config that larql can express.

    Everything but the first five is optional. Rope scaling, attention soft caps and biases have no
    key here, which is why our vindexes carry the checkpoint's own ``config.json`` as well.
    """

    model_type: str
    head_dim: int
    num_q_heads: int
    num_kv_heads: int
    rope_base: float
    sliding_window: int | None = None
    moe: MoeConfig | None = None
    global_head_dim: int | None = None
    num_global_kv_heads: int | None = None
    partial_rotary_factor: float | None = None
    sliding_window_pattern: int | None = None
    layer_types: tuple[str, ...] | None = None
    attention_k_eq_v: bool = False
    num_kv_shared_layers: int | None = None
    per_layer_embed_dim: int | None = None
    rope_local_base: float | None = None
    query_pre_attn_scalar: float | None = None
    final_logit_softcapping: float | None = None
    attention_multiplier: float | None = None
    residual_multiplier: float | None = None
    logits_scaling: float | None = None
    norm_eps: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VindexIndex:
    """All of ``index.json``.

    Attributes:
        intermediate_size: model-wide FFN width; per-layer truth is ``layers[i].num_features``.
        vocab_size: rows of ``embeddings.bin``.
        embed_scale: float32 factor on looked-up embeddings.
        checksums: file name to lower-case SHA-256, of the files larql hashes.
        tie_word_embeddings: ours only; ``None`` in a vindex written by larql.
        lql: our provenance object; ``None`` in a vindex written by larql.
        extra: keys that no version of this code knows, written back unchanged.
    """

    model: str
    family: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    embed_scale: float
    layers: tuple[LayerInfo, ...]
    down_top_k: int
    version: int = FORMAT_VERSION
    source: Source | None = None
    checksums: Mapping[str, str] | None = None
    extract_level: ExtractLevel = ExtractLevel.BROWSE
    dtype: StorageDtype = StorageDtype.F32
    quant: Quant = Quant.NONE
    layer_bands: Bands | None = None
    has_model_weights: bool = False
    model_config: IndexModelConfig | None = None
    fp4: Any = None
    ffn_layout: str | None = None
    bitnet_layout: Any = None
    tie_word_embeddings: bool | None = None
    lql: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ours(self) -> bool:
        """Whether this code wrote the vindex, so that a seal and a config.json must be there."""
        return self.lql is not None

    @property
    def drops_gate_vectors(self) -> bool:
        """Whether it was written without ``gate_vectors.bin``, as a quantised vindex may be."""
        checksums = self.checksums or {files.GATE: ""}
        return self.quant is not Quant.NONE and files.GATE not in checksums

    @property
    def num_features(self) -> int:
        """Gate rows over all layers."""
        return sum(layer.num_features for layer in self.layers)

    def layer_info(self, layer: int) -> LayerInfo | None:
        """The entry of a layer, or ``None`` when it has no gate block."""
        return next((info for info in self.layers if info.layer == layer), None)

    def with_checksums(self, checksums: Mapping[str, str]) -> VindexIndex:
        """The same index with other checksums."""
        return replace(self, checksums=dict(checksums))


def parse_index(data: bytes, path: Path) -> VindexIndex:
    """Parse and validate ``index.json``.

    Args:
        data: its bytes.
        path: the file, for messages.

    Raises:
        VindexInvalid: not JSON, a required key missing, a wrong type, a number out of range, an
            unknown enum string, or layers that contradict ``num_layers``.
        Unsupported: a format version newer than this code.
    """
    top = Fields(load(data, path), path)
    version = top.integer("version")
    if version > FORMAT_VERSION:
        raise Unsupported(
            f"{path.name} has format version {version}; this version reads up to {FORMAT_VERSION}",
            hint="update lql",
            path=path,
        )
    num_layers = top.integer("num_layers", 1, _MAX_LAYERS)
    index = VindexIndex(
        version=version,
        model=top.text("model"),
        family=top.text("family"),
        source=_parse_source(top.child("source")),
        checksums=_parse_checksums(top),
        num_layers=num_layers,
        hidden_size=top.integer("hidden_size", 1, _MAX_WIDTH),
        intermediate_size=top.integer("intermediate_size", 0, _MAX_WIDTH),
        vocab_size=top.integer("vocab_size", 1, _MAX_WIDTH),
        embed_scale=_positive(top, "embed_scale"),
        extract_level=top.choice("extract_level", ExtractLevel.BROWSE),
        dtype=top.choice("dtype", StorageDtype.F32),
        quant=top.choice("quant", Quant.NONE, _QUANT_ALIASES),
        layer_bands=_parse_bands(top.child("layer_bands"), num_layers),
        layers=_parse_layers(top, path, num_layers),
        down_top_k=top.integer("down_top_k", 0, 1 << 16),
        has_model_weights=top.boolean("has_model_weights", default=False),
        model_config=_parse_model_config(top.child("model_config")),
        fp4=top.raw("fp4"),
        ffn_layout=top.text_or_none("ffn_layout"),
        bitnet_layout=top.raw("bitnet_layout"),
        tie_word_embeddings=(
            top.boolean("tie_word_embeddings", default=False)
            if top.present("tie_word_embeddings")
            else None
        ),
        lql=_parse_object(top, "lql"),
        extra={},
    )
    return replace(index, extra=top.rest())


def _positive(fields: Fields, key: str) -> float:
    value = fields.number(key)
    if not 0 < value < 1e30:
        fields.refuse(key, f"{value} is not a usable positive number")
    return value


def _positive_or_none(fields: Fields, key: str) -> float | None:
    return _positive(fields, key) if fields.raw(key) is not None else None


def _parse_object(fields: Fields, key: str) -> Mapping[str, Any] | None:
    child = fields.child(key)
    return None if child is None else child.rest()


def _parse_checksums(top: Fields) -> dict[str, str] | None:
    checksums = top.text_map("checksums")
    for name, digest in (checksums or {}).items():
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            top.refuse(f"checksums.{name}", "not a SHA-256 in lower-case hex")
    return checksums


def _parse_source(fields: Fields | None) -> Source | None:
    if fields is None:
        return None
    source = Source(
        extracted_at=fields.text("extracted_at"),
        larql_version=fields.text("larql_version"),
        huggingface_repo=fields.text_or_none("huggingface_repo"),
        huggingface_revision=fields.text_or_none("huggingface_revision"),
        safetensors_sha256=fields.text_or_none("safetensors_sha256"),
    )
    return replace(source, extra=fields.rest())


def _parse_bands(fields: Fields | None, num_layers: int) -> Bands | None:
    if fields is None:
        return None
    spans: list[tuple[int, int]] = []
    for key in ("syntax", "knowledge", "output"):
        pair = fields.array(key, limit=2)
        if len(pair) != 2 or any(type(end) is not int for end in pair):
            fields.refuse(key, "expected [first layer, last layer]")
        first, last = pair
        if not 0 <= first <= last < num_layers:
            fields.refuse(key, f"{first}..{last} is no layer range of a {num_layers}-layer model")
        spans.append((first, last))
    return Bands(*spans)


def _parse_layers(top: Fields, path: Path, num_layers: int) -> tuple[LayerInfo, ...]:
    layers: list[LayerInfo] = []
    seen: set[int] = set()
    for position, value in enumerate(top.array("layers", limit=num_layers)):
        fields = Fields(value, path, f"layers[{position}]")
        info = LayerInfo(
            layer=fields.integer("layer", 0, num_layers - 1),
            num_features=fields.integer("num_features", 0, _MAX_FEATURES),
            offset=fields.integer("offset"),
            length=fields.integer("length"),
            num_experts=fields.integer_or_none("num_experts", 0, _MAX_WIDTH),
            num_features_per_expert=fields.integer_or_none("num_features_per_expert"),
        )
        if info.layer in seen:
            fields.refuse("layer", f"layer {info.layer} is listed twice")
        seen.add(info.layer)
        layers.append(replace(info, extra=fields.rest()))
    return tuple(sorted(layers, key=lambda info: info.layer))


def _parse_moe(fields: Fields | None) -> MoeConfig | None:
    if fields is None:
        return None
    moe = MoeConfig(
        num_experts=fields.integer("num_experts", 0, _MAX_WIDTH),
        top_k=fields.integer("top_k", 0, _MAX_WIDTH),
        shared_expert=fields.boolean("shared_expert", default=False),
        router_type=fields.text_or_none("router_type") or "top_k_softmax",
        moe_intermediate_size=fields.integer_or_none("moe_intermediate_size", 0, _MAX_WIDTH),
        hybrid=fields.boolean("hybrid", default=False),
    )
    return replace(moe, extra=fields.rest())


def _parse_model_config(fields: Fields | None) -> IndexModelConfig | None:
    if fields is None:
        return None
    layer_types = fields.array_or_none("layer_types", limit=_MAX_LAYERS)
    if layer_types is not None and any(type(name) is not str for name in layer_types):
        fields.refuse("layer_types", "expected an array of strings")
    config = IndexModelConfig(
        model_type=fields.text("model_type"),
        head_dim=fields.integer("head_dim", 1, _MAX_WIDTH),
        num_q_heads=fields.integer("num_q_heads", 1, _MAX_WIDTH),
        num_kv_heads=fields.integer("num_kv_heads", 1, _MAX_WIDTH),
        rope_base=_positive(fields, "rope_base"),
        sliding_window=fields.integer_or_none("sliding_window"),
        moe=_parse_moe(fields.child("moe")),
        global_head_dim=fields.integer_or_none("global_head_dim", 1, _MAX_WIDTH),
        num_global_kv_heads=fields.integer_or_none("num_global_kv_heads", 1, _MAX_WIDTH),
        partial_rotary_factor=_positive_or_none(fields, "partial_rotary_factor"),
        sliding_window_pattern=fields.integer_or_none("sliding_window_pattern"),
        layer_types=None if layer_types is None else tuple(layer_types),
        attention_k_eq_v=fields.boolean("attention_k_eq_v", default=False),
        num_kv_shared_layers=fields.integer_or_none("num_kv_shared_layers"),
        per_layer_embed_dim=fields.integer_or_none("per_layer_embed_dim"),
        rope_local_base=_positive_or_none(fields, "rope_local_base"),
        query_pre_attn_scalar=_positive_or_none(fields, "query_pre_attn_scalar"),
        final_logit_softcapping=_positive_or_none(fields, "final_logit_softcapping"),
        attention_multiplier=fields.number_or_none("attention_multiplier"),
        residual_multiplier=fields.number_or_none("residual_multiplier"),
        logits_scaling=fields.number_or_none("logits_scaling"),
        norm_eps=fields.number_or_none("norm_eps"),
    )
    return replace(config, extra=fields.rest())


def read_index(directory: Path) -> VindexIndex:
    """Read ``index.json`` of a directory.

    Raises:
        VindexIncomplete: there is no ``index.json``.
        VindexInvalid: as ``parse_index``, or it is no readable regular file.
    """
    path = directory / files.INDEX
    return parse_index(files.read_small(path, _MAX_BYTES), path)


def shortest_float32(value: float) -> float:
    """The double whose shortest decimal is that of the float32 nearest to ``value``.

    larql prints float32 fields with as many digits as a float32 needs: 9.797959, not
    9.797959327697754.
    """
    return float(str(np.float32(value)))


#: ``model_config`` keys that larql writes even when null or false, in its order.
_ALWAYS_WRITTEN = frozenset({"sliding_window", "moe", "attention_k_eq_v"})
_CONFIG_ORDER = tuple(
    name for name in IndexModelConfig.__dataclass_fields__ if name not in ("extra", "moe")
)


def _model_config_json(config: IndexModelConfig) -> dict[str, Any]:
    """``model_config`` as larql writes it, keys in its order."""
    result: dict[str, Any] = {}
    for name in _CONFIG_ORDER:
        value = getattr(config, name)
        if value is not None or name in _ALWAYS_WRITTEN:
            result[name] = list(value) if isinstance(value, tuple) else value
        if name == "sliding_window":
            result["moe"] = None if config.moe is None else _moe_json(config.moe)
    return result | dict(config.extra)


def _moe_json(moe: MoeConfig) -> dict[str, Any]:
    result: dict[str, Any] = {
        "num_experts": moe.num_experts,
        "top_k": moe.top_k,
        "shared_expert": moe.shared_expert,
        "router_type": moe.router_type,
    }
    if moe.moe_intermediate_size is not None:
        result["moe_intermediate_size"] = moe.moe_intermediate_size
    return result | {"hybrid": moe.hybrid} | dict(moe.extra)


def _source_json(source: Source) -> dict[str, Any]:
    return {
        "huggingface_repo": source.huggingface_repo,
        "huggingface_revision": source.huggingface_revision,
        "safetensors_sha256": source.safetensors_sha256,
        "extracted_at": source.extracted_at,
        "larql_version": source.larql_version,
        **source.extra,
    }


def _layer_json(info: LayerInfo) -> dict[str, Any]:
    result: dict[str, Any] = {
        "layer": info.layer,
        "num_features": info.num_features,
        "offset": info.offset,
        "length": info.length,
    }
    if info.num_experts is not None:
        result["num_experts"] = info.num_experts
    if info.num_features_per_expert is not None:
        result["num_features_per_expert"] = info.num_features_per_expert
    return result | dict(info.extra)


def index_json(index: VindexIndex) -> dict[str, Any]:
    """The JSON object of an index, keys in larql's order, ours and unknown ones last."""
    bands = index.layer_bands
    result: dict[str, Any] = {
        "version": index.version,
        "model": index.model,
        "family": index.family,
        "source": None if index.source is None else _source_json(index.source),
        "checksums": None if index.checksums is None else dict(index.checksums),
        "num_layers": index.num_layers,
        "hidden_size": index.hidden_size,
        "intermediate_size": index.intermediate_size,
        "vocab_size": index.vocab_size,
        "embed_scale": shortest_float32(index.embed_scale),
        "extract_level": index.extract_level.value,
        "dtype": index.dtype.value,
        "quant": index.quant.value,
        "layer_bands": None if bands is None else bands.to_json(),
        "layers": [_layer_json(info) for info in index.layers],
        "down_top_k": index.down_top_k,
        "has_model_weights": index.has_model_weights,
        "model_config": (
            None if index.model_config is None else _model_config_json(index.model_config)
        ),
    }
    optional = {
        "fp4": index.fp4,
        "ffn_layout": index.ffn_layout,
        "bitnet_layout": index.bitnet_layout,
        "tie_word_embeddings": index.tie_word_embeddings,
        "lql": None if index.lql is None else dict(index.lql),
    }
    result |= {key: value for key, value in optional.items() if value is not None}
    return result | dict(index.extra)


def dump_index(index: VindexIndex) -> bytes:
    """``index.json`` as bytes: two-space indent, UTF-8."""
    return json.dumps(index_json(index), indent=2, ensure_ascii=False, allow_nan=False).encode()
