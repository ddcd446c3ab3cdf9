"""From grammar rules to statements: what each rule of ``grammar/lql.lark`` builds.

The parser calls ``RULES[rule](children, span)`` whenever a rule is complete, bottom up, so no
tree stands between the text and the AST, and nothing recurses. A child is a terminal (a ``str``
with a ``type``) or what another rule built. Rules whose name begins with ``_`` build nothing:
their children belong to the rule around them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise
from typing import Any, TypeAlias

from lql import ast
from lql.codes import Code
from lql.diagnostics import Diagnostic, Related
from lql.errors import LqlSyntaxError
from lql.span import Span
from lql.syntax_trace_rules import TRACE_RULES
from lql.syntax_values import VALUE_RULES, Builder, Children, Part, kinds, parts, plain, terminal


@dataclass(frozen=True, slots=True)
class Clause:
    """One clause of a statement.

    Attributes:
        rule: its grammar rule; a statement has at most one clause of a rule.
        field: the attribute of the statement that it fills.
        value: what it fills it with.
        title: its leading keywords, e.g. ``AT LAYER``.
    """

    rule: str
    field: str
    value: Any
    title: str
    span: Span


ValueOf: TypeAlias = Callable[[Children], Any]


# --------------------------------------------------------------------------- clauses


def _flag(children: Children) -> bool:
    """The clause is there."""
    return True


def _only(children: Children) -> Any:
    """The one value that another rule built."""
    (part,) = parts(children)
    return plain(part)


def _all(children: Children) -> tuple[Any, ...]:
    """Every value that another rule built."""
    return tuple(plain(part) for part in parts(children))


def _word(words: type[Enum] | Mapping[str, Enum], default: Enum | None = None) -> ValueOf:
    """The last keyword that ``words`` knows, or ``default`` when there is none."""
    table = words if isinstance(words, Mapping) else {word.name: word for word in words}

    def value(children: Children) -> Enum | None:
        known = [table[kind] for kind in kinds(children) if kind in table]
        return known[-1] if known else default

    return value


def _layers(children: Children) -> ast.LayerRange | None:
    """A range, or ``None`` for ALL."""
    found: list[ast.LayerRange] = parts(children)
    return found[0] if found else None


def _limit(children: Children) -> ast.IntegerSlot:
    """A number of rows, whether it was written after LIMIT or after TOP."""
    value: ast.IntegerSlot = _only(children)
    return replace(value, slot=ast.Slot.COUNT) if isinstance(value, ast.Parameter) else value


_LEVELS = {level.name: level for level in ast.ExtractLevel} | {
    "WEIGHTS": ast.ExtractLevel.INFERENCE
}

_MODEL_QUANTS = {quant.name: quant for quant in ast.ModelQuant} | {"Q4K": ast.ModelQuant.Q4_K}

CLAUSES: Mapping[str, tuple[str, ValueOf]] = {
    "level_clause": ("level", _word(_LEVELS)),
    "components_clause": ("components", _all),
    "dtype_clause": ("dtype", _word(ast.StorageDtype)),
    "quant_clause": ("quant", _word(ast.Quant)),
    "auto_extract_clause": ("auto_extract", _flag),
    "config_clause": ("config", _only),
    "format_clause": ("format", _word(ast.ModelFormat)),
    "model_quant_clause": ("quant", _word(_MODEL_QUANTS)),
    "patch_conflict_clause": ("on_conflict", _word(ast.PatchConflict)),
    "merge_conflict_clause": ("on_conflict", _word(ast.MergeConflict)),
    "merge_into_clause": ("target", _only),
    "relation_clause": ("relation", _only),
    "into_patch_clause": ("into_patch", _only),
    "range_clause": ("layers", _only),
    "examples_clause": ("examples", _flag),
    "detail_clause": ("detail", _word(ast.Detail)),
    "layer_clause": ("layer", _only),
    "layers_clause": ("layers", _layers),
    "at_layers_clause": ("layers", _only),
    "statistics_clause": ("statistics", _only),
    "top_clause": ("top", _only),
    "limit_clause": ("limit", _limit),
    "offset_clause": ("offset", _only),
    "where_clause": ("where", _only),
    "exact_clause": ("exact", _flag),
    "walk_mode_clause": ("mode", _word(ast.WalkMode)),
    "compare_clause": ("compare", _flag),
    "fallback_clause": ("fallback", _flag),
    "topk_clause": ("topk", _only),
    "exit_clause": ("exit", _flag),
    "prompt_mode_clause": ("prompt_mode", _word(ast.PromptMode)),
    "band_clause": ("band", _word(ast.Band)),
    "evidence_clause": ("evidence", _word(ast.Evidence)),
    "causal_clause": ("causal", _flag),
    "kind_clause": ("kind", _only),
    "templates_clause": ("templates", _all),
    "batch_clause": ("batch", _only),
    "support_clause": ("support", _only),
    "relations_only_clause": ("relations_only", _flag),
    "attention_clause": ("attention", _flag),
    "verbose_clause": ("verbose", _flag),
    "analyze_clause": ("analyze", _flag),
    "answer_clause": ("answer", _only),
    "decompose_clause": ("decompose", _flag),
    "positions_clause": ("positions", _word(ast.TracePositions, ast.TracePositions.LAST)),
    "save_clause": ("save", _only),
    "diff_clause": ("diff", _only),
    "patch_layer_clause": ("patch_layer", _only),
    "ablate_clause": ("ablate", _all),
    "steer_clause": ("steer", _all),
    "distinct_clause": ("distinct", _flag),
    "overwrite_clause": ("overwrite", _flag),
    "picture_clause": ("target", _only),
    "group_clause": ("group_by", _all),
    "having_clause": ("having", _only),
    "order_clause": ("order_by", _all),
    "confidence_clause": ("confidence", _only),
    "alpha_clause": ("alpha", _only),
    "insert_mode_clause": ("mode", _word(ast.InsertMode)),
    "evict_clause": ("evict", _flag),
    "edited_clause": ("table", _word(ast.Table)),
    "all_rows_clause": ("all_rows", _flag),
    "alias_clause": ("aliases", _all),
    "check_clause": ("check", _word(ast.Check)),
    "require_clause": ("require", _all),
    "force_clause": ("force", _flag),
    "until_clause": ("until_converged", _flag),
    "max_clause": ("max_steps", _only),
    "floor_clause": ("floor", _only),
    "ceiling_clause": ("ceiling", _only),
    "full_clause": ("full", _flag),
    "ridge_clause": ("ridge", _only),
}
"""Which attribute each clause fills, and with what."""


def _title(children: Children) -> str:
    words = []
    for child in children:
        if not isinstance(child, str) or child.casefold() != terminal(child).casefold():
            break
        words.append(terminal(child))
    return " ".join(words)


def _clause(rule: str, field: str, value: ValueOf) -> Builder:
    def build(children: Children, span: Span) -> Clause:
        return Clause(rule, field, value(children), _title(children), span)

    return build


def _one_of(rule: str) -> Builder:
    """A clause that is one of several words, each with an attribute of its name."""

    def build(children: Children, span: Span) -> Clause:
        title = _title(children)
        return Clause(rule, title.lower(), True, title, span)

    return build


def _nearest_clause(children: Children, span: Span) -> Clause:
    entity, layer = parts(children)
    nearest = ast.Nearest(entity, layer, span=span)
    return Clause("nearest_clause", "nearest", nearest, "NEAREST TO", span)


def _route_clause(children: Children, span: Span) -> Clause:
    route = ast.Route(**_fields(children), span=span)
    return Clause("route_clause", "route", route, "ROUTE VERIFY", span)


def _repeated(first: str, second: str, one: Span, other: Span) -> LqlSyntaxError:
    same = first == second
    message = f"{first} is written twice" if same else f"{first} and {second} exclude each other"
    return LqlSyntaxError(
        Diagnostic(
            Code.REPEATED_CLAUSE,
            message,
            span=other,
            label="written again here" if same else "written here",
            helps=("keep one of the two",),
            related=(Related(one, "first written here"),),
        )
    )


def _fields(children: Children) -> dict[str, Any]:
    """Collect the clauses among ``children`` as attributes; refuse a clause that repeats."""
    fields: dict[str, Any] = {}
    seen: dict[str, Clause] = {}
    for clause in children:
        if not isinstance(clause, Clause):
            continue
        first = seen.setdefault(clause.rule, clause)
        if first is not clause:
            raise _repeated(first.title, clause.title, first.span, clause.span)
        fields[clause.field] = clause.value
    return fields


# --------------------------------------------------------------------------- statements


def _node(cls: type[ast.Node]) -> Builder:
    """Fill the class's attributes: other parts by position, clauses by name."""

    def build(children: Children, span: Span) -> ast.Node:
        values = [plain(part) for part in parts(children) if not isinstance(part, Clause)]
        return cls(*values, **_fields(children), span=span)

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
    return ast.Join(table, on=on, using=using, left="LEFT" in words, **_fields(children), span=span)


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
        return ast.Insert(path=path, **_fields(children), span=span)
    columns, rows = listed
    order = [columns.index(name) for name in _EDGE_COLUMNS]
    built = tuple(
        ast.EdgeRow(
            *(_slotted(row.value[at], slot) for at, slot in zip(order, _EDGE_SLOTS, strict=True)),
            span=row.span,
        )
        for row in rows
    )
    return ast.Insert(built, **_fields(children), span=span)


