"""What a layer computes besides attention: norms, feed-forward networks, mixtures of experts.

Part of ``vindex.spec``, which is where to import these names from.

Shape legend: D hidden, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class NormKind(Enum):
    """How a normalisation uses its weight."""

    RMS = "rms"  # x * rsqrt(mean(x^2) + eps), cast to input dtype, times w
    RMS_OFFSET = "rms_offset"  # the same, times (1 + w), in float32 before the cast (Gemma 1-3)
    LAYER = "layer"  # LayerNorm with weight and bias


@dataclass(frozen=True, slots=True)
class NormSpec:
    """A normalisation: its kind and epsilon (added inside the root)."""

    kind: NormKind
    eps: float


class Activation(Enum):
    """FFN non-linearity.

    ``GELU`` is the exact (erf) one, ``GELU_TANH`` the tanh approximation, ``GELU_SIGMOID`` the one
    by ``x * sigmoid(1.702 x)``.
    """

    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    GELU_SIGMOID = "gelu_sigmoid"
    RELU = "relu"


@dataclass(frozen=True, slots=True)
class FfnSpec:
    """A feed-forward network: ``down(act(gate x) * up x)``; ungated ``down(act(up x))``.

    Attributes:
        width: features.
        bias: on gate, up and down.
        limit: gate products are cut off above it, up products beyond it on both sides (gpt_oss).
        up_offset: added to up products, after the cut.
    """

    width: int
    activation: Activation
    gated: bool = True
    bias: bool = False
    limit: float | None = None
    up_offset: float = 0.0


class Scoring(Enum):
    """From a router's products, one for each expert, to scores and weights."""

    SOFTMAX = "softmax"  # over all experts; the best are chosen and weigh what they score
    SOFTMAX_OF_CHOSEN = "softmax_of_chosen"  # the best products are chosen; softmax over those
    SIGMOID = "sigmoid"  # of each product by itself; the best are chosen and weigh what they score


class GroupScore(Enum):
    """What a group of experts is worth when only some groups are considered."""

    BEST = "best"  # its best expert (DeepSeek V2)
    BEST_TWO = "best_two"  # the sum of its two best experts (DeepSeek V3)


@dataclass(frozen=True, slots=True)
class GroupLimit:
    """Only experts of the best groups may be chosen; groups are equal runs of experts.

    Attributes:
        groups: how many there are.
        kept: how many may be chosen from; together they have as many experts as a token visits.
        score: how they are compared.
    """

    groups: int
    kept: int
    score: GroupScore


@dataclass(frozen=True, slots=True)
class RoutingSpec:
    """Which experts a token visits, and with what weights; in float32 throughout.

    ``products = router(x) [+ bias]``; ``scores = scoring(products)``; the ``chosen`` experts are
    those with the best ``scores [+ correction]`` in the groups that are kept; weights are the
    scores of the chosen, divided by their sum if ``normalised``, times ``factor``, times the
    expert's own scale.

    Attributes:
        experts: E.
        chosen: experts that a token visits.
        normalised: weights are divided by their sum (over the chosen), plus ``sum_eps``.
        factor: on all weights.
        groups: which experts may be chosen; ``None`` for all.
        bias: the router has one.
        correction: a stored number for each expert is added to its score for the choice only.
        expert_scale: a stored factor for each expert, on its weight.
        norm: the router reads the residual stream, normed like this without a weight, times a
            stored vector [D], divided by ``sqrt(D)`` (Gemma 4); ``None``: what the experts read.
    """

    experts: int
    chosen: int
    scoring: Scoring = Scoring.SOFTMAX
    normalised: bool = False
    sum_eps: float = 0.0
    factor: float = 1.0
    groups: GroupLimit | None = None
    bias: bool = False
    correction: bool = False
    expert_scale: bool = False
    norm: NormSpec | None = None


@dataclass(frozen=True, slots=True)
class DenseBeside:
    """A dense FFN beside the experts (Gemma 4): ``rms(ffn(n h)) + rms(experts(rms(h)))``.

    Both read the same residual stream h, each through a norm of its own, and what each gives is
    normed by itself before the sum. n is the layer's FFN norm.
    """

    ffn: FfnSpec
    norm: NormSpec


@dataclass(frozen=True, slots=True)
class MoeSpec:
    """A mixture of experts in the place of a layer's FFN.

    Attributes:
        expert: every one of them.
        shared: one more expert, which every token visits with weight 1.
        shared_switch: the shared expert's output is multiplied by ``sigmoid(switch x)``.
        beside: a dense FFN beside the experts.
    """

    routing: RoutingSpec
    expert: FfnSpec
    shared: FfnSpec | None = None
    shared_switch: bool = False
    beside: DenseBeside | None = None

    @property
    def width(self) -> int:
        """Features: those of the dense FFN, then expert by expert, the shared one last."""
        return sum(part.ffn.width for part in ffn_parts(self))


class PartKind(Enum):
    """What an FFN is to its layer."""

    DENSE = "dense"  # the layer's FFN, or the one beside its experts
    EXPERT = "expert"
    SHARED = "shared"


@dataclass(frozen=True, slots=True)
class FfnPart:
    """One FFN of a layer.

    Attributes:
        expert: its number, for ``EXPERT``.
        first: the layer's feature that is this FFN's feature 0.
    """

    kind: PartKind
    ffn: FfnSpec
    first: int
    expert: int | None = None


def ffn_parts(ffn: FfnSpec | MoeSpec) -> tuple[FfnPart, ...]:
    """All FFNs of a layer in the order of its features: one, or those of a mixture.

    The order is larql's: experts ascending, the shared one after them. larql knows no features of
    experts beside a dense FFN; there they follow the dense features.
    """
    if isinstance(ffn, FfnSpec):
        return (FfnPart(PartKind.DENSE, ffn, 0),)
    parts: list[FfnPart] = []
    first = 0
    if ffn.beside is not None:
        parts.append(FfnPart(PartKind.DENSE, ffn.beside.ffn, 0))
        first = ffn.beside.ffn.width
    for expert in range(ffn.routing.experts):
        parts.append(FfnPart(PartKind.EXPERT, ffn.expert, first, expert))
        first += ffn.expert.width
    if ffn.shared is not None:
        parts.append(FfnPart(PartKind.SHARED, ffn.shared, first))
    return tuple(parts)
