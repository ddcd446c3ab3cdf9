"""LABEL FEATURES: from kept answers, or from a file of the reference's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlRuntimeError
from lql.execute.asking import Asking, asking
from lql.execute.describe_answer import UNATTRIBUTED
from lql.execute.slots import integer_or, not_available, text
from lql.results import Column, Kind, Unit, Value
from lql.results.table import TableResult
from vindex.edits import fact_name
from vindex.features import down_tokens
from vindex.labelling import Carried, Labelling, label_features
from vindex.labels import read_feature_labels
from vindex.overlay import Edit
from vindex.probes import FeatureLabel, Probe, PutLabel

if TYPE_CHECKING:
    from lql.inference.probing import Prober, Said
    from vindex.store import Vindex

SUPPORT = 3
"""Different answers that a feature must carry where MIN SUPPORT does not say."""

_CARRIERS = 20  # features that are said to carry an answer, at most
_SHARE = 0.01  # of the logit's lead, at least
_CONTRAST = 2  # entities of a kind that other relations are asked about

COLUMNS = (
    Column("layer", Kind.INTEGER),
    Column("feature", Kind.INTEGER),
    Column("relation", Kind.TEXT),
    Column("token", Kind.TOKEN),
    Column("support", Kind.INTEGER),
    Column("precision", Kind.NUMBER, Unit.PROBABILITY),
)


def run(statement: ast.LabelFeatures, context: Context) -> TableResult:
    """Run LABEL FEATURES. One edit labels all of them."""
    vindex = context.vindex(statement.title)
    if statement.path is not None:
        path = Path(text(statement.path)).expanduser()
        labels = _from_file(path, vindex, context)
        source = str(path)
    else:
        labels = _from_probes(statement, vindex, context)
        source = "PROBES"
    if labels:
        edit = Edit(f"LABEL FEATURES FROM {source}", tuple(PutLabel(each) for each in labels))
        context.state.overlay.commit(edit)
    return _table(labels, vindex)


def _from_file(path: Path, vindex: Vindex, context: Context) -> Sequence[FeatureLabel]:
    """The labels of a ``feature_labels.json`` that name features of the vindex.

    Raises:
        VindexInvalid: it is not the JSON that it should be.
        OSError: there is no such file.
    """
    path.stat()
    known, skipped = read_feature_labels(path)
    layers = range(vindex.index.num_layers)
    labels = [
        FeatureLabel(layer, feature, relation)
        for (layer, feature), relation in sorted(known.items())
        if layer in layers and feature < vindex.num_features(layer)
    ]
    lost = skipped + len(known) - len(labels)
    if lost:
        context.note(f"{lost} of {skipped + len(known)} keys name no feature of this vindex")
    return labels


# --------------------------------------------------------------------------- from probes


def _from_probes(
    statement: ast.LabelFeatures, vindex: Vindex, context: Context
) -> Sequence[FeatureLabel]:
    support = integer_or(statement.support, SUPPORT)
    probes = [p for p in context.state.overlay.view.probes.values() if p.answers]
    relations = {probe.relation for probe in probes}
    if len(probes) < 2 * support:
        raise LqlRuntimeError(
            Diagnostic(
                Code.NOTHING_PROBED,
                f"{len(probes)} kept answers are too few to label features from: each half of them "
                f"must hold {support}",
                span=statement.span,
                helps=('PROBE RELATION "capital" FROM "countries.txt"; asks and keeps answers',),
            )
        )
    held = asking(statement.title, context)
    describer = held.describer
    if not describer.attributes:
        raise not_available(f"{statement.title} for {UNATTRIBUTED}", statement.span)
    prober = describer.probes()
    said = [prober.said(p.answers[0].source, p.answers[0].token_id) for p in probes]
    others = list(_contrast(held, relations))
    context.progress.phase("what other relations are answered", 1, "")
    spoken = prober.spoken([source for _, _, source in others], cancel=context.cancel)
    context.progress.phase("which features carry the answers", len(said) + len(spoken), "")
    carried = _carried(prober, [*said, *spoken], vindex, context)
    asked = [
        *(_of_probe(probe, features) for probe, features in zip(probes, carried, strict=False)),
        *(
            Carried(entity, relation, str(each.answer[0]), features)
            for (entity, relation, _), each, features in zip(
                others, spoken, carried[len(probes) :], strict=True
            )
        ),
    ]
    found = label_features(asked, relations, least_support=support)
    _report(found, len(probes), context)
    return sorted(found.labels, key=_usual_order)


def _of_probe(probe: Probe, features: frozenset[tuple[int, int]]) -> Carried:
    return Carried(probe.entity, probe.relation, probe.answers[0].target.casefold(), features)


def _contrast(held: Asking, relations: Iterable[str]) -> Iterable[tuple[str, str, str]]:
    """Entity, relation and text of questions that ask for anything else."""
    taken = {fact_name("", relation) for relation in relations}
    known = held.describer.catalogue
    for name, kind in known.kinds.items():
        by_relation: dict[str, list[int]] = {}
        questions = known.questions(name)
        for at, question in enumerate(questions):
            if fact_name("", question.relation) not in taken:
                by_relation.setdefault(question.relation, []).append(at)
        for number, (relation, places) in enumerate(by_relation.items()):
            for turn in range(_CONTRAST):
                entity = kind.background[(number + turn) % len(kind.background)]
                question = questions[places[turn % len(places)]]
                yield entity, f"{relation} of a {name}", question.asked(entity)


def _carried(
    prober: Prober, said: Sequence[Said], vindex: Vindex, context: Context
) -> list[frozenset[tuple[int, int]]]:
    layers = range(vindex.index.num_layers)
    found = prober.carriers(
        said, layers, top=_CARRIERS, advance=context.progress.advance, cancel=context.cancel
    )
    return [
        frozenset((each.layer, each.feature) for each in carriers if each.share >= _SHARE)
        for carriers in found
    ]


def _report(found: Labelling, probes: int, context: Context) -> None:
    context.note(
        f"{len(found.labels)} features labelled from {probes} answers; {found.refused} more had "
        "the support and did not hold on the entities held out"
    )


def _usual_order(label: FeatureLabel) -> tuple[str, float, int, int, int]:
    return (
        label.relation,
        -(label.precision or 0.0),
        -(label.support or 0),
        label.layer,
        label.feature,
    )


def _table(labels: Sequence[FeatureLabel], vindex: Vindex) -> TableResult:
    return TableResult(shape=COLUMNS, values=tuple(_row(each, vindex) for each in labels))


def _row(label: FeatureLabel, vindex: Vindex) -> tuple[Value, ...]:
    down = vindex.down_meta
    described = label.feature < down.num_features(label.layer)
    tokens = down_tokens(vindex, down.records(label.layer)[label.feature]) if described else ()
    written = next((each.token for each in islice(tokens, 1)), None)
    return (
        label.layer,
        label.feature,
        label.relation,
        written,
        label.support,
        label.precision,
    )
