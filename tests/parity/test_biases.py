"""Biases are ``vector`` entries of the manifest, float32, under their normalised names.

The reference never writes them, but it reads them and is right on a vindex that has them
(vindex-format.md, section 23); so the entries must be just what it takes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.parity.bites import DISTINCT, FORM, spec
from tests.parity.checkpoints import Row
from tests.parity.laboratory import Laboratory
from vindex import files
from vindex.checkpoint import CheckpointSource, open_checkpoint
from vindex.extract import extract
from vindex.kinds import StorageDtype
from vindex.spec import Role, TensorSpec

pytestmark = pytest.mark.usefixtures("one_thread")

BIASED = (
    "llama-biases", "qwen2", "qwen3-sliding", "gemma3-softcap", "glm4", "starcoder2", "gpt-neox",
    "phi", "phi-qk-norm", "gpt2", "opt", "opt-350m", "deepseek-v2-dense-bias", "deepseek-v3",
    "gpt-oss",
)  # fmt: skip
# Biases, and what else is added: the column of a softmax, the experts' head start.
NAMED = re.compile(r"bias$|\.sinks$")
ROWS = tuple(row for row in DISTINCT if row.name in BIASED)


def biases(laboratory: Laboratory, row: Row) -> list[TensorSpec]:
    return [tensor for tensor in spec(laboratory, row).tensors if tensor.role.is_bias]


def test_every_kind_of_bias_is_looked_at(laboratory: Laboratory) -> None:
    seen = {tensor.role for row in ROWS for tensor in biases(laboratory, row)}
    assert seen == {role for role in Role if role.is_bias}


@pytest.mark.parametrize("dtype", [StorageDtype.F32, StorageDtype.F16], ids=lambda each: each.value)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_biases_are_vectors(
    row: Row, dtype: StorageDtype, laboratory: Laboratory, tmp_path: Path
) -> None:
    out = tmp_path / "m.vindex"
    with open_checkpoint(laboratory.written(row).directories[FORM.spelling]) as checkpoint:
        extract(checkpoint, out, dtype=dtype)
        source = CheckpointSource(checkpoint)
        entries = {each["key"]: each for each in json.loads((out / files.MANIFEST).read_text())}
        data = (out / "norms.bin").read_bytes()
        wanted = biases(laboratory, row)
        assert wanted
        for tensor in wanted:
            entry = entries[tensor.key]
            values = source.tensor(*tensor.identity).float32()
            assert NAMED.search(tensor.key)
            assert not tensor.key.startswith(("model.", "transformer.", "gpt_neox."))
            assert entry == {
                "key": tensor.key,
                "kind": "vector",
                "shape": [values.size],
                "offset": entry["offset"],
                "length": 4 * values.size,  # float32 in every vindex
                "file": "norms.bin",
            }
            assert entry["offset"] % 4 == 0
            stored = np.frombuffer(data, "<f4", values.size, entry["offset"])
            np.testing.assert_array_equal(stored, values)
        vectors = {key for key in entries if NAMED.search(key)}
        assert vectors == {tensor.key for tensor in wanted}
