"""A checkpoint of safetensors: a directory (single file or shards with an index), or one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vindex.checkpoint._base import Provenance, TensorInfo
from vindex.checkpoint._convert import convert_rows
from vindex.checkpoint._json import read_limited, read_object
from vindex.checkpoint._safetensors import SafetensorsFile
from vindex.checkpoint._scaled import find_scaled
from vindex.closing import Closing
from vindex.errors import CheckpointError
from vindex.families._config import show
from vindex.files import CARRIED, CONFIG, is_plain_name
from vindex.kinds import StorageDtype

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_MAX_SIDE_FILE = 256 << 20
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def has_weights(directory: Path) -> bool:
    """Whether a directory holds a configuration and every weight file that it speaks of."""
    if not (directory / CONFIG).is_file():
        return False
    if (directory / SINGLE).is_file():
        return True
    index = directory / INDEX
    if not index.is_file():
        return False
    return all((directory / shard).is_file() for shard in set(_weight_map(index).values()))


class SafetensorsCheckpoint(Closing):
    """Safetensors files beside a ``config.json``, implementing ``Checkpoint``.

    Args:
        directory: holds ``config.json``, the tokenizer and the weights.
        name: what the user wrote.
        weights: read this one file instead of looking for ``model.safetensors`` or an index.
        provenance: where the files came from.

    Raises:
        CheckpointError: files are missing or malformed.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        *,
        weights: Path | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        self.name = name
        self.provenance = provenance or Provenance()
        self._directory = directory
        self.config: Mapping[str, Any] = read_object(directory / CONFIG)
        self._shards: list[SafetensorsFile] = []
        self._owner: dict[str, SafetensorsFile] = {}
        self._last: tuple[tuple[str, int, int], npt.NDArray[np.generic]] | None = None
        try:
            self._open_weights(weights)
            self._scaled, self._scales = find_scaled(self._owner)
        except BaseException:
            self.close()
            raise

    def names(self) -> Sequence[str]:
        """Tensor names, shard by shard in file order; scales are part of what they scale."""
        return tuple(name for name in self._owner if name not in self._scales)

    def info(self, name: str) -> TensorInfo:
        """Shape and dtype of a tensor; ``Unsupported`` unless it holds floats."""
        pair = self._scaled.get(name)
        return self._shard(name).info(name) if pair is None else pair.info

    def read(self, name: str, dtype: StorageDtype) -> npt.NDArray[np.generic]:
        """A whole tensor; a view of the file where its dtype is the stored one."""
        if name in self._scaled:
            return self.read_rows(name, 0, self.info(name).shape[0], dtype)
        shard = self._shard(name)
        return convert_rows(shard.array(name), shard.info(name).dtype, dtype)

    def read_rows(
        self, name: str, start: int, stop: int, dtype: StorageDtype
    ) -> npt.NDArray[np.generic]:
        """Rows ``start..stop`` of a tensor, likewise."""
        info = self.info(name)
        if not 0 <= start <= stop <= info.shape[0]:
            raise IndexError(f"rows {start}..{stop} of {info.shape[0]}")
        if name in self._scaled:
            rows = self._decoded(name, start, stop)
        else:
            rows = self._shard(name).array(name)[start:stop]
        return convert_rows(rows, info.dtype, dtype)

    def _decoded(self, name: str, start: int, stop: int) -> npt.NDArray[np.generic]:
        """Rows made of codes and scales; the last ones are kept, as an expert is read in parts."""
        if self._last is None or self._last[0] != (name, start, stop):
            rows = self._scaled[name].rows(start, stop)
            rows.flags.writeable = False
            self._last = (name, start, stop), rows
        return self._last[1]

    def release(self) -> None:
        """Give back memory of pages already read."""
        for shard in self._shards:
            shard.release()

    def files(self) -> Mapping[str, bytes]:
        """The side files that are there, byte for byte."""
        return {
            file: read_limited(self._directory / file, _MAX_SIDE_FILE)
            for file in CARRIED
            if (self._directory / file).is_file()
        }

    def close(self) -> None:
        """Let go of the files."""
        for shard in self._shards:
            shard.close()

    def _shard(self, name: str) -> SafetensorsFile:
        try:
            return self._owner[name]
        except KeyError:
            raise CheckpointError(
                f"{self.name} has no tensor {show(name)}", path=self._directory
            ) from None

    def _open_weights(self, weights: Path | None) -> None:
        index = self._directory / INDEX
        if weights is None and (self._directory / SINGLE).is_file():
            weights = self._directory / SINGLE
        if weights is not None:
            self._add(weights)
        elif index.is_file():
            self._open_sharded(index)
        else:
            raise self._no_weights()

    def _open_sharded(self, index: Path) -> None:
        weight_map = _weight_map(index)
        for shard in sorted(set(weight_map.values())):
            self._add(self._directory / shard)
        for name, shard in weight_map.items():
            owner = self._owner.get(name)
            if owner is None or owner.path.name != shard:
                raise CheckpointError(
                    f"{INDEX} places tensor {show(name)} in {show(shard)}, which does not hold it",
                    path=index,
                )
        unlisted = sorted(set(self._owner) - set(weight_map))
        if unlisted:
            raise CheckpointError(
                f"{INDEX} does not list {len(unlisted)} tensors that its shards hold,"
                f" e.g. {show(unlisted[0])}",
                path=index,
                details=unlisted,
            )

    def _add(self, path: Path) -> None:
        if not path.is_file():
            raise CheckpointError(
                f"the shard {path.name} is missing", path=path, hint="download the model again"
            )
        shard = SafetensorsFile(path)
        self._shards.append(shard)
        for name in shard.names:
            if name in self._owner:
                raise CheckpointError(
                    f"tensor {show(name)} is in both {self._owner[name].path.name} and {path.name}",
                    path=path,
                )
            self._owner[name] = shard

    def _no_weights(self) -> CheckpointError:
        pickles = sorted(path.name for path in self._directory.iterdir() if path.suffix in PICKLES)
        if pickles:
            return refuse_pickle(self._directory / pickles[0])
        return CheckpointError(
            f"{self._directory} holds neither {SINGLE} nor {INDEX}", path=self._directory
        )


def _weight_map(index: Path) -> dict[str, str]:
    """``weight_map`` of an index: tensor name to a plain file name in the same directory."""
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{INDEX} has no weight_map", path=index)
    for value in weight_map.values():
        if (
            not isinstance(value, str)
            or not is_plain_name(value)
            or not value.endswith(".safetensors")
        ):
            raise CheckpointError(
                f"{INDEX} names the shard {show(value)}, expected a plain file name", path=index
            )
    return weight_map


def refuse_pickle(path: Path) -> CheckpointError:
    """The error for a checkpoint in a format that runs code when it is read."""
    return CheckpointError(
        f"{path.name} is a pickle, and reading a pickle can run any code",
        hint="use the model's safetensors files, or convert it with transformers' save_pretrained",
        path=path,
    )
