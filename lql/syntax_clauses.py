"""Clauses: which attribute of its statement each one fills, and with what.

A part of ``lql.syntax_build``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeAlias

from lql import ast
from lql.codes import Code
from lql.diagnostics import Diagnostic, Related
from lql.errors import LqlSyntaxError
from lql.span import Span
from lql.syntax_values import Builder, Children, kinds, parts, plain, terminal


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


def only(children: Children) -> Any:
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


def _positions(children: Children) -> ast.TracePositions | tuple[ast.PositionRange, ...]:
    """Ranges, or one of the words; LAST where nothing stands."""
    ranges: tuple[ast.PositionRange, ...] = _all(children)
    return ranges or _POSITIONS_WORD(children)


def _limit(children: Children) -> ast.IntegerSlot:
    """A number of rows, whether it was written after LIMIT or after TOP."""
    value: ast.IntegerSlot = only(children)
    return replace(value, slot=ast.Slot.COUNT) if isinstance(value, ast.Parameter) else value


_POSITIONS_WORD = _word(ast.TracePositions, ast.TracePositions.LAST)

_LEVELS = {level.name: level for level in ast.ExtractLevel} | {
    "WEIGHTS": ast.ExtractLevel.INFERENCE
}

_MODEL_QUANTS = {quant.name: quant for quant in ast.ModelQuant} | {"Q4K": ast.ModelQuant.Q4_K}

CLAUSES: Mapping[str, tuple[str, ValueOf]] = {
    "level_clause": ("level", _word(_LEVELS)),
    "components_clause": ("components", _all),
    "dtype_clause": ("dtype", _word(ast.StorageDtype)),
    "quant_clause": ("quant", _word(ast.Quant)),
    "drop_gate_vectors_clause": ("drop_gate_vectors", _flag),
    "auto_extract_clause": ("auto_extract", _flag),
    "config_clause": ("config", only),
    "format_clause": ("format", _word(ast.ModelFormat)),
    "model_quant_clause": ("quant", _word(_MODEL_QUANTS)),
    "patch_conflict_clause": ("on_conflict", _word(ast.PatchConflict)),
    "merge_conflict_clause": ("on_conflict", _word(ast.MergeConflict)),
    "merge_into_clause": ("target", only),
    "relation_clause": ("relation", only),
    "into_patch_clause": ("into_patch", only),
    "range_clause": ("layers", only),
    "examples_clause": ("examples", _flag),
    "detail_clause": ("detail", _word(ast.Detail)),
    "layer_clause": ("layer", only),
    "layers_clause": ("layers", _layers),
    "at_layers_clause": ("layers", only),
    "statistics_clause": ("statistics", only),
    "top_clause": ("top", only),
    "limit_clause": ("limit", _limit),
    "offset_clause": ("offset", only),
    "where_clause": ("where", only),
    "exact_clause": ("exact", _flag),
    "walk_mode_clause": ("mode", _word(ast.WalkMode)),
    "compare_clause": ("compare", _flag),
    "fallback_clause": ("fallback", _flag),
    "topk_clause": ("topk", only),
    "exit_clause": ("exit", _flag),
    "prompt_mode_clause": ("prompt_mode", _word(ast.PromptMode)),
    "band_clause": ("band", _word(ast.Band)),
    "evidence_clause": ("evidence", _word(ast.Evidence)),
    "causal_clause": ("causal", _flag),
    "kind_clause": ("kind", only),
    "templates_clause": ("templates", _all),
    "batch_clause": ("batch", only),
    "support_clause": ("support", only),
    "relations_only_clause": ("relations_only", _flag),
    "attention_clause": ("attention", _flag),
    "verbose_clause": ("verbose", _flag),
    "analyze_clause": ("analyze", _flag),
    "answer_clause": ("answer", only),
    "decompose_clause": ("decompose", _flag),
    "positions_clause": ("positions", _positions),
    "save_clause": ("save", only),
    "diff_clause": ("diff", only),
    "patch_layer_clause": ("patch_layer", only),
    "ablate_clause": ("ablate", _all),
    "steer_clause": ("steer", _all),
    "distinct_clause": ("distinct", _flag),
    "overwrite_clause": ("overwrite", _flag),
    "picture_clause": ("target", only),
    "group_clause": ("group_by", _all),
    "having_clause": ("having", only),
    "order_clause": ("order_by", _all),
    "confidence_clause": ("confidence", only),
    "alpha_clause": ("alpha", only),
    "insert_mode_clause": ("mode", _word(ast.InsertMode)),
    "evict_clause": ("evict", _flag),
    "edited_clause": ("table", _word(ast.Table)),
    "all_rows_clause": ("all_rows", _flag),
    "alias_clause": ("aliases", _all),
    "check_clause": ("check", _word(ast.Check)),
    "require_clause": ("require", _all),
    "force_clause": ("force", _flag),
    "until_clause": ("until_converged", _flag),
    "max_clause": ("max_steps", only),
    "floor_clause": ("floor", only),
    "ceiling_clause": ("ceiling", only),
    "full_clause": ("full", _flag),
    "ridge_clause": ("ridge", only),
}
"""Which attribute each clause fills, and with what."""


def _title(children: Children) -> str:
    words = []
    for child in children:
        if not isinstance(child, str) or child.casefold() != terminal(child).casefold():
            break
        words.append(terminal(child))
    return " ".join(words)


def clause_of(rule: str, field: str, value: ValueOf) -> Builder:
    """Build the clause of a rule, with a value made of what stands in it."""

    def build(children: Children, span: Span) -> Clause:
        return Clause(rule, field, value(children), _title(children), span)

    return build


def one_of(rule: str) -> Builder:
    """A clause that is one of several words, each with an attribute of its name."""

    def build(children: Children, span: Span) -> Clause:
        title = _title(children)
        return Clause(rule, title.lower(), True, title, span)

    return build


def nearest_clause(children: Children, span: Span) -> Clause:
    """Build NEAREST TO."""
    entity, layer = parts(children)
    nearest = ast.Nearest(entity, layer, span=span)
    return Clause("nearest_clause", "nearest", nearest, "NEAREST TO", span)


def route_clause(children: Children, span: Span) -> Clause:
    """Build ROUTE VERIFY."""
    route = ast.Route(**fields_of(children), span=span)
    return Clause("route_clause", "route", route, "ROUTE VERIFY", span)


def repeated(first: str, second: str, one: Span, other: Span) -> LqlSyntaxError:
    """The error of a clause or column that is written twice."""
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


def fields_of(children: Children) -> dict[str, Any]:
    """Collect the clauses among ``children`` as attributes; refuse a clause that repeats."""
    fields: dict[str, Any] = {}
    seen: dict[str, Clause] = {}
    for clause in children:
        if not isinstance(clause, Clause):
            continue
        first = seen.setdefault(clause.rule, clause)
        if first is not clause:
            raise repeated(first.title, clause.title, first.span, clause.span)
        fields[clause.field] = clause.value
    return fields
