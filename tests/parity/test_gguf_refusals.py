"""What a GGUF file does not say: filled in where all releases agree, else refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.parity.checkpoints import Row, Spelling
from tests.parity.gguf_converter import convert
from tests.parity.gguf_rows import GGUF_ROWS, like
from tests.parity.laboratory import Laboratory
from vindex.checkpoint import balance, open_checkpoint
from vindex.errors import CheckpointError, LedgerRefusal, Unsupported, VindexError
from vindex.families import spec_from_config
from vindex.kinds import StorageDtype
from vindex.spec import Activation, ModelSpec

ROWS = {row.name: row for row in GGUF_ROWS}


def original(row: Row, laboratory: Laboratory) -> Path:
    return laboratory.written(row).directories[Spelling.V5]


def spec_with(row: Row, laboratory: Laboratory, path: Path, **metadata: Any) -> ModelSpec:
    """The specification of a row's file with other metadata (``__`` for a dot)."""
    values = {key.replace("__", "."): value for key, value in metadata.items()}
    with open_checkpoint(convert(original(row, laboratory), path, metadata=values)) as found:
        return spec_from_config(found.config)


def test_opt_has_no_gguf_architecture(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "opt")
    writer.add_tensor("t", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(Unsupported, match="architecture is 'opt'") as caught:
        open_checkpoint(tmp_path / "m.gguf")
    assert "phi2, phi3" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("metadata", "window"),
    [
        ({}, None),
        ({"context_length": 4096}, None),
        ({"context_length": 16384}, 4096),
        ({"context_length": 16384, "attention__sliding_window": 8}, 8),
    ],
)
def test_starcoder2_slides_as_its_releases_do(
    metadata: dict[str, Any], window: int | None, laboratory: Laboratory, tmp_path: Path
) -> None:
    spec = spec_with(ROWS["starcoder2-full"], laboratory, tmp_path / "m.gguf", **metadata)
    assert {layer.attention.window for layer in spec.layers} == {window}


@pytest.mark.parametrize(
    ("theta", "window"), [(10000.0, 4096), (1000000.0, None)], ids=["v0.1", "v0.2"]
)
def test_mistral_7b_slides_in_its_first_version(
    theta: float, window: int | None, laboratory: Laboratory, tmp_path: Path
) -> None:
    sizes = {
        "embedding_length": 4096,
        "feed_forward_length": 14336,
        "block_count": 32,
        "attention__head_count": 32,
        "attention__head_count_kv": 8,
        "attention__key_length": 128,
        "attention__value_length": 128,
        "rope__dimension_count": 128,
        "context_length": 32768,
        "rope__freq_base": theta,
    }
    spec = spec_with(ROWS["llama"], laboratory, tmp_path / "m.gguf", **sizes)
    assert {layer.attention.window for layer in spec.layers} == {window}
    assert spec.model_type == ("llama" if window is None else "mistral")


@pytest.mark.parametrize(
    ("layers", "expected"), [(43, Activation.GELU), (44, Activation.GELU_TANH)]
)
def test_gpt_neox_20b_is_known_by_its_layers(
    layers: int, expected: Activation, laboratory: Laboratory, tmp_path: Path
) -> None:
    spec = spec_with(ROWS["gpt-neox"], laboratory, tmp_path / "m.gguf", block_count=layers)
    assert {layer.ffn.activation for layer in spec.layers} == {expected}


@pytest.mark.parametrize("name", ["phi-as-many-keys", "qwen2-bf16"])
def test_one_matrix_for_q_k_and_v_is_taken_apart(
    name: str, laboratory: Laboratory, tmp_path: Path
) -> None:
    """As in the files of Phi 2 that were made from its first code."""

    def fuse(tensors: dict[str, Tensor]) -> None:
        for layer in range(4):
            for kind in ("weight", "bias"):
                parts = [tensors.pop(f"blk.{layer}.attn_{each}.{kind}") for each in "qkv"]
                tensors[f"blk.{layer}.attn_qkv.{kind}"] = torch.cat(parts)

    directory = original(ROWS[name], laboratory)
    path = convert(directory, tmp_path / "m.gguf", edit=fuse)
    with open_checkpoint(path) as found, open_checkpoint(directory) as expected:
        balance(found, spec_from_config(found.config))
        for each in expected.names():
            values = expected.read(each, StorageDtype.F32)
            np.testing.assert_array_equal(found.read(each, StorageDtype.F32), values, err_msg=each)


