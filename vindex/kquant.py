"""Block-quantised matrices: their files, manifests and checks (vindex-format.md section 13).

Attention and FFN matrices have a data file and a manifest of their own each, an array of
``{key, shape, format, offset, length}``; the head is an entry of ``weight_manifest.json``. Each row
is padded with zeros to whole blocks: ``shape`` is ``[rows, padded columns]``, and only the model
knows how many columns are real.

Experts are in a third pair of files of the same form, which is ours: larql writes none of them, and
ignores the files. Its own pairs stay what its readers, which count entries, expect.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vindex import files
from vindex.errors import VindexIncomplete, VindexInvalid
from vindex.files import ByteRange, MappedFile
from vindex.manifest import HEAD_KEY, MAX_DIMENSION, MAX_ENTRIES, ManifestEntry
from vindex.quant.formats import BlockFormat
from vindex.quant.matrix import QuantMatrix
from vindex.seal import Seal
from vindex.spec import Role
from vindex.strict_json import Fields, load

KIND_TENSOR_Q4K = "tensor_q4k"
HEAD = "lm_head_kquant.bin"

ATTENTION = "attn_weights_kquant.bin"
FFN = "interleaved_kquant.bin"
EXPERTS = "experts_kquant.bin"
#: Data files, under the names of the present and of the first versions of larql.
_FAMILIES = ((ATTENTION, "attn_weights_q4k.bin"), (FFN, "interleaved_q4k.bin"), (EXPERTS,))

#: Which file holds a matrix; larql's readers count on the order of roles within a layer.
FILE_OF_ROLE: Mapping[Role, str] = {
    Role.Q: ATTENTION,
    Role.K: ATTENTION,
    Role.V: ATTENTION,
    Role.O: ATTENTION,
    Role.GATE: FFN,
    Role.UP: FFN,
    Role.DOWN: FFN,
    Role.EXPERT_GATE: EXPERTS,
    Role.EXPERT_UP: EXPERTS,
    Role.EXPERT_DOWN: EXPERTS,
    Role.SHARED_GATE: EXPERTS,
    Role.SHARED_UP: EXPERTS,
    Role.SHARED_DOWN: EXPERTS,
    Role.HEAD: HEAD,
}

_FORMATS = {each.value: each for each in (BlockFormat.Q4_K, BlockFormat.Q6_K)}
_MAX_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class QuantEntry:
    """One quantised matrix.

    Attributes:
        key: normalised Hugging Face name.
        padded_cols: columns as stored, a whole number of blocks.
        offset: of the first row in ``file``, in bytes.
    """

    key: str
    block_format: BlockFormat
    rows: int
    padded_cols: int
    offset: int
    file: str

    @property
    def span(self) -> ByteRange:
        """The bytes of the matrix."""
        return ByteRange(self.offset, self.rows * self.block_format.row_bytes(self.padded_cols))

    def holds(self, shape: tuple[int, ...]) -> bool:
        """Whether a matrix of this shape is stored with these rows and padded columns."""
        rows, cols = shape
        return (rows, self.block_format.padded_cols(cols)) == (self.rows, self.padded_cols)


def manifest_name(data_file: str) -> str:
    """The manifest of a data file of attention or FFN matrices."""
    return data_file.removesuffix(".bin") + "_manifest.json"


def read_entries(
    path: Path,
    seal: Seal | None,
    declared: Iterable[ManifestEntry],
    maps: dict[str, MappedFile],
    *,
    head_shape: tuple[int, int],
) -> dict[str, QuantEntry]:
    """Every quantised matrix that is really there, by key, each checked against its file.

    As with float tensors, an entry whose file does not exist is absent; whether the model needs it
    is asked afterwards.

    Args:
        path: the vindex.
        declared: the entries of ``weight_manifest.json``, of any kind.
        maps: gains the data files.
        head_shape: of a head; its file is read without a manifest entry, too, as larql does.

    Raises:
        VindexInvalid: a manifest is malformed, or two matrices share bytes or a key.
        VindexIncomplete: a file ends before one of its matrices does.
    """
    entries = [entry for family in _FAMILIES for entry in _read_family(path, seal, family)]
    heads = [_head_entry(entry, path) for entry in declared if entry.kind == KIND_TENSOR_Q4K]
    entries += heads or _undeclared_head(path, head_shape)
    for name in dict.fromkeys(entry.file for entry in entries):
        if name not in maps and (path / name).exists():
            maps[name] = MappedFile(path, name)
    return _checked([entry for entry in entries if entry.file in maps], maps, path)


def matrix(entry: QuantEntry, maps: Mapping[str, MappedFile], cols: int | None) -> QuantMatrix:
    """A quantised matrix, a view of its file.

    Args:
        cols: how many of the stored columns are real; by default all.
    """
    span = entry.span
    data = maps[entry.file].view(span.start, (span.length,), np.dtype(np.uint8))
    cols = entry.padded_cols if cols is None else cols
    return QuantMatrix(entry.block_format, entry.rows, cols, data)


def dump_manifest(entries: Iterable[QuantEntry]) -> bytes:
    """The manifest of a data file as bytes, keys in larql's order."""
    document: list[dict[str, Any]] = [
        {
            "key": entry.key,
            "shape": [entry.rows, entry.padded_cols],
            "format": entry.block_format.value,
            "offset": entry.offset,
            "length": entry.span.length,
        }
        for entry in entries
    ]
    return json.dumps(document, indent=2, ensure_ascii=False).encode()


