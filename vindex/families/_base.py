"""What a family module provides, and the tensor tables that families share."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from vindex import ple as sidecar
from vindex.families._config import ConfigReader
from vindex.kinds import ExtractLevel
from vindex.spec import LayerSpec, ModelSpec, Placement, PleSpec, Role, StorageFile, TensorSpec

if TYPE_CHECKING:
    from vindex.index import VindexIndex


@dataclass(frozen=True, slots=True)
class DropRule:
    """Names checkpoint tensors that are not part of the text model, and says why that is safe.

    Attributes:
        name: stable identifier, shown in the extract report.
        pattern: must match somewhere in the checkpoint's own tensor name.
        reason: one sentence for people.
    """

    name: str
    pattern: re.Pattern[str]
    reason: str


ROTARY_INV_FREQ = DropRule(
    "rotary-inv-freq",
    re.compile(r"\.rotary_emb\.inv_freq$"),
    "a table that the rope parameters of config.json determine",
)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A Hugging Face configuration rebuilt from a larql ``index.json``.

    Attributes:
        config: what ``config.json`` would hold.
        notes: what the index could not tell, for the user.
    """

    config: dict[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GgufRules:
    """How a family's GGUF files differ from its Hugging Face checkpoints.

    Attributes:
        architectures: values of ``general.architecture``.
        config: GGUF metadata (scalars and arrays by key) and tensor names -> ``config.json``.
        permuted: roles whose rows GGUF interleaves per head for its rope layout.
        norm_offset: GGUF stores RMS weights as ``1 + w``; the reader subtracts one.
    """

    architectures: tuple[str, ...]
    config: Callable[[GgufFacts], dict[str, Any]]
    permuted: frozenset[Role] = frozenset()
    norm_offset: bool = False


class GgufFacts(Protocol):
    """What a family may ask a GGUF file for while rebuilding its configuration."""

    architecture: str

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Key to scalar, string or array."""

    def has_tensor(self, name: str) -> bool:
        """Whether the file holds a tensor of this GGUF name."""

    def vector(self, name: str) -> list[float]:
        """The values of a small float tensor."""

    def rows(self, name: str) -> int:
        """The slowest dimension of a tensor."""


@dataclass(frozen=True, slots=True)
class Family:
    """One model family.

    Attributes:
        name: written to ``index.json`` as ``family``.
        model_types: values of a config's top-level ``model_type`` that belong to it.
        prefixes: the first that a checkpoint name starts with is stripped to give the key.
        build: configuration -> specification.
        from_index: what a larql vindex records -> configuration; raises ``Unsupported`` where
            the record is lossy.
        drops: tensors of its checkpoints that are left out on purpose.
        spec_drops: further rules that depend on the model.
        gguf: ``None`` when its GGUF files are not read.
    """

    name: str
    model_types: tuple[str, ...]
    prefixes: tuple[str, ...]
    build: Callable[[ConfigReader], ModelSpec]
    from_index: Callable[[VindexIndex, Container[str]], Rebuilt]
    drops: tuple[DropRule, ...] = (ROTARY_INV_FREQ,)
    spec_drops: Callable[[ModelSpec], tuple[DropRule, ...]] | None = None
    gguf: GgufRules | None = None

    def key(self, name: str) -> str:
        """The vindex key of a checkpoint tensor name."""
        for prefix in self.prefixes:
            if name.startswith(prefix):
                return name[len(prefix) :]
        return name

    def drop_rules(self, spec: ModelSpec) -> tuple[DropRule, ...]:
        """The rules for a checkpoint of this model."""
        return self.drops if self.spec_drops is None else (*self.drops, *self.spec_drops(spec))

    @staticmethod
    def checkpoint_name(key: str) -> str:
        """The name that transformers gives the tensor of a vindex key."""
        return key if key.startswith("lm_head.") else f"model.{key}"


_NORM_KEYS: Mapping[Placement, tuple[tuple[Role, str], ...]] = {
    Placement.PRE: (
        (Role.ATTN_NORM, "input_layernorm.weight"),
        (Role.FFN_NORM, "post_attention_layernorm.weight"),
    ),
    Placement.SANDWICH: (
        (Role.ATTN_NORM, "input_layernorm.weight"),
        (Role.ATTN_POST_NORM, "post_attention_layernorm.weight"),
        (Role.FFN_NORM, "pre_feedforward_layernorm.weight"),
        (Role.FFN_POST_NORM, "post_feedforward_layernorm.weight"),
    ),
}


def decoder_tensors(
    layers: tuple[LayerSpec, ...],
    *,
    vocab_size: int,
    hidden_size: int,
    tied: bool,
    ple: PleSpec | None = None,
) -> tuple[TensorSpec, ...]:
    """Every tensor of a decoder with the llama naming scheme, in model order.

    Filtered by file, the order is larql's: its readers do not need it, people comparing do.
    """
    embed = TensorSpec(
        Role.EMBED,
        None,
        "embed_tokens.weight",
        (vocab_size, hidden_size),
        StorageFile.EMBEDDINGS,
        ExtractLevel.BROWSE,
    )
    final = TensorSpec(
        Role.FINAL_NORM,
        None,
        "norm.weight",
        (hidden_size,),
        StorageFile.NORMS,
        ExtractLevel.ATTENTION,
    )
    head = TensorSpec(
        Role.HEAD,
        None,
        "lm_head.weight",
        (vocab_size, hidden_size),
        StorageFile.HEAD,
        ExtractLevel.INFERENCE,
        optional=tied,
    )
    per_layer = [t for layer in layers for t in _layer_tensors(layer, hidden_size, ple)]
    if ple is None:
        return (embed, *per_layer, final, head)
    matrices = sidecar.model_matrices(ple, len(layers), hidden_size)
    return (embed, *matrices, *per_layer, final, sidecar.model_norm(ple), head)


def _layer_tensors(layer: LayerSpec, hidden: int, ple: PleSpec | None) -> Iterator[TensorSpec]:
    attention, ffn = layer.attention, layer.ffn
    q_size = attention.heads * attention.head_size
    kv_size = attention.kv_heads * attention.head_size

    def tensor(
        role: Role, key: str, shape: tuple[int, ...], file: StorageFile, level: ExtractLevel
    ) -> TensorSpec:
        return TensorSpec(role, layer.index, f"layers.{layer.index}.{key}", shape, file, level)

    def vector(role: Role, key: str, size: int, level: ExtractLevel) -> TensorSpec:
        return tensor(role, key, (size,), StorageFile.NORMS, level)

    absent: tuple[Role, ...] = ()
    if attention.kv_source is not None:
        absent = (Role.K, Role.V, Role.K_NORM)
    elif attention.values_are_keys:
        absent = (Role.V,)
    at_attention, at_inference = ExtractLevel.ATTENTION, ExtractLevel.INFERENCE
    width = ffn.width
    for role, key, shape, file, level in (
        (Role.Q, "self_attn.q_proj.weight", (q_size, hidden), StorageFile.ATTENTION, at_attention),
        (Role.K, "self_attn.k_proj.weight", (kv_size, hidden), StorageFile.ATTENTION, at_attention),
        (Role.V, "self_attn.v_proj.weight", (kv_size, hidden), StorageFile.ATTENTION, at_attention),
        (Role.O, "self_attn.o_proj.weight", (hidden, q_size), StorageFile.ATTENTION, at_attention),
    ):
        if role not in absent:
            yield tensor(role, key, shape, file, level)
    if attention.qk_norm is not None:
        for role, key in ((Role.Q_NORM, "q_norm"), (Role.K_NORM, "k_norm")):
            if role in absent:
                continue
            key = f"self_attn.{key}.weight"
            size = (attention.head_size,)
            yield tensor(role, key, size, StorageFile.ATTENTION, at_attention)
    for role, key, shape, file, level in (
        (Role.GATE, "mlp.gate_proj.weight", (width, hidden), StorageFile.GATE, ExtractLevel.BROWSE),
        (Role.UP, "mlp.up_proj.weight", (width, hidden), StorageFile.UP, at_inference),
        (Role.DOWN, "mlp.down_proj.weight", (hidden, width), StorageFile.DOWN, at_inference),
    ):
        yield tensor(role, key, shape, file, level)
    for role, key in _NORM_KEYS[layer.placement]:
        yield vector(role, key, hidden, at_attention)
    if layer.scaled:
        yield sidecar.layer_scalar(layer.index)
    if ple is not None:
        yield sidecar.layer_norm(layer.index, hidden)
        yield from sidecar.layer_matrices(ple, layer.index, hidden)
    if attention.qkv_bias:
        yield vector(Role.Q_BIAS, "self_attn.q_proj.bias", q_size, at_attention)
        yield vector(Role.K_BIAS, "self_attn.k_proj.bias", kv_size, at_attention)
        yield vector(Role.V_BIAS, "self_attn.v_proj.bias", kv_size, at_attention)
    if attention.output_bias:
        yield vector(Role.O_BIAS, "self_attn.o_proj.bias", hidden, at_attention)
    if ffn.bias:
        yield vector(Role.GATE_BIAS, "mlp.gate_proj.bias", width, at_inference)
        yield vector(Role.UP_BIAS, "mlp.up_proj.bias", width, at_inference)
        yield vector(Role.DOWN_BIAS, "mlp.down_proj.bias", hidden, at_inference)
