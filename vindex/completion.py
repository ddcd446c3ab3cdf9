"""Completing a vindex that larql wrote from the checkpoint it was made from.

larql records too little of some models (rope scaling, soft caps) and leaves tensors out (biases,
the parts of Gemma 4's per-layer embeddings before they were written). Both are still in the
checkpoint: its ``config.json`` says what the model is, its tensors fill the gaps. Nothing is
written; what both have must agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vindex.checkpoint import Checkpoint, CheckpointSource, open_checkpoint
from vindex.closing import Closing
from vindex.errors import CheckpointError, VindexIncomplete, VindexInvalid
from vindex.families import families
from vindex.files import CONFIG, read_small
from vindex.kinds import StorageDtype
from vindex.opening import inspect
from vindex.source import QuantTensor, StoredTensor
from vindex.spec import Role, TensorIdentity, TensorSpec
from vindex.store import Contents, Vindex, quoted
from vindex.strict_json import load

_MAX_JSON = 64 << 20
_WEIGHTS = ("*.safetensors", "*.gguf", "*.bin", "*.pt")
# larql cuts float32 to f16 without rounding, and what is below f16's normal numbers to zero.
_CUT, _FLUSHED = 2.0**-10, 2.0**-14
_BLOCKS = 0.25  # relative error of rows in blocks: Q4_K's is 0.08 of normal weights
_ROWS = 3  # of a matrix that are compared: the first, a middle and the last one


class Completion(Closing):
    """What a checkpoint, or its ``config.json`` alone, adds to a vindex.

    Attributes:
        name: as the user wrote it.
        config: the model's configuration.
        added: the tensors it adds, once ``fill`` has been asked.

    Args:
        reference: a ``config.json``, a directory with one, or a checkpoint as EXTRACT takes it.

    Raises:
        CheckpointError: it is not there, or cannot be read.
    """

    def __init__(self, reference: str) -> None:
        self.name = reference
        self.added: frozenset[TensorIdentity] = frozenset()
        self._checkpoint: Checkpoint | None = None
        self._source: CheckpointSource | None = None
        path = Path(reference).expanduser()
        if path.is_file() and path.suffix == ".json":
            self.config = _object(path)
        elif path.is_dir() and (path / CONFIG).is_file() and not _has_weights(path):
            self.config = _object(path / CONFIG)
        else:
            self._checkpoint = open_checkpoint(path if path.exists() else reference)
            self.config = self._checkpoint.config

    def fill(self, path: Path, missing: Sequence[TensorSpec]) -> None:
        """Take tensors that a vindex lacks from the checkpoint.

        Raises:
            VindexIncomplete: there are some, and only a ``config.json`` was given.
            LedgerRefusal, Unsupported: the checkpoint does not account for the model.
        """
        if self._checkpoint is not None:
            self._source = CheckpointSource(self._checkpoint)
        elif missing:
            count = "a tensor" if len(missing) == 1 else f"{len(missing)} tensors"
            raise VindexIncomplete(
                f"{path} lacks {count} (e.g. {missing[0].key}) that a configuration cannot give",
                hint=f'name the whole checkpoint: USE {quoted(str(path))} CONFIG "checkpoint";'
                " (--config on the command line)",
                path=path,
                details=[tensor.key for tensor in missing],
            )
        self.added = frozenset(tensor.identity for tensor in missing)

    def tensor(self, place: TensorIdentity) -> StoredTensor:
        """A tensor of the checkpoint."""
        assert self._source is not None, "only an open checkpoint adds tensors"
        return self._source.tensor(*place)

    def check(self, vindex: Vindex) -> None:
        """Compare tensors that both have: all vectors, and rows of some matrices.

        Raises:
            VindexInvalid: one differs by more than larql's storage explains.
        """
        if self._source is None:
            return
        spec = vindex.spec
        last = spec.num_layers - 1
        sampled = {Role.EMBED, Role.Q, Role.O, Role.GATE, Role.UP, Role.DOWN}
        for tensor in spec.needed(vindex.level):
            place = tensor.identity
            inner = tensor.layer not in (None, 0, last)
            if len(tensor.shape) > 1 and (tensor.role not in sampled or inner):
                continue
            both = vindex.has(*place) and self._source.has(*place)
            if place in self.added or not both:
                continue
            stored, exact = vindex.matrix(*place), self._source.tensor(*place)
            if not (
                _agree_in_blocks(stored, exact)
                if isinstance(stored, QuantTensor)
                else _agree(stored, exact)
            ):
                raise VindexInvalid(
                    f"{tensor.key} of {vindex.path} is not that of {self.name}",
                    hint="name the checkpoint that the vindex was made from",
                    path=vindex.path,
                )

    def close(self) -> None:
        """Close the checkpoint."""
        if self._checkpoint is not None:
            self._checkpoint.close()


class CompletedVindex(Vindex):
    """A vindex with the tensors of a checkpoint where it has none of its own."""

    def __init__(self, contents: Contents, completion: Completion) -> None:
        super().__init__(contents)
        self._completion = completion
        added = f" and {len(completion.added)} tensors" if completion.added else ""
        self.notes = (*self.notes, f"completed from {completion.name}: its configuration{added}")

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration that completes it."""
        return self._completion.config

    def has(self, role: Role, layer: int | None = None, expert: int | None = None) -> bool:
        """Whether the tensor is stored here or there."""
        place = (role, layer, expert)
        return place in self._completion.added or super().has(*place)

    def tensor(
        self, role: Role, layer: int | None = None, expert: int | None = None
    ) -> StoredTensor:
        """See ``Vindex.tensor``."""
        place = (role, layer, expert)
        if place in self._completion.added:
            return self._completion.tensor(place)
        return super().tensor(*place)

    def close(self) -> None:
        """Close the vindex and the checkpoint."""
        super().close()
        self._completion.close()


