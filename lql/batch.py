"""Running scripts: ``-e``, files and standard input on one path.

Every text is parsed and its parameters are bound before the first statement of any runs, so a typo
at the end of a script costs nothing. Results go to standard output, everything else to standard
error, and the exit code says whether all statements succeeded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO, TypeVar

from lql import ast
from lql.cancel import CancelToken
from lql.codes import EXIT_INTERRUPTED, Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlError, LqlNameError, LqlRuntimeError, LqlUsageError
from lql.names import nearest
from lql.render import Format, Renderer, RenderOptions, renderer
from lql.report import Reporter
from lql.results import Result
from lql.session import Session
from lql.span import SourceText
from lql.syntax_words import Device
from lql.worker import Abandoned, TimedOut, Worker

if TYPE_CHECKING:
    from lql.junit import JunitReport
    from lql.render.progress import ProgressBar
    from lql.scripts import Variables


T = TypeVar("T")


class OnError(Enum):
    """The values of ``--on-error``."""

    STOP = "stop"
    CONTINUE = "continue"


@dataclass(frozen=True, slots=True)
class Input:
    """A text to run.

    Attributes:
        name: what messages call it.
        text: the statements.
    """

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """What the command line decided.

    Attributes:
        parameters: values of ``:name``, as words.
        use: a vindex to open first.
        config: the checkpoint or config.json that completes it.
        device: where models run.
        check: parse, bind and look up names, run nothing.
        output: where results go instead of standard output.
        timeout_s: wall time allowed for each statement.
        junit: where to write what became of every statement.
    """

    parameters: Mapping[str, str] = field(default_factory=dict)
    use: str | None = None
    config: str | None = None
    device: Device = Device.CPU
    check: bool = False
    format: Format = Format.TABLE
    render: RenderOptions = field(default_factory=RenderOptions)
    output: Path | None = None
    on_error: OnError = OnError.STOP
    timeout_s: float | None = None
    junit: Path | None = None


def run(
    inputs: Sequence[Input],
    options: BatchOptions,
    reporter: Reporter,
    progress: ProgressBar | None = None,
) -> int:
    """Run texts in order.

    Args:
        inputs: all of them are parsed before the first runs.
        progress: shows long work; ``None`` off a terminal.

    Returns:
        The process's exit code: 0, or that of the first error.
    """
    report = _report(options)
    with _written(report), Session(progress=progress, device=options.device) as session:
        scripts, code = _prepared(session, inputs, options, reporter, report)
        if code:
            return code
        if options.use is not None:
            scripts = [_use(options.use, options.config), *scripts]
        if report is not None:
            report.expect(scripts)
        if options.check:
            return _checked(session, scripts, options, reporter, report)
        return run_scripts(session, scripts, options, reporter, progress, report)


def run_scripts(
    session: Session,
    scripts: Sequence[ast.Script],
    options: BatchOptions,
    reporter: Reporter,
    progress: ProgressBar | None = None,
    report: JunitReport | None = None,
) -> int:
    """Run prepared scripts in order; see ``run``."""
    try:
        with _output(options, reporter.out) as out:
            shown = RenderOptions() if options.output else options.render
            runner = _Runner(
                session, renderer(options.format, out, shown), options, reporter, progress, report
            )
            code = runner.run(scripts)
            unsaved = _unsaved(session, reporter, report)
            return code or unsaved
    except LqlUsageError as error:
        reporter.error(error.diagnostic)
        return error.exit_code


def _report(options: BatchOptions) -> JunitReport | None:
    """What ``--junit`` asks for.

    Raises:
        LqlUsageError: its directory is not there.
    """
    if options.junit is None:
        return None
    from lql.junit import JunitReport

    return JunitReport(options.junit)


@contextmanager
def _written(report: JunitReport | None) -> Iterator[None]:
    """Write the report at the end, however that comes about."""
    try:
        yield
    finally:
        if report is not None:
            report.write()


def _checked(
    session: Session,
    scripts: Sequence[ast.Script],
    options: BatchOptions,
    reporter: Reporter,
    report: JunitReport | None,
) -> int:
    """Resolve every name of every statement, and report what cannot be; the exit code."""
    code = 0
    for statement, error in session.check(scripts, given=options.use is not None):
        if report is not None:
            report.begin(statement)
            report.end(statement, error)
        if error is not None:
            reporter.error(error.diagnostic)
            code = code or error.exit_code
    return code


def _unsaved(session: Session, reporter: Reporter, report: JunitReport | None) -> int:
    """Report edits that end with the process; the exit code."""
    error = session.unsaved_edits("the end of the script drops")
    if error is None:
        return 0
    if report is not None:
        report.other("the end of the script", error)
    reporter.error(error.diagnostic)
    session.discard_edits()
    return error.exit_code


def show(result: Result, options: BatchOptions, reporter: Reporter) -> None:
    """Print a result that no statement gave.

    Raises:
        LqlUsageError: the output file cannot be written.
    """
    with _output(options, reporter.out) as out:
        shown = RenderOptions() if options.output else options.render
        renderer(options.format, out, shown).write(result)
    reporter.finished(result)


def _prepared(
    session: Session,
    inputs: Sequence[Input],
    options: BatchOptions,
    reporter: Reporter,
    report: JunitReport | None,
) -> tuple[list[ast.Script], int]:
    """Every text parsed and bound; all their errors reported, and the code of the first."""
    scripts: list[ast.Script] = []
    variables: Variables = {}
    code = 0
    for text in inputs:
        try:
            script = session.prepare(
                text.text, name=text.name, words=options.parameters, variables=variables
            )
        except LqlError as error:
            if report is not None:
                report.other(text.name, error)
            reporter.error(error.diagnostic)
            code = code or error.exit_code
        else:
            scripts.append(script)
    return scripts, code or _unused(scripts, options, reporter)


def _unused(scripts: Sequence[ast.Script], options: BatchOptions, reporter: Reporter) -> int:
    """Report values for parameters that occur in no text; the exit code."""
    used = {name for script in scripts for name in script.used}
    code = 0
    for name in sorted(options.parameters.keys() - used):
        error = LqlNameError(
            Diagnostic(
                Code.UNUSED_PARAMETER,
                f"--param {name}: there is no :{name} in the statements",
                suggestions=tuple(f":{known}" for known in nearest(name, used)),
            )
        )
        reporter.error(error.diagnostic)
        code = error.exit_code
    return code


def _use(path: str, config: str | None) -> ast.Script:
    """The script ``USE path [CONFIG config]``."""
    supplied = None if config is None else ast.Text(config)
    return ast.Script((ast.Pipeline((ast.UseVindex(ast.Text(path), supplied),)),))


def _output(options: BatchOptions, stdout: TextIO) -> AbstractContextManager[TextIO]:
    if options.output is None:
        return nullcontext(stdout)
    return _opened(options.output)


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        file = path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise LqlUsageError(Diagnostic(Code.USAGE, f"cannot write {path}: {reason}")) from error
    with file:
        yield file


@dataclass(slots=True)
class _Runner:
    session: Session
    renderer: Renderer
    options: BatchOptions
    reporter: Reporter
    progress: ProgressBar | None
    report: JunitReport | None = None
    worker: Worker = field(default_factory=Worker)

    def run(self, scripts: Sequence[ast.Script]) -> int:
        code = 0
        for script in scripts:
            for pipeline in script.items:
                source = script.source_of(pipeline)
                failed = self._pipeline(pipeline, source if source.text else None)
                code = code or failed
                if failed == EXIT_INTERRUPTED or (failed and self.options.on_error is OnError.STOP):
                    return failed
        return code

    def _pipeline(self, pipeline: ast.Pipeline, source: SourceText | None) -> int:
        """Run statements in order; those after one that fails are skipped.

        ``source`` is ``None`` for statements that stand in no text.
        """
        for statement in pipeline.statements:
            cancel = CancelToken()
            try:
                if self.report is not None:
                    self.report.begin(statement)
                result = self._statement(statement, source, cancel)
            except LqlError as error:
                self._ended(statement, error)
                self.reporter.error(error.diagnostic)
                return error.exit_code
            self._ended(statement)
            self.renderer.write(result)
            self.reporter.finished(result)
            if cancel.cancelled:  # too late to stop this statement, in time to stop the next
                return EXIT_INTERRUPTED
        return 0

    def _ended(self, statement: ast.Statement, error: LqlError | None = None) -> None:
        if self.report is not None:
            self.report.end(statement, error)

    def _leaving(self, statement: ast.Statement, error: LqlError) -> None:
        """The process ends at once: write what there is to tell."""
        if self.report is not None:
            self.report.end(statement, error)
            self.report.write()

    def _statement(
        self, statement: ast.Statement, source: SourceText | None, cancel: CancelToken
    ) -> Result:
        try:
            return supervised(
                lambda: self.session.execute(statement, source, cancel=cancel),
                cancel,
                self.worker,
                self.reporter,
                timeout_s=self.options.timeout_s,
                leaving=lambda error: self._leaving(statement, error),
            )
        except LqlError as error:
            if source is not None:
                error.locate(source, statement.span)
            raise
        finally:
            if self.progress is not None:
                self.progress.clear()


def supervised(
    call: Callable[[], T],
    cancel: CancelToken,
    worker: Worker,
    reporter: Reporter,
    *,
    timeout_s: float | None = None,
    leaving: Callable[[LqlError], None] = lambda _: None,
) -> T:
    """Run a call on the worker; what stops it from outside becomes an error of the language.

    A call that cannot be stopped, because it is inside native code that does not end, ends the
    process.

    Args:
        leaving: called before the process ends.

    Raises:
        LqlRuntimeError: it was cancelled, or its time was up.
    """
    try:
        return worker.run(call, cancel, timeout_s=timeout_s)
    except TimedOut as failure:
        message = f"stopped after the time limit of {failure.limit_s:g} s"
        error = LqlRuntimeError(Diagnostic(Code.FAILED, message))
        if failure.abandoned:
            leaving(error)
            _leave(error, reporter)
        raise error from failure
    except Abandoned:
        stopped = LqlRuntimeError(Diagnostic(Code.CANCELLED, "cancelled"))
        leaving(stopped)
        _leave(stopped, reporter)


def _leave(error: LqlError, reporter: Reporter) -> NoReturn:
    reporter.error(error.diagnostic)
    os._exit(error.exit_code)
