"""How byte-level vocabularies cut text before merging, by the name GGUF gives the rule.

The names and what belongs to them are llama.cpp's (``tokenizer.ggml.pre``); the expressions and
normal forms are those of the models' own ``tokenizer.json``, which llama.cpp partly leaves out.
Left out on purpose: ``default``, which says that the converter did not know the rule, and ``glm4``,
whose models differ in whether text begins with ``[gMASK]<sop>``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BYTE_LEVEL: Mapping[str, Any] = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
}

_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
_GPT4O_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class Splitter:
    """How a byte-level vocabulary cuts text before merging.

    Attributes:
        pattern: regular expression of the pieces; ``None`` for GPT-2's own.
        digits: cut every digit off first.
        ignore_merges: a piece that is in the vocabulary is one token, merges or not.
        adds_bos: text starts with BOS unless the metadata says otherwise.
        composes: text is brought into Unicode's normal form C first.
    """

    pattern: str | None = None
    digits: bool = False
    ignore_merges: bool = False
    adds_bos: bool = False
    composes: bool = False

    def normalizer(self) -> dict[str, Any] | None:
        """The ``normalizer`` of a ``tokenizer.json``."""
        return {"type": "NFC"} if self.composes else None

    def pre_tokenizer(self) -> dict[str, Any]:
        """The ``pre_tokenizer`` of a ``tokenizer.json``."""
        steps: list[dict[str, Any]] = []
        if self.digits:
            steps.append({"type": "Digits", "individual_digits": True})
        if self.pattern is not None:
            pattern = {"Regex": self.pattern}
            steps.append(
                {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
            )
        steps.append({**BYTE_LEVEL, "use_regex": self.pattern is None})
        return {"type": "Sequence", "pretokenizers": steps}


_GPT2 = Splitter()
_NEOX = Splitter(composes=True)
_GPT4O = Splitter(_GPT4O_SPLIT)
_STARCODER = Splitter(digits=True)
_LLAMA3 = Splitter(_LLAMA3_SPLIT, ignore_merges=True, adds_bos=True)
SPLITTERS: Mapping[str, Splitter] = {
    "gpt-2": _GPT2,
    "phi-2": _GPT2,
    "mpt": _NEOX,
    "olmo": _NEOX,
    "smollm": _STARCODER,
    "starcoder": _STARCODER,
    "refact": _STARCODER,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "falcon3": _LLAMA3,
    "tekken": Splitter(_TEKKEN_SPLIT, ignore_merges=True, adds_bos=True),
    "qwen2": Splitter(_QWEN2_SPLIT, composes=True),
    "dbrx": Splitter(_LLAMA3_SPLIT),
    "gpt-4o": _GPT4O,
    "llama4": _GPT4O,
}
