"""``.vlp`` patch files: edits as JSON, bound to the weights that they were made over.

The file is larql's (vindex-format.md 16): the same keys in the same order, vectors as base64 of
little-endian float32. What larql does not know stands in keys that it ignores: ``relation`` of
``delete_knn``, ``aliases`` and ``more_key_vectors_b64`` of ``insert_knn``, and ``base_files`` at
the top, the digests of the weight files, so that another base can be told by what differs; also at
the top ``probes`` and ``labels``, what PROBE and LABEL FEATURES kept. Two operations are ours,
``write_fact`` and ``forget_fact``: larql refuses a file that has one, rather than losing it.

Reading is strict. An unknown operation, a vector that is not base64, has another length or is not
finite, a layer, feature or token that the base does not have: the whole patch is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, assert_never

import numpy as np

from vindex import files
from vindex.commit import sync_directory, write_error, write_file
from vindex.edits import (
    ChangeFeature,
    DropFacts,
    DropFeature,
    Fact,
    FeatureOperation,
    ForgottenFact,
    Operation,
    Piece,
    PutFact,
    PutFeature,
    Vector,
    WriteFact,
    WrittenFact,
    WrittenToken,
)
from vindex.errors import OtherBase, PatchInvalid, VindexError, VindexInvalid
from vindex.patch_probes import dump_probes, read_probes
from vindex.probes import PutLabel, PutProbe
from vindex.seal import read_seal
from vindex.spec import FfnSpec
from vindex.store import Vindex
from vindex.strict_json import Fields, load

VERSION = 1
MAX_OPERATIONS = 1_000_000
_MAX_BYTES = 1 << 30
_DESCRIBING = {
    files.INDEX,
    files.FEATURE_LABELS,
    files.RELATION_CLUSTERS,
    files.FEATURE_CLUSTERS,
    files.PROBE_EDGES,
}
"""Sealed files that differ between two extracts of the same weights, or only tell of them."""


@dataclass(frozen=True, slots=True)
class Base:
    """What a patch is bound to.

    Attributes:
        model: the name in ``index.json``.
        checksum: SHA-256 over the digests of the weight files, or ``None`` where nobody knows them.
        digests: SHA-256 of each weight file, by name.
    """

    model: str
    checksum: str | None
    digests: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Patch:
    """A patch file.

    Attributes:
        base: the weights it was made over; ``checksum`` is ``None`` in larql's files.
    """

    base: Base
    operations: tuple[Operation, ...]
    description: str | None = None
    author: str | None = None
    tags: tuple[str, ...] = ()
    created_at: str = ""
    version: int = field(default=VERSION)


def base_of(vindex: Vindex) -> Base:
    """What a patch over this vindex is bound to: its seal, or larql's checksums."""
    seal = read_seal(vindex.path)
    if seal is not None:
        digests = {n: f.sha256 for n, f in sorted(seal.sealed.items()) if _is_weights(n)}
    else:
        digests = dict(sorted((vindex.index.checksums or {}).items()))
    text = "\n".join(f"{digest}  {name}" for name, digest in digests.items())
    checksum = hashlib.sha256(text.encode()).hexdigest() if digests else None
    return Base(vindex.index.model, checksum, digests)


def check_base(patch: Patch, base: Base, path: Path) -> None:
    """Compare the weights a patch was made over with those it is put over.

    Raises:
        OtherBase: they differ. A patch without a checksum is told by the model's name.
    """
    theirs = patch.base
    if theirs.checksum is not None and base.checksum is not None:
        if theirs.checksum == base.checksum:
            return
        # A patch may have been written while sidecars still counted.
        names = sorted(filter(_is_weights, {*theirs.digests, *base.digests}))
        different = [n for n in names if theirs.digests.get(n) != base.digests.get(n)]
        if theirs.digests and base.digests and not different:
            return
        details = [
            f"{name}: {_how(theirs.digests.get(name), base.digests.get(name))}"
            for name in different
        ]
    elif theirs.model == base.model:
        return
    else:
        details = []
    if theirs.model != base.model:
        details.insert(0, f'model: made over "{theirs.model}", this is "{base.model}"')
    raise OtherBase(
        f"{path} was made over other weights than those in use",
        hint=f'APPLY PATCH "{path}" FORCE; applies it all the same',
        path=path,
        details=details or [f"checksum: {theirs.checksum}, here {base.checksum}"],
    )


def _is_weights(name: str) -> bool:
    return name not in _DESCRIBING and not files.is_sidecar(name)


def _how(theirs: str | None, ours: str | None) -> str:
    if theirs is None:
        return "not there when the patch was made"
    if ours is None:
        return "not here"
    return f"{theirs[:12]}… when the patch was made, {ours[:12]}… here"


# --------------------------------------------------------------------------- reading


