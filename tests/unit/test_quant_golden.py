"""What the real larql wrote: its q4k vindex of llama_h96 against the checkpoint it came from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from vindex.quant import BlockFormat, QuantMatrix

# Relative root mean square error of larql's encoder on normal weights (vindex-format.md, 12).
LARQL_ERROR = {BlockFormat.Q4_K: 0.078, BlockFormat.Q6_K: 0.019}
MANIFESTS = {
    "attn_weights_kquant.bin": "attn_weights_kquant_manifest.json",
    "interleaved_kquant.bin": "interleaved_kquant_manifest.json",
}


@pytest.fixture(scope="module")
def weights(data_dir: Path) -> dict[str, np.ndarray]:
    """The checkpoint's matrices, float32, under the manifest's names."""
    tensors = load_file(data_dir / "golden/checkpoints/llama_h96/model.safetensors")
    return {
        name.removeprefix("model."): values.astype(np.float32) for name, values in tensors.items()
    }


@pytest.fixture(scope="module")
def golden(data_dir: Path) -> Path:
    return data_dir / "golden/vindexes/llama_h96.q4k"


def relative_rms(source: np.ndarray, decoded: np.ndarray) -> float:
    return float(np.sqrt(np.square(source - decoded).sum() / np.square(source).sum()))


@pytest.mark.parametrize(("data_name", "manifest_name"), MANIFESTS.items())
def test_every_matrix_decodes_to_the_checkpoint_within_larqls_rounding(
    golden: Path, weights: dict[str, np.ndarray], data_name: str, manifest_name: str
) -> None:
    data = np.memmap(golden / data_name, dtype=np.uint8, mode="r")
    entries = json.loads((golden / manifest_name).read_text())
    errors = {}
    for entry in entries:
        block_format = BlockFormat(entry["format"])
        source = weights[entry["key"]]
        stored = data[entry["offset"] : entry["offset"] + entry["length"]]
        matrix = QuantMatrix(block_format, *source.shape, stored)
        assert [matrix.rows, matrix.padded_cols] == entry["shape"]
        error = relative_rms(source, matrix.decode_rows(0, matrix.rows))
        assert error == pytest.approx(LARQL_ERROR[block_format], rel=0.06), entry["key"]
        errors[entry["key"]] = error
    assert len(errors) == len(entries)
    assert sum(entry["length"] for entry in entries) == data.size


def test_the_head_decodes_to_the_checkpoint(golden: Path, weights: dict[str, np.ndarray]) -> None:
    source = weights["lm_head.weight"]
    data = np.memmap(golden / "lm_head_kquant.bin", dtype=np.uint8, mode="r")

    decoded = QuantMatrix(BlockFormat.Q4_K, *source.shape, data).decode_rows(0, len(source))

    assert relative_rms(source, decoded) == pytest.approx(0.078, rel=0.06)


def test_larqls_q6_k_is_noise_to_a_ggml_decoder(
    golden: Path, weights: dict[str, np.ndarray]
) -> None:
    entries = json.loads((golden / "interleaved_kquant_manifest.json").read_text())
    entry = next(entry for entry in entries if entry["format"] == "Q6_K")
    source = weights[entry["key"]]
    data = np.memmap(golden / "interleaved_kquant.bin", dtype=np.uint8, mode="r")
    stored = data[entry["offset"] : entry["offset"] + entry["length"]]

    misread = QuantMatrix(BlockFormat.GGML_Q6_K, *source.shape, stored)

    assert relative_rms(source, misread.decode_rows(0, len(source))) > 1


@pytest.mark.parametrize("data_name", MANIFESTS)
def test_encoding_larqls_values_again_changes_little(golden: Path, data_name: str) -> None:
    data = np.memmap(golden / data_name, dtype=np.uint8, mode="r")
    for entry in json.loads((golden / MANIFESTS[data_name]).read_text()):
        block_format = BlockFormat(entry["format"])
        values = block_format.decode(data[entry["offset"] : entry["offset"] + entry["length"]])
        again = block_format.decode(block_format.encode(values))
        assert relative_rms(values, again) < 0.1 * LARQL_ERROR[block_format]
