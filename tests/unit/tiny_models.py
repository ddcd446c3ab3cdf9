"""Tiny random models behind real checkpoints, for tests of the backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lql.inference import ComputeDtype
from lql.inference.decoder import Decoder
from lql.inference.weights import load_weights
from tests.unit.checkpoint_files import GEMMA3, LLAMA, Arrays, random_arrays, write_directory
from tests.unit.tokenizer_texts import CORPUS
from vindex.checkpoint import CheckpointSource, open_checkpoint

VOCABULARY = 400
LLAMA_TINY: dict[str, Any] = {**LLAMA, "vocab_size": VOCABULARY}
GEMMA3_TINY: dict[str, Any] = {**GEMMA3, "vocab_size": VOCABULARY}
DYNAMIC_TINY: dict[str, Any] = {
    **LLAMA_TINY,
    "max_position_embeddings": 32,
    "rope_scaling": {"rope_type": "dynamic", "factor": 4.0},
}


def tame_arrays(config: Mapping[str, Any], dtype: type[np.floating[Any]] = np.float32) -> Arrays:
    """Random weights whose activations stay moderate."""
    return {
        name: (values * 0.15 + (values.ndim == 1 and config["model_type"] == "llama")).astype(dtype)
        for name, values in random_arrays(config).items()
    }


def byte_tokenizer() -> Tokenizer:
    """A byte-level BPE tokenizer of ``VOCABULARY`` entries."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([CORPUS], trainer)
    return made


@contextmanager
def source(
    directory: Path, config: Mapping[str, Any], arrays: Arrays | None = None
) -> Iterator[CheckpointSource]:
    """A checkpoint of random weights with a tokenizer and no stop tokens, opened."""
    write_directory(directory, config, tame_arrays(config) if arrays is None else arrays)
    byte_tokenizer().save(str(directory / "tokenizer.json"))
    with open_checkpoint(directory) as checkpoint:
        yield CheckpointSource(checkpoint)


def decoder(opened: CheckpointSource) -> Decoder:
    """The model without a tokenizer around it."""
    return Decoder(opened.spec, load_weights(opened, ComputeDtype.AUTO, None))
