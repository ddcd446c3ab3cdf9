"""The tensors that a layer's attention needs, with their shapes and where a vindex keeps them."""

from __future__ import annotations

from collections.abc import Iterator

from vindex.kinds import ExtractLevel
from vindex.spec import AttentionSpec, LatentSpec, NormKind, QkNormSpan, Role, StorageFile

Need = tuple[Role, tuple[int, ...], StorageFile, ExtractLevel]

_LEVEL = ExtractLevel.ATTENTION


def matrices(attention: AttentionSpec, hidden: int) -> Iterator[Need]:
    """Projections, and the norms that lie among them; no k and v where the layer has none."""
    q_size = attention.heads * attention.head_size
    kv_size = attention.kv_heads * attention.head_size
    if attention.latent is not None:
        yield from _latent_matrices(attention, attention.latent, hidden)
    else:
        yield _matrix(Role.Q, q_size, hidden)
        if attention.kv_source is None:
            yield _matrix(Role.K, kv_size, hidden)
            if not attention.values_are_keys:
                yield _matrix(Role.V, kv_size, hidden)
    yield _matrix(Role.O, hidden, attention.output_size)
    if attention.qk_norm is not None:
        whole = attention.qk_norm_span is QkNormSpan.PROJECTION
        roles = {Role.Q_NORM: q_size, Role.K_NORM: kv_size}
        if attention.kv_source is not None:
            del roles[Role.K_NORM]
        for role, size in roles.items():
            size = size if whole else attention.head_size
            yield role, (size,), StorageFile.ATTENTION, _LEVEL


def vectors(attention: AttentionSpec, hidden: int) -> Iterator[Need]:
    """What is kept with the norms: biases and sinks."""
    if attention.latent is not None:
        if attention.latent.bias:
            if attention.latent.query_rank is not None:
                yield _vector(Role.Q_LATENT_BIAS, attention.latent.query_rank)
            yield _vector(Role.KV_LATENT_BIAS, _latent_rows(attention, attention.latent))
    elif attention.qkv_bias:
        kv_size = attention.kv_heads * attention.head_size
        yield _vector(Role.Q_BIAS, attention.heads * attention.head_size)
        if attention.kv_source is None:
            yield _vector(Role.K_BIAS, kv_size)
            if not attention.values_are_keys:
                yield _vector(Role.V_BIAS, kv_size)
    if attention.output_bias:
        yield _vector(Role.O_BIAS, hidden)
    if attention.qk_norm is not None and attention.qk_norm.kind is NormKind.LAYER:
        yield _vector(Role.Q_NORM_BIAS, attention.head_size)
        yield _vector(Role.K_NORM_BIAS, attention.head_size)
    if attention.sinks:
        yield _vector(Role.SINKS, attention.heads)


def _latent_matrices(attention: AttentionSpec, latent: LatentSpec, hidden: int) -> Iterator[Need]:
    q_size = attention.heads * attention.head_size
    norms = StorageFile.ATTENTION, _LEVEL
    if latent.query_rank is None:
        yield _matrix(Role.Q, q_size, hidden)
    else:
        yield _matrix(Role.Q_LATENT, latent.query_rank, hidden)
        yield Role.Q_LATENT_NORM, (latent.query_rank,), *norms
        yield _matrix(Role.Q, q_size, latent.query_rank)
    yield _matrix(Role.KV_LATENT, _latent_rows(attention, latent), hidden)
    yield Role.KV_LATENT_NORM, (latent.rank,), *norms
    rows = attention.heads * (attention.plain_size + latent.value_size)
    yield _matrix(Role.KV, rows, latent.rank)


def _latent_rows(attention: AttentionSpec, latent: LatentSpec) -> int:
    return latent.rank + attention.turning_size


def _matrix(role: Role, rows: int, columns: int) -> Need:
    return role, (rows, columns), StorageFile.ATTENTION, _LEVEL


def _vector(role: Role, size: int) -> Need:
    return role, (size,), StorageFile.NORMS, _LEVEL
