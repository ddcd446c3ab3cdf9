"""``tokenizer.json`` and its companions, rebuilt from the metadata of a GGUF file.

GGUF keeps the vocabulary and says by two names how text is split: ``tokenizer.ggml.model``, which
is ``gpt2`` for byte-level BPE, ``llama`` for SentencePiece BPE and ``gemma4`` for the latter with
its merges listed, and ``tokenizer.ggml.pre``. The result does what the original model's
``tokenizer.json`` does, in the ``tokenizers`` format.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any

from vindex.checkpoint._gguf_splitters import BYTE_LEVEL, SPLITTERS, Splitter
from vindex.errors import CheckpointError, Unsupported
from vindex.families._config import show
from vindex.files import (
    CHAT_TEMPLATE,
    GENERATION_CONFIG,
    SPECIAL_TOKENS,
    TOKENIZER,
    TOKENIZER_CONFIG,
)

Json = dict[str, Any]

SPACE = "\u2581"


class TokenType(IntEnum):
    """``tokenizer.ggml.token_type``."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class TokenizerModel(Enum):
    """``tokenizer.ggml.model``."""

    BYTE_LEVEL = "gpt2"
    SENTENCEPIECE = "llama"
    GEMMA4 = "gemma4"


# llama.cpp's defaults for SentencePiece vocabularies that do not name their special tokens.
_SENTENCEPIECE_IDS: Mapping[str, int] = {"unknown": 0, "bos": 1, "eos": 2}

# Tokens that end a turn. Converters often record only one of a model's stop tokens.
_END_OF_TURN = (
    "<end_of_turn>", "<|eot_id|>", "<|im_end|>", "<|end|>", "<turn|>", "<|tool_response>"
)  # fmt: skip

# Phi 3's tokens swallow the white space after them, which GGUF does not record, all but these.
_PHI3_KEEPS_SPACE = frozenset({"<unk>", "<s>", "<|endoftext|>"})


