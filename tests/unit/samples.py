"""One result of every type, with text that a careless renderer gets wrong."""

from __future__ import annotations

from dataclasses import replace

from lql.results import Column, Kind, Result, Unit
from lql.results.browse import DescribeResult, EdgeRow, ExplainWalkResult, FeatureRow, WalkResult
from lql.results.commands import FileRow, InfoResult, VerifyResult
from lql.results.compile import CompileModelResult, CompileVindexResult, MergeResult
from lql.results.composed import BalanceResult, BalanceRow, CompactStatusResult
from lql.results.edits import (
    ConflictRow,
    DiffResult,
    DiffRow,
    EditResult,
    EditRow,
    EditsResult,
    FactRow,
    Measures,
    PatchResult,
    ProbeRow,
)
from lql.results.forward import (
    ActivationRow,
    AttentionRow,
    ExplainInferResult,
    InferComparison,
    InferResult,
    LayerExplanation,
    PromptToken,
    RouteComparison,
    TokenRow,
)
from lql.results.forward import (
    FactRow as AnswerFact,
)
from lql.results.lifecycle import DefineRelationResult, ExtractResult, SetResult, UseResult
from lql.results.pictures import PlotResult
from lql.results.plan import PlanResult
from lql.results.scripts import AssertResult
from lql.results.show import BandRow, StatsResult
from lql.results.table import CopyResult, TableResult
from lql.results.trace import (
    DiffRow as TraceDiffRow,
)
from lql.results.trace import (
    FeatureRow as TraceFeatureRow,
)
from lql.results.trace import (
    HeadRow,
    RunTokenRow,
    TraceDiffResult,
    TraceFeaturesResult,
    TraceHeadsResult,
    TraceResult,
    TraceRow,
    UseTraceResult,
)

TOKENS = (
    TokenRow(1, " Paris", 7042, 0.7724711298942566, 18.031408309936523),
    TokenRow(2, "巴黎", 260, 0.06453, 16.5),
    TokenRow(3, "\n[/INST]:smile:", 12, 0.00645, 14.25),
    TokenRow(4, "\x1b[31mred|,\t\"'\\n", 9, 0.0000645, -6.5),
)
FEATURES = (
    FeatureRow(20, 154, 6.28125, " Paris", (" France", "\u202eabc"), "capital", "knowledge"),
    FeatureRow(20, 77, -3.140625, "  ", (), None, "knowledge"),
    FeatureRow(21, 3, 0.5, "e\u0301t", ("a,b",), None, None),
)

INFER = InferResult(prompt="The capital", prompt_mode="raw", tokens=TOKENS)
COMPARISON = InferComparison(
    prompt="The capital",
    prompt_mode="chat",
    dense=TOKENS[:2],
    walk=(TOKENS[0], TOKENS[2]),
    probability_difference=1.3e-6,
    logit_difference=3.5e-5,
    dense_s=0.021,
    walk_s=0.25,
)
WALK = WalkResult(prompt="The capital of", token=" of", token_id=282, features=FEATURES)
DESCRIBE = DescribeResult(
    entity="France",
    edges=(
        EdgeRow(
            "France", None, "Paris", "static", 14.5, 20, 154, "knowledge", (), (18, 20), 2, "clear"
        ),
    ),
    detailed=False,
)
ANSWER = EdgeRow(
    entity="France",
    relation="capital",
    target="Paris",
    evidence="answer",
    score=6.5,
    layer=24,
    feature=1005,
    band=None,
    signal="clear",
    probability=0.9577,
    lift_nats=6.79,
    source="Country: France\nCapital:",
    via=("L24 F1005 7 %",),
    causal=0.73,
)
EXPLAIN = ExplainInferResult(
    prompt="The",
    prompt_mode="raw",
    prompt_tokens=(PromptToken(0, "<s>", 1, True), PromptToken(1, "The", 450, False)),
    layers=(
        LayerExplanation(
            20,
            "knowledge",
            TOKENS[0],
            (
                ActivationRow(154, 6.28125, 12.5, " Paris", (" France", "\u202eabc"), "capital"),
                ActivationRow(77, -3.140625, -0.25, None, (), None),
            ),
        ),
        LayerExplanation(21, None, TOKENS[1], ()),
    ),
    prediction=TOKENS[:2],
    compute="float32",
)
STATS = StatsResult(
    path="x.vindex",
    model="org/model",
    family="llama",
    level="inference",
    dtype="f16",
    layers=30,
    hidden=576,
    vocabulary=49152,
    features=46080,
    described=46080,
    labelled=0,
    clusters=0,
    bands=(BandRow("syntax", 0, 11, 18432),),
    size_bytes=270_000_000,
)
EXTRACT = ExtractResult(
    model="org/model",
    path="x.vindex",
    family="llama",
    level="inference",
    dtype="f16",
    quant="none",
    layers=30,
    features=46080,
    size_bytes=270_000_000,
    dropped={"rotary-inv-freq": 30},
    seconds={"weights": 1.5, "down_meta": 7.25},
)
INFO = InfoResult(
    lql="0.1.0",
    python="3.13.1",
    platform="Linux",
    device="cpu",
    cores=2,
    packages={"torch": "2.13.0", "gguf": None},
)
TABLE = TableResult(
    shape=(
        Column("layer", Kind.INTEGER),
        Column("token", Kind.TOKEN),
        Column("COUNT(*)", Kind.INTEGER),
        Column("logit", Kind.NUMBER, Unit.LOGIT),
        Column("also", Kind.TOKENS),
        Column("edited", Kind.BOOLEAN),
        Column("size_bytes", Kind.INTEGER, Unit.BYTES),
        Column("status", Kind.TEXT),
    ),
    values=(
        (20, " x\n", 88, 1.5, (" y", "<b>"), False, 10, "index.json is not JSON"),
        (21, None, 0, None, None, None, None, None),
    ),
)
USE = UseResult(
    path="x.vindex",
    model="org/model",
    family="llama",
    layers=30,
    features=46080,
    level="inference",
    dtype="f16",
)
SET = SetResult(option="device", value="cuda")

