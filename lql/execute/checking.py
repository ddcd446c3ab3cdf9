"""``--check``: every name of a statement looked up, and nothing run.

Columns, options and measures are known without a vindex; layers, bands and levels are looked up in
the one that is given or that the script opens. Where a script writes a vindex and opens it, there
is nothing to look at yet, and only the former are checked.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from lql import ast
from lql.context import Context, State
from lql.execute import execute
from lql.execute.needs import Base, Needs, needs
from lql.execute.slots import layer, layer_range, text
from vindex.errors import VindexNotFound
from vindex.kinds import ExtractLevel


@dataclass(slots=True)
class Checker:
    """Checks the statements of scripts in their order; let go of with ``close``.

    Attributes:
        given: the user named a vindex, so what cannot be opened is wrong.
        state: what is open at this place of the scripts.
    """

    given: bool
    state: State = field(default_factory=State)
    _written: set[Path] = field(default_factory=set)
    _known: bool = True

    def check(self, statement: ast.Statement) -> None:
        """Look up every name of a statement.

        Raises:
            LqlError, VindexError: one stands for nothing, or the statement cannot run here.
        """
        context = Context(self.state)
        match statement:
            case ast.UseVindex():
                self._use(statement, context)
            case ast.UseModel():  # may be on a hub: looking would fetch it
                self._forget()
            case ast.Extract(target=target):
                self._written.add(_path(target))
                self._forget()
            case ast.SetOption() | ast.DefineRelation():
                if not _names_cuda(statement):
                    execute(statement, context)
            case _:
                self._names(statement, context)

    def close(self) -> None:
        """Let go of what is open."""
        self.state.close()

    def _use(self, statement: ast.UseVindex, context: Context) -> None:
        self._forget()
        try:
            execute(statement, context)
            self._known = True
        except VindexNotFound:
            if self.given and _path(statement.path) not in self._written:
                raise

    def _forget(self) -> None:
        """From here on something else is in use, and it cannot be looked at."""
        self.state.close()
        self._known = False

    def _names(self, statement: ast.Statement, context: Context) -> None:
        if isinstance(statement, ast.Explain):
            self._names(statement.statement, context)
            return
        needed = needs(statement)
        _columns(statement)
        if self.state.source is not None:
            _places(statement, needed, context)
        elif self.given and self._known and needed.base is not Base.NOTHING:
            context.source()


def _columns(statement: ast.Statement) -> None:
    """Columns, measures and values that no vindex decides."""
    select = _select_in(statement)
    if select is not None:
        _compile(select)
        return
    match statement:
        case ast.ShowFeatures(where=where) if where is not None:
            star = (ast.SelectItem(ast.Star()),)
            _compile(ast.Select(star, ast.Table.FEATURES, where=where))
        case ast.Insert() | ast.Delete() | ast.Update():
            from lql.execute.edit import check_names

            check_names(statement)
        case ast.ExplainWalk():
            from lql.execute.walk import refuse_attention

            refuse_attention(statement)
        case _:
            pass


def _select_in(statement: ast.Statement) -> ast.Select | None:
    match statement:
        case ast.Select():
            return statement
        case ast.Copy(query=query):
            return query
        case ast.Assert(subject=ast.Select() as subject):
            return subject
        case _:
            return None


def _compile(select: ast.Select) -> None:
    from lql.execute.select import scope_of
    from lql.tables.query import compile_select

    # Relations hold rows, and their names are all that the compiler wants of them.
    compile_select(select, scope_of(select), defaultdict(lambda: "nothing"))


def _places(statement: ast.Statement, needed: Needs, context: Context) -> None:
    """Layers, bands and levels of what is in use."""
    from vindex.store import Vindex

    source = context.source()
    if needed.base is Base.VINDEX:
        context.vindex(statement.title)
    if isinstance(source, Vindex) and needed.runs_model:
        source.require(ExtractLevel.INFERENCE, statement.title)
    count = source.index.num_layers if isinstance(source, Vindex) else source.spec.num_layers
    select = _select_in(statement)
    if select is not None and select.nearest is not None:
        layer(select.nearest.layer, count)
    if select is not None or isinstance(statement, ast.Diff):
        return  # DIFF speaks of its two sides, not of what is in use
    only, layers = getattr(statement, "layer", None), getattr(statement, "layers", None)
    if only is not None:
        layer(only, count)
    layer_range(layers, count)
    band = getattr(statement, "band", None)
    if band is not None and isinstance(source, Vindex):
        from lql.execute.bands import band_layers

        band_layers(source, band, statement.span)


def _names_cuda(statement: ast.SetOption | ast.DefineRelation) -> bool:
    """Whether a SET asks for a GPU, which the machine that checks need not have."""
    if not isinstance(statement, ast.SetOption) or statement.option.value != "device":
        return False
    value = statement.value
    return isinstance(value, ast.Word | ast.Text) and value.value.lower() == "cuda"


def _path(slot: ast.TextSlot) -> Path:
    return Path(text(slot)).expanduser().absolute()
