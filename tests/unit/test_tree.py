"""Prompts packed into a tree are read as if each were alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lql.inference.decoder import Decoder
from lql.inference.errors import PromptTooLong
from lql.inference.packed import PackedSequence
from lql.inference.sequence import Sequence
from lql.inference.tree import TokenTree
from tests.unit.tiny_models import DYNAMIC_TINY, GEMMA3_TINY, LLAMA_TINY, decoder, source

PROMPTS = st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=9).map(tuple), min_size=1, max_size=8
)
CONFIGS = {"llama": LLAMA_TINY, "sliding": {**GEMMA3_TINY, "sliding_window": 4}}
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with source(tmp_path_factory.mktemp("tree"), CONFIGS[request.param]) as opened:
        yield decoder(opened)


def alone(model: Decoder, ids: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return model.logits(Sequence(model, len(ids)).read(ids))[0].numpy()


@torch.inference_mode()
def test_packed_logits_are_those_of_each_prompt_alone(model: Decoder) -> None:
    random = np.random.default_rng(0)
    stem = tuple(random.integers(0, 400, 7).tolist())
    prompts = [stem + tuple(random.integers(0, 400, n).tolist()) for n in (1, 3, 9, 30)]
    prompts += [tuple(random.integers(0, 400, n).tolist()) for n in (1, 12)]
    prompts += [prompts[2][:9], prompts[2]]  # one that another goes through, one twice
    sequence = PackedSequence(model, sum(map(len, prompts)))
    leaves = [sequence.tree.add(ids) for ids in prompts]
    packed = model.logits(sequence.read()[leaves]).numpy()

    assert len(sequence.tree) < sum(map(len, prompts)) - 4 * 7
    for row, ids in zip(packed, prompts, strict=True):
        np.testing.assert_allclose(row, alone(model, ids), **CLOSE)


@torch.inference_mode()
def test_branches_grow_and_others_take_their_place(model: Decoder) -> None:
    sequence = PackedSequence(model, 60)
    trunk = sequence.tree.add((5, 6, 7, 8, 9, 10))
    sequence.read()
    start = len(sequence.tree)
    for seed in range(3):
        sequence.cut(start)
        random = np.random.default_rng(seed)
        ends = [trunk, sequence.tree.add((5, 6, 300))]
        sequence.read()
        paths = [(5, 6, 7, 8, 9, 10), (5, 6, 300)]
        for _ in range(6):
            tokens = random.integers(11, 299, 2).tolist()
            first = len(sequence.tree)
            ends = [sequence.tree.add([t], end) for t, end in zip(tokens, ends, strict=True)]
            paths = [(*path, t) for t, path in zip(tokens, paths, strict=True)]
            logits = model.logits(sequence.read()[[end - first for end in ends]]).numpy()
            for row, path in zip(logits, paths, strict=True):
                np.testing.assert_allclose(row, alone(model, path), **CLOSE)
        assert [sequence.tree.prompt(end) for end in ends] == paths


@torch.inference_mode()
def test_more_queries_than_a_block(model: Decoder) -> None:
    prompts = [(1, 2, n // 20, n) for n in range(150)]
    sequence = PackedSequence(model, 600)
    leaves = [sequence.tree.add(ids) for ids in prompts]
    packed = model.logits(sequence.read()[leaves]).numpy()
    for at in (0, 74, 149):
        np.testing.assert_allclose(packed[at], alone(model, prompts[at]), **CLOSE)


@given(PROMPTS)
def test_a_tree_holds_its_prompts_and_no_beginning_twice(prompts: list[tuple[int, ...]]) -> None:
    tree = TokenTree()
    leaves = [tree.add(ids) for ids in prompts]
    assert [tree.prompt(leaf) for leaf in leaves] == prompts
    assert len(tree) == len({ids[:n] for ids in prompts for n in range(1, len(ids) + 1)})


@given(PROMPTS, PROMPTS)
def test_a_tree_that_was_cut_is_the_tree_before(
    prompts: list[tuple[int, ...]], others: list[tuple[int, ...]]
) -> None:
    tree, fresh = TokenTree(), TokenTree()
    for ids in prompts:
        tree.add(ids)
        fresh.add(ids)
    length = len(tree)
    for ids in others:
        tree.add(ids)
    tree.cut(length)
    assert [tree.add(ids) for ids in others] == [fresh.add(ids) for ids in others]


@given(PROMPTS, PROMPTS)
def test_a_prompt_that_older_nodes_hold_gets_a_new_last_one(
    prompts: list[tuple[int, ...]], others: list[tuple[int, ...]]
) -> None:
    tree = TokenTree()
    for ids in prompts:
        tree.add(ids)
    before, length = list(tree.ids), len(tree)
    for ids in [*others, *prompts]:
        node = tree.add_new(ids, length)
        assert node >= length
        assert tree.prompt(node) == ids
    tree.cut(length)
    assert [tree.prompt(tree.add(ids)) for ids in prompts] == prompts
    assert tree.ids == before


def test_paths_that_the_model_has_no_positions_for_are_refused(tmp_path: Path) -> None:
    with source(tmp_path, {**LLAMA_TINY, "max_position_embeddings": 16}) as opened:
        sequence = PackedSequence(decoder(opened), 40)
        sequence.tree.add(range(17))
        with pytest.raises(PromptTooLong):
            sequence.read()


def test_branches_do_not_share_rotations_that_depend_on_the_length(tmp_path: Path) -> None:
    with source(tmp_path, DYNAMIC_TINY) as opened:
        sequence = PackedSequence(decoder(opened), 40)
        sequence.tree.add(range(33))
        with pytest.raises(PromptTooLong):
            sequence.read()
