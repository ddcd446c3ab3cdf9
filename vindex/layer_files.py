"""``layers/layer_XX.weights``: the quantised experts of a layer that has a dense FFN beside them.

larql's layout ("LYRW", vindex-format.md 13.5), little-endian::

    "LYRW" | u32 version 1 | u32 format | u32 E | u32 I | u32 D
    E x { u64 offset and bytes of gate and up | u64 offset and bytes of down }
    E x { gate rows [I, D], up rows [I, D] | down rows [D, I] }

Offsets count from the start of the file. Rows are padded with zeros to whole blocks, as everywhere;
early versions of larql do not pad those of gate and up, which is the same where D is a multiple of
256, as in every model released. Every matrix of a file is of one format. larql writes Q4_K and
reads nothing else, so down matrices are as coarse here as the others: a finer copy beside them
would cost half the file again, and answers would depend on who reads it.

Shape legend: D hidden, E experts, I features of an expert.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np

from vindex import files
from vindex.errors import Unsupported, VindexError, VindexIncomplete, VindexInvalid
from vindex.files import ByteRange, MappedFile
from vindex.index import VindexIndex
from vindex.kquant import QuantEntry
from vindex.manifest import KIND_TENSOR, ManifestEntry
from vindex.quant.formats import BlockFormat
from vindex.spec import ModelSpec, MoeSpec, PartKind, Role, TensorSpec, part_roles

#: ``ffn_layout`` of an index whose experts are in these files.
PER_LAYER = "per_layer"
#: What this code writes; larql's reader takes it for granted.
WRITTEN = BlockFormat.Q4_K

_MAGIC = b"LYRW"
_VERSION = 1
_FIELDS = ("magic", "version", "format", "experts", "width", "hidden")
_HEADER = np.dtype([("magic", "S4"), *((name, "<u4") for name in _FIELDS[1:])])
_PLACE = np.dtype((np.dtype("<u8"), (4,)))
_TAGS = {4: BlockFormat.Q4_K, 5: BlockFormat.Q6_K}
_OTHER_TAGS = {0: "f32", 1: "f16", 2: "bf16", 3: "q4_0", 6: "q8_0", 7: "fp4"}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the matrices of a layer's experts lie in its file, as this code writes it.

    Attributes:
        experts: E.
        width: I.
        hidden: D.
    """

    experts: int
    width: int
    hidden: int
    block_format: BlockFormat = WRITTEN

    @property
    def gate_bytes(self) -> int:
        """Of a gate matrix, and of an up matrix."""
        return self.width * self.block_format.row_bytes(self.hidden)

    @property
    def down_bytes(self) -> int:
        """Of a down matrix."""
        return self.hidden * self.block_format.row_bytes(self.width)

    @property
    def data_start(self) -> int:
        """The first byte after header and table."""
        return _HEADER.itemsize + self.experts * _PLACE.itemsize

    def offset(self, role: Role, expert: int) -> int:
        """Of a matrix of an expert."""
        both = 2 * self.gate_bytes
        before = {Role.EXPERT_GATE: 0, Role.EXPERT_UP: self.gate_bytes, Role.EXPERT_DOWN: both}
        return self.data_start + expert * (both + self.down_bytes) + before[role]

    @property
    def size(self) -> int:
        """Of the file."""
        return self.data_start + self.experts * (2 * self.gate_bytes + self.down_bytes)

    def header(self) -> bytes:
        """Header and table: all that stands before the first matrix."""
        tag = next(tag for tag, each in _TAGS.items() if each is self.block_format)
        values = (_MAGIC, _VERSION, tag, self.experts, self.width, self.hidden)
        places = [
            (
                self.offset(Role.EXPERT_GATE, expert),
                2 * self.gate_bytes,
                self.offset(Role.EXPERT_DOWN, expert),
                self.down_bytes,
            )
            for expert in range(self.experts)
        ]
        table = np.array(places, "<u8")
        return np.array([values], _HEADER).tobytes() + table.tobytes()


