"""Hypothesis strategies for every statement: all trees that a text can spell, and only those."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from lql import ast
from lql.ast import Slot
from lql.parser import keywords

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
KEYWORD_NAMES = st.sampled_from([word.lower() for word in keywords().values()])
COLUMNS = st.builds(
    ast.Column, (NAMES.map(str.lower) | KEYWORD_NAMES).filter(lambda name: name != "not")
)
"""``not`` is a column only before an operator that is not negated: see ``predicates``."""

QUALIFIERS = NAMES.map(str.lower).filter(lambda name: name.upper() not in keywords())
ANY_COLUMNS = COLUMNS | st.builds(ast.Column, NAMES.map(str.lower) | KEYWORD_NAMES, QUALIFIERS)

TEXTS = st.builds(ast.Text, st.text(max_size=20))
ANY_INTEGERS = st.builds(ast.Integer, st.integers(-(2**63), 2**63 - 1))
NUMBERS = st.builds(ast.Number, st.floats(allow_nan=False, allow_infinity=False))


def parameters(slot: Slot) -> st.SearchStrategy[ast.Parameter]:
    return st.builds(ast.Parameter, NAMES, st.just(slot))


def texts(slot: Slot) -> st.SearchStrategy[ast.TextSlot]:
    return TEXTS | parameters(slot)


def integers(slot: Slot) -> st.SearchStrategy[ast.IntegerSlot]:
    return st.builds(ast.Integer, st.integers(slot.minimum or 0, 2**63 - 1)) | parameters(slot)


NUMBER_SLOTS = NUMBERS | parameters(Slot.NUMBER)
SCALARS = TEXTS | ANY_INTEGERS | NUMBERS | parameters(Slot.VALUE)
LISTS = st.recursive(
    st.builds(ast.ListLiteral, st.lists(SCALARS, max_size=3).map(tuple)),
    lambda inner: st.builds(ast.ListLiteral, st.lists(SCALARS | inner, max_size=3).map(tuple)),
    max_leaves=4,
)


@st.composite
def layer_ranges(draw: st.DrawFn) -> ast.LayerRange:
    first, last = draw(integers(Slot.LAYER)), draw(integers(Slot.LAYER))
    if isinstance(first, ast.Integer) and isinstance(last, ast.Integer):
        first, last = sorted((first, last), key=lambda bound: bound.value)
    return ast.LayerRange(first, last)


@st.composite
def position_ranges(draw: st.DrawFn) -> ast.PositionRange:
    numbers = st.integers(-(2**63), 2**63 - 1).map(ast.Integer) | parameters(Slot.POSITION)
    first, last = draw(numbers), draw(numbers)
    literal = isinstance(first, ast.Integer) and isinstance(last, ast.Integer)
    if literal and (first.value < 0) == (last.value < 0):
        first, last = sorted((first, last), key=lambda bound: bound.value)
    return ast.PositionRange(first, last)


WORDS = COLUMNS.map(lambda column: ast.Word(column.name))
AGGREGATES = st.builds(
    ast.Aggregate, st.sampled_from(ast.Function), ANY_COLUMNS, st.booleans()
) | st.just(ast.Aggregate(ast.Function.COUNT, ast.Star()))
OPERANDS = ANY_COLUMNS | AGGREGATES


def predicates(operands: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def of(operand: st.SearchStrategy[Any], negated: st.SearchStrategy[bool]) -> Any:
        return (
            st.builds(ast.Comparison, operand, st.sampled_from(ast.Comparator), SCALARS)
            | st.builds(ast.Like, operand, texts(Slot.PATTERN), negated)
            | st.builds(ast.In, operand, LISTS | parameters(Slot.VALUES), negated)
            | st.builds(ast.Between, operand, SCALARS, SCALARS, negated)
            | st.builds(ast.IsNull, operand, st.booleans())
        )

    return of(operands, st.booleans()) | of(st.just(ast.Column("not")), st.just(False))


def _flat(cls: Any, parts: list[Any]) -> Any:
    flat: list[Any] = []
    for part in parts:
        flat.extend(part.conditions if isinstance(part, cls) else [part])
    return cls(tuple(flat))


def conditions(operands: st.SearchStrategy[Any] = ANY_COLUMNS) -> st.SearchStrategy[Any]:
    return st.recursive(
        predicates(operands),
        lambda inner: (
            st.builds(ast.Not, inner)
            | st.lists(inner, min_size=2, max_size=3).map(lambda parts: _flat(ast.Or, parts))
            | st.lists(inner, min_size=2, max_size=3).map(lambda parts: _flat(ast.And, parts))
        ),
        max_leaves=6,
    )


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def words(enum: Any) -> st.SearchStrategy[Any]:
    return maybe(st.sampled_from(enum))


LIMIT, OFFSET = maybe(integers(Slot.COUNT)), maybe(integers(Slot.OFFSET))
TOP, LAYER = maybe(integers(Slot.TOP)), maybe(integers(Slot.LAYER))
LAYERS = maybe(layer_ranges())
POSITIONS = st.lists(position_ranges(), min_size=1, max_size=3).map(tuple)
FLAG = st.booleans()
VINDEX_PATHS = texts(Slot.VINDEX_PATH)
PATCH_PATHS = texts(Slot.PATCH_PATH)
VINDEX_REFS = st.just(ast.Current()) | VINDEX_PATHS
PROMPTS = texts(Slot.PROMPT)
PAGE = {"limit": LIMIT, "offset": OFFSET}
EXPLAINED = {
    "prompt": PROMPTS,
    "top": TOP,
    "layers": LAYERS,
    "band": words(ast.Band),
    "relations_only": FLAG,
    "attention": FLAG,
    "verbose": FLAG,
}
PLACES = st.tuples(integers(Slot.LAYER), integers(Slot.INDEX))
ABLATIONS = st.builds(
    lambda kind, place: ast.Ablation(kind, *place),
    st.sampled_from((ast.Ablated.FEATURE, ast.Ablated.HEAD)),
    PLACES,
) | st.builds(ast.Ablation, st.just(ast.Ablated.LAYER), integers(Slot.LAYER))
STEERINGS = st.builds(
    ast.Steering,
    texts(Slot.TARGET),
    maybe(texts(Slot.TARGET)),
    NUMBER_SLOTS,
    integers(Slot.LAYER),
)
CHANGES = {
    "ablate": st.lists(ABLATIONS, max_size=2).map(tuple),
    "steer": st.lists(STEERINGS, max_size=2).map(tuple),
}
ROWS = st.builds(ast.EdgeRow, texts(Slot.ENTITY), texts(Slot.RELATION), texts(Slot.TARGET))
ROUTES = st.builds(ast.Route, FLAG, TOP, FLAG)
SELECT_ITEMS = st.just(ast.SelectItem(ast.Star())) | st.builds(
    ast.SelectItem, OPERANDS, maybe(NAMES)
)
ALIASES = maybe(NAMES.map(str.lower))
JOINS = st.builds(
    ast.Join,
    st.sampled_from(ast.Table),
    ALIASES,
    on=st.lists(st.tuples(ANY_COLUMNS, ANY_COLUMNS), min_size=1, max_size=2).map(tuple),
    left=FLAG,
) | st.builds(
    ast.Join,
    st.sampled_from(ast.Table),
    ALIASES,
    using=st.lists(COLUMNS, min_size=1, max_size=2).map(tuple),
    left=FLAG,
)
ASSIGNMENTS = st.lists(
    st.builds(ast.Assignment, COLUMNS, SCALARS),
    min_size=1,
    max_size=3,
    unique_by=lambda assignment: assignment.column.name,
).map(tuple)


def _one_word(extract: ast.Extract) -> bool:
    return not (extract.overwrite and extract.resume)


def _spellable(select: ast.Select) -> bool:
    first = select.items[0].expression
    return not (select.distinct and first in (ast.Column("from"), ast.Column("as")))


def build(cls: Any, /, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(cls, **fields)


SELECTS = build(
    ast.Select,
    items=st.lists(SELECT_ITEMS, min_size=1, max_size=3).map(tuple),
    table=st.sampled_from(ast.Table),
    alias=ALIASES,
    joins=st.lists(JOINS, max_size=2).map(tuple),
    distinct=FLAG,
    nearest=maybe(st.builds(ast.Nearest, texts(Slot.ENTITY), integers(Slot.LAYER))),
    where=maybe(conditions()),
    exact=FLAG,
    group_by=st.lists(ANY_COLUMNS, max_size=2).map(tuple),
    having=maybe(conditions(OPERANDS)),
    order_by=st.lists(
        st.builds(ast.SortKey, OPERANDS, st.sampled_from(ast.Direction)), max_size=2
    ).map(tuple),
    limit=LIMIT,
    offset=OFFSET,
).filter(_spellable)

REQUIREMENTS = st.builds(
    ast.Requirement,
    COLUMNS,
    st.sampled_from([word for word in ast.Comparator if word.value[0] in "<>"]),
    NUMBER_SLOTS,
)
REPORT = {"check": words(ast.Check), "require": st.lists(REQUIREMENTS, max_size=2).map(tuple)}

TOUCHING = {
    "table": st.sampled_from([ast.Table.EDGES, ast.Table.FEATURES]),
    "limit": LIMIT,
    "all_rows": FLAG,
}
PROBED = {
    "templates": st.lists(texts(Slot.TEMPLATE), max_size=2).map(tuple),
    "top": TOP,
    "batch": maybe(integers(Slot.TOP)),
}


def _inserts(**source: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return build(
        ast.Insert,
        layer=LAYER,
        layers=LAYERS,
        statistics=maybe(texts(Slot.TEXT_PATH)),
        confidence=maybe(NUMBER_SLOTS),
        alpha=maybe(NUMBER_SLOTS),
        mode=words(ast.InsertMode),
        evict=FLAG,
        aliases=st.lists(texts(Slot.ENTITY), max_size=2).map(tuple),
        **source,
        **REPORT,
    )


INFERS = build(
    ast.Infer,
    prompt=PROMPTS,
    top=TOP,
    compare=FLAG,
    route=maybe(ROUTES),
    prompt_mode=words(ast.PromptMode),
    **CHANGES,
)
COMPARATORS = st.sampled_from(ast.Comparator)
MESSAGES = maybe(texts(Slot.MESSAGE))
ASSERTS = (
    st.builds(
        ast.Assert,
        INFERS,
        st.sampled_from([ast.Comparator.EQ, ast.Comparator.NE]),
        texts(Slot.TARGET),
        MESSAGES,
    )
    | st.builds(ast.Assert, SELECTS, COMPARATORS, SCALARS, MESSAGES)
    | st.builds(
        ast.Assert,
        st.builds(ast.Probability, PROMPTS, texts(Slot.TARGET)),
        COMPARATORS,
        NUMBER_SLOTS,
        MESSAGES,
    )
)

PLAIN: Mapping[type, st.SearchStrategy[Any]] = {
    ast.Extract: build(
        ast.Extract,
        model=texts(Slot.MODEL),
        target=VINDEX_PATHS,
        level=words(ast.ExtractLevel),
        components=st.lists(st.sampled_from(ast.Component), max_size=3).map(tuple),
        layers=LAYERS,
        dtype=words(ast.StorageDtype),
        quant=words(ast.Quant),
        overwrite=FLAG,
        resume=FLAG,
    ).filter(_one_word),
    ast.UseVindex: build(ast.UseVindex, path=VINDEX_PATHS, config=maybe(texts(Slot.MODEL))),
    ast.UseModel: build(ast.UseModel, model=texts(Slot.MODEL), auto_extract=FLAG),
    ast.UseRemote: build(ast.UseRemote, url=texts(Slot.URL)),
    ast.CompileVindex: build(
        ast.CompileVindex,
        source=VINDEX_REFS,
        target=VINDEX_PATHS,
        format=words(ast.ModelFormat),
        on_conflict=words(ast.PatchConflict),
        overwrite=FLAG,
    ),
    ast.CompileModel: build(
        ast.CompileModel,
        source=VINDEX_REFS,
        target=texts(Slot.OUTPUT_PATH),
        format=words(ast.ModelFormat),
        dtype=words(ast.StorageDtype),
        quant=words(ast.ModelQuant),
        on_conflict=words(ast.PatchConflict),
        overwrite=FLAG,
    ),
    ast.Diff: build(
        ast.Diff,
        left=VINDEX_REFS,
        right=VINDEX_REFS,
        layer=LAYER,
        relation=maybe(texts(Slot.RELATION)),
        limit=LIMIT,
        into_patch=maybe(PATCH_PATHS),
    ),
    ast.Merge: build(
        ast.Merge,
        source=VINDEX_PATHS,
        target=maybe(VINDEX_PATHS),
        on_conflict=words(ast.MergeConflict),
    ),
    ast.Stats: build(ast.Stats, path=maybe(VINDEX_PATHS)),
    ast.ShowModels: build(ast.ShowModels, **PAGE),
    ast.ShowLayers: build(ast.ShowLayers, layers=LAYERS, **PAGE),
    ast.ShowFeatures: build(
        ast.ShowFeatures, layer=integers(Slot.LAYER), where=maybe(conditions()), **PAGE
    ),
    ast.ShowEntities: build(ast.ShowEntities, layer=LAYER, **PAGE),
    ast.ShowRelations: build(
        ast.ShowRelations, layer=LAYER, examples=FLAG, detail=words(ast.Detail), **PAGE
    ),
    ast.ShowPatches: build(ast.ShowPatches, **PAGE),
    ast.ShowEdits: build(ast.ShowEdits, **PAGE),
    ast.ShowCompactStatus: st.just(ast.ShowCompactStatus()),
    ast.Describe: build(
        ast.Describe,
        entity=texts(Slot.ENTITY),
        layer=LAYER,
        band=words(ast.Band),
        relations_only=FLAG,
        detail=words(ast.Detail),
        limit=LIMIT,
        evidence=words(ast.Evidence),
        layers=LAYERS,
        causal=FLAG,
    ),
    ast.DefineRelation: st.builds(
        ast.DefineRelation,
        texts(Slot.RELATION),
        st.lists(texts(Slot.TEMPLATE), min_size=1, max_size=3).map(tuple),
        maybe(texts(Slot.KIND)),
    ),
    ast.Probe: build(
        ast.Probe,
        relation=texts(Slot.RELATION),
        entities=st.lists(texts(Slot.ENTITY), min_size=1, max_size=3).map(tuple),
        **PROBED,
    )
    | build(ast.Probe, relation=texts(Slot.RELATION), path=texts(Slot.FACTS_PATH), **PROBED),
    ast.LabelFeatures: build(ast.LabelFeatures, path=texts(Slot.FACTS_PATH))
    | build(ast.LabelFeatures, support=maybe(integers(Slot.TOP))),
    ast.Walk: build(
        ast.Walk, prompt=PROMPTS, top=TOP, layers=LAYERS, mode=words(ast.WalkMode), compare=FLAG
    ),
    ast.Infer: INFERS,
    ast.ExplainWalk: build(ast.ExplainWalk, **EXPLAINED),
    ast.ExplainInfer: build(ast.ExplainInfer, **EXPLAINED, prompt_mode=words(ast.PromptMode)),
    ast.UseTrace: build(ast.UseTrace, path=texts(Slot.TRACE_PATH)),
    ast.Trace: build(
        ast.Trace,
        prompt=maybe(PROMPTS),
        heads=FLAG,
        features=FLAG,
        overwrite=FLAG,
        diff=maybe(PROMPTS),
        patch_layer=LAYER,
        **CHANGES,
        answer=maybe(texts(Slot.TARGET)),
        decompose=FLAG,
        layers=LAYERS,
        positions=words(ast.TracePositions) | POSITIONS,
        save=maybe(texts(Slot.OUTPUT_PATH)),
        prompt_mode=words(ast.PromptMode),
        limit=LIMIT,
    ).filter(lambda trace: not (trace.heads and trace.features)),
    ast.Select: SELECTS,
    ast.Copy: build(ast.Copy, query=SELECTS, target=texts(Slot.OUTPUT_PATH), overwrite=FLAG),
    ast.Insert: _inserts(rows=st.lists(ROWS, min_size=1, max_size=3).map(tuple))
    | _inserts(path=texts(Slot.FACTS_PATH)),
    ast.Delete: build(ast.Delete, where=conditions(), **TOUCHING, **REPORT),
    ast.Update: build(
        ast.Update, assignments=ASSIGNMENTS, where=conditions(), **TOUCHING, **REPORT
    ),
    ast.Rebalance: build(
        ast.Rebalance,
        until_converged=FLAG,
        max_steps=maybe(integers(Slot.STEPS)),
        floor=maybe(NUMBER_SLOTS),
        ceiling=maybe(NUMBER_SLOTS),
    ),
    ast.CompactMinor: st.just(ast.CompactMinor()),
    ast.CompactMajor: build(ast.CompactMajor, full=FLAG, ridge=maybe(NUMBER_SLOTS)),
    ast.BeginPatch: build(ast.BeginPatch, path=PATCH_PATHS),
    ast.SavePatch: build(ast.SavePatch, path=maybe(PATCH_PATHS), overwrite=FLAG),
    ast.ApplyPatch: build(ast.ApplyPatch, path=PATCH_PATHS, force=FLAG),
    ast.RemovePatch: build(ast.RemovePatch, path=PATCH_PATHS),
    ast.DiscardPatch: st.just(ast.DiscardPatch()),
    ast.Undo: build(ast.Undo, steps=maybe(integers(Slot.STEPS))),
    ast.SetOption: build(ast.SetOption, option=WORDS, value=WORDS | SCALARS),
    ast.Assert: ASSERTS,
}


_DRAWN = (
    *(ast.Describe, ast.Infer, ast.ExplainInfer, ast.Trace),
    *(ast.Insert, ast.Delete, ast.Update),
)
_PICTURED = st.one_of(*(PLAIN[cls] for cls in _DRAWN))
PLOTS = build(ast.Plot, statement=_PICTURED) | build(
    ast.Plot, statement=_PICTURED, target=texts(Slot.OUTPUT_PATH), overwrite=FLAG
)


def _explains(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    plan = inner.filter(lambda node: not isinstance(node, ast.Walk | ast.Infer))
    return st.builds(ast.Explain, plan) | st.builds(ast.Explain, inner, st.just(True))


_ANY_PLAIN = st.one_of(*PLAIN.values(), PLOTS)
EXPLAINS = _explains(_ANY_PLAIN | _explains(_ANY_PLAIN))
STATEMENTS: Mapping[type, st.SearchStrategy[Any]] = {
    **PLAIN,
    ast.Plot: PLOTS,
    ast.Explain: EXPLAINS,
    ast.Include: st.builds(ast.Include, texts(Slot.SCRIPT_PATH)),
}


def _pipeable(statements: list[Any]) -> list[Any]:
    """INCLUDE stands beside no pipe."""
    alone = any(isinstance(statement, ast.Include) for statement in statements)
    return statements[:1] if alone else statements


SCRIPTS = st.lists(
    st.lists(st.one_of(*STATEMENTS.values()), min_size=1, max_size=3).map(
        lambda statements: ast.Pipeline(tuple(_pipeable(statements)))
    ),
    max_size=3,
).map(lambda items: ast.Script(tuple(items)))
