"""Tokenising one short text without loading the whole tokenizer.

``tokenizer.json`` of 262,144 tokens takes 0.8 s to load, of 49,152 tokens 65 ms; DESCRIBE needs it
for a word. A byte-pair tokenizer decides a text by the tokens that are substrings of it: a merge
whose result is no substring of a piece of the text can never apply to that piece. So the tokenizer
made of just those tokens and merges, in their order, gives the same ids. ``tokenizer_parts.bin``,
written by EXTRACT and ignored by larql, is laid out for finding them; normalising, splitting and
merging are done by the ``tokenizers`` library, by the rules of the model's own file.

A text in which an added token stands (a chat marker, say) is left to the whole tokenizer.

Layout (little-endian), n tokens and m merges::

    magic "LQTP" | version u32 | n u32 | m u32 | text bytes u64 | json bytes u64
    masks u64[n, 2] | ids u32[n] | offsets u32[n + 1] | merges u32[m, 3] | texts | json

A mask has a bit for every character of a token and one for every pair of neighbours, both hashed
to 64: a token can only be a substring of a text that has all its bits. A merge is three rows: left,
right, result. The json holds the tokenizer without vocabulary and merges, the added tokens, and the
rows that every text needs (the bytes of byte fallback, the unknown token).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from vindex import files
from vindex.errors import VindexInvalid
from vindex.files import ByteRange, MappedFile
from vindex.strict_json import Fields, load
from vindex.tokens import load_tokenizer, refusals

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

FILE = "tokenizer_parts.bin"

_MAGIC = b"LQTP"
_VERSION = 1
_HEADER = np.dtype(
    [
        ("magic", "S4"),
        ("version", "<u4"),
        ("tokens", "<u4"),
        ("merges", "<u4"),
        ("text_bytes", "<u8"),
        ("json_bytes", "<u8"),
    ]
)
_MASK, _ROW = np.dtype("<u8"), np.dtype("<u4")
_MODEL_OPTIONS = ("unk_token", "fuse_unk", "byte_fallback", "ignore_merges")
_MUST_BE_UNSET = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
_SAMPLES = 64
_PEOPLE_WRITE = (
    "France",
    "The capital of France is",
    " two  spaces,\n\tand a tab ",
    "Zoë's 3.14 naïve façades — 巴黎 🙂",
    "def f(x: int) -> int:\n    return x ** 2",
    "",
)
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


def _sections(tokens: int, merges: int) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shapes and element types of masks, ids, offsets and merges."""
    return [((tokens, 2), _MASK), ((tokens,), _ROW), ((tokens + 1,), _ROW), ((merges, 3), _ROW)]


