"""The steps of each statement: which files it reads, how much of them, and what it computes.

Everything is told from shapes, sizes and the tokenizer; no page of a weight is touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from lql import ast
from lql.execute.needs import OF_NO_VINDEX
from lql.execute.slots import layer, layer_range, text
from lql.results.plan import PlanStep
from vindex import files
from vindex.tokens import FILE as TOKEN_TEXTS

if TYPE_CHECKING:
    from vindex.checkpoint import CheckpointSource
    from vindex.footprint import FileUse
    from vindex.store import Vindex


class Stage(Enum):
    """The stretch of a statement's time that a step takes."""

    BEFORE = "before"  # the model is asked for
    LOAD = "load"  # it, or the tables, are made ready
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class Planned:
    """A step, and when it is done."""

    stage: Stage
    step: PlanStep


def planned(
    statement: ast.Statement,
    source: Vindex | CheckpointSource | None,
    *,
    runs: bool,
    loaded: bool,
) -> list[Planned]:
    """The steps of a statement, in their order, at most one of each stage.

    Args:
        source: what is in use; ``None`` for a statement that needs nothing of it.
        runs: the statement runs the model.
        loaded: its weights are in memory already.
    """
    from vindex.store import Vindex

    if source is None:
        return [Planned(Stage.AFTER, _without_source(statement))]
    vindex = source if isinstance(source, Vindex) else None
    steps: list[Planned] = []
    select = selected(statement)
    if vindex is not None and select is not None:
        steps.append(Planned(Stage.LOAD, PlanStep("open the table engine", "DuckDB")))
        steps.append(Planned(Stage.AFTER, _query(select, vindex)))
    browsed = None if vindex is None else _browsed(statement, vindex, runs=runs)
    if browsed is not None:
        steps.append(Planned(Stage.BEFORE if runs else Stage.AFTER, browsed))
    if runs:
        steps.append(Planned(Stage.LOAD, _load(source, loaded=loaded)))
        steps.append(Planned(Stage.AFTER, _forward(statement, source)))
    return steps or [Planned(Stage.AFTER, PlanStep("look up", "what the session knows"))]


def kept_answers(date: str, vindex: Vindex) -> Planned:
    """The only step of a DESCRIBE whose answers are kept from an earlier day."""
    from vindex.kept_answers import FILE

    size = _size(str(vindex.path / FILE)) or 0
    step = PlanStep("read kept answers", f"asked on {date}", (FILE,) if size else (), size)
    return Planned(Stage.AFTER, step)


def selected(statement: ast.Statement) -> ast.Select | None:
    """The SELECT that a statement is, or asks."""
    match statement:
        case ast.Select():
            return statement
        case ast.Copy(query=query):
            return query
        case ast.Assert(subject=ast.Select() as subject):
            return subject
        case ast.ShowFeatures():
            return ast.Select((), ast.Table.FEATURES)
        case ast.ShowEntities():
            return ast.Select((), ast.Table.ENTITIES)
        case ast.ShowRelations():
            return ast.Select((), ast.Table.RELATIONS)
        case ast.ShowLayers():
            return ast.Select((), ast.Table.LAYERS)
        case ast.ShowPatches():
            return ast.Select((), ast.Table.PATCHES)
        case _:
            return None


# --------------------------------------------------------------------------- browsing


def _browsed(statement: ast.Statement, vindex: Vindex, *, runs: bool) -> PlanStep | None:
    """What a statement reads of the index files beside tables and a forward pass."""
    from vindex.footprint import embedding_use, gate_use, token_use

    match statement:
        case ast.Walk(mode=None | ast.WalkMode.PURE) | ast.Walk(compare=True) | ast.ExplainWalk():
            layers = layer_range(statement.layers, vindex.index.num_layers)
            uses = [embedding_use(vindex, 1), gate_use(vindex, layers)]
            return _step("rank features", _counted(_prompt_tokens(statement.prompt, vindex)), uses)
        case ast.Describe(evidence=evidence) if not runs or evidence is ast.Evidence.ALL:
            layers = range(vindex.index.num_layers)
            tokens = len(vindex.encode(text(statement.entity), special=False))
            uses = [embedding_use(vindex, tokens), gate_use(vindex, layers)]
            return _step("rank features", _counted(tokens), uses)
        case ast.Stats():
            return _step("count", "features with tokens", [token_use(vindex, vindex.layers)])
        case ast.Delete() | ast.Update() if not runs:
            return PlanStep("look up", "stored facts")
        case ast.Diff():
            uses = [gate_use(vindex, vindex.layers), token_use(vindex, vindex.layers)]
            return _step("compare", "and the up and down vectors, where there are any", uses)
        case ast.ApplyPatch(path=path) | ast.SavePatch(path=ast.Text() as path):
            word = "read" if isinstance(statement, ast.ApplyPatch) else "write"
            return PlanStep(f"{word} the patch", files=(text(path),), bytes=_size(text(path)))
        case _:
            return None


_TEXTS = {ast.Table.FEATURES, ast.Table.EDGES, ast.Table.ENTITIES, ast.Table.TOKENS}


def _query(select: ast.Select, vindex: Vindex) -> PlanStep:
    """What a SELECT reads: records of features, texts of tokens, and gates where it ranks."""
    from vindex.footprint import FileUse, gate_use, token_use

    tables = {select.table, *(join.table for join in select.joins)}
    uses: list[FileUse] = []
    if tables - OF_NO_VINDEX - {ast.Table.PATCHES}:
        uses.append(token_use(vindex, vindex.layers))
    if tables & _TEXTS:
        uses.append(FileUse(TOKEN_TEXTS, _size(str(vindex.path / TOKEN_TEXTS)) or 0))
    if select.nearest is not None:
        uses.append(gate_use(vindex, [layer(select.nearest.layer, vindex.index.num_layers)]))
    elif ast.Table.EDGES in tables:
        uses.append(gate_use(vindex, vindex.layers))
    return _step("query", ", ".join(sorted(table.value for table in tables)), uses)


