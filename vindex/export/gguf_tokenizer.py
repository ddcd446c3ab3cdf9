"""The tokenizer in GGUF metadata: ``vindex.checkpoint._gguf_tokenizer`` inverted.

What is written is given to the reader, and the tokenizer that comes out must cut texts as the
model's own does: the texts of tokens from all over the vocabulary and a page of difficult ones.
What GGUF cannot say is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vindex import files, tokens
from vindex.checkpoint._gguf_splitters import SPLITTERS
from vindex.checkpoint._gguf_tokenizer import SPACE, GgufTokenizer, TokenizerModel, TokenType
from vindex.errors import CheckpointError, Unsupported
from vindex.store import Vindex

Json = Mapping[str, Any]

_MAX_TOKENIZER = 256 << 20
_PREFIX = "tokenizer.ggml."
_NO_MERGE = -1.0  # added to the number of merges: the score of what no merge makes
_MOST_TOKENS = 32_768  # whose texts are tried
_BYTE_TOKEN_LENGTH = len("<0x00>")
_TEXTS = (
    "The capital of France is Paris, isn't it? I'm sure we've 1234567 of them!",
    "  two spaces,\ttabs,\n\nnew lines \r\n and   three   spaces at the end   ",
    "Être ou ne pas être — “that is” the ﬁrst question… naïve café, e\u0301 and \u00e9",
    "Привет, мир! Καλημέρα κόσμε. שלום עולם. السلام عليكم. नमस्ते दुनिया. สวัสดีชาวโลก",
    "你好，世界。こんにちは世界。안녕하세요 세계. 🙂👩‍👩‍👧‍👦🇫🇷",
    "def f(x):\n    return {'a': [x ** 2, 0xFF, 1e-9]}  # comment\n\n\nif __name__ == '__main__':",
    "http://example.org/a_b-c?d=e&f=%20 CamelCase snake_case UPPER 3.14159 12,345.67 ½ ² №",
    "",
    " ",
    "a",
)


@dataclass(frozen=True, slots=True)
class TokenizerMetadata:
    """What a file says of a tokenizer, by whole keys."""

    metadata: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def tokenizer_metadata(source: Vindex, config: Json, architecture: str) -> TokenizerMetadata:
    """The metadata of a model's tokenizer.

    Args:
        config: the model's ``config.json``.

    Raises:
        Unsupported: a kind of tokenizer that GGUF has no words for.
    """
    path = source.path / files.TOKENIZER
    document = json.loads(files.read_small(path, _MAX_TOKENIZER))
    return _Inverse(source, document, config, architecture).made()


def check_tokenizer(
    source: Vindex, metadata: Mapping[str, Any], architecture: str, path: Path
) -> None:
    """Compare what the reader makes of the metadata with the model's tokenizer.

    Raises:
        Unsupported: it cuts a text otherwise.
    """
    try:
        reader = GgufTokenizer(
            {key: _as_read(value) for key, value in metadata.items()},
            architecture=architecture,
            vocab_size=source.index.vocab_size,
            path=path,
        )
        rebuilt = tokens.load_tokenizer(reader.files()[files.TOKENIZER], path)
    except (CheckpointError, Unsupported) as error:
        raise _refusal(error.message) from error
    own = source.tokenizer()
    count = own.get_vocab_size()
    ids = range(0, count, max(1, count // _MOST_TOKENS))
    texts = [*_TEXTS, *(own.decode([i], skip_special_tokens=False) for i in ids)]
    texts += [f"x {text} y{text}" for text in texts[: len(_TEXTS) + 2000]]
    for start in range(0, len(texts), 4096):
        part = texts[start : start + 4096]
        pairs = [each.encode_batch(part, add_special_tokens=False) for each in (own, rebuilt)]
        for text, ours, theirs in zip(part, *pairs, strict=True):
            if ours.ids != theirs.ids:
                raise _refusal(f"it would cut {text[:60]!r} otherwise")


class _Inverse:
    def __init__(self, source: Vindex, document: Json, config: Json, architecture: str) -> None:
        self._source = source
        self._document = document
        self._model: Json = document["model"]
        self._config = config
        self._architecture = architecture
        self._is_gemma = architecture.startswith("gemma")
        if self._model.get("type") != "BPE":
            raise _refusal(f"it is of type {self._model.get('type')}")
        self._merges = [
            tuple(each.split(" ", 1)) if isinstance(each, str) else tuple(each)
            for each in self._model.get("merges") or ()
        ]
        self._texts = self._vocabulary()

    def made(self) -> TokenizerMetadata:
        """All of it."""
        pieces = bool(self._model.get("byte_fallback"))
        kind = self._sentencepiece() if pieces else self._byte_level()
        result: dict[str, Any] = {
            "model": kind.pop("model"),
            **kind,
            "tokens": self._spelled(),
            "token_type": np.array(self._types(pieces), np.int32),
            **self._special_ids(),
            **self._added(),
        }
        metadata = {_PREFIX + key: value for key, value in result.items() if value is not None}
        template = self._source.chat_template
        if template is not None:
            metadata["tokenizer.chat_template"] = template
        return TokenizerMetadata(metadata)

    def _vocabulary(self) -> list[str]:
        """Token by id; ids that nobody has are padding, as llama.cpp counts tokens by the list."""
        vocabulary: dict[str, int] = dict(self._model["vocab"])
        for added in self._document.get("added_tokens") or ():
            vocabulary[added["content"]] = added["id"]
        size = self._source.index.vocab_size
        if vocabulary and max(vocabulary.values()) >= size:
            raise _refusal(f"it has tokens beyond the {size:,} rows of the embedding")
        by_id = {index: token for token, index in vocabulary.items()}
        if len(by_id) != len(vocabulary):
            raise _refusal("two of its tokens have one id")
        self._used = frozenset(by_id)
        return [by_id.get(index, f"[PAD{index}]") for index in range(size)]

    def _spelled(self) -> list[str]:
        """Tokens as files spell them: Gemma's runs of spaces as they stand in text."""
        if not self._is_gemma:
            return self._texts
        plain = {
            each["content"] for each in self._document["added_tokens"] if not each.get("special")
        }
        return [
            text.replace(SPACE, " ") if text in plain and not text.strip(SPACE) else text
            for text in self._texts
        ]

    def _types(self, pieces: bool) -> list[int]:
        added = {each["id"]: each for each in self._document.get("added_tokens") or ()}
        unknown = self._model.get("unk_token")
        result = []
        for index, text in enumerate(self._texts):
            kind = TokenType.NORMAL
            if index not in self._used:
                kind = TokenType.UNUSED
            elif index in added:
                special = added[index].get("special")
                kind = TokenType.CONTROL if special else TokenType.USER_DEFINED
                if pieces and text == unknown and special:
                    kind = TokenType.UNKNOWN
            elif pieces and len(text) == _BYTE_TOKEN_LENGTH and text.startswith("<0x"):
                kind = TokenType.BYTE
            result.append(int(kind))
        return result

    def _byte_level(self) -> dict[str, Any]:
        """The name of the rule that cuts text, and the merges."""
        wanted = (
            _steps(self._document.get("normalizer"), "normalizers"),
            _steps(self._document.get("pre_tokenizer"), "pretokenizers"),
            bool(self._model.get("ignore_merges")),
        )
        for name, splitter in SPLITTERS.items():
            found = (
                _steps(splitter.normalizer(), "normalizers"),
                _steps(splitter.pre_tokenizer(), "pretokenizers"),
                splitter.ignore_merges,
            )
            if found == wanted:
                return {
                    "model": TokenizerModel.BYTE_LEVEL.value,
                    "pre": name,
                    "merges": [" ".join(pair) for pair in self._merges],
                }
        raise _refusal("GGUF has no name for the rule by which it cuts text")

    def _sentencepiece(self) -> dict[str, Any]:
        """Scores in the place of merges: what is merged first has the highest."""
        if self._architecture == "gemma4":
            return {
                "model": TokenizerModel.GEMMA4.value,
                "add_space_prefix": self._prefixed(),
                "merges": [" ".join(pair) for pair in self._merges],
            }
        ranks: dict[str, int] = {}
        for rank, pair in enumerate(self._merges):
            ranks.setdefault("".join(pair), rank)
        last = _NO_MERGE - len(self._merges)
        scores = [-float(ranks[text]) if text in ranks else last for text in self._texts]
        return {
            "model": TokenizerModel.SENTENCEPIECE.value,
            "pre": "default",
            "add_space_prefix": self._prefixed(),
            "scores": np.array(scores, np.float32),
        }

    def _prefixed(self) -> bool:
        """Whether text begins with a space that is not there."""
        steps = [
            *_steps(self._document.get("normalizer"), "normalizers"),
            *_steps(self._document.get("pre_tokenizer"), "pretokenizers"),
        ]
        return any(
            step.get("type") == "Prepend"
            or (step.get("type") == "Metaspace" and step.get("prepend_scheme") != "never")
            for step in steps
        )

    def _special_ids(self) -> dict[str, int | None]:
        """Tokens with a meaning; of several that end a text, the other ones as end of turn."""
        stops = self._source.generation_config.get("eos_token_id")
        stops = stops if isinstance(stops, list) else [stops]
        stops = [each for each in stops if type(each) is int and 0 <= each < len(self._texts)]
        named = self._named("eos")
        if named is None and not stops:
            named = self._plain_id("eos_token_id")
        ends = list(dict.fromkeys([*([named] if named is not None else []), *stops]))
        return {
            "bos_token_id": _or(self._named("bos"), self._plain_id("bos_token_id")),
            "eos_token_id": ends[0] if ends else None,
            "eot_token_id": ends[1] if len(ends) > 1 else None,
            "eom_token_id": ends[2] if len(ends) > 2 else None,
            "unknown_token_id": self._named("unk"),
            "padding_token_id": _or(self._named("pad"), self._plain_id("pad_token_id")),
        }

    def _named(self, name: str) -> int | None:
        """The id of a token that ``tokenizer_config.json`` names."""
        token = self._source.tokenizer_config.get(f"{name}_token")
        text = token.get("content") if isinstance(token, Mapping) else token
        return self._texts.index(text) if isinstance(text, str) and text in self._texts else None

    def _plain_id(self, key: str) -> int | None:
        value = self._config.get(key)
        return value if type(value) is int and 0 <= value < len(self._texts) else None

    def _added(self) -> dict[str, bool]:
        """Which tokens are put around a text.

        Raises:
            Unsupported: others than BOS and EOS.
        """
        ids = self._special_ids()
        around = self._source.tokenizer().encode("a", add_special_tokens=True)
        plain = self._source.tokenizer().encode("a", add_special_tokens=False).ids
        first = around.ids.index(plain[0]) if plain else 0
        before, after = around.ids[:first], around.ids[first + len(plain) :]
        if before not in ([], [ids["bos_token_id"]]) or after not in ([], [ids["eos_token_id"]]):
            raise _refusal("it puts other tokens around a text than BOS and EOS")
        adds_bos = bool(before) or self._source.spec.starts_with_bos
        return {"add_bos_token": adds_bos, "add_eos_token": bool(after)}


def _steps(step: Json | None, members: str) -> list[dict[str, Any]]:
    """A normaliser or pre-tokeniser as a list of steps, each without what changes no cut."""
    if step is None:
        return []
    if step.get("type") == "Sequence":
        return [each for member in step[members] for each in _steps(member, members)]
    plain = {key: value for key, value in step.items() if key != "trim_offsets"}
    if plain["type"] == "ByteLevel":
        plain = {"add_prefix_space": False, "use_regex": True, **plain}
    if plain["type"] == "Split":
        plain = {"invert": False, **plain}
    return [plain]


def _as_read(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _or(first: int | None, second: int | None) -> int | None:
    return second if first is None else first


def _refusal(reason: str) -> Unsupported:
    return Unsupported(
        f"GGUF cannot say how this model's tokenizer works: {reason}",
        hint="FORMAT safetensors; writes any tokenizer",
    )
