"""``weight_manifest.json``: which tensor lies where.

An array of ``{key, kind, shape, offset, length, file}``. Kinds of later versions and unknown kinds
are kept as they are and never read; a known kind is checked in full before anything is mapped.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vindex import files
from vindex.errors import VindexIncomplete, VindexInvalid
from vindex.files import ByteRange, MappedFile
from vindex.kinds import StorageDtype
from vindex.strict_json import Fields, load

KIND_VECTOR = "vector"
KIND_TENSOR = "tensor"
KIND_TENSOR_F16 = "tensor_f16"
HEAD_KEY = "lm_head.weight"

#: Rank that each float kind must have; other kinds are carried but not read.
_RANK = {KIND_VECTOR: 1, KIND_TENSOR: 2, KIND_TENSOR_F16: 2}

_NOT_FOR_TENSORS = frozenset({files.GATE, files.EMBEDDINGS, files.DOWN_META, files.ROUTER})
MAX_ENTRIES = 1 << 20
MAX_DIMENSION = (1 << 31) - 1
MAX_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """One tensor of the manifest.

    Attributes:
        key: normalised Hugging Face name.
        kind: ``vector``, ``tensor``, ``tensor_f16``, or a kind this version does not read.
        shape: as stored, row-major.
        offset, length: bytes in ``file``.
    """

    key: str
    kind: str
    shape: tuple[int, ...]
    offset: int
    length: int
    file: str

    @property
    def span(self) -> ByteRange:
        """The bytes of the tensor."""
        return ByteRange(self.offset, self.length)

    @property
    def is_float(self) -> bool:
        """Whether the kind is one of the float kinds."""
        return self.kind in _RANK

    def dtype(self, index_dtype: StorageDtype) -> StorageDtype:
        """Element type, told from the byte count as larql does (vindex-format.md 4.2).

        Four bytes an element are f32; two are bf16 when the index says bf16, else f16.
        """
        if self.length == files.tensor_bytes(self.shape, 4):
            return StorageDtype.F32
        if self.kind == KIND_TENSOR_F16 or index_dtype is not StorageDtype.BF16:
            return StorageDtype.F16
        return StorageDtype.BF16


def parse_manifest(data: bytes, path: Path) -> tuple[ManifestEntry, ...]:
    """Parse ``weight_manifest.json`` and check each entry by itself.

    Raises:
        VindexInvalid: not JSON, a wrong type, a number out of range, a file name that is not
            plain, a key twice, a rank that the kind does not have, or a length that fits no
            element size.
    """
    document = load(data, path)
    if type(document) is not list:
        raise VindexInvalid(f"{path.name}: expected an array of tensors", path=path)
    if len(document) > MAX_ENTRIES:
        raise VindexInvalid(f"{path.name}: {len(document):,} entries are too many", path=path)
    entries: list[ManifestEntry] = []
    seen: set[str] = set()
    for position, value in enumerate(document):
        entry = _parse_entry(Fields(value, path, f"[{position}]"))
        if entry.key in seen:
            raise VindexInvalid(f"{path.name}: {entry.key!r} is listed twice", path=path)
        seen.add(entry.key)
        entries.append(entry)
    return tuple(entries)


def _parse_entry(fields: Fields) -> ManifestEntry:
    shape = fields.array("shape", limit=8)
    if any(type(size) is not int or not 1 <= size <= MAX_DIMENSION for size in shape):
        fields.refuse("shape", f"{str(shape)[:80]} is no shape")
    entry = ManifestEntry(
        key=fields.text("key"),
        kind=fields.text("kind"),
        shape=tuple(shape),
        offset=fields.integer("offset"),
        length=fields.integer("length"),
        file=fields.text_or_none("file") or files.LEGACY_MONOLITH,
    )
    if not files.is_plain_name(entry.file):
        fields.refuse("file", f"{entry.file[:80]!r} is not a plain file name")
    if not entry.is_float:
        return entry
    if len(shape) != _RANK[entry.kind]:
        fields.refuse("shape", f"a {entry.kind} of rank {len(shape)}")
    sizes = (2,) if entry.kind == KIND_TENSOR_F16 else (2, 4)
    if entry.length not in {files.tensor_bytes(entry.shape, size) for size in sizes}:
        fields.refuse(
            "length",
            f"{entry.length:,} bytes for {math.prod(entry.shape):,} elements "
            f"is neither {' nor '.join(str(size) for size in sizes)} bytes each",
        )
    return entry


def stored_entries(
    entries: Iterable[ManifestEntry], maps: Mapping[str, MappedFile], path: Path
) -> dict[str, ManifestEntry]:
    """The float tensors that are really there, by key, each checked against its file.

    A tensor whose file does not exist is absent, not an error: larql's ``slice`` and COMPILE copy
    manifests unfiltered. Whether the model needs it is asked afterwards.

    Args:
        entries: of one manifest, any kinds.
        maps: the files that exist, by name.
        path: the manifest, for messages.

    Raises:
        VindexIncomplete: a file ends before one of its tensors does.
        VindexInvalid: two tensors share bytes, or one lies in a file with a layout of its own.
    """
    by_file: dict[str, list[ManifestEntry]] = defaultdict(list)
    for entry in entries:
        if entry.is_float and entry.file in _NOT_FOR_TENSORS:
            raise VindexInvalid(
                f"{path.name}: {entry.key} claims to lie in {entry.file}", path=path
            )
        if entry.is_float and entry.file in maps:
            by_file[entry.file].append(entry)
    for name, group in by_file.items():
        mapped = maps[name]
        group.sort(key=lambda entry: (entry.offset, entry.length))
        for entry in group:
            if not mapped.holds(entry.span):
                raise VindexIncomplete(
                    f"{entry.key} needs bytes {entry.offset:,}..{entry.span.stop:,} of {name}, "
                    f"which has {mapped.size:,}",
                    path=mapped.path,
                )
        for before, after in itertools.pairwise(group):
            if before.span.overlaps(after.span):
                raise VindexInvalid(
                    f"{path.name}: {before.key} and {after.key} share bytes of {name}", path=path
                )
    return {entry.key: entry for group in by_file.values() for entry in group}


def dump_manifest(entries: Iterable[ManifestEntry]) -> bytes:
    """``weight_manifest.json`` as bytes, in larql's key order."""
    document: list[dict[str, Any]] = [
        {
            "key": entry.key,
            "kind": entry.kind,
            "shape": list(entry.shape),
            "offset": entry.offset,
            "length": entry.length,
            "file": entry.file,
        }
        for entry in entries
    ]
    return json.dumps(document, indent=2, ensure_ascii=False).encode()
