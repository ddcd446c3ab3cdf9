"""Sampling: transformers' distribution, drawn from fairly, and reproducibly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from lql.inference import load
from lql.inference.errors import SamplingInvalid
from lql.inference.generate import Finish
from lql.inference.model import LoadedModel
from lql.inference.sampler import Sampler, filtered
from lql.inference.sampling import Sampling
from tests.unit.tiny_models import LLAMA_TINY, source

VOCABULARY = 500
OCCURRED = (3, 3, 77, 400, 12)

CHOICES = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.3),
    Sampling(temperature=2.5),
    Sampling(temperature=1.0, top_k=1),
    Sampling(temperature=1.0, top_k=40),
    Sampling(temperature=1.0, top_k=VOCABULARY + 9),
    Sampling(temperature=1.0, top_p=0.01),
    Sampling(temperature=1.0, top_p=0.5),
    Sampling(temperature=1.0, top_p=0.95),
    Sampling(temperature=1.0, top_p=1.0),
    Sampling(temperature=1.0, min_p=0.05),
    Sampling(temperature=1.0, min_p=1.0),
    Sampling(temperature=1.0, repetition_penalty=1.3),
    Sampling(temperature=1.0, repetition_penalty=0.7),
    Sampling(temperature=0.7, top_k=50, top_p=0.9, min_p=0.02, repetition_penalty=1.1),
    Sampling(temperature=1.8, top_k=200, top_p=0.6, min_p=0.3, repetition_penalty=1.5),
]


def random_logits(seed: int) -> torch.Tensor:
    return 4 * torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed))


def theirs(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """What transformers makes of logits, with its processors in the order it chains them."""
    chain: list[Any] = [TemperatureLogitsWarper(sampling.temperature)]
    if sampling.repetition_penalty != 1.0:
        chain.insert(0, RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.top_k is not None:
        chain.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p is not None:
        chain.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p is not None:
        chain.append(MinPLogitsWarper(sampling.min_p))
    return LogitsProcessorList(chain)(torch.tensor([OCCURRED]), logits[None].clone())[0]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sampling", CHOICES, ids=str)
def test_the_distribution_is_that_of_transformers(sampling: Sampling, seed: int) -> None:
    logits = random_logits(seed)
    before = logits.clone()
    found = filtered(logits, sampling, set(OCCURRED))
    expected = theirs(logits, sampling)
    assert torch.equal(found.isinf(), expected.isinf())
    torch.testing.assert_close(found.softmax(0), expected.softmax(0), atol=1e-7, rtol=1e-6)
    assert torch.equal(logits, before)


def test_a_penalty_counts_for_greedy_choice_too() -> None:
    logits = torch.tensor([3.0, 2.9, -1.0])
    sampler = Sampler(Sampling(repetition_penalty=1.2), prompt=(0,))
    assert [sampler.choose(logits) for _ in range(3)] == [1, 0, 0]
    negative = torch.tensor([-1.0, -1.1])
    assert Sampler(Sampling(repetition_penalty=1.2), prompt=(0,)).choose(negative) == 1


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0, seed=11),
        Sampling(temperature=0.6, top_k=12, top_p=0.95, min_p=0.01, seed=12),
    ],
)
def test_draws_follow_the_distribution(sampling: Sampling) -> None:
    """Chi-square over 20 000 draws; 99.9 % of fair samplers stay below the bound."""
    logits = torch.randn(40, generator=torch.Generator().manual_seed(5)) * 1.5
    expected = filtered(logits, sampling, ()).softmax(0).double().numpy()
    sampler = Sampler(sampling, ())
    draws = 20_000
    counts = np.bincount([sampler.choose(logits) for _ in range(draws)], minlength=40)
    kept = expected > 0
    assert counts[~kept].sum() == 0
    statistic = ((counts[kept] - draws * expected[kept]) ** 2 / (draws * expected[kept])).sum()
    freedom = int(kept.sum()) - 1
    # Wilson and Hilferty's approximation of the 99.9 % point of chi-square.
    bound = freedom * (1 - 2 / (9 * freedom) + 3.0902 * np.sqrt(2 / (9 * freedom))) ** 3
    print(f"chi-square {statistic:.1f}, bound {bound:.1f} at {freedom} degrees of freedom")
    assert statistic < bound


def test_a_seed_decides_and_nothing_else_does() -> None:
    logits = random_logits(1)

    def drawn(seed: int | None, disturb: bool = False) -> list[int]:
        sampler = Sampler(Sampling(temperature=1.5, seed=seed), ())
        found = []
        for step in range(30):
            if disturb:
                torch.manual_seed(step)
                torch.rand(7)
            found.append(sampler.choose(logits))
        return found

    state = torch.get_rng_state()
    assert drawn(4) == drawn(4) != drawn(5)
    assert torch.equal(torch.get_rng_state(), state)
    assert drawn(4, disturb=True) == drawn(4)
    assert drawn(None) != drawn(None)


def test_a_seed_draws_these_tokens() -> None:
    """On every machine: one number of a Mersenne twister against a running sum."""
    logits = torch.arange(10.0) / 4
    sampler = Sampler(Sampling(temperature=1.0, seed=2026), ())
    assert [sampler.choose(logits) for _ in range(12)] == [4, 9, 3, 2, 8, 7, 9, 4, 5, 1, 7, 8]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"temperature": 1.0, "top_k": 0}, "top-k is 0"),
        ({"temperature": 1.0, "top_p": 0.0}, "top-p is 0"),
        ({"temperature": 1.0, "top_p": 1.1}, "top-p is 1.1"),
        ({"temperature": 1.0, "min_p": -0.1}, "min-p is -0.1"),
        ({"temperature": 1.0, "min_p": 1.1}, "min-p is 1.1"),
        ({"repetition_penalty": 0.0}, "repetition-penalty is 0"),
        ({"temperature": 1.0, "seed": -1}, "seed is -1"),
        ({"top_k": 5}, "top-k has no effect on greedy"),
        ({"seed": 5}, "seed has no effect on greedy"),
    ],
)
def test_values_that_make_no_sense_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SamplingInvalid, match=message) as caught:
        Sampling(**values)
    assert caught.value.code == "INF09"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, Sampling()),
        ({"temperature": 0.7, "top_p": 0.9}, Sampling()),  # without do_sample: greedy
        ({"do_sample": True}, Sampling(temperature=1.0)),
        (
            {"do_sample": True, "temperature": 1.0, "top_k": 64, "top_p": 0.95},
            Sampling(temperature=1.0, top_k=64, top_p=0.95),
        ),
        ({"do_sample": True, "top_k": 0, "top_p": 1.0, "min_p": 0.0}, Sampling(temperature=1.0)),
        ({"repetition_penalty": 1.1}, Sampling(repetition_penalty=1.1)),
    ],
)
def test_what_the_makers_recommend(config: dict[str, Any], expected: Sampling) -> None:
    assert Sampling.of_generation_config(config) == expected


def test_a_generation_config_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(SamplingInvalid, match="top_p is not a number"):
        Sampling.of_generation_config({"do_sample": True, "top_p": "high"})


# --------------------------------------------------------------------------- generating


@pytest.fixture
def model(tmp_path: Path) -> Iterator[LoadedModel]:
    with source(tmp_path, LLAMA_TINY) as opened:
        yield load(opened)


def ids(model: LoadedModel, **options: Any) -> list[int]:
    return [token.token_id for token in model.generate("The", max_tokens=20, **options)]


def test_generation_samples(model: LoadedModel) -> None:
    warm = Sampling(temperature=3.0, seed=1)
    assert ids(model, sampling=warm) == ids(model, sampling=warm)
    assert ids(model, sampling=warm) != ids(model, sampling=Sampling(temperature=3.0, seed=2))
    assert ids(model) == ids(model, sampling=Sampling(temperature=2.0, top_k=1, seed=3))
    assert ids(model) == ids(model, sampling=Sampling())


def test_logprobs_are_the_models_own(model: LoadedModel) -> None:
    """Whatever was left out before the draw."""
    generation = model.generate("The", max_tokens=5, sampling=Sampling(temperature=3.0, seed=1))
    text = generation.encoded.ids
    for token in generation:
        logits = torch.from_numpy(model.next_logits(text))
        assert token.logprob == pytest.approx(
            float(logits.log_softmax(0)[token.token_id]), abs=1e-4
        )
        text += (token.token_id,)


def test_a_penalty_sees_the_prompt_and_what_was_generated(model: LoadedModel) -> None:
    generation = model.generate(
        "The capital", max_tokens=20, sampling=Sampling(repetition_penalty=1e6)
    )
    found = [token.token_id for token in generation]
    assert len(set(found)) == len(found)
    assert not set(found) & set(generation.encoded.ids)
    assert generation.finish is Finish.LENGTH