def read_patch(path: Path, vindex: Vindex) -> Patch:
    """Read a patch file and check every operation against the vindex it is for.

    Raises:
        PatchInvalid: it is malformed, or does not fit. Nothing is skipped.
        VindexError: there is no such file.
    """
    if not path.exists():
        raise VindexError(f"there is no patch file {path}", path=path)
    try:
        top = Fields(load(files.read_small(path, _MAX_BYTES), path), path)
        version = top.integer("version")
        if version != VERSION:
            top.refuse("version", f"expected {VERSION}")
        listed = top.array("operations", MAX_OPERATIONS)
        reader = _OperationReader(path, vindex)
        operations = [reader.read(entry, i) for i, entry in enumerate(listed)]
        operations += read_probes(top, path, vindex)
        digests = top.text_map("base_files") or {}
        tags = top.array_or_none("tags", 10_000) or []
        if not all(type(tag) is str for tag in tags):
            top.refuse("tags", "expected strings")
        return Patch(
            Base(top.text("base_model"), top.text_or_none("base_checksum"), digests),
            tuple(operations),
            top.text_or_none("description"),
            top.text_or_none("author"),
            tuple(tags),
            top.text("created_at"),
            version,
        )
    except VindexInvalid as error:
        raise PatchInvalid(error.message, path=path, hint="nothing of it was applied") from error


class _OperationReader:
    def __init__(self, path: Path, vindex: Vindex) -> None:
        self._path = path
        self._vindex = vindex

    def read(self, entry: Any, number: int) -> Operation:
        fields = Fields(entry, self._path, f"operations[{number}]")
        match fields.text("op"):
            case "insert_knn":
                return PutFact(self._fact(fields))
            case "write_fact":
                return WriteFact(self._written(fields))
            case "forget_fact":
                return WriteFact(self._forgotten(fields))
            case "delete_knn":
                return DropFacts(fields.text("entity"), fields.text_or_none("relation"))
            case "insert":
                return PutFeature(
                    *self._slot(fields),
                    entity=fields.text("entity"),
                    target=fields.text("target"),
                    relation=fields.text_or_none("relation"),
                    confidence=fields.number_or_none("confidence"),
                    **self._changes(fields),
                )
            case "update":
                return ChangeFeature(*self._slot(fields), **self._changes(fields))
            case "delete":
                return DropFeature(*self._slot(fields), fields.text_or_none("reason"))
            case unknown:
                fields.refuse("op", f"unknown operation {unknown[:40]!r}")

    def _fact(self, fields: Fields) -> Fact:
        index = self._vindex.index
        confidence = fields.number_or_none("confidence")
        more = self._texts(fields, "more_key_vectors_b64")
        place = "more_key_vectors_b64"
        return Fact(
            layer=fields.integer("layer", high=index.num_layers - 1),
            entity=fields.text("entity"),
            relation=fields.text("relation"),
            target=fields.text("target"),
            target_id=fields.integer("target_id", high=index.vocab_size - 1),
            keys=(
                self._vector(fields, "key_vector_b64", fields.text("key_vector_b64")),
                *(self._vector(fields, place, text) for text in more),
            ),
            confidence=1.0 if confidence is None else confidence,
            aliases=self._texts(fields, "aliases"),
        )

    def _written(self, fields: Fields) -> WrittenFact:
        confidence = fields.number_or_none("confidence")
        return WrittenFact(
            entity=fields.text("entity"),
            relation=fields.text("relation"),
            target=fields.text("target"),
            pieces=self._pieces(fields),
            confidence=1.0 if confidence is None else confidence,
            aliases=self._texts(fields, "aliases"),
        )

    def _forgotten(self, fields: Fields) -> ForgottenFact:
        answers = self._texts(fields, "answers")
        if not answers:
            fields.refuse("answers", "expected at least one")
        entity, relation = fields.text("entity"), fields.text("relation")
        return ForgottenFact(entity, relation, answers, self._pieces(fields))

    def _pieces(self, fields: Fields) -> tuple[Piece, ...]:
        pieces: list[Piece] = []
        for number, entry in enumerate(fields.array("pieces", self._vindex.index.num_layers)):
            part = Fields(entry, self._path, f"pieces[{number}]")
            layer = part.integer("layer", high=self._vindex.index.num_layers - 1)
            if pieces and layer <= pieces[-1].layer:
                part.refuse("layer", "layers must ascend")
            spec = self._vindex.known_spec
            if spec is not None and not isinstance(spec.layers[layer].ffn, FfnSpec):
                part.refuse(
                    "layer", "its FFN is a mixture of experts, which has no one down matrix"
                )
            width = self._vindex.num_features(layer)
            left = self._vector(part, "left_b64", part.text("left_b64"), width)
            right = self._vector(part, "right_b64", part.text("right_b64"))
            pieces.append(Piece(layer, left, right))
        if not pieces:
            fields.refuse("pieces", "expected at least one")
        return tuple(pieces)

    def _texts(self, fields: Fields, key: str) -> tuple[str, ...]:
        values = fields.array_or_none(key, 1_000) or []
        if not all(type(value) is str for value in values):
            fields.refuse(key, "expected strings")
        return tuple(values)

    def _slot(self, fields: Fields) -> tuple[int, int]:
        layer = fields.integer("layer", high=self._vindex.index.num_layers - 1)
        features = self._vindex.num_features(layer)
        return layer, fields.integer("feature", high=features - 1)

    def _changes(self, fields: Fields) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        for name in ("gate", "up", "down"):
            text = fields.text_or_none(f"{name}_vector_b64")
            changes[name] = text and self._vector(fields, f"{name}_vector_b64", text)
        meta = fields.child("down_meta")
        changes["writes"] = meta and WrittenToken(
            meta.text("t"),
            meta.integer("i", high=self._vindex.index.vocab_size - 1),
            meta.number("c"),
        )
        return changes

    def _vector(self, fields: Fields, key: str, text: str, size: int | None = None) -> Vector:
        """A vector of a size, by default the hidden one."""
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            fields.refuse(key, "not base64")
        size = self._vindex.index.hidden_size if size is None else size
        if len(data) != 4 * size:
            fields.refuse(key, f"{len(data):,} bytes, a vector here has {4 * size:,}")
        vector = Vector(data)
        if not np.isfinite(vector.array).all():
            fields.refuse(key, "holds NaN or infinity")
        return vector


