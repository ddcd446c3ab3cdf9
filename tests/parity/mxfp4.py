"""Experts of gpt_oss as released: random codes and scales, and the values they stand for."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

CONFIG: Mapping[str, Any] = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ],
}
_SCALES = (121, 124)  # 2 ** -6 to 2 ** -4: values of the size of other weights


def holds(name: str) -> bool:
    """Whether released files keep a tensor of this name as codes."""
    return name.endswith(("experts.gate_up_proj", "experts.down_proj"))


def values(name: str, shape: Sequence[int]) -> Tensor:
    """What the codes of a tensor stand for, [E, in, out] as transformers has it."""
    made: Tensor = convert_moe_packed_tensors(*_codes(name, shape))
    return made.float()


def encoded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors with codes and scales in the place of what they stand for."""
    result = dict(tensors)
    for name in filter(holds, tensors):
        blocks, scales = _codes(name, tensors[name].shape)
        del result[name]
        result |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    return result


def _codes(name: str, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    experts, inputs, outputs = shape
    random = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    groups = experts, outputs, inputs // 32
    blocks = torch.randint(0, 256, (*groups, 16), generator=random, dtype=torch.uint8)
    scales = torch.randint(*_SCALES, groups, generator=random, dtype=torch.uint8)
    return blocks, scales
