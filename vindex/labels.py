"""Relation labels of features: probe labels and clusters that an extract or a user left behind.

Three optional files. ``feature_labels.json`` maps ``L<layer>_F<feature>`` to a label and wins over
``relation_clusters.json`` (labels by cluster) with ``feature_clusters.jsonl`` (cluster by feature).
A file that is not what it should be is an error, unlike in larql, which then behaves as if there
were none; a key or a line that names no feature is skipped and counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from vindex import files
from vindex.errors import VindexInvalid
from vindex.strict_json import Fields, load

_MAX_BYTES = 1 << 30
_FEATURE_KEY = re.compile(r"L(\d{1,9})_F(\d{1,18})")


class LabelSource(Enum):
    """Who named the feature."""

    PROBE = "probe"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class Label:
    """A feature's relation."""

    text: str
    source: LabelSource


@dataclass(frozen=True, slots=True)
class Measured:
    """How well a label is founded: see ``vindex.probes.FeatureLabel``."""

    support: int
    precision: float


@dataclass(frozen=True, slots=True)
class Labels:
    """All labels of a vindex.

    Attributes:
        probes: (layer, feature) -> label.
        clusters: cluster number -> label.
        assignments: (layer, feature) -> cluster number.
        skipped: keys and lines that name no feature or no cluster.
        measured: (layer, feature) -> how well the label is founded, where that was measured.
    """

    probes: Mapping[tuple[int, int], str]
    clusters: Mapping[int, str]
    assignments: Mapping[tuple[int, int], int]
    skipped: int = 0
    measured: Mapping[tuple[int, int], Measured] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.probes or self.assignments)

    def of(self, layer: int, feature: int) -> Label | None:
        """The label of a feature: a probe's if there is one, else its cluster's."""
        probe = self.probes.get((layer, feature))
        if probe is not None:
            return Label(probe, LabelSource.PROBE)
        cluster = self.assignments.get((layer, feature))
        if cluster is None or cluster not in self.clusters:
            return None
        return Label(self.clusters[cluster], LabelSource.CLUSTER)


def read_labels(directory: Path) -> Labels:
    """Read the label files of a vindex; all of them are optional.

    Raises:
        VindexInvalid: a file that is not the JSON it should be.
    """
    probes, skipped = read_feature_labels(directory / files.FEATURE_LABELS)
    clusters = _read_clusters(directory / files.RELATION_CLUSTERS)
    assignments, lost = _read_assignments(directory / files.FEATURE_CLUSTERS)
    return Labels(probes, clusters, assignments, skipped + lost)


def dump_probes(path: Path, probes: Mapping[tuple[int, int], str]) -> bytes:
    """``feature_labels.json`` with other labels; what in it names no feature stays.

    Args:
        path: the present file, if there is one.
        probes: every label that the new one is to hold.
    """
    document = load(files.read_small(path, _MAX_BYTES), path) if path.exists() else {}
    if type(document) is not dict:
        raise VindexInvalid(f"{path.name}: expected an object", path=path)
    rest = {key: label for key, label in document.items() if not _FEATURE_KEY.fullmatch(key)}
    named = {f"L{layer}_F{feature}": label for (layer, feature), label in sorted(probes.items())}
    return json.dumps({**named, **rest}, indent=2, ensure_ascii=False).encode()


def read_feature_labels(path: Path) -> tuple[dict[tuple[int, int], str], int]:
    """The labels of a ``feature_labels.json`` by (layer, feature), and how many keys it skips.

    Raises:
        VindexInvalid: it is not the JSON that it should be.
    """
    if not path.exists():
        return {}, 0
    document = load(files.read_small(path, _MAX_BYTES), path)
    if type(document) is not dict:
        raise VindexInvalid(f"{path.name}: expected an object", path=path)
    probes: dict[tuple[int, int], str] = {}
    for key, label in document.items():
        match = _FEATURE_KEY.fullmatch(key)
        if match is not None and type(label) is str:
            probes[int(match[1]), int(match[2])] = label
    return probes, len(document) - len(probes)


def _read_clusters(path: Path) -> dict[int, str]:
    if not path.exists():
        return {}
    fields = Fields(load(files.read_small(path, _MAX_BYTES), path), path)
    labels = fields.array("labels", limit=1 << 24)
    if any(type(label) is not str for label in labels):
        fields.refuse("labels", "expected an array of strings")
    return dict(enumerate(labels))


def _read_assignments(path: Path) -> tuple[dict[tuple[int, int], int], int]:
    if not path.exists():
        return {}, 0
    assignments: dict[tuple[int, int], int] = {}
    skipped = 0
    for line in files.read_small(path, _MAX_BYTES).splitlines():
        if not line.strip():
            continue
        fields = Fields(load(line, path), path)
        layer, feature, cluster = (fields.raw(key) for key in ("l", "f", "c"))
        if type(layer) is int and type(feature) is int and type(cluster) is int:
            assignments[layer, feature] = cluster
        else:
            skipped += 1
    return assignments, skipped
