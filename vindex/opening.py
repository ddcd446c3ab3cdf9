"""What ``open_vindex`` checks, in order: index, seal, large files, manifest, model, completeness.

Every number is compared with the size of the file it speaks about before anything is mapped
through it. larql notices almost none of the damage refused here: a manifest that lost a tensor, a
gate file of another dtype, an lm_head that COMPILE did not copy: all give it plausible wrong
answers.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vindex import files, ple, quick_tokenizer, tokens
from vindex.blocks import in_blocks
from vindex.downmeta import DownMeta
from vindex.errors import (
    CheckpointError,
    Unsupported,
    VindexError,
    VindexIncomplete,
    VindexInvalid,
    VindexNotFound,
)
from vindex.files import MappedFile
from vindex.gate_vectors import GateVectors, check_file
from vindex.index import VindexIndex, parse_index
from vindex.kinds import ExtractLevel, Quant, StorageDtype
from vindex.manifest import HEAD_KEY, ManifestEntry, parse_manifest, stored_entries
from vindex.manifest import MAX_BYTES as MANIFEST_LIMIT
from vindex.quick_tokenizer import QuickTokenizer
from vindex.seal import Seal, read_seal
from vindex.spec import GATE_ROLES, ModelSpec, MoeSpec, Role, StorageFile, TensorSpec
from vindex.store import Contents, extract_hint, quoted
from vindex.strict_json import load
from vindex.tokens import StoredTokenTexts

if TYPE_CHECKING:
    from vindex.kquant import QuantEntry

_MAX_JSON = 64 << 20


class Supplement(Protocol):
    """What completes a vindex that larql wrote; see ``vindex.completion``."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The model's configuration."""

    def fill(self, path: Path, missing: Sequence[TensorSpec]) -> None:
        """Give the tensors that are missing, or raise."""


def inspect(path: Path, supplement: Supplement | None = None) -> Contents:
    """Read the small files of a vindex and check all that can be without reading the large ones.

    Args:
        supplement: tells and gives what larql left out.

    Raises:
        VindexNotFound: there is no vindex at the path.
        VindexInvalid: files that are malformed or contradict each other.
        VindexIncomplete: files or tensors are missing, or an extract was interrupted.
        Unsupported: a format version newer than this code.
    """
    _find(path)
    index_bytes = files.read_small(path / files.INDEX, _MAX_JSON)
    index = parse_index(index_bytes, path / files.INDEX)
    seal = _check_seal(path, index)
    if seal is not None:
        seal.check_bytes(files.INDEX, index_bytes, path)
    maps = _map_known(path)
    extract_again = extract_hint(index, path, index.extract_level)
    check_file(path, index, maps.get(files.GATE), extract_again)
    _check_down_meta(index, maps)
    if tokens.FILE in maps:
        StoredTokenTexts(maps[tokens.FILE], index.vocab_size)
    if quick_tokenizer.FILE in maps:
        QuickTokenizer(maps[quick_tokenizer.FILE])
    if not (path / files.TOKENIZER).exists():
        raise VindexIncomplete(f"{files.TOKENIZER} is missing from {path}", path=path)
    listed, entries = _read_manifest(path, seal, maps)
    quantised = _read_quantised(path, index, seal, listed, maps)
    declared = frozenset(entry.key for entry in listed)
    # Below inference level nobody can tell whether there was a head, and nobody needs it.
    may_have_head = index.extract_level < ExtractLevel.INFERENCE or HEAD_KEY in declared
    have_keys = entries.keys() | quantised.keys() | ({HEAD_KEY} if may_have_head else set())
    spec, notes = _read_spec(path, index, seal, have_keys, supplement)
    if isinstance(spec, ModelSpec) and index.quant is not Quant.NONE:
        entries, quantised = _with_experts(path, spec, index, entries, quantised, maps)
    known = spec if isinstance(spec, ModelSpec) else None
    GateVectors(index, known, maps, quantised).check(path, extract_again)
    embedding_size = spec.embedding_size if isinstance(spec, ModelSpec) else index.hidden_size
    embeddings_dtype = _check_embeddings(path, index, embedding_size, maps)
    lacking: VindexError | None = None
    if index.fp4 is not None or index.bitnet_layout is not None:
        lacking = _other_blocks(path)
    elif isinstance(spec, ModelSpec):
        _check_agreement(path, index, spec)
        missing = _missing(path, index, spec, entries, quantised)
        if supplement is not None:
            supplement.fill(path, missing)
            missing = []
        only_head = [tensor.role for tensor in missing] == [Role.HEAD]
        if only_head and HEAD_KEY in declared and index.tie_word_embeddings is None:
            lacking = _head_lost(index, path)
            notes = (*notes, lacking.message)
        elif missing:
            raise _incomplete(index, path, missing)
    else:
        notes = (*notes, f"browsing only: {spec.message}")
    return Contents(
        path=path,
        index=index,
        spec=spec,
        seal=seal,
        maps=maps,
        entries=entries,
        embedding_size=embedding_size,
        quantised=quantised,
        embeddings_dtype=embeddings_dtype,
        lacking=lacking,
        notes=notes,
    )