def layout_of(spec: ModelSpec, layer: int) -> Layout | None:
    """How a layer's experts are kept, or ``None`` for a layer whose experts are not kept so."""
    ffn = spec.layers[layer].ffn
    if not isinstance(ffn, MoeSpec) or ffn.beside is None:
        return None
    return Layout(ffn.routing.experts, ffn.expert.width, spec.hidden_size)


def in_layer_file(tensor: TensorSpec, spec: ModelSpec) -> bool:
    """Whether a quantised vindex keeps a matrix in the file of its layer."""
    if tensor.layer is None or tensor.role not in part_roles(PartKind.EXPERT):
        return False
    return layout_of(spec, tensor.layer) is not None


def is_flat_router(tensor: TensorSpec, spec: ModelSpec) -> bool:
    """Whether larql looks for a router among the vectors, its rows one after the other."""
    if tensor.role is not Role.ROUTER or tensor.layer is None:
        return False
    return layout_of(spec, tensor.layer) is not None


def with_whole_routers(
    entries: Mapping[str, ManifestEntry], spec: ModelSpec
) -> dict[str, ManifestEntry]:
    """The manifest's entries, with routers as the matrices they are though listed as vectors."""
    found = dict(entries)
    for tensor in spec.tensors:
        entry = entries.get(tensor.key) if is_flat_router(tensor, spec) else None
        if entry is not None and entry.shape == (math.prod(tensor.shape),):
            found[tensor.key] = replace(entry, kind=KIND_TENSOR, shape=tensor.shape)
    return found


def read_entries(
    path: Path, spec: ModelSpec, index: VindexIndex, extract_again: str, maps: dict[str, MappedFile]
) -> dict[str, QuantEntry]:
    """The experts of every layer that has a file, by key, each checked against its file.

    Args:
        path: the vindex.
        index: its index; nothing is read where that does not speak of these files.
        extract_again: the hint of an error: what writes them again.
        maps: gains the files.

    Raises:
        VindexIncomplete: a file is missing, or ends too early.
        VindexInvalid: a file is malformed, or not of this model.
        Unsupported: a version, format or padding that this code does not read.
    """
    if index.ffn_layout != PER_LAYER:
        return {}
    found: dict[str, QuantEntry] = {}
    try:
        _check_directory(path)
        for layer, tensors in _tensors_by_layer(spec).items():
            expected = layout_of(spec, layer)
            assert expected is not None, "the tensors are of such layers"
            mapped = MappedFile(path, files.layer_name(layer))
            maps[mapped.name] = mapped
            layout, starts = _read(mapped, expected)
            found |= {tensor.key: _entry(mapped, tensor, layout, starts) for tensor in tensors}
    except VindexError as error:
        raise type(error)(error.message, hint=extract_again, path=error.path) from error
    return found


def _check_directory(path: Path) -> None:
    if (path / files.LAYERS).is_symlink():
        raise VindexInvalid(f"{files.LAYERS} is a symbolic link", path=path / files.LAYERS)


def _tensors_by_layer(spec: ModelSpec) -> dict[int, list[TensorSpec]]:
    found: dict[int, list[TensorSpec]] = defaultdict(list)
    for tensor in spec.tensors:
        if tensor.layer is not None and in_layer_file(tensor, spec):
            found[tensor.layer].append(tensor)
    return found


def _entry(
    mapped: MappedFile, tensor: TensorSpec, layout: Layout, starts: list[tuple[int, int]]
) -> QuantEntry:
    """Where a matrix lies, given where gate and up, and where down of each expert start."""
    assert tensor.expert is not None, "of an expert"
    first, last = starts[tensor.expert]
    offset = {
        Role.EXPERT_GATE: first,
        Role.EXPERT_UP: first + layout.gate_bytes,
        Role.EXPERT_DOWN: last,
    }[tensor.role]
    rows, cols = tensor.shape
    padded = layout.block_format.padded_cols(cols)
    return QuantEntry(tensor.key, layout.block_format, rows, padded, offset, mapped.name)


