"""An opened vindex: everything checked, every array a map of its file, nothing copied.

``open_vindex`` reads the small files and compares every number they hold with the sizes of the
large ones, so that no later access can leave a file. It does not read the large files; ``verify``
does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vindex import files, quick_tokenizer, tokens
from vindex.bands import Bands, bands_for
from vindex.closing import Closing
from vindex.downmeta import DownMeta
from vindex.errors import (
    LevelTooLow,
    VindexError,
    VindexIncomplete,
    VindexInvalid,
)
from vindex.files import MappedFile
from vindex.gate_vectors import GateVectors
from vindex.index import VindexIndex
from vindex.kinds import ExtractLevel, Quant, StorageDtype
from vindex.labels import Labels, read_labels
from vindex.manifest import ManifestEntry
from vindex.quick_tokenizer import QuickTokenizer
from vindex.seal import Seal
from vindex.source import QuantTensor, StoredTensor
from vindex.spec import (
    GATE_ROLES,
    ModelSpec,
    Role,
    TensorIdentity,
    TensorSpec,
)
from vindex.strict_json import load
from vindex.tokens import DecodedTokenTexts, StoredTokenTexts, TokenTexts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from vindex.kquant import QuantEntry

_MAX_JSON = 64 << 20
_MAX_TOKENIZER = 256 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """What ``open_vindex`` found and checked.

    Attributes:
        spec: the model, or why it cannot be known; browsing works without it.
        seal: what every file was when it was sealed; ``None`` of one that larql wrote.
        maps: every binary file, by name.
        entries: manifest entries of float tensors that are there, by key.
        quantised: entries of quantised matrices that are there, by key.
        embedding_size: of a row of the embedding.
        embeddings_dtype: told from the file's size.
        lacking: why inference is refused although the level would allow it.
        notes: what the user should know.
    """

    path: Path
    index: VindexIndex
    spec: ModelSpec | VindexError
    seal: Seal | None
    maps: Mapping[str, MappedFile]
    entries: Mapping[str, ManifestEntry]
    quantised: Mapping[str, QuantEntry]
    embedding_size: int
    embeddings_dtype: StorageDtype
    lacking: VindexError | None
    notes: tuple[str, ...]


class Vindex(Closing):
    """A model's weights in a directory. A ``ModelSource`` and a context manager.

    Attributes:
        path: the directory.
        index: its ``index.json``.
        seal: as it was when the vindex was opened; ``None`` of one that larql wrote.
        notes: what the user should know about it, one sentence each.

    Args:
        contents: as ``open_vindex`` found them.
    """

    def __init__(self, contents: Contents) -> None:
        self.path = contents.path
        self.index = contents.index
        self.seal = contents.seal
        self.notes = contents.notes
        self._spec = contents.spec
        self._maps = dict(contents.maps)
        self._entries = contents.entries
        self._embedding_size = contents.embedding_size
        self._quantised = contents.quantised
        self._embeddings_dtype = contents.embeddings_dtype
        self._lacking = contents.lacking
        self._gates = GateVectors(self.index, self.known_spec, self._maps, contents.quantised)
        self._specs = _tensors_by_role(contents)
        self._keys = {place: tensor.key for place, tensor in self._specs.items()}

    @property
    def name(self) -> str:
        """The path, for messages."""
        return str(self.path)

    @property
    def base(self) -> Vindex:
        """The files as they are, where edits stand over them; else the vindex itself."""
        return self

    @property
    def mapped_files(self) -> Mapping[str, MappedFile]:
        """Every binary file that is read, by name."""
        return self._maps

    @property
    def entries(self) -> Mapping[str, ManifestEntry]:
        """Where the float tensors of the manifest lie, by key."""
        return self._entries

    @property
    def quant_entries(self) -> Mapping[str, QuantEntry]:
        """Where the quantised matrices lie, by key."""
        return self._quantised

    @property
    def spec(self) -> ModelSpec:
        """The model's description.

        Raises:
            Unsupported: the family cannot be rebuilt from what the vindex records.
        """
        if isinstance(self._spec, ModelSpec):
            return self._spec
        raise self._spec

    @property
    def known_spec(self) -> ModelSpec | None:
        """``spec``, or ``None`` where it cannot be known."""
        return self._spec if isinstance(self._spec, ModelSpec) else None

    @property
    def level(self) -> ExtractLevel:
        """How much of the model is here."""
        return self.index.extract_level

    @cached_property
    def bands(self) -> Bands | None:
        """Layer bands: the stored ones, else larql's table; ``None`` below eight layers."""
        stored = self.index.layer_bands
        return stored or bands_for(self.index.family, self.index.num_layers)

    @cached_property
    def labels(self) -> Labels:
        """Relation labels of features; falsy when there are none."""
        return read_labels(self.path)

    @cached_property
    def embeddings(self) -> StoredTensor:
        """The embedding matrix ``[V, D]``, unscaled; of another width where it is projected."""
        shape = (self.index.vocab_size, self._embedding_size)
        array = self._maps[files.EMBEDDINGS].array(0, shape, self._embeddings_dtype)
        return StoredTensor("embed_tokens.weight", self._embeddings_dtype, array)

    @cached_property
    def down_meta(self) -> DownMeta:
        """Each feature's strongest tokens.

        Raises:
            VindexIncomplete: a vindex without ``down_meta.bin`` (a slice made by larql).
        """
        mapped = self._maps.get(files.DOWN_META)
        if mapped is None:
            raise VindexIncomplete(
                f"{self.path} has no {files.DOWN_META}, so features have no tokens",
                hint=self._extract_again(self.level),
                path=self.path,
            )
        return DownMeta(mapped)

    @cached_property
    def token_texts(self) -> TokenTexts:
        """Texts of single tokens, from the stored table or through the tokenizer."""
        mapped = self._maps.get(tokens.FILE)
        if mapped is not None:
            return StoredTokenTexts(mapped, self.index.vocab_size)
        return DecodedTokenTexts(self.tokenizer)

    @cached_property
    def tokenizer_config(self) -> Mapping[str, Any]:
        """``tokenizer_config.json``, empty when absent."""
        return self._json(files.TOKENIZER_CONFIG)

    @cached_property
    def generation_config(self) -> Mapping[str, Any]:
        """``generation_config.json``, empty when absent."""
        return self._json(files.GENERATION_CONFIG)

    @cached_property
    def chat_template(self) -> str | None:
        """The Jinja source of the model's chat template, or ``None``."""
        from vindex.checkpoint._tokenizer import chat_template

        path = self.path / files.CHAT_TEMPLATE
        own = {files.CHAT_TEMPLATE: files.read_small(path, _MAX_JSON)} if path.exists() else {}
        return chat_template(own, self.tokenizer_config)

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that have a gate block, ascending."""
        return tuple(info.layer for info in self.index.layers)

    def edited_features(self, layer: int) -> Collection[int]:
        """The features of a layer that an edit stands over: none, of files as they are."""
        return ()

    def num_features(self, layer: int) -> int:
        """F of a layer; 0 when it has no gate block."""
        info = self.index.layer_info(layer)
        return 0 if info is None else info.num_features

    def gate(self, layer: int) -> StoredTensor:
        """The gate matrix of a layer, ``[F, D]``; ``[0, D]`` when it has none.

        Decoded into float32 where the vindex keeps gate vectors in blocks alone.
        """
        return self._gates.layer(layer)

    @property
    def gate_vectors(self) -> GateVectors:
        """Where gate vectors are and what reading them costs."""
        return self._gates

    def has(self, role: Role, layer: int | None = None, expert: int | None = None) -> bool:
        """Whether the tensor is stored."""
        if role is Role.EMBED:
            return True
        if role in GATE_ROLES:
            return layer is not None and self.num_features(layer) > 0
        key = self._keys.get((role, layer, expert))
        return key in self._entries or key in self._quantised

    def tensor(
        self, role: Role, layer: int | None = None, expert: int | None = None
    ) -> StoredTensor:
        """A tensor as stored, a view of its file.

        Raises:
            KeyError: it is not stored; ``require`` says so in words before it comes to that.
        """
        if role is Role.EMBED:
            return self.embeddings
        if role in GATE_ROLES:
            assert layer is not None, "gate matrices belong to a layer"
            return self._gates.part(role, layer, expert)
        return self.stored(self._keys[role, layer, expert])

    def matrix(
        self, role: Role, layer: int | None = None, expert: int | None = None
    ) -> StoredTensor | QuantTensor:
        """What a forward pass multiplies by: the quantised matrix where there is one.

        Browsing reads gate vectors with ``gate``, which are kept as floats in any case.
        """
        tensor = self._specs.get((role, layer, expert))
        if tensor is not None and tensor.key in self._quantised:
            return self.quantised(tensor.key, tensor.shape[1])
        return self.tensor(role, layer, expert)

    def file_of(self, role: Role, layer: int | None = None, expert: int | None = None) -> str:
        """The file that ``matrix`` reads a stored tensor from."""
        key = self._keys.get((role, layer, expert), "")
        if key in self._quantised:
            return self._quantised[key].file
        if role is Role.EMBED:
            return files.EMBEDDINGS
        return files.GATE if role in GATE_ROLES else self._entries[key].file

    def quantised(self, key: str, cols: int | None = None) -> QuantTensor:
        """A quantised matrix by its key, a view of its file.

        Args:
            cols: how many of the stored columns are real; by default all.

        Raises:
            KeyError: it is not stored.
        """
        from vindex import kquant

        return QuantTensor(key, kquant.matrix(self._quantised[key], self._maps, cols))

    @property
    def quantised_keys(self) -> tuple[str, ...]:
        """Keys of all quantised matrices, whatever the model needs of them."""
        return tuple(self._quantised)

    @property
    def stored_keys(self) -> tuple[str, ...]:
        """Keys of all float tensors of the manifest, whatever the model needs of them."""
        return tuple(self._entries)

    def stored(self, key: str) -> StoredTensor:
        """A tensor of the manifest by its key, a view of its file.

        Raises:
            KeyError: it is not stored.
        """
        entry = self._entries[key]
        dtype = entry.dtype(self.index.dtype)
        array = self._maps[entry.file].array(entry.offset, entry.shape, dtype)
        return StoredTensor(key, dtype, array)

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, loaded once.

        Raises:
            VindexInvalid: ``tokenizer.json`` does not load, or has more tokens than the embedding
                has rows.
        """
        return self._tokenizer

    @cached_property
    def _quick_tokenizer(self) -> QuickTokenizer | None:
        mapped = self._maps.get(quick_tokenizer.FILE)
        return None if mapped is None else QuickTokenizer(mapped)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        path = self.path / files.TOKENIZER
        tokenizer = tokens.load_tokenizer(files.read_small(path, _MAX_TOKENIZER), path)
        tokens.check_vocabulary(tokenizer, self.index.vocab_size, path)
        return tokenizer

    def encode(self, text: str, *, special: bool) -> list[int]:
        """The token ids of a text.

        Args:
            text: any string.
            special: put the beginning-of-text token where the model's tokenizer does. A token
                that the tokenizer appends is left out: the text has not ended there.
        """
        encoding = None
        if self._quick_tokenizer is not None and "_tokenizer" not in self.__dict__:
            encoding = self._quick_tokenizer.encode(text, special=special)
        if encoding is None:
            encoding = self.tokenizer().encode(text, add_special_tokens=special)
        ids: list[int] = encoding.ids
        if special:
            while ids and encoding.special_tokens_mask[len(ids) - 1] and len(ids) > 1:
                ids = ids[:-1]
        return ids

    def require(self, level: ExtractLevel, what: str) -> None:
        """Check that the vindex holds what a statement needs.

        Args:
            level: the lowest level that holds it.
            what: the statement, for the message, e.g. ``INFER``.

        Raises:
            LevelTooLow: the level is lower; the hint is the EXTRACT that mends it.
            Unsupported: the weights are block-quantised, or of a family that is not implemented.
            VindexIncomplete: the level is right but a tensor was lost.
        """
        if level is ExtractLevel.BROWSE:
            return
        if self.index.extract_level < level:
            raise LevelTooLow(
                f"{what} needs a vindex of level {level.value}; "
                f"{self.path} is {self.index.extract_level.value}",
                hint=self._extract_again(level),
                path=self.path,
            )
        if self._lacking is not None:
            raise self._lacking
        if not isinstance(self._spec, ModelSpec):
            raise self._spec

    def release(self) -> None:
        """Give back the memory of pages already read; they come back when touched again."""
        for mapped in self._maps.values():
            mapped.release()

    def size_bytes(self) -> int:
        """Bytes of all files of the directory."""
        return sum(files.stored_sizes(self.path).values())

    def close(self) -> None:
        """Let go of the files. Arrays handed out stay valid until they are dropped."""
        self._maps.clear()
        self._gates.forget()
        for name in ("embeddings", "down_meta", "token_texts", "_quick_tokenizer"):
            self.__dict__.pop(name, None)

    def _json(self, name: str) -> Mapping[str, Any]:
        path = self.path / name
        if not path.exists():
            return {}
        value = load(files.read_small(path, _MAX_JSON), path)
        if type(value) is not dict:
            raise VindexInvalid(f"{name}: expected an object", path=path)
        return value

    def _extract_again(self, level: ExtractLevel) -> str:
        return extract_hint(self.index, self.path, level)