def head_manifest_entry(entry: QuantEntry) -> ManifestEntry:
    """The head as ``weight_manifest.json`` lists it."""
    shape = (entry.rows, entry.padded_cols)
    span = entry.span
    return ManifestEntry(entry.key, KIND_TENSOR_Q4K, shape, span.start, span.length, entry.file)


def _read_family(path: Path, seal: Seal | None, names: tuple[str, ...]) -> list[QuantEntry]:
    """The entries of the first data file that exists, or that a manifest speaks of."""
    data_file = next((name for name in names if (path / name).exists()), names[0])
    manifest = path / manifest_name(data_file)
    if not manifest.exists():
        return []
    data = files.read_small(manifest, _MAX_BYTES)
    if seal is not None:
        seal.check_bytes(manifest.name, data, path)
    document = load(data, manifest)
    if type(document) is not list:
        raise VindexInvalid(f"{manifest.name}: expected an array of matrices", path=manifest)
    if len(document) > MAX_ENTRIES:
        raise VindexInvalid(f"{manifest.name}: {len(document):,} entries are too many", path=path)
    return [
        _parse_entry(Fields(value, manifest, f"[{position}]"), data_file)
        for position, value in enumerate(document)
    ]


def _parse_entry(fields: Fields, data_file: str) -> QuantEntry:
    shape = fields.array("shape", limit=8)
    if len(shape) != 2 or any(type(n) is not int or not 1 <= n <= MAX_DIMENSION for n in shape):
        fields.refuse("shape", f"{str(shape)[:80]} is no shape of a matrix")
    tag = fields.text("format")
    if tag not in _FORMATS:
        fields.refuse("format", f"{tag[:80]!r} is none of {', '.join(_FORMATS)}")
    rows, padded_cols = shape
    entry = QuantEntry(
        key=fields.text("key"),
        block_format=_FORMATS[tag],
        rows=rows,
        padded_cols=padded_cols,
        offset=fields.integer("offset"),
        file=data_file,
    )
    if padded_cols % entry.block_format.block_elements:
        fields.refuse("shape", f"rows of {padded_cols:,} values are no whole number of blocks")
    length = fields.integer("length")
    if length != entry.span.length:
        fields.refuse(
            "length",
            f"{length:,} bytes for {rows:,} x {padded_cols:,} values of {tag}, "
            f"which take {entry.span.length:,}",
        )
    return entry


def _undeclared_head(path: Path, shape: tuple[int, int]) -> list[QuantEntry]:
    """The head of a vindex that has its file but no manifest entry of it."""
    if not (path / HEAD).exists():
        return []
    padded = BlockFormat.Q4_K.padded_cols(shape[1])
    return [QuantEntry(HEAD_KEY, BlockFormat.Q4_K, shape[0], padded, 0, HEAD)]


def _head_entry(entry: ManifestEntry, path: Path) -> QuantEntry:
    """An entry of ``weight_manifest.json`` as a quantised matrix."""
    where = f"{files.MANIFEST}: {entry.key}"
    if len(entry.shape) != 2 or entry.shape[1] % BlockFormat.Q4_K.block_elements:
        raise VindexInvalid(f"{where} has shape {list(entry.shape)}, no rows of blocks", path=path)
    result = QuantEntry(entry.key, BlockFormat.Q4_K, *entry.shape, entry.offset, entry.file)
    if entry.length != result.span.length:
        raise VindexInvalid(
            f"{where} has {entry.length:,} bytes; its shape takes {result.span.length:,}", path=path
        )
    return result


def _checked(
    entries: list[QuantEntry], maps: Mapping[str, MappedFile], path: Path
) -> dict[str, QuantEntry]:
    by_key: dict[str, QuantEntry] = {}
    by_file: dict[str, list[QuantEntry]] = defaultdict(list)
    for entry in entries:
        if entry.key in by_key:
            raise VindexInvalid(f"{entry.key!r} is quantised twice in {path}", path=path)
        by_key[entry.key] = entry
        by_file[entry.file].append(entry)
        mapped = maps[entry.file]
        if not mapped.holds(entry.span):
            raise VindexIncomplete(
                f"{entry.key} needs bytes {entry.offset:,}..{entry.span.stop:,} of {entry.file}, "
                f"which has {mapped.size:,}",
                path=mapped.path,
            )
    for name, group in by_file.items():
        group.sort(key=lambda entry: entry.span)
        for before, after in itertools.pairwise(group):
            if before.span.overlaps(after.span):
                raise VindexInvalid(
                    f"{manifest_name(name)}: {before.key} and {after.key} share bytes of {name}",
                    path=path,
                )
    return by_key
