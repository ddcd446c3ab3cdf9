"""Results of TRACE: by layer, by head, by feature, of two prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lql.results.base import Column, Form, Kind, Record, Result, Unit, fields_of
from lql.results.forward import TOKEN_COLUMNS, TokenRow
from lql.results.pictures import Contributions, LensMap, traced_contributions, traced_lens

_PLACE = (
    Column("layer", Kind.INTEGER),
    Column("position", Kind.INTEGER),
    Column("token", Kind.TOKEN),
)
_LENS = (
    Column("lens", Kind.TOKEN),
    Column("lens_probability", Kind.NUMBER, Unit.PROBABILITY),
)
_TARGET = (
    Column("rank", Kind.INTEGER),
    Column("probability", Kind.NUMBER, Unit.PROBABILITY),
    Column("word_probability", Kind.NUMBER, Unit.PROBABILITY),
    Column("logit", Kind.NUMBER, Unit.LOGIT),
)
_DIRECT = tuple(
    Column(name, Kind.NUMBER, Unit.DOT)
    for name in (
        "contribution",
        "attention_logit",
        "ffn_logit",
        "per_layer_logit",
        "norm_logit",
        "intervention_logit",
    )
)
_LENGTHS = tuple(
    Column(name, Kind.NUMBER, Unit.LENGTH)
    for name in (
        "attention",
        "ffn",
        "per_layer",
        "scalar",
        "norm",
        "intervention",
        "residual",
    )
)
_SHARE = (Column("attention_share", Kind.NUMBER, Unit.PROBABILITY),)


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One layer at one position; -1 is the embedding, which has no parts.

    Attributes:
        token: of the prompt, at the position.
        lens, lens_probability: what the model would say if it stopped here.
        rank, probability, logit: of the target's first token, by the same lens.
        word_probability: of the whole target; at the prompt's last position only.
        contribution: what the row adds to the logit of the target's first token, of which
            ``…_logit`` are the parts; at the prompt's last position only.
        attention … intervention: lengths of what each part adds to the residual stream.
        residual: the length of the stream.
        attention_share: of the lengths of attention and FFN.
    """

    layer: int
    position: int
    token: str | None
    lens: str | None = None
    lens_probability: float | None = None
    rank: int | None = None
    probability: float | None = None
    word_probability: float | None = None
    logit: float | None = None
    contribution: float | None = None
    attention_logit: float | None = None
    ffn_logit: float | None = None
    per_layer_logit: float | None = None
    norm_logit: float | None = None
    intervention_logit: float | None = None
    attention: float | None = None
    ffn: float | None = None
    per_layer: float | None = None
    scalar: float | None = None
    norm: float | None = None
    intervention: float | None = None
    residual: float | None = None
    attention_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceResult(Result):
    """The residual stream of a prompt, layer by layer.

    Attributes:
        prompt, prompt_mode, target: what was asked; ``None`` where a saved trace does not say.
        lengths, share: which columns are shown besides.
        gap: how far the parts are from the stream, at worst, relative to its length.
        constant: what biases of the final norm and the head add to the target's logit.
        prediction: the most probable next tokens; empty for a saved trace.
        interventions: what was changed, as it was written.
        saved: the file that holds the trace.
    """

    form: ClassVar[Form] = Form.RECORD
    prompt: str | None
    prompt_mode: str | None
    target: str | None
    layers: tuple[TraceRow, ...]
    lengths: bool
    share: bool
    gap: float
    constant: float | None = None
    prediction: tuple[TokenRow, ...] = ()
    interventions: tuple[str, ...] = ()
    saved: str | None = None

    @property
    def columns(self) -> tuple[Column, ...]:
        """The place and the lens; FOR adds the target's, DECOMPOSE (or neither) the lengths."""
        return (
            *_PLACE,
            *_LENS,
            *(() if self.target is None else (*_TARGET, *_DIRECT)),
            *(_LENGTHS if self.lengths else ()),
            *(_SHARE if self.share else ()),
        )

    def records(self) -> Sequence[TraceRow]:
        """Layers ascending, positions within."""
        return self.layers

    def lens_map(self) -> LensMap | None:
        """The logit lens over layers and positions."""
        return traced_lens(self.prompt or "", self.layers)

    def contributions(self) -> Contributions | None:
        """What adds up to the target's logit."""
        if self.target is None:
            return None
        return traced_contributions(self.prompt or "", self.target, self.layers, self.constant)

    def to_dict(self) -> dict[str, Any]:
        """What was asked, the layers, the prediction."""
        return {
            "prompt": self.prompt,
            "prompt_mode": self.prompt_mode,
            "target": self.target,
            "interventions": list(self.interventions),
            "layers": self.to_rows(),
            "constant": self.constant,
            "gap": self.gap,
            "prediction": [fields_of(token) for token in self.prediction],
            "saved": self.saved,
        }


