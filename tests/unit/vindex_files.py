"""Vindexes for tests: extracted from the golden checkpoints, or changed by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vindex import files
from vindex.checkpoint import Checkpoint, open_checkpoint
from vindex.extract import ExtractReport, extract
from vindex.kinds import StorageDtype
from vindex.store import Vindex, open_vindex

DATA = Path(__file__).parents[1] / "data" / "golden"
CHECKPOINTS = DATA / "checkpoints"
VINDEXES = DATA / "vindexes"


@contextmanager
def checkpoint(name: str) -> Iterator[Checkpoint]:
    """A golden checkpoint."""
    with open_checkpoint(CHECKPOINTS / name) as opened:
        yield opened


def extract_golden(name: str, out: Path, **options: Any) -> ExtractReport:
    """Extract a golden checkpoint."""
    with checkpoint(name) as source:
        return extract(source, out, **options)


def copy_golden(name: str, target: Path) -> Path:
    """A writable copy of a vindex written by larql."""
    shutil.copytree(VINDEXES / name, target)
    return target


def unseal(path: Path) -> Path:
    """Make one of ours look as if larql had written it, so that deeper checks are reached."""
    (path / files.SEAL).unlink()

    def change(index: dict[str, Any]) -> None:
        del index["lql"]
        index["has_model_weights"] = index["extract_level"] != "browse"

    edit_json(path / files.INDEX, change)
    return path


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    """Change a JSON file in place."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def read_everything(vx: Vindex) -> None:
    """Touch every byte that a query could touch."""
    tensors = [vx.embeddings, *(vx.gate(layer) for layer in vx.layers)]
    tensors += [vx.stored(key) for key in vx.stored_keys]
    for stored in tensors:
        stored.float32().sum()
    for layer in range(vx.down_meta.num_layers):
        vx.down_meta.records(layer)["token"].sum()
    vx.token_texts.texts(range(vx.index.vocab_size))
    vx.encode("The capital of France", special=True)
    vx.tokenizer()


def open_and_read(path: Path) -> None:
    """Open a vindex and touch everything."""
    with open_vindex(path) as vx:
        read_everything(vx)


def larql_f16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """larql's float16: truncation towards zero, no subnormals (vindex-format.md 4.1)."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    sign = (bits >> 16) & 0x8000
    exponent = (bits >> 23) & 0xFF
    half = sign | ((exponent.astype(np.int64) - 112) << 10 | (bits >> 13) & 0x3FF).astype(np.uint32)
    half = np.where(exponent < 113, sign, half)
    half = np.where(exponent > 142, sign | 0x7C00, half)
    half = np.where(np.isnan(values), sign | 0x7E00, half)
    return half.astype(np.uint16).view(np.float16).reshape(values.shape)


def as_stored_by_larql(
    values: npt.NDArray[np.float32], dtype: StorageDtype
) -> npt.NDArray[np.generic]:
    """What larql's writer makes of float32 values."""
    return larql_f16(values) if dtype is StorageDtype.F16 else values
