"""Traces as rows and as files.

Notation: L layers, P traced positions, D hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lql.cancel import CancelToken
from lql.inference.traces import DirectLogits, LensScore, Part, Stream, Trace
from lql.results.trace import TraceRow
from vindex.tracefile import REST, TraceFile

if TYPE_CHECKING:
    from lql.inference.model import LoadedModel

Floats = npt.NDArray[np.float32]

_NORMS = (Part.ATTENTION_NORM.value, Part.FFN_NORM.value)
_COLUMNS = {
    "attention": (Part.ATTENTION.value,),
    "ffn": (Part.FFN.value, REST),
    "per_layer": (Part.PER_LAYER.value,),
    "scalar": (Part.SCALAR.value,),
    "norm": _NORMS,
    "intervention": (Part.INTERVENTION.value,),
}
"""The columns of a row, and the parts that each is the sum of."""


def layer_rows(trace: Trace) -> tuple[TraceRow, ...]:
    """A trace's rows: layers ascending, positions within."""
    parts = {part.value: values for part, values in trace.stream.parts.items()}
    return _rows(
        trace.stream.residual,
        parts,
        trace.positions,
        trace.encoded.pieces,
        trace.lens,
        trace.direct,
    )


def saved_rows(
    file: TraceFile, target: str | None, model: LoadedModel | None, cancel: CancelToken
) -> tuple[tuple[TraceRow, ...], float]:
    """The rows of a saved trace, with a lens if a model is given, and its gap."""
    positions = file.places
    lens: Sequence[LensScore] = ()
    if model is not None:
        ids = () if target is None else model.target_ids(target.removeprefix(" "))
        lens = model.tracer.lens(Stream(file.residual, {}), positions, ids, cancel=cancel)
    changed = np.diff(file.residual.astype(np.float64), axis=0)
    missed = np.linalg.norm(changed - sum(file.parts.values()), axis=-1)
    lengths = np.linalg.norm(file.residual[1:].astype(np.float64), axis=-1)
    gap = float((missed / np.maximum(lengths, 1e-30)).max())
    return _rows(file.residual, file.parts, positions, file.pieces, lens, None), gap


def saved_file(trace: Trace, prompt: str, model: str, interventions: tuple[str, ...]) -> TraceFile:
    """A trace as it is saved."""
    return TraceFile(
        residual=trace.stream.residual,
        parts={part.value: values for part, values in trace.stream.parts.items()},
        positions=trace.positions,
        token_ids=trace.encoded.ids,
        pieces=trace.encoded.pieces,
        prompt=prompt,
        model=model,
        interventions=interventions,
    )


def _rows(
    residual: Floats,
    parts: Mapping[str, Floats],
    positions: tuple[int, ...],
    pieces: tuple[str, ...],
    lens: Sequence[LensScore],
    direct: DirectLogits | None,
) -> tuple[TraceRow, ...]:
    lengths = _lengths(parts)
    streams = np.linalg.norm(residual.astype(np.float64), axis=-1)  # [L + 1, P]
    scores = {(score.layer, score.position): score for score in lens}
    rows = []
    for layer in range(-1, len(residual) - 1):
        for place, position in enumerate(positions):
            own: dict[str, Any] = {}
            if layer >= 0:
                own = {name: float(values[layer, place]) for name, values in lengths.items()}
            both = own.get("attention", 0.0) + own.get("ffn", 0.0)
            rows.append(
                TraceRow(
                    layer=layer,
                    position=position,
                    token=pieces[position] if pieces else None,
                    residual=float(streams[layer + 1, place]),
                    attention_share=own.get("attention", 0.0) / both if both else None,
                    **own,
                    **_score(scores.get((layer, position))),
                    **(_direct(direct, layer) if position == len(pieces) - 1 else {}),
                )
            )
    return tuple(rows)


def _lengths(parts: Mapping[str, Floats]) -> dict[str, npt.NDArray[np.float64]]:
    """The lengths of what each column stands for, [L, P]; of those that there are."""
    lengths = {}
    for column, names in _COLUMNS.items():
        there = [parts[name].astype(np.float64) for name in names if name in parts]
        if there:
            lengths[column] = np.linalg.norm(np.sum(there, axis=0), axis=-1)
    return lengths


def _score(score: LensScore | None) -> dict[str, Any]:
    if score is None:
        return {}
    found: dict[str, Any] = {
        "lens": score.best.token,
        "lens_probability": score.best.probability,
    }
    if score.target is not None:
        found["rank"] = score.target.rank
        found["probability"] = score.target.probability
        found["word_probability"] = score.target.word_probability
        found["logit"] = score.target.logit
    return found


def _direct(direct: DirectLogits | None, layer: int) -> dict[str, Any]:
    if direct is None:
        return {}
    if layer < 0:
        return {"contribution": direct.embedding}
    named = {part.value: float(values[layer]) for part, values in direct.parts.items()}
    found = {
        f"{column}_logit": sum(named[name] for name in names if name in named)
        for column, names in _COLUMNS.items()
        if any(name in named for name in names)
    }
    return {"contribution": sum(named.values()), **found}
