"""What the tables are: their columns, what each is computed from, their natural order.

A table is a relation of the engine under a short name, and parts that are joined to it only where
a statement uses a column that needs them. ``rid`` numbers its rows in their natural order, which
breaks every tie. Everything in this module is a constant: it is the only source of identifiers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from lql.ast import Table
from lql.results import Column, Kind, Unit


@dataclass(frozen=True, slots=True)
class Field:
    """A column of a table.

    Attributes:
        column: its name, kind and unit.
        sql: what it is, over the table's relation and parts. A list of tokens is the number of its
            row: the texts are put in place of it after the rows are chosen.
        part: the part that ``sql`` reads, or ``None``.
        shown: whether ``*`` stands for it, among others.
        items: for a list of tokens, a relation of ``rid`` and ``item``, one row per token.
    """

    column: Column
    sql: str
    part: str | None = None
    shown: bool = True
    items: str | None = None

    @property
    def name(self) -> str:
        """The column's name."""
        return self.column.name


@dataclass(frozen=True, slots=True)
class TableSchema:
    """A table.

    Attributes:
        relation: where its rows are, with the name that the SQL of its fields uses.
        rid: the number of a row.
        parts: what may be joined to the relation.
        aliases: other names of columns, as larql's users know them.
    """

    table: Table
    relation: str
    rid: str
    fields: tuple[Field, ...]
    parts: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

    def field(self, name: str) -> Field | None:
        """The field of a column name or alias."""
        wanted = self.aliases.get(name, name)
        return next((each for each in self.fields if each.name == wanted), None)


def _integer(name: str, sql: str, part: str | None = None, unit: Unit = Unit.NONE) -> Field:
    return Field(Column(name, Kind.INTEGER, unit), sql, part)


def _number(name: str, sql: str, unit: Unit, *, shown: bool = True) -> Field:
    return Field(Column(name, Kind.NUMBER, unit), f"CAST({sql} AS DOUBLE)", shown=shown)


def _text(name: str, sql: str, part: str | None = None) -> Field:
    return Field(Column(name, Kind.TEXT), sql, part)


def _token(name: str, sql: str, part: str | None = None) -> Field:
    return Field(Column(name, Kind.TOKEN), sql, part)


GATE = _number("gate", "n.gate", Unit.DOT)
"""What NEAREST adds to FEATURES."""

ALSO = "feature_also"
EXAMPLES = "relation_example"

_FEATURES = TableSchema(
    Table.FEATURES,
    "feature AS f",
    "f.rid",
    (
        _integer("layer", "f.layer"),
        _integer("feature", "f.feature"),
        _token("token", "t.token", "token"),
        _integer("token_id", "f.token_id"),
        _number("logit", "f.logit", Unit.LOGIT),
        Field(Column("also", Kind.TOKENS), "f.rid", items=ALSO),
        _text("relation", "r.relation", "label"),
        _text("label_source", "r.label_source", "label"),
        _text("band", "b.band", "band"),
        Field(Column("edited", Kind.BOOLEAN), "f.edited"),
        Field(Column("support", Kind.INTEGER), "r.support", "label", shown=False),
        Field(
            Column("precision", Kind.NUMBER, Unit.PROBABILITY), "r.precision", "label", shown=False
        ),
    ),
    parts={
        "token": "LEFT JOIN token_text AS t ON t.token_id = f.token_id",
        "label": "LEFT JOIN feature_label AS r ON r.rid = f.rid",
        "band": "LEFT JOIN layer_band AS b ON b.layer = f.layer",
        "nearest": "JOIN {nearest} AS n ON n.rid = f.rid",
    },
    aliases={"score": "logit", "c_score": "logit", "top_token": "token"},
)

_EDGES = TableSchema(
    Table.EDGES,
    "{rows} AS e",
    "e.rid",
    (
        _text("entity", "e.entity"),
        _text("relation", "e.relation"),
        _token("target", "e.target"),
        _text("evidence", "e.evidence"),
        _number("probability", "e.probability", Unit.PROBABILITY),
        _number("lift_nats", "e.lift_nats", Unit.NONE),
        _integer("layer", "e.layer"),
        _integer("feature", "e.feature"),
        _number("share", "e.share", Unit.PROBABILITY),
        _text("source", "e.source"),
        _number("gate", "e.gate", Unit.DOT, shown=False),
        Field(Column("signal", Kind.TEXT), "e.signal", shown=False),
    ),
    aliases={"confidence": "probability", "score": "gate"},
)

# Words that begin sentences, not names; larql drops such tokens from its entities as well.
_BEGINNINGS = """
The And But For Nor Yet With From Into Onto Upon Over Under About After Before Between Through
During Without Within Against Among This That These Those Him Her His Its Our Your Their They Them
She You Who Whom Whose Which What When Where Why How Are Was Were Been Being Have Has Had Does Did
Will Would Shall Should Can Could May Might Must Not Than Then There Here Also Just Only Some Any
All Such One Two Three Four Five Six Seven Eight Nine Ten First Second Third Each Both Most Many
More Other Another Every While Although Because Since Until Unless However Therefore
"""
BEGINNINGS = frozenset(_BEGINNINGS.split())
_STOPPED = ", ".join(f"'{word}'" for word in sorted(BEGINNINGS))

