"""GGUF files of the families whose converter changes nothing but names and norms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.checkpoint_files import LLAMA, random_arrays, write_gguf
from vindex.checkpoint import balance, open_checkpoint
from vindex.families import spec_from_config
from vindex.kinds import StorageDtype

CAPS = {"attn_logit_softcapping": 40.0, "final_logit_softcapping": 20.0}


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "qwen2"},
        {"model_type": "qwen3", "tie_word_embeddings": True},
        {"model_type": "gemma", "tie_word_embeddings": True},
        {
            "model_type": "gemma2",
            "tie_word_embeddings": True,
            "sliding_window": 8,
            "query_pre_attn_scalar": 16,
            **CAPS,
        },
        {
            "model_type": "gemma2",
            "tie_word_embeddings": True,
            "sliding_window": 8,
            "num_hidden_layers": 46,
            "query_pre_attn_scalar": 8,
            **CAPS,
        },
    ],
    ids=lambda changes: f"{changes['model_type']}-{changes.get('num_hidden_layers', 2)}",
)
def test_the_checkpoint_comes_back(changes: dict[str, Any], tmp_path: Path) -> None:
    config = {**LLAMA, **changes}
    arrays = random_arrays(config)
    path = write_gguf(tmp_path / "m.gguf", config, arrays)
    offset = str(config["model_type"]).startswith("gemma")
    with open_checkpoint(path) as checkpoint:
        spec = spec_from_config(checkpoint.config)
        assert spec == spec_from_config(config)
        balance(checkpoint, spec)
        assert sorted(checkpoint.names()) == sorted(arrays)
        for name, values in arrays.items():
            if offset and "norm" in name:  # stored as 1 + w, in float32
                values = (values + np.float32(1)) - np.float32(1)
            found = checkpoint.read(name, StorageDtype.F32)
            np.testing.assert_array_equal(found, values, err_msg=name)
