"""Codes with scales beside them read as transformers and torch read them, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from vindex.checkpoint import Checkpoint, open_checkpoint
from vindex.errors import Unsupported
from vindex.kinds import StorageDtype

BF16, F32 = StorageDtype.BF16, StorageDtype.F32


def opened(directory: Path, tensors: dict[str, torch.Tensor]) -> Checkpoint:
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return open_checkpoint(directory)


def random_bytes(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def test_mxfp4_is_what_transformers_makes_of_it(tmp_path: Path) -> None:
    blocks = random_bytes(3, 10, 4, 16)
    scales = random_bytes(3, 10, 4)
    scales.view(-1)[:5] = torch.tensor([0, 1, 127, 253, 254])
    blocks[0, 0] = torch.arange(64).view(4, 16) * 4 + 3
    expected = convert_moe_packed_tensors(blocks, scales).transpose(1, 2)  # bf16 [3, 10, 128]
    with opened(tmp_path, {"e.w_blocks": blocks, "e.w_scales": scales}) as checkpoint:
        assert checkpoint.names() == ("e.w_blocks",)
        info = checkpoint.info("e.w_blocks")
        assert (info.shape, info.dtype, info.stored) == ((3, 10, 128), BF16, "MXFP4")
        found = checkpoint.read("e.w_blocks", BF16)
        one = checkpoint.read_rows("e.w_blocks", 1, 2, F32)
    assert np.array_equal(found, expected.contiguous().view(torch.int16).numpy().view(np.uint16))
    assert np.array_equal(one[0], expected[1].float().numpy())


def test_every_code_at_every_scale(tmp_path: Path) -> None:
    blocks = torch.arange(256, dtype=torch.uint8).view(16, 16).expand(256, 16, 16).contiguous()
    scales = torch.arange(256, dtype=torch.uint8).view(256, 1).expand(256, 16).contiguous()
    tensors = {"w_blocks": blocks.unsqueeze(1), "w_scales": scales.unsqueeze(1)}
    expected = convert_moe_packed_tensors(*tensors.values()).transpose(1, 2).contiguous()
    with opened(tmp_path, tensors) as checkpoint:
        found = checkpoint.read("w_blocks", F32)
    assert np.array_equal(found, expected.float().numpy())


@pytest.mark.parametrize("shape", [(256, 128), (130, 200), (1, 1), (128, 385)])
def test_fp8_is_codes_times_the_scale_of_their_tile(tmp_path: Path, shape: tuple[int, int]) -> None:
    codes = random_bytes(*shape).view(torch.float8_e4m3fn)
    tiles = tuple(-(-size // 128) for size in shape)
    scales = torch.rand(tiles, generator=torch.Generator().manual_seed(1)) * 1e-3
    whole = scales.repeat_interleave(128, 0).repeat_interleave(128, 1)[: shape[0], : shape[1]]
    expected = (codes.float() * whole).numpy()
    with opened(tmp_path, {"w": codes, "w_scale_inv": scales}) as checkpoint:
        assert checkpoint.names() == ("w",)
        assert checkpoint.info("w").dtype is F32
        found = checkpoint.read("w", F32)
        middle = shape[0] // 2
        rows = checkpoint.read_rows("w", middle, shape[0], F32)
    assert np.array_equal(found, expected, equal_nan=True)
    assert np.array_equal(rows, expected[middle:], equal_nan=True)


@pytest.mark.parametrize(
    "tensors",
    [
        {"w_blocks": random_bytes(2, 3, 16), "w_scales": random_bytes(2, 4)},
        {"w_blocks": random_bytes(2, 3, 15), "w_scales": random_bytes(2, 3)},
        {"w_blocks": random_bytes(2, 3, 16), "w_scales": torch.zeros(2, 3)},
        {"w_blocks": random_bytes(2, 3, 16)},
        {"w": random_bytes(130, 4).view(torch.float8_e4m3fn), "w_scale_inv": torch.ones(1, 1)},
        {"w": random_bytes(4, 4).view(torch.float8_e4m3fn), "w_scale": torch.ones(1, 1)},
    ],
    ids=["groups", "bytes", "dtype", "alone", "tiles", "name"],
)
def test_parts_that_do_not_fit_are_not_floats(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    with opened(tmp_path, tensors) as checkpoint:
        assert set(checkpoint.names()) == set(tensors)
        with pytest.raises(Unsupported, match="stored as"):
            checkpoint.info(next(iter(tensors)))
