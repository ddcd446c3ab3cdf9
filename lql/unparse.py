"""AST to text, in one canonical spelling: ``parse(unparse(tree)) == tree`` for all that parses.

Keywords are upper case, strings in double quotes, clauses in the order of the class's attributes;
parentheses stand where the tree needs them and nowhere else.

Some trees that a program could build have no spelling, because the words would be read as
something else: ``Explain(Walk(…))`` without ANALYZE (write ``ExplainWalk``), a negated operator
on a column called ``not``, and SELECT DISTINCT whose first column is called ``from`` or ``as``.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import assert_never

from lql import ast
from lql.syntax_text import quote

_OPERATOR_NAMES = frozenset({"like", "ilike", "in", "between", "is"})
"""Columns that NOT would take for its own operator."""


def unparse(tree: ast.Script | ast.Pipeline | ast.Statement | ast.Condition) -> str:
    """Return the canonical text of a script, a pipeline, a statement or a condition."""
    match tree:
        case ast.Script():
            return "\n".join(f"{unparse(item)};" for item in tree.items)
        case ast.Pipeline():
            return " |> ".join(map(_statement, tree.statements))
        case (
            ast.Or()
            | ast.And()
            | ast.Not()
            | ast.Comparison()
            | ast.Like()
            | ast.In()
            | ast.Between()
            | ast.IsNull()
        ):
            return _condition(tree)
        case _:
            return _statement(tree)


def operand_text(node: ast.Operand) -> str:
    """Return the canonical text of a column or an aggregate."""
    return _value(node)


# --------------------------------------------------------------------------- statements


def _statement(node: ast.Statement) -> str:
    match node:
        case ast.Select():
            return _select(node)
        case ast.Copy():
            query = f"COPY ({_select(node.query)})"
            return _join(query, _slot("TO", node.target), _flag("OVERWRITE", node.overwrite))
        case ast.Plot():
            drawn = f"PLOT {_statement(node.statement)}"
            return _join(drawn, _slot("TO", node.target), _flag("OVERWRITE", node.overwrite))
        case ast.Insert():
            return _insert(node)
        case ast.Explain():
            return _join("EXPLAIN", _flag("ANALYZE", node.analyze), _statement(node.statement))
        case (
            ast.Walk()
            | ast.Infer()
            | ast.ExplainWalk()
            | ast.ExplainInfer()
            | ast.Describe()
            | ast.Trace()
        ):
            return _question(node)
        case (
            ast.Stats()
            | ast.ShowModels()
            | ast.ShowLayers()
            | ast.ShowFeatures()
            | ast.ShowEntities()
            | ast.ShowRelations()
            | ast.ShowPatches()
            | ast.ShowEdits()
            | ast.ShowCompactStatus()
        ):
            return _show(node)
        case (
            ast.Extract()
            | ast.UseVindex()
            | ast.UseModel()
            | ast.UseRemote()
            | ast.CompileVindex()
            | ast.CompileModel()
            | ast.Diff()
            | ast.Merge()
        ):
            return _lifecycle(node)
        case ast.UseTrace():
            return _slot(node.title, node.path)
        case ast.Delete():
            rows = _join(_slot("LIMIT", node.limit), _flag("ALL", node.all_rows))
            table = node.table.value
            return _join("DELETE FROM", table, _where(node.where), rows, _report(node))
        case ast.Update():
            changes = _list(f"{_value(a.column)} = {_value(a.value)}" for a in node.assignments)
            rows = _join(_slot("LIMIT", node.limit), _flag("ALL", node.all_rows))
            head = f"UPDATE {node.table.value} SET {changes}"
            return _join(head, _where(node.where), rows, _report(node))
        case ast.Rebalance():
            return _join(
                node.title,
                _flag("UNTIL CONVERGED", node.until_converged),
                _slot("MAX", node.max_steps),
                _slot("FLOOR", node.floor),
                _slot("CEILING", node.ceiling),
            )
        case ast.CompactMajor():
            return _join(node.title, _flag("FULL", node.full), _slot("WITH LAMBDA =", node.ridge))
        case ast.DefineRelation():
            return _join(
                _slot(node.title, node.relation),
                f"TEMPLATE {_list(map(_value, node.templates))}",
                _slot("KIND", node.kind),
            )
        case ast.Probe():
            entities = f"FOR ({_list(map(_value, node.entities))})" if node.entities else ""
            return _join(
                _slot(node.title, node.relation),
                entities,
                _slot("FROM", node.path),
                f"TEMPLATE {_list(map(_value, node.templates))}" if node.templates else "",
                _slot("TOP", node.top),
                _slot("BATCH", node.batch),
            )
        case ast.LabelFeatures():
            source = _slot(f"{node.title} FROM", node.path) or f"{node.title} FROM PROBES"
            return _join(source, _slot("MIN SUPPORT", node.support))
        case ast.CompactMinor():
            return node.title
        case ast.BeginPatch() | ast.RemovePatch():
            return _slot(node.title, node.path)
        case ast.SavePatch():
            path = _slot(node.title, node.path) or node.title
            return _join(path, _flag("OVERWRITE", node.overwrite))
        case ast.ApplyPatch():
            return _join(_slot(node.title, node.path), _flag("FORCE", node.force))
        case ast.DiscardPatch():
            return node.title
        case ast.Undo():
            return _slot(node.title, node.steps) or node.title
        case ast.SetOption():
            return f"SET {_value(node.option)} = {_value(node.value)}"
        case ast.Include():
            return _slot(node.title, node.path)
        case ast.Assert():
            return _assert(node)
        case _:
            assert_never(node)


def _lifecycle(
    node: ast.Extract
    | ast.UseVindex
    | ast.UseModel
    | ast.UseRemote
    | ast.CompileVindex
    | ast.CompileModel
    | ast.Diff
    | ast.Merge,
) -> str:
    match node:
        case ast.Extract():
            components = _list(component.value for component in node.components)
            return _join(
                _slot("EXTRACT MODEL", node.model),
                _slot("INTO", node.target),
                _name("WITH", node.level),
                f"COMPONENTS {components}" if components else "",
                _layers("LAYERS", node.layers),
                _name("DTYPE", node.dtype),
                _name("QUANT", node.quant),
                _flag("OVERWRITE", node.overwrite),
                _flag("RESUME", node.resume),
            )
        case ast.UseVindex():
            return _join(_slot("USE", node.path), _slot("CONFIG", node.config))
        case ast.UseModel():
            return _join(_slot(node.title, node.model), _flag("AUTO_EXTRACT", node.auto_extract))
        case ast.UseRemote():
            return _slot(node.title, node.url)
        case ast.CompileVindex():
            return _join(
                _slot("COMPILE", node.source),
                _slot("INTO VINDEX", node.target),
                _name("FORMAT", node.format),
                _name("ON CONFLICT", node.on_conflict),
                _flag("OVERWRITE", node.overwrite),
            )
        case ast.CompileModel():
            return _join(
                _slot("COMPILE", node.source),
                _slot("INTO MODEL", node.target),
                _name("FORMAT", node.format),
                _name("DTYPE", node.dtype),
                _name("QUANT", node.quant),
                _name("ON CONFLICT", node.on_conflict),
                _flag("OVERWRITE", node.overwrite),
            )
        case ast.Diff():
            return _join(
                _slot("DIFF", node.left),
                _value(node.right),
                _slot("LAYER", node.layer),
                _slot("RELATION", node.relation),
                _slot("LIMIT", node.limit),
                _slot("INTO PATCH", node.into_patch),
            )
        case ast.Merge():
            return _join(
                _slot("MERGE", node.source),
                _slot("INTO", node.target),
                _name("ON CONFLICT", node.on_conflict),
            )
        case _:
            assert_never(node)


def _show(
    node: ast.Stats
    | ast.ShowModels
    | ast.ShowLayers
    | ast.ShowFeatures
    | ast.ShowEntities
    | ast.ShowRelations
    | ast.ShowPatches
    | ast.ShowEdits
    | ast.ShowCompactStatus,
) -> str:
    match node:
        case ast.Stats():
            return _slot("STATS", node.path) or "STATS"
        case ast.ShowCompactStatus():
            return node.title
        case ast.ShowModels() | ast.ShowPatches() | ast.ShowEdits():
            middle = ""
        case ast.ShowLayers():
            middle = _layers("RANGE", node.layers)
        case ast.ShowFeatures():
            middle = _join(_value(node.layer), _where(node.where))
        case ast.ShowEntities():
            middle = _slot("AT LAYER", node.layer)
        case ast.ShowRelations():
            middle = _join(
                _slot("AT LAYER", node.layer),
                _flag("WITH EXAMPLES", node.examples),
                _word(node.detail),
            )
        case _:
            assert_never(node)
    return _join(node.title, middle, _slot("LIMIT", node.limit), _slot("OFFSET", node.offset))


def _question(
    node: ast.Walk | ast.Infer | ast.ExplainWalk | ast.ExplainInfer | ast.Describe | ast.Trace,
) -> str:
    match node:
        case ast.Walk():
            return _join(
                _slot("WALK", node.prompt),
                _slot("TOP", node.top),
                _layers("LAYERS", node.layers),
                _name("MODE", node.mode),
                _flag("COMPARE", node.compare),
            )
        case ast.Infer():
            return _join(
                _slot("INFER", node.prompt),
                _slot("TOP", node.top),
                _flag("COMPARE", node.compare),
                _route(node.route),
                _word(node.prompt_mode),
                _changes(node),
            )
        case ast.ExplainWalk() | ast.ExplainInfer():
            return _join(
                _slot(node.title, node.prompt),
                _slot("TOP", node.top),
                _layers("LAYERS", node.layers),
                _word(node.band),
                _flag("RELATIONS ONLY", node.relations_only),
                _flag("WITH ATTENTION", node.attention),
                _flag("VERBOSE", node.verbose),
                _word(node.prompt_mode) if isinstance(node, ast.ExplainInfer) else "",
            )
        case ast.Describe():
            return _join(
                _slot("DESCRIBE", node.entity),
                _name("EVIDENCE", node.evidence),
                _slot("AT LAYER", node.layer),
                _layers("LAYERS", node.layers),
                _word(node.band),
                _flag("RELATIONS ONLY", node.relations_only),
                _word(node.detail),
                _flag("CAUSAL", node.causal),
                _slot("LIMIT", node.limit),
            )
        case ast.Trace():
            return _join(
                _slot("TRACE", node.prompt) or "TRACE",
                _slot("FOR", node.answer),
                _flag("DECOMPOSE", node.decompose),
                _layers("LAYERS", node.layers),
                _name("POSITIONS", node.positions),
                _slot("SAVE", node.save),
                _flag("OVERWRITE", node.overwrite),
                _word(node.prompt_mode),
                _slot("LIMIT", node.limit),
                _flag("HEADS", node.heads),
                _flag("FEATURES", node.features),
                _slot("DIFF", node.diff),
                _slot("PATCH AT LAYER", node.patch_layer),
                _changes(node),
            )
        case _:
            assert_never(node)


def _assert(node: ast.Assert) -> str:
    match node.subject:
        case ast.Infer():
            asked = _question(node.subject)
        case ast.Select():
            asked = f"({_select(node.subject)})"
        case ast.Probability(prompt=prompt, target=target):
            asked = f"PROBABILITY {_value(prompt)} OF {_value(target)}"
        case _:
            assert_never(node.subject)
    claim = f"{asked} {node.comparator.value} {_value(node.expected)}"
    return _join(f"ASSERT {claim}", "" if node.message is None else _value(node.message))


def _changes(node: ast.Infer | ast.Trace) -> str:
    ablated = _list(
        f"{each.kind.value} {_value(each.layer)}"
        + ("" if each.index is None else f":{_value(each.index)}")
        for each in node.ablate
    )
    steered = _list(
        _join(
            _value(each.toward),
            _slot("-", each.away),
            _slot("BY", each.amount),
            _slot("AT LAYER", each.layer),
        )
        for each in node.steer
    )
    return _join(f"ABLATE {ablated}" if ablated else "", f"STEER {steered}" if steered else "")


def _route(route: ast.Route | None) -> str:
    if route is None:
        return ""
    return _join(
        "ROUTE VERIFY",
        _flag("FALLBACK", route.fallback),
        _slot("TOPK", route.topk),
        _flag("EXIT", route.exit),
    )


def _select(node: ast.Select) -> str:
    nearest = node.nearest
    return _join(
        "SELECT",
        _flag("DISTINCT", node.distinct),
        _list(_name_as(_value(item.expression), item.alias) for item in node.items),
        _name_as(f"FROM {node.table.value}", node.alias),
        *map(_joined, node.joins),
        _join(_slot("NEAREST TO", nearest.entity), _slot("AT LAYER", nearest.layer))
        if nearest
        else "",
        _where(node.where),
        _flag("EXACT", node.exact),
        f"GROUP BY {_list(map(_value, node.group_by))}" if node.group_by else "",
        f"HAVING {_condition(node.having)}" if node.having else "",
        f"ORDER BY {_list(map(_sort_key, node.order_by))}" if node.order_by else "",
        _slot("LIMIT", node.limit),
        _slot("OFFSET", node.offset),
    )


def _joined(node: ast.Join) -> str:
    pairs = " AND ".join(f"{_value(left)} = {_value(right)}" for left, right in node.on)
    return _join(
        _flag("LEFT", node.left),
        _name_as(f"JOIN {node.table.value}", node.alias),
        f"USING ({_list(map(_value, node.using))})" if node.using else f"ON {pairs}",
    )


def _name_as(expression: str, alias: str | None) -> str:
    return f"{expression} AS {alias}" if alias is not None else expression


def _sort_key(key: ast.SortKey) -> str:
    return f"{_value(key.operand)} {key.direction.value}"


def _insert(node: ast.Insert) -> str:
    rows = (f"({_list(map(_value, (r.entity, r.relation, r.target)))})" for r in node.rows)
    values = f"(entity, relation, target) VALUES {_list(rows)}" if node.rows else ""
    return _join(
        "INSERT INTO EDGES",
        values,
        _slot("FROM", node.path),
        _slot("AT LAYER", node.layer),
        _layers("AT LAYERS", node.layers),
        _slot("STATISTICS FROM", node.statistics),
        _slot("CONFIDENCE", node.confidence),
        _slot("ALPHA", node.alpha),
        _name("MODE", node.mode),
        _flag("EVICT", node.evict),
        f"ALIAS {_list(map(_value, node.aliases))}" if node.aliases else "",
        _report(node),
    )


def _report(node: ast.Insert | ast.Delete | ast.Update) -> str:
    required = " AND ".join(
        f"{_value(each.measure)} {each.comparator.value} {_value(each.value)}"
        for each in node.require
    )
    return _join(_name("CHECK", node.check), f"REQUIRE {required}" if required else "")


# --------------------------------------------------------------------------- conditions


def _condition(node: ast.Condition) -> str:
    match node:
        case ast.Or():
            return " OR ".join(_grouped(part, ast.Or) for part in node.conditions)
        case ast.And():
            return " AND ".join(_grouped(part, ast.Or, ast.And) for part in node.conditions)
        case ast.Not():
            inner = _grouped(node.condition, ast.Or, ast.And)
            if _first_column(node.condition) in _OPERATOR_NAMES:
                inner = f"({inner})"
            return f"NOT {inner}"
        case ast.Comparison():
            return f"{_value(node.operand)} {node.comparator.value} {_value(node.value)}"
        case ast.Like():
            return f"{_value(node.operand)} {_not(node)}LIKE {_value(node.pattern)}"
        case ast.In():
            return f"{_value(node.operand)} {_not(node)}IN {_value(node.values)}"
        case ast.Between():
            bounds = f"{_value(node.low)} AND {_value(node.high)}"
            return f"{_value(node.operand)} {_not(node)}BETWEEN {bounds}"
        case ast.IsNull():
            return f"{_value(node.operand)} IS {_not(node)}NULL"
        case _:
            assert_never(node)


def _grouped(node: ast.Condition, *looser: type[ast.Node]) -> str:
    text = _condition(node)
    return f"({text})" if isinstance(node, looser) else text


def _not(node: ast.Like | ast.In | ast.Between | ast.IsNull) -> str:
    return "NOT " if node.negated else ""


def _first_column(node: ast.Condition) -> str | None:
    if isinstance(node, ast.Or | ast.And | ast.Not):
        return None  # begins with a parenthesis or with NOT
    column = node.operand
    return (column.table or column.name) if isinstance(column, ast.Column) else None


# --------------------------------------------------------------------------- words and values


def _value(node: ast.Value | ast.Operand | ast.Star | ast.Current | ast.Word) -> str:
    match node:
        case ast.Text():
            return quote(node.value)
        case ast.Word():
            return node.value
        case ast.Integer():
            return str(node.value)
        case ast.Number():
            return repr(node.value)
        case ast.Parameter():
            return f":{node.name}"
        case ast.ListLiteral():
            return f"({_list(map(_value, node.items))})"
        case ast.Column():
            return node.name if node.table is None else f"{node.table}.{node.name}"
        case ast.Star():
            return "*"
        case ast.Current():
            return "CURRENT"
        case ast.Aggregate():
            argument = _join(_flag("DISTINCT", node.distinct), _value(node.argument))
            return f"{node.function.value}({argument})"
        case _:
            assert_never(node)


def _join(*words: str) -> str:
    return " ".join(word for word in words if word)


def _list(items: Iterable[str]) -> str:
    return ", ".join(items)


def _flag(word: str, present: bool) -> str:
    return word if present else ""


def _slot(words: str, value: ast.Value | ast.Current | None) -> str:
    return f"{words} {_value(value)}" if value is not None else ""


def _word(word: Enum | None) -> str:
    return str(word.value) if word is not None else ""


def _name(words: str, word: Enum | None) -> str:
    return f"{words} {word.name}" if word is not None else ""


def _layers(word: str, layers: ast.LayerRange | None) -> str:
    return f"{word} {_value(layers.first)}-{_value(layers.last)}" if layers is not None else ""


def _where(condition: ast.Condition | None) -> str:
    return f"WHERE {_condition(condition)}" if condition is not None else ""