def test_one_matrix_of_adjacent_pairs_is_not(laboratory: Laboratory, tmp_path: Path) -> None:
    """What order a llama's rows would have there is not known."""

    def fuse(tensors: dict[str, Tensor]) -> None:
        parts = [tensors.pop(f"blk.0.attn_{each}.weight") for each in "qkv"]
        tensors["blk.0.attn_qkv.weight"] = torch.cat(parts)

    path = convert(original(ROWS["llama"], laboratory), tmp_path / "m.gguf", edit=fuse)
    with open_checkpoint(path) as found, pytest.raises(LedgerRefusal) as caught:
        balance(found, spec_from_config(found.config))
    assert "unknown: 'blk.0.attn_qkv.weight'" in caught.value.details


E2B, SHARED_KEYS = "gemma4-e2b", 5
REFUSED: list[tuple[str, dict[str, Any], type[VindexError], str]] = [
    (E2B, {"expert_count": 4}, Unsupported, "expert_count is 4"),
    (E2B, {"feed_forward_length": [96] * 9 + [192]}, Unsupported, "feed_forward_length is"),
    (E2B, {"feed_forward_length": [96] * 4 + [192] * 6}, Unsupported, "feed_forward_length is"),
    (E2B, {"feed_forward_length": [96] * 9}, CheckpointError, "int for each of 10 layers"),
    (E2B, {"feed_forward_length": None}, CheckpointError, "int for each of 10 layers"),
    (E2B, {"attention.head_count_kv": [1] * 9 + [2]}, Unsupported, "head_count_kv is"),
    (
        E2B,
        {"attention.head_count_kv": [1 if each in (0, 1, 3, 5, 6, 8) else 2 for each in range(10)]},
        Unsupported,
        "key heads that differ where values are not keys",
    ),
    (E2B, {"attention.value_length": 16}, Unsupported, "attention.value_length is not the 32"),
    (E2B, {"rope.dimension_count": 8}, Unsupported, "rope.dimension_count is not the 32"),
    (E2B, {"rope.dimension_count_swa": 8}, Unsupported, "rope.dimension_count is 8"),
    (E2B, {"attention.sliding_window_pattern": None}, CheckpointError, "bool for each of 10"),
    (E2B, {"attention.shared_kv_layers": 10}, CheckpointError, "shared_kv_layers is 10"),
    (E2B, {"attention.altup": 1}, Unsupported, "gemma4.attention.altup"),
    ("granite", {"attention.scale": None}, CheckpointError, "attention.scale is missing"),
    ("olmo2", {"attention.sliding_window": 4096}, Unsupported, "sliding_window is 4096"),
    ("gpt2", {"attention.head_count_kv": 2}, Unsupported, "fewer key heads"),
    ("gpt2", {"attention.scale": 2.0}, Unsupported, "gpt2.attention.scale"),
    ("gpt2", {"attention.sliding_window": 8}, Unsupported, "sliding_window is 8"),
    ("llama", {"final_logit_softcapping": 30.0}, Unsupported, "llama.final_logit_softcapping"),
    ("glm4", {"rope.dimension_count": 11}, CheckpointError, "turn"),
    ("glm4", {"rope.dimension_sections": [1, 2]}, Unsupported, "glm4.rope.dimension_sections"),
    ("llama", {"rope.dimension_count": 8}, Unsupported, "rope.dimension_count is 8"),
    ("gpt-neox", {"attention.layer_norm_epsilon": None}, CheckpointError, "epsilon is missing"),
]


