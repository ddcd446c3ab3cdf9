"""Rotary position embeddings as configs spell them, in both generations of the spelling.

transformers 5 writes ``rope_parameters``: one flat object, or one object per layer type. The older
hub spelling has ``rope_theta`` beside ``rope_scaling`` (with ``type`` for ``rope_type``), and for
Gemma 3 ``rope_local_base_freq`` for the sliding layers, which are never scaled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import assert_never

from vindex.errors import Unsupported
from vindex.families._config import MAX_POSITIONS, ConfigReader, show
from vindex.spec import AttentionKind, RopeScaling, RopeSpec

_SUPPORTED = (
    RopeScaling.NONE,
    RopeScaling.LINEAR,
    RopeScaling.LLAMA3,
    RopeScaling.DYNAMIC,
    RopeScaling.YARN,
    RopeScaling.LONGROPE,
)
_MAX_FACTOR = 1e6
_YARN_EQUAL = 0.001  # width of the blend where both ends coincide


@dataclass(frozen=True, slots=True)
class RopeDefaults:
    """How a family differs from llama in its positions.

    Attributes:
        theta: base where the config names none.
        theta_key: the hub spelling's key of the base.
        local_theta_key: the hub spelling's key of this layer type's own base. With it, top-level
            ``theta_key`` and ``rope_scaling`` do not apply to this layer type.
        partial: share of a head that turns where the config does not say, or ``None`` for a family
            whose heads turn whole.
        partial_key: the hub spelling's key of that share.
        interleaved: see ``RopeSpec``.
        original: trained length where the config does not say; ``None`` for the context length.
        aliases: other names of scaling rules.
    """

    theta: float = 10000.0
    theta_key: str = "rope_theta"
    local_theta_key: str | None = None
    partial: float | None = None
    partial_key: str = "partial_rotary_factor"
    interleaved: bool = False
    original: int | None = None
    aliases: Mapping[str, RopeScaling] = field(default_factory=dict)


def read_rope(
    config: ConfigReader,
    kind: AttentionKind,
    *,
    head_size: int,
    max_positions: int,
    defaults: RopeDefaults,
) -> RopeSpec:
    """The rope of one layer type.

    Args:
        config: the text configuration.
        kind: whose rope; selects the entry of a nested ``rope_parameters``.
        head_size: S.
        max_positions: the model's context length.
        defaults: of the family.

    Raises:
        Unsupported: an unknown rope type, or partial rotation in a family that has none.
        CheckpointError: a value of the wrong type or out of range.
    """
    theta = config.number(defaults.local_theta_key or defaults.theta_key, defaults.theta)
    parameters = _parameters(config, kind, defaults)
    plain = RopeSpec(
        theta=parameters.number("rope_theta", theta),
        rotary_size=_rotary_size(config, parameters, head_size, defaults),
        interleaved=defaults.interleaved,
    )
    # transformers lets a top-level trained length win over the one beside the scaling.
    trained = config if config.has("original_max_position_embeddings") else parameters
    original = trained.integer(
        "original_max_position_embeddings", defaults.original or max_positions, high=MAX_POSITIONS
    )
    return _scaled(plain, parameters, _scaling(parameters, defaults), original, max_positions)


def score_strength(config: ConfigReader, defaults: RopeDefaults) -> float:
    """The factor on scores that DeepSeek adds where positions are stretched; 1 elsewhere."""
    parameters = _parameters(config, AttentionKind.FULL, defaults)
    weight = parameters.number("mscale_all_dim", 0.0, low=-1.0, high=_MAX_FACTOR)
    if weight == 0.0 or _scaling(parameters, defaults) is RopeScaling.NONE:
        return 1.0
    return _strength(_factor(parameters), weight) ** 2


def _parameters(config: ConfigReader, kind: AttentionKind, defaults: RopeDefaults) -> ConfigReader:
    """The object that holds the rule of a layer type; an empty one where the config has none."""
    own_base = defaults.local_theta_key is not None
    parameters = config.section("rope_parameters")
    if parameters is not None and any(parameters.has(each.value) for each in AttentionKind):
        parameters = parameters.section(kind.value)
    elif parameters is not None and own_base:
        parameters = None  # a flat object is the full layers'
    if parameters is None and not own_base:
        parameters = config.section("rope_scaling")
    return ConfigReader({}, config.where) if parameters is None else parameters


def _strength(factor: float, weight: float) -> float:
    """How much yarn strengthens attention to positions stretched by a factor."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1.0 else 1.0


def _rotary_size(
    config: ConfigReader, parameters: ConfigReader, head_size: int, defaults: RopeDefaults
) -> int:
    nested = parameters.has("partial_rotary_factor")
    holder, key = (
        (parameters, "partial_rotary_factor") if nested else (config, defaults.partial_key)
    )
    if defaults.partial is None:
        holder.must_be_default(key, 1.0, 1)
        return head_size
    size = int(head_size * holder.number(key, defaults.partial, high=1.0))
    if size < 2 or size % 2:
        holder.contradiction(
            f"{key} makes {size} of {head_size} values of a head turn", "an even number above 0"
        )
    return size


