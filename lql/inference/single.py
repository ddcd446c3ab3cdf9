"""Layers compiled for one cached token at a time, from the functions that every other use runs.

A token's products are so short that half of its time would go to what stands between them: a
thousand calls from Python to torch. So once a text is being generated, ``ask`` and ``answer`` of
``layer.py`` are recorded for one token by torch's tracer: the same operators on the same numbers,
to the bit. Nothing is written a second time here. What a recording would not repeat is left to the
functions themselves: experts, latents, edited matrices, other devices, and whoever watches.

One recording serves all layers that differ in nothing but the numbers in their tensors. Each layer
must give what the functions give before it is used.

Shape legend: see ``layer.py``.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lql.inference.attention import Attention, Step, query_blocks
from lql.inference.cache import LayerCache
from lql.inference.feedforward import FeedForward, dense
from lql.inference.layer import Layer, answer, ask, seen
from lql.inference.linear import Coarse
from lql.inference.norms import LayerNorm, Norm, ProjectionNorm
from lql.inference.per_layer import PerLayer
from lql.inference.quantised import compiled
from lql.inference.rope import Rope
from vindex.spec import Activation, AttentionSpec, FfnPart

_STRUCTURES = (Layer, Attention, FeedForward, Norm, LayerNorm, ProjectionNorm, PerLayer)
_CONSTANTS = (AttentionSpec, FfnPart, Activation, Rope, bool, int, float, type(None))
_OWN_NUMBERS = ("index", "layer")  # of a layer among others, on which nothing that it does depends
_CHECKED_KEYS = (1, 2, 5)  # cached tokens with which a recording is compared with its functions
_NO_TENSOR = torch.empty(0)  # for what a model does not have


@dataclass(frozen=True, slots=True, eq=False)
class SingleLayer:
    """A layer recorded for one token.

    Attributes:
        ask: takes h and the rotations; see ``layer.ask``.
        answer: takes h, q, keys, values and the per-layer embedding; see ``layer.answer``.
    """

    layer: Layer
    ask: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    answer: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]

    def run(self, h: Tensor, cache: LayerCache, step: Step, own: Tensor | None) -> Tensor:
        """What ``layer.run`` gives for one token that nobody watches."""
        rope = self.layer.attention.rope
        q, new = self.ask(h, _NO_TENSOR if rope is None else step.rotations[rope])
        keys, values = seen(self.layer, cache, new)
        return self.answer(h, q, keys, values, _given(own))


@torch.inference_mode()
def record(layers: Sequence[Layer], hidden: int, extra: int | None) -> list[SingleLayer | None]:
    """Compile layers; ``None`` for those that cannot be, or do not give the same to the bit.

    Args:
        hidden: D.
        extra: E, where the model has per-layer embeddings.
    """
    recordings: dict[object, Any] = {}
    h, own = _inputs(hidden, extra, seed=0)
    singles = [_recorded(layer, h, own, recordings) for layer in layers]
    # Other numbers than those that were recorded with, and all layers made before one is tried.
    h, own = _inputs(hidden, extra, seed=1)
    return [each if each is not None and _is_right(each, h, own) else None for each in singles]


def _inputs(hidden: int, extra: int | None, seed: int) -> tuple[Tensor, Tensor | None]:
    """Any h and per-layer embedding."""
    random = torch.Generator().manual_seed(seed)
    h = torch.randn(1, hidden, generator=random)
    return h, None if extra is None else torch.randn(1, extra, generator=random)


class _NotCompiled(Exception):
    """Something that a recording would not repeat."""


class _Called:
    """A compiled product in the place of a ``Linear``."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __call__(self, x: Tensor, coarse: Coarse | None = None) -> Tensor:
        assert coarse is None, "one token is exact"
        y: Tensor = self._module(x)
        return y


