"""Tokenising a text by the tokens that are substrings of it: the same ids, or no answer."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from tests.unit.vindex_files import CHECKPOINTS, extract_golden
from vindex import quick_tokenizer
from vindex.errors import VindexError, VindexInvalid
from vindex.files import MappedFile
from vindex.quick_tokenizer import FILE, QuickTokenizer, agrees, tokenizer_parts
from vindex.store import open_vindex

CORPUS = [
    "The capital of France is Paris. The capital of Italy is Rome, of Germany Berlin.",
    "naïve façade déjà vu — 巴黎 是 法国 的 首都 🙂🙃",
    "def function(value):\n    return value ** 2\n\n\t# a comment",
    "banana bandana ananas 1234567890 2024-11-23",
]
PATH = Path("tokenizer.json")


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=500,
            special_tokens=["<|begin|>", "<|end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A <|end|>", special_tokens=[("<|begin|>", 0), ("<|end|>", 1)]
    )
    return tokenizer


def whole_words_first() -> Tokenizer:
    """Llama 3's way: a piece that is a token is taken whole, whatever its merges say."""
    document = json.loads(byte_level().to_str())
    document["model"]["ignore_merges"] = True
    vocabulary = document["model"]["vocab"]
    vocabulary["Ġcapitalise"] = len(vocabulary)  # no merge leads there
    vocabulary["zzz"] = len(vocabulary)
    return Tokenizer.from_str(json.dumps(document))


