"""Writes the two SentencePiece vocabularies beside this file, with what SentencePiece encodes.

Not run by the tests. Needs ``pip install sentencepiece==0.2.3``; from the repository's root:
``python -m tests.data.tokenizers.generate``.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece

from tests.unit.tokenizer_texts import ALL_STRINGS, CORPUS

GEMMA_SYMBOLS = ["\n", "\n\n", "\n\n\n", *("\u2581" * count for count in range(2, 32)), "<start>"]
UNKNOWN, CONTROL, USER_DEFINED, BYTE, NORMAL = 2, 3, 4, 6, 1


def main() -> None:
    here = Path(__file__).parent
    gemma = {"add_dummy_prefix": False, "pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
    write(here / "sentencepiece_gemma.json", GEMMA_SYMBOLS, gemma)
    write(here / "sentencepiece_llama.json", [], {"add_dummy_prefix": True})


def write(path: Path, symbols: list[str], options: dict[str, Any]) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.split("\n") * 3),
        model_writer=model,
        model_type="bpe",
        vocab_size=700,
        character_coverage=0.98,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        user_defined_symbols=symbols,
        minloglevel=2,
        **options,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    tokens, types, scores = [], [], []
    for index in range(processor.GetPieceSize()):
        piece, score, kind = processor.IdToPiece(index), processor.GetScore(index), NORMAL
        if processor.IsUnknown(index):
            kind = UNKNOWN
        elif processor.IsControl(index):
            kind = CONTROL
        elif processor.IsByte(index):
            kind = BYTE
        elif piece in symbols:  # as llama.cpp's converter spells them
            kind, piece, score = USER_DEFINED, piece.replace("\u2581", " "), -1000.0
        tokens.append(piece)
        types.append(kind)
        scores.append(score)
    texts = [text for text in ALL_STRINGS if "\0" not in text]  # SentencePiece cuts at NUL
    content = {
        "tokens": tokens,
        "types": types,
        "scores": scores,
        "bos": processor.bos_id(),
        "eos": processor.eos_id(),
        "unknown": processor.unk_id(),
        "encodings": [
            [text, ids, processor.DecodeIds(ids)]
            for text, ids in ((text, processor.EncodeAsIds(text)) for text in texts)
        ],
    }
    path.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
