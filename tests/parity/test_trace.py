"""TRACE and interventions: the sum closes on every family, and hooks in transformers agree."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lql.inference.decoder import Decoder
from lql.inference.errors import TraceOpen
from lql.inference.interventions import (
    AblateFeature,
    AblateHead,
    AblateLayer,
    Intervention,
    Patch,
    Steer,
)
from lql.inference.model import LoadedModel
from lql.inference.taps import Hooks, Tap
from lql.inference.traces import Part, Trace
from tests.parity.checkpoints import Row, Spelling
from tests.parity.laboratory import LOGITS_WITHIN, Form, Laboratory, largest, loaded, prompt_ids
from tests.parity.reference import Floats
from tests.parity.rows import ROWS
from vindex.kinds import StorageDtype

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPT = "The quick brown fox jumps over the lazy dog"
OTHER = "Five wizards box"
EXACT = Form(Spelling.HUB, StorageDtype.F32)
CLOSES_WITHIN = 1e-4

rows = pytest.mark.parametrize("row", ROWS, ids=str)


@contextmanager
def model_of(row: Row, laboratory: Laboratory) -> Iterator[LoadedModel]:
    with laboratory.source(row, EXACT) as source:
        yield loaded(source)


# --------------------------------------------------------------------------- the sum


@rows
def test_the_contributions_add_up(row: Row, laboratory: Laboratory) -> None:
    """To the residual stream, which is transformers', to the logit, and by head and feature."""
    with model_of(row, laboratory) as model:
        trace = model.trace(PROMPT, target="dog", positions=None, heads=True, features=10**6)
    ids = trace.encoded.ids
    expected = laboratory.expected(row).reference.layer_outputs(ids)
    print(
        f"{row}: worst gap {trace.stream.gaps().max():.1e}, {[p.value for p in trace.stream.parts]}"
    )

    assert trace.stream.gaps().max() <= CLOSES_WITHIN
    assert _whole_gap(trace) <= CLOSES_WITHIN
    assert largest(trace.stream.residual[1:], expected) <= 1e-3
    assert _direct_gap(trace) <= CLOSES_WITHIN
    assert _final_lens_gap(trace, laboratory.expected(row).reference.logits(ids)) <= LOGITS_WITHIN


def _whole_gap(trace: Trace) -> float:
    """How far the embedding and all parts of all layers are from the end of the stream."""
    stream = trace.stream
    total = stream.residual[0].astype(np.float64)
    for values in stream.parts.values():
        total = total + values.astype(np.float64).sum(axis=0)
    end = stream.residual[-1]
    return float((np.linalg.norm(total - end, axis=-1) / np.linalg.norm(end, axis=-1)).max())


def _direct_gap(trace: Trace) -> float:
    direct = trace.direct
    assert direct is not None
    terms = [direct.embedding, direct.constant, *(v for p in direct.parts.values() for v in p)]
    return abs(sum(terms) - direct.logit) / sum(map(abs, terms))


def _final_lens_gap(trace: Trace, logits: Floats) -> float:
    """The lens after the last layer is the model's own answer."""
    last = [each for each in trace.lens if each.layer == trace.stream.num_layers - 1]
    assert [each.best.token_id for each in last] == logits.argmax(axis=-1).tolist()
    target = trace.target_ids[0]
    return max(
        abs(each.target.logit - logits[each.position, target]) for each in last if each.target
    )


@rows
def test_heads_and_features_add_up(row: Row, laboratory: Laboratory) -> None:
    """To what attention and the FFN add to the logit, biases aside."""
    with model_of(row, laboratory) as model:
        trace = model.trace(PROMPT, target="dog", heads=True, features=10**6)
        biased = _biases(model)
    direct = trace.direct
    assert direct is not None
    layers = trace.stream.num_layers
    by_head, by_feature = np.zeros(layers), np.zeros(layers)
    for head in trace.heads:
        by_head[head.layer] += head.logit or 0.0
    for feature in trace.features:
        by_feature[feature.layer] += feature.logit or 0.0
    size = np.abs(direct.logit) + 1.0
    if not biased[0]:
        assert np.abs(by_head - direct.parts[Part.ATTENTION]).max() <= CLOSES_WITHIN * size
    if not biased[1]:
        assert np.abs(by_feature - direct.parts[Part.FFN]).max() <= CLOSES_WITHIN * size


