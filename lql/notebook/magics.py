"""``%lql`` and ``%%lql``: one session for one notebook."""

from __future__ import annotations

from dataclasses import replace

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand
from IPython.display import display

from lql import ast
from lql.cancel import CancelToken
from lql.codes import Code
from lql.errors import LqlError
from lql.notebook.cells import Cell, cell_of, values
from lql.notebook.display import CellError
from lql.repl.runner import Runner
from lql.results import Result
from lql.session import Session
from lql.span import SourceText


@magics_class
class LqlMagics(Magics):  # type: ignore[misc]
    """The magics of one notebook, over one session.

    ::

        %lql USE "smollm2.vindex"
        %lql INFER :prompt TOP 5              (the value of the variable ``prompt``)
        found = %lql INFER "…"                (a typed result: .rows, .to_pandas(), …)
        %lql found << INFER "…"               (the same, and nothing is shown)
        session = %lql                        (the session, for Python)
    """

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self.session = Session(pictures=True)
        self._runner = Runner(self._execute, say=print)

    @no_var_expand  # type: ignore[untyped-decorator]
    @line_cell_magic  # type: ignore[untyped-decorator]
    def lql(self, line: str, cell: str | None = None) -> Result | Session | None:
        """Run statements; the last result is the value, those before it are shown.

        ``name << STATEMENT`` keeps the last result under a name instead. ``:name`` in a statement
        stands for the value of a variable. With nothing after it ``%lql`` is the session.

        Raises:
            CellError: a statement failed; shown without Python's frames.
        """
        try:
            read = cell_of(line, cell)
            if cell is None and not line.strip():
                return self.session
            return self._run(read)
        except LqlError as error:
            raise CellError(_advised(error)) from error

    def _run(self, read: Cell) -> Result | None:
        names = self.shell.user_ns
        script = self.session.prepare(read.text, name=read.name, parameters=values(names))
        last: Result | None = None

        def show(result: Result) -> None:
            nonlocal last
            if last is not None:
                display(last)
            last = result

        self._runner.show_each(script, show)  # the interrupt button stops between two layers
        if read.target is None:
            return last
        names[read.target] = last
        return None

    def _execute(self, statement: ast.Statement, source: SourceText, cancel: CancelToken) -> Result:
        return self.session.execute(statement, source, cancel=cancel)


def _advised(error: LqlError) -> LqlError:
    """An error with the next step of a notebook, where that is not a shell's."""
    if error.code is Code.UNBOUND_PARAMETER and error.diagnostic.helps:
        helps = ("assign it in Python first: text, a number, or a list of them",)
        error.diagnostic = replace(error.diagnostic, helps=helps)
    return error
