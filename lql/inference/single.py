"""Layers compiled for one cached token at a time, from the functions that every other use runs.

A token's products are so short that half of its time would go to what stands between them: a
thousand calls from Python to torch. So once a text is being generated, ``ask`` and ``answer`` of
``layer.py`` are recorded for one token by torch's tracer: the same operators on the same numbers,
to the bit. What stands between the two, a token's place in the cache, is compiled from its source,
and a layer is one call. Nothing is written a second time here. What a recording would not repeat is
left to the functions themselves: experts, latents, edited matrices, other devices, and whoever
watches.

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
from lql.inference.cache import LayerCache, placed
from lql.inference.feedforward import FeedForward, dense
from lql.inference.layer import Layer, answer, ask, run
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
        compiled: what a ``_Storing`` of it does, or a ``_Sharing`` where it reads another's keys.
    """

    layer: Layer
    compiled: Callable[..., Tensor]

    def run(self, h: Tensor, cache: LayerCache, step: Step, own: Tensor | None) -> Tensor:
        """What ``layer.run`` gives for one token that nobody watches."""
        attention = self.layer.attention
        table = _NO_TENSOR if attention.rope is None else step.rotations[attention.rope]
        shared = attention.spec.kv_source is not None
        held = cache.seen if shared else cache.place_for_one()
        return self.compiled(h, table, _given(own), *held)


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


class _Storing(torch.nn.Module):
    """A layer whose token joins the cache; see ``layer.run``."""

    def __init__(self, halves: Any) -> None:
        super().__init__()
        self.halves = halves

    def forward(
        self, h: Tensor, table: Tensor, own: Tensor, slots: Tensor, first: int, held: int
    ) -> Tensor:
        q, new = self.halves.ask(h, table)
        keys, values = placed(slots, new, first, held)
        after: Tensor = self.halves.answer(h, q, keys, values, own)
        return after


class _Sharing(torch.nn.Module):
    """A layer that reads the keys of an earlier one."""

    def __init__(self, halves: Any) -> None:
        super().__init__()
        self.halves = halves

    def forward(
        self, h: Tensor, table: Tensor, own: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        q, _ = self.halves.ask(h, table)
        after: Tensor = self.halves.answer(h, q, keys, values, own)
        return after


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
    whole, halves = map(copy.copy, recordings[key])  # copies share the code
    for name, part in parts.items():
        setattr(halves, name, part)
    whole.halves = halves
    return SingleLayer(layer, whole.forward)


def _traced(halves: _Halves, layer: Layer, h: Tensor, own: Tensor | None) -> tuple[Any, Any] | None:
    """A recording, whole and of the halves, or ``None`` where torch no longer makes one."""
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
            recorded = wrap(traced._c)
            shared = layer.attention.spec.kv_source is not None
            script: Any = torch.jit.script
            return script((_Sharing if shared else _Storing)(recorded)), recorded
    except (RuntimeError, OSError, AttributeError):  # OSError: the source is not to be had
        return None


def _is_right(single: SingleLayer, h: Tensor, own: Tensor | None) -> bool:
    """Whether it gives what the functions give, to the bit, whatever was recorded with."""
    layer = single.layer
    rope = layer.attention.rope
    for count in _CHECKED_KEYS:
        step = _step(layer, {} if rope is None else {rope: _table(layer, count)})
        caches = [LayerCache(layer.attention.spec, count) for _ in range(2)]
        _, keys, values = _answer_inputs(layer, h, count)
        both = torch.cat([keys, values])
        shared = layer.attention.spec.kv_source is not None
        for cache in caches:
            cache.append(both if shared else both[:, 1:])
        found = single.run(h, caches[0], step, own)
        expected = run(h, layer, caches[1], step, own, dense, None)
        both_seen = zip(caches[0].seen, caches[1].seen, strict=True)
        if not torch.equal(found, expected) or not all(torch.equal(*seen) for seen in both_seen):
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
