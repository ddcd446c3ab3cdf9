"""Two real models, extracted, against transformers on the same dequantised weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import AutoModelForCausalLM

from lql.inference.model import LoadedModel
from lql.inference.token_scorer import TorchScorer
from tests.parity.laboratory import ALL_THREADS, loaded, threads
from tests.parity.reference import Reference
from vindex.checkpoint import open_checkpoint
from vindex.extract import extract
from vindex.kinds import StorageDtype
from vindex.store import open_vindex

pytestmark = [pytest.mark.real_model, pytest.mark.usefixtures("one_thread")]

MODELS = ("smollm2", "gemma3")
PROBABILITY_WITHIN = {StorageDtype.F32: 2e-4, StorageDtype.F16: 5e-3}
TOP = 5
GREEDY_TOKENS = 64
PROMPTS = (
    "The capital of France is",
    "The opposite of hot is",
    "Water boils at a temperature of",
    "def fibonacci(n):\n    if n <",
    "Once upon a time, there was a little",
    "The chemical symbol for gold is",
    "Die Hauptstadt von Deutschland ist",
    "1, 2, 3, 5, 8, 13,",
    "Albert Einstein was born in the year",
    "Roses are red, violets are",
)
# Neither model ends these within ``GREEDY_TOKENS``.
GREEDY_PROMPTS = (
    "Once upon a time, there was a little",
    "The history of the Roman Empire begins with",
)

models = pytest.mark.parametrize("name", MODELS)
dtypes = pytest.mark.parametrize("dtype", PROBABILITY_WITHIN, ids=lambda dtype: dtype.value)


class RealModels:
    """GGUF files, their vindexes and what transformers computes on them, each made once."""

    def __init__(self, files: dict[str, Path], directory: Path) -> None:
        self._files = files
        self._directory = directory
        self._extracted = cache(self._extract)
        self.expected = cache(self._expect)

    @contextmanager
    def load(self, name: str, dtype: StorageDtype) -> Iterator[LoadedModel]:
        """A model, loaded from its vindex."""
        with open_vindex(self._extracted(name, dtype)) as vindex:
            yield loaded(vindex)

    def _extract(self, name: str, dtype: StorageDtype) -> Path:
        out = self._directory / f"{name}-{dtype.value}.vindex"
        with open_checkpoint(self._files[name]) as checkpoint, threads(ALL_THREADS):
            extract(checkpoint, out, dtype=dtype, scorer=TorchScorer())
        return out

    def _expect(self, name: str) -> Reference:
        file = self._files[name]
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32
        )
        return Reference(model.eval())


@pytest.fixture(scope="module")
def real_models(
    smollm2_gguf: Path, gemma3_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> RealModels:
    files = {"smollm2": smollm2_gguf, "gemma3": gemma3_gguf}
    return RealModels(files, tmp_path_factory.mktemp("real"))


@models
@dtypes
def test_rows_of_infer(name: str, dtype: StorageDtype, real_models: RealModels) -> None:
    reference = real_models.expected(name)
    worst = 0.0
    with real_models.load(name, dtype) as model:
        for prompt in PROMPTS:
            prediction = model.infer(prompt, top=TOP)
            logits = reference.logits(prediction.encoded.ids)[-1].astype(np.float64)
            expected = np.exp(logits - logits.max())
            expected /= expected.sum()
            found = {row.token_id: row.probability for row in prediction.rows}
            difference = max(abs(found[token] - expected[token]) for token in found)
            worst = max(worst, difference)
            assert difference <= PROBABILITY_WITHIN[dtype], prompt
            assert [row.rank for row in prediction.rows] == list(range(1, TOP + 1))
            if dtype is StorageDtype.F32:
                assert list(found) == np.argsort(-logits)[:TOP].tolist(), prompt
            else:
                assert_near_best(found, expected, PROBABILITY_WITHIN[dtype])
    print(f"{name} {dtype.value}: probabilities within {worst:.1e}")


def assert_near_best(
    found: dict[int, float], expected: npt.NDArray[np.float64], within: float
) -> None:
    """The tokens found are the most probable ones, but for those that rounding may exchange."""
    best = np.sort(expected)[::-1]
    for rank, token in enumerate(found):
        assert expected[token] >= best[rank] - within


@models
@pytest.mark.parametrize("prompt", GREEDY_PROMPTS)
def test_greedy_generation(name: str, prompt: str, real_models: RealModels) -> None:
    """A cached step, the whole prefix each time, and transformers choose the same tokens."""
    reference = real_models.expected(name)
    with real_models.load(name, StorageDtype.F32) as model:
        generation = model.generate(prompt, max_tokens=GREEDY_TOKENS)
        found = tuple(token.token_id for token in generation)
        assert len(found) == GREEDY_TOKENS
        text = generation.encoded.ids
        for token in found:
            assert int(model.next_logits(text).argmax()) == token
            text += (token,)
    # One pass over the finished text has the logits of every prefix: attention is causal.
    logits = reference.logits(text[:-1])[len(generation.encoded.ids) - 1 :]
    assert tuple(logits.argmax(axis=1).tolist()) == found


TURNS = (
    "What is the capital of France?",
    "And of Spain? Answer in one word.",
    "Now list three colours, please.",
)


def test_a_conversation_equals_reading_it_whole(real_models: RealModels) -> None:
    """The cache of a chat holds what the whole conversation from scratch would."""
    with real_models.load("smollm2", StorageDtype.F32) as model:
        conversation = model.converse()
        for number, said in enumerate(TURNS):
            reply = conversation.reply(said, max_tokens=24)
            text = reply.generation.encoded.ids
            assert (reply.reused > len(text) // 2) == (number > 0)
            worst = 0.0
            for token in reply:
                scores = model.next_logits(text).astype(np.float64)
                assert token.token_id == scores.argmax()
                logprob = -np.log(np.exp(scores - scores.max()).sum())
                worst = max(worst, abs(logprob - token.logprob))
                text += (token.token_id,)
            print(f"turn {number + 1}: {reply.reused} tokens known, logprobs within {worst:.1e}")
            assert worst < 1e-3
        whole = real_models.expected("smollm2").logits(text)
        with torch.inference_mode():
            sequence = conversation._sequence
            assert sequence is not None
            rest = text[len(sequence.ids) :]
            cached = model._decoder.logits(sequence.read(rest))[0].numpy()
        assert np.abs(cached - whole[-1]).max() < 2e-3