def _slotted(value: ast.TextSlot, slot: ast.Slot) -> ast.TextSlot:
    """The grammar types a row by the usual order of the columns; another order retypes it."""
    return replace(value, slot=slot) if isinstance(value, ast.Parameter) else value


def _define_relation(children: Children, span: Span) -> ast.DefineRelation:
    relation, *templates = (part for part in parts(children) if not isinstance(part, Clause))
    return ast.DefineRelation(relation, tuple(templates), **_fields(children), span=span)


def _assert(children: Children, span: Span) -> ast.Assert:
    subject, expected, *message = parts(children)
    comparator = next(ast.Comparator[k] for k in kinds(children) if k in ast.Comparator.__members__)
    return ast.Assert(subject, comparator, expected, *message, span=span)


def _probe(children: Children, span: Span) -> ast.Probe:
    relation, *named = (part for part in parts(children) if not isinstance(part, Clause))
    if "FOR" in kinds(children):
        return ast.Probe(relation, tuple(named), **_fields(children), span=span)
    return ast.Probe(relation, path=named[0], **_fields(children), span=span)


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
            raise _repeated(name, name, first.span, assignment.span)
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
    **{rule: _clause(rule, field, value) for rule, (field, value) in CLAUSES.items()},
    **{rule: _node(cls) for rule, cls in STATEMENTS.items()},
    "bare_layer_clause": _clause("layer_clause", "layer", _only),
    "assert": _assert,
    "probability": _node(ast.Probability),
    "define_relation": _define_relation,
    "probe": _probe,
    "existing_clause": _one_of("existing_clause"),
    "shares_clause": _one_of("shares_clause"),
    "nearest_clause": _nearest_clause,
    "route_clause": _route_clause,
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
