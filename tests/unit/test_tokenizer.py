"""Tokenizers rebuilt from GGUF metadata encode as the tokenizers they were made from."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from tests.unit.checkpoint_files import GEMMA3, LLAMA, random_arrays, write_directory, write_gguf
from tests.unit.tokenizer_texts import ALL_STRINGS, CORPUS
from vindex.checkpoint import CheckpointSource, open_checkpoint
from vindex.checkpoint._gguf_splitters import SPLITTERS
from vindex.checkpoint._tokenizer import load_tokenizer
from vindex.errors import CheckpointError, Unsupported


def rebuilt(path: Path) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer and the JSON side files of a GGUF file."""
    with open_checkpoint(path) as checkpoint, CheckpointSource(checkpoint) as source:
        files = checkpoint.files()
        side = {name: json.loads(files[name]) for name in files if name.endswith(".json")}
        return source.tokenizer(), side | {"template": source.chat_template}


def gguf_with(
    path: Path,
    extend: Callable[[gguf.GGUFWriter], None],
    tokens: int,
    config: dict[str, Any] = LLAMA,
) -> Path:
    """A model whose embedding has as many rows as the tokenizer has tokens."""
    sized = {**config, "vocab_size": tokens}
    return write_gguf(path, sized, random_arrays(sized), extend=extend)


LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split_by(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


PLAIN = pre_tokenizers.ByteLevel(add_prefix_space=False)
DIGITS = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
)
LLAMA3 = split_by(LLAMA3_SPLIT)
GPT4O = split_by(GPT4O_SPLIT)
BYTE_LEVEL = {
    "gpt-2": PLAIN,
    "phi-2": PLAIN,
    "mpt": PLAIN,
    "olmo": PLAIN,
    "smollm": DIGITS,
    "starcoder": DIGITS,
    "refact": DIGITS,
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "falcon3": LLAMA3,
    "dbrx": LLAMA3,
    "qwen2": split_by(QWEN2_SPLIT),
    "tekken": split_by(TEKKEN_SPLIT),
    "gpt-4o": GPT4O,
    "llama4": GPT4O,
}
# Rules that take a piece of the vocabulary whole, and then also put BOS first; and those of the
# tokenizers of GPT-NeoX and Qwen 2, which compose characters.
WHOLE = {"llama-bpe", "llama3", "llama-v3", "falcon3", "tekken"}
COMPOSING = {"mpt", "olmo", "qwen2"}


def train_byte_level(pre: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre in WHOLE))
    tokenizer.pre_tokenizer = BYTE_LEVEL[pre]
    if pre in COMPOSING:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        show_progress=False,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([CORPUS], trainer)
    tokenizer.add_tokens([AddedToken("<start>", normalized=False)])
    return tokenizer


def byte_level_metadata(tokenizer: Tokenizer, pre: str) -> Callable[[gguf.GGUFWriter], None]:
    model = json.loads(tokenizer.to_str())["model"]
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    types = [3 if token in ("<s>", "</s>") else 4 if token == "<start>" else 1 for token in tokens]

    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)

    return add


@pytest.mark.parametrize("pre", BYTE_LEVEL)
def test_byte_level_vocabularies(tmp_path: Path, pre: str) -> None:
    original = train_byte_level(pre)
    metadata = byte_level_metadata(original, pre)
    path = gguf_with(tmp_path / "m.gguf", metadata, original.get_vocab_size())
    tokenizer, side = rebuilt(path)
    bos = [0] if pre in WHOLE else []
    assert side["tokenizer_config.json"]["add_bos_token"] is bool(bos)
    for text in ALL_STRINGS:
        ids = original.encode(text).ids
        assert tokenizer.encode(text).ids == bos + ids, repr(text)
        assert tokenizer.encode(text, add_special_tokens=False).ids == ids, repr(text)
        assert tokenizer.decode(ids) == original.decode(ids)
        normal = unicodedata.normalize("NFC", text) if pre in COMPOSING else text
        assert tokenizer.decode(ids, skip_special_tokens=False) == normal


def test_every_rule_is_compared() -> None:
    assert set(BYTE_LEVEL) == set(SPLITTERS)


def test_the_splitting_rules_differ(tmp_path: Path) -> None:
    """Were one rule taken for another, the test above would see it."""
    text = "in  2024 camelCase don't"
    pieces = {
        tuple(piece for piece, _ in rule.pre_tokenize_str(text)) for rule in BYTE_LEVEL.values()
    }
    assert len(pieces) == len({id(rule) for rule in BYTE_LEVEL.values()}) == 6


