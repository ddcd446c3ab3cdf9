"""Stored tensors -> the decoder's weights, driven by the ``ModelSpec``.

Matrices that read the same input (q, k, v; gate, up) are joined row-wise, so a layer is four
products. Norms and biases become float32; the embedding stays as stored.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lql.cancel import CancelToken
from lql.inference import fused, quantised
from lql.inference.attention import Attention
from lql.inference.decoder import Layer, Weights
from lql.inference.device_linear import DeviceLinear
from lql.inference.errors import WeightsInvalid, WeightsMissing
from lql.inference.feedforward import FeedForward
from lql.inference.latent import Latent
from lql.inference.linear import Linear, Product, prepare
from lql.inference.mixture import Beside, Mixture
from lql.inference.norms import HeadNorm, HiddenNorm, LayerNorm, Norm, ProjectionNorm
from lql.inference.pages import Pages
from lql.inference.per_layer import PerLayer, PerLayerEmbeddings
from lql.inference.placement import CPU
from lql.inference.precision import ComputeDtype
from lql.inference.rope import Rope, lane_order
from lql.inference.routing import Router
from lql.inference.rows import Part, Rows, torch_view
from vindex.heap import trim_heap
from vindex.source import ModelSource, QuantTensor, Releasing, StoredTensor
from vindex.spec import (
    AttentionSpec,
    FfnPart,
    FfnSpec,
    LatentSpec,
    LayerSpec,
    NormKind,
    NormSpec,
    PartKind,
    QkNormSpan,
    Role,
    RopeSpec,
    RoutingSpec,
    TensorIdentity,
    ffn_parts,
    part_roles,
)

# Layers read before the first of them is packed. A source that decodes into new memory (GGUF) holds
# that many at a time.
_LAYERS_AHEAD = 4

Order = npt.NDArray[np.int64] | None


def load_weights(
    source: ModelSource,
    dtype: ComputeDtype,
    cancel: CancelToken | None,
    device: torch.device = CPU,
) -> Weights:
    """Prepare every weight of a model for multiplication on a device.

    Args:
        dtype: how matrices are multiplied; ``AUTO`` follows each matrix's stored dtype.
        cancel: checked before every layer.

    Raises:
        WeightsMissing: tensors that the model needs are not stored.
        WeightsInvalid: a stored tensor does not have the shape the model needs.
        Unsupported: the specification asks for something that is not implemented.
    """
    _check_complete(source)
    with workers() as pool:
        loader = Loader(source, dtype, pool, device)
        head = loader.head()
        projections = loader.projections()
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
                if not len(layers) % _LAYERS_AHEAD:
                    trim_heap()  # of what packing leaves, which would add up
        layers += [finish() for finish in pending]
        weights = Weights(
            embed=loader.stored(Role.EMBED, None),
            positions=(
                None if source.spec.positions is None else loader.stored(Role.POSITIONS, None)
            ),
            layers=tuple(layers),
            final_norm=loader.final_norm(),
            projections=None if projections is None else projections(),
            head=head(),
            per_layer=None if per_layer is None else per_layer(),
        )
        loader.release()
    trim_heap()
    return weights


@contextmanager
def workers() -> Iterator[Executor]:
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
        if not tensor.optional and not source.has(*tensor.identity)
    ]
    if missing:
        raise WeightsMissing(
            f'"{source.name}" lacks {len(missing)} tensors that a forward pass needs'
            f" (e.g. {missing[0]})",
            hint="extract the model again at level inference or all",
            details=missing,
        )


class Loader:
    """Reads tensors of one source by role."""

    def __init__(
        self, source: ModelSource, dtype: ComputeDtype, pool: Executor, device: torch.device
    ) -> None:
        self._device = device
        self._source = source
        self._dtype = dtype
        self._pool = pool
        self._pages = Pages()
        self._specs = {tensor.identity: tensor for tensor in source.spec.tensors}
        self._ropes: dict[RopeSpec, Rope] = {}

    def release(self) -> None:
        """Give back the pages of packed matrices: they would count beside the packed ones."""
        if isinstance(self._source, Releasing):
            self._source.release()

    def layer(self, spec: LayerSpec) -> Callable[[], Layer]:
        """Start preparing a layer; the result waits for it."""
        index = spec.index
        attention = self._attention(index, spec.attention)
        feed_forward = self.feed_forward(spec)
        per_layer = self._per_layer(index)
        placement = spec.placement

        def norm(role: Role, present: bool, bias: Role | None = None) -> HiddenNorm | None:
            return self._norm(spec.norm, role, index, bias) if present else None

        def sum_norm(role: Role, bias: Role) -> HiddenNorm | None:
            return norm(role, placement.norms_sums, bias)

        def finish() -> Layer:
            attn_norm = norm(Role.ATTN_NORM, placement.norms_inputs, Role.ATTN_NORM_BIAS)
            ffn_norm = norm(Role.FFN_NORM, placement.norms_ffn_input, Role.FFN_NORM_BIAS)
            return Layer(
                index=index,
                attn_norm=attn_norm,
                attention=attention(),
                attn_post_norm=norm(Role.ATTN_POST_NORM, placement.norms_outputs),
                attn_sum_norm=sum_norm(Role.ATTN_SUM_NORM, Role.ATTN_SUM_NORM_BIAS),
                # A parallel layer without a second norm has one for both.
                ffn_norm=attn_norm if ffn_norm is None else ffn_norm,
                feed_forward=feed_forward(),
                ffn_post_norm=norm(Role.FFN_POST_NORM, placement.norms_outputs),
                ffn_sum_norm=sum_norm(Role.FFN_SUM_NORM, Role.FFN_SUM_NORM_BIAS),
                per_layer=None if per_layer is None else per_layer(),
                scalar=self._vector(Role.LAYER_SCALAR, index) if spec.scaled else None,
                parallel=placement.parallel,
                residual_multiplier=spec.residual_multiplier,
            )

        return finish

    def _attention(self, index: int, spec: AttentionSpec) -> Callable[[], Attention]:
        """Start preparing a layer's attention."""
        biased = spec.qkv_bias
        q_order = lane_order(spec.rope, spec.heads, spec.head_size)
        k_order = lane_order(spec.rope, spec.kv_heads, spec.head_size)
        q = (Role.Q, Role.Q_BIAS if biased else None, q_order)
        k = (Role.K, Role.K_BIAS if biased else None, k_order)
        v = (Role.V, Role.V_BIAS if biased else None, None)
        latent: Callable[[], Latent] | None = None
        if spec.latent is not None:
            qkv, latent = self._latent(index, spec, spec.latent)
        elif spec.kv_source is not None:
            qkv = self._matrix(index, q)
        elif spec.values_are_keys:
            qkv = self._matrix(index, q, k)
        else:
            qkv = self._matrix(index, q, k, v)
        output = self._matrix(index, (Role.O, Role.O_BIAS if spec.output_bias else None, None))
        return lambda: Attention(
            spec=spec,
            qkv=qkv(),
            output=output(),
            qk_norm=self._qk_norm(index, spec),
            rope=self._rope(spec.rope),
            v_norm=_value_norm(spec, self._device),
            value_lanes=_value_lanes(spec, self._device),
            sinks=self._vector(Role.SINKS, index) if spec.sinks else None,
            latent=None if latent is None else latent(),
        )

    def _latent(
        self, index: int, spec: AttentionSpec, latent: LatentSpec
    ) -> tuple[Callable[[], Linear], Callable[[], Latent]]:
        """Start preparing what x is multiplied with, and what stands between that and attention."""
        plain = spec.plain_size
        q_order = lane_order(spec.rope, spec.heads, spec.head_size, plain)
        q = (Role.Q, None, q_order)
        kv_bias, q_bias = (Role.KV_LATENT_BIAS, Role.Q_LATENT_BIAS) if latent.bias else (None, None)
        kv_order = lane_order(spec.rope, 1, latent.rank + spec.turning_size, latent.rank)
        kv = (Role.KV_LATENT, kv_bias, kv_order)
        up: Callable[[], Linear] | None = None
        if latent.query_rank is None:
            projection = self._matrix(index, q, kv)
        else:
            projection = self._matrix(index, (Role.Q_LATENT, q_bias, None), kv)
            up = self._matrix(index, q)

        def finish() -> Latent:
            query: tuple[Norm, Linear] | None = None
            if up is not None:
                query = Norm.of(latent.norm, self._vector(Role.Q_LATENT_NORM, index)), up()
            stored = torch_view(self.stored(Role.KV, index).float32())
            heads = stored.view(spec.heads, plain + latent.value_size, latent.rank)
            return Latent(
                query=query,
                norm=Norm.of(latent.norm, self._vector(Role.KV_LATENT_NORM, index)),
                keys=heads[:, :plain].clone().to(self._device),
                values=heads[:, plain:].transpose(1, 2).contiguous().to(self._device),
            )

        return projection, finish

    def feed_forward(self, spec: LayerSpec) -> Callable[[], FeedForward | Mixture]:
        """Start preparing the FFN of a layer, or its experts."""
        parts: dict[PartKind, list[Callable[[], FeedForward]]] = {kind: [] for kind in PartKind}
        for part in ffn_parts(spec.ffn):
            parts[part.kind].append(self._ffn_part(spec.index, part))
        dense, shared = parts[PartKind.DENSE], parts[PartKind.SHARED]
        if isinstance(spec.ffn, FfnSpec):
            return dense[0]
        moe = spec.ffn
        router = self._router(moe.routing, spec.index)
        switch = self._float32(spec.index, Role.SHARED_SWITCH) if moe.shared_switch else None

        def finish() -> Mixture:
            return Mixture(
                router=router(),
                experts=tuple(expert() for expert in parts[PartKind.EXPERT]),
                shared=shared[0]() if shared else None,
                switch=None if switch is None else switch(),
                beside=(
                    None
                    if moe.beside is None
                    else Beside(
                        dense=dense[0](),
                        dense_post_norm=self._norm(
                            moe.beside.norm, Role.DENSE_POST_NORM, spec.index
                        ),
                        experts_norm=self._norm(moe.beside.norm, Role.EXPERTS_NORM, spec.index),
                        experts_post_norm=self._norm(
                            moe.beside.norm, Role.EXPERTS_POST_NORM, spec.index
                        ),
                    )
                ),
            )

        return finish

    def _ffn_part(self, layer: int, part: FfnPart) -> Callable[[], FeedForward]:
        """Start preparing one FFN."""
        gate, up, down = (
            (role, role.bias if part.ffn.bias else None, None) for role in part_roles(part.kind)
        )
        rows = (gate, up) if part.ffn.gated else (up,)
        inner = self._matrix(layer, *rows, expert=part.expert)
        outer = self._matrix(layer, down, expert=part.expert)

        def finish() -> FeedForward:
            first, second = inner(), outer()
            one_call: Product | None = None
            if part.kind is not PartKind.EXPERT:  # hundreds of experts would take seconds
                both = quantised.compiled(first), quantised.compiled(second)
                one_call = fused.feed_forward(*both, part.ffn)
            return FeedForward(layer, part, first, second, one_call)

        return finish

    def _router(self, spec: RoutingSpec, layer: int) -> Callable[[], Router]:
        """Start preparing a router, which multiplies in float32 whatever the dtype."""
        products = self._float32(layer, Role.ROUTER, Role.ROUTER_BIAS if spec.bias else None)
        norm = None
        if spec.norm is not None:
            scale = self._vector(Role.ROUTER_SCALE, layer)
            norm = Norm.of(spec.norm, scale / math.sqrt(len(scale)))
        correction = self._vector(Role.ROUTER_CORRECTION_BIAS, layer) if spec.correction else None
        expert_scale = self._vector(Role.EXPERT_SCALE, layer) if spec.expert_scale else None
        return lambda: Router(spec, products(), norm, correction, expert_scale)

    def _float32(self, layer: int, role: Role, bias: Role | None = None) -> Callable[[], Linear]:
        """Start preparing a matrix whose product decides something: always in float32."""
        rows = Rows([Part(self.stored(role, layer))])
        values = None if bias is None else self._vector(bias, layer)
        if self._device.type != "cpu":
            return self._pool.submit(
                DeviceLinear, rows, values, ComputeDtype.F32, self._device
            ).result
        return prepare(rows, values, ComputeDtype.F32, self._pool)

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
        in_blocks = isinstance(first, QuantTensor) and self._device.type == "cpu"
        if in_blocks and self._dtype is not ComputeDtype.F32:
            rows = Rows([Part(self.multiplied(role, None))])
            vector = None if bias is None else self._vector(bias, None)
            return quantised.prepare_head(rows, vector, self._dtype, self._pool)
        return self._matrix(None, (role, bias, None))

    def projections(self) -> Callable[[], tuple[Linear, Linear]] | None:
        """Start preparing the projections of embeddings to D and back, where the model has them."""
        if not self._source.spec.projects_embeddings:
            return None
        into = self._matrix(None, (Role.EMBED_PROJECTION, None, None))
        back = self._matrix(None, (Role.HEAD_PROJECTION, None, None))
        return lambda: (into(), back())

    def final_norm(self) -> HiddenNorm | None:
        """The norm before the head, where the model has one."""
        spec = self._source.spec.final_norm
        if spec is None:
            return None
        return self._norm(spec, Role.FINAL_NORM, None, Role.FINAL_NORM_BIAS)

    def _norm(
        self, spec: NormSpec, role: Role, layer: int | None, bias: Role | None = None
    ) -> HiddenNorm:
        """A norm over the hidden size; ``bias`` is read if it is of the kind that has one."""
        weight = self._vector(role, layer)
        if spec.kind is not NormKind.LAYER:
            return Norm.of(spec, weight)
        assert bias is not None, "no family has a LayerNorm after a sublayer"
        return LayerNorm(weight, self._vector(bias, layer), spec.eps)

    def stored(self, role: Role, layer: int | None, expert: int | None = None) -> StoredTensor:
        """A tensor as stored, of the shape the model needs."""
        stored = self._source.tensor(role, layer, expert)
        self._check_shape(stored.shape, (role, layer, expert))
        return stored

    def multiplied(
        self, role: Role, layer: int | None, expert: int | None = None
    ) -> StoredTensor | QuantTensor:
        """A matrix as stored, of the shape the model needs."""
        stored = self._source.matrix(role, layer, expert)
        self._check_shape(stored.shape, (role, layer, expert))
        return stored

    def _check_shape(self, shape: tuple[int, ...], place: TensorIdentity) -> None:
        wanted = self._specs[place]
        if shape != wanted.shape:
            raise WeightsInvalid(
                f'"{self._source.name}": {wanted.key} has shape {list(shape)},'
                f" expected {list(wanted.shape)}"
            )

    def _matrix(
        self,
        layer: int | None,
        *parts: tuple[Role, Role | None, Order],
        expert: int | None = None,
    ) -> Callable[[], Linear]:
        """Start preparing matrices that read the same input, as one."""
        rows = Rows([Part(self.multiplied(role, layer, expert), order) for role, _, order in parts])
        biases = [
            torch.zeros(part.count, device=self._device)
            if bias is None
            else self._vector(bias, layer, order, expert)
            for part, (_, bias, order) in zip(rows.parts, parts, strict=True)
        ]
        biased = any(bias is not None for _, bias, _ in parts)
        bias = torch.cat(biases) if biased else None
        if rows.quantised and self._device.type == "cpu":
            return quantised.prepare(rows, bias, self._dtype, self._pool, self._pages)
        stored = [part.stored.dtype for part in rows.parts if isinstance(part.stored, StoredTensor)]
        # One dtype for the whole product: float32 as soon as one of its parts asks for it.
        choices = {self._dtype, *(self._dtype.resolve(each) for each in stored)}
        dtype = ComputeDtype.F32 if ComputeDtype.F32 in choices else ComputeDtype.F16
        if self._device.type != "cpu":
            return self._pool.submit(DeviceLinear, rows, bias, dtype, self._device).result
        return prepare(rows, bias, dtype, self._pool)

    def _vector(
        self, role: Role, layer: int | None, order: Order = None, expert: int | None = None
    ) -> Tensor:
        values = self.stored(role, layer, expert).float32()
        own = torch.from_numpy(np.array(values if order is None else values[order]))
        return own.to(self._device)

    def _qk_norm(self, index: int, spec: AttentionSpec) -> HeadNorm | ProjectionNorm | None:
        if spec.qk_norm is None:
            return None
        if spec.qk_norm_span is QkNormSpan.PROJECTION:
            q_order, k_order = (
                lane_order(spec.rope, heads, spec.head_size)
                for heads in (spec.heads, spec.kv_heads)
            )
            return ProjectionNorm(
                Norm.of(spec.qk_norm, self._vector(Role.Q_NORM, index, q_order)),
                Norm.of(spec.qk_norm, self._vector(Role.K_NORM, index, k_order)),
                spec.heads,
            )
        weight = self._of_heads(index, spec, Role.Q_NORM, Role.K_NORM)
        if spec.qk_norm.kind is not NormKind.LAYER:
            return Norm.of(spec.qk_norm, weight)
        bias = self._of_heads(index, spec, Role.Q_NORM_BIAS, Role.K_NORM_BIAS)
        return LayerNorm(weight, bias, spec.qk_norm.eps)

    def _of_heads(self, index: int, spec: AttentionSpec, q: Role, k: Role) -> Tensor:
        """Vectors for each head on its own: q's for its heads, then k's, [H + K, S] or [H, S]."""
        order = lane_order(spec.rope, 1, spec.head_size)
        parts = [self._vector(q, index, order).expand(spec.heads, -1)]
        if spec.kv_source is None:
            parts.append(self._vector(k, index, order).expand(spec.kv_heads, -1))
        return torch.cat(parts)

    def _rope(self, spec: RopeSpec | None) -> Rope | None:
        """The rope of a spec; layers with equal specs share one."""
        return None if spec is None else self._ropes.setdefault(spec, Rope(spec))


def _value_norm(spec: AttentionSpec, device: torch.device) -> Norm | None:
    """The norm of values, which has no weight."""
    if spec.v_norm is None:
        return None
    return Norm.of(spec.v_norm, torch.ones(spec.head_size, device=device))


def _value_lanes(spec: AttentionSpec, device: torch.device) -> Tensor | None:
    """Where values are keys, for each lane of a value the lane of a computed key."""
    if not spec.values_are_keys:
        return None
    order = lane_order(spec.rope, 1, spec.head_size)
    lanes = np.arange(spec.head_size) if order is None else np.argsort(order)
    return torch.from_numpy(lanes).to(device)
