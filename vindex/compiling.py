"""COMPILE INTO VINDEX: a vindex with its edits in its files, as if it had been extracted so.

Files that no edit touches are shared with the base (see ``vindex.sharing``), the others are written
anew: the base's bytes with the edited tensors in their places. Nothing bears the target's name
before everything is on the disk, as with EXTRACT.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from vindex import files, kquant
from vindex.baking import Change, Rounding, changes
from vindex.commit import Stage, refuse_existing, write_error, write_file
from vindex.downmeta import DownMetaWriter
from vindex.edge_store import FILE as EDGE_STORE
from vindex.edge_store import edge_store_bytes
from vindex.edits import Fact
from vindex.errors import TargetExists, VindexInvalid
from vindex.extract import check_space, refuse_foreign
from vindex.files import ByteRange, MappedFile
from vindex.index import dump_index
from vindex.knn_store import FILE as KNN_STORE
from vindex.knn_store import knn_store_bytes
from vindex.labels import dump_probes
from vindex.probes import Probe
from vindex.progress import NullProgress, Progress
from vindex.seal import Seal, SealedFile, dump_seal, read_seal
from vindex.sharing import Sharing, share
from vindex.store import Vindex, open_vindex
from vindex.writing import Clock, StageWriter

_COPY_BYTES = 16 << 20
_MAX_TEXT = 1 << 30
_TEXT = (*files.CARRIED, files.RELATION_CLUSTERS, files.FEATURE_CLUSTERS)
_MADE = {files.INDEX, files.SEAL, files.FEATURE_LABELS, KNN_STORE, EDGE_STORE}


@dataclass(frozen=True, slots=True)
class CompileReport:
    """What was written.

    Attributes:
        path: the new vindex.
        rewritten: files with other bytes than the base's, and files the base does not have.
        shared: files with the base's bytes, and how they came to be.
        left_out: files of the base that are not taken along: caches, and what is not known.
        facts, probes: how many stored facts and kept answers it holds.
        size_bytes: of all files.
        new_bytes: of those that share no bytes with the base.
        floats: how far edited values are from what the dtype holds of them.
        blocks: the same of values in quantised blocks that had to be made anew.
        seconds: wall time.
    """

    path: Path
    rewritten: tuple[str, ...]
    shared: Mapping[str, Sharing]
    left_out: tuple[str, ...]
    facts: int
    probes: int
    size_bytes: int
    new_bytes: int
    floats: Rounding
    blocks: Rounding
    seconds: float


def compile_vindex(
    source: Vindex,
    facts: Iterable[Fact],
    out: Path,
    *,
    overwrite: bool = False,
    in_place: bool = False,
    probes: Iterable[Probe] = (),
    progress: Progress | None = None,
) -> CompileReport:
    """Write a vindex with every edit in its files.

    Args:
        source: a vindex, or one with edits over its base.
        facts: the stored facts that it is to hold; those of the base's own store among them.
        out: the directory to create.
        overwrite: replace an existing vindex, atomically.
        probes: the kept answers that it is to hold.
        in_place: that may be the base. Its files stay readable through the open ``source``.
        progress: told about bytes; its ``check`` may raise to cancel.

    Raises:
        TargetExists: ``out`` is taken, is not a vindex, or is the base.
        VindexInvalid: an edited value does not fit the base's dtype; a file of the base is not the
            one that its seal speaks of.
        Unsupported: an edited tensor comes from a checkpoint beside the base.
        VindexError: the disk is full or cannot be written. Nothing was published in any case.
    """
    refuse_existing(out, overwrite=overwrite)
    base = source.base
    if not in_place and out.exists() and out.samefile(base.path):
        raise TargetExists(
            f"{out} is the vindex that is compiled", hint="choose another path", path=out
        )
    refuse_foreign(out)
    started = time.perf_counter()
    job = _Job(source, tuple(facts), tuple(probes), progress or NullProgress())
    check_space(out, job.bytes_needed())
    try:
        with Stage(out, overwrite=overwrite) as stage:
            with StageWriter(stage.path, Clock()) as writer:
                job.write(writer)
            open_vindex(stage.path).close()
            job.progress.check()
            stage.publish()
    except OSError as error:
        raise write_error(error, out) from error
    return job.report(out, time.perf_counter() - started)


@dataclass(slots=True, eq=False)
class _Job:
    source: Vindex
    facts: tuple[Fact, ...]
    probes: tuple[Probe, ...]
    progress: Progress
    floats: Rounding = field(default_factory=Rounding)
    blocks: Rounding = field(default_factory=Rounding)
    shared: dict[str, Sharing] = field(default_factory=dict)
    sealed: dict[str, SealedFile] = field(default_factory=dict)
    changed: dict[str, list[Change]] = field(default_factory=lambda: defaultdict(list))

    there: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        base = self._base.path
        self.there = frozenset(files.stored_sizes(base))
        for change in changes(self.source):
            self.changed[change.file].append(change)

    @property
    def _base(self) -> Vindex:
        return self.source.base

    def _carried(self) -> list[str]:
        """Files of the base that a vindex consists of, but for those that are made anew."""
        known = {*self._base.mapped_files, *_TEXT, files.MANIFEST}
        known |= {kquant.manifest_name(name) for name in self._base.mapped_files}
        return sorted(name for name in known - _MADE if (self._base.path / name).exists())

    def bytes_needed(self) -> int:
        """An upper estimate of the bytes that are not shared."""
        mapped = self._base.mapped_files
        large = sum(mapped[name].size for name in {*self.changed, files.DOWN_META} & mapped.keys())
        return large + sum(len(key) * 8 for fact in self.facts for key in fact.keys)

    def write(self, writer: StageWriter) -> None:
        """Write every file of the stage, the seal last."""
        carried = self._carried()
        mapped = self._base.mapped_files
        self.progress.phase("compile", sum(mapped[name].size for name in carried if name in mapped))
        seal = read_seal(self._base.path)
        for name in carried:
            if name in self.changed:
                self._splice(writer, mapped[name], self.changed[name])
            elif name != files.DOWN_META or not self._write_down_meta(writer):
                self._share(writer, name, seal)
            self.progress.check()
        self._write_labels(writer)
        if self.facts:
            writer.whole(KNN_STORE, knn_store_bytes(self.facts))
        if self.probes:
            writer.whole(EDGE_STORE, edge_store_bytes(self.probes))
        self._write_index(writer)
        writer.settle()
        self.sealed |= writer.seal().sealed
        write_file(writer.directory / files.SEAL, dump_seal(Seal(self.sealed)))

    def _splice(self, writer: StageWriter, base: MappedFile, changed: list[Change]) -> None:
        """A file of the base with some of its tensors replaced."""
        name = base.name
        at = 0
        for change in sorted(changed, key=lambda each: each.offset):
            self._copy(writer, base, at, change.offset)
            baked = change.bake()
            writer.file(name).write(baked.data)
            self.floats, self.blocks = self.floats + baked.floats, self.blocks + baked.blocks
            at = change.offset + len(baked.data)
            self.progress.advance(len(baked.data))
            self.progress.check()
        self._copy(writer, base, at, base.size)
        writer.finish(name)

    def _copy(self, writer: StageWriter, base: MappedFile, start: int, stop: int) -> None:
        for at in range(start, stop, _COPY_BYTES):
            count = min(_COPY_BYTES, stop - at)
            writer.file(base.name).write(base.bytes(ByteRange(at, count)))
            self.progress.advance(count)
            self.progress.check()

    def _write_down_meta(self, writer: StageWriter) -> bool:
        """What the features write, where an edit says otherwise than the base."""
        new, old = self.source.down_meta, self._base.down_meta
        layers = range(old.num_layers)
        if new is old or all(np.array_equal(new.records(i), old.records(i)) for i in layers):
            return False
        meta = DownMetaWriter(writer.file(files.DOWN_META).write, old.num_layers, old.top_k)
        for layer in layers:
            meta.layer(new.records(layer))
        writer.finish(files.DOWN_META)
        return True

    def _share(self, writer: StageWriter, name: str, seal: Seal | None) -> None:
        """A file as the base has it; texts are never linked, for people edit them in place."""
        known = None if seal is None else seal.sealed.get(name)
        source, target = self._base.path / name, writer.directory / name
        if not name.endswith((".bin", ".weights")):
            data = files.read_small(source, _MAX_TEXT)
            if known is not None and seal is not None:
                seal.check_bytes(name, data, self._base.path)
            writer.whole(name, data)
            self.shared[name] = Sharing.COPIED
            return
        target.parent.mkdir(exist_ok=True)
        self.shared[name] = how = share(source, target)
        size = target.stat().st_size
        if known is None or how is Sharing.COPIED:
            found = SealedFile(size, _digest(target))
        else:
            found = SealedFile(size, known.sha256)
        if known is not None and found != known:
            raise VindexInvalid(
                f"{name} is not the file that {files.SEAL} was written for",
                hint=f"see all damage with: lql verify {self._base.path}",
                path=source,
            )
        self.sealed[name] = found
        self.progress.advance(size)

    def _write_labels(self, writer: StageWriter) -> None:
        """``feature_labels.json``: the base's, with the relations of edited features."""
        old, new = self._base.labels.probes, self.source.labels.probes
        path = self._base.path / files.FEATURE_LABELS
        if old == new:
            if path.exists():
                writer.whole(files.FEATURE_LABELS, files.read_small(path, _MAX_TEXT))
                self.shared[files.FEATURE_LABELS] = Sharing.COPIED
            return
        writer.whole(files.FEATURE_LABELS, dump_probes(path, new))

    def _write_index(self, writer: StageWriter) -> None:
        """``index.json`` with the new digests; where ours, with where the weights came from."""
        self.sealed |= writer.seal().sealed
        index = self._base.index.with_checksums(
            {
                name: self.sealed[name].sha256
                for name in files.LARQL_CHECKSUMMED
                if name in self.sealed
            }
        )
        if index.lql is not None:
            seal = read_seal(self._base.path)
            compiled = {
                "from": str(self._base.path),
                "seal": None if seal is None else hashlib.sha256(dump_seal(seal)).hexdigest(),
            }
            index = replace(index, lql={**index.lql, "compiled": compiled})
        writer.whole(files.INDEX, dump_index(index))

    def report(self, out: Path, seconds: float) -> CompileReport:
        """What stands at the target now."""
        sizes = files.stored_sizes(out)
        linked = {name for name, how in self.shared.items() if how is not Sharing.COPIED}
        return CompileReport(
            path=out,
            rewritten=tuple(sorted(sizes.keys() - self.shared.keys())),
            shared=dict(sorted(self.shared.items())),
            left_out=tuple(sorted(self.there - sizes.keys())),
            facts=len(self.facts),
            probes=len(self.probes),
            size_bytes=sum(sizes.values()),
            new_bytes=sum(size for name, size in sizes.items() if name not in linked),
            floats=self.floats,
            blocks=self.blocks,
            seconds=seconds,
        )


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
