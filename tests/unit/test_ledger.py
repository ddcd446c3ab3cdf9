"""Every tensor of a checkpoint is used, dropped by a named rule, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.unit.checkpoint_files import GEMMA3, LLAMA, Arrays, random_arrays, write_directory
from vindex.checkpoint import Ledger, balance, open_checkpoint
from vindex.errors import LedgerRefusal
from vindex.families import spec_from_config
from vindex.spec import Role


def account(directory: Path, config: dict[str, Any], arrays: Arrays) -> Ledger:
    write_directory(directory, config, arrays)
    with open_checkpoint(directory) as checkpoint:
        return balance(checkpoint, spec_from_config(config))


def refused(directory: Path, config: dict[str, Any], arrays: Arrays) -> LedgerRefusal:
    with pytest.raises(LedgerRefusal) as caught:
        account(directory, config, arrays)
    assert caught.value.hint is not None
    assert "nothing was written" in caught.value.hint
    return caught.value


def test_a_whole_checkpoint_balances(tmp_path: Path) -> None:
    arrays = random_arrays(LLAMA)
    ledger = account(tmp_path, LLAMA, arrays)
    assert sorted(ledger.used.values()) == sorted(arrays)
    assert (ledger.dropped, ledger.notes) == ((), ())
    roles = [tensor.role for tensor in ledger.used]
    assert (roles[0], roles[-2:]) == (Role.EMBED, [Role.FINAL_NORM, Role.HEAD])
    names = {tensor.key: name for tensor, name in ledger.used.items()}
    assert names["layers.1.mlp.up_proj.weight"] == "model.layers.1.mlp.up_proj.weight"


def test_every_problem_is_listed_at_once(tmp_path: Path) -> None:
    arrays = random_arrays(LLAMA)
    arrays["model.layers.0.self_attn.q_proj.lora_A"] = np.zeros(2, np.float32)
    arrays["model.layers.9.mlp.up_proj.weight"] = np.zeros((2, 2), np.float32)
    arrays["model.layers.1.mlp.up_proj.weight"] = np.zeros((32, 64), np.float32)
    arrays["norm.weight"] = np.zeros(32, np.float32)
    del arrays["model.layers.0.input_layernorm.weight"]
    del arrays["lm_head.weight"]
    error = refused(tmp_path, LLAMA, arrays)
    assert sorted(error.details) == [
        "ambiguous: 'model.norm.weight' and 'norm.weight'",
        "missing: layers.0.input_layernorm.weight",
        "missing: lm_head.weight",
        "shape: 'model.layers.1.mlp.up_proj.weight' is [32, 64], expected [64, 32]",
        "unknown: 'model.layers.0.self_attn.q_proj.lora_A'",
        "unknown: 'model.layers.9.mlp.up_proj.weight'",
    ]
    assert str(error).startswith("6 tensors of ")
    assert str(error).endswith("; and 2 more")


def test_biases_that_the_config_denies_are_unknown(tmp_path: Path) -> None:
    biased = {**LLAMA, "attention_bias": True}
    error = refused(tmp_path, LLAMA, random_arrays(biased))
    assert len(error.details) == 8
    assert all(problem.startswith("unknown: ") for problem in error.details)


def test_one_problem_reads_as_one(tmp_path: Path) -> None:
    arrays = random_arrays(LLAMA)
    del arrays["model.norm.weight"]
    assert "1 tensor of" in str(refused(tmp_path, LLAMA, arrays))


def test_unreadable_dtypes_are_refused(tmp_path: Path) -> None:
    arrays = random_arrays(LLAMA)
    arrays["model.norm.weight"] = np.zeros(32, np.int64)
    error = refused(tmp_path, LLAMA, arrays)
    assert "stored as I64, supported are F32, F16, BF16" in error.details[0]


def test_rotary_tables_are_dropped_by_name(tmp_path: Path) -> None:
    arrays = random_arrays(LLAMA)
    arrays["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(8, np.float32)
    ledger = account(tmp_path, LLAMA, arrays)
    assert [(drop.rule, drop.name) for drop in ledger.dropped] == [
        ("rotary-inv-freq", "model.layers.0.self_attn.rotary_emb.inv_freq")
    ]
    assert ledger.dropped[0].reason


def test_a_vision_tower_is_dropped_from_gemma3_only(tmp_path: Path) -> None:
    vision = {
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight": np.zeros((2, 2), np.float32),
        "multi_modal_projector.mm_soft_emb_norm.weight": np.zeros(2, np.float32),
    }
    text = {
        name.replace("model.", "language_model.model.", 1): values
        for name, values in random_arrays(GEMMA3).items()
    }
    ledger = account(tmp_path / "gemma", GEMMA3, text | vision)
    assert {drop.rule for drop in ledger.dropped} == {"gemma3-vision-tower"}
    assert len(ledger.dropped) == 2
    refused(tmp_path / "llama", LLAMA, random_arrays(LLAMA) | vision)


TIED = {**LLAMA, "tie_word_embeddings": True}


def test_a_copy_of_the_tied_embedding_is_dropped(tmp_path: Path) -> None:
    arrays = random_arrays(TIED)
    assert "lm_head.weight" not in arrays
    arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"].copy()
    ledger = account(tmp_path, TIED, arrays)
    assert [(drop.name, drop.rule) for drop in ledger.dropped] == [
        ("lm_head.weight", "tied-head-copy")
    ]
    assert ledger.notes == ()


def test_a_tied_head_that_differs_is_used_and_noted(tmp_path: Path) -> None:
    arrays = random_arrays(TIED)
    arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"].copy()
    arrays["lm_head.weight"][-1, -1] += 1
    ledger = account(tmp_path, TIED, arrays)
    assert ledger.dropped == ()
    assert "lm_head.weight" in ledger.used.values()
    assert "lm_head.weight that differs; it is used" in ledger.notes[0]


def test_a_tied_head_of_another_dtype_is_no_copy(tmp_path: Path) -> None:
    arrays = random_arrays(TIED)
    write_directory(tmp_path, TIED, {})
    tensors = {name: torch.from_numpy(values) for name, values in arrays.items()}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].bfloat16()
    save_file(tensors, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path) as checkpoint:
        ledger = balance(checkpoint, spec_from_config(TIED))
    assert "lm_head.weight" in ledger.used.values()


def test_a_tied_model_needs_no_head_and_an_untied_one_does(tmp_path: Path) -> None:
    arrays = random_arrays(TIED)
    used = account(tmp_path / "tied", TIED, arrays).used
    assert Role.HEAD not in {tensor.role for tensor in used}
    error = refused(tmp_path / "untied", LLAMA, arrays)
    assert error.details == ("missing: lm_head.weight",)


def test_names_from_the_file_are_shown_escaped(tmp_path: Path) -> None:
    arrays = random_arrays(LLAMA)
    arrays["\x1b[31mred\u202e"] = np.zeros(2, np.float32)
    error = refused(tmp_path, LLAMA, arrays)
    assert str(error).isprintable()
    assert error.details[0].isascii()