class GgufTokenizer:
    """The tokenizer of a GGUF file.

    Args:
        metadata: of the file.
        architecture: ``general.architecture``.
        vocab_size: V, rows of the embedding.
        path: the file, for messages.

    Raises:
        CheckpointError: the metadata is incomplete or contradicts itself.
        Unsupported: a kind of tokenizer that cannot be rebuilt exactly.
    """

    def __init__(
        self, metadata: Mapping[str, Any], *, architecture: str, vocab_size: int, path: Path
    ) -> None:
        self._metadata = metadata
        self._path = path
        self._is_gemma = architecture.startswith("gemma")
        self._tokens = self._list("tokens", str)
        count = len(self._tokens)
        if not 0 < count <= vocab_size:
            raise self._bad(f"has {count} tokens for an embedding of {vocab_size} rows")
        self._types = self._list("token_type", int, default=[TokenType.NORMAL] * count)
        if len(self._types) != count:
            raise self._bad(f"has {len(self._types)} token types for {count} tokens")
        self._model = self._known_model()
        is_byte_level = self._model is TokenizerModel.BYTE_LEVEL
        self._splitter = self._known_splitter() if is_byte_level else None
        self._is_phi3 = architecture == "phi3" and self._model is TokenizerModel.SENTENCEPIECE

    def files(self) -> dict[str, bytes]:
        """The tokenizer's files by name."""
        template = self._metadata.get("tokenizer.chat_template")
        result = {
            TOKENIZER: _dump(self._tokenizer()),
            TOKENIZER_CONFIG: _dump(self._tokenizer_config(), indent=2),
            SPECIAL_TOKENS: _dump(self._special_tokens(), indent=2),
            GENERATION_CONFIG: _dump(self._generation_config(template), indent=2),
        }
        if isinstance(template, str):
            result[CHAT_TEMPLATE] = template.encode()
        return result

    @property
    def adds_bos(self) -> bool:
        """Whether encoding puts BOS first; Gemma 4's own does not, whatever llama.cpp records."""
        if self._model is TokenizerModel.GEMMA4:
            return False
        default = True if self._splitter is None else self._splitter.adds_bos
        return self._flag("add_bos_token", default) and self._id("bos") is not None

    @property
    def adds_eos(self) -> bool:
        """Whether encoding puts EOS last."""
        return self._flag("add_eos_token", False) and self._id("eos") is not None

    def _tokenizer(self) -> Json:
        spelled = self._spelled()
        vocabulary = {token: index for index, token in enumerate(spelled)}
        if len(vocabulary) != len(spelled):
            twice = next(token for token, times in Counter(spelled).items() if times > 1)
            raise self._bad(f"has token {show(twice)} twice")
        parts = (
            self._sentencepiece(vocabulary)
            if self._splitter is None
            else self._byte_level(vocabulary, self._splitter)
        )
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": self._added_tokens(spelled),
            **parts,
        }

    def _spelled(self) -> Sequence[str]:
        """The vocabulary; Gemma's runs of spaces back in SentencePiece's spelling.

        llama.cpp's converter writes user-defined tokens as they appear in text.
        """
        if not self._is_gemma:
            return self._tokens
        return [
            SPACE * len(token) if " " in token and not token.strip(" ") else token
            for token in self._tokens
        ]

    def _added_tokens(self, spelled: Sequence[str]) -> list[Json]:
        whole = {TokenType.CONTROL: True, TokenType.UNKNOWN: True, TokenType.USER_DEFINED: False}
        return [
            {
                "id": index,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": self._is_phi3 and token not in _PHI3_KEEPS_SPACE,
                "normalized": False,
                "special": whole[TokenType(kind)],
            }
            for index, (token, kind) in enumerate(zip(spelled, self._types, strict=True))
            if kind in whole and token
        ]

    def _byte_level(self, vocabulary: dict[str, int], splitter: Splitter) -> Json:
        return {
            "normalizer": splitter.normalizer(),
            "pre_tokenizer": splitter.pre_tokenizer(),
            "post_processor": self._template(),
            "decoder": {**BYTE_LEVEL, "use_regex": True},
            "model": _bpe(vocabulary, self._merges(), ignore_merges=splitter.ignore_merges),
        }

    def _sentencepiece(self, vocabulary: dict[str, int]) -> Json:
        listed = self._model is TokenizerModel.GEMMA4
        prefixed = self._flag("add_space_prefix", not listed)
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
        unreplace = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
        decoders: list[Json] = [unreplace, {"type": "ByteFallback"}, {"type": "Fuse"}]
        normalizer: Json = replace
        if prefixed:
            prepend = {"type": "Prepend", "prepend": SPACE}
            normalizer = {"type": "Sequence", "normalizers": [prepend, replace]}
            decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
        unknown = self._id("unknown")
        return {
            "normalizer": normalizer,
            "pre_tokenizer": None,
            "post_processor": self._template(),
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": _bpe(
                vocabulary,
                self._merges() if listed else self._implied_merges(vocabulary),
                unknown=None if unknown is None else self._tokens[unknown],
                byte_fallback=True,
            ),
        }

    def _merges(self) -> list[tuple[str, str]]:
        return [self._pair(merge) for merge in self._list("merges", str)]

    def _implied_merges(self, vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
        """The merges a SentencePiece vocabulary stands for, best first.

        Every way to cut a token into two others is a merge of the token's rank; of one token's
        cuts the one with the longest first part wins. Tokens rank by score; Gemma's user-defined
        tokens carry a dummy score, and its tokens rank by their position.
        """
        ranked = list(vocabulary)
        if not self._is_gemma:
            scores = self._list("scores", float)
            if len(scores) != len(ranked):
                raise self._bad(f"has {len(scores)} scores for {len(ranked)} tokens")
            order = sorted(range(len(ranked)), key=lambda index: -scores[index])
            ranked = [ranked[index] for index in order]
        return [
            (token[:cut], token[cut:])
            for token in ranked
            for cut in range(len(token) - 1, 0, -1)
            if token[:cut] in vocabulary and token[cut:] in vocabulary
        ]

    def _template(self) -> Json | None:
        """A post-processor that adds BOS and EOS as the metadata says."""
        ids = {
            "bos": self._id("bos") if self.adds_bos else None,
            "eos": self._id("eos") if self.adds_eos else None,
        }
        if ids["bos"] is None and ids["eos"] is None:
            return None

        def wrap(sequence: str, type_id: int) -> list[Json]:
            def special(identifier: int) -> Json:
                return {"SpecialToken": {"id": self._tokens[identifier], "type_id": type_id}}

            middle = {"Sequence": {"id": sequence, "type_id": type_id}}
            before = [] if ids["bos"] is None else [special(ids["bos"])]
            after = [] if ids["eos"] is None else [special(ids["eos"])]
            return [*before, middle, *after]

        used = [identifier for identifier in ids.values() if identifier is not None]
        return {
            "type": "TemplateProcessing",
            "single": wrap("A", 0),
            "pair": [*wrap("A", 0), *wrap("B", 1)],
            "special_tokens": {
                self._tokens[identifier]: {
                    "id": self._tokens[identifier],
                    "ids": [identifier],
                    "tokens": [self._tokens[identifier]],
                }
                for identifier in used
            },
        }

    def _special_tokens(self) -> Json:
        ids = {
            f"{name}_token": self._id(key)
            for name, key in (
                ("bos", "bos"),
                ("eos", "eos"),
                ("unk", "unknown"),
                ("pad", "padding"),
            )
        }
        return {name: self._tokens[value] for name, value in ids.items() if value is not None}

    def _tokenizer_config(self) -> Json:
        return {
            "add_bos_token": self.adds_bos,
            "add_eos_token": self.adds_eos,
            "clean_up_tokenization_spaces": False,
            **self._special_tokens(),
            "tokenizer_class": "PreTrainedTokenizerFast",
        }

    def _generation_config(self, template: object) -> Json:
        stops = [self._id(key) for key in ("eos", "eot", "eom")]
        if isinstance(template, str):
            stops += [
                self._tokens.index(token)
                for token in _END_OF_TURN
                if token in template and token in self._tokens
            ]
        eos = list(dict.fromkeys(stop for stop in stops if stop is not None))
        result: Json = {
            "bos_token_id": self._id("bos"),
            "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
            "pad_token_id": self._id("padding"),
        }
        return {key: value for key, value in result.items() if value is not None}

    def _known_model(self) -> TokenizerModel:
        name = self._metadata.get("tokenizer.ggml.model")
        for model in TokenizerModel:
            if model.value == name:
                return model
        raise Unsupported(
            f"{self._path.name} has a tokenizer of model {show(name)}, which is not supported",
            hint=f"supported: {', '.join(model.value for model in TokenizerModel)}",
            path=self._path,
        )

    def _known_splitter(self) -> Splitter:
        name = self._metadata.get("tokenizer.ggml.pre")
        splitter = SPLITTERS.get(name) if isinstance(name, str) else None
        if splitter is None:
            raise Unsupported(
                f"{self._path.name} splits text by the rule {show(name)}, which is not supported",
                hint=f"supported: {', '.join(SPLITTERS)}; or use the safetensors checkpoint",
                path=self._path,
            )
        return splitter

    def _pair(self, merge: str) -> tuple[str, str]:
        left, _, right = merge.partition(" ")
        if not left or not right or " " in right:
            raise self._bad(f"has the malformed merge {show(merge)}")
        return left, right

    def _id(self, name: str) -> int | None:
        key = f"tokenizer.ggml.{name}_token_id"
        value = self._metadata.get(key)
        if value is None and self._model is TokenizerModel.SENTENCEPIECE:
            value = _SENTENCEPIECE_IDS.get(name)
        if value is None:
            return None
        if type(value) is not int or not 0 <= value < len(self._tokens):
            raise self._bad(f"has {key} {show(value)} for {len(self._tokens)} tokens")
        return value

    def _flag(self, name: str, default: bool) -> bool:
        value = self._metadata.get(f"tokenizer.ggml.{name}", default)
        if not isinstance(value, bool):
            raise self._bad(f"has tokenizer.ggml.{name} {show(value)}, expected true or false")
        return value

    def _list(self, name: str, kind: type, default: list[Any] | None = None) -> list[Any]:
        key = f"tokenizer.ggml.{name}"
        value = self._metadata.get(key, default)
        if value is None:
            raise self._bad(f"has no {key}")
        if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
            raise self._bad(f"has a {key} that is no list of {kind.__name__}")
        return value

    def _bad(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self._path.name} {what}", path=self._path)


def _bpe(
    vocabulary: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    *,
    unknown: str | None = None,
    byte_fallback: bool = False,
    ignore_merges: bool = False,
) -> Json:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": byte_fallback,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "vocab": vocabulary,
        "merges": merges,
    }


def _dump(value: Json, indent: int | None = None) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=indent).encode()