class _Halves(torch.nn.Module):
    """A layer's two halves as methods; its tensors and products as attributes."""

    def __init__(self, layer: Layer, parts: Mapping[str, Any]) -> None:
        super().__init__()
        self._layer = layer
        self._step = _step(layer, {})
        for name, part in parts.items():
            if isinstance(part, Tensor):
                self.register_buffer(name, part)
            else:
                self.add_module(name, part)

    def ask(self, h: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        rope = self._layer.attention.rope
        return ask(h, self._layer, _step(self._layer, {} if rope is None else {rope: table}))

    def answer(self, h: Tensor, q: Tensor, keys: Tensor, values: Tensor, own: Tensor) -> Tensor:
        return answer(h, q, keys, values, own, self._layer, self._step, dense, None)


def _step(layer: Layer, rotations: Mapping[Rope, Tensor]) -> Step:
    window = layer.attention.spec.window
    return Step(rotations, {window: query_blocks(0, 1, window)}, coarse=None)


def _recorded(
    layer: Layer, h: Tensor, own: Tensor | None, recordings: dict[object, Any]
) -> SingleLayer | None:
    parts: dict[str, Any] = {}
    constants: list[object] = []
    try:
        lifted = _lifted(layer, "layer", parts, constants)
    except _NotCompiled:
        return None
    key = tuple(constants)
    if key not in recordings:
        recordings[key] = _traced(_Halves(lifted, parts), layer, h, own)
    if recordings[key] is None:
        return None
    module = copy.copy(recordings[key])  # copies share the code
    for name, part in parts.items():
        setattr(module, name, part)
    return SingleLayer(layer, module.ask, module.answer)


def _traced(halves: _Halves, layer: Layer, h: Tensor, own: Tensor | None) -> Any:
    """A recording, or ``None`` where torch no longer makes one."""
    asked = h, _table(layer, 0)
    answered = h, *_answer_inputs(layer, h, 1), _given(own)
    try:
        with warnings.catch_warnings():
            # Sizes that become constants, which they are for one token; and that torch deprecates.
            warnings.simplefilter("ignore")
            trace: Any = torch.jit.trace_module
            traced = trace(halves, {"ask": asked, "answer": answered}, check_trace=False)
            # As it comes, its copies would share one set of attributes.
            wrap: Any = torch.jit._recursive.wrap_cpp_module
            return wrap(traced._c)
    except (RuntimeError, AttributeError):
        return None


def _is_right(single: SingleLayer, h: Tensor, own: Tensor | None) -> bool:
    """Whether it gives what the functions give, to the bit, whatever was recorded with."""
    layer = single.layer
    rope = layer.attention.rope
    for count in _CHECKED_KEYS:
        table = _table(layer, count)
        step = _step(layer, {} if rope is None else {rope: table})
        q, keys, values = _answer_inputs(layer, h, count)
        expected = *ask(h, layer, step), answer(h, q, keys, values, own, layer, step, dense, None)
        found = *single.ask(h, table), single.answer(h, q, keys, values, _given(own))
        if not all(map(torch.equal, found, expected)):
            return False
    return True


def _given(own: Tensor | None) -> Tensor:
    return _NO_TENSOR if own is None else own


def _table(layer: Layer, position: int) -> Tensor:
    rope = layer.attention.rope
    return _NO_TENSOR if rope is None else rope.table(position, position + 1)


def _answer_inputs(layer: Layer, h: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Any queries, and ``count`` keys and values in memory like a cache's."""
    spec = layer.attention.spec
    random = torch.Generator().manual_seed(count)
    q = torch.randn(1, spec.heads, spec.head_size, generator=random)
    held = torch.randn(2 * spec.kv_heads, count + 1, spec.head_size, generator=random)
    keys, values = held.narrow(1, 0, count).chunk(2)
    return q, keys, values


def _lifted(value: Any, name: str, parts: dict[str, Any], constants: list[object]) -> Any:
    """A layer whose tensors and products are attributes of a module.

    Args:
        name: of the attribute.
        parts: gets the attributes.
        constants: get everything else that a recording would depend on.

    Raises:
        _NotCompiled: it would depend on something else.
    """
    if isinstance(value, Tensor):
        for other, part in parts.items():
            if part is value:  # a module may have it once
                constants.append((name, other))
                return value
        parts[name] = value
        constants.append((name, value.shape, value.dtype, value.device))
        return value
    if isinstance(value, _STRUCTURES):
        changed = {
            field.name: _lifted(
                getattr(value, field.name), f"{name}_{field.name}", parts, constants
            )
            for field in dataclasses.fields(value)
            if field.name not in _OWN_NUMBERS and field.name != "fused"
        }
        changed |= {name: -1 for name in _OWN_NUMBERS if hasattr(value, name)}
        if isinstance(value, FeedForward):
            changed["fused"] = None  # it is in one piece with all the rest
        return dataclasses.replace(value, **changed)
    if isinstance(value, _CONSTANTS):
        constants.append((name, value))
        return value
    product = compiled(value)
    if product is None:
        raise _NotCompiled
    parts[name] = product.module
    constants.append((name, product.template))
    return _Called(product.module)
