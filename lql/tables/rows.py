"""Rows of the tables that are small enough to be made in Python: LAYERS, RELATIONS, MODELS,
PATCHES."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vindex import files
from vindex.edits import EditView
from vindex.errors import Unsupported, VindexError
from vindex.features import describe_layer, down_tokens
from vindex.labels import LabelSource
from vindex.overlay import Overlay
from vindex.spec import AttentionKind
from vindex.store import Vindex, open_vindex

EXAMPLES, ANSWERS = 5, 3

LayerFacts = tuple[int, str | None, str | None, int, int, str | None, int | None]
RelationFacts = tuple[str, int, int, int, int, int, int | None, int | None]
EntityFacts = tuple[str, int, None, None, None, int]
ModelFacts = tuple[str, str | None, str | None, int | None, str | None, str | None, int, str]
PatchFacts = tuple[str, int, int]


def layer_rows(vindex: Vindex) -> list[LayerFacts]:
    """LAYERS, ascending."""
    found: list[LayerFacts] = []
    for layer in range(vindex.index.num_layers):
        summary = describe_layer(vindex, layer)
        band = None if vindex.bands is None else vindex.bands.band_of(layer)
        found.append(
            (
                layer,
                None if band is None else band.value,
                _attention(vindex, layer),
                summary.features,
                summary.described,
                summary.token,
                summary.writers if summary.described else None,
            )
        )
    return found


def _attention(vindex: Vindex, layer: int) -> str | None:
    try:
        kind = vindex.spec.layers[layer].attention.kind
    except Unsupported:
        return None
    return "sliding" if kind is AttentionKind.SLIDING else "full"


@dataclass(slots=True)
class _Relation:
    """A relation while its features are being counted."""

    features: int = 0
    probes: int = 0
    layers: set[int] = field(default_factory=set)
    strongest: list[tuple[float, str]] = field(default_factory=list)
    edges: int = 0
    answers: list[tuple[float, str]] = field(default_factory=list)
    templates: int = 0


def relation_rows(
    vindex: Vindex, only: int | None, view: EditView, defined: Mapping[str, int]
) -> tuple[list[RelationFacts], list[tuple[str, ...]]]:
    """RELATIONS, those of most features and then of most edges first, and examples of them.

    Args:
        vindex: whose labels.
        only: the layer whose features are counted, and nothing else; ``None`` for everything.
        view: stored facts and kept answers, the edges.
        defined: relations that the user defined, with the number of their templates.
    """
    labels = vindex.labels
    relations: defaultdict[str, _Relation] = defaultdict(_Relation)
    for layer, feature in sorted(labels.probes.keys() | labels.assignments.keys()):
        label = labels.of(layer, feature)
        known = layer < vindex.index.num_layers and feature < vindex.num_features(layer)
        if label is None or not known or only not in (None, layer):
            continue
        relation = relations[label.text]
        relation.features += 1
        relation.probes += label.source is LabelSource.PROBE
        relation.layers.add(layer)
        if feature < vindex.down_meta.num_features(layer):
            written = down_tokens(vindex, vindex.down_meta.records(layer)[feature])[:1]
            relation.strongest += [(token.score, token.token) for token in written]
    if only is None:
        _count_edges(relations, view)
        for name, templates in defined.items():
            relations[name].templates = templates
    order = sorted(
        relations, key=lambda name: (-relations[name].features, -relations[name].edges, name)
    )
    facts: list[RelationFacts] = [
        (
            name,
            (found := relations[name]).features,
            found.probes,
            found.features - found.probes,
            found.edges,
            found.templates,
            min(found.layers, default=None),
            max(found.layers, default=None),
        )
        for name in order
    ]
    return facts, [
        (*_examples(found.answers)[:ANSWERS], *_examples(found.strongest))[:EXAMPLES]
        for found in (relations[name] for name in order)
    ]


def _count_edges(relations: defaultdict[str, _Relation], view: EditView) -> None:
    for probe in view.probes.values():
        relation = relations[probe.relation]
        relation.edges += len(probe.answers)
        relation.answers += [
            (answer.probability, f"{probe.entity}: {answer.target}") for answer in probe.answers
        ]
    for fact in view.facts.values():
        relation = relations[fact.relation]
        relation.edges += 1
        relation.answers.append((fact.confidence, f"{fact.entity}: {fact.target}"))


def entity_rows(view: EditView) -> list[EntityFacts]:
    """What ENTITIES knows beside the features: entities of stored facts and kept answers."""
    edges = Counter(fact.entity for fact in view.facts.values())
    for probe in view.probes.values():
        edges[probe.entity] += len(probe.answers)
    return [(entity, 0, None, None, None, count) for entity, count in edges.items() if count]


def _examples(written: list[tuple[float, str]]) -> tuple[str, ...]:
    """The strongest tokens, each once."""
    ranked = sorted(written, key=lambda pair: (-pair[0], pair[1]))
    return tuple(dict.fromkeys(token for _, token in ranked))[:EXAMPLES]


def model_rows() -> list[ModelFacts]:
    """MODELS: the vindexes of the working directory, by name."""
    return [_model(path.parent) for path in sorted(Path().glob("*/index.json"))]


def patch_rows(overlay: Overlay) -> list[PatchFacts]:
    """PATCHES, in the order in which they were applied."""
    found: list[PatchFacts] = []
    for name in overlay.patches:
        edits = [edit for edit in overlay.edits if edit.patch == name]
        found.append((name, len(edits), sum(len(edit.operations) for edit in edits)))
    return found


def _model(path: Path) -> ModelFacts:
    size = sum(files.stored_sizes(path).values())
    try:
        with open_vindex(path) as vindex:
            index = vindex.index
            return (
                str(path),
                index.model,
                index.family,
                index.num_layers,
                vindex.level.value,
                index.dtype.value,
                size,
                "ready",
            )
    except VindexError as error:
        return (str(path), None, None, None, None, None, size, error.message)