def sentencepiece_case(
    directory: Path, name: str
) -> tuple[dict[str, Any], Callable[[gguf.GGUFWriter], None]]:
    """A vocabulary and encodings that SentencePiece itself wrote (tests/data/tokenizers)."""
    case: dict[str, Any] = json.loads((directory / "tokenizers" / f"{name}.json").read_text())

    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(case["tokens"])
        writer.add_token_scores(case["scores"])
        writer.add_token_types(case["types"])
        writer.add_add_space_prefix("llama" in name)
        writer.add_bos_token_id(case["bos"])
        writer.add_eos_token_id(case["eos"])
        writer.add_unk_token_id(case["unknown"])

    return case, add


@pytest.mark.parametrize("family", ["gemma", "llama"])
def test_sentencepiece_vocabularies(tmp_path: Path, data_dir: Path, family: str) -> None:
    case, add = sentencepiece_case(data_dir, f"sentencepiece_{family}")
    config = GEMMA3 if family == "gemma" else LLAMA
    tokenizer, side = rebuilt(gguf_with(tmp_path / "m.gguf", add, len(case["tokens"]), config))
    assert side["tokenizer_config.json"]["add_bos_token"] is True
    compared = 0
    for text, ids, decoded in case["encodings"]:
        if any(token in text for token in ("<s>", "</s>", "<unk>")) or " " * 32 in text:
            continue  # SentencePiece reads no control tokens; Hugging Face merges endless spaces
        assert tokenizer.encode(text).ids == [case["bos"], *ids], repr(text)
        assert tokenizer.decode(ids) == decoded
        compared += 1
    assert compared > 200
    assert tokenizer.encode("<s>").ids == [case["bos"]] * 2
    spaces = "\u2581" * 3 if family == "gemma" else "\u2581"
    assert tokenizer.token_to_id(spaces) is not None


@pytest.mark.parametrize("family", ["gemma", "llama"])
def test_merges_are_those_that_transformers_derives(
    tmp_path: Path, data_dir: Path, family: str
) -> None:
    from transformers.convert_slow_tokenizer import generate_merges

    case, add = sentencepiece_case(data_dir, f"sentencepiece_{family}")
    config = GEMMA3 if family == "gemma" else LLAMA
    tokenizer, _ = rebuilt(gguf_with(tmp_path / "m.gguf", add, len(case["tokens"]), config))
    model = json.loads(tokenizer.to_str())["model"]
    vocabulary = sorted(model["vocab"], key=model["vocab"].__getitem__)
    ranks = dict(zip(vocabulary, case["scores"], strict=True))
    if family == "gemma":
        ranks = {token: -index for index, token in enumerate(vocabulary)}
    assert [tuple(pair) for pair in model["merges"]] == generate_merges(model["vocab"], ranks)


def minimal(
    **changes: Any,
) -> Callable[[gguf.GGUFWriter], None]:
    """A tokenizer of ten tokens; ``changes`` replace or, as ``None``, remove its keys."""
    values: dict[str, Any] = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": ["<s>", "</s>", *"abcdefg", "ab"],
        "token_type": [3, 3, *[1] * 8],
        "scores": [0.0] * 10,
        "merges": ["a b"],
        "bos_token_id": 0,
        "eos_token_id": 1,
        **changes,
    }

    def add(writer: gguf.GGUFWriter) -> None:
        for name, value in values.items():
            key = f"tokenizer.ggml.{name}"
            match value:
                case bool():
                    writer.add_bool(key, value)
                case int():
                    writer.add_uint32(key, value)
                case str():
                    writer.add_string(key, value)
                case list():
                    writer.add_array(key, value)

    return add


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [2]),
        ({"add_bos_token": True}, [0, 2]),
        ({"add_bos_token": True, "add_eos_token": True}, [0, 2, 1]),
        ({"add_eos_token": True}, [2, 1]),
        ({"add_bos_token": True, "bos_token_id": None}, [2]),
        ({"pre": "llama-bpe"}, [0, 2]),
        ({"pre": "llama-bpe", "add_bos_token": False}, [2]),
        ({"model": "llama", "add_space_prefix": False}, [0, 2]),
        ({"model": "llama", "add_space_prefix": False, "bos_token_id": None}, [1, 2]),
        ({"model": "llama", "add_space_prefix": False, "add_bos_token": False}, [2]),
    ],
)
def test_bos_and_eos(tmp_path: Path, changes: dict[str, Any], expected: list[int]) -> None:
    path = gguf_with(tmp_path / "m.gguf", minimal(**changes), 10)
    tokenizer, side = rebuilt(path)
    assert tokenizer.encode("a").ids == expected
    assert tokenizer.encode("a", add_special_tokens=False).ids == [2]
    assert side["tokenizer_config.json"]["add_eos_token"] is (expected[-1] == 1)