def _scaled(
    plain: RopeSpec,
    parameters: ConfigReader,
    scaling: RopeScaling,
    original: int,
    max_positions: int,
) -> RopeSpec:
    match scaling:
        case RopeScaling.NONE:
            return plain
        case RopeScaling.LINEAR:
            return replace(plain, scaling=scaling, factor=_factor(parameters))
        case RopeScaling.DYNAMIC:
            if plain.rotary_size <= 2:
                parameters.contradiction(
                    f"rope_type is dynamic with {plain.rotary_size} values that turn", "4 or more"
                )
            return replace(
                plain,
                scaling=scaling,
                factor=_factor(parameters),
                original_max_positions=max_positions,
            )
        case RopeScaling.LLAMA3:
            return _llama3(plain, parameters, original)
        case RopeScaling.YARN:
            return _yarn(plain, parameters, original, max_positions)
        case RopeScaling.LONGROPE:
            return _longrope(plain, parameters, original, max_positions)
        case RopeScaling.PROPORTIONAL:
            raise AssertionError("not among the supported rules")
        case _:
            assert_never(scaling)


def _factor(parameters: ConfigReader, default: float | None = None) -> float:
    return parameters.number("factor", default, high=_MAX_FACTOR)


def _llama3(plain: RopeSpec, parameters: ConfigReader, original: int) -> RopeSpec:
    low = parameters.number("low_freq_factor", high=_MAX_FACTOR)
    high = parameters.number("high_freq_factor", high=_MAX_FACTOR)
    if not low < high:
        parameters.contradiction(
            f"low_freq_factor is {low:g} and high_freq_factor {high:g}", "low below high"
        )
    return replace(
        plain,
        scaling=RopeScaling.LLAMA3,
        factor=_factor(parameters),
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_positions=original,
    )


def _yarn(plain: RopeSpec, parameters: ConfigReader, original: int, max_positions: int) -> RopeSpec:
    factor = _factor(parameters, max_positions / original)
    if plain.theta <= 1.0:
        parameters.contradiction(f"rope_type is yarn with a base of {plain.theta:g}", "above 1")

    def pair(turns: float) -> float:
        """The pair that makes this many full turns within the trained length."""
        octaves = math.log(original / (turns * 2 * math.pi))
        return plain.rotary_size * octaves / (2 * math.log(plain.theta))

    low = pair(parameters.number("beta_fast", 32.0, high=_MAX_FACTOR))
    high = pair(parameters.number("beta_slow", 1.0, high=_MAX_FACTOR))
    if parameters.flag("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, plain.rotary_size - 1)
    if low == high:
        high += _YARN_EQUAL

    weight = parameters.number("mscale", 0.0, low=-1.0, high=_MAX_FACTOR)
    weight_all = parameters.number("mscale_all_dim", 0.0, low=-1.0, high=_MAX_FACTOR)
    both = weight != 0.0 and weight_all != 0.0
    inferred = _strength(factor, 1.0)
    if both:
        inferred = _strength(factor, weight) / _strength(factor, weight_all)
    return replace(
        plain,
        scaling=RopeScaling.YARN,
        factor=factor,
        original_max_positions=original,
        low_dim=float(low),
        high_dim=float(high),
        attention_factor=parameters.number("attention_factor", inferred, high=_MAX_FACTOR),
    )


def _longrope(
    plain: RopeSpec, parameters: ConfigReader, original: int, max_positions: int
) -> RopeSpec:
    pairs = plain.rotary_size // 2
    factor = _factor(parameters, max_positions / original)
    inferred = 1.0
    if factor > 1.0:
        if original < 2:
            parameters.contradiction("the trained length is 1 position", "2 or more")
        inferred = math.sqrt(1 + math.log(factor) / math.log(original))
    return replace(
        plain,
        scaling=RopeScaling.LONGROPE,
        factor=factor,
        original_max_positions=original,
        short_factors=parameters.numbers("short_factor", pairs, high=_MAX_FACTOR),
        long_factors=parameters.numbers("long_factor", pairs, high=_MAX_FACTOR),
        attention_factor=parameters.number("attention_factor", inferred, high=_MAX_FACTOR),
    )


def _scaling(parameters: ConfigReader, defaults: RopeDefaults) -> RopeScaling:
    key = "rope_type" if parameters.has("rope_type") else "type"
    name = parameters.text(key, RopeScaling.NONE.value)
    if name in defaults.aliases:
        return defaults.aliases[name]
    for scaling in _SUPPORTED:
        if scaling.value == name:
            return scaling
    raise Unsupported(
        f"{parameters.where}: {key} is {show(name)}, which is not a supported rope type",
        hint=f"supported: {', '.join(scaling.value for scaling in _SUPPORTED)}",
    )
