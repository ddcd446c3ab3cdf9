"""The statements of LQL as data: one frozen dataclass per statement of ``grammar/lql.lark``.

``None`` means that the clause was not written, so the executor's default holds; a literal slot
(``TextSlot``, …) holds a literal or, until ``lql.params.bind``, a ``Parameter``. ``title`` names
the statement in messages. Re-exports ``lql.syntax_edits`` (the statements that edit),
``lql.syntax_scripts`` (SET, ASSERT, INCLUDE), ``lql.syntax_shows``, ``lql.syntax_traces``,
``lql.syntax_nodes`` and ``lql.syntax_words``.
"""
# ruff: noqa: I001 -- "A as A" says that ast exports A; isort would put each on a line of its own

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from lql.span import NO_SOURCE, SourceText
from lql.syntax_edits import (
    ApplyPatch as ApplyPatch,
    BeginPatch as BeginPatch,
    CompactMajor as CompactMajor,
    CompactMinor as CompactMinor,
    Delete as Delete,
    DiscardPatch as DiscardPatch,
    Insert as Insert,
    LabelFeatures as LabelFeatures,
    Probe as Probe,
    Rebalance as Rebalance,
    RemovePatch as RemovePatch,
    SavePatch as SavePatch,
    Undo as Undo,
    Update as Update,
)
from lql.syntax_nodes import (
    Aggregate as Aggregate,
    And as And,
    Assignment as Assignment,
    Between as Between,
    Column as Column,
    Comparison as Comparison,
    Condition as Condition,
    Current as Current,
    EdgeRow as EdgeRow,
    In as In,
    Integer as Integer,
    IntegerSlot as IntegerSlot,
    IsNull as IsNull,
    Join as Join,
    LayerRange as LayerRange,
    Like as Like,
    ListLiteral as ListLiteral,
    Nearest as Nearest,
    Node as Node,
    Not as Not,
    Number as Number,
    NumberSlot as NumberSlot,
    Operand as Operand,
    Or as Or,
    Parameter as Parameter,
    Requirement as Requirement,
    Route as Route,
    Scalar as Scalar,
    SelectItem as SelectItem,
    SortKey as SortKey,
    Star as Star,
    Text as Text,
    TextSlot as TextSlot,
    Value as Value,
    VindexRef as VindexRef,
    Word as Word,
)
from lql.syntax_scripts import (
    Assert as Assert,
    Claim as Claim,
    Include as Include,
    Probability as Probability,
    SetOption as SetOption,
)
from lql.syntax_shows import (
    ShowCompactStatus as ShowCompactStatus,
    ShowEdits as ShowEdits,
    ShowEntities as ShowEntities,
    ShowFeatures as ShowFeatures,
    ShowLayers as ShowLayers,
    ShowModels as ShowModels,
    ShowPatches as ShowPatches,
    ShowRelations as ShowRelations,
)
from lql.syntax_traces import (
    Ablated as Ablated,
    Ablation as Ablation,
    Steering as Steering,
    PositionRange as PositionRange,
    Trace as Trace,
    UseTrace as UseTrace,
)
from lql.syntax_words import (
    Band as Band,
    Check as Check,
    Comparator as Comparator,
    Component as Component,
    Detail as Detail,
    Direction as Direction,
    Evidence as Evidence,
    ExtractLevel as ExtractLevel,
    Function as Function,
    InsertMode as InsertMode,
    MergeConflict as MergeConflict,
    ModelFormat as ModelFormat,
    ModelQuant as ModelQuant,
    PatchConflict as PatchConflict,
    PromptMode as PromptMode,
    Quant as Quant,
    Slot as Slot,
    SlotType as SlotType,
    StorageDtype as StorageDtype,
    Table as Table,
    TracePositions as TracePositions,
    WalkMode as WalkMode,
)


@dataclass(frozen=True, slots=True)
class Extract(Node):
    """``EXTRACT MODEL model INTO target …``. ``overwrite`` and ``resume`` exclude each other.

    ``down_q4k`` has no words in the language; only ``lql extract`` sets it.
    """

    title: ClassVar[str] = "EXTRACT"
    model: TextSlot
    target: TextSlot
    level: ExtractLevel | None = None
    components: tuple[Component, ...] = ()
    layers: LayerRange | None = None
    dtype: StorageDtype | None = None
    quant: Quant | None = None
    overwrite: bool = False
    resume: bool = False
    drop_gate_vectors: bool = False
    down_q4k: bool = False