_ENTITIES = TableSchema(
    Table.ENTITIES,
    "(SELECT row_number() OVER (ORDER BY coalesce(s.edges, 0) DESC, coalesce(w.features, 0) DESC, "
    "coalesce(s.entity, w.entity)) - 1 AS rid, coalesce(s.entity, w.entity) AS entity, "
    "coalesce(w.features, 0) AS features, w.logit, w.first_layer, w.last_layer, "
    "coalesce(s.edges, 0) AS edges FROM (SELECT t.token AS entity, "
    "count(*) AS features, max(f.logit) AS logit, min(f.layer) AS first_layer, "
    "max(f.layer) AS last_layer FROM feature AS f JOIN token_text AS t ON t.token_id = f.token_id "
    "WHERE f.layer = coalesce({layer}, f.layer) AND strlen(t.token) >= 3 "
    r"AND regexp_full_match(t.token, '[A-Z]\p{L}+') "
    f"AND t.token NOT IN ({_STOPPED}) GROUP BY t.token) AS w "
    "FULL JOIN {rows} AS s ON s.entity = w.entity) AS n",
    "n.rid",
    (
        _token("entity", "n.entity"),
        _integer("features", "n.features"),
        _number("logit", "n.logit", Unit.LOGIT),
        _integer("first_layer", "n.first_layer"),
        _integer("last_layer", "n.last_layer"),
        _integer("edges", "n.edges"),
    ),
)

_RELATIONS = TableSchema(
    Table.RELATIONS,
    "{rows} AS r",
    "r.rid",
    (
        _text("relation", "r.relation"),
        _integer("features", "r.features"),
        _integer("probes", "r.probes"),
        _integer("clusters", "r.clusters"),
        _integer("edges", "r.edges"),
        _integer("templates", "r.templates"),
        _integer("first_layer", "r.first_layer"),
        _integer("last_layer", "r.last_layer"),
        Field(Column("examples", Kind.TOKENS), "r.rid", items=EXAMPLES),
    ),
)

_LAYERS = TableSchema(
    Table.LAYERS,
    "{rows} AS l",
    "l.rid",
    (
        _integer("layer", "l.layer"),
        _text("band", "l.band"),
        _text("attention", "l.attention"),
        _integer("features", "l.features"),
        _integer("described", "l.described"),
        _token("token", "l.token"),
        _integer("writers", "l.writers"),
    ),
)

_TOKENS = TableSchema(
    Table.TOKENS,
    "token_text AS t",
    "t.token_id",
    (
        _integer("token_id", "t.token_id"),
        _token("token", "t.token"),
        _integer("features", "c.features", "count"),
    ),
    parts={"count": "JOIN token_count AS c ON c.token_id = t.token_id"},
)

_PATCHES = TableSchema(
    Table.PATCHES,
    "{rows} AS p",
    "p.rid",
    (
        _text("patch", "p.patch"),
        _integer("edits", "p.edits"),
        _integer("operations", "p.operations"),
    ),
)

_MODELS = TableSchema(
    Table.MODELS,
    "{rows} AS m",
    "m.rid",
    (
        _text("path", "m.path"),
        _text("model", "m.model"),
        _text("family", "m.family"),
        _integer("layers", "m.layers"),
        _text("level", "m.level"),
        _text("dtype", "m.dtype"),
        _integer("size_bytes", "m.size_bytes", unit=Unit.BYTES),
        _text("status", "m.status"),
    ),
)


def _named_only(name: str, kind: Kind, unit: Unit = Unit.NONE) -> Field:
    return Field(Column(name, kind, unit), f"x.{name}", shown=False)


_TRACE = TableSchema(
    Table.TRACE,
    "{rows} AS x",
    "x.rid",
    (
        _integer("layer", "x.layer"),
        _integer("position", "x.position"),
        _token("token", "x.token"),
        _token("lens", "x.lens"),
        _number("lens_probability", "x.lens_probability", Unit.PROBABILITY),
        *(
            _number(name, f"x.{name}", Unit.LENGTH)
            for name in (
                *("attention", "ffn", "per_layer", "scalar", "norm", "intervention"),
                "residual",
            )
        ),
        _number("attention_share", "x.attention_share", Unit.PROBABILITY),
        _named_only("target", Kind.TEXT),
        _named_only("rank", Kind.INTEGER),
        _named_only("probability", Kind.NUMBER, Unit.PROBABILITY),
        _named_only("logit", Kind.NUMBER, Unit.LOGIT),
    ),
)

FACTS = TableSchema(
    Table.EDGES,
    "{rows} AS e",
    "e.rid",
    (
        _integer("number", "e.number"),
        _text("entity", "e.entity"),
        _text("relation", "e.relation"),
        _text("target", "e.target"),
        _integer("layer", "e.layer"),
        _number("confidence", "e.confidence", Unit.NONE),
        _text("evidence", "e.evidence"),
    ),
    aliases={"c_score": "confidence", "score": "confidence", "top_token": "target"},
)
"""The inserted edges, as UPDATE and DELETE see them: with the confidence that each was given."""

SCHEMAS: Mapping[Table, TableSchema] = MappingProxyType(
    {
        schema.table: schema
        for schema in (
            _FEATURES,
            _EDGES,
            _ENTITIES,
            _RELATIONS,
            _LAYERS,
            _TOKENS,
            _PATCHES,
            _MODELS,
            _TRACE,
        )
    }
)
"""Every table. Where a relation says ``{rows}``, its rows are found anew for each statement."""
