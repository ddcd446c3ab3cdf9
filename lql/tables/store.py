"""A vindex as relations of the engine, each made when a statement first reads it.

The numbers of FEATURES are gathered from ``down_meta.bin`` once (12 bytes a feature) and then read
in place; token texts are a table of their own, joined by id. ``also`` stays where it is in the
file until a statement shows or filters it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lql.results import Kind
from lql.tables.engine import Engine, integers, numbers, texts
from lql.tables.schema import ALSO, EXAMPLES, Field, TableSchema
from vindex.bands import Bands
from vindex.downmeta import Records, present, used_slots
from vindex.features import token_texts
from vindex.store import Vindex

if TYPE_CHECKING:
    from lql.results import Value

Tokens = tuple[str, ...]


class ModelTables:
    """The tables of one vindex.

    Args:
        vindex: stays open as long as its tables are used.
    """

    def __init__(self, vindex: Vindex | None) -> None:
        self.engine = Engine()
        self._vindex = vindex
        self._made: set[str] = set()
        self._makers: dict[str, Callable[[], None]] = {
            "feature": self._make_features,
            ALSO: self._make_also,
            "feature_label": self._make_labels,
            "layer_band": self._make_bands,
            "token_text": self._make_texts,
            "token_count": self._make_counts,
        }
        self._examples: list[Tokens] = []

    @property
    def vindex(self) -> Vindex:
        """The vindex behind every table but MODELS and TRACE."""
        assert self._vindex is not None, "the statement reads a vindex"
        return self._vindex

    def prepare(self, sql: str) -> None:
        """Make the relations that a query names."""
        for name, make in self._makers.items():
            if name in sql and name not in self._made:
                make()
                self._made.add(name)

    def register_rows(
        self, name: str, schema: TableSchema, found: Sequence[Sequence[Value]]
    ) -> None:
        """Register rows under the names of a schema's fields, lists of tokens left out."""
        columns: dict[str, npt.NDArray[np.generic]] = {"rid": np.arange(len(found))}
        for index, field in enumerate(schema.fields):
            if field.items is None:
                columns[field.name] = _array(field, [row[index] for row in found])
        self.engine.register(name, columns)

    def register_examples(self, lists: Sequence[Tokens]) -> None:
        """Register the lists of tokens of RELATIONS, by row."""
        self._examples = list(lists)
        pairs = [(rid, item) for rid, items in enumerate(lists) for item in items]
        self.engine.register(
            EXAMPLES,
            {
                "rid": integers([rid for rid, _ in pairs]),
                "item": texts([item for _, item in pairs]),
            },
        )

    def tokens_of(self, field: Field, rids: Iterable[Value]) -> list[Value]:
        """The lists of tokens of rows by their numbers; ``None`` for a row that is missing."""
        find = self._also if field.items == ALSO else self._examples.__getitem__
        return [find(rid) if isinstance(rid, int) else None for rid in rids]

    def register_scores(
        self, name: str, layer: int, scores: npt.NDArray[np.float32] | None
    ) -> None:
        """Register what NEAREST found: a score per feature of a layer, ``[F]``, or nothing."""
        found = np.empty(0, np.float32) if scores is None else scores
        first = self._starts[layer]
        self.engine.register(name, {"rid": np.arange(first, first + len(found)), "gate": found})

    def close(self) -> None:
        """Let go of everything."""
        self.engine.close()

    # ------------------------------------------------------------------------- features

    @cached_property
    def _records(self) -> list[Records | None]:
        """The records of each layer; ``None`` where ``down_meta.bin`` has none."""
        down = self.vindex.down_meta
        layers = range(self.vindex.index.num_layers)
        return [down.records(layer) if down.num_features(layer) else None for layer in layers]

    @cached_property
    def _counts(self) -> list[int]:
        """Features of each layer."""
        return [
            self.vindex.num_features(layer) if records is None else len(records)
            for layer, records in enumerate(self._records)
        ]

    @cached_property
    def _starts(self) -> list[int]:
        """The ``rid`` of each layer's first feature, and one past the last of all."""
        return [0, *np.cumsum(self._counts, dtype=np.int64).tolist()]

    @cached_property
    def _token_ids(self) -> npt.NDArray[np.int64]:
        """The strongest token of each feature, ``[N]``; -1 where it has none."""
        return self._gathered("token", np.int64(-1))

    @cached_property
    def _edited(self) -> npt.NDArray[np.bool_]:
        """Whether an edit stands over each feature, ``[N]``."""
        marks = [np.zeros(count, np.bool_) for count in self._counts]
        for layer, mark in enumerate(marks):
            mark[list(self.vindex.edited_features(layer))] = True
        return np.concatenate(marks) if marks else np.empty(0, np.bool_)

    def _gathered(self, name: str, missing: np.int64 | np.float32) -> npt.NDArray[np.int64]:
        parts = [
            np.full(count, missing)
            if records is None
            else np.where(present(records), records[name], missing)
            for records, count in zip(self._records, self._counts, strict=True)
        ]
        return np.concatenate(parts) if parts else np.empty(0, missing.dtype)

    def _make_features(self) -> None:
        ids = self._token_ids
        missing = ids < 0
        wrong = ids[ids >= self.vindex.index.vocab_size]
        token_texts(self.vindex, wrong[:1].tolist())  # says what is damaged
        self.engine.register(
            "feature",
            {
                "rid": np.arange(len(ids)),
                "layer": np.repeat(np.arange(len(self._counts)), self._counts),
                "feature": np.concatenate(
                    [np.arange(count) for count in self._counts] or [np.empty(0, np.int64)]
                ),
                "token_id": np.ma.masked_array(ids, missing),
                "logit": np.ma.masked_array(self._gathered("score", np.float32(0)), missing),
                "edited": self._edited,
            },
        )

    def _also(self, rid: int) -> Tokens:
        """The tokens after the first of a feature, strongest first."""
        layer = int(np.searchsorted(self._starts, rid, side="right")) - 1
        records = self._records[layer]
        if records is None:
            return ()
        record = records[rid - self._starts[layer]][np.newaxis]
        ids = record["top"]["token"][0, 1:][used_slots(record)[0, 1:]]
        return tuple(token_texts(self.vindex, ids.tolist()))

    def _make_also(self) -> None:
        rids: list[npt.NDArray[np.int64]] = []
        ids: list[npt.NDArray[np.int64]] = []
        for start, records in zip(self._starts, self._records, strict=False):
            if records is not None:
                row, slot = np.nonzero(used_slots(records)[:, 1:])
                rids.append(row + start)
                ids.append(records["top"]["token"][row, slot + 1].astype(np.int64))
        empty = np.empty(0, np.int64)
        columns = {
            "rid": np.concatenate(rids) if rids else empty,
            "token_id": np.concatenate(ids) if ids else empty,
        }
        self.engine.register("also_token", columns)
        self._require_texts()
        self.engine.command(
            f"CREATE VIEW {ALSO} AS SELECT a.rid, t.token AS item "
            "FROM also_token AS a JOIN token_text AS t ON t.token_id = a.token_id"
        )

    def _make_labels(self) -> None:
        labels = self.vindex.labels
        keys = sorted(labels.probes.keys() | labels.assignments.keys())
        found = [
            (self._starts[layer] + feature, label, labels.measured.get((layer, feature)))
            for layer, feature in keys
            if layer < len(self._counts) and feature < self._counts[layer]
            if (label := labels.of(layer, feature)) is not None
        ]
        self.engine.register(
            "feature_label",
            {
                "rid": integers([rid for rid, _, _ in found]),
                "relation": texts([label.text for _, label, _ in found]),
                "label_source": texts([label.source.value for _, label, _ in found]),
                "support": integers(
                    [None if each is None else each.support for _, _, each in found]
                ),
                "precision": numbers(
                    [None if each is None else each.precision for _, _, each in found]
                ),
            },
        )

    def _make_bands(self) -> None:
        layers = range(self.vindex.index.num_layers)
        self.engine.register(
            "layer_band",
            {
                "layer": np.arange(len(layers)),
                "band": texts([_band(self.vindex.bands, layer) for layer in layers]),
            },
        )

    # ------------------------------------------------------------------------- tokens

    def _make_texts(self) -> None:
        ids = range(self.vindex.index.vocab_size)
        self.engine.register(
            "token_source",
            {"token_id": np.arange(len(ids)), "token": texts(self.vindex.token_texts.texts(ids))},
        )
        # Python's strings would be converted by every query that joins them: they are copied once.
        self.engine.command("CREATE TABLE token_text AS SELECT token_id, token FROM token_source")
        self.engine.forget("token_source")

    def _require_texts(self) -> None:
        if "token_text" not in self._made:
            self._make_texts()
            self._made.add("token_text")

    def _make_counts(self) -> None:
        ids, size = self._token_ids, self.vindex.index.vocab_size
        counts = np.bincount(ids[ids >= 0], minlength=size)
        self.engine.register(
            "token_count", {"token_id": np.arange(size), "features": counts[:size]}
        )


def _band(bands: Bands | None, layer: int) -> str | None:
    band = None if bands is None else bands.band_of(layer)
    return None if band is None else band.value


def _array(field: Field, values: list[Value]) -> npt.NDArray[np.generic]:
    match field.column.kind:
        case Kind.INTEGER:
            return integers([value if isinstance(value, int) else None for value in values])
        case Kind.NUMBER:
            return numbers([value if isinstance(value, float) else None for value in values])
        case _:
            return texts([value if isinstance(value, str) else None for value in values])
