"""Rotary position embeddings as configs spell them, in both generations of the spelling.

transformers 5 writes ``rope_parameters``: one flat object, or one object per layer type. The older
hub spelling has ``rope_theta`` beside ``rope_scaling`` (with ``type`` for ``rope_type``), and for
Gemma 3 ``rope_local_base_freq`` for the sliding layers, which are never scaled.
"""

from __future__ import annotations

from vindex.errors import Unsupported
from vindex.families._config import MAX_POSITIONS, ConfigReader, show
from vindex.spec import AttentionKind, RopeScaling, RopeSpec

_SUPPORTED = (RopeScaling.NONE, RopeScaling.LINEAR, RopeScaling.LLAMA3, RopeScaling.DYNAMIC)


def read_rope(
    config: ConfigReader,
    kind: AttentionKind,
    *,
    head_size: int,
    max_positions: int,
    default_theta: float,
    local_theta_key: str | None = None,
) -> RopeSpec:
    """The rope of one layer type.

    Args:
        config: the text configuration.
        kind: whose rope; selects the entry of a nested ``rope_parameters``.
        head_size: S.
        max_positions: the model's context length.
        default_theta: base where the config names none.
        local_theta_key: the hub spelling's key of this layer type's own base. With it, top-level
            ``rope_theta`` and ``rope_scaling`` do not apply to this layer type.

    Raises:
        Unsupported: an unknown rope type, or partial rotation.
        CheckpointError: a value of the wrong type or out of range.
    """
    own_base = local_theta_key is not None
    theta = config.number(local_theta_key or "rope_theta", default_theta)
    parameters = config.section("rope_parameters")
    if parameters is not None and any(parameters.has(each.value) for each in AttentionKind):
        parameters = parameters.section(kind.value)
    elif parameters is not None and own_base:
        parameters = None  # a flat object is the full layers'
    if parameters is None and not own_base:
        parameters = config.section("rope_scaling")
    if parameters is None:
        parameters = ConfigReader({}, config.where)
    partial = parameters if parameters.has("partial_rotary_factor") else config
    partial.must_be_default("partial_rotary_factor", 1.0, 1)
    return _scaled(parameters, parameters.number("rope_theta", theta), head_size, max_positions)


def _scaled(parameters: ConfigReader, theta: float, head_size: int, max_positions: int) -> RopeSpec:
    scaling = _scaling(parameters)
    if scaling is RopeScaling.NONE:
        return RopeSpec(theta=theta, rotary_size=head_size)
    factor = parameters.number("factor", high=1e6)
    if scaling is RopeScaling.LINEAR:
        return RopeSpec(theta=theta, rotary_size=head_size, scaling=scaling, factor=factor)
    if scaling is RopeScaling.DYNAMIC:
        if head_size <= 2:
            parameters.contradiction(
                f"rope_type is dynamic with a head size of {head_size}", "a head size of 4 or more"
            )
        return RopeSpec(
            theta=theta,
            rotary_size=head_size,
            scaling=scaling,
            factor=factor,
            original_max_positions=max_positions,
        )
    low = parameters.number("low_freq_factor", high=1e6)
    high = parameters.number("high_freq_factor", high=1e6)
    if not low < high:
        parameters.contradiction(
            f"low_freq_factor is {low:g} and high_freq_factor {high:g}", "low below high"
        )
    return RopeSpec(
        theta=theta,
        rotary_size=head_size,
        scaling=scaling,
        factor=factor,
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_positions=parameters.integer(
            "original_max_position_embeddings", max_positions, high=MAX_POSITIONS
        ),
    )


def _scaling(parameters: ConfigReader) -> RopeScaling:
    key = "rope_type" if parameters.has("rope_type") else "type"
    name = parameters.text(key, RopeScaling.NONE.value)
    for scaling in _SUPPORTED:
        if scaling.value == name:
            return scaling
    raise Unsupported(
        f"{parameters.where}: {key} is {show(name)}, which is not a supported rope type",
        hint=f"supported: {', '.join(scaling.value for scaling in _SUPPORTED)}",
    )
