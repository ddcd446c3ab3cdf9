"""Probes and labels as keys of a patch file, which larql ignores: ``probes`` and ``labels``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vindex.probes import FeatureLabel, Probe, ProbeAnswer, PutLabel, PutProbe
from vindex.signals import Signal
from vindex.strict_json import Fields

if TYPE_CHECKING:
    from vindex.edits import Operation
    from vindex.store import Vindex

_MAX_ENTRIES = 1_000_000
_MAX_ANSWERS = 1_000
_SIGNALS = tuple(signal.value for signal in Signal)


def dump_probes(operations: Iterable[Operation]) -> dict[str, Any]:
    """The keys that hold the probes and labels among operations; none where there are none."""
    probes, labels = [], []
    for operation in operations:
        match operation:
            case PutProbe(probe):
                probes.append(probe_entry(probe))
            case PutLabel(label):
                labels.append(
                    {
                        "layer": label.layer,
                        "feature": label.feature,
                        "relation": label.relation,
                        "support": label.support,
                        "precision": label.precision,
                    }
                )
            case _:
                pass
    found = {"probes": probes, "labels": labels}
    return {key: entries for key, entries in found.items() if entries}


def probe_entry(probe: Probe) -> dict[str, Any]:
    """A probe as plain values for JSON."""
    return {
        "entity": probe.entity,
        "relation": probe.relation,
        "kind": probe.kind,
        "templates": list(probe.templates),
        "top": probe.top,
        "answers": [
            {
                "target": answer.target,
                "token_id": answer.token_id,
                "probability": answer.probability,
                "lift_nats": answer.lift_nats,
                "signal": answer.signal,
                "source": answer.source,
            }
            for answer in probe.answers
        ],
    }


def read_probes(top: Fields, path: Path, vindex: Vindex) -> list[PutProbe | PutLabel]:
    """The probes and labels of a patch.

    Args:
        top: the whole file.
        path: the file, for messages.

    Raises:
        VindexInvalid: an entry is malformed, or names what the vindex does not have.
    """
    probes = top.array_or_none("probes", _MAX_ENTRIES) or []
    labels = top.array_or_none("labels", _MAX_ENTRIES) or []
    return [
        *(
            PutProbe(read_probe(Fields(entry, path, f"probes[{number}]"), path, vindex))
            for number, entry in enumerate(probes)
        ),
        *(
            PutLabel(_label(Fields(entry, path, f"labels[{number}]"), vindex))
            for number, entry in enumerate(labels)
        ),
    ]


def read_probe(fields: Fields, path: Path, vindex: Vindex) -> Probe:
    """A probe as ``probe_entry`` writes it.

    Raises:
        VindexInvalid: it is malformed, or names a token that the vindex does not have.
    """
    answers = fields.array("answers", _MAX_ANSWERS)
    templates = fields.array("templates", _MAX_ANSWERS)
    if not all(type(template) is str for template in templates):
        fields.refuse("templates", "expected strings")
    place = fields.place("answers")
    return Probe(
        entity=fields.text("entity"),
        relation=fields.text("relation"),
        kind=fields.text("kind"),
        templates=tuple(templates),
        top=fields.integer("top", low=1),
        answers=tuple(_answers(answers, path, place, vindex)),
    )


def _answers(
    entries: Sequence[Any], path: Path, place: str, vindex: Vindex
) -> Iterable[ProbeAnswer]:
    for number, entry in enumerate(entries):
        fields = Fields(entry, path, f"{place}[{number}]")
        probability, signal = fields.number("probability"), fields.text("signal")
        if not 0.0 <= probability <= 1.0:
            fields.refuse("probability", f"{probability} is outside 0..1")
        if signal not in _SIGNALS:
            fields.refuse("signal", f"{signal!r} is not one of {', '.join(_SIGNALS)}")
        yield ProbeAnswer(
            target=fields.text("target"),
            token_id=fields.integer("token_id", high=vindex.index.vocab_size - 1),
            probability=probability,
            lift_nats=fields.number("lift_nats"),
            signal=signal,
            source=fields.text("source"),
        )


def _label(fields: Fields, vindex: Vindex) -> FeatureLabel:
    layer = fields.integer("layer", high=vindex.index.num_layers - 1)
    precision = fields.number_or_none("precision")
    if precision is not None and not 0.0 <= precision <= 1.0:
        fields.refuse("precision", f"{precision} is outside 0..1")
    return FeatureLabel(
        layer=layer,
        feature=fields.integer("feature", high=vindex.num_features(layer) - 1),
        relation=fields.text("relation"),
        support=fields.integer_or_none("support"),
        precision=precision,
    )