def extract_hint(index: VindexIndex, path: Path, level: ExtractLevel) -> str:
    """The statement that writes this vindex again at a level."""
    dtype = "" if index.dtype is StorageDtype.F16 else f" DTYPE {index.dtype.value}"
    quant = "" if index.quant is Quant.NONE else f" QUANT {index.quant.value}"
    if index.drops_gate_vectors:
        quant += " DROP_GATE_VECTORS"
    return (
        f"re-extract with: EXTRACT MODEL {quoted(index.model)} INTO {quoted(str(path))} "
        f"WITH {level.value.upper()}{dtype}{quant} OVERWRITE;"
    )


def quoted(text: str) -> str:
    """A string as a statement spells it."""
    escaped = text.replace("\\", "\\\\").replace('"', '""')
    return f'"{escaped}"'


def open_vindex(path: str | Path, *, config: str | Path | None = None) -> Vindex:
    """Open a vindex: read its small files, check everything against the large ones, map those.

    Args:
        path: the directory.
        config: completes what larql wrote and left out: a ``config.json``, or the checkpoint.

    Raises:
        VindexNotFound: there is no vindex at the path.
        VindexInvalid: files that are malformed or contradict each other.
        VindexIncomplete: files or tensors are missing, or an extract was interrupted.
        Unsupported: a format version newer than this code.
        CheckpointError, LedgerRefusal: what should complete it cannot be read, or does not.
    """
    if config is not None:
        from vindex.completion import open_completed

        return open_completed(Path(path), str(config))
    from vindex.opening import inspect

    return Vindex(inspect(Path(path)))


def _tensors_by_role(contents: Contents) -> dict[TensorIdentity, TensorSpec]:
    spec = contents.spec
    if not isinstance(spec, ModelSpec):
        return {}
    return {tensor.identity: tensor for tensor in spec.tensors}