@dataclass(frozen=True, slots=True)
class HeadRow:
    """An attention head; see ``HeadShare`` of the backend."""

    layer: int
    head: int
    length: float
    logit: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceHeadsResult(Result):
    """What attention heads add at the prompt's last position, the largest first."""

    prompt: str
    target: str | None
    heads: tuple[HeadRow, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """The head, the length of what it adds, and what that adds to the target's logit."""
        return (
            Column("layer", Kind.INTEGER),
            Column("head", Kind.INTEGER),
            Column("length", Kind.NUMBER, Unit.LENGTH),
            Column("logit", Kind.NUMBER, Unit.DOT),
        )

    def records(self) -> Sequence[HeadRow]:
        """The heads."""
        return self.heads


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """A feature; ``token`` and ``relation`` are as in SELECT … FROM FEATURES."""

    layer: int
    feature: int
    relation: str | None
    token: str | None
    activation: float
    length: float
    logit: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFeaturesResult(Result):
    """What features add at the prompt's last position, the largest first."""

    prompt: str
    target: str | None
    features: tuple[FeatureRow, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """The feature, what it writes, and what it adds."""
        return (
            Column("layer", Kind.INTEGER),
            Column("feature", Kind.INTEGER),
            Column("relation", Kind.TEXT),
            Column("token", Kind.TOKEN),
            Column("activation", Kind.NUMBER, Unit.DOT),
            Column("length", Kind.NUMBER, Unit.LENGTH),
            Column("logit", Kind.NUMBER, Unit.DOT),
        )

    def records(self) -> Sequence[FeatureRow]:
        """The features."""
        return self.features


@dataclass(frozen=True, slots=True)
class DiffRow:
    """One layer of two prompts, each at its last position.

    Attributes:
        distance: between the two residual streams; ``relative`` to the first one's length.
        cosine: of the two.
        lens_a, lens_b, lens_patched: what the model would say if it stopped here.
        target_a, target_b, target_patched: the probability of FOR's first token.
    """

    layer: int
    distance: float
    relative: float
    cosine: float
    lens_a: str
    probability_a: float
    lens_b: str
    probability_b: float
    lens_patched: str | None
    probability_patched: float | None
    target_a: float | None
    target_b: float | None
    target_patched: float | None


@dataclass(frozen=True, slots=True)
class RunTokenRow:
    """A ``TokenRow``, and the run (``a``, ``b`` or ``patched``) that it comes from."""

    run: str
    rank: int
    token: str
    token_id: int
    probability: float
    logit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceDiffResult(Result):
    """Two prompts layer by layer, and the first with the second's residual stream at one layer.

    Attributes:
        patch_layer: after which the stream was patched; ``None`` without PATCH.
        predictions: the most probable next tokens of each run.
    """

    form: ClassVar[Form] = Form.RECORD
    a: str
    b: str
    target: str | None
    patch_layer: int | None
    layers: tuple[DiffRow, ...]
    predictions: tuple[RunTokenRow, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """The layer, how far apart the streams are, and the lens of each run."""
        target = "target_a", "target_b", "target_patched"
        return (
            Column("layer", Kind.INTEGER),
            Column("distance", Kind.NUMBER, Unit.LENGTH),
            Column("relative", Kind.NUMBER, Unit.LENGTH),
            Column("cosine", Kind.NUMBER, Unit.DOT),
            *(
                Column(f"{name}_{run}", kind, unit)
                for run in ("a", "b", "patched")
                for name, kind, unit in (
                    ("lens", Kind.TOKEN, Unit.NONE),
                    ("probability", Kind.NUMBER, Unit.PROBABILITY),
                )
            ),
            *(Column(name, Kind.NUMBER, Unit.PROBABILITY) for name in target),
        )

    def records(self) -> Sequence[DiffRow]:
        """Layers ascending; -1 is the embedding."""
        return self.layers

    @property
    def prediction_columns(self) -> tuple[Column, ...]:
        """The columns of ``predictions``."""
        return (Column("run", Kind.TEXT), *TOKEN_COLUMNS)

    def to_dict(self) -> dict[str, Any]:
        """Prompts, layers and predictions."""
        return {
            "a": self.a,
            "b": self.b,
            "target": self.target,
            "patch_layer": self.patch_layer,
            "layers": self.to_rows(),
            "predictions": [fields_of(token) for token in self.predictions],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class UseTraceResult(Record):
    """What USE TRACE opened."""

    form: ClassVar[Form] = Form.STATUS
    path: str
    prompt: str | None
    model: str | None
    layers: int
    positions: int
    hidden: int

    def to_dict(self) -> dict[str, Any]:
        """The facts."""
        return fields_of(self, without=("meta",))
