"""GGUF files made by llama.cpp's rules give back the checkpoints, and what transformers answers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.parity.checkpoints import PLAIN_ROPE, Row, Spelling
from tests.parity.gguf_converter import CONVERSIONS, convert
from tests.parity.gguf_rows import GGUF_ROWS, like
from tests.parity.laboratory import LOGITS_WITHIN, Laboratory, largest, loaded, prompt_ids
from vindex.checkpoint import CheckpointSource, open_checkpoint
from vindex.extract import extract
from vindex.families import families, spec_from_config
from vindex.kinds import StorageDtype
from vindex.spec import ModelSpec
from vindex.store import open_vindex

pytestmark = pytest.mark.usefixtures("one_thread")

Kind = gguf.GGMLQuantizationType
TEXT_ONLY = tuple(row for row in GGUF_ROWS if not row.multimodal)  # the others have other prefixes
STALE = re.compile(r"self_attn\.(k_proj|v_proj|k_norm)\.")


def converted(row: Row, laboratory: Laboratory, directory: Path, kind: Kind = Kind.F32) -> Path:
    original = laboratory.written(row).directories[Spelling.V5]
    return convert(original, directory / f"{row.name}-{kind.name}.gguf", kind)


def without_names(spec: ModelSpec) -> ModelSpec:
    """What is computed, less what a GGUF file does not distinguish: mistral is a llama there."""
    return dataclasses.replace(spec, family="", model_type="")


@pytest.mark.parametrize("row", GGUF_ROWS, ids=str)
def test_the_checkpoint_comes_back(row: Row, laboratory: Laboratory, tmp_path: Path) -> None:
    kind = Kind.BF16 if row.dtype is torch.bfloat16 else Kind.F32
    directory = laboratory.written(row).directories[Spelling.V5]
    with (
        open_checkpoint(converted(row, laboratory, tmp_path, kind)) as found,
        open_checkpoint(directory) as original,
    ):
        spec = spec_from_config(original.config)
        assert without_names(spec_from_config(found.config)) == without_names(spec)
        with CheckpointSource(found) as source, CheckpointSource(original) as expected:
            for tensor in spec.tensors:
                if not expected.has(*tensor.identity):
                    assert tensor.optional
                    continue
                values = expected.tensor(*tensor.identity).float32()
                if row.offset_norms and "norm" in tensor.role.value:  # stored as 1 + w in float32
                    values = (values + np.float32(1)) - np.float32(1)
                got = source.tensor(*tensor.identity)
                np.testing.assert_array_equal(got.float32(), values, err_msg=tensor.key)
            logits = loaded(source).logits(prompt_ids())
    difference = largest(logits, laboratory.expected(row).logits)
    print(f"{row}: logits {difference:.1e}")
    assert difference <= LOGITS_WITHIN


@pytest.mark.parametrize("row", GGUF_ROWS, ids=str)
def test_a_vindex_of_it_answers_the_same(row: Row, laboratory: Laboratory, tmp_path: Path) -> None:
    """Extraction reads by blocks of rows, which lie elsewhere in the file."""
    out = tmp_path / "m.vindex"
    with open_checkpoint(converted(row, laboratory, tmp_path)) as found:
        extract(found, out, dtype=StorageDtype.F32)
    with open_vindex(out) as vindex:
        logits = loaded(vindex).logits(prompt_ids())
    assert largest(logits, laboratory.expected(row).logits) <= LOGITS_WITHIN


@pytest.mark.parametrize("row", TEXT_ONLY, ids=str)
def test_names_and_rows_are_the_originals(row: Row, laboratory: Laboratory, tmp_path: Path) -> None:
    """Fused, turned and reordered matrices are given as the original file has them.

    Matrices of experts are not: a GGUF file has those of a layer as one tensor.
    """
    file = laboratory.written(row).directories[Spelling.V5] / "model.safetensors"
    original = {
        name: values
        for name, values in load_file(file).items()
        if not any(part in name for part in ("vision", "language_model.layers", ".experts."))
    }
    with open_checkpoint(converted(row, laboratory, tmp_path)) as found:
        unnamed = set(original) - set(found.names())
        assert all(STALE.search(name) for name in unnamed) if row.stale_keys else not unnamed
        for name in set(original) - unnamed:
            values = original[name].float().numpy()
            if row.offset_norms and "norm" in name:
                values = (values + np.float32(1)) - np.float32(1)
            assert found.info(name).shape == values.shape
            np.testing.assert_array_equal(found.read(name, StorageDtype.F32), values)
            middle = slice(1, max(1, len(values) // 2))
            rows = found.read_rows(name, middle.start, middle.stop, StorageDtype.F32)
            np.testing.assert_array_equal(rows, values[middle])


def test_every_row_of_a_readable_family_is_there() -> None:
    """A family that reads GGUF files has a row here, under every name of its models."""
    readable = {
        model_type for family in families() if family.gguf for model_type in family.model_types
    }
    texts = {_text(row.config)["model_type"] for row in GGUF_ROWS}
    whole = {"gemma3", "gemma4", "gemma4_unified"}  # of which GGUF holds the text part
    assert readable - whole <= texts
    assert set(CONVERSIONS) == texts


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    text: Mapping[str, Any] = config.get("text_config", config)
    return text


WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
# Matrices that are reordered, cut, turned over, or stay as they are.
QUANTISED = (
    like("llama", "wide", **WIDE),
    like("gpt-neox", "wide", **WIDE),
    like("phi3", "wide", **WIDE, rope_parameters=PLAIN_ROPE),
    like("gpt2", "wide", n_embd=256, n_inner=256, n_layer=1),
)
KINDS = [kind for kind in Kind if kind is Kind.F16 or hasattr(gguf.quants, kind.name)]


def test_all_kinds_of_released_files_are_tried() -> None:
    names = "F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K MXFP4 IQ4_NL IQ4_XS TQ1_0"
    assert set(names.split()) <= {kind.name for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("row", QUANTISED, ids=str)
def test_blocks_decode_as_gguf_decodes_them(
    row: Row, kind: Kind, laboratory: Laboratory, tmp_path: Path
) -> None:
    """What is read, converted once more, is what the ``gguf`` package decodes from the file."""
    path = converted(row, laboratory, tmp_path, kind)
    conversion = CONVERSIONS[row.config["model_type"]]
    names = gguf.get_tensor_name_map(conversion.arch, 1)
    compared = 0
    with open_checkpoint(path) as found, np.errstate(all="ignore"):
        decoded = {
            tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type).reshape(
                tensor.shape[::-1]
            )
            for tensor in gguf.GGUFReader(path).tensors
        }
        for name in found.names():
            stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
            assert stored is not None
            read = torch.from_numpy(found.read(name, StorageDtype.F32).copy())
            again = conversion.change(name, read, row.config)
            assert again is not None
            np.testing.assert_array_equal(again.numpy(), decoded[stored], err_msg=name)
            compared += found.info(name).stored == kind.name
    assert compared >= 5
