"""Random SELECT statements that make sense of the tables of ``sql_tables``."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from lql import ast
from lql.ast import Table
from tests.unit.sql_tables import COLUMNS, RELATIONS, TEXTS

TEXT = {
    *("token", "relation", "label_source", "band", "attention", "entity", "patch"),
}
LISTS = {"also", "examples"}
NUMBERS = {"logit"}
JOINS: dict[tuple[Table, Table], tuple[tuple[str, str], ...]] = {
    (Table.FEATURES, Table.LAYERS): (("layer", "layer"),),
    (Table.FEATURES, Table.TOKENS): (("token_id", "token_id"), ("token", "token")),
    (Table.FEATURES, Table.RELATIONS): (("relation", "relation"),),
    (Table.FEATURES, Table.ENTITIES): (("token", "entity"),),
    (Table.LAYERS, Table.LAYERS): (("layer", "writers"), ("band", "band")),
    (Table.LAYERS, Table.TOKENS): (("token", "token"),),
    (Table.ENTITIES, Table.TOKENS): (("entity", "token"), ("features", "features")),
    (Table.ENTITIES, Table.LAYERS): (("last_layer", "layer"),),
    (Table.RELATIONS, Table.LAYERS): (("first_layer", "layer"), ("features", "features")),
    (Table.TOKENS, Table.PATCHES): (("token", "patch"),),
}
"""What joins to a few rows, so that a plain nested loop can follow."""


@dataclass(frozen=True)
class Place:
    """A column, and where it stands."""

    name: str
    table: Table
    qualifier: str | None

    @property
    def node(self) -> ast.Column:
        return ast.Column(self.name, self.qualifier)

    @property
    def is_text(self) -> bool:
        return self.name in TEXT


class Generator:
    """Makes one statement after the other from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def select(self) -> ast.Select:
        pick = self.random
        table = pick.choices([*COLUMNS], [12 if t is Table.FEATURES else 2 for t in COLUMNS])[0]
        alias = pick.choice((None, None, "a", "b"))
        joins: tuple[ast.Join, ...] = ()
        places = [Place(name, table, None) for name in COLUMNS[table]]
        partners = [pair for pair in JOINS if pair[0] is table]
        if partners and pick.random() < 0.3:
            alias = alias or "a"
            join = self._join(pick.choice(partners), alias)
            joins = (join,)
            other = join.alias or join.table.value.lower()
            places = [Place(name, table, alias) for name in COLUMNS[table]]
            places += [Place(name, join.table, other) for name in COLUMNS[join.table]]
        single = [place for place in places if place.name not in LISTS]
        where = self._condition(places, self._columns) if pick.random() < 0.7 else None
        if pick.random() < 0.35:
            return self._grouped(table, alias, joins, single, where)
        return self._plain(table, alias, joins, places, single, where)

    def _plain(
        self,
        table: Table,
        alias: str | None,
        joins: tuple[ast.Join, ...],
        places: list[Place],
        single: list[Place],
        where: ast.Condition | None,
    ) -> ast.Select:
        pick = self.random
        distinct = pick.random() < 0.2
        pool = single if distinct else places
        if pick.random() < 0.25 and not distinct:
            items: tuple[ast.SelectItem, ...] = (ast.SelectItem(ast.Star()),)
            shown: list[Place] = []
        else:
            shown = pick.sample(pool, pick.randint(1, min(4, len(pool))))
            items = self._aliased([place.node for place in shown])
        sortable = shown if distinct else single
        keys = pick.sample(sortable, pick.randint(0, min(2, len(sortable))))
        order = tuple(self._key(place.node) for place in keys)
        return self._page(
            ast.Select(items, table, alias, joins, distinct, where=where, order_by=order)
        )

    def _grouped(
        self,
        table: Table,
        alias: str | None,
        joins: tuple[ast.Join, ...],
        single: list[Place],
        where: ast.Condition | None,
    ) -> ast.Select:
        pick = self.random
        keys = pick.sample(single, pick.choice((0, 1, 1, 1, 2)))
        aggregates = [self._aggregate(single) for _ in range(pick.randint(0 if keys else 1, 3))]
        operands: list[Any] = [place.node for place in keys if pick.random() < 0.8] + aggregates
        operands = list(dict.fromkeys(operands)) or [keys[0].node]
        having = None
        if pick.random() < 0.4:
            having = self._condition(keys, self._aggregates_and_keys(single, keys))
        order = tuple(
            self._key(pick.choice([*operands, *(key.node for key in keys)]))
            for _ in range(pick.randint(0, 2))
        )
        return self._page(
            ast.Select(
                self._aliased(operands),
                table,
                alias,
                joins,
                distinct=False,
                where=where,
                group_by=tuple(key.node for key in keys),
                having=having,
                order_by=order,
            )
        )

    def _page(self, select: ast.Select) -> ast.Select:
        from dataclasses import replace

        pick = self.random
        limit = ast.Integer(pick.choice((0, 1, 3, 20, 1000))) if pick.random() < 0.5 else None
        offset = ast.Integer(pick.choice((0, 1, 7, 500, 2**40))) if pick.random() < 0.2 else None
        return replace(select, limit=limit, offset=offset)

    def _aliased(self, operands: list[Any]) -> tuple[ast.SelectItem, ...]:
        """Sometimes under another name, and always where two columns would bear one."""
        pick = self.random
        items = []
        for number, operand in enumerate(operands):
            alias = f"X{number}" if pick.random() < 0.3 else None
            items.append(ast.SelectItem(operand, alias))
        return tuple(items)

    def _join(self, tables: tuple[Table, Table], left: str) -> ast.Join:
        pick = self.random
        pairs = JOINS[tables]
        chosen = pick.sample(pairs, pick.randint(1, len(pairs)))
        outer = pick.random() < 0.5
        right = "b" if left == "a" else "a"
        if all(one == other for one, other in chosen) and pick.random() < 0.5:
            using = tuple(ast.Column(name) for name, _ in chosen)
            return ast.Join(tables[1], right, using=using, left=outer)
        on = tuple((ast.Column(one, left), ast.Column(other, right)) for one, other in chosen)
        on = tuple(pair[::-1] if pick.random() < 0.3 else pair for pair in on)
        return ast.Join(tables[1], right, on=on, left=outer)

    def _aggregate(self, places: list[Place]) -> ast.Aggregate:
        pick = self.random
        function = pick.choice([*ast.Function])
        if function is ast.Function.COUNT and pick.random() < 0.5:
            return ast.Aggregate(function, ast.Star())
        if function in (ast.Function.SUM, ast.Function.AVG):
            places = [p for p in places if not p.is_text and p.name != "edited"]
        if not places:
            return ast.Aggregate(ast.Function.COUNT, ast.Star())
        return ast.Aggregate(function, pick.choice(places).node, pick.random() < 0.3)

    def _key(self, operand: Any) -> ast.SortKey:
        return ast.SortKey(operand, self.random.choice([*ast.Direction]))

    # ------------------------------------------------------------------------- conditions

    def _columns(self, places: list[Place]) -> tuple[Any, str]:
        place = self.random.choice(places)
        kind = "list" if place.name in LISTS else "text" if place.is_text else "number"
        return place.node, kind

    def _aggregates_and_keys(self, single: list[Place], keys: list[Place]) -> Any:
        def operand(_: list[Place]) -> tuple[Any, str]:
            if keys and self.random.random() < 0.3:
                return self._columns(keys)
            aggregate = self._aggregate(single)
            argument = aggregate.argument
            by_value = aggregate.function in (ast.Function.MIN, ast.Function.MAX)
            text = by_value and isinstance(argument, ast.Column) and argument.name in TEXT
            return aggregate, "text" if text else "number"

        return operand

    def _condition(self, places: list[Place], operand: Any, depth: int = 0) -> ast.Condition:
        pick = self.random
        if depth < 3 and pick.random() < 0.4:
            kind = pick.choice((ast.And, ast.Or, ast.Not))
            if kind is ast.Not:
                return ast.Not(self._condition(places, operand, depth + 1))
            flat: list[Any] = []
            for _ in range(pick.randint(2, 3)):
                part = self._condition(places, operand, depth + 1)
                flat += part.conditions if isinstance(part, kind) else [part]
            return kind(tuple(flat))
        return self._predicate(*operand(places))

    def _predicate(self, node: Any, kind: str) -> ast.Condition:
        pick = self.random
        negated = pick.random() < 0.3
        choices = ["in", "compare", "between", "null"]
        if kind == "list":
            choices = ["in", "equal", "like", "null"]
        elif kind == "text":
            choices += ["like", "like"]
        match pick.choice(choices):
            case "like":
                return ast.Like(node, ast.Text(self._pattern()), negated)
            case "in":
                count = pick.choice((0, 1, 2, 5))
                values = ast.ListLiteral(tuple(self._literal(kind) for _ in range(count)))
                return ast.In(node, values, negated)
            case "equal":
                return ast.Comparison(node, ast.Comparator.EQ, self._literal(kind))
            case "compare":
                comparator = pick.choice([*ast.Comparator])
                return ast.Comparison(node, comparator, self._literal(kind))
            case "between":
                return ast.Between(node, self._literal(kind), self._literal(kind), negated)
            case _:
                return ast.IsNull(node, negated)

    def _literal(self, kind: str) -> Any:
        pick = self.random
        if kind != "number":
            return ast.Text(pick.choice((*TEXTS, *RELATIONS, "knowledge", "probe", "no such")))
        if pick.random() < 0.5:
            return ast.Integer(pick.choice((-(2**63), -1, 0, 1, 2, 3, 40, 159, 160, 2**63 - 1)))
        return ast.Number(pick.choice((-1e300, -0.125, 0.0, 0.5, 1.125, 2.0, 2.5, 1e300)))

    def _pattern(self) -> str:
        pick = self.random
        text = pick.choice((*TEXTS, *RELATIONS))
        text = "".join(pick.choice((c, c, c, "%", "_", c.swapcase()[:1])) for c in text)
        return pick.choice((text, f"%{text}", f"{text}%", f"%{text[:2]}%", "%", ""))
