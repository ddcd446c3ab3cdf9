"""COMPILE INTO MODEL … FORMAT gguf: the file is the one that llama.cpp's converter makes."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from tests.parity.checkpoints import Row, Spelling
from tests.parity.gguf_converter import convert
from tests.parity.gguf_rows import GGUF_ROWS, like
from tests.parity.laboratory import LOGITS_WITHIN, Form, Laboratory, largest, loaded, prompt_ids
from tests.parity.rows import ROWS
from vindex.checkpoint import CheckpointSource, open_checkpoint
from vindex.errors import Unsupported
from vindex.export.gguf import GgufQuant, export_gguf
from vindex.kinds import StorageDtype

pytestmark = pytest.mark.usefixtures("one_thread")

_STORAGE = {torch.float32: StorageDtype.F32, torch.bfloat16: StorageDtype.BF16}
#: What the converter writes and no reader needs, and what says only who wrote the file.
_NAMES = {"general.name", "general.file_type", "general.quantization_version"}


def exported(row: Row, laboratory: Laboratory, out: Path, quant: GgufQuant | None = None) -> Path:
    with laboratory.source(row, Form(Spelling.V5, _STORAGE[row.dtype])) as vindex:
        return export_gguf(vindex, out, quant=quant).path


def values_of(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file as the ``gguf`` package decodes them."""
    return {
        tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1])
        for tensor in gguf.GGUFReader(path).tensors
    }


@pytest.mark.parametrize("row", GGUF_ROWS, ids=str)
def test_tensors_are_those_of_llama_cpps_converter(
    row: Row, laboratory: Laboratory, tmp_path: Path
) -> None:
    """The converter of the tests is written from its rules, not from the reader's tables."""
    directory = laboratory.written(row).directories[Spelling.V5]
    expected = values_of(convert(directory, tmp_path / "theirs.gguf"))
    found = values_of(exported(row, laboratory, tmp_path / "ours.gguf", GgufQuant.F32))
    if row.stale_keys:  # keys of layers that read others', which no vindex holds
        expected = {name: values for name, values in expected.items() if name in found}
    head = expected.get("output.weight")
    if head is not None and np.array_equal(
        head, expected["token_embd.weight"]
    ):  # a copy, which no vindex holds
        del expected["output.weight"]
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize("row", GGUF_ROWS, ids=str)
def test_it_answers_as_the_original(row: Row, laboratory: Laboratory, tmp_path: Path) -> None:
    with open_checkpoint(exported(row, laboratory, tmp_path / "m.gguf")) as found:
        logits = loaded(CheckpointSource(found)).logits(prompt_ids())
    assert largest(logits, laboratory.expected(row).logits) <= LOGITS_WITHIN


@pytest.mark.parametrize("row", [row for row in ROWS if row not in GGUF_ROWS], ids=str)
def test_what_gguf_cannot_say_is_refused(row: Row, laboratory: Laboratory, tmp_path: Path) -> None:
    """Or it is said: then what is read back answers the same."""
    out = tmp_path / "m.gguf"
    refusal = None
    try:
        exported(row, laboratory, out)
    except Unsupported as error:
        refusal = error
    if refusal is not None:
        assert "safetensors" in (refusal.hint or "")
        assert list(tmp_path.iterdir()) == []
        return
    with open_checkpoint(out) as found:
        logits = loaded(CheckpointSource(found)).logits(prompt_ids())
    assert largest(logits, laboratory.expected(row).logits) <= LOGITS_WITHIN


WIDE = like("llama", "blocks", hidden_size=256, intermediate_size=512, num_hidden_layers=2)


@pytest.mark.parametrize("quant", GgufQuant, ids=lambda quant: quant.name)
def test_blocks_are_near_what_they_stand_for(
    quant: GgufQuant, laboratory: Laboratory, tmp_path: Path
) -> None:
    exact = values_of(exported(WIDE, laboratory, tmp_path / "exact.gguf", GgufQuant.F32))
    path = exported(WIDE, laboratory, tmp_path / "m.gguf", quant)
    found = values_of(path)
    stored = {each.name: each.tensor_type.name for each in gguf.GGUFReader(path).tensors}
    assert stored["blk.0.attn_q.weight"] == quant.name
    assert stored["blk.0.ffn_down.weight"] == ("Q6_K" if quant is GgufQuant.Q4_K else quant.name)
    assert stored["blk.0.attn_norm.weight"] == "F32"
    allowed = {"F32": 0.0, "F16": 5e-4, "BF16": 4e-3, "Q8_0": 6e-3, "Q6_K": 0.02, "Q4_K": 0.09}
    for name, values in exact.items():
        error = np.linalg.norm(found[name] - values) / np.linalg.norm(values)
        assert error <= allowed[stored[name]], name


def test_metadata_says_who_it_is(laboratory: Laboratory, tmp_path: Path) -> None:
    row = GGUF_ROWS[0]
    directory = laboratory.written(row).directories[Spelling.V5]
    ours, theirs = (
        gguf.GGUFReader(path).fields
        for path in (
            exported(row, laboratory, tmp_path / "a.gguf"),
            convert(directory, tmp_path / "b.gguf"),
        )
    )
    assert ours.keys() >= _NAMES
    for key, field in theirs.items():
        if key in ours and not key.startswith("GGUF."):
            assert ours[key].contents() == field.contents(), key
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    assert ours["tokenizer.ggml.tokens"].contents()[:384] == sorted(
        tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].__getitem__
    )