# --------------------------------------------------------------------------- running the model


def _load(source: Vindex | CheckpointSource, *, loaded: bool) -> PlanStep:
    from vindex.footprint import weight_files, work_of
    from vindex.store import Vindex

    if loaded:
        return PlanStep("load weights", "in memory already", bytes=0)
    if isinstance(source, Vindex):
        return _step("load weights", None, weight_files(source))
    return PlanStep("load weights", files=(source.name,), bytes=work_of(source).weight_bytes)


def _forward(statement: ast.Statement, source: Vindex | CheckpointSource) -> PlanStep:
    """The forward pass of a prompt; statements that ask more than one say how many."""
    from vindex.footprint import work_of

    work = work_of(source)
    match statement:
        case ast.Infer() | ast.Walk() | ast.ExplainInfer():
            passes = 2 if isinstance(statement, ast.Infer) and statement.compare else 1
            tokens = _prompt_tokens(statement.prompt, source)
            lens = source.spec.num_layers if isinstance(statement, ast.ExplainInfer) else 0
            return PlanStep(
                "run the model",
                _counted(tokens) if passes == 1 else f"{_counted(tokens)}, twice",
                multiply_adds=passes * work.multiply_adds(tokens, asked=1 + lens),
            )
        case ast.Assert(subject=ast.Infer(prompt=prompt)):
            tokens = _prompt_tokens(prompt, source)
            cost = work.multiply_adds(tokens)
            return PlanStep("run the model", _counted(tokens), multiply_adds=cost)
        case ast.Assert(subject=ast.Probability(prompt=prompt, target=target)):
            asked = _prompt_tokens(target, source)
            tokens = _prompt_tokens(prompt, source) + asked
            cost = work.multiply_adds(tokens, asked=asked + 1)
            return PlanStep("run the model", _counted(tokens), multiply_adds=cost)
        case ast.Describe():
            return PlanStep("ask the model", _questions())
        case ast.Insert() | ast.Delete() | ast.Update():
            return PlanStep("measure the edit", _probes(statement))
        case _:
            return PlanStep("run the model")


def _questions() -> str:
    """How many questions an entity is asked, by its kind."""
    from lql.catalogue import catalogue

    known = catalogue()
    counts = [len(known.questions(kind)) for kind in known.kinds]
    return f"{min(counts)} to {max(counts)} questions for each likely kind, in one pass"


def _probes(statement: ast.Insert | ast.Delete | ast.Update) -> str:
    """How many prompts an edit asks before and after it."""
    from lql.execute.measure import plan_for

    check = statement.check or ast.Check.QUICK
    facts = len(statement.rows) if isinstance(statement, ast.Insert) else 1
    if not facts:
        return f"CHECK {check.value}, the facts of a file"
    plan = plan_for(check, facts)
    prompts = plan.facts * (1 + plan.paraphrases + plan.neighbours) + plan.controls
    return f"CHECK {check.value}: {prompts} prompts before and after, for {facts} fact(s)"


# --------------------------------------------------------------------------- without a source


def _without_source(statement: ast.Statement) -> PlanStep:
    match statement:
        case ast.UseVindex(path=path) | ast.Stats(path=ast.Text() as path):
            index = str(Path(text(path)).expanduser() / files.INDEX)
            return PlanStep("open", "and check every other file's size", (index,), _size(index))
        case ast.UseModel(model=model):
            return PlanStep("open", "headers only", (text(model),))
        case ast.Extract(model=model, target=target):
            name = text(model)
            return PlanStep("extract", f"into {text(target)}", (name,), _tree_size(name))
        case ast.Diff(left=left, right=right):
            names = tuple(text(side) for side in (left, right) if not isinstance(side, ast.Current))
            sizes = [_tree_size(name) or 0 for name in names]
            return PlanStep("compare", files=names, bytes=sum(sizes))
        case ast.ShowModels():
            return PlanStep("list", "the index of every vindex in the working directory")
        case _:
            return PlanStep("look up", "what the session knows")


# --------------------------------------------------------------------------- counting


def _step(name: str, detail: str | None, uses: Iterable[FileUse]) -> PlanStep:
    used: Sequence[FileUse] = [use for use in uses if use.bytes]
    names = tuple(use.file for use in used)
    return PlanStep(name, detail, names, sum(use.bytes for use in used))


def _prompt_tokens(prompt: ast.TextSlot, source: Vindex | CheckpointSource) -> int:
    """Tokens of a prompt as typed; a chat template adds its own."""
    from vindex.store import Vindex

    if isinstance(source, Vindex):
        return len(source.encode(text(prompt), special=True))
    return len(source.tokenizer().encode(text(prompt)).ids)


def _counted(tokens: int) -> str:
    return "1 token" if tokens == 1 else f"{tokens} tokens"


def _size(path: str) -> int | None:
    try:
        return Path(path).expanduser().stat().st_size
    except OSError:
        return None


def _tree_size(path: str) -> int | None:
    """Bytes of a file, or of the files of a directory; ``None`` for something on a hub."""
    place = Path(path).expanduser()
    if not place.is_dir():
        return _size(path)
    return sum(files.stored_sizes(place).values())
