"""Traces in files: the format of larql's TRACE … SAVE, and safetensors.

``TRAC`` (little-endian): 64 bytes ``"TRAC", u32 version 1, hidden D, layers L, tokens P``, zeros;
then for every token, for the embedding and every layer, three float32 vectors [D]: the residual
stream, what attention added, and all else that the layer changed. It knows no text and no tokens.

safetensors hold every part under its own name, and with it prompt, tokens and model.

Notation: L layers, P traced positions, T tokens of the prompt, D hidden.
"""

from __future__ import annotations

import json
import os
import secrets
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vindex.commit import sync_directory, sync_file
from vindex.errors import TargetExists, TraceInvalid

Floats = npt.NDArray[np.float32]

_MAGIC, _VERSION, _HEADER = b"TRAC", 1, 64
_FIELDS = struct.Struct("<4sIIII")
_KIND = "lql-trace-1"
ATTENTION, REST = "attention", "rest"
_ATTENTION_PARTS = ("attention", "attention_norm")


@dataclass(frozen=True, slots=True, eq=False)
class TraceFile:
    """A trace as it is saved.

    Attributes:
        residual: float32 [L + 1, P, D]: embeddings, then the stream after each layer.
        parts: float32 [L, P, D] by name; they add up to what each layer changed. Read from larql's
            format they are ``attention`` and ``rest``.
        positions: P of the prompt; ``None`` where the file does not say.
        token_ids, pieces: the prompt's T tokens and their texts; empty where it does not say.
        prompt, model, interventions: what was run; ``None`` or empty where it does not say.
    """

    residual: Floats
    parts: Mapping[str, Floats]
    positions: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] = ()
    pieces: tuple[str, ...] = ()
    prompt: str | None = None
    model: str | None = None
    interventions: tuple[str, ...] = field(default=())

    @property
    def num_layers(self) -> int:
        """L."""
        return len(self.residual) - 1

    @property
    def places(self) -> tuple[int, ...]:
        """P positions; counted from 0 where the file does not say."""
        return tuple(range(self.residual.shape[1])) if self.positions is None else self.positions


