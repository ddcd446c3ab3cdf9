"""EXTRACT and COMPILE INTO MODEL without an edit: the checkpoint comes back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.parity.checkpoints import Row, Spelling
from tests.parity.laboratory import Form, Laboratory, largest, prompt_ids
from tests.parity.reference import Reference
from tests.parity.rows import ROWS
from vindex.checkpoint import CheckpointSource, open_checkpoint
from vindex.export.directory import export_safetensors
from vindex.kinds import StorageDtype

pytestmark = pytest.mark.usefixtures("one_thread")

_STORAGE = {torch.float32: StorageDtype.F32, torch.bfloat16: StorageDtype.BF16}


def compiled(row: Row, dtype: StorageDtype, laboratory: Laboratory, out: Path) -> Path:
    with laboratory.source(row, Form(Spelling.V5, dtype)) as vindex:
        return export_safetensors(vindex, out).path


def in_text_model(name: str) -> str:
    """What a tensor is called in a model that is nothing but text."""
    for prefix in ("model.language_model.", "language_model.model."):
        name = name.replace(prefix, "model.")
    return name.replace("language_model.lm_head", "lm_head")


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_every_tensor_is_the_originals_bit_for_bit(
    row: Row, laboratory: Laboratory, tmp_path: Path
) -> None:
    directory = laboratory.written(row).directories[Spelling.V5]
    out = compiled(row, _STORAGE[row.dtype], laboratory, tmp_path / "out")
    originals = load_file(directory / "model.safetensors")
    expected = {in_text_model(name): values for name, values in originals.items()}
    found = load_file(out / "model.safetensors")
    same_names = set(found) & set(expected)
    for name in same_names:
        assert found[name].dtype is expected[name].dtype, name
        assert torch.equal(found[name], expected[name]), name
    if not (row.fused_experts or row.mxfp4):  # of those transformers has several spellings
        assert same_names == set(found)
    with open_checkpoint(out) as ours, open_checkpoint(directory) as theirs:
        pair = CheckpointSource(ours), CheckpointSource(theirs)
        for tensor in pair[1].spec.tensors:
            held = [each.has(*tensor.identity) for each in pair]
            assert held[0] == held[1], tensor.key
            if held[0]:
                values = [each.tensor(*tensor.identity).float32() for each in pair]
                assert np.array_equal(*values), tensor.key
    for name in ("tokenizer.json", "generation_config.json"):
        assert (out / name).read_bytes() == (directory / name).read_bytes()


@pytest.mark.parametrize("row", [row for row in ROWS if row.dtype is torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", [StorageDtype.F16, StorageDtype.F32], ids=lambda d: d.value)
def test_weights_in_bf16_come_back_from_other_dtypes(
    row: Row, dtype: StorageDtype, laboratory: Laboratory, tmp_path: Path
) -> None:
    """What f16 did not lose: values below its smallest number but one."""
    directory = laboratory.written(row).directories[Spelling.V5]
    out = compiled(row, dtype, laboratory, tmp_path / "out")
    expected, found = (load_file(each / "model.safetensors") for each in (directory, out))
    for name in set(found) & set(expected):
        assert found[name].dtype is torch.bfloat16
        same = found[name] == expected[name]
        if dtype is StorageDtype.F16:
            same |= found[name] == expected[name].half()
        assert same.all(), name


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_transformers_computes_the_same(row: Row, laboratory: Laboratory, tmp_path: Path) -> None:
    out = compiled(row, _STORAGE[row.dtype], laboratory, tmp_path / "out")
    model, notes = AutoModelForCausalLM.from_pretrained(
        out, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(notes[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    logits = Reference(model.eval()).logits(prompt_ids())
    assert largest(logits, laboratory.expected(row).logits) == 0.0
