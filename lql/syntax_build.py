"""From grammar rules to statements: what each rule of ``grammar/lql.lark`` builds.

The parser calls ``RULES[rule](children, span)`` whenever a rule is complete, bottom up, so no
tree stands between the text and the AST, and nothing recurses. A child is a terminal (a ``str``
with a ``type``) or what another rule built. Rules whose name begins with ``_`` build nothing:
their children belong to the rule around them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from itertools import pairwise
from typing import Any

from lql import ast
from lql.codes import Code
from lql.diagnostics import Diagnostic, Related
from lql.errors import LqlSyntaxError
from lql.span import Span
from lql.syntax_clauses import (
    CLAUSES,
    Clause,
    clause_of,
    fields_of,
    nearest_clause,
    one_of,
    only,
    repeated,
    route_clause,
)
from lql.syntax_trace_rules import TRACE_RULES
from lql.syntax_values import VALUE_RULES, Builder, Children, Part, kinds, parts, plain

# --------------------------------------------------------------------------- statements


def _node(cls: type[ast.Node]) -> Builder:
    """Fill the class's attributes: other parts by position, clauses by name."""

    def build(children: Children, span: Span) -> ast.Node:
        values = [plain(part) for part in parts(children) if not isinstance(part, Clause)]
        return cls(*values, **fields_of(children), span=span)

    return build


SELECT_ORDER: Mapping[str, int] = {
    "nearest_clause": 1,
    "where_clause": 2,
    "exact_clause": 2,
    "group_clause": 3,
    "having_clause": 4,
    "order_clause": 5,
    "limit_clause": 6,
    "offset_clause": 6,
}
"""The order of SELECT's clauses; LIMIT and OFFSET may change places."""


def _select(children: Children, span: Span) -> Any:
    clauses = [c for c in children if isinstance(c, Clause) and c.rule in SELECT_ORDER]
    joins = tuple(child for child in children if isinstance(child, ast.Join))
    rest = [child for child in children if not isinstance(child, ast.Join)]
    built = replace(_node(ast.Select)(rest, span), joins=joins)
    for earlier, later in pairwise(clauses):
        if SELECT_ORDER[later.rule] < SELECT_ORDER[earlier.rule]:
            raise LqlSyntaxError(
                Diagnostic(
                    Code.CLAUSE_ORDER,
                    f"{later.title} must come before {earlier.title}",
                    span=later.span,
                    label=f"belongs before {earlier.title}",
                    related=(Related(earlier.span, "comes too early"),),
                    notes=(
                        "the order is FROM, JOIN, NEAREST TO, WHERE, GROUP BY, HAVING, ORDER BY, "
                        "LIMIT, OFFSET",
                    ),
                )
            )
    return built


def _alias(children: Children, span: Span) -> Clause:
    return Clause("alias", "alias", str(children[-1]).lower(), "AS", span)


def _join(children: Children, span: Span) -> ast.Join:
    built = [part for part in parts(children) if not isinstance(part, Clause)]
    table, conditions = plain(built[0]), built[1:]
    words = kinds(children)
    using = tuple(conditions) if "USING" in words else ()
    on = () if using else tuple(plain(pair) for pair in conditions)
    return ast.Join(
        table, on=on, using=using, left="LEFT" in words, **fields_of(children), span=span
    )


def _select_item(children: Children, span: Span) -> ast.SelectItem:
    (expression,) = parts(children)
    alias = str(children[-1]) if "AS" in kinds(children) else None
    return ast.SelectItem(expression, alias, span=span)


def _sort_key(children: Children, span: Span) -> ast.SortKey:
    (operand,) = parts(children)
    descending = "DESC" in kinds(children)
    direction = ast.Direction.DESC if descending else ast.Direction.ASC
    return ast.SortKey(operand, direction, span=span)


_EDGE_COLUMNS = ("entity", "relation", "target")
_EDGE_SLOTS = (ast.Slot.ENTITY, ast.Slot.RELATION, ast.Slot.TARGET)


def _edge_columns(children: Children, span: Span) -> Part:
    names = [column.name for column in parts(children)]
    if sorted(names) != sorted(_EDGE_COLUMNS):
        raise LqlSyntaxError(
            Diagnostic(
                Code.BAD_COLUMNS,
                "the columns of INSERT are entity, relation and target",
                span=span,
                label="each of the three once, in any order",
                suggestions=(", ".join(_EDGE_COLUMNS),),
            )
        )
    return Part(names, span)


def _insert(children: Children, span: Span) -> ast.Insert:
    listed = [part.value for part in parts(children) if isinstance(part, Part)]
    if not listed:
        path = next(part for part in parts(children) if not isinstance(part, Clause))
        return ast.Insert(path=path, **fields_of(children), span=span)
    columns, rows = listed
    order = [columns.index(name) for name in _EDGE_COLUMNS]
    built = tuple(
        ast.EdgeRow(
            *(_slotted(row.value[at], slot) for at, slot in zip(order, _EDGE_SLOTS, strict=True)),
            span=row.span,
        )
        for row in rows
    )
    return ast.Insert(built, **fields_of(children), span=span)


def _slotted(value: ast.TextSlot, slot: ast.Slot) -> ast.TextSlot:
    """The grammar types a row by the usual order of the columns; another order retypes it."""
    return replace(value, slot=slot) if isinstance(value, ast.Parameter) else value