def write_trace_file(path: Path, trace: TraceFile, *, overwrite: bool = False) -> None:
    """Save a trace, as safetensors if the path ends so, else as larql does.

    The file appears whole, by one rename.

    Raises:
        TargetExists: the path is taken, and ``overwrite`` is not set.
        OSError
    """
    stage = path.parent / f".{path.name}.stage-{secrets.token_hex(8)}"
    _refuse_existing(path, overwrite)
    try:
        with open(stage, "xb") as out:
            out.write(_safetensors(trace) if keeps_positions(path) else _trac(trace))
            out.flush()
            sync_file(out.fileno())
        _refuse_existing(path, overwrite)
        os.replace(stage, path)
        sync_directory(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        stage.unlink(missing_ok=True)


def read_trace_file(path: Path) -> TraceFile:
    """Read either format; the file's first bytes say which.

    Raises:
        TraceInvalid: it is neither, or contradicts itself.
        OSError
    """
    data = path.read_bytes()
    try:
        trace = _from_trac(data) if data[:4] == _MAGIC else _from_safetensors(data)
    except TraceInvalid as error:
        raise TraceInvalid(f'"{path}" is no trace: {error}', hint=error.hint) from error
    arrays = (trace.residual, *trace.parts.values())
    if not all(np.isfinite(array).all() for array in arrays):
        raise TraceInvalid(f'"{path}" is no trace: it holds numbers that are not finite')
    return trace


def keeps_positions(path: Path) -> bool:
    """Whether a trace saved there is safetensors, which know positions, tokens and prompt."""
    return path.suffix.lower() == ".safetensors"


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if not overwrite and os.path.lexists(path):
        raise TargetExists(f"{path} exists", hint="choose another path, or add OVERWRITE")


def _trac(trace: TraceFile) -> bytes:
    levels, tokens, hidden = trace.residual.shape
    cells = np.zeros((tokens, levels, 3, hidden), "<f4")
    cells[:, :, 0] = trace.residual.swapaxes(0, 1)
    attention = np.zeros((levels - 1, tokens, hidden), np.float32)
    for name in _ATTENTION_PARTS:
        if name in trace.parts:
            attention += trace.parts[name]
    cells[:, 1:, 1] = attention.swapaxes(0, 1)
    changed = np.diff(trace.residual, axis=0)
    cells[:, 1:, 2] = (changed - attention).swapaxes(0, 1)
    header = _FIELDS.pack(_MAGIC, _VERSION, hidden, levels - 1, tokens)
    return header.ljust(_HEADER, b"\0") + cells.tobytes()


def _from_trac(data: bytes) -> TraceFile:
    if len(data) < _HEADER:
        raise TraceInvalid(f"{len(data)} bytes are fewer than its header's {_HEADER}")
    _, version, hidden, layers, tokens = _FIELDS.unpack_from(data)
    if version != _VERSION:
        raise TraceInvalid(f"it is of version {version}, and only {_VERSION} is known")
    if 0 in (hidden, layers, tokens):
        raise TraceInvalid("it is empty")
    size = _HEADER + tokens * (layers + 1) * 3 * hidden * 4
    if len(data) != size:
        raise TraceInvalid(f"its header promises {size} bytes, and it has {len(data)}")
    cells = np.frombuffer(data, "<f4", offset=_HEADER).reshape(tokens, layers + 1, 3, hidden)
    by_kind = np.ascontiguousarray(cells.transpose(2, 1, 0, 3), np.float32)  # [3, L + 1, P, D]
    return TraceFile(by_kind[0], {ATTENTION: by_kind[1, 1:], REST: by_kind[2, 1:]})


def _safetensors(trace: TraceFile) -> bytes:
    from safetensors.numpy import save

    assert trace.positions is not None
    tensors: dict[str, npt.NDArray[np.float32] | npt.NDArray[np.int64]] = {
        "residual": np.ascontiguousarray(trace.residual),
        **{f"part.{name}": np.ascontiguousarray(part) for name, part in trace.parts.items()},
        "positions": np.array(trace.positions, np.int64),
        "token_ids": np.array(trace.token_ids, np.int64),
    }
    about = {
        "prompt": trace.prompt,
        "model": trace.model,
        "pieces": trace.pieces,
        "interventions": trace.interventions,
    }
    data: bytes = save(tensors, {"kind": _KIND, "about": json.dumps(about, ensure_ascii=True)})
    return data


def _from_safetensors(data: bytes) -> TraceFile:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(data)
        (length,) = struct.unpack_from("<Q", data)
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        about = json.loads(metadata["about"])
        if metadata["kind"] != _KIND:
            raise ValueError(metadata["kind"])
        residual, positions = tensors["residual"], tensors["positions"]
        parts = {
            name.removeprefix("part."): values
            for name, values in tensors.items()
            if name.startswith("part.")
        }
        trace = TraceFile(
            residual=residual,
            parts=parts,
            positions=tuple(positions.tolist()),
            token_ids=tuple(tensors["token_ids"].tolist()),
            pieces=tuple(map(str, about["pieces"])),
            prompt=None if about["prompt"] is None else str(about["prompt"]),
            model=None if about["model"] is None else str(about["model"]),
            interventions=tuple(map(str, about["interventions"])),
        )
    except (
        SafetensorError,
        struct.error,
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
    ) as error:
        raise TraceInvalid(
            "it is neither larql's format nor safetensors written by TRACE",
            hint="TRACE … SAVE writes both",
        ) from error
    _check(trace)
    return trace


def _check(trace: TraceFile) -> None:
    """That shapes and positions fit each other."""
    assert trace.positions is not None
    residual = trace.residual
    right = residual.ndim == 3 and len(residual) > 1 and 0 not in residual.shape
    right = right and residual.dtype == np.float32 and len(trace.positions) == residual.shape[1]
    tokens = len(trace.token_ids)
    if not right or len(trace.pieces) != tokens:
        raise TraceInvalid("its arrays do not fit each other")
    if any(not 0 <= each < tokens for each in trace.positions):
        raise TraceInvalid(f"it names positions that its {tokens} tokens have not")
    shape = (len(residual) - 1, *residual.shape[1:])
    for name, values in trace.parts.items():
        if values.shape != shape or values.dtype != np.float32:
            raise TraceInvalid(f'its part "{name}" does not fit the residual stream')
