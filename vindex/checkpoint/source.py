"""A checkpoint as a ``ModelSource``: ``USE MODEL`` without extraction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vindex.checkpoint._base import Checkpoint
from vindex.checkpoint._json import parse_object
from vindex.checkpoint._tokenizer import chat_template, load_tokenizer
from vindex.checkpoint.cutting import read_tensor
from vindex.checkpoint.ledger import Ledger, balance
from vindex.closing import Closing
from vindex.errors import CheckpointError
from vindex.families import spec_from_config
from vindex.files import GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG
from vindex.source import StoredTensor
from vindex.spec import ModelSpec, Role, TensorIdentity, TensorSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class CheckpointSource(Closing):
    """Reads tensors of a checkpoint on demand, in the dtype the checkpoint has them.

    Nothing is cached: views of a mapped file cost nothing, and whoever computes keeps what it
    converts. Closes the checkpoint when used as a context manager.

    Args:
        checkpoint: an open checkpoint; must balance.

    Raises:
        LedgerRefusal: the tensors do not account for the model.
        Unsupported: the model is not supported.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self.spec: ModelSpec = spec_from_config(checkpoint.config)
        self.ledger: Ledger = balance(checkpoint, self.spec)
        self._by_role: dict[TensorIdentity, tuple[TensorSpec, str]] = {
            tensor.identity: (tensor, name) for tensor, name in self.ledger.used.items()
        }

    @property
    def name(self) -> str:
        """What the user wrote."""
        return self._checkpoint.name

    @property
    def config(self) -> Mapping[str, Any]:
        """The model's ``config.json``."""
        return self._checkpoint.config

    @property
    def notes(self) -> tuple[str, ...]:
        """What the ledger noted."""
        return self.ledger.notes

    @cached_property
    def tokenizer_config(self) -> Mapping[str, Any]:
        """``tokenizer_config.json``, empty when absent."""
        return self._object(TOKENIZER_CONFIG)

    @cached_property
    def generation_config(self) -> Mapping[str, Any]:
        """``generation_config.json``, empty when absent."""
        return self._object(GENERATION_CONFIG)

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the model's chat template, or ``None``."""
        return chat_template(self._files, self.tokenizer_config)

    def has(self, role: Role, layer: int | None = None, expert: int | None = None) -> bool:
        """Whether the checkpoint stores the tensor."""
        return (role, layer, expert) in self._by_role

    def size_of(self, role: Role, layer: int | None = None, expert: int | None = None) -> int:
        """Bytes of a tensor as ``tensor`` gives it, told from its shape."""
        tensor, name = self._by_role[role, layer, expert]
        return math.prod(tensor.shape) * self._checkpoint.info(name).dtype.itemsize

    def tensor(
        self, role: Role, layer: int | None = None, expert: int | None = None
    ) -> StoredTensor:
        """The tensor, losslessly: a view of the file, or new memory where it has to be made."""
        tensor, name = self._by_role[role, layer, expert]
        dtype = self._checkpoint.info(name).dtype
        array = read_tensor(self._checkpoint, tensor, name, dtype)
        array.flags.writeable = False
        return StoredTensor(tensor.key, dtype, array)

    def matrix(
        self, role: Role, layer: int | None = None, expert: int | None = None
    ) -> StoredTensor:
        """The same: a checkpoint's blocks are decoded when they are read."""
        return self.tensor(role, layer, expert)

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, loaded once."""
        return self._tokenizer

    def release(self) -> None:
        """Give back memory of pages already read."""
        self._checkpoint.release()

    def close(self) -> None:
        """Close the checkpoint."""
        self._checkpoint.close()

    @cached_property
    def _files(self) -> Mapping[str, bytes]:
        return self._checkpoint.files()

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        data = self._files.get(TOKENIZER)
        if data is None:
            raise CheckpointError(
                f"{self.name} has no {TOKENIZER}",
                hint="save the tokenizer in its fast form with transformers' save_pretrained",
            )
        return load_tokenizer(data, self.name)

    def _object(self, file: str) -> Mapping[str, Any]:
        data = self._files.get(file)
        return {} if data is None else parse_object(data, Path(self.name, file))