@pytest.mark.parametrize(("name", "metadata", "error", "text"), REFUSED)
def test_metadata_that_is_refused(
    name: str,
    metadata: dict[str, Any],
    error: type[VindexError],
    text: str,
    laboratory: Laboratory,
    tmp_path: Path,
) -> None:
    path = convert(original(ROWS[name], laboratory), tmp_path / "m.gguf", metadata=metadata)
    with pytest.raises(error) as caught:
        open_checkpoint(path)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("table", "error", "text"),
    [
        (None, CheckpointError, "has no tensor rope_freqs.weight"),
        ([1.0] * 4, Unsupported, "rope_freqs.weight is no table"),
        ([1.0] * 4 + [8.0] * 12, Unsupported, "rope_freqs.weight is no table"),
        ([1.0, 1e30] * 8, Unsupported, "rope_freqs.weight is no table"),
    ],
)
def test_other_rope_tables_of_gemma4_are_refused(
    table: list[float] | None,
    error: type[VindexError],
    text: str,
    laboratory: Laboratory,
    tmp_path: Path,
) -> None:
    def replace(tensors: dict[str, Tensor]) -> None:
        del tensors["rope_freqs.weight"]
        if table is not None:
            tensors["rope_freqs.weight"] = torch.tensor(table)

    path = convert(original(ROWS[E2B], laboratory), tmp_path / "m.gguf", edit=replace)
    with pytest.raises(error) as caught:
        open_checkpoint(path)
    assert text in str(caught.value)


@pytest.mark.parametrize("length", ["long", "short"])
def test_half_of_longrope_is_refused(length: str, laboratory: Laboratory, tmp_path: Path) -> None:
    def leave_out(tensors: dict[str, Tensor]) -> None:
        del tensors[f"rope_factors_{length}.weight"]

    path = convert(original(ROWS["phi3"], laboratory), tmp_path / "m.gguf", edit=leave_out)
    with pytest.raises(CheckpointError, match=f"has no tensor rope_factors_{length}"):
        open_checkpoint(path)


def test_longrope_of_a_llama_is_refused(laboratory: Laboratory, tmp_path: Path) -> None:
    def add(tensors: dict[str, Tensor]) -> None:
        tensors["rope_factors_long.weight"] = torch.ones(8)

    path = convert(original(ROWS["llama"], laboratory), tmp_path / "m.gguf", edit=add)
    with open_checkpoint(path) as found, pytest.raises(LedgerRefusal, match="rope_factors_long"):
        balance(found, spec_from_config(found.config))


def test_longrope_of_another_strength(laboratory: Laboratory, tmp_path: Path) -> None:
    strength = {"rope.scaling.attn_factor": 1.5}
    path = convert(original(ROWS["phi3"], laboratory), tmp_path / "m.gguf", metadata=strength)
    with open_checkpoint(path) as found:
        rope = spec_from_config(found.config).layers[0].attention.rope
    assert rope is not None
    assert rope.attention_factor == 1.5


@pytest.mark.parametrize("name", [E2B, "gemma4-keys-are-values", "phi3", "gpt2", "gpt-neox"])
def test_damaged_headers_never_escape_as_a_traceback(
    name: str, laboratory: Laboratory, tmp_path: Path
) -> None:
    path = convert(original(ROWS[name], laboratory), tmp_path / "m.gguf")
    whole = path.read_bytes()
    values = range(whole.index(b".block_count") - 40, whole.index(b"tokenizer.ggml.model"))
    rng = random.Random(name)
    refusals = []
    for _ in range(150):
        mutant = bytearray(whole)
        place = rng.choice(values)
        mutant[place] = rng.choice([0, 1, 2, 127, 128, 255])
        path.write_bytes(mutant)
        try:
            with open_checkpoint(path) as found:
                balance(found, spec_from_config(found.config))
        except VindexError as error:
            refusals.append(str(error))
    assert len(refusals) > 30
    assert all(text.isprintable() for text in refusals)


def test_yarn_keeps_its_bends(laboratory: Laboratory, tmp_path: Path) -> None:
    row = like(
        "qwen2-yarn",
        "bends",
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
            "beta_fast": 16.0,
            "beta_slow": 0.5,
            "attention_factor": 1.2,
        },
    )
    directory = original(row, laboratory)
    with (
        open_checkpoint(convert(directory, tmp_path / "m.gguf")) as found,
        open_checkpoint(directory) as expected,
    ):
        assert spec_from_config(found.config) == spec_from_config(expected.config)
