"""What single families' tokenizers do differently, rebuilt from GGUF metadata."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers.convert_slow_tokenizer import generate_merges

from tests.unit.test_tokenizer import (
    byte_level_metadata,
    gguf_with,
    minimal,
    rebuilt,
    sentencepiece_case,
    train_byte_level,
)
from tests.unit.tokenizer_texts import ALL_STRINGS
from vindex.checkpoint import open_checkpoint
from vindex.checkpoint._gguf_splitters import SPLITTERS
from vindex.checkpoint._gguf_tokenizer import GgufTokenizer
from vindex.errors import Unsupported

CONTROL, USER_DEFINED, BYTE, NORMAL = 3, 4, 6, 1
TURN = "<turn|>"
TEMPLATE = "{{ bos_token }}<|turn>user\n{{ messages[0].content }}<turn|>\n<|tool_response>"


def gemma4_tokenizer(data_dir: Path) -> Tokenizer:
    """BPE over text whose spaces are U+2581, with bytes for what is not in the vocabulary.

    Its merges are not all that its vocabulary would allow.
    """
    case, _ = sentencepiece_case(data_dir, "sentencepiece_gemma")
    pieces = [piece.replace(" ", "\u2581") for piece in case["tokens"]]
    pieces += ["<|turn>", TURN, "<|tool_response>"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    ranks = {piece: -index for piece, index in vocabulary.items()}
    merges = generate_merges(vocabulary, ranks)
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=[merge for index, merge in enumerate(merges) if index % 5],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    whole = ["<pad>", "<s>", "</s>", "<unk>", "<|turn>", TURN, "<|tool_response>"]
    known = [piece for piece in whole if piece in vocabulary]
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False) for piece in known])
    return tokenizer


def gemma4_metadata(tokenizer: Tokenizer) -> Callable[[gguf.GGUFWriter], None]:
    """As llama.cpp's converter writes it: every added token that is not special is a plain one."""
    model = json.loads(tokenizer.to_str())["model"]
    vocabulary: dict[str, int] = model["vocab"]
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    special = {each["content"] for each in json.loads(tokenizer.to_str())["added_tokens"]}

    def kind(piece: str) -> int:
        if piece == "<|tool_response>":
            return USER_DEFINED
        if piece.startswith("<0x"):
            return BYTE
        return CONTROL if piece in special else NORMAL

    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("gemma4")
        writer.add_token_list(pieces)
        writer.add_token_scores([-1000.0] * len(pieces))
        writer.add_token_types([kind(piece) for piece in pieces])
        writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
        writer.add_bos_token_id(vocabulary["<s>"])
        writer.add_eos_token_id(vocabulary["</s>"])
        writer.add_add_space_prefix(False)
        writer.add_add_bos_token(True)
        writer.add_chat_template(TEMPLATE)

    return add


@pytest.fixture(scope="module")
def gemma4(
    data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, Tokenizer, dict[str, Any]]:
    """A tokenizer, what its GGUF file gives back, and the side files."""
    original = gemma4_tokenizer(data_dir)
    path = tmp_path_factory.mktemp("gemma4") / "m.gguf"
    return original, *rebuilt(gguf_with(path, gemma4_metadata(original), original.get_vocab_size()))


def test_gemma4_encodes_by_its_merges(gemma4: tuple[Tokenizer, Tokenizer, dict[str, Any]]) -> None:
    original, found, _ = gemma4
    compared = 0
    for text in [*ALL_STRINGS, f"<|turn>user\nHi{TURN}\n<|tool_response>"]:
        ids = original.encode(text).ids
        assert found.encode(text).ids == ids, repr(text)
        visible = original.decode(ids, skip_special_tokens=False)
        assert found.decode(ids, skip_special_tokens=False) == visible
        compared += 1
    assert compared > 200


def test_gemma4s_tokenizer_adds_no_bos(gemma4: tuple[Tokenizer, Tokenizer, dict[str, Any]]) -> None:
    """The specification of the family does, once; llama.cpp's metadata says the tokenizer did."""
    _, found, side = gemma4
    assert side["tokenizer_config.json"]["add_bos_token"] is False
    assert side["tokenizer_config.json"]["bos_token"] == "<s>"
    assert json.loads(found.to_str())["post_processor"] is None


def test_gemma4_stops_at_its_turns(gemma4: tuple[Tokenizer, Tokenizer, dict[str, Any]]) -> None:
    original, _, side = gemma4
    stops = [original.token_to_id(token) for token in ("</s>", TURN, "<|tool_response>")]
    assert side["generation_config.json"]["eos_token_id"] == stops
    assert side["template"] == TEMPLATE


@pytest.mark.parametrize(("architecture", "swallows"), [("phi3", True), ("llama", False)])
def test_phi3s_tokens_swallow_space(architecture: str, swallows: bool, tmp_path: Path) -> None:
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [
            "<unk>",
            "<s>",
            "</s>",
            "<|end|>",
            "<|endoftext|>",
            "\u2581",
            "a",
        ],
        "tokenizer.ggml.token_type": [2, 3, 3, 3, 3, 1, 1],
        "tokenizer.ggml.scores": [0.0] * 7,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.ggml.add_bos_token": False,
    }
    files = GgufTokenizer(
        metadata, architecture=architecture, vocab_size=7, path=tmp_path / "m.gguf"
    ).files()
    tokenizer = Tokenizer.from_buffer(files["tokenizer.json"])
    for token in ("</s>", "<|end|>"):
        ids = [tokenizer.token_to_id(token), *([] if swallows else [5]), 6]
        assert tokenizer.encode(f"{token} a").ids == ids
    for token in ("<s>", "<unk>", "<|endoftext|>"):
        assert tokenizer.encode(f"{token} a").ids == [tokenizer.token_to_id(token), 5, 6]


def test_an_unknown_rule_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    path = gguf_with(tmp_path / "m.gguf", minimal(pre="command-z"), 10)
    with open_checkpoint(path) as found, pytest.raises(Unsupported, match="command-z") as caught:
        found.files()
    for name in SPLITTERS:
        assert name in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["\ud800", "a\udc00b", "\udbff\udbff"])
def test_half_a_character_is_no_text(tmp_path: Path, text: str) -> None:
    """What is no Unicode text is refused as the model's own tokenizer refuses it."""
    original = train_byte_level("gpt-2")
    path = gguf_with(
        tmp_path / "m.gguf", byte_level_metadata(original, "gpt-2"), original.get_vocab_size()
    )
    for tokenizer in (original, rebuilt(path)[0]):
        with pytest.raises(TypeError):
            tokenizer.encode(text)