def sentencepiece() -> Tokenizer:
    """Gemma's way: spaces as ▁, bytes for what is unknown, one unknown token for a run of it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=[
                "<pad>",
                "<eos>",
                "<bos>",
                "<unk>",
                *(f"<0x{i:02X}>" for i in range(256)),
            ],
            show_progress=False,
        ),
    )
    tokenizer.add_tokens([AddedToken("\n\n", normalized=False), AddedToken("[image]")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 2)]
    )
    return tokenizer


def unknown_only() -> Tokenizer:
    """Without byte fallback a character outside the vocabulary becomes the unknown token."""
    document = json.loads(sentencepiece().to_str())
    document["model"]["byte_fallback"] = False
    return Tokenizer.from_str(json.dumps(document))


def golden() -> Tokenizer:
    return Tokenizer.from_file(str(CHECKPOINTS / "llama_h96" / "tokenizer.json"))


MADE = {
    make.__name__: make()
    for make in (byte_level, whole_words_first, sentencepiece, unknown_only, golden)
}


def quick(tokenizer: Tokenizer, path: Path) -> QuickTokenizer:
    parts = tokenizer_parts(tokenizer.to_str().encode(), PATH)
    assert parts is not None
    (path / FILE).write_bytes(parts)
    return QuickTokenizer(MappedFile(path, FILE))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[QuickTokenizer, Tokenizer]]:
    return {
        name: (quick(whole, tmp_path_factory.mktemp(name)), whole) for name, whole in MADE.items()
    }


def assert_same(fast: QuickTokenizer, whole: Tokenizer, text: str) -> bool:
    """Compare ids and masks; whether the quick one had an answer."""
    for special in (False, True):
        found = fast.encode(text, special=special)
        if found is None:
            return False
        expected = whole.encode(text, add_special_tokens=special)
        assert found.ids == expected.ids, repr(text)
        assert found.special_tokens_mask == expected.special_tokens_mask
    return True


TEXTS = [
    *CORPUS,
    "",
    " ",
    "France",
    " France ",
    "capitalise",
    "a capitalise zzz",
    "zzzz",
    "Ωmega ß ﬁ \u0301 \u200b",
    "\0\x01\x7f",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "▁▁ ▁ Ġ",
    "🙂" * 9,
]


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("text", TEXTS)
def test_the_ids_are_those_of_the_whole_tokenizer(
    name: str, text: str, pairs: dict[str, tuple[QuickTokenizer, Tokenizer]]
) -> None:
    answered = assert_same(*pairs[name], text)
    assert answered or "\n\n" in text


@pytest.mark.parametrize("name", MADE)
def test_any_text(name: str, pairs: dict[str, tuple[QuickTokenizer, Tokenizer]]) -> None:
    alphabet = st.sampled_from("".join(CORPUS) + "<|>[]0x▁Ġß∑\u0301")

    @settings(max_examples=60, deadline=None)
    @given(st.one_of(st.text(max_size=40), st.text(alphabet, max_size=60)))
    def check(text: str) -> None:
        try:
            text.encode()
        except UnicodeEncodeError:
            return  # a lone surrogate is no text to either
        assert_same(*pairs[name], text)

    check()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("byte_level", "say <|end|> now"),
        ("sentencepiece", "one\n\ntwo"),
        ("sentencepiece", "an [image]"),
        ("golden", "<|im_start|>user"),
    ],
)
def test_added_tokens_are_left_to_the_whole_tokenizer(
    name: str, text: str, pairs: dict[str, tuple[QuickTokenizer, Tokenizer]]
) -> None:
    assert pairs[name][0].encode(text, special=False) is None


def _changed(**model: Any) -> bytes:
    document = json.loads(MADE["byte_level"].to_str())
    document["model"] |= model
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "data",
    [
        Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]")).to_str().encode(),
        Tokenizer(models.Unigram([("a", 0.0)])).to_str().encode(),
        _changed(dropout=0.1),
        _changed(continuing_subword_prefix="##"),
        _changed(end_of_word_suffix="</w>"),
        _changed(merges=[["Ġ", "nowhere"]]),
    ],
    ids=["wordpiece", "unigram", "dropout", "prefix", "suffix", "merge"],
)
def test_what_the_argument_does_not_cover_has_no_parts(data: bytes) -> None:
    assert tokenizer_parts(data, PATH) is None


def test_merges_in_the_old_spelling(tmp_path: Path) -> None:
    document = json.loads(MADE["byte_level"].to_str())
    document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    parts = tokenizer_parts(json.dumps(document).encode(), PATH)
    assert parts == tokenizer_parts(MADE["byte_level"].to_str().encode(), PATH)


def test_agreement_is_checked_before_the_file_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = MADE["sentencepiece"]
    texts = [whole.decode([i], skip_special_tokens=False) for i in range(whole.get_vocab_size())]
    assert agrees(quick(whole, tmp_path), whole, texts)
    assert not agrees(quick(MADE["byte_level"], tmp_path), whole, texts)
    monkeypatch.setattr(quick_tokenizer, "agrees", lambda *arguments: False)
    extract_golden("llama_h96", tmp_path / "v")
    with open_vindex(tmp_path / "v") as vx:
        assert not (vx.path / FILE).exists()
        assert (
            vx.encode("France", special=False)
            == golden().encode("France", add_special_tokens=False).ids
        )


def test_a_vindex_does_not_load_its_tokenizer_for_a_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract_golden("llama_h96", tmp_path / "v")
    with open_vindex(tmp_path / "v") as vx:
        expected = vx.tokenizer().encode("The capital of France is").ids
    with open_vindex(tmp_path / "v") as vx:
        (tmp_path / "v" / "tokenizer.json").unlink()
        assert vx.encode("The capital of France is", special=True) == expected
        with pytest.raises(VindexError, match=r"tokenizer\.json is missing"):
            vx.encode("<|im_start|>", special=True)


def _parts() -> bytes:
    parts = tokenizer_parts(MADE["sentencepiece"].to_str().encode(), PATH)
    assert parts is not None
    return parts


def _header(**changes: int) -> bytes:
    names = ("version", "tokens", "merges", "texts", "json")
    values = dict(zip(names, struct.unpack_from("<IIIQQ", _parts(), 4), strict=True)) | changes
    return b"LQTP" + struct.pack("<IIIQQ", *values.values()) + _parts()[32:]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"LQTP" + bytes(27),
        b"LQTX" + _parts()[4:],
        _parts()[:-1],
        _parts() + b"\0",
        _header(version=2),
        _header(tokens=2**32 - 1),
        _header(merges=2**32 - 1),
        _header(texts=2**63),
        _header(json=2**64 - 1),
        _header(tokens=0),
    ],
)
def test_damaged_headers_are_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(VindexInvalid, match=r"tokenizer_parts\.bin"):
        QuickTokenizer(MappedFile(tmp_path, FILE))


@pytest.mark.parametrize("seed", range(60))
def test_damaged_contents_never_crash(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(_parts())
    for _ in range(int(rng.integers(1, 30))):
        data[int(rng.integers(32, len(data)))] = int(rng.integers(256))
    (tmp_path / FILE).write_bytes(data)
    with contextlib.suppress(VindexInvalid):
        fast = QuickTokenizer(MappedFile(tmp_path, FILE))
        for text in TEXTS:
            fast.encode(text, special=True)
