"""What can be wrong about sinks and latents; part of ``breaking``."""

from __future__ import annotations

import dataclasses

import numpy as np

from tests.parity.checkpoints import EPS
from tests.parity.reference import Floats
from vindex.source import ModelSource, StoredTensor
from vindex.spec import AttentionSpec, RopeScaling, RopeSpec


def without_rope(attention: AttentionSpec) -> AttentionSpec:
    """Nothing turns; with latents the lanes that would have must still be told apart."""
    if attention.latent is None or attention.rope is None:
        return dataclasses.replace(attention, rope=None)
    still = RopeSpec(
        attention.rope.theta,
        attention.rope.rotary_size,
        RopeScaling.PROPORTIONAL,
        turning_pairs=0,
    )
    return dataclasses.replace(attention, rope=still)


def with_large_latent_eps(attention: AttentionSpec) -> AttentionSpec:
    """Latents normed with the model's epsilon instead of their own."""
    if attention.latent is None:
        return attention
    norm = dataclasses.replace(attention.latent.norm, eps=EPS)
    return dataclasses.replace(attention, latent=dataclasses.replace(attention.latent, norm=norm))


def no_sinks(_source: ModelSource, stored: StoredTensor) -> Floats:
    """Scores that take nothing of any softmax."""
    return np.full(stored.shape, -1e30, np.float32)
