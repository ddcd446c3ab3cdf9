"""AST to text, in one canonical spelling: ``parse(unparse(tree)) == tree`` for all that parses.

Keywords are upper case, strings in double quotes, clauses in the order of the class's attributes;
parentheses stand where the tree needs them and nowhere else.

Some trees that a program could build have no spelling, because the words would be read as
something else: ``Explain(Walk(…))`` without ANALYZE (write ``ExplainWalk``), a negated operator
on a column called ``not``, and SELECT DISTINCT whose first column is called ``from`` or ``as``.
"""

from __future__ import annotations

from typing import assert_never

from lql import ast
from lql.syntax_writing import (
    condition_text,
    flag_text,
    join_words,
    layers_text,
    list_of,
    name_text,
    positions_text,
    slot_text,
    value_text,
    where_text,
    word_text,
)


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
            return condition_text(tree)
        case _:
            return _statement(tree)


def operand_text(node: ast.Operand) -> str:
    """Return the canonical text of a column or an aggregate."""
    return value_text(node)


# --------------------------------------------------------------------------- statements


def _statement(node: ast.Statement) -> str:
    match node:
        case ast.Select():
            return _select(node)
        case ast.Copy():
            query = f"COPY ({_select(node.query)})"
            return join_words(
                query, slot_text("TO", node.target), flag_text("OVERWRITE", node.overwrite)
            )
        case ast.Plot():
            drawn = f"PLOT {_statement(node.statement)}"
            return join_words(
                drawn, slot_text("TO", node.target), flag_text("OVERWRITE", node.overwrite)
            )
        case ast.Insert():
            return _insert(node)
        case ast.Explain():
            return join_words(
                "EXPLAIN", flag_text("ANALYZE", node.analyze), _statement(node.statement)
            )
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
            return slot_text(node.title, node.path)
        case ast.Delete():
            rows = join_words(slot_text("LIMIT", node.limit), flag_text("ALL", node.all_rows))
            table = node.table.value
            return join_words("DELETE FROM", table, where_text(node.where), rows, _report(node))
        case ast.Update():
            changes = list_of(
                f"{value_text(a.column)} = {value_text(a.value)}" for a in node.assignments
            )
            rows = join_words(slot_text("LIMIT", node.limit), flag_text("ALL", node.all_rows))
            head = f"UPDATE {node.table.value} SET {changes}"
            return join_words(head, where_text(node.where), rows, _report(node))
        case ast.Rebalance():
            return join_words(
                node.title,
                flag_text("UNTIL CONVERGED", node.until_converged),
                slot_text("MAX", node.max_steps),
                slot_text("FLOOR", node.floor),
                slot_text("CEILING", node.ceiling),
            )
        case ast.CompactMajor():
            return join_words(
                node.title, flag_text("FULL", node.full), slot_text("WITH LAMBDA =", node.ridge)
            )
        case ast.DefineRelation():
            return join_words(
                slot_text(node.title, node.relation),
                f"TEMPLATE {list_of(map(value_text, node.templates))}",
                slot_text("KIND", node.kind),
            )
        case ast.Probe():
            entities = f"FOR ({list_of(map(value_text, node.entities))})" if node.entities else ""
            return join_words(
                slot_text(node.title, node.relation),
                entities,
                slot_text("FROM", node.path),
                f"TEMPLATE {list_of(map(value_text, node.templates))}" if node.templates else "",
                slot_text("TOP", node.top),
                slot_text("BATCH", node.batch),
            )
        case ast.LabelFeatures():
            source = slot_text(f"{node.title} FROM", node.path) or f"{node.title} FROM PROBES"
            return join_words(source, slot_text("MIN SUPPORT", node.support))
        case ast.CompactMinor():
            return node.title
        case ast.BeginPatch() | ast.RemovePatch():
            return slot_text(node.title, node.path)
        case ast.SavePatch():
            path = slot_text(node.title, node.path) or node.title
            return join_words(path, flag_text("OVERWRITE", node.overwrite))
        case ast.ApplyPatch():
            return join_words(slot_text(node.title, node.path), flag_text("FORCE", node.force))
        case ast.DiscardPatch():
            return node.title
        case ast.Undo():
            return slot_text(node.title, node.steps) or node.title
        case ast.SetOption():
            return f"SET {value_text(node.option)} = {value_text(node.value)}"
        case ast.Include():
            return slot_text(node.title, node.path)
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
            components = list_of(component.value for component in node.components)
            return join_words(
                slot_text("EXTRACT MODEL", node.model),
                slot_text("INTO", node.target),
                name_text("WITH", node.level),
                f"COMPONENTS {components}" if components else "",
                layers_text("LAYERS", node.layers),
                name_text("DTYPE", node.dtype),
                name_text("QUANT", node.quant),
                flag_text("DROP_GATE_VECTORS", node.drop_gate_vectors),
                flag_text("OVERWRITE", node.overwrite),
                flag_text("RESUME", node.resume),
            )
        case ast.UseVindex():
            return join_words(slot_text("USE", node.path), slot_text("CONFIG", node.config))
        case ast.UseModel():
            return join_words(
                slot_text(node.title, node.model), flag_text("AUTO_EXTRACT", node.auto_extract)
            )
        case ast.UseRemote():
            return slot_text(node.title, node.url)
        case ast.CompileVindex():
            return join_words(
                slot_text("COMPILE", node.source),
                slot_text("INTO VINDEX", node.target),
                name_text("FORMAT", node.format),
                name_text("ON CONFLICT", node.on_conflict),
                flag_text("OVERWRITE", node.overwrite),
            )
        case ast.CompileModel():
            return join_words(
                slot_text("COMPILE", node.source),
                slot_text("INTO MODEL", node.target),
                name_text("FORMAT", node.format),
                name_text("DTYPE", node.dtype),
                name_text("QUANT", node.quant),
                name_text("ON CONFLICT", node.on_conflict),
                flag_text("OVERWRITE", node.overwrite),
            )
        case ast.Diff():
            return join_words(
                slot_text("DIFF", node.left),
                value_text(node.right),
                slot_text("LAYER", node.layer),
                slot_text("RELATION", node.relation),
                slot_text("LIMIT", node.limit),
                slot_text("INTO PATCH", node.into_patch),
            )
        case ast.Merge():
            return join_words(
                slot_text("MERGE", node.source),
                slot_text("INTO", node.target),
                name_text("ON CONFLICT", node.on_conflict),
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
            return slot_text("STATS", node.path) or "STATS"
        case ast.ShowCompactStatus():
            return node.title
        case ast.ShowModels() | ast.ShowPatches() | ast.ShowEdits():
            middle = ""
        case ast.ShowLayers():
            middle = layers_text("RANGE", node.layers)
        case ast.ShowFeatures():
            middle = join_words(value_text(node.layer), where_text(node.where))
        case ast.ShowEntities():
            middle = slot_text("AT LAYER", node.layer)
        case ast.ShowRelations():
            middle = join_words(
                slot_text("AT LAYER", node.layer),
                flag_text("WITH EXAMPLES", node.examples),
                word_text(node.detail),
            )
        case _:
            assert_never(node)
    return join_words(
        node.title, middle, slot_text("LIMIT", node.limit), slot_text("OFFSET", node.offset)
    )


def _question(
    node: ast.Walk | ast.Infer | ast.ExplainWalk | ast.ExplainInfer | ast.Describe | ast.Trace,
) -> str:
    match node:
        case ast.Walk():
            return join_words(
                slot_text("WALK", node.prompt),
                slot_text("TOP", node.top),
                layers_text("LAYERS", node.layers),
                name_text("MODE", node.mode),
                flag_text("COMPARE", node.compare),
            )
        case ast.Infer():
            return join_words(
                slot_text("INFER", node.prompt),
                slot_text("TOP", node.top),
                flag_text("COMPARE", node.compare),
                _route(node.route),
                word_text(node.prompt_mode),
                _changes(node),
            )
        case ast.ExplainWalk() | ast.ExplainInfer():
            return join_words(
                slot_text(node.title, node.prompt),
                slot_text("TOP", node.top),
                layers_text("LAYERS", node.layers),
                word_text(node.band),
                flag_text("RELATIONS ONLY", node.relations_only),
                flag_text("WITH ATTENTION", node.attention),
                flag_text("VERBOSE", node.verbose),
                word_text(node.prompt_mode) if isinstance(node, ast.ExplainInfer) else "",
            )
        case ast.Describe():
            return join_words(
                slot_text("DESCRIBE", node.entity),
                name_text("EVIDENCE", node.evidence),
                slot_text("AT LAYER", node.layer),
                layers_text("LAYERS", node.layers),
                word_text(node.band),
                flag_text("RELATIONS ONLY", node.relations_only),
                word_text(node.detail),
                flag_text("CAUSAL", node.causal),
                slot_text("LIMIT", node.limit),
            )
        case ast.Trace():
            return join_words(
                slot_text("TRACE", node.prompt) or "TRACE",
                slot_text("FOR", node.answer),
                flag_text("DECOMPOSE", node.decompose),
                layers_text("LAYERS", node.layers),
                positions_text(node.positions),
                slot_text("SAVE", node.save),
                flag_text("OVERWRITE", node.overwrite),
                word_text(node.prompt_mode),
                slot_text("LIMIT", node.limit),
                flag_text("HEADS", node.heads),
                flag_text("FEATURES", node.features),
                slot_text("DIFF", node.diff),
                slot_text("PATCH AT LAYER", node.patch_layer),
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
            asked = f"PROBABILITY {value_text(prompt)} OF {value_text(target)}"
        case _:
            assert_never(node.subject)
    claim = f"{asked} {node.comparator.value} {value_text(node.expected)}"
    return join_words(f"ASSERT {claim}", "" if node.message is None else value_text(node.message))


def _changes(node: ast.Infer | ast.Trace) -> str:
    ablated = list_of(
        f"{each.kind.value} {value_text(each.layer)}"
        + ("" if each.index is None else f":{value_text(each.index)}")
        for each in node.ablate
    )
    steered = list_of(
        join_words(
            value_text(each.toward),
            slot_text("-", each.away),
            slot_text("BY", each.amount),
            slot_text("AT LAYER", each.layer),
        )
        for each in node.steer
    )
    return join_words(f"ABLATE {ablated}" if ablated else "", f"STEER {steered}" if steered else "")


def _route(route: ast.Route | None) -> str:
    if route is None:
        return ""
    return join_words(
        "ROUTE VERIFY",
        flag_text("FALLBACK", route.fallback),
        slot_text("TOPK", route.topk),
        flag_text("EXIT", route.exit),
    )


def _select(node: ast.Select) -> str:
    nearest = node.nearest
    return join_words(
        "SELECT",
        flag_text("DISTINCT", node.distinct),
        list_of(_name_as(value_text(item.expression), item.alias) for item in node.items),
        _name_as(f"FROM {node.table.value}", node.alias),
        *map(_joined, node.joins),
        join_words(slot_text("NEAREST TO", nearest.entity), slot_text("AT LAYER", nearest.layer))
        if nearest
        else "",
        where_text(node.where),
        flag_text("EXACT", node.exact),
        f"GROUP BY {list_of(map(value_text, node.group_by))}" if node.group_by else "",
        f"HAVING {condition_text(node.having)}" if node.having else "",
        f"ORDER BY {list_of(map(_sort_key, node.order_by))}" if node.order_by else "",
        slot_text("LIMIT", node.limit),
        slot_text("OFFSET", node.offset),
    )


def _joined(node: ast.Join) -> str:
    pairs = " AND ".join(f"{value_text(left)} = {value_text(right)}" for left, right in node.on)
    return join_words(
        flag_text("LEFT", node.left),
        _name_as(f"JOIN {node.table.value}", node.alias),
        f"USING ({list_of(map(value_text, node.using))})" if node.using else f"ON {pairs}",
    )


def _name_as(expression: str, alias: str | None) -> str:
    return f"{expression} AS {alias}" if alias is not None else expression


def _sort_key(key: ast.SortKey) -> str:
    return f"{value_text(key.operand)} {key.direction.value}"


def _insert(node: ast.Insert) -> str:
    rows = (f"({list_of(map(value_text, (r.entity, r.relation, r.target)))})" for r in node.rows)
    values = f"(entity, relation, target) VALUES {list_of(rows)}" if node.rows else ""
    return join_words(
        "INSERT INTO EDGES",
        values,
        slot_text("FROM", node.path),
        slot_text("AT LAYER", node.layer),
        layers_text("AT LAYERS", node.layers),
        slot_text("STATISTICS FROM", node.statistics),
        slot_text("CONFIDENCE", node.confidence),
        slot_text("ALPHA", node.alpha),
        name_text("MODE", node.mode),
        flag_text("EVICT", node.evict),
        f"ALIAS {list_of(map(value_text, node.aliases))}" if node.aliases else "",
        _report(node),
    )


def _report(node: ast.Insert | ast.Delete | ast.Update) -> str:
    required = " AND ".join(
        f"{value_text(each.measure)} {each.comparator.value} {value_text(each.value)}"
        for each in node.require
    )
    return join_words(name_text("CHECK", node.check), f"REQUIRE {required}" if required else "")
