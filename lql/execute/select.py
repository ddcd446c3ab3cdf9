"""SELECT, and SHOW as a SELECT of a table's usual columns in its usual order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import assert_never

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlNameError, LqlTypeError
from lql.execute.answer_edges import answer_edges
from lql.execute.meaning import by_meaning
from lql.execute.needs import OF_NO_VINDEX
from lql.execute.slots import integer, integer_or, layer, layer_range, text
from lql.results import Meta, Truncation, Value
from lql.results.table import TableResult
from lql.tables import rows
from lql.tables.conditions import pinned
from lql.tables.edges import EdgeRequest, Evidence, edges, nearest_edges
from lql.tables.query import Query, compile_select
from lql.tables.schema import GATE, SCHEMAS
from lql.tables.scope import Scope, Source
from lql.tables.store import ModelTables
from vindex.features import entity_query
from vindex.gates import gate_scores

Show = ast.ShowModels | ast.ShowLayers | ast.ShowFeatures | ast.ShowEntities | ast.ShowRelations
Statement = ast.Select | Show | ast.ShowPatches

NEAREST_LIMIT = 20
ENTITIES_LIMIT = 50
RELATIONS_LIMIT = 30


@dataclass(frozen=True, slots=True)
class Asked:
    """A SELECT, and what only SHOW says.

    Attributes:
        limit: rows shown where no LIMIT is written; ``None`` for all.
        layer: the only layer that ENTITIES and RELATIONS count; ``None`` for all.
    """

    select: ast.Select
    limit: int | None = None
    layer: int | None = None


def run(statement: Statement, context: Context) -> TableResult:
    """Run SELECT or SHOW."""
    return table(_asked(statement, context), context, statement.title)


def select_rows(select: ast.Select, context: Context, title: str) -> TableResult:
    """Every row of a SELECT, whatever SELECT itself would show."""
    return table(Asked(select), context, title)


# --------------------------------------------------------------------------- SHOW as SELECT


def _asked(statement: Statement, context: Context) -> Asked:
    match statement:
        case ast.Select(nearest=nearest):
            return Asked(statement, None if nearest is None else NEAREST_LIMIT)
        case ast.ShowModels():
            return Asked(_all_of(ast.Table.MODELS, statement))
        case ast.ShowPatches():
            return Asked(_all_of(ast.Table.PATCHES, statement))
        case ast.ShowLayers():
            return Asked(_layers(statement, context))
        case ast.ShowFeatures():
            return Asked(_features(statement, context))
        case ast.ShowEntities():
            only = _only_layer(statement.layer, statement.title, context)
            return Asked(_all_of(ast.Table.ENTITIES, statement), ENTITIES_LIMIT, only)
        case ast.ShowRelations():
            return _relations(statement, context)
        case _:
            assert_never(statement)


def _all_of(
    table: ast.Table,
    statement: Show | ast.ShowPatches,
    columns: Sequence[str] = (),
    where: ast.Condition | None = None,
) -> ast.Select:
    """The page of a table that a SHOW statement asks for."""
    items = tuple(ast.SelectItem(ast.Column(name)) for name in columns)
    return ast.Select(
        items or (ast.SelectItem(ast.Star()),),
        table,
        where=where,
        limit=statement.limit,
        offset=statement.offset,
        span=statement.span,
    )


def _layers(statement: ast.ShowLayers, context: Context) -> ast.Select:
    count = context.vindex(statement.title).index.num_layers
    chosen = layer_range(statement.layers, count)
    where = None
    if statement.layers is not None:
        bounds = ast.Integer(chosen[0]), ast.Integer(chosen[-1])
        where = ast.Between(ast.Column("layer"), *bounds)
    return _all_of(ast.Table.LAYERS, statement, where=where)


_SHOW_FEATURES = ("layer", "feature", "token", "token_id", "logit", "relation", "also")


def _features(statement: ast.ShowFeatures, context: Context) -> ast.Select:
    number = _only_layer(statement.layer, statement.title, context)
    where: ast.Condition = _equals("layer", number or 0)
    if statement.where is not None:
        where = ast.And((where, statement.where))
    return _all_of(ast.Table.FEATURES, statement, _SHOW_FEATURES, where)


_SHOW_RELATIONS = (
    *("relation", "features", "probes", "clusters", "edges", "templates"),
    *("first_layer", "last_layer"),
)
_SHOW_LABELS = (
    *("relation", "label_source", "layer", "feature", "token"),
    *("support", "precision"),
)


def _relations(statement: ast.ShowRelations, context: Context) -> Asked:
    only = _only_layer(statement.layer, statement.title, context)
    match statement.detail:
        case ast.Detail.RAW:
            where: ast.Condition = ast.IsNull(ast.Column("relation"), negated=True)
            if only is not None:
                where = ast.And((_equals("layer", only), where))
            columns: tuple[str, ...] = _SHOW_LABELS
            if statement.examples:
                columns = (*columns, "also")
            return Asked(_all_of(ast.Table.FEATURES, statement, columns, where))
        case None | ast.Detail.BRIEF | ast.Detail.VERBOSE:
            columns = (*_SHOW_RELATIONS, "examples") if statement.examples else _SHOW_RELATIONS
            limit = None if statement.detail is ast.Detail.VERBOSE else RELATIONS_LIMIT
            return Asked(_all_of(ast.Table.RELATIONS, statement, columns), limit, only)
        case _:
            assert_never(statement.detail)


def _only_layer(slot: ast.IntegerSlot | None, title: str, context: Context) -> int | None:
    return None if slot is None else layer(slot, context.vindex(title).index.num_layers)


def _equals(name: str, number: int) -> ast.Comparison:
    return ast.Comparison(ast.Column(name), ast.Comparator.EQ, ast.Integer(number))


# --------------------------------------------------------------------------- SELECT


def table(asked: Asked, context: Context, title: str) -> TableResult:
    """Run a SELECT: name its tables, fill those whose rows are found anew, compile, fetch."""
    scope = scope_of(asked.select)
    asked = replace(asked, select=by_meaning(asked.select, scope, context))
    with _tables(scope, context, title) as tables:
        filling = _Filling(asked, scope, tables, context)
        try:
            order = filling.fill()
            query = compile_select(
                asked.select, scope, filling.relations, layer=asked.layer, order=order
            )
            tables.prepare(query.sql)
            return _fetched(asked, query, tables, context)
        finally:
            for name in filling.relations.values():
                tables.engine.forget(name)


def scope_of(select: ast.Select) -> Scope:
    """The tables of a SELECT by the names that it gives them.

    Raises:
        LqlNameError: two of one name.
    """
    nodes = [(select.table, select.alias), *((join.table, join.alias) for join in select.joins)]
    names = [alias or table.value.lower() for table, alias in nodes]
    for position, name in enumerate(names):
        if name in names[:position]:
            node = select.joins[position - 1]
            raise LqlNameError(
                Diagnostic(
                    Code.BAD_COLUMNS,
                    f"two tables are called {name}",
                    span=node.span,
                    helps=(f"AS gives one another name: JOIN {node.table.value} AS other",),
                )
            )
    sources = [
        Source(SCHEMAS[table], name, f"t{position}")
        for position, ((table, _), name) in enumerate(zip(nodes, names, strict=True))
    ]
    if select.nearest is not None and select.table is ast.Table.FEATURES:
        sources[0].extra = (GATE,)
    return Scope(sources, (column.name for join in select.joins for column in join.using))


@contextmanager
def _tables(scope: Scope, context: Context, title: str) -> Iterator[ModelTables]:
    """The session's tables, or empty ones where a statement reads no vindex."""
    if {source.schema.table for source in scope.sources} - OF_NO_VINDEX:
        yield context.tables(title)
        return
    own = ModelTables(None)
    try:
        yield own
    finally:
        own.close()


