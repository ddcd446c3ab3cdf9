"""A vindex whose tables are known row by row, with texts that careless SQL trips over.

Its features, tokens and labels are written here and turned into files, and apart from that into
the rows that an oracle reads. Numbers are multiples of 1/8, so that sums of them are exact.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from lql.ast import Table
from tests.unit.vindex_files import edit_json, extract_golden, unseal
from vindex import files, tokens
from vindex.downmeta import DownMetaWriter, record_dtype
from vindex.kinds import ExtractLevel, StorageDtype
from vindex.store import open_vindex

Row = dict[str, Any]

LAYERS, FEATURES, VOCABULARY, TOP_K = 4, 160, 384, 10
BANDS = {"syntax": [0, 0], "knowledge": [1, 2], "output": [3, 3]}
HOSTILE = (
    "Paris",
    "paris",
    "PARIS",
    "Rome",
    "Île",
    "île",
    "ß",
    "Σίγμα",
    "σίγμα",
    "'",
    "''; DROP TABLE feature; --",
    '"',
    '"; SELECT 1; --',
    "%",
    "_",
    "a_b",
    "a%b",
    "\\",
    "\\%",
    "a\x00b",
    "\x00",
    "a\nb",
    "a\tb",
    "$1",
    "?",
    ":p",
    "{rows}",
    "NULL",
    "",
    "0",
    "1.5",
    "日本",
    "é",
    "e\u0301",
    "\u202eabc",
    "😀",
    "Zürich",
    "The",
    "Two",
    "Ab",
    "Abc",
    "Éclair",
    "London",
    "Berlin",
)
TEXTS = tuple(HOSTILE[i] if i < len(HOSTILE) else f"Word{i % 97}" for i in range(VOCABULARY))
RELATIONS = ("capital", "it's", '"quoted"', "100 %", "language", "Capital")


def make(target: Path) -> Path:
    """Write the vindex."""
    extract_golden("llama_h96", target, level=ExtractLevel.BROWSE, dtype=StorageDtype.F32)
    unseal(target)
    edit_json(target / files.INDEX, lambda index: index.update(layer_bands=BANDS))
    (target / tokens.FILE).write_bytes(tokens.token_texts_bytes(TEXTS))
    gate = np.memmap(target / files.GATE, np.float32, "r+")
    gate *= 12  # as large as in real models, so that some features answer to an entity
    gate.flush()
    with open(target / files.DOWN_META, "wb") as out:
        writer = DownMetaWriter(out.write, LAYERS, TOP_K)
        for layer in RECORDS:
            records = np.zeros(FEATURES, record_dtype(TOP_K))
            for record, slots in zip(records, layer, strict=True):
                for at, (token_id, logit) in enumerate(slots):
                    record["top"][at] = (token_id, logit)
                if slots:
                    record["token"], record["score"] = slots[0]
            writer.layer(records)
    labels = {f"L{layer}_F{feature}": label for (layer, feature), label in PROBES.items()}
    (target / files.FEATURE_LABELS).write_text(json.dumps(labels | {"junk": "x"}))
    (target / files.RELATION_CLUSTERS).write_text(json.dumps({"labels": list(RELATIONS)}))
    lines = [{"l": layer, "f": f, "c": c} for (layer, f), c in CLUSTERS.items()]
    (target / files.FEATURE_CLUSTERS).write_text("\n".join(map(json.dumps, lines)))
    return target


def _records() -> list[list[list[tuple[int, float]]]]:
    source = random.Random(5)
    layers = []
    for _ in range(LAYERS):
        layer = []
        for _ in range(FEATURES):
            count = source.choice((0, 1, 2, 5, TOP_K))
            # Small ids are frequent: ties, groups, and tokens that many features write.
            ids = [int(VOCABULARY * source.random() ** 3) or 1 for _ in range(count)]
            logits = sorted((source.randrange(-16, 40) / 8 for _ in ids), reverse=True)
            layer.append(list(zip(ids, logits, strict=True)))
        layers.append(layer)
    return layers


def _labels() -> tuple[dict[tuple[int, int], str], dict[tuple[int, int], int]]:
    source = random.Random(6)
    everything = [(layer, feature) for layer in range(LAYERS) for feature in range(FEATURES)]
    probes = {key: source.choice(RELATIONS) for key in source.sample(everything, 60)}
    clusters = {key: source.randrange(len(RELATIONS) + 1) for key in source.sample(everything, 200)}
    return probes | {(LAYERS, 0): "beyond", (0, FEATURES): "beyond"}, clusters


RECORDS = _records()
PROBES, CLUSTERS = _labels()


def _label(layer: int, feature: int) -> tuple[str | None, str | None]:
    if (layer, feature) in PROBES:
        return PROBES[layer, feature], "probe"
    cluster = CLUSTERS.get((layer, feature), len(RELATIONS))
    return (RELATIONS[cluster], "cluster") if cluster < len(RELATIONS) else (None, None)


def band(layer: int) -> str:
    return next(name for name, (first, last) in BANDS.items() if first <= layer <= last)


def features() -> list[Row]:
    rows = []
    for layer, records in enumerate(RECORDS):
        for feature, slots in enumerate(records):
            token_id, logit = slots[0] if slots else (None, None)
            relation, source = _label(layer, feature)
            rows.append(
                {
                    "layer": layer,
                    "feature": feature,
                    "token": None if token_id is None else TEXTS[token_id],
                    "token_id": token_id,
                    "logit": logit,
                    "also": tuple(TEXTS[each] for each, _ in slots[1:]),
                    "relation": relation,
                    "label_source": source,
                    "band": band(layer),
                    "edited": False,
                }
            )
    return rows


STOPPED = {"The", "Two"}


def entities(rows: list[Row]) -> list[Row]:
    named: dict[str, list[Row]] = {}
    for row in rows:
        text = row["token"] or ""
        long = len(text.encode()) >= 3
        if long and re.fullmatch(r"[A-Z][^\W\d_]+", text) and text not in STOPPED:
            named.setdefault(text, []).append(row)
    order = sorted(named, key=lambda text: (-len(named[text]), text))
    return [
        {
            "entity": text,
            "features": len(named[text]),
            "logit": max(row["logit"] for row in named[text]),
            "first_layer": min(row["layer"] for row in named[text]),
            "last_layer": max(row["layer"] for row in named[text]),
            "edges": 0,
        }
        for text in order
    ]


def relations(rows: list[Row]) -> list[Row]:
    labelled: dict[str, list[Row]] = {}
    for row in rows:
        if row["relation"] is not None:
            labelled.setdefault(row["relation"], []).append(row)
    order = sorted(labelled, key=lambda name: (-len(labelled[name]), name))
    found = []
    for name in order:
        own = labelled[name]
        written = sorted((-r["logit"], r["token"]) for r in own if r["token"] is not None)
        probes = sum(row["label_source"] == "probe" for row in own)
        found.append(
            {
                "relation": name,
                "features": len(own),
                "probes": probes,
                "clusters": len(own) - probes,
                "edges": 0,
                "templates": 0,
                "first_layer": min(row["layer"] for row in own),
                "last_layer": max(row["layer"] for row in own),
                "examples": tuple(dict.fromkeys(token for _, token in written))[:5],
            }
        )
    return found


def layers() -> list[Row]:
    found = []
    for layer, records in enumerate(RECORDS):
        ids = Counter(slots[0][0] for slots in records if slots)
        writers = max(ids.values())
        token_id = min(each for each, count in ids.items() if count == writers)
        found.append(
            {
                "layer": layer,
                "band": band(layer),
                "attention": "full",
                "features": FEATURES,
                "described": ids.total(),
                "token": TEXTS[token_id],
                "writers": writers,
            }
        )
    return found


def token_rows() -> list[Row]:
    ids = Counter(slots[0][0] for records in RECORDS for slots in records if slots)
    return [{"token_id": i, "token": text, "features": ids[i]} for i, text in enumerate(TEXTS)]


def edges(path: Path, entities: tuple[str, ...]) -> list[Row]:
    """Static edges of some entities: what the vindex's own DESCRIBE finds, made rows."""
    from vindex.edges import describe_static

    with open_vindex(path) as vindex:
        return [
            {
                "entity": entity,
                "relation": None if edge.relation is None else edge.relation.text,
                "target": edge.target,
                "evidence": "static",
                "probability": None,
                "lift_nats": None,
                "layer": edge.layer,
                "feature": edge.feature,
                "share": None,
                "source": "gate",
            }
            for entity in entities
            for edge in describe_static(vindex, entity).edges
        ]


def tables() -> dict[Table, list[Row]]:
    rows = features()
    return {
        Table.FEATURES: rows,
        Table.ENTITIES: entities(rows),
        Table.RELATIONS: relations(rows),
        Table.LAYERS: layers(),
        Table.TOKENS: token_rows(),
        Table.PATCHES: [],
    }


COLUMNS: dict[Table, tuple[str, ...]] = {
    Table.FEATURES: tuple(features()[0]),
    Table.ENTITIES: ("entity", "features", "logit", "first_layer", "last_layer", "edges"),
    Table.RELATIONS: tuple(relations(features())[0]),
    Table.LAYERS: tuple(layers()[0]),
    Table.TOKENS: ("token_id", "token", "features"),
    Table.PATCHES: ("patch", "edits", "operations"),
}