def _define_relation(children: Children, span: Span) -> ast.DefineRelation:
    relation, *templates = (part for part in parts(children) if not isinstance(part, Clause))
    return ast.DefineRelation(relation, tuple(templates), **fields_of(children), span=span)


def _assert(children: Children, span: Span) -> ast.Assert:
    subject, expected, *message = parts(children)
    comparator = next(ast.Comparator[k] for k in kinds(children) if k in ast.Comparator.__members__)
    return ast.Assert(subject, comparator, expected, *message, span=span)


def _probe(children: Children, span: Span) -> ast.Probe:
    relation, *named = (part for part in parts(children) if not isinstance(part, Clause))
    if "FOR" in kinds(children):
        return ast.Probe(relation, tuple(named), **fields_of(children), span=span)
    return ast.Probe(relation, path=named[0], **fields_of(children), span=span)


def _requirement(children: Children, span: Span) -> ast.Requirement:
    measure, value = parts(children)
    comparator = next(ast.Comparator[k] for k in kinds(children) if k in ast.Comparator.__members__)
    return ast.Requirement(measure, comparator, value, span=span)


def _assignments(children: Children, span: Span) -> Part:
    assignments: tuple[ast.Assignment, ...] = tuple(parts(children))
    seen: dict[str, ast.Assignment] = {}
    for assignment in assignments:
        name = assignment.column.name
        first = seen.setdefault(name, assignment)
        if first is not assignment:
            raise repeated(name, name, first.span, assignment.span)
    return Part(assignments, span)


def _tuple(children: Children, span: Span) -> Part:
    return Part(tuple(parts(children)), span)


def _enum(words: type[Enum]) -> Builder:
    return lambda children, span: Part(words[children[0].type], span)


def _joint(children: Children, span: Span) -> Part:
    return Part(None, span)


def _script(children: Children, span: Span) -> ast.Script:
    groups: list[list[Any]] = []
    piped = False
    for child in parts(children):
        if isinstance(child, Part):
            piped = True
        elif piped:
            groups[-1].append(child)
            piped = False
        else:
            groups.append([child])
    items = tuple(ast.Pipeline(tuple(group), span=_cover(group)) for group in groups)
    return ast.Script(items, span=span)


def _cover(nodes: list[ast.Node]) -> Span:
    return nodes[0].span.join(nodes[-1].span)


STATEMENTS: Mapping[str, type[ast.Node]] = {
    "copy": ast.Copy,
    "plot": ast.Plot,
    "extract": ast.Extract,
    "use_vindex": ast.UseVindex,
    "use_model": ast.UseModel,
    "use_remote": ast.UseRemote,
    "compile_vindex": ast.CompileVindex,
    "compile_model": ast.CompileModel,
    "diff": ast.Diff,
    "merge": ast.Merge,
    "stats": ast.Stats,
    "show_models": ast.ShowModels,
    "show_layers": ast.ShowLayers,
    "show_features": ast.ShowFeatures,
    "show_entities": ast.ShowEntities,
    "show_relations": ast.ShowRelations,
    "show_patches": ast.ShowPatches,
    "show_edits": ast.ShowEdits,
    "show_compact_status": ast.ShowCompactStatus,
    "describe": ast.Describe,
    "walk": ast.Walk,
    "infer": ast.Infer,
    "explain_walk": ast.ExplainWalk,
    "explain_infer": ast.ExplainInfer,
    "explain": ast.Explain,
    "trace": ast.Trace,
    "use_trace": ast.UseTrace,
    "select": ast.Select,
    "insert": ast.Insert,
    "delete": ast.Delete,
    "update": ast.Update,
    "rebalance": ast.Rebalance,
    "compact_minor": ast.CompactMinor,
    "compact_major": ast.CompactMajor,
    "define_relation": ast.DefineRelation,
    "probe": ast.Probe,
    "label_features": ast.LabelFeatures,
    "begin_patch": ast.BeginPatch,
    "save_patch": ast.SavePatch,
    "apply_patch": ast.ApplyPatch,
    "remove_patch": ast.RemovePatch,
    "discard_patch": ast.DiscardPatch,
    "undo": ast.Undo,
    "set_option": ast.SetOption,
    "assert": ast.Assert,
    "include": ast.Include,
}
"""The class of each statement rule."""

RULES: Mapping[str, Builder] = {
    **VALUE_RULES,
    **TRACE_RULES,
    **{rule: clause_of(rule, field, value) for rule, (field, value) in CLAUSES.items()},
    **{rule: _node(cls) for rule, cls in STATEMENTS.items()},
    "bare_layer_clause": clause_of("layer_clause", "layer", only),
    "assert": _assert,
    "probability": _node(ast.Probability),
    "define_relation": _define_relation,
    "probe": _probe,
    "existing_clause": one_of("existing_clause"),
    "shares_clause": one_of("shares_clause"),
    "nearest_clause": nearest_clause,
    "route_clause": route_clause,
    "component": _enum(ast.Component),
    "table": _enum(ast.Table),
    "current": _node(ast.Current),
    "assignment": _node(ast.Assignment),
    "assignments": _assignments,
    "select": _select,
    "alias": _alias,
    "join": _join,
    "join_pair": _tuple,
    "select_list": _tuple,
    "select_item": _select_item,
    "sort_key": _sort_key,
    "insert": _insert,
    "edge_columns": _edge_columns,
    "edge_rows": _tuple,
    "edge_row": _tuple,
    "requirement": _requirement,
    "joint": _joint,
    "script": _script,
}
"""What each grammar rule builds."""
