"""The interactive shell: reads a text, runs it, shows its results, until the user leaves."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, assert_never

from prompt_toolkit import PromptSession
from prompt_toolkit.application import create_app_session
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.enums import EditingMode
from prompt_toolkit.filters import to_filter
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.input.typeahead import get_typeahead, store_typeahead
from prompt_toolkit.keys import Keys
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.defaults import create_output
from prompt_toolkit.shortcuts import prompt
from prompt_toolkit.styles import Style

from lql import ast
from lql.codes import Code
from lql.errors import LqlError
from lql.parser import keywords
from lql.render import Format, RenderOptions
from lql.repl import toolbar
from lql.repl.buffer import CommandLine, Statements, split
from lql.repl.commands import Outcome, dispatch
from lql.repl.completer import LqlCompleter
from lql.repl.highlighter import LqlLexer
from lql.repl.history import PrivateHistory, history_path
from lql.repl.keys import KEYS, LEAVING_HINT, bindings
from lql.repl.known import KnownNames, State
from lql.repl.progress import DetachableProgress
from lql.repl.runner import Runner
from lql.repl.shell import Shell
from lql.repl.tty import unechoed
from lql.report import ErrorStyle, Reporter
from lql.results import Result
from lql.session import Session
from lql.span import SourceText
from lql.syntax_words import Device

if TYPE_CHECKING:
    from lql.cancel import CancelToken
    from lql.render.progress import ProgressBar

_INPUT_NAME = "<input>"
_MENU_ROWS = 6
_PATIENCE_S = 0.3
_LEAVING_S = 10.0
_REFRESH_S = 0.5

# The terminal's own colours, which its theme makes readable on light and on dark; those that one
# kind of theme does not (yellow, blue, white, black) are left out.
_COLORS = {
    "lql.keyword": "bold",
    "lql.string": "ansigreen",
    "lql.number": "ansimagenta",
    "lql.parameter": "ansicyan",
    "lql.comment": "ansibrightblack italic",
    "lql.error": "ansired underline",
    "lql.command": "ansicyan",
}
_PLAIN = {"lql.keyword": "bold", "lql.error": "underline", "auto-suggestion": "dim italic"}


@dataclass(frozen=True, slots=True)
class ReplOptions:
    """What the command line decided.

    Attributes:
        use: a vindex to open first.
        config: the checkpoint or config.json that completes it.
        device: where models run.
        parameters: values of ``:name`` in what is typed, as words.
        timeout_s: time allowed for each statement.
    """

    use: str | None = None
    config: str | None = None
    device: Device = Device.CPU
    format: Format = Format.TABLE
    render: RenderOptions = field(default_factory=RenderOptions)
    parameters: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None


def run_repl(
    options: ReplOptions,
    reporter: Reporter,
    progress: ProgressBar | None = None,
    *,
    on_bug: Callable[[Exception], object],
) -> int:
    """Read and run what is typed, until the user leaves.

    Args:
        progress: shows long work.
        on_bug: reports an exception that only a bug can raise; the shell goes on.

    Returns:
        The process's exit code.

    Raises:
        LqlError: the vindex to open first cannot be opened.
    """
    shown = DetachableProgress(progress)
    session = Session(progress=shown, device=options.device)
    with _typing_on_terminal(reporter), unechoed():
        if options.use is not None:
            supplied = None if options.config is None else ast.Text(options.config)
            use = ast.UseVindex(ast.Text(options.use), supplied)
            reporter.finished(session.execute(use))
        repl = Repl(session, options, reporter, shown, on_bug=on_bug)
        repl.loop()
        ended = repl.end()
    if not ended:
        os._exit(0)  # closing the session would unmap files under the statement
    session.close()
    return 0


class Repl:
    """One interactive session. See ``run_repl`` for what it is given."""

    def __init__(
        self,
        session: Session,
        options: ReplOptions,
        reporter: Reporter,
        progress: DetachableProgress | None = None,
        *,
        on_bug: Callable[[Exception], object],
        ask: Callable[[str], str] = prompt,
    ) -> None:
        self._ask = ask
        self._session = session
        self._reporter = reporter
        self._progress = progress or DetachableProgress(None)
        self._on_bug = on_bug
        self._shell = Shell(
            reporter,
            options.format,
            options.render,
            KEYS,
            session=session,
            run=self._run,
            typed_before=lambda: self._history.get_strings(),
            variables=dict(options.parameters),
        )
        self._names = KnownNames(session, ready=self._offer_names)
        self._runner = Runner(self._execute, timeout_s=options.timeout_s, say=self._shell.say)
        self._history = PrivateHistory(history_path(os.environ))
        self._prompt = self._make_prompt(color=options.render.color)

    def loop(self) -> None:
        """Read and run texts until the user leaves.

        The grammar loads while the user reads the first prompt.
        """
        threading.Thread(target=keywords, name="lql-grammar", daemon=True).start()
        if not self._reporter.quiet:
            self._shell.say(f"lql {version('lql')}: help lists what can be typed, {LEAVING_HINT}")
        cancelled = False
        while True:
            try:
                if cancelled:
                    self._shell.say("cancelled")
                    cancelled = False
                vi = self._shell.vi_keys
                self._prompt.editing_mode = EditingMode.VI if vi else EditingMode.EMACS
                text = self._prompt.prompt(
                    lambda: [("class:prompt", toolbar.prompt(toolbar.opened(self._session)))],
                    refresh_interval=_REFRESH_S if self._changes_by_itself() else 0,
                    default=self._shell.take_prefill(),
                    # Ctrl-C is a key while the prompt reads. Its own handler of the signal would
                    # also swallow one that comes when the keys are handed back, after Enter.
                    handle_sigint=False,
                )
                if self._interrupted_early():
                    raise KeyboardInterrupt
                if self.handle(text) is Outcome.LEAVE and self._may_drop("leaving drops"):
                    return
            except EOFError:
                if self._may_drop("leaving drops"):
                    return
            except KeyboardInterrupt:  # between two statements, or while a result was printed
                cancelled = True  # told where another press is caught as well

    def handle(self, text: str) -> Outcome:
        """Run everything in a text, in order, up to the first thing that fails."""
        self._tell_history_problem()
        for part in split(text):
            try:
                match part:
                    case CommandLine(call=call):
                        if dispatch(call, self._shell) is Outcome.LEAVE:
                            return Outcome.LEAVE
                    case Statements(text=statements, start=start):
                        lines_before = text.count("\n", 0, start)  # messages count them too
                        self._run("\n" * lines_before + statements, _INPUT_NAME)
                        self._shell.last_text = statements.strip()
                    case _:
                        assert_never(part)
            except LqlError as error:
                self._report(error)
                break
            except BrokenPipeError:
                raise
            except Exception as error:  # the shell outlives its bugs: the session may hold edits
                self._on_bug(error)
                break
        return Outcome.STAY

    def end(self) -> bool:
        """End the worker; return whether no statement runs any more."""
        self._runner.close()
        if self._runner.wait(_PATIENCE_S):
            return True
        self._shell.say(f"waiting for {self._runner.busy_with} to end; Ctrl-C leaves at once")
        try:
            return self._runner.wait(_LEAVING_S)
        except KeyboardInterrupt:
            return False

    def _run(self, text: str, name: str) -> None:
        script = self._session.prepare(text, name=name, words=self._shell.variables)
        if _replaces_base(script) and not self._may_drop("this drops"):
            return
        shown = self._shell.showing()

        def show(result: Result) -> None:
            self._progress.clear()
            shown.write(result)
            self._reporter.finished(result)

        try:
            self._runner.show_each(script, show)
        finally:
            self._progress.detach()

    def _may_drop(self, loses: str) -> bool:
        """Ask whether edits that no file holds may be lost, if there are any; drop them if so."""
        error = self._session.unsaved_edits(loses)
        if error is None:
            return True
        self._shell.say("\n".join((error.diagnostic.message, *error.diagnostic.notes)))
        try:
            answer = self._ask("drop them? (y/N) ")
        except KeyboardInterrupt:
            answer = ""
        except EOFError:  # Ctrl-D once more, or the terminal is gone: there is nobody to ask
            answer = "y"
        if answer.strip().casefold() not in ("y", "yes"):
            self._shell.say('kept; SAVE PATCH "edits.vlp"; writes them')
            return False
        self._session.discard_edits()
        return True

    def _interrupted_early(self) -> bool:
        """Whether Ctrl-C was pressed after Enter, before the terminal made it a signal again.

        Keys that come while the prompt closes wait for the next one, where Ctrl-C would not stop
        what Enter has begun. Some are read already, some still wait in the terminal.
        """
        terminal = self._prompt.input
        pressed = get_typeahead(terminal) + terminal.read_keys()
        interrupts = [place for place, key in enumerate(pressed) if key.key is Keys.ControlC]
        after = interrupts[-1] + 1 if interrupts else 0
        store_typeahead(terminal, pressed[after:])
        return bool(interrupts)

    def _execute(self, statement: ast.Statement, source: SourceText, cancel: CancelToken) -> Result:
        self._progress.attach()
        return self._session.execute(statement, source, cancel=cancel)

    def _report(self, error: LqlError) -> None:
        diagnostic = error.diagnostic
        if error.code is Code.CANCELLED and self._reporter.style is ErrorStyle.TEXT:
            self._shell.say("\n".join((diagnostic.message, *diagnostic.notes)))
        else:
            self._reporter.error(diagnostic)

    def _tell_history_problem(self) -> None:
        problem = self._history.problem
        if problem is not None:
            self._reporter.note(f"history is not saved: {problem.strerror or problem}")

    # ----------------------------------------------------------------- the prompt

    def _make_prompt(self, *, color: bool) -> PromptSession[str]:
        session: PromptSession[str] = PromptSession(
            multiline=True,
            prompt_continuation=_continuation,
            bottom_toolbar=self._toolbar,
            lexer=LqlLexer(),
            completer=LqlCompleter(lambda: self._shell.topics, self._names.now),
            complete_while_typing=True,
            auto_suggest=AutoSuggestFromHistory(),
            history=self._history,
            key_bindings=bindings(self._history, self._shell.say),
            style=Style.from_dict(_COLORS if color else _PLAIN),
            color_depth=ColorDepth.DEPTH_8_BIT if color else ColorDepth.DEPTH_1_BIT,
            include_default_pygments_style=False,
            search_ignore_case=True,
            enable_suspend=True,
            reserve_space_for_menu=_MENU_ROWS,
        )
        # As an argument it would switch completion while typing off.
        session.default_buffer.enable_history_search = to_filter(True)
        return session

    def _toolbar(self) -> StyleAndTextTuples:
        return toolbar.toolbar(
            toolbar.opened(self._session),
            self._shell.format,
            timing=self._reporter.timing,
            busy_with=self._runner.busy_with,
            names=self._names.state.value if self._names.state is State.LOADING else "",
        )

    def _offer_names(self) -> None:
        """Complete what is being typed anew: names have come that were not there yet."""
        app = self._prompt.app
        if app.loop is not None and app.is_running:
            app.loop.call_soon_threadsafe(self._complete)

    def _complete(self) -> None:
        buffer = self._prompt.default_buffer
        if buffer.text and buffer.complete_state is None:
            buffer.start_completion()

    def _changes_by_itself(self) -> bool:
        """Whether the toolbar may change while nobody types."""
        self._names.now()
        return self._runner.busy_with is not None or self._names.state is State.LOADING


def _replaces_base(script: ast.Script) -> bool:
    """Whether a script opens something else before it saves or drops the edits."""
    for pipeline in script.items:
        for statement in pipeline.statements:
            match statement:
                case ast.UseVindex() | ast.UseModel() | ast.Extract():
                    return True
                case ast.SavePatch() | ast.DiscardPatch():
                    return False
                case (
                    ast.CompileVindex(source=ast.Current()) | ast.CompileModel(source=ast.Current())
                ):
                    return False
                case _:
                    pass
    return False


def _typing_on_terminal(reporter: Reporter) -> AbstractContextManager[object]:
    """Where standard output is no terminal, prompts go to the one that standard error is."""
    if reporter.out.isatty():
        return nullcontext()
    return create_app_session(output=create_output(always_prefer_tty=True))


def _continuation(width: int, line_number: int, wrap_count: int) -> StyleAndTextTuples:
    text = " " * width if wrap_count else toolbar.continuation(width)
    return [("class:prompt-continuation", text)]
