"""Experts in GGUF files: those of old files, which have each apart, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from torch import Tensor

from tests.parity import gguf_converter
from tests.parity.checkpoints import Row, Spelling
from tests.parity.gguf_converter import convert
from tests.parity.gguf_rows import GGUF_ROWS, like
from tests.parity.laboratory import LOGITS_WITHIN, Laboratory, largest, loaded, prompt_ids
from vindex.checkpoint import CheckpointSource, open_checkpoint
from vindex.errors import LedgerRefusal, Unsupported
from vindex.extract import extract
from vindex.kinds import Quant, StorageDtype
from vindex.quant import BlockFormat, encode_rows
from vindex.source import QuantTensor
from vindex.spec import Role
from vindex.store import open_vindex

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = {row.name: row for row in GGUF_ROWS}


def original(row: Row, laboratory: Laboratory) -> Path:
    return laboratory.written(row).directories[Spelling.V5]


def apart(tensors: dict[str, Tensor]) -> None:
    """As llama.cpp wrote experts before April 2024."""
    for name in [name for name in tensors if "_exps." in name]:
        for expert, values in enumerate(tensors.pop(name)):
            tensors[name.replace("_exps.", f".{expert}.")] = values


def test_experts_apart_are_the_same_model(laboratory: Laboratory, tmp_path: Path) -> None:
    row = ROWS["mixtral"]
    path = convert(original(row, laboratory), tmp_path / "m.gguf", edit=apart)
    with open_checkpoint(path) as checkpoint, CheckpointSource(checkpoint) as source:
        assert "model.layers.3.block_sparse_moe.experts.4.w2.weight" in checkpoint.names()
        logits = loaded(source).logits(prompt_ids())
    assert largest(logits, laboratory.expected(row).logits) <= LOGITS_WITHIN


def test_a_vindex_of_stacked_experts_holds_each(laboratory: Laboratory, tmp_path: Path) -> None:
    row = ROWS["qwen2-moe-all-sparse"]
    path = convert(original(row, laboratory), tmp_path / "m.gguf")
    with open_checkpoint(path) as checkpoint:
        extract(checkpoint, tmp_path / "v", dtype=StorageDtype.F32)
    with (
        open_vindex(tmp_path / "v") as vindex,
        open_checkpoint(original(row, laboratory)) as checkpoint,
    ):
        expected = CheckpointSource(checkpoint)
        for tensor in vindex.spec.tensors:
            if tensor.expert is not None:
                own = vindex.tensor(*tensor.identity)
                assert own.key == tensor.key
                assert np.array_equal(own.array, expected.tensor(*tensor.identity).array)


def test_blocks_of_stacked_experts_are_copied(
    laboratory: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not encoded again: each expert of a q4k vindex decodes to the file's own values."""
    row = like("qwen2-moe", "wide", mlp_only_layers=[], hidden_size=256, num_hidden_layers=2)
    plainly = gguf_converter._add

    def add(writer: gguf.GGUFWriter, name: str, values: Tensor, kind: gguf_converter.Kind) -> None:
        if "gate_exps" not in name and "up_exps" not in name:
            plainly(writer, name, values, kind)
            return
        flat = encode_rows(values.reshape(-1, 256).float().numpy(), BlockFormat.Q4_K)
        blocks = flat.reshape(*values.shape[:2], -1)
        writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType.Q4_K)

    monkeypatch.setattr(gguf_converter, "_add", add)
    path = convert(original(row, laboratory), tmp_path / "m.gguf")
    with open_checkpoint(path) as checkpoint:
        extract(checkpoint, tmp_path / "v", quant=Quant.Q4K)
        source = CheckpointSource(checkpoint)
        with open_vindex(tmp_path / "v") as vindex:
            for tensor in vindex.spec.tensors:
                if tensor.role in (Role.EXPERT_GATE, Role.EXPERT_UP):
                    own = vindex.matrix(*tensor.identity)
                    assert isinstance(own, QuantTensor)
                    expected = source.tensor(*tensor.identity).float32()
                    assert np.array_equal(own.rows(0, tensor.shape[0]), expected), tensor.key


def test_a_lost_stack_is_named(laboratory: Laboratory, tmp_path: Path) -> None:
    row = ROWS["qwen3-moe-all-sparse"]

    def lose(tensors: dict[str, Tensor]) -> None:
        del tensors["blk.2.ffn_up_exps.weight"]

    path = convert(original(row, laboratory), tmp_path / "m.gguf", edit=lose)
    with open_checkpoint(path) as checkpoint, pytest.raises(LedgerRefusal) as caught:
        CheckpointSource(checkpoint)
    assert caught.value.details == tuple(
        f"missing: layers.2.mlp.experts.{expert}.up_proj.weight" for expert in range(6)
    )


@pytest.mark.parametrize(
    ("name", "metadata", "text"),
    [
        ("qwen3-moe-all-sparse", {"expert_weights_norm": False}, "expert_weights_norm is false"),
        ("qwen2-moe-all-sparse", {"expert_weights_norm": True}, "expert_weights_norm is true"),
        ("mixtral", {"expert_gating_func": 2}, "expert_gating_func is 2"),
        ("qwen3-moe-all-sparse", {"expert_weights_scale": 2.5}, "expert_weights_scale is 2.5"),
        ("mixtral", {"expert_group_count": 4}, "expert_group_count"),
    ],
)
def test_other_rules_of_routing_are_refused(
    name: str, metadata: dict[str, Any], text: str, laboratory: Laboratory, tmp_path: Path
) -> None:
    path = convert(original(ROWS[name], laboratory), tmp_path / "m.gguf", metadata=metadata)
    with pytest.raises(Unsupported, match=text):
        open_checkpoint(path)
