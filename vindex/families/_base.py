"""What a family module provides."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from vindex.families._config import ConfigReader
from vindex.spec import ModelSpec, Role

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
        known: metadata of the architecture that only this family computes with.
    """

    architectures: tuple[str, ...]
    config: Callable[[GgufFacts], dict[str, Any]]
    permuted: frozenset[Role] = frozenset()
    norm_offset: bool = False
    known: frozenset[str] = frozenset()


class GgufFacts(Protocol):
    """What a family may ask a GGUF file for while rebuilding its configuration.

    Attributes:
        architecture: ``general.architecture``.
        known: see ``GgufRules``.
    """

    architecture: str
    known: frozenset[str]

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
        renamed: other names (without prefix) of tensors, with their keys.
        gguf: ``None`` when its GGUF files are not read.
        gguf_as: the family as whose its GGUF files are read, where they do not say that they
            are of this one.
    """

    name: str
    model_types: tuple[str, ...]
    prefixes: tuple[str, ...]
    build: Callable[[ConfigReader], ModelSpec]
    from_index: Callable[[VindexIndex, Container[str]], Rebuilt]
    drops: tuple[DropRule, ...] = (ROTARY_INV_FREQ,)
    spec_drops: Callable[[ModelSpec], tuple[DropRule, ...]] | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    gguf: GgufRules | None = None
    gguf_as: str | None = None

    def key(self, name: str) -> str:
        """The vindex key of a checkpoint tensor name."""
        for prefix in self.prefixes:
            if name.startswith(prefix):
                name = name[len(prefix) :]
                break
        return self.renamed.get(name, name)

    def drop_rules(self, spec: ModelSpec) -> tuple[DropRule, ...]:
        """The rules for a checkpoint of this model."""
        return self.drops if self.spec_drops is None else (*self.drops, *self.spec_drops(spec))

    def checkpoint_name(self, key: str) -> str:
        """The name that transformers gives the tensor of a vindex key."""
        for name, renamed in self.renamed.items():
            if renamed == key:
                return name
        if key.startswith("lm_head."):
            return key
        return ("model." if "model." in self.prefixes else self.prefixes[0]) + key
