"""``seal.json``: the size and SHA-256 of every file of a vindex, written last.

A vindex that this code wrote and that has no seal is an unfinished one. Opening compares sizes,
which catches truncation, and the digests of the small files it reads anyway; ``verify`` compares
every digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vindex import files
from vindex.errors import VindexIncomplete, VindexInvalid
from vindex.strict_json import Fields, load

SEAL_VERSION = 1
_MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class SealedFile:
    """One file of the seal: its size in bytes and SHA-256 in lower-case hex."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Seal:
    """Every file of a vindex but ``seal.json`` itself, by name."""

    sealed: Mapping[str, SealedFile]

    def check_sizes(self, directory: Path, extract_again: str) -> None:
        """Compare the size of every sealed file with the directory.

        Sidecars are left out: they may be deleted, another process may be replacing one just now,
        and each says itself whether it is whole.

        Args:
            extract_again: what the hint says of mending it.

        Raises:
            VindexIncomplete: a file is missing or has another size.
        """
        wrong: list[str] = []
        for name, expected in self.sealed.items():
            if files.is_sidecar(name):
                continue
            try:
                size = (directory / name).stat().st_size
            except OSError:
                wrong.append(f"{name} is missing")
                continue
            if size != expected.size:
                wrong.append(f"{name} has {size:,} bytes, sealed with {expected.size:,}")
        if wrong:
            raise VindexIncomplete(
                f"{directory.name} is damaged: {wrong[0]}"
                + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""),
                hint=f"copy it again from where it came, or {extract_again}",
                path=directory,
                details=wrong,
            )

    def weights_digest(self) -> str:
        """SHA-256 over the digests of all files but sidecars: the same for the same model."""
        listing = sorted(
            f"{entry.sha256} {name}\n"
            for name, entry in self.sealed.items()
            if not files.is_sidecar(name)
        )
        return hashlib.sha256("".join(listing).encode()).hexdigest()

    def check_bytes(self, name: str, data: bytes, directory: Path) -> None:
        """Compare the digest of a file that was read whole.

        Raises:
            VindexInvalid: the bytes are not the sealed ones, or the seal does not know the file.
        """
        expected = self.sealed.get(name)
        if expected is None or hashlib.sha256(data).hexdigest() != expected.sha256:
            raise VindexInvalid(
                f"{name} is not the file that {files.SEAL} was written for",
                hint=f"see all damage with: lql verify {directory}",
                path=directory / name,
            )


def parse_seal(data: bytes, path: Path) -> Seal:
    """Parse ``seal.json``.

    Raises:
        VindexInvalid: malformed, or a name that is not plain, or a digest that is not one.
    """
    top = Fields(load(data, path), path)
    if top.integer("version") != SEAL_VERSION:
        top.refuse("version", f"expected {SEAL_VERSION}")
    sealed: dict[str, SealedFile] = {}
    listing = top.child("files")
    if listing is None:
        top.refuse("files", "must not be null")
    for name in listing.names():
        if not files.is_stored_name(name) or name == files.SEAL:
            listing.refuse(None, f"{name[:80]!r} is no name of a sealed file")
        entry = listing.child(name)
        if entry is None:
            listing.refuse(name, "must not be null")
        digest = entry.text("sha256")
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            entry.refuse("sha256", "not a SHA-256 in lower-case hex")
        sealed[name] = SealedFile(entry.integer("size"), digest)
    return Seal(sealed)


def read_seal(directory: Path) -> Seal | None:
    """The seal of a directory, or ``None`` when it has none.

    Raises:
        VindexInvalid: there is one and it is malformed.
    """
    path = directory / files.SEAL
    if not path.exists():
        return None
    return parse_seal(files.read_small(path, _MAX_BYTES), path)


def dump_seal(seal: Seal) -> bytes:
    """``seal.json`` as bytes, names ascending."""
    document = {
        "version": SEAL_VERSION,
        "files": {
            name: {"size": entry.size, "sha256": entry.sha256}
            for name, entry in sorted(seal.sealed.items())
        },
    }
    return json.dumps(document, indent=2).encode()