@dataclass(slots=True)
class _Filling:
    """Registers the rows that belong to one statement.

    Attributes:
        relations: names of what was registered, by the mark of the schema that they stand for.
    """

    asked: Asked
    scope: Scope
    tables: ModelTables
    context: Context
    relations: dict[str, str] = field(default_factory=dict)

    def fill(self) -> tuple[str, ...]:
        """Register everything; return what NEAREST orders by."""
        nearest = self.asked.select.nearest
        for source in self.scope.sources:
            if "{rows}" in source.schema.relation:
                first = source is self.scope.sources[0]
                self._rows(source, nearest if first else None)
        if nearest is None:
            return ()
        match self.asked.select.table:
            case ast.Table.FEATURES:
                return self._nearest_features(nearest)
            case ast.Table.EDGES:
                return ()
            case other:
                raise LqlTypeError(
                    Diagnostic(
                        Code.WRONG_TYPE,
                        f"NEAREST ranks features, and {other.value} holds none",
                        span=nearest.span,
                        helps=("FROM FEATURES NEAREST TO …", "FROM EDGES NEAREST TO …"),
                    )
                )

    def _rows(self, source: Source, nearest: ast.Nearest | None) -> None:
        name = f"rows_{source.sql}"
        self.tables.register_rows(name, source.schema, self._found(source, nearest))
        self.relations[source.sql + "{rows}"] = name

    def _found(self, source: Source, nearest: ast.Nearest | None) -> Sequence[Sequence[Value]]:
        match source.schema.table:
            case ast.Table.EDGES:
                return self._edges(source, nearest)
            case ast.Table.RELATIONS:
                state = self.context.state
                defined = {name: len(each.templates) for name, each in state.defined.items()}
                facts, examples = rows.relation_rows(
                    self.tables.vindex, self.asked.layer, state.overlay.view, defined
                )
                self.tables.register_examples(examples)
                return facts
            case ast.Table.LAYERS:
                return rows.layer_rows(self.tables.vindex)
            case ast.Table.MODELS:
                return rows.model_rows()
            case ast.Table.PATCHES:
                return rows.patch_rows(self.context.state.overlay)
            case ast.Table.ENTITIES:
                counted = self.asked.layer is None
                return rows.entity_rows(self.context.state.overlay.view) if counted else ()
            case ast.Table.TRACE:
                return self._trace(source)
            case ast.Table.FEATURES | ast.Table.TOKENS:
                raise AssertionError(f"{source.schema.table.value} is read in place")
            case other:
                assert_never(other)

    def _edges(self, source: Source, nearest: ast.Nearest | None) -> list[tuple[Value, ...]]:
        vindex = self.tables.vindex
        if nearest is None:
            found = edges(self._request(source), vindex, self.context, answer_edges)
        else:
            number = layer(nearest.layer, vindex.index.num_layers)
            found = nearest_edges(vindex, text(nearest.entity), number)
        names = [field.name for field in source.schema.fields]
        return [
            tuple(
                row.evidence.value if name == "evidence" else getattr(row, name) for name in names
            )
            for row in found
        ]

    def _trace(self, source: Source) -> list[tuple[Value, ...]]:
        from lql.execute.trace_table import TRACE_LENS, trace_rows

        select = self.asked.select
        names = tuple(field.name for field in source.schema.fields)
        targets = self._only(source, "target")
        return trace_rows(
            names, targets, self.context, span=select.span, lens=_reads(select, TRACE_LENS)
        )

    def _only(self, source: Source, name: str) -> list[str] | None:
        """The only texts that WHERE lets a column have; ``None`` where it does not say."""

        def is_meant(operand: ast.Operand) -> bool:
            if not isinstance(operand, ast.Column) or operand.name != name:
                return False
            return self.scope.column(operand).source is source

        return pinned(self.asked.select.where, is_meant)

    def _request(self, source: Source) -> EdgeRequest:
        """What WHERE says of entity, relation and evidence, for the sources of edges."""
        entities, relations, evidence = (
            self._only(source, name) for name in ("entity", "relation", "evidence")
        )
        kinds = Evidence if evidence is None else (e for e in Evidence if e.value in evidence)
        return EdgeRequest(
            entities=None if entities is None else tuple(entities),
            relations=None if relations is None else tuple(relations),
            evidence=frozenset(kinds),
            carriers=_reads(self.asked.select, {"layer", "feature", "share"}),
        )

    def _nearest_features(self, nearest: ast.Nearest) -> tuple[str, ...]:
        vindex = self.tables.vindex
        number = layer(nearest.layer, vindex.index.num_layers)
        entity = text(nearest.entity)
        query = entity_query(vindex, entity)
        if query is None:
            self.context.note(f'no signal: no token of "{entity}" has an embedding')
        name = "nearest_t0"
        scores = None if query is None else gate_scores(vindex, number, query)
        self.tables.register_scores(name, number, scores)
        self.relations["t0{nearest}"] = name
        gate = self.scope.expression(self.scope.sources[0], GATE)
        return (f"abs({gate.sql}) DESC",)