def _find(path: Path) -> None:
    if not path.exists():
        raise VindexNotFound(
            f"there is no vindex at {path}",
            hint=f'make one with: EXTRACT MODEL "…" INTO {quoted(str(path))} WITH INFERENCE;',
            path=path,
        )
    if not path.is_dir():
        raise VindexNotFound(
            f"{path} is a file; a vindex is a directory",
            hint=f"to run a checkpoint directly: USE MODEL {quoted(str(path))};",
            path=path,
        )
    if (path / files.LARQL_CHECKPOINT).exists():
        raise VindexIncomplete(
            f"{path} holds an interrupted extract of larql",
            hint="extract it again into an empty directory",
            path=path,
        )
    if not (path / files.INDEX).exists():
        is_checkpoint = (path / files.CONFIG).exists()
        raise VindexNotFound(
            f"{path} is not a vindex: it has no {files.INDEX}",
            hint=(
                f"it looks like a checkpoint: EXTRACT MODEL {quoted(str(path))} "
                'INTO "…" WITH INFERENCE;'
                if is_checkpoint
                else None
            ),
            path=path,
        )


def _check_seal(path: Path, index: VindexIndex) -> Seal | None:
    seal = read_seal(path)
    if seal is not None:
        seal.check_sizes(path, extract_hint(index, path, index.extract_level))
    elif index.ours:
        raise VindexIncomplete(
            f"{path} has no {files.SEAL}: its extract was interrupted or the copy is partial",
            hint=extract_hint(index, path, index.extract_level),
            path=path,
        )
    elif index.extract_level > ExtractLevel.BROWSE and not index.has_model_weights:
        raise VindexIncomplete(
            f"{path} holds an interrupted extract: its index says level "
            f"{index.extract_level.value} but no weights were written",
            hint=extract_hint(index, path, index.extract_level),
            path=path,
        )
    return seal


def _map_known(path: Path) -> dict[str, MappedFile]:
    names = [file.value for file in StorageFile]
    names += [files.DOWN_META, tokens.FILE, quick_tokenizer.FILE]
    return {name: MappedFile(path, name) for name in names if (path / name).exists()}


def _check_embeddings(
    path: Path, index: VindexIndex, size: int, maps: Mapping[str, MappedFile]
) -> StorageDtype:
    """The element type of ``embeddings.bin``, told from its exact size as larql does."""
    mapped = maps.get(files.EMBEDDINGS)
    if mapped is None:
        raise VindexIncomplete(
            f"{files.EMBEDDINGS} is missing from {path}",
            hint=extract_hint(index, path, index.extract_level),
            path=path,
        )
    shape = (index.vocab_size, size)
    if mapped.size == files.tensor_bytes(shape, 4):
        return StorageDtype.F32
    if mapped.size == files.tensor_bytes(shape, 2):
        return StorageDtype.BF16 if index.dtype is StorageDtype.BF16 else StorageDtype.F16
    raise VindexInvalid(
        f"{files.EMBEDDINGS} has {mapped.size:,} bytes, which is neither two nor four for each of "
        f"{index.vocab_size:,} x {size:,} elements",
        path=mapped.path,
    )


