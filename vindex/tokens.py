"""The text of tokens, decoded one by one and trimmed, as down_meta's rules and people see them.

An extract writes ``token_texts.bin`` beside ``tokenizer.json``, so that showing features needs no
tokenizer: loading one costs 65 ms for 49,152 tokens and 0.8 s for 262,144. larql ignores the file;
a vindex without it decodes through the tokenizer.

Layout (little-endian): magic ``LQTT``, version 1, number of tokens V, each u32; then V + 1 u64 byte
offsets into the UTF-8 that follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from vindex.errors import VindexError, VindexInvalid
from vindex.files import MappedFile
from vindex.tokenizer_check import refuse_lethal

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE = "token_texts.bin"

_MAGIC = b"LQTT"
_VERSION = 1
_HEADER = np.dtype([("magic", "S4"), ("version", "<u4"), ("count", "<u4")])
_OFFSET = np.dtype("<u8")
_BATCH = 1 << 16

#: Unicode's White_Space, which larql trims by. ``str.strip`` also takes U+001C to U+001F.
_WHITE_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000"
    "\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
)


def trim(text: str) -> str:
    """The text without leading and trailing white space."""
    return text.strip(_WHITE_SPACE)


def load_tokenizer(data: bytes, path: Path) -> Tokenizer:
    """The tokenizer of a ``tokenizer.json`` that strangers wrote.

    Args:
        data: the file.
        path: where it came from, for messages.

    Raises:
        VindexInvalid: the ``tokenizers`` library refuses the file, panics on it, or would kill the
            process.
    """
    from tokenizers import Tokenizer

    refuse_lethal(data, path)
    with refusals(path):
        return Tokenizer.from_buffer(data)


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Turn what the ``tokenizers`` library raises, panics included, into ``VindexInvalid``."""
    try:
        yield
    except VindexError:
        raise
    except Exception as error:
        raise _refused(path, error) from error
    except BaseException as error:
        # A panic in the library's Rust code derives from BaseException only.
        if type(error).__name__ == "PanicException":
            raise _refused(path, error) from error
        raise


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int, path: Path) -> None:
    """Refuse a tokenizer with more tokens than the embedding has rows.

    Added tokens are not counted: Gemma 3's has one for images beyond the text model's rows.

    Raises:
        VindexInvalid: it belongs to another model.
    """
    size = tokenizer.get_vocab_size(with_added_tokens=False)
    if size > vocab_size:
        raise VindexInvalid(
            f"{path.name} has {size:,} tokens, the embedding only {vocab_size:,} rows: "
            "it belongs to another model",
            path=path,
        )


def _refused(path: Path, error: BaseException) -> VindexInvalid:
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return VindexInvalid(f"{path.name} cannot be loaded: {reason}", path=path)


class TokenTexts(Protocol):
    """Texts of single tokens."""

    def text(self, token_id: int) -> str:
        """The trimmed text of one token; ``T<id>`` for an id outside the vocabulary."""

    def texts(self, token_ids: Iterable[int]) -> list[str]:
        """The trimmed texts of many."""


def decode_all(tokenizer: Tokenizer, count: int) -> list[str]:
    """The trimmed text of every id below ``count``; special and unknown ids are empty.

    Each token is decoded alone with special tokens skipped, as larql does.
    """
    texts: list[str] = []
    for start in range(0, count, _BATCH):
        ids = [[token_id] for token_id in range(start, min(start + _BATCH, count))]
        texts += [trim(text) for text in tokenizer.decode_batch(ids, skip_special_tokens=True)]
    return texts


def blank_tokens(texts: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which tokens have no text, ``[V]``."""
    return np.fromiter((not text for text in texts), np.bool_, len(texts))


def token_texts_bytes(texts: Sequence[str]) -> bytes:
    """``token_texts.bin`` for the texts of ids 0, 1, 2 …"""
    encoded = [text.encode("utf-8", "replace") for text in texts]
    offsets = np.zeros(len(encoded) + 1, _OFFSET)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    header = np.array([(_MAGIC, _VERSION, len(encoded))], _HEADER)
    return header.tobytes() + offsets.tobytes() + b"".join(encoded)


class StoredTokenTexts:
    """A mapped ``token_texts.bin``.

    Args:
        mapped: the file.
        vocab_size: how many tokens it must hold.

    Raises:
        VindexInvalid: malformed, of another vocabulary size, or with offsets that leave the file.
    """

    def __init__(self, mapped: MappedFile, vocab_size: int) -> None:
        self._mapped = mapped
        header_size = _HEADER.itemsize
        if mapped.size < header_size:
            self._refuse("it is too short for a header")
        header = mapped.view(0, (1,), _HEADER)[0]
        if bytes(header["magic"]) != _MAGIC or header["version"] != _VERSION:
            self._refuse("unknown magic or version")
        if header["count"] != vocab_size:
            self._refuse(f"it holds {header['count']:,} tokens of {vocab_size:,}")
        start = header_size + (vocab_size + 1) * _OFFSET.itemsize
        if mapped.size < start:
            self._refuse("it ends inside the offsets")
        self._offsets = mapped.view(header_size, (vocab_size + 1,), _OFFSET)
        if start + int(self._offsets[-1]) != mapped.size:
            self._refuse("its texts do not end with the file")
        self._text = mapped.view(start, (mapped.size - start,), np.dtype("u1")).data

    def _refuse(self, reason: str) -> None:
        raise VindexInvalid(f"{FILE}: {reason}", path=self._mapped.path)

    def text(self, token_id: int) -> str:
        """The trimmed text of one token; ``T<id>`` for an id outside the vocabulary."""
        return self.texts([token_id])[0]

    def texts(self, token_ids: Iterable[int]) -> list[str]:
        """The trimmed texts of many."""
        ids = np.fromiter(token_ids, np.int64)
        known = (ids >= 0) & (ids < len(self._offsets) - 1)
        places = np.where(known, ids, 0)
        starts, stops = self._offsets[places], self._offsets[places + 1]
        if (starts > stops).any() or (stops > self._offsets[-1]).any():
            self._refuse("its offsets do not ascend")
        spans = zip(known.tolist(), ids.tolist(), starts.tolist(), stops.tolist(), strict=True)
        return [
            str(self._text[start:stop], "utf-8", "replace") if inside else f"T{token_id}"
            for inside, token_id, start, stop in spans
        ]


class DecodedTokenTexts:
    """Token texts from a tokenizer, decoded when first asked for and kept.

    Args:
        load: gives the tokenizer; called once, when a text is first needed.
    """

    def __init__(self, load: Callable[[], Tokenizer]) -> None:
        self._load = load
        self._known: dict[int, str] = {}

    def text(self, token_id: int) -> str:
        """The trimmed text of one token; ``T<id>`` for an id outside the vocabulary."""
        return self.texts([token_id])[0]

    def texts(self, token_ids: Iterable[int]) -> list[str]:
        """The trimmed texts of many."""
        wanted = list(token_ids)
        missing = sorted(set(wanted) - self._known.keys())
        if missing:
            tokenizer = self._load()
            decoded = tokenizer.decode_batch([[i] for i in missing], skip_special_tokens=True)
            for token_id, text in zip(missing, decoded, strict=True):
                known = text or tokenizer.id_to_token(token_id) is not None
                self._known[token_id] = trim(text) if known else f"T{token_id}"
        return [self._known[token_id] for token_id in wanted]