# --------------------------------------------------------------------------- writing


def dump_patch(patch: Patch) -> bytes:
    """A patch as the bytes of its file."""
    document = {
        "version": patch.version,
        "base_model": patch.base.model,
        "base_checksum": patch.base.checksum,
        "created_at": patch.created_at,
        "description": patch.description,
        "author": patch.author,
        "tags": list(patch.tags),
        "operations": [
            _entry(operation)
            for operation in patch.operations
            if not isinstance(operation, PutProbe | PutLabel)
        ],
        "base_files": dict(patch.base.digests),
        **dump_probes(patch.operations),
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False).encode()


def _entry(operation: PutFact | WriteFact | DropFacts | FeatureOperation) -> dict[str, Any]:
    match operation:
        case PutFact(fact):
            own = {"aliases": list(fact.aliases)} if fact.aliases else {}
            more = [_b64(key) for key in fact.keys[1:]]
            return {
                "op": "insert_knn",
                "layer": fact.layer,
                "entity": fact.entity,
                "relation": fact.relation,
                "target": fact.target,
                "target_id": fact.target_id,
                "confidence": fact.confidence,
                "key_vector_b64": _b64(fact.keys[0]),
                **own,
                **({"more_key_vectors_b64": more} if more else {}),
            }
        case WriteFact(written):
            pieces = [
                {"layer": p.layer, "left_b64": _b64(p.left), "right_b64": _b64(p.right)}
                for p in written.pieces
            ]
            name = {"entity": written.entity, "relation": written.relation}
            if isinstance(written, ForgottenFact):
                answers = list(written.answers)
                return {"op": "forget_fact", **name, "answers": answers, "pieces": pieces}
            return {
                "op": "write_fact",
                **name,
                "target": written.target,
                "confidence": written.confidence,
                "aliases": list(written.aliases),
                "pieces": pieces,
            }
        case DropFacts(entity, relation):
            return {"op": "delete_knn", "entity": entity, "relation": relation}
        case PutFeature():
            return {
                "op": "insert",
                "layer": operation.layer,
                "feature": operation.feature,
                "relation": operation.relation,
                "entity": operation.entity,
                "target": operation.target,
                "confidence": operation.confidence,
                **_changes(operation),
            }
        case ChangeFeature():
            slot = {"layer": operation.layer, "feature": operation.feature}
            return {"op": "update", **slot, **_changes(operation)}
        case DropFeature(layer, feature, reason):
            return {"op": "delete", "layer": layer, "feature": feature, "reason": reason}
        case _:
            assert_never(operation)


def _changes(operation: PutFeature | ChangeFeature) -> dict[str, Any]:
    writes = operation.writes
    return {
        "gate_vector_b64": operation.gate and _b64(operation.gate),
        "up_vector_b64": operation.up and _b64(operation.up),
        "down_vector_b64": operation.down and _b64(operation.down),
        "down_meta": writes and {"t": writes.token, "i": writes.token_id, "c": writes.score},
    }


def _b64(vector: Vector) -> str:
    return base64.b64encode(vector.data).decode()


def write_patch(path: Path, patch: Patch) -> int:
    """Write a patch file: the whole new one, or the old one stays; returns its size in bytes.

    Raises:
        VindexError: the filesystem refused.
    """
    data = dump_patch(patch)
    stage = path.parent / f".{path.name}.stage-{secrets.token_hex(16)}"
    try:
        try:
            write_file(stage, data)
            os.replace(stage, path)
        except BaseException:
            stage.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
    except OSError as error:
        raise write_error(error, path) from error
    return len(data)