def _check_down_meta(index: VindexIndex, maps: Mapping[str, MappedFile]) -> None:
    mapped = maps.get(files.DOWN_META)
    if mapped is None:
        return
    meta = DownMeta(mapped)
    if meta.num_layers != index.num_layers:
        raise VindexInvalid(
            f"{files.DOWN_META} has {meta.num_layers} layers, the model {index.num_layers}",
            path=mapped.path,
        )
    widths = {info.layer: info.num_features for info in index.layers}
    for layer in range(meta.num_layers):
        count = meta.num_features(layer)
        if count not in (0, widths.get(layer, 0)):
            raise VindexInvalid(
                f"{files.DOWN_META} has {count:,} features at layer {layer}, "
                f"{files.GATE} {widths.get(layer, 0):,}",
                path=mapped.path,
            )


def _read_manifest(
    path: Path, seal: Seal | None, maps: dict[str, MappedFile]
) -> tuple[tuple[ManifestEntry, ...], dict[str, ManifestEntry]]:
    """All that the manifest lists, and the float tensors that are there; maps its other files."""
    manifest = path / files.MANIFEST
    if not manifest.exists():
        return (), {}
    data = files.read_small(manifest, MANIFEST_LIMIT)
    if seal is not None:
        seal.check_bytes(files.MANIFEST, data, path)
    declared = parse_manifest(data, manifest)
    for name in {entry.file for entry in declared if entry.is_float} - maps.keys():
        if (path / name).exists():
            maps[name] = MappedFile(path, name)
    return declared, stored_entries(declared, maps, manifest)


def _read_quantised(
    path: Path,
    index: VindexIndex,
    seal: Seal | None,
    listed: tuple[ManifestEntry, ...],
    maps: dict[str, MappedFile],
) -> Mapping[str, QuantEntry]:
    """The quantised matrices that are there; maps their files."""
    if index.quant is Quant.NONE:
        return {}
    from vindex import kquant  # here: the codecs are no part of opening other vindexes

    return kquant.read_entries(
        path, seal, listed, maps, head_shape=(index.vocab_size, index.hidden_size)
    )


def _with_experts(
    path: Path,
    spec: ModelSpec,
    index: VindexIndex,
    entries: Mapping[str, ManifestEntry],
    quantised: Mapping[str, QuantEntry],
    maps: dict[str, MappedFile],
) -> tuple[dict[str, ManifestEntry], dict[str, QuantEntry]]:
    """Both, with what larql keeps in its own way where experts stand beside a dense FFN."""
    from vindex import layer_files

    hint = extract_hint(index, path, index.extract_level)
    experts = layer_files.read_entries(path, spec, index, hint, maps)
    for key in experts.keys() & quantised.keys():
        raise VindexInvalid(f"{key!r} is quantised twice in {path}", path=path)
    return layer_files.with_whole_routers(entries, spec), {**quantised, **experts}


def _read_spec(
    path: Path,
    index: VindexIndex,
    seal: Seal | None,
    have_keys: Container[str],
    supplement: Supplement | None,
) -> tuple[ModelSpec | VindexError, tuple[str, ...]]:
    """The model's description, or why there is none, and notes about it."""
    from vindex.families import spec_from_config, spec_from_index

    config = path / files.CONFIG
    if supplement is not None and index.ours:
        raise VindexInvalid(
            f"{path} was not written by larql: it lacks nothing that a configuration could give",
            hint="leave out CONFIG",
            path=path,
        )
    try:
        if supplement is not None:
            return spec_from_config(supplement.config), ()
        if config.exists():
            data = files.read_small(config, _MAX_JSON)
            if seal is not None:
                seal.check_bytes(files.CONFIG, data, path)
            value = load(data, config)
            if type(value) is not dict:
                raise VindexInvalid(f"{files.CONFIG}: expected an object", path=config)
            return spec_from_config(value), ()
        if index.ours:
            raise VindexIncomplete(f"{files.CONFIG} is missing from {path}", path=config)
        return spec_from_index(index, have_keys)
    except Unsupported as error:
        return error, ()
    except CheckpointError as error:
        raise VindexInvalid(error.message, hint=error.hint, path=path) from error


