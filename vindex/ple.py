"""The per-layer-embedding sidecar of Gemma 4: its tensors, their order, their form, their loss.

``ple_weights.bin`` is f16 in every vindex, whatever the dtype of the rest; its manifest kind is
``tensor_f16``. In file order::

    per_layer_model_projection.weight       [L E, D]
    embed_tokens_per_layer.weight           [V, L E]   the largest tensor of the model
    layers.N.per_layer_input_gate.weight    [E, D]     for each layer, followed by
    layers.N.per_layer_projection.weight    [D, E]

The vectors that belong to it stand in ``norms.bin`` with its dtype: ``layers.N.layer_scalar`` [1]
and ``layers.N.post_per_layer_input_norm.weight`` [D] after the other norms of their layer,
``per_layer_projection_norm.weight`` [E] after ``norm.weight``.

Writers of every kind and the check at load come here. A vindex without these tensors looks
complete to code that does not ask for them, and gives near-random tokens.

Notation: E size of a layer's vector, L layers, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from vindex.errors import VindexIncomplete
from vindex.kinds import ExtractLevel, StorageDtype
from vindex.spec import PleSpec, Role, StorageFile, TensorSpec

FILE = StorageFile.PLE
DTYPE = StorageDtype.F16
TOO_LARGE = "the format keeps per-layer embeddings in f16 only, so this checkpoint does not fit it"

#: What a model with per-layer embeddings cannot do without.
ROLES = frozenset(
    {
        Role.PLE_PROJECTION,
        Role.PLE_PROJECTION_NORM,
        Role.PLE_TABLE,
        Role.PLE_GATE,
        Role.PLE_OUTPUT,
        Role.PLE_NORM,
        Role.LAYER_SCALAR,
    }
)

_SHOWN = 6


def model_matrices(ple: PleSpec, num_layers: int, hidden_size: int) -> Iterator[TensorSpec]:
    """The model-wide tensors of the file."""
    width = num_layers * ple.size
    yield _tensor(
        Role.PLE_PROJECTION, None, "per_layer_model_projection.weight", (width, hidden_size)
    )
    yield _tensor(Role.PLE_TABLE, None, "embed_tokens_per_layer.weight", (ple.vocab_size, width))


def layer_matrices(ple: PleSpec, layer: int, hidden_size: int) -> Iterator[TensorSpec]:
    """A layer's tensors of the file."""
    yield _tensor(Role.PLE_GATE, layer, "per_layer_input_gate.weight", (ple.size, hidden_size))
    yield _tensor(Role.PLE_OUTPUT, layer, "per_layer_projection.weight", (hidden_size, ple.size))


def layer_norm(layer: int, hidden_size: int) -> TensorSpec:
    """A layer's norm, kept with the other norms."""
    key = "post_per_layer_input_norm.weight"
    return _tensor(Role.PLE_NORM, layer, key, (hidden_size,), StorageFile.NORMS)


def model_norm(ple: PleSpec) -> TensorSpec:
    """The norm of the projected embedding, kept with the other norms."""
    key = "per_layer_projection_norm.weight"
    return _tensor(Role.PLE_PROJECTION_NORM, None, key, (ple.size,), StorageFile.NORMS)


def layer_scalar(layer: int) -> TensorSpec:
    """The factor of a layer's output, kept with the norms. Gemma 4 without PLE has it as well."""
    return _tensor(Role.LAYER_SCALAR, layer, "layer_scalar", (1,), StorageFile.NORMS)


def lost(path: Path, missing: Sequence[TensorSpec], hint: str) -> VindexIncomplete:
    """The error for a vindex that lacks tensors, some of them of ``ROLES``.

    Args:
        path: the vindex.
        missing: every tensor that is not there.
        hint: the EXTRACT that writes it again.
    """
    keys = [tensor.key for tensor in missing if tensor.role in ROLES]
    count = "1 tensor" if len(keys) == 1 else f"{len(keys)} tensors"
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return VindexIncomplete(
        f"{path} is missing {count} of Gemma 4's per-layer embeddings "
        f"({', '.join(keys[:_SHOWN])}{more}): its writer left them out (larql's float extract "
        "did before chrishayuk/larql#49) or they were lost since, and without them INFER would "
        "answer near-random tokens",
        hint=hint,
        path=path,
        details=[tensor.key for tensor in missing],
    )


def _tensor(
    role: Role,
    layer: int | None,
    key: str,
    shape: tuple[int, ...],
    file: StorageFile = FILE,
) -> TensorSpec:
    prefix = "" if layer is None else f"layers.{layer}."
    return TensorSpec(role, layer, prefix + key, shape, file, ExtractLevel.ATTENTION)
