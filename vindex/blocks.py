"""Which tensors a block-quantised vindex keeps in blocks."""

from __future__ import annotations

from vindex.spec import GATE_ROLES, QUANTISED, ModelSpec, TensorSpec, ffn_parts, part_roles


def in_blocks(tensor: TensorSpec, spec: ModelSpec) -> bool:
    """Whether a block-quantised vindex of level inference keeps a tensor in blocks.

    Gate rows are kept in floats as well, for browsing; in floats only where they are the up rows
    of an FFN without a gate.
    """
    if tensor.role not in GATE_ROLES or tensor.layer is None:
        return tensor.role in QUANTISED
    parts = ffn_parts(spec.layers[tensor.layer].ffn)
    return any(part_roles(part.kind)[0] is tensor.role and part.ffn.gated for part in parts)
