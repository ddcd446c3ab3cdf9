"""Stored tensors -> the decoder's weights, driven by the ``ModelSpec``.

Matrices that read the same input (q, k, v; gate, up) are joined row-wise, so a layer is four
products. Norms and biases become float32; the embedding stays as stored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lql.cancel import CancelToken
from lql.inference import quantised
from lql.inference.attention import Attention
from lql.inference.decoder import Layer, Weights
from lql.inference.errors import WeightsInvalid, WeightsMissing
from lql.inference.feedforward import FeedForward
from lql.inference.linear import Linear, prepare
from lql.inference.norms import HiddenNorm, LayerNorm, Norm, ProjectionNorm
from lql.inference.per_layer import PerLayer, PerLayerEmbeddings
from lql.inference.precision import ComputeDtype
from lql.inference.rope import Rope, lane_order
from lql.inference.rows import Part, Rows
from vindex.heap import trim_heap
from vindex.source import ModelSource, QuantTensor, Releasing, StoredTensor
from vindex.spec import (
    AttentionSpec,
    LayerSpec,
    NormKind,
    NormSpec,
    QkNormSpan,
    Role,
    RopeSpec,
)

# Layers read before the first of them is packed. A source that decodes into new memory (GGUF) holds
# that many at a time.
_LAYERS_AHEAD = 4

Order = npt.NDArray[np.int64] | None


def load_weights(source: ModelSource, dtype: ComputeDtype, cancel: CancelToken | None) -> Weights:
    """Prepare every weight of a model for multiplication.

    Args:
        dtype: how matrices are multiplied; ``AUTO`` follows each matrix's stored dtype.
        cancel: checked before every layer.

    Raises:
        WeightsMissing: tensors that the model needs are not stored.
        WeightsInvalid: a stored tensor does not have the shape the model needs.
        Unsupported: the specification asks for something that is not implemented.
    """
    _check_complete(source)
    with _workers() as pool:
        loader = _Loader(source, dtype, pool)
        head = loader.head()
        per_layer = loader.per_layer_embeddings()
        pending: deque[Callable[[], Layer]] = deque()
        layers: list[Layer] = []
        for spec in source.spec.layers:
            if cancel is not None:
                cancel.check(f"loading layer {spec.index}/{source.spec.num_layers}")
            pending.append(loader.layer(spec))
            if len(pending) > _LAYERS_AHEAD:
                layers.append(pending.popleft()())
                loader.release()
        layers += [finish() for finish in pending]
        weights = Weights(
            embed=loader.stored(Role.EMBED, None),
            positions=(
                None if source.spec.positions is None else loader.stored(Role.POSITIONS, None)
            ),
            layers=tuple(layers),
            final_norm=loader.norm(
                source.spec.final_norm, Role.FINAL_NORM, None, Role.FINAL_NORM_BIAS
            ),
            head=head(),
            per_layer=None if per_layer is None else per_layer(),
        )
        loader.release()
    trim_heap()
    return weights


@contextmanager
def _workers() -> Iterator[Executor]:
    """Threads for packing; on the way out unstarted jobs are dropped, running ones awaited."""
    pool = ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="lql-pack")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _check_complete(source: ModelSource) -> None:
    missing = [
        tensor.key
        for tensor in source.spec.tensors
        if not tensor.optional and not source.has(tensor.role, tensor.layer)
    ]
    if missing:
        raise WeightsMissing(
            f'"{source.name}" lacks {len(missing)} tensors that a forward pass needs'
            f" (e.g. {missing[0]})",
            hint="extract the model again at level inference or all",
            details=missing,
        )


class _Loader:
    """Reads tensors of one source by role."""

    def __init__(self, source: ModelSource, dtype: ComputeDtype, pool: Executor) -> None:
        self._source = source
        self._dtype = dtype
        self._pool = pool
        self._specs = {(tensor.role, tensor.layer): tensor for tensor in source.spec.tensors}
        self._ropes: dict[RopeSpec, Rope] = {}

    def release(self) -> None:
        """Give back the pages of packed matrices: they would count beside the packed ones."""
        if isinstance(self._source, Releasing):
            self._source.release()

    def layer(self, spec: LayerSpec) -> Callable[[], Layer]:
        """Start preparing a layer; the result waits for it."""
        index, attention = spec.index, spec.attention
        biased = attention.qkv_bias
        q_order = lane_order(attention.rope, attention.heads, attention.head_size)
        k_order = lane_order(attention.rope, attention.kv_heads, attention.head_size)
        q = (Role.Q, Role.Q_BIAS if biased else None, q_order)
        k = (Role.K, Role.K_BIAS if biased else None, k_order)
        v = (Role.V, Role.V_BIAS if biased else None, None)
        if attention.kv_source is not None:
            qkv = self._matrix(index, q)
        elif attention.values_are_keys:
            qkv = self._matrix(index, q, k)
        else:
            qkv = self._matrix(index, q, k, v)
        output = self._matrix(index, (Role.O, Role.O_BIAS if attention.output_bias else None, None))
        up = (Role.UP, Role.UP_BIAS if spec.ffn.bias else None, None)
        gate = (Role.GATE, Role.GATE_BIAS if spec.ffn.bias else None, None)
        inner = self._matrix(index, *((gate, up) if spec.ffn.gated else (up,)))
        down = self._matrix(index, (Role.DOWN, Role.DOWN_BIAS if spec.ffn.bias else None, None))
        per_layer = self._per_layer(index)
        placement = spec.placement

        def norm(role: Role, present: bool, bias: Role | None = None) -> HiddenNorm | None:
            return self.norm(spec.norm, role, index, bias) if present else None

        def finish() -> Layer:
            attn_norm = norm(Role.ATTN_NORM, placement.norms_inputs, Role.ATTN_NORM_BIAS)
            ffn_norm = norm(Role.FFN_NORM, placement.norms_ffn_input, Role.FFN_NORM_BIAS)
            return Layer(
                index=index,
                attn_norm=attn_norm,
                attention=Attention(
                    spec=attention,
                    qkv=qkv(),
                    output=output(),
                    qk_norm=self._qk_norm(spec),
                    rope=self._rope(attention.rope),
                    v_norm=_value_norm(attention),
                    value_lanes=_value_lanes(attention),
                ),
                attn_post_norm=norm(Role.ATTN_POST_NORM, placement.norms_outputs),
                # A parallel layer without a second norm has one for both.
                ffn_norm=attn_norm if ffn_norm is None else ffn_norm,
                feed_forward=FeedForward(index, spec.ffn, inner(), down()),
                ffn_post_norm=norm(Role.FFN_POST_NORM, placement.norms_outputs),
                per_layer=None if per_layer is None else per_layer(),
                scalar=self._vector(Role.LAYER_SCALAR, index) if spec.scaled else None,
                parallel=placement.parallel,
                residual_multiplier=spec.residual_multiplier,
            )

        return finish

    def _per_layer(self, index: int) -> Callable[[], PerLayer] | None:
        """Start preparing how a layer adds its per-layer embedding."""
        ple = self._source.spec.ple
        if ple is None:
            return None
        gate = self._matrix(index, (Role.PLE_GATE, None, None))
        output = self._matrix(index, (Role.PLE_OUTPUT, None, None))
        norm = Norm.of(ple.norm, self._vector(Role.PLE_NORM, index))
        return lambda: PerLayer(ple.activation, gate(), output(), norm)

    def per_layer_embeddings(self) -> Callable[[], PerLayerEmbeddings] | None:
        """Start preparing what makes the per-layer embeddings, where the model has them."""
        ple = self._source.spec.ple
        if ple is None:
            return None
        table = self.stored(Role.PLE_TABLE, None)
        projection = self._matrix(None, (Role.PLE_PROJECTION, None, None))
        norm = Norm.of(ple.norm, self._vector(Role.PLE_PROJECTION_NORM, None))
        return lambda: PerLayerEmbeddings(ple, table, projection(), norm)

    def head(self) -> Callable[[], Linear]:
        """Start preparing the head: the stored one, else the embedding."""
        stored = self._source.has(Role.HEAD)
        bias = Role.HEAD_BIAS if self._source.spec.head_bias else None
        role = Role.HEAD if stored else Role.EMBED
        first = self._source.matrix(Role.Q, 0)
        if isinstance(first, QuantTensor) and self._dtype is not ComputeDtype.F32:
            rows = Rows([Part(self.multiplied(role, None))])
            vector = None if bias is None else self._vector(bias, None)
            return quantised.prepare_head(rows, vector, self._dtype, self._pool)
        return self._matrix(None, (role, bias, None))

    def norm(
        self, spec: NormSpec, role: Role, layer: int | None, bias: Role | None = None
    ) -> HiddenNorm:
        """A norm over the hidden size; ``bias`` is read if it is of the kind that has one."""
        weight = self._vector(role, layer)
        if spec.kind is not NormKind.LAYER:
            return Norm.of(spec, weight)
        assert bias is not None, "no family has a LayerNorm after a sublayer"
        return LayerNorm(weight, self._vector(bias, layer), spec.eps)

    def stored(self, role: Role, layer: int | None) -> StoredTensor:
        """A tensor as stored, of the shape the model needs."""
        stored = self._source.tensor(role, layer)
        self._check_shape(stored.shape, role, layer)
        return stored

    def multiplied(self, role: Role, layer: int | None) -> StoredTensor | QuantTensor:
        """A matrix as stored, of the shape the model needs."""
        stored = self._source.matrix(role, layer)
        self._check_shape(stored.shape, role, layer)
        return stored

    def _check_shape(self, shape: tuple[int, ...], role: Role, layer: int | None) -> None:
        wanted = self._specs[role, layer]
        if shape != wanted.shape:
            raise WeightsInvalid(
                f'"{self._source.name}": {wanted.key} has shape {list(shape)},'
                f" expected {list(wanted.shape)}"
            )

    def _matrix(
        self, layer: int | None, *parts: tuple[Role, Role | None, Order]
    ) -> Callable[[], Linear]:
        """Start preparing matrices that read the same input, as one."""
        rows = Rows([Part(self.multiplied(role, layer), order) for role, _, order in parts])
        biases = [self._vector(bias, layer, order) for _, bias, order in parts if bias is not None]
        bias = torch.cat(biases) if biases else None
        if rows.quantised:
            return quantised.prepare(rows, bias, self._dtype, self._pool)
        stored = [part.stored.dtype for part in rows.parts if isinstance(part.stored, StoredTensor)]
        # One dtype for the whole product: float32 as soon as one of its parts asks for it.
        choices = {self._dtype.resolve(each) for each in stored}
        dtype = ComputeDtype.F32 if ComputeDtype.F32 in choices else ComputeDtype.F16
        return prepare(rows, bias, dtype, self._pool)

    def _vector(self, role: Role, layer: int | None, order: Order = None) -> Tensor:
        values = self.stored(role, layer).float32()
        return torch.from_numpy(np.array(values if order is None else values[order]))

    def _qk_norm(self, spec: LayerSpec) -> Norm | ProjectionNorm | None:
        attention = spec.attention
        if attention.qk_norm is None:
            return None
        if attention.qk_norm_span is QkNormSpan.PROJECTION:
            q_order, k_order = (
                lane_order(attention.rope, heads, attention.head_size)
                for heads in (attention.heads, attention.kv_heads)
            )
            return ProjectionNorm(
                Norm.of(attention.qk_norm, self._vector(Role.Q_NORM, spec.index, q_order)),
                Norm.of(attention.qk_norm, self._vector(Role.K_NORM, spec.index, k_order)),
                attention.heads,
            )
        order = lane_order(attention.rope, 1, attention.head_size)
        q = self._vector(Role.Q_NORM, spec.index, order).expand(attention.heads, -1)
        if attention.kv_source is not None:
            return Norm.of(attention.qk_norm, q)  # [H, S]
        k = self._vector(Role.K_NORM, spec.index, order).expand(attention.kv_heads, -1)
        return Norm.of(attention.qk_norm, torch.cat([q, k]))  # [H + K, S]

    def _rope(self, spec: RopeSpec | None) -> Rope | None:
        """The rope of a spec; layers with equal specs share one."""
        return None if spec is None else self._ropes.setdefault(spec, Rope(spec))


def _value_norm(spec: AttentionSpec) -> Norm | None:
    """The norm of values, which has no weight."""
    return None if spec.v_norm is None else Norm.of(spec.v_norm, torch.ones(spec.head_size))


def _value_lanes(spec: AttentionSpec) -> Tensor | None:
    """Where values are keys, for each lane of a value the lane of a computed key."""
    if not spec.values_are_keys:
        return None
    order = lane_order(spec.rope, 1, spec.head_size)
    lanes = np.arange(spec.head_size) if order is None else np.argsort(order)
    return torch.from_numpy(lanes)