def open_completed(path: Path, reference: str) -> CompletedVindex:
    """Open a vindex of larql's and complete it; see ``vindex.store.open_vindex``.

    Args:
        reference: see ``Completion``.
    """
    completion = Completion(reference)
    try:
        opened = CompletedVindex(inspect(path, completion), completion)
        if opened.known_spec is not None:
            _check_record(opened, reference)
            completion.check(opened)
    except BaseException:
        completion.close()
        raise
    return opened


def _check_record(opened: Vindex, reference: str) -> None:
    """Compare the configuration with what larql did record of the model.

    Raises:
        VindexInvalid: they speak of different models.
    """
    recorded = opened.index.model_config
    if recorded is None:
        return
    spec, first = opened.spec, opened.spec.layers[0].attention
    types = next(family.model_types for family in families() if family.name == spec.family)
    same_type = recorded.model_type in types
    facts = (
        ("model type", spec.family if same_type else recorded.model_type, spec.family),
        ("heads", recorded.num_q_heads, first.heads),
        ("KV heads", recorded.num_kv_heads, first.kv_heads),
        ("head size", recorded.head_dim, first.head_size),
    )
    for what, of_index, of_config in facts:
        if of_index != of_config:
            raise VindexInvalid(
                f"{reference} and {opened.path} disagree about the {what}:"
                f" {of_config} and {of_index}",
                hint="name the checkpoint that the vindex was made from",
                path=opened.path,
            )


def _agree(stored: StoredTensor, exact: StoredTensor) -> bool:
    if stored.shape != exact.shape:
        return False
    found, expected = _sample(stored), _sample(exact)
    if stored.dtype is StorageDtype.F32:
        return bool(np.array_equal(found, expected))
    allowed = np.abs(expected) * _CUT + _FLUSHED
    return bool((np.abs(found - expected) <= allowed).all())


def _agree_in_blocks(stored: QuantTensor, exact: StoredTensor) -> bool:
    """Whether a matrix is another one but for the error of its blocks."""
    if stored.shape != exact.shape:
        return False
    expected = _sample(exact)
    rows = [stored.rows(row, row + 1)[0] for row in _sampled_rows(exact)]
    return bool(np.linalg.norm(np.stack(rows) - expected) <= _BLOCKS * np.linalg.norm(expected))


def _sample(tensor: StoredTensor) -> npt.NDArray[np.float32]:
    if len(tensor.shape) == 1:
        return tensor.float32()
    rows = tensor.array[_sampled_rows(tensor)]
    return StoredTensor(tensor.key, tensor.dtype, rows).float32()


def _sampled_rows(tensor: StoredTensor) -> npt.NDArray[np.int64]:
    return np.linspace(0, tensor.shape[0] - 1, _ROWS).astype(np.int64)


def _has_weights(path: Path) -> bool:
    return any(next(path.glob(pattern), None) is not None for pattern in _WEIGHTS)


def _object(path: Path) -> Mapping[str, Any]:
    value = load(read_small(path, _MAX_JSON), path)
    if type(value) is not dict:
        raise CheckpointError(f"{path}: expected an object", path=path)
    return value