EDIT = EditResult(
    statement="INSERT",
    mode="knn",
    check="quick",
    facts=(FactRow("Hungary", "capital", "Oslo", "Rome", 23, 1.0, ("Magyarország",)),),
    measures=Measures(1.0, 0.5, 1.0, 0.0),
    probes=(
        ProbeRow(
            "Hungary",
            "capital",
            "Oslo",
            "canonical",
            "The capital of Hungary is",
            " Budapest.\n",
            " Oslo\x1b[2J",
            0.000012,
            1.0,
            None,
            True,
        ),
        ProbeRow("Hungary", "capital", "Oslo", "control", "Water is", " a", " a", divergence=0.0),
    ),
    seconds=1.25,
    size_bytes=6912,
)

TRACE = TraceResult(
    prompt="The capital\nof \x1b[31mFrance",
    prompt_mode="raw",
    target="Paris",
    layers=(
        TraceRow(-1, 5, " is", " is", 0.9, 7, 1e-9, 1e-12, -3.25, -0.5, residual=12.5),
        TraceRow(
            *(0, 5, " is", "\n", 0.25, 1, 0.25, 0.125, 9.5, 4.25, 4.0, 0.25, None, 0.0, None),
            *(1.5, 2.5, None, 0.5, 0.25, 3.0, 14.0, 0.375),
        ),
    ),
    lengths=True,
    share=True,
    gap=4e-8,
    constant=0.25,
    prediction=TOKENS,
    interventions=('STEER "\x1b[2J" BY 3 AT LAYER 0',),
    saved="x.trace",
)

TRACES: tuple[Result, ...] = (
    TRACE,
    replace(TRACE, prompt=None, target=None, constant=None, prediction=(), share=False),
    TraceHeadsResult(prompt="x", target="\x1b[1m", heads=(HeadRow(23, 4, 89.87, 2.82),)),
    TraceFeaturesResult(
        prompt="\n",
        target=None,
        features=(TraceFeatureRow(29, 1066, None, "\x1b[1m", -24.9, 86.6, None),),
    ),
    TraceDiffResult(
        a="one",
        b="two\x1b",
        target="Paris",
        patch_layer=3,
        layers=(
            TraceDiffRow(0, 5.5, 0.5, 0.78, "\n", 0.25, " of", 0.5, " of", 0.5, 0.1, 0.2, 0.3),
            TraceDiffRow(1, 5.5, 0.5, 0.78, "\n", 0.25, " of", 0.5, None, None, None, None, None),
        ),
        predictions=(RunTokenRow("patched", 1, " Paris\x1b", 7042, 0.75, 17.5),),
    ),
    UseTraceResult(
        path="x.trace", prompt="\x1b[1m", model=None, layers=30, positions=6, hidden=576
    ),
    replace(
        EXPLAIN,
        attention=(AttentionRow(0, 3, (" \x1b", "巴"), (4, 0), (0.5, 0.25), 0.25),),
    ),
)