def _biases(model: LoadedModel) -> tuple[bool, bool]:
    """Whether attention's output and the FFN's have a bias, which no head and no feature adds."""
    roles = {tensor.role.value for tensor in model.spec.tensors}
    downs = {"down_bias", "expert_down_bias"}
    return "o_bias" in roles, bool(roles & downs)


SPOILT = (Tap.ATTENTION, Tap.FFN, Tap.PER_LAYER, Tap.SCALAR, Tap.ATTENTION_NORM, Tap.FFN_NORM)


@pytest.mark.parametrize("tap", SPOILT, ids=lambda tap: tap.value)
def test_a_wrong_part_is_not_passed_off_as_a_sum(
    tap: Tap, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part, on a model that has it, told wrong by one in a thousand."""
    see = Hooks.see

    def spoilt(hooks: Hooks, at: Tap, layer: int, values: torch.Tensor) -> None:
        see(hooks, at, layer, values * 1.001 if at is tap and layer == 1 else values)

    monkeypatch.setattr(Hooks, "see", spoilt)
    row = next(row for row in ROWS if tap in _taps(row, laboratory))
    with model_of(row, laboratory) as model, pytest.raises(TraceOpen, match="layer 1"):
        model.trace(PROMPT, positions=None)


def _taps(row: Row, laboratory: Laboratory) -> set[Tap]:
    seen: set[Tap] = set()
    with model_of(row, laboratory) as model:
        decoder: Decoder = model._decoder
        parts = [decoder.layer(1).per_layer, decoder.layer(1).scalar]
        norms = [decoder.layer(1).attn_sum_norm, decoder.layer(1).ffn_sum_norm]
    kinds = (Tap.PER_LAYER, Tap.SCALAR, Tap.ATTENTION_NORM, Tap.FFN_NORM)
    seen |= {kind for kind, part in zip(kinds, [*parts, *norms], strict=True) if part is not None}
    return seen | {Tap.ATTENTION, Tap.FFN}


# --------------------------------------------------------------------------- interventions

_LAYER = re.compile(r"(^|\.)(layers|h)\.(\d+)$")
_OUTPUTS = re.compile(r"(attn|attention)\.(o_proj|out_proj|c_proj|dense|out_proj)$")
_DOWNS = re.compile(r"(^|\.)(down_proj|fc2|c_proj|dense_4h_to_h|fc_out)$")

Hook = Callable[..., Any]


def _layer_of(model: nn.Module, index: int) -> nn.Module:
    return next(
        module
        for name, module in model.named_modules()
        if (found := _LAYER.search(name))
        and int(found[3]) == index
        and "vision" not in name
        and "audio" not in name
    )


def _inside(layer: nn.Module, pattern: re.Pattern[str], *, without: str = " ") -> nn.Module:
    (found,) = (
        module
        for name, module in layer.named_modules()
        if pattern.search(name) and without not in name
    )
    return found


def _as(output: Any, hidden: torch.Tensor) -> Any:
    return hidden if isinstance(output, torch.Tensor) else (hidden, *output[1:])


def _hidden(output: Any) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]


def ablate_head(model: nn.Module, layer: int, head: int, heads: int) -> Any:
    def before(_module: nn.Module, args: Any) -> Any:
        values = args[0].clone()
        values.view(*values.shape[:-1], heads, -1)[..., head, :] = 0
        return (values, *args[1:])

    return _inside(_layer_of(model, layer), _OUTPUTS).register_forward_pre_hook(before)


def ablate_feature(model: nn.Module, layer: int, feature: int) -> Any:
    def before(_module: nn.Module, args: Any) -> Any:
        values = args[0].clone()
        values[..., feature] = 0
        return (values, *args[1:])

    module = _inside(_layer_of(model, layer), _DOWNS, without="att")
    return module.register_forward_pre_hook(before)


def ablate_layer(model: nn.Module, layer: int) -> Any:
    def after(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        return _as(output, args[0] if args else kwargs["hidden_states"])

    return _layer_of(model, layer).register_forward_hook(after, with_kwargs=True)


def change_stream(model: nn.Module, layer: int, change: Callable[[torch.Tensor], None]) -> Any:
    def after(_module: nn.Module, _args: Any, output: Any) -> Any:
        hidden = _hidden(output).clone()
        if hidden.shape[1] > 1:  # the reference runs one token first
            change(hidden[0])
        return _as(output, hidden)

    return _layer_of(model, layer).register_forward_hook(after)


def agree(
    row: Row, laboratory: Laboratory, interventions: list[Intervention], hooks: list[Any]
) -> None:
    """The same logits at every position, and other ones than without."""
    reference = laboratory.expected(row).reference
    try:
        expected = reference.logits(prompt_ids())
    finally:
        for hook in hooks:
            hook.remove()
    with model_of(row, laboratory) as model:
        found = model.logits(prompt_ids(), interventions=interventions)
    difference = largest(found, expected)
    moved = largest(expected, laboratory.expected(row).logits)
    print(f"{row}: differs by {difference:.1e}, moved by {moved:.1e}")
    assert difference <= LOGITS_WITHIN
    assert moved > 10 * LOGITS_WITHIN


@rows
def test_head_ablation(row: Row, laboratory: Laboratory) -> None:
    model = laboratory.written(row).model
    with laboratory.source(row, EXACT) as source:
        heads = source.spec.layers[1].attention.heads
    agree(
        row,
        laboratory,
        [AblateHead(1, 0), AblateHead(0, heads - 1)],
        [ablate_head(model, 1, 0, heads), ablate_head(model, 0, heads - 1, heads)],
    )


@rows
def test_layer_ablation(row: Row, laboratory: Laboratory) -> None:
    model = laboratory.written(row).model
    agree(row, laboratory, [AblateLayer(1)], [ablate_layer(model, 1)])


dense_rows = pytest.mark.parametrize("row", [r for r in ROWS if not r.has_experts], ids=str)


@dense_rows
def test_feature_ablation(row: Row, laboratory: Laboratory) -> None:
    model = laboratory.written(row).model
    with model_of(row, laboratory) as ours:
        shares = ours.trace(PROMPT, features=10**6).features
    strong = next(share.feature for share in shares if share.layer == 0)
    agree(row, laboratory, [AblateFeature(0, strong)], [ablate_feature(model, 0, strong)])


@rows
def test_patching_and_steering(row: Row, laboratory: Laboratory) -> None:
    """The stream of another run at the last position, then a direction at all."""
    model, reference = laboratory.written(row).model, laboratory.expected(row).reference
    with model_of(row, laboratory) as ours:
        other = ours.trace(OTHER)
        direction = ours.direction("the", "dog")
    own = other.stream.residual[1, -1]
    theirs = reference.layer_outputs(other.encoded.ids)[0, -1]
    assert largest(own, theirs) <= 1e-3

    def patch(hidden: torch.Tensor) -> None:
        hidden[-1] = torch.from_numpy(theirs)

    def steer(hidden: torch.Tensor) -> None:
        hidden += 2.5 * torch.from_numpy(direction)

    agree(
        row,
        laboratory,
        [Patch(0, own[None], positions=(-1,)), Steer(1, direction, by=2.5)],
        [change_stream(model, 0, patch), change_stream(model, 1, steer)],
    )


@rows
def test_the_sum_closes_with_interventions(row: Row, laboratory: Laboratory) -> None:
    with model_of(row, laboratory) as model:
        other = model.trace(OTHER).stream.residual
        direction = model.direction("dog")
        changes: list[Intervention] = [
            AblateHead(0, 1),
            AblateLayer(1),
            Patch(0, other[1], positions=(-1,)),
            Steer(1, direction, by=3.0),
        ]
        trace = model.trace(PROMPT, target="dog", positions=None, heads=True, interventions=changes)
    assert Part.INTERVENTION in trace.stream.parts
    assert _whole_gap(trace) <= CLOSES_WITHIN
    assert _direct_gap(trace) <= CLOSES_WITHIN
    silent = [head.length for head in trace.heads if (head.layer, head.head) == (0, 1)]
    assert silent == [0.0]
    assert not any(head.layer == 1 for head in trace.heads)


# --------------------------------------------------------------------------- attention


@rows
def test_attention_by_head(row: Row, laboratory: Laboratory) -> None:
    """The shares of the last token are those of transformers' eager attention."""
    model = laboratory.written(row).model
    with model_of(row, laboratory) as ours:
        ids = ours.encode(PROMPT).ids
        found = ours.tracer.attention(ours.encode(PROMPT), top=len(ids))
    with torch.no_grad():
        model(input_ids=torch.tensor([ids[:1]]), use_cache=False)
        output = model(input_ids=torch.tensor([ids]), use_cache=False, output_attentions=True)
    for head in found:
        expected = output.attentions[head.layer][0, head.head, -1].numpy()  # [T]
        shares = np.zeros(len(ids), np.float32)
        for position, share in head.tokens:
            shares[position] = share
        assert largest(shares, expected) <= 1e-4