@dataclass(frozen=True, slots=True)
class UseVindex(Node):
    """``USE path [CONFIG config]``: a checkpoint or its config.json completes a lossy vindex."""

    title: ClassVar[str] = "USE"
    path: TextSlot
    config: TextSlot | None = None


@dataclass(frozen=True, slots=True)
class UseModel(Node):
    """``USE MODEL model [AUTO_EXTRACT]``."""

    title: ClassVar[str] = "USE MODEL"
    model: TextSlot
    auto_extract: bool = False


@dataclass(frozen=True, slots=True)
class UseRemote(Node):
    """``USE REMOTE url``."""

    title: ClassVar[str] = "USE REMOTE"
    url: TextSlot


@dataclass(frozen=True, slots=True)
class CompileVindex(Node):
    """``COMPILE source INTO VINDEX target …``."""

    title: ClassVar[str] = "COMPILE INTO VINDEX"
    source: VindexRef
    target: TextSlot
    format: ModelFormat | None = None
    on_conflict: PatchConflict | None = None
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class CompileModel(Node):
    """``COMPILE source INTO MODEL target [FORMAT …] …``."""

    title: ClassVar[str] = "COMPILE INTO MODEL"
    source: VindexRef
    target: TextSlot
    format: ModelFormat | None = None
    dtype: StorageDtype | None = None
    quant: ModelQuant | None = None
    on_conflict: PatchConflict | None = None
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class Diff(Node):
    """``DIFF left right …``."""

    title: ClassVar[str] = "DIFF"
    left: VindexRef
    right: VindexRef
    layer: IntegerSlot | None = None
    relation: TextSlot | None = None
    limit: IntegerSlot | None = None
    into_patch: TextSlot | None = None


@dataclass(frozen=True, slots=True)
class Merge(Node):
    """``MERGE source [INTO target] [ON CONFLICT …]``."""

    title: ClassVar[str] = "MERGE"
    source: TextSlot
    target: TextSlot | None = None
    on_conflict: MergeConflict | None = None


@dataclass(frozen=True, slots=True)
class Stats(Node):
    """``STATS [path]``; without a path, the session's vindex or model."""

    title: ClassVar[str] = "STATS"
    path: TextSlot | None = None


@dataclass(frozen=True, slots=True)
class Describe(Node):
    """``DESCRIBE entity …``. ``layer``, ``layers`` and ``band`` all narrow; all may be written."""

    title: ClassVar[str] = "DESCRIBE"
    entity: TextSlot
    layer: IntegerSlot | None = None
    band: Band | None = None
    relations_only: bool = False
    detail: Detail | None = None
    limit: IntegerSlot | None = None
    evidence: Evidence | None = None
    layers: LayerRange | None = None
    causal: bool = False


@dataclass(frozen=True, slots=True)
class DefineRelation(Node):
    """``DEFINE RELATION relation TEMPLATE template, … [KIND kind]``."""

    title: ClassVar[str] = "DEFINE RELATION"
    relation: TextSlot
    templates: tuple[TextSlot, ...]
    kind: TextSlot | None = None


@dataclass(frozen=True, slots=True)
class Walk(Node):
    """``WALK prompt …``. ``layers`` is ``None`` for every layer, also for LAYERS ALL."""

    title: ClassVar[str] = "WALK"
    prompt: TextSlot
    top: IntegerSlot | None = None
    layers: LayerRange | None = None
    mode: WalkMode | None = None
    compare: bool = False


@dataclass(frozen=True, slots=True)
class Infer(Node):
    """``INFER prompt …``."""

    title: ClassVar[str] = "INFER"
    prompt: TextSlot
    top: IntegerSlot | None = None
    compare: bool = False
    route: Route | None = None
    prompt_mode: PromptMode | None = None
    ablate: tuple[Ablation, ...] = ()
    steer: tuple[Steering, ...] = ()


