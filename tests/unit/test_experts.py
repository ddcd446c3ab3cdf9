"""Routing rules and mixtures of experts beside the modules of transformers that define them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP, GptOssTopKRouter
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeTopKRouter

from lql.inference.feedforward import FeedForward, dense
from lql.inference.linear import PlainLinear, prepare
from lql.inference.mixture import Mixture, visits
from lql.inference.precision import ComputeDtype
from lql.inference.routing import Router, choose
from lql.inference.rows import Part, Rows
from vindex.checkpoint.cutting import read_tensor
from vindex.families._experts import Stacked, expert_tensors
from vindex.kinds import StorageDtype
from vindex.source import StoredTensor
from vindex.spec import (
    Activation,
    DenseBeside,
    FfnSpec,
    GroupLimit,
    GroupScore,
    MoeSpec,
    NormKind,
    NormSpec,
    Role,
    RoutingSpec,
    Scoring,
    ffn_parts,
)

D, E, TOKENS = 16, 8, 40

_V2 = {
    "n_routed_experts": E,
    "num_experts_per_tok": 3,
    "routed_scaling_factor": 1.3,
    "n_group": 4,
    "topk_group": 2,
    "topk_method": "group_limited_greedy",
}
_V3 = {
    "n_routed_experts": E,
    "num_experts_per_tok": 3,
    "routed_scaling_factor": 2.5,
    "n_group": 4,
    "topk_group": 2,
    "norm_topk_prob": True,
}

RULES: Sequence[tuple[str, type[nn.Module], dict[str, Any], RoutingSpec]] = (
    (
        "mixtral",
        MixtralTopKRouter,
        {"num_local_experts": E, "num_experts_per_tok": 2},
        RoutingSpec(E, 2, normalised=True),
    ),
    (
        "qwen2_moe",
        Qwen2MoeTopKRouter,
        {"num_experts": E, "num_experts_per_tok": 3, "norm_topk_prob": False},
        RoutingSpec(E, 3),
    ),
    (
        "gpt_oss",
        GptOssTopKRouter,
        {"num_local_experts": E, "num_experts_per_tok": 3},
        RoutingSpec(E, 3, Scoring.SOFTMAX_OF_CHOSEN, bias=True),
    ),
    (
        "deepseek_v2",
        DeepseekV2TopkRouter,
        {**_V2, "topk_method": "greedy"},
        RoutingSpec(E, 3, factor=1.3),
    ),
    (
        "deepseek_v2",
        DeepseekV2TopkRouter,
        _V2,
        RoutingSpec(E, 3, factor=1.3, groups=GroupLimit(4, 2, GroupScore.BEST)),
    ),
    (
        "deepseek_v3",
        DeepseekV3TopkRouter,
        _V3,
        RoutingSpec(
            E,
            3,
            Scoring.SIGMOID,
            normalised=True,
            sum_eps=1e-20,
            factor=2.5,
            groups=GroupLimit(4, 2, GroupScore.BEST_TWO),
            correction=True,
        ),
    ),
)


def randomised(module: nn.Module) -> nn.Module:
    """The module with random parameters and buffers."""
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for values in (*module.parameters(), *module.buffers()):
            values.copy_(0.5 * torch.randn(values.shape, generator=random))
    return module


def table(experts: Tensor, weights: Tensor) -> Tensor:
    """The weight of every expert for every token, [T, E]."""
    return torch.zeros(len(experts), E).scatter(1, experts, weights)


@pytest.mark.parametrize(("name", "kind", "keys", "rule"), RULES)
@torch.no_grad()
def test_routing_rules(
    name: str, kind: type[nn.Module], keys: dict[str, Any], rule: RoutingSpec
) -> None:
    config = AutoConfig.for_model(name, hidden_size=D, num_attention_heads=4, **keys)
    router = randomised(kind(config))
    x = torch.randn(TOKENS, D, generator=torch.Generator().manual_seed(4))
    _, weights, experts = router(x)
    values = router.state_dict()
    products = x @ values["weight"].T + values.get("bias", torch.zeros(E))
    found = choose(products, rule, values.get("e_score_correction_bias"))
    assert found[0].shape == found[1].shape == (TOKENS, rule.chosen)
    expected = table(experts, weights)
    assert torch.allclose(table(*found), expected, atol=1e-6)
    for changed in (GroupLimit(4, 3, GroupScore.BEST), None):  # the limit matters
        if rule.groups is not None:
            other = RoutingSpec(E, 3, rule.scoring, rule.normalised, groups=changed)
            assert not torch.allclose(table(*choose(products, other, None)), expected, atol=1e-6)


def test_visits_lists_every_token_of_every_expert_once() -> None:
    experts = torch.tensor([[3, 0], [1, 3], [0, 3]])
    weights = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    found = [
        (expert, tokens.tolist(), values[:, 0].tolist())
        for expert, tokens, values in visits(experts, weights)
    ]
    assert found == [
        (0, [0, 2], pytest.approx([0.2, 0.5])),
        (1, [1], pytest.approx([0.3])),
        (3, [0, 1, 2], pytest.approx([0.1, 0.4, 0.6])),
    ]


class Tensors:
    """Arrays as much of a checkpoint as reading a cut needs."""

    def __init__(self, arrays: dict[str, npt.NDArray[np.float32]]) -> None:
        self._arrays = arrays

    def info(self, _name: str) -> Any:
        return StoredTensor("", StorageDtype.F32, np.empty(0))

    def read_rows(
        self, name: str, start: int, stop: int, _dtype: StorageDtype
    ) -> npt.NDArray[np.float32]:
        return self._arrays[name][start:stop]


WIDTH = 12
GPT_OSS = MoeSpec(
    RoutingSpec(E, 3, Scoring.SOFTMAX_OF_CHOSEN, bias=True),
    FfnSpec(WIDTH, Activation.GELU_SIGMOID, bias=True, limit=0.7, up_offset=1.0),
)
_PAIR = (Role.EXPERT_GATE, Role.EXPERT_UP)
_BIASES = tuple(role.bias for role in _PAIR)
STACKED = (
    Stacked("experts.gate_up_proj", _PAIR, alternating=True, transposed=True),
    Stacked("experts.gate_up_proj_bias", _BIASES, alternating=True),
    Stacked("experts.down_proj", (Role.EXPERT_DOWN,), transposed=True),
    Stacked("experts.down_proj_bias", (Role.EXPERT_DOWN_BIAS,)),
)


@torch.no_grad()
def test_biased_clipped_experts_with_alternating_rows() -> None:
    """gpt_oss: everything about experts that no family of this package has yet."""
    config = AutoConfig.for_model(
        "gpt_oss",
        hidden_size=D,
        intermediate_size=WIDTH,
        num_local_experts=E,
        num_experts_per_tok=3,
        swiglu_limit=0.7,
    )
    module = randomised(GptOssMLP(config))
    x = torch.randn(TOKENS, D, generator=torch.Generator().manual_seed(5))
    expected = module(x[None])[0][0]
    assert torch.allclose(_mixture(GPT_OSS, module)(x, x, dense, None), expected, atol=1e-5)
    unlimited = MoeSpec(GPT_OSS.routing, FfnSpec(WIDTH, Activation.GELU_SIGMOID, bias=True))
    assert not torch.allclose(_mixture(unlimited, module)(x, x, dense, None), expected, atol=1e-2)


def _mixture(moe: MoeSpec, module: nn.Module) -> Mixture:
    arrays = {name: values.numpy() for name, values in module.state_dict().items()}
    checkpoint: Any = Tensors(arrays)
    keys = {role: f"{role.value}.{{layer}}" for role in Role}
    read: dict[tuple[Role, int | None], StoredTensor] = {}
    for tensor in expert_tensors(moe, 0, D, keys, STACKED, {}):
        if tensor.expert is not None:
            (way,) = tensor.others
            assert arrays[way.key].shape == way.shape
            cut = type(tensor)(tensor.role, 0, "", tensor.shape, tensor.file, tensor.level, cut=way)
            array = read_tensor(checkpoint, cut, way.key, StorageDtype.F32)
            assert array.shape == tensor.shape
            read[tensor.role, tensor.expert] = StoredTensor("", StorageDtype.F32, array)
    with ThreadPoolExecutor(1) as pool:
        experts = []
        for part in ffn_parts(moe):
            inner = Rows([Part(read[role, part.expert]) for role in _PAIR])
            biases = [read[role, part.expert].float32() for role in _BIASES]
            down = Rows([Part(read[Role.EXPERT_DOWN, part.expert])])
            outer_bias = read[Role.EXPERT_DOWN_BIAS, part.expert].float32()
            experts.append(
                FeedForward(
                    0,
                    part,
                    prepare(inner, _tensor(np.concatenate(biases)), ComputeDtype.F32, pool)(),
                    prepare(down, _tensor(outer_bias), ComputeDtype.F32, pool)(),
                )
            )
    products = PlainLinear(_tensor(arrays["router.weight"]), _tensor(arrays["router.bias"]))
    router = Router(moe.routing, products, None, None, None)
    return Mixture(router, experts, None, None, None)


def _tensor(values: npt.NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.array(values))


def test_parts_number_features_in_larqls_order() -> None:
    expert = FfnSpec(5, Activation.SILU)
    shared = MoeSpec(RoutingSpec(3, 2), expert, shared=FfnSpec(7, Activation.SILU))
    assert [(part.expert, part.first) for part in ffn_parts(shared)] == [
        (0, 0),
        (1, 5),
        (2, 10),
        (None, 15),
    ]
    assert shared.width == 22
    beside = MoeSpec(
        RoutingSpec(2, 1),
        expert,
        beside=DenseBeside(FfnSpec(9, Activation.SILU), NormSpec(NormKind.RMS, 1e-6)),
    )
    assert [(part.expert, part.first) for part in ffn_parts(beside)] == [(None, 0), (0, 9), (1, 14)]