class QuickTokenizer:
    """A mapped ``tokenizer_parts.bin``.

    Args:
        mapped: the file.

    Raises:
        VindexInvalid: malformed, or sizes that contradict the file.
    """

    def __init__(self, mapped: MappedFile) -> None:
        self._mapped = mapped
        if mapped.size < _HEADER.itemsize:
            self._refuse("it is too short for a header")
        header = mapped.view(0, (1,), _HEADER)[0]
        if bytes(header["magic"]) != _MAGIC or header["version"] != _VERSION:
            self._refuse("unknown magic or version")
        tokens, merges = int(header["tokens"]), int(header["merges"])
        sections = _sections(tokens, merges)
        offset = _HEADER.itemsize
        parts: list[npt.NDArray[Any]] = []
        for shape, dtype in sections:
            size = files.tensor_bytes(shape, dtype.itemsize)
            if not mapped.holds(ByteRange(offset, size)):
                self._refuse("it ends inside its tables")
            parts.append(mapped.view(offset, shape, dtype))
            offset += size
        self._masks, self._ids, self._offsets, self._merges = parts
        text = ByteRange(offset, int(header["text_bytes"]))
        self._json = ByteRange(text.stop, int(header["json_bytes"]))
        if self._json.stop != mapped.size or int(self._offsets[-1]) != text.length:
            self._refuse("its sections do not fill it")
        self._text = mapped.view(text.start, (text.length,), np.dtype("u1")).data

    def _refuse(self, reason: str) -> NoReturn:
        raise VindexInvalid(f"{FILE}: {reason}", path=self._mapped.path)

    def encode(self, text: str, *, special: bool) -> Encoding | None:
        """What the whole tokenizer gives for a text, or ``None`` where only that one can tell.

        Args:
            text: any string.
            special: add the special tokens that the tokenizer puts around a text.

        Raises:
            VindexInvalid: the file's contents contradict each other.
        """
        with refusals(self._mapped.path):
            return self._encode(text, special)

    def _encode(self, text: str, special: bool) -> Encoding | None:
        tokenizer = self._empty
        normalizer, splitter = tokenizer.normalizer, tokenizer.pre_tokenizer
        normal = text if normalizer is None else normalizer.normalize_str(text)
        if any(added in text or added in normal for added in self._added):
            return None
        pieces = [normal]
        if splitter is not None:
            pieces = [piece for piece, _ in splitter.pre_tokenize_str(normal)]
        tokenizer.model = self._model(pieces)
        return tokenizer.encode(text, add_special_tokens=special)

    def _model(self, pieces: Sequence[str]) -> Any:
        """The byte-pair model of the tokens that are substrings of the pieces."""
        from tokenizers.models import BPE

        joined = "\0".join(pieces)
        missing = ~_masks([joined])[0]
        possible = np.flatnonzero(~(self._masks & missing).any(axis=1))
        kept = np.zeros(len(self._ids), np.bool_)
        names: dict[int, str] = {}
        for row, name in zip(possible.tolist(), self._names(possible), strict=True):
            if name in joined:
                names[row] = name
        always = [row for row in self._always if row not in names]
        names |= zip(always, self._names(np.asarray(always, np.intp)), strict=True)
        kept[list(names)] = True
        merges = self._merges[kept[self._in_range(self._merges[:, 2])]].tolist()
        vocabulary = {name: int(self._ids[row]) for row, name in names.items()}
        pairs = [(names[left], names[right]) for left, right, _ in merges]
        return BPE(vocabulary, pairs, **self._options)

    def _in_range(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if rows.size and int(rows.max()) >= len(self._ids):
            self._refuse("a merge names a token that does not exist")
        return rows

    def _names(self, rows: npt.NDArray[np.intp]) -> list[str]:
        starts, stops = self._offsets[rows], self._offsets[rows + 1]
        if (starts > stops).any() or (stops > self._offsets[-1]).any():
            self._refuse("its offsets do not ascend")
        spans = zip(starts.tolist(), stops.tolist(), strict=True)
        return [str(self._text[a:b], "utf-8", "surrogatepass") for a, b in spans]

    @cached_property
    def _facts(self) -> Fields:
        path = self._mapped.path
        return Fields(load(self._mapped.bytes(self._json), path), path)

    @cached_property
    def _added(self) -> list[str]:
        """Contents of added tokens, none of them empty."""
        added = self._facts.array("added", limit=1 << 24)
        if not all(type(content) is str and content for content in added):
            self._refuse("added tokens that are no text")
        return added

    @cached_property
    def _always(self) -> list[int]:
        rows = self._facts.array("always", limit=1 << 16)
        if not all(type(row) is int and 0 <= row < len(self._ids) for row in rows):
            self._refuse("it needs tokens that do not exist")
        return rows

    @cached_property
    def _empty(self) -> Tokenizer:
        """The tokenizer without vocabulary and merges."""
        bare = json.dumps(self._facts.raw("tokenizer")).encode()
        return load_tokenizer(bare, self._mapped.path)

    @cached_property
    def _options(self) -> Mapping[str, Any]:
        model = Fields(self._facts.raw("tokenizer"), self._mapped.path).child("model")
        if model is None:
            self._refuse("it has no model")
        return {key: model.raw(key) for key in _MODEL_OPTIONS if model.raw(key) is not None}


def tokenizer_parts(data: bytes, path: Path) -> bytes | None:
    """``tokenizer_parts.bin`` for a ``tokenizer.json``; ``None`` for one it cannot stand for.

    Args:
        data: the file, which must have been loaded before.
        path: where it came from, for messages.
    """
    document = load(data, path)
    model = document["model"]
    if model.get("type") != "BPE" or any(model.get(key) for key in _MUST_BE_UNSET):
        return None
    names = list(model["vocab"])
    rows = {name: row for row, name in enumerate(names)}
    merges: list[tuple[int | None, ...]] = []
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        merges.append((rows.get(left), rows.get(right), rows.get(left + right)))
    if any(None in merge for merge in merges):
        return None
    always = [row for row, name in enumerate(names) if _BYTE_TOKEN.fullmatch(name)]
    if model.get("unk_token") in rows:
        always.append(rows[model["unk_token"]])
    added = [token["content"] for token in document["added_tokens"] if token["content"]]
    bare = document | {"added_tokens": [], "model": model | {"vocab": {}, "merges": []}}
    facts = json.dumps({"tokenizer": bare, "added": added, "always": sorted(set(always))}).encode()
    texts = [name.encode("utf-8", "surrogatepass") for name in names]
    offsets = np.zeros(len(names) + 1, _ROW)
    np.cumsum([len(text) for text in texts], out=offsets[1:])
    blob = b"".join(texts)
    header = np.array([(_MAGIC, _VERSION, len(names), len(merges), len(blob), len(facts))], _HEADER)
    sections = (
        header,
        _masks(names),
        np.fromiter(model["vocab"].values(), _ROW, len(names)),
        offsets,
        np.array(merges, _ROW).reshape(-1, 3),
    )
    return b"".join([*(section.tobytes() for section in sections), blob, facts])


def agrees(quick: QuickTokenizer, whole: Tokenizer, texts: Sequence[str]) -> bool:
    """Whether both give the same ids for samples: people's texts and runs of random tokens.

    They must, by the argument above, but a tokenizer may have a part nobody thought of.

    Args:
        quick: made from the file of ``whole``.
        whole: the tokenizer itself.
        texts: the text of every token.
    """
    from random import Random  # only extracts come here

    rng = Random(0)
    drawn = ["".join(rng.choices(texts, k=rng.randrange(1, 8))) for _ in range(_SAMPLES)]
    for text in (*_PEOPLE_WRITE, *drawn):
        for special in (False, True):
            found = quick.encode(text, special=special)
            if found is None:
                continue
            expected = whole.encode(text, add_special_tokens=special)
            if (found.ids, found.special_tokens_mask) != (
                expected.ids,
                expected.special_tokens_mask,
            ):
                return False
    return True


def _masks(texts: Sequence[str]) -> npt.NDArray[np.uint64]:
    """The hashed characters and neighbours of each text, ``[N, 2]``."""
    lengths = np.array([len(text) for text in texts])
    joined = "".join(texts).encode("utf-32-le", "surrogatepass")
    characters = np.frombuffer(joined, "<u4").astype(np.uint64)
    result = np.zeros((len(texts), 2), _MASK)
    if len(characters) == 0:
        return result
    bits = np.empty((len(characters), 2), _MASK)
    bits[:, 0] = np.uint64(1) << (characters % np.uint64(64))
    pairs = characters[:-1] * np.uint64(31) + characters[1:]
    bits[:-1, 1] = np.uint64(1) << (pairs % np.uint64(64))
    stops = np.cumsum(lengths)
    filled = lengths > 0
    bits[stops[filled] - 1, 1] = 0  # a pair needs a neighbour in the same text
    starts = (stops - lengths)[filled]
    result[filled] = np.bitwise_or.reduceat(bits, starts, axis=0)
    return result