EVERY: tuple[Result, ...] = (
    *TRACES,
    SET,
    INFER,
    replace(INFER, fact=AnswerFact("Hungary", "capital", "Oslo", 23, 0.98, " Budapest", 0.56)),
    COMPARISON,
    RouteComparison(
        prompt="x",
        prompt_mode="raw",
        routed=TOKENS[:1],
        dense=TOKENS[:2],
        fact=AnswerFact("Hungary", "capital", "\x1b[1m", 23, 0.98, None, None),
    ),
    WALK,
    ExplainWalkResult(prompt="of", token=" of", token_id=282, features=FEATURES),
    DESCRIBE,
    DescribeResult(entity="France", edges=DESCRIBE.edges, detailed=True),
    DescribeResult(entity="xyz", edges=(), detailed=False),
    DescribeResult(entity="France", edges=(ANSWER,), detailed=True, kinds=("country",)),
    DefineRelationResult(relation="anthem", templates=("{entity} sings",), kind=None),
    EXPLAIN,
    TABLE,
    AssertResult(claim='INFER "[x]"', expected="= \x1b[1m", found=" Lyon", message="[bold]"),
    CompileVindexResult(
        source="CURRENT with 1 edit",
        path="[x].vindex",
        rewritten=("down_weights.bin",),
        shared={"norms.bin": "linked"},
        left_out=("lql_answers_country.bin",),
        facts=1,
        probes=2,
        conflicts=0,
        size_bytes=4096,
        new_bytes=1024,
        edited_values=576,
        rounding=1e-4,
        requantised_values=256,
        requantised_error=0.01,
        requantised_relative=0.002,
        seconds=0.5,
    ),
    CompileModelResult(
        source="x.vindex",
        path="[x].gguf",
        format="gguf",
        files={"[x].gguf": 4096},
        encodings={"f16": 2, "f32": 1},
        conflicts=0,
        size_bytes=4096,
        rounding=0.0,
        rounding_relative=0.0,
        seconds=0.5,
    ),
    MergeResult(
        source="[a].vindex",
        target="CURRENT",
        on_conflict="keep source",
        facts=1,
        features=2,
        conflicts=1,
        kept=0,
        seconds=0.1,
    ),
    PlanResult(
        statement='INFER "[x]"',
        source="[x].vindex",
        model="llama",
        level_needed="inference",
        level="browse",
        obstacle="it holds no weights",
        device="cpu",
        dtype="f16",
        layers="0-29",
        steps=(),
    ),
    CopyResult(path="x.csv", format="csv", rows_written=2, size_bytes=99),
    PlotResult(statement="EXPLAIN INFER", kind="lens", path="x.png", size_bytes=99),
    STATS,
    EXTRACT,
    INFO,
    USE,
    EDIT,
    replace(EDIT, check="none", measures=Measures(), probes=()),
    BalanceResult(
        statement="REBALANCE",
        facts=(BalanceRow("Hungary", "capital", "\x1b[31mOslo", 23, 498, 0.97, 0.81, True),),
        rounds=3,
        seconds=0.4,
    ),
    CompactStatusResult(stored=1, composed=2, features=3, changed=0, off=1, layers=1, bytes=27_648),
    EditsResult(edits=(EditRow(1, "INSERT Hungary —capital→ Oslo", 1, None),)),
    PatchResult(
        statement="APPLY PATCH",
        patch="a.vlp",
        edits=("APPLY PATCH a.vlp",),
        operations=2,
        conflicts=(ConflictRow("Hungary —capital→", "Oslo", "\x1b[31mRome"),),
        left=1,
    ),
    DiffResult(
        left="a.vindex",
        right="CURRENT",
        differences=(
            DiffRow("added", 23, None, "Hungary", "capital", None, "Oslo", "fact"),
            DiffRow("modified", 2, 130, None, None, " of", "\nRome", "gate, token"),
        ),
    ),
    VerifyResult(path="x.vindex", files=(FileRow("norms.bin", 4096, "ok"),)),
)