def _read(mapped: MappedFile, expected: Layout) -> tuple[Layout, list[tuple[int, int]]]:
    """The layout, and where gate and up, and where down of each expert start."""
    layout = _read_header(mapped, expected)
    if mapped.size < layout.data_start:
        _cut_short(mapped, f"{layout.data_start:,} bytes of header and table")
    table = mapped.view(_HEADER.itemsize, (layout.experts, 4), np.dtype("<u8")).tolist()
    spans: list[tuple[ByteRange, str]] = []
    for expert, (first, first_bytes, last, last_bytes) in enumerate(table):
        _check_sizes(mapped, layout, expert, first_bytes, last_bytes)
        spans.append((ByteRange(first, first_bytes), f"gate and up of expert {expert}"))
        spans.append((ByteRange(last, last_bytes), f"down of expert {expert}"))
    spans.sort()
    for (span, what), (after, other) in itertools.pairwise(spans):
        if span.overlaps(after):
            _refuse(mapped, f"{what} and {other} share bytes")
    if spans[0][0].start < layout.data_start:
        _refuse(mapped, f"{spans[0][1]} lies inside the header or table")
    stop, what = spans[-1][0].stop, spans[-1][1]
    if stop > mapped.size:
        _cut_short(mapped, f"byte {stop:,}, where {what} ends")
    if stop < mapped.size:
        _refuse(mapped, f"{mapped.size - stop:,} bytes follow {what}")
    return layout, [(first, last) for first, _, last, _ in table]


def _read_header(mapped: MappedFile, expected: Layout) -> Layout:
    if mapped.size < _HEADER.itemsize:
        _cut_short(mapped, f"the {_HEADER.itemsize} bytes of a header")
    magic, version, tag, *counts = mapped.view(0, (1,), _HEADER)[0].item()
    if magic != _MAGIC:
        _refuse(mapped, f"it starts with {magic!r}, expected {_MAGIC!r}")
    if version != _VERSION:
        _not_read(mapped, f"it is of version {version}; this code reads version {_VERSION}")
    if tag not in _TAGS:
        known = _OTHER_TAGS.get(tag)
        if known is None:
            _refuse(mapped, f"{tag} is the tag of no format")
        _not_read(mapped, f"its experts are {known}; this code reads q4_k and q6_k")
    model = (expected.experts, expected.width, expected.hidden)
    if tuple(counts) != model:
        _refuse(mapped, f"it holds {_counted(*counts)}; the model has {_counted(*model)}")
    return Layout(*model, block_format=_TAGS[tag])


def _check_sizes(
    mapped: MappedFile, layout: Layout, expert: int, first_bytes: int, last_bytes: int
) -> None:
    gate_up = 2 * layout.gate_bytes
    block = layout.block_format
    unpadded = 2 * layout.width * layout.hidden / block.block_elements * block.block_bytes
    if first_bytes == unpadded != gate_up:
        _not_read(mapped, "rows of its gate and up matrices begin inside blocks")
    for what, found, wanted in (
        ("gate and up", first_bytes, gate_up),
        ("down", last_bytes, layout.down_bytes),
    ):
        if found != wanted:
            _refuse(
                mapped,
                f"{what} of expert {expert} have {found:,} bytes; "
                f"{_counted(1, layout.width, layout.hidden)} in {block.value} takes {wanted:,}",
            )


def _counted(experts: int, width: int, hidden: int) -> str:
    plural = "" if experts == 1 else "s"
    return f"{experts:,} expert{plural} of {width:,} features of size {hidden:,}"


def _refuse(mapped: MappedFile, reason: str) -> NoReturn:
    raise VindexInvalid(f"{mapped.name}: {reason}", path=mapped.path)


def _cut_short(mapped: MappedFile, needed: str) -> NoReturn:
    raise VindexIncomplete(
        f"{mapped.name} has {mapped.size:,} bytes and ends before {needed}", path=mapped.path
    )


def _not_read(mapped: MappedFile, reason: str) -> NoReturn:
    raise Unsupported(f"{mapped.name}: {reason}", path=mapped.path)