@dataclass(frozen=True, slots=True)
class ExplainWalk(Node):
    """``EXPLAIN WALK prompt …``: what each layer's features say about the prompt."""

    title: ClassVar[str] = "EXPLAIN WALK"
    prompt: TextSlot
    top: IntegerSlot | None = None
    layers: LayerRange | None = None
    band: Band | None = None
    relations_only: bool = False
    attention: bool = False
    verbose: bool = False


@dataclass(frozen=True, slots=True)
class ExplainInfer(Node):
    """``EXPLAIN INFER prompt …``: how the prediction comes about, layer by layer."""

    title: ClassVar[str] = "EXPLAIN INFER"
    prompt: TextSlot
    top: IntegerSlot | None = None
    layers: LayerRange | None = None
    band: Band | None = None
    relations_only: bool = False
    attention: bool = False
    verbose: bool = False
    prompt_mode: PromptMode | None = None


@dataclass(frozen=True, slots=True)
class Explain(Node):
    """``EXPLAIN [ANALYZE] statement``; without ANALYZE never of a ``Walk`` or an ``Infer``."""

    title: ClassVar[str] = "EXPLAIN"
    statement: Statement
    analyze: bool = False


@dataclass(frozen=True, slots=True)
class Select(Node):
    """``SELECT … FROM table [AS alias] [JOIN …] …``, clauses in SQL's order.

    ``exact``: a relation that WHERE names is that one, not one that means the same.
    """

    title: ClassVar[str] = "SELECT"
    items: tuple[SelectItem, ...]
    table: Table
    alias: str | None = None
    joins: tuple[Join, ...] = ()
    distinct: bool = False
    nearest: Nearest | None = None
    where: Condition | None = None
    exact: bool = False
    group_by: tuple[Column, ...] = ()
    having: Condition | None = None
    order_by: tuple[SortKey, ...] = ()
    limit: IntegerSlot | None = None
    offset: IntegerSlot | None = None


@dataclass(frozen=True, slots=True)
class Copy(Node):
    """``COPY (SELECT …) TO path [OVERWRITE]``."""

    title: ClassVar[str] = "COPY"
    query: Select
    target: TextSlot
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class Plot(Node):
    """``PLOT statement [TO path [OVERWRITE]]``: runs the statement and draws its result."""

    title: ClassVar[str] = "PLOT"
    statement: Describe | Infer | ExplainInfer | Trace | Insert | Delete | Update
    target: TextSlot | None = None
    overwrite: bool = False


Statement: TypeAlias = (
    Extract
    | UseVindex
    | UseModel
    | UseRemote
    | CompileVindex
    | CompileModel
    | Diff
    | Merge
    | Stats
    | ShowModels
    | ShowLayers
    | ShowFeatures
    | ShowEntities
    | ShowRelations
    | ShowPatches
    | ShowEdits
    | ShowCompactStatus
    | Describe
    | Walk
    | Infer
    | ExplainWalk
    | ExplainInfer
    | Explain
    | Trace
    | Select
    | Copy
    | Plot
    | Insert
    | Delete
    | Update
    | Rebalance
    | CompactMinor
    | CompactMajor
    | DefineRelation
    | Probe
    | LabelFeatures
    | BeginPatch
    | SavePatch
    | ApplyPatch
    | RemovePatch
    | DiscardPatch
    | Undo
    | SetOption
    | Assert
    | Include
    | UseTrace
)


@dataclass(frozen=True, slots=True)
class Pipeline(Node):
    """``statement |> statement …``: run in order, stopping at the first that fails.

    Attributes:
        source: the text of the file that an INCLUDE brought it from; the script's own otherwise.
    """

    statements: tuple[Statement, ...]
    source: SourceText = field(default=NO_SOURCE, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Script(Node):
    """A whole text.

    Attributes:
        items: its pipelines; most hold one statement.
        source: the text every span in the tree points into, but for pipelines with their own.
        used: names of the parameters it was bound with.
    """

    items: tuple[Pipeline, ...]
    source: SourceText = field(default=NO_SOURCE, compare=False, repr=False, kw_only=True)
    used: frozenset[str] = field(default=frozenset(), compare=False, repr=False, kw_only=True)

    def source_of(self, item: Pipeline) -> SourceText:
        """The text that a pipeline of this script stands in."""
        return item.source if item.source is not NO_SOURCE else self.source