def _check_agreement(path: Path, index: VindexIndex, spec: ModelSpec) -> None:
    """``config.json`` and ``index.json`` must describe the same model."""
    facts = (
        ("layers", spec.num_layers, index.num_layers),
        ("hidden size", spec.hidden_size, index.hidden_size),
        ("vocabulary", spec.vocab_size, index.vocab_size),
        *(
            (
                f"features of layer {info.layer}",
                spec.layers[info.layer].ffn.width,
                info.num_features,
            )
            for info in index.layers
            if info.layer < spec.num_layers
        ),
    )
    beside = {
        f"features of layer {layer.index}": layer.ffn.beside.ffn.width
        for layer in spec.layers
        if isinstance(layer.ffn, MoeSpec) and layer.ffn.beside is not None and not index.ours
    }
    for what, of_config, of_index in facts:
        # larql gives the experts beside a dense FFN no features.
        if of_index not in (of_config, beside.get(what)):
            raise VindexInvalid(
                f"{files.CONFIG} and {files.INDEX} disagree about the {what}: "
                f"{of_config:,} and {of_index:,}",
                path=path,
            )


def _missing(
    path: Path,
    index: VindexIndex,
    spec: ModelSpec,
    entries: Mapping[str, ManifestEntry],
    quantised: Mapping[str, QuantEntry],
) -> list[TensorSpec]:
    """Tensors that the level promises and the vindex does not hold.

    Raises:
        VindexInvalid: one is there with another shape.
    """
    missing: list[TensorSpec] = []
    for tensor in spec.needed(index.extract_level):
        if _is_quantised(tensor, index, spec):
            matrix = quantised.get(tensor.key)
            if matrix is not None and not matrix.holds(tensor.shape):
                raise VindexInvalid(
                    f"{tensor.key} has {matrix.rows:,} rows of {matrix.padded_cols:,} quantised "
                    f"values; the model needs {list(tensor.shape)}, rows padded to whole blocks",
                    path=path,
                )
            if matrix is not None and tensor.role not in GATE_ROLES:
                continue
            if matrix is None and not (tensor.role is Role.HEAD and _is_tied(index, spec)):
                missing.append(tensor)
                continue
        match tensor.role:
            case Role.EMBED:
                continue
            case role if role in GATE_ROLES:
                if tensor.layer is None or index.layer_info(tensor.layer) is None:
                    missing.append(tensor)
                continue
            case Role.HEAD:
                if _is_tied(index, spec) and tensor.key not in entries:
                    continue
            case _:
                pass
        entry = entries.get(tensor.key)
        if entry is None:
            missing.append(tensor)
        elif entry.shape != tensor.shape:
            raise VindexInvalid(
                f"{tensor.key} has shape {list(entry.shape)}; the model needs {list(tensor.shape)}",
                path=path / files.MANIFEST,
            )
    return missing


def _is_tied(index: VindexIndex, spec: ModelSpec) -> bool:
    """Whether the embedding stands in for a head."""
    return spec.tied if index.tie_word_embeddings is None else index.tie_word_embeddings


def _is_quantised(tensor: TensorSpec, index: VindexIndex, spec: ModelSpec) -> bool:
    """Whether a vindex of this index keeps a tensor in blocks, the gate besides its floats."""
    if index.quant is Quant.NONE or not in_blocks(tensor, spec):
        return False
    return tensor.role not in GATE_ROLES or index.extract_level >= ExtractLevel.INFERENCE


def _incomplete(index: VindexIndex, path: Path, missing: list[TensorSpec]) -> VindexIncomplete:
    if any(tensor.role in ple.ROLES for tensor in missing):
        return ple.lost(path, missing, extract_hint(index, path, index.extract_level))
    count = "1 tensor" if len(missing) == 1 else f"{len(missing)} tensors"
    return VindexIncomplete(
        f"{path} is missing {count} (e.g. {missing[0].key})",
        hint=extract_hint(index, path, index.extract_level),
        path=path,
        details=[tensor.key for tensor in missing],
    )


def _head_lost(index: VindexIndex, path: Path) -> VindexIncomplete:
    return VindexIncomplete(
        f"{files.MANIFEST} names {HEAD_KEY} but its file is not there (larql's COMPILE and slices "
        "lose it); inference would be wrong with the embedding in its place",
        hint=extract_hint(index, path, index.extract_level),
        path=path,
        details=[HEAD_KEY],
    )


def _other_blocks(path: Path) -> Unsupported:
    return Unsupported(
        f"{path} holds FP4, FP8 or ternary weights, which this version does not compute with",
        hint="browsing works; for inference extract with QUANT q4k or without QUANT",
        path=path,
    )