def test_llama3_takes_whole_words_over_merges(tmp_path: Path) -> None:
    tokens = ["<s>", "</s>", *"abcdef", "cde", "ab"]
    for pre, expected in (("gpt-2", [4, 5, 6]), ("llama-bpe", [0, 8])):
        metadata = minimal(tokens=tokens, pre=pre)
        tokenizer, _ = rebuilt(gguf_with(tmp_path / f"{pre}.gguf", metadata, 10))
        assert tokenizer.encode("cde").ids == expected


def test_side_files(tmp_path: Path) -> None:
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}<end_of_turn>{% endfor %}"
    tokens = ["<s>", "</s>", *"abcdef", "<end_of_turn>", "ab"]

    def add(writer: gguf.GGUFWriter) -> None:
        minimal(tokens=tokens, padding_token_id=1)(writer)
        writer.add_chat_template(template)

    _, side = rebuilt(gguf_with(tmp_path / "m.gguf", add, 10))
    assert side["template"] == template
    assert side["generation_config.json"] == {
        "bos_token_id": 0,
        "eos_token_id": [1, 8],
        "pad_token_id": 1,
    }
    assert side["special_tokens_map.json"] == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
    }
    assert side["config.json"]["bos_token_id"] == 0


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"model": "bert"}, Unsupported, "tokenizer of model 'bert'"),
        ({"model": None}, Unsupported, "tokenizer of model null"),
        ({"pre": "klingon"}, Unsupported, "by the rule 'klingon'"),
        ({"pre": "default"}, Unsupported, "by the rule 'default'"),
        ({"pre": "glm4"}, Unsupported, "by the rule 'glm4'"),
        ({"model": "gemma4", "merges": None}, CheckpointError, "has no tokenizer.ggml.merges"),
        ({"pre": None}, Unsupported, "by the rule null"),
        ({"tokens": None}, CheckpointError, "has no tokenizer.ggml.tokens"),
        ({"tokens": "abc"}, CheckpointError, "no list of str"),
        ({"tokens": [1, 2]}, CheckpointError, "no list of str"),
        ({"tokens": ["a"] * 10}, CheckpointError, "has token 'a' twice"),
        ({"tokens": [str(index) for index in range(11)]}, CheckpointError, "has 11 tokens"),
        ({"token_type": [1]}, CheckpointError, "has 1 token types for 10 tokens"),
        ({"merges": None}, CheckpointError, "has no tokenizer.ggml.merges"),
        ({"merges": ["ab"]}, CheckpointError, "malformed merge 'ab'"),
        ({"merges": ["a b c"]}, CheckpointError, "malformed merge 'a b c'"),
        ({"merges": ["a z"]}, CheckpointError, "is unusable"),
        ({"bos_token_id": 10}, CheckpointError, "bos_token_id 10 for 10 tokens"),
        ({"add_bos_token": 1}, CheckpointError, "add_bos_token 1, expected true or false"),
        ({"model": "llama", "scores": [0.5]}, CheckpointError, "has 1 scores for 10 tokens"),
        ({"model": "llama", "scores": None}, CheckpointError, "has no tokenizer.ggml.scores"),
    ],
)
def test_hostile_vocabularies(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    path = gguf_with(tmp_path / "m.gguf", minimal(**changes), 10)
    with pytest.raises(error, match=text):
        rebuilt(path)


def tokenizer_json(**changes: Any) -> bytes:
    model = {"type": "BPE", "vocab": {"a": 0, "é": 1, "aé": 2}, "merges": [["a", "é"]]}
    base = {"version": "1.0", "added_tokens": [], "model": {**model, **changes.pop("model", {})}}
    return json.dumps({**base, **changes}, ensure_ascii=False).encode()


def test_a_plain_tokenizer_loads() -> None:
    assert load_tokenizer(tokenizer_json(), "m").encode("aé").ids == [2]
    prefixed = {"vocab": {"a": 0, "##b": 1, "ab": 2}, "merges": [["a", "##b"]]}
    data = tokenizer_json(model={**prefixed, "continuing_subword_prefix": "##"})
    assert load_tokenizer(data, "m").encode("ab").ids == [2]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "is unusable"),
        (b"{}", "is unusable"),
        (tokenizer_json(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
         "Cannot parse precompiled_charsmap"),
        (tokenizer_json(model={"continuing_subword_prefix": "#"}), "without the model's subword"),
        (tokenizer_json(model={"continuing_subword_prefix": "#", "merges": ["a é"]}),
         "without the model's subword"),
        (tokenizer_json(model={"continuing_subword_prefix": "#"}).replace(b"cont", b"\\u0063ont"),
         "without the model's subword"),
    ],
)  # fmt: skip
def test_hostile_tokenizer_files(data: bytes, text: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A panic of the library is typed; what would abort the process never reaches it."""
    with pytest.raises(CheckpointError, match=text):
        load_tokenizer(data, "m")
    capfd.readouterr()  # the library writes the panic's backtrace itself


def test_the_library_would_have_died() -> None:
    """If this fails the library has been mended, and ``tokenizer_check`` can go."""
    code = "import sys, tokenizers as t; t.Tokenizer.from_buffer(sys.stdin.buffer.read())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=tokenizer_json(model={"continuing_subword_prefix": "#"}),
        capture_output=True,
    )
    assert done.returncode < 0


def source_of(directory: Path, **files: str) -> CheckpointSource:
    write_directory(directory, LLAMA, random_arrays(LLAMA))
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)
    return CheckpointSource(open_checkpoint(directory))


def test_a_checkpoint_as_a_source(tmp_path: Path) -> None:
    from vindex.spec import Role

    generation = '{"eos_token_id": [1, 2]}'
    with source_of(tmp_path, generation_config__json=generation) as source:
        assert source.name == str(tmp_path)
        assert (source.spec.num_layers, source.notes) == (2, ())
        assert source.generation_config == {"eos_token_id": [1, 2]}
        assert (source.tokenizer_config, source.chat_template) == ({}, None)
        assert source.has(Role.Q, 1)
        assert not source.has(Role.Q, 2)
        assert not source.has(Role.Q_BIAS, 0)
        stored = source.tensor(Role.Q, 1)
        assert (stored.key, stored.shape) == ("layers.1.self_attn.q_proj.weight", (64, 32))
        assert not stored.array.flags.writeable
        with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
            source.tokenizer()


TOOL, DEFAULT = ({"name": name, "template": name[0].upper()} for name in ("tool", "default"))


@pytest.mark.parametrize(
    ("configured", "own", "expected"),
    [
        ("A", None, "A"),
        ("A", "B", "B"),
        ([TOOL, DEFAULT], None, "D"),
        ([TOOL], None, None),
        (5, None, None),
        (None, "B", "B"),
    ],
)
def test_chat_templates(
    tmp_path: Path, configured: object, own: str | None, expected: str | None
) -> None:
    files = {"tokenizer_config__json": json.dumps({"chat_template": configured})}
    if own is not None:
        files["chat_template__jinja"] = own
    with source_of(tmp_path, **files) as source:
        assert source.chat_template == expected


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1, "a": 2}'])
def test_hostile_side_files(tmp_path: Path, text: str) -> None:
    with (
        source_of(tmp_path, tokenizer_config__json=text) as source,
        pytest.raises(CheckpointError, match=r"tokenizer_config\.json"),
    ):
        _ = source.tokenizer_config


# Where transformers 5.23 does not encode as the models' released tokenizer.json does. It leaves out
# SmolLM2's rule that every digit is a piece of its own, which changes the white space before a
# digit; and Gemma's runs of spaces as added tokens, which shows where a text holds U+2581 itself.
REAL_DIFFERENCES = {"smollm2_gguf": re.compile(r"\s\d"), "gemma3_gguf": re.compile("\u2581")}


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.parametrize("model", list(REAL_DIFFERENCES))
def test_real_models_encode_as_transformers_does(
    model: str, request: pytest.FixtureRequest
) -> None:
    from transformers import AutoTokenizer

    path: Path = request.getfixturevalue(model)
    reference = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tokenizer, side = rebuilt(path)
    assert tokenizer.get_vocab_size() == side["config.json"]["vocab_size"]
    differs = REAL_DIFFERENCES[model]
    chat = "<|im_start|>user\nHi<|im_end|>\n<bos><start_of_turn>user\nHi<end_of_turn>\n"
    for text in [chat, CORPUS, *ALL_STRINGS]:
        if differs.search(text):
            continue
        ids = reference(text).input_ids
        assert tokenizer.encode(text).ids == ids, repr(text)
        assert tokenizer.decode(ids, skip_special_tokens=False) == reference.decode(
            ids, skip_special_tokens=False
        )
