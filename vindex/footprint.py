"""What a statement will map and multiply, told from shapes: no page of a weight is touched."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vindex import files
from vindex.checkpoint import CheckpointSource
from vindex.kinds import ExtractLevel
from vindex.source import QuantTensor
from vindex.spec import ModelSpec, MoeSpec, Role, TensorSpec

if TYPE_CHECKING:
    from vindex.store import Vindex


@dataclass(frozen=True, slots=True)
class FileUse:
    """Bytes of a file that are read."""

    file: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Work:
    """What a forward pass costs.

    Attributes:
        weight_bytes: of every tensor, as stored.
        multiply_adds_per_token: of its matrices for one token, without those of attention scores;
            of experts only as many as a token visits.
        multiply_adds_of_head: once for each position that is asked for its logits.
    """

    weight_bytes: int
    multiply_adds_per_token: int
    multiply_adds_of_head: int

    def multiply_adds(self, tokens: int, asked: int = 1) -> int:
        """Of a pass over so many tokens, asked for the logits of the last few."""
        return tokens * self.multiply_adds_per_token + asked * self.multiply_adds_of_head


def work_of(source: Vindex | CheckpointSource) -> Work:
    """What running a model costs."""
    spec = source.spec
    total, per_token = 0, 0
    for tensor in _stored(source):
        total += _bytes(source, tensor)
        if len(tensor.shape) == 2 and tensor.layer is not None:
            per_token += round(math.prod(tensor.shape) * _visited(spec, tensor))
    head = spec.vocab_size * spec.embedding_size
    return Work(total, per_token, head)


def weight_files(vindex: Vindex) -> tuple[FileUse, ...]:
    """The files that a forward pass reads, and how much of each, largest first."""
    found: dict[str, int] = {}
    for tensor in _stored(vindex):
        name = vindex.file_of(*tensor.identity)
        found[name] = found.get(name, 0) + _bytes(vindex, tensor)
    return tuple(FileUse(name, found[name]) for name in sorted(found, key=lambda n: -found[n]))


def gate_use(vindex: Vindex, layers: Iterable[int]) -> FileUse:
    """The gate vectors of some layers."""
    gates, places = vindex.gate_vectors, list(layers)
    name = gates.file(places[0]) if places else files.GATE
    return FileUse(name, sum(gates.stored_bytes(layer) for layer in places))


def embedding_use(vindex: Vindex, rows: int) -> FileUse:
    """Some rows of the embedding."""
    array = vindex.embeddings.array
    return FileUse(files.EMBEDDINGS, rows * (array.nbytes // max(1, array.shape[0])))


def token_use(vindex: Vindex, layers: Iterable[int]) -> FileUse:
    """The records of some layers' features: what each of them writes."""
    meta = vindex.down_meta
    return FileUse(files.DOWN_META, sum(meta.records(layer).nbytes for layer in layers))


def can_run(vindex: Vindex) -> bool:
    """Whether the level holds every weight; opening has looked for the tensors themselves."""
    return vindex.level >= ExtractLevel.INFERENCE


def _stored(source: Vindex | CheckpointSource) -> list[TensorSpec]:
    return [tensor for tensor in source.spec.tensors if source.has(*tensor.identity)]


def _bytes(source: Vindex | CheckpointSource, tensor: TensorSpec) -> int:
    if isinstance(source, CheckpointSource):
        return source.size_of(*tensor.identity)
    if tensor.role is Role.EMBED:
        return source.tensor(*tensor.identity).array.nbytes
    stored = source.matrix(*tensor.identity)
    return stored.matrix.data.nbytes if isinstance(stored, QuantTensor) else stored.array.nbytes


def _visited(spec: ModelSpec, tensor: TensorSpec) -> float:
    """The share of tokens that a tensor is multiplied with."""
    if tensor.expert is None or tensor.layer is None:
        return 1.0
    ffn = spec.layers[tensor.layer].ffn
    return ffn.routing.chosen / ffn.routing.experts if isinstance(ffn, MoeSpec) else 1.0