def _reads(node: object, names: Set[str]) -> bool:
    """Whether part of a statement names one of some columns, or all columns."""
    match node:
        case ast.Aggregate(argument=ast.Star()):
            return False
        case ast.Star():
            return True
        case ast.Column(name=name):
            return name in names
        case tuple():
            return any(_reads(each, names) for each in node)
        case ast.Node():
            return any(_reads(getattr(node, each.name), names) for each in fields(node))
        case _:
            return False


def _fetched(asked: Asked, query: Query, tables: ModelTables, context: Context) -> TableResult:
    select = asked.select
    limit = asked.limit if select.limit is None else integer(select.limit)
    offset = integer_or(select.offset, 0)
    sql, values = query.sql, list(query.values)
    if limit is not None:
        values.append(limit)
        sql += f" LIMIT ${len(values)}::BIGINT"
    if offset:
        values.append(offset)
        sql += f" OFFSET ${len(values)}::BIGINT"
    found = tables.engine.rows(sql, values, context.cancel)
    meta = Meta()
    if limit is not None and len(found) == limit:
        ((total,),) = tables.engine.rows(query.count, query.values, context.cancel)
        if offset + limit < total:
            meta = Meta(truncated=Truncation(len(found), total, "a larger LIMIT"))
    return TableResult(
        shape=tuple(output.column for output in query.outputs),
        values=_with_tokens(found, query, tables),
        meta=meta,
    )


def _with_tokens(
    found: list[tuple[Value, ...]], query: Query, tables: ModelTables
) -> tuple[tuple[Value, ...], ...]:
    """The rows with lists of tokens in place of the numbers that stand for them."""
    columns: dict[int, list[Value]] = {}
    for position, output in enumerate(query.outputs):
        field = output.expression.field
        if field is not None and field.items is not None:
            columns[position] = tables.tokens_of(field, [row[position] for row in found])
    if not columns:
        return tuple(found)
    return tuple(
        tuple(columns[i][n] if i in columns else value for i, value in enumerate(row))
        for n, row in enumerate(found)
    )
