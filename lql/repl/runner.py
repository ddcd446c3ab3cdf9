"""Runs statements for the shell: on the worker thread, one at a time, with the Ctrl-C ladder.

The first Ctrl-C asks the running statement to stop at its next check point. One that does not stop
at once (it is inside a long native call), or a second Ctrl-C, detaches it: the prompt comes back,
what the statement still returns is thrown away, and the next statement waits until it has ended,
for a session serves one statement at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import TypeAlias

from lql import ast
from lql.cancel import CancelToken
from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlError, LqlRuntimeError
from lql.render.text import duration
from lql.results import Result
from lql.span import SourceText
from lql.worker import Abandoned, TimedOut, Worker

Execute: TypeAlias = Callable[[ast.Statement, SourceText, CancelToken], Result]
"""Runs one statement; checks the token where stopping leaves nothing half done."""

_SLICE_S = 0.05
_LOOK_S = 0.01
_PATIENCE_S = 0.3


class Runner:
    """Runs scripts one after another.

    Args:
        execute: runs one statement. Called on a thread of its own, never twice at once.
        timeout_s: time allowed for each statement.
        grace_s: how long a statement may take to stop before it is detached.
        say: tells the user why nothing happens.
    """

    def __init__(
        self,
        execute: Execute,
        *,
        timeout_s: float | None = None,
        grace_s: float = 0.2,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._execute = execute
        self._say = say
        self._timeout_s = timeout_s
        self._grace_s = grace_s
        self._worker = Worker(grace_s)
        self._turn = threading.Lock()  # held by the statement that has the session
        self._current = ""

    @property
    def busy_with(self) -> str | None:
        """The title of a detached statement that has not ended yet."""
        return self._current if self._turn.locked() else None

    def show_each(self, script: ast.Script, show: Callable[[Result], None]) -> None:
        """Run the statements of a script in order, each shown before the next begins.

        Args:
            show: may be interrupted by Ctrl-C, as a statement may.

        Raises: see ``run``.
        """
        results = self.run(script)
        for result in results:
            try:
                show(result)
            except KeyboardInterrupt as pressed:
                results.throw(pressed)

    def run(self, script: ast.Script) -> Generator[Result, None, None]:
        """Run the statements of a script in order, and yield each result before the next begins.

        Raises:
            LqlError: a statement failed or was cancelled; those after it did not run.
        """
        statements = [
            (statement, script.source_of(pipeline))
            for pipeline in script.items
            for statement in pipeline.statements
        ]
        for position, (statement, source) in enumerate(statements, start=1):
            cancel = CancelToken()
            left = len(statements) - position
            try:
                result = self._run_one(statement, source, cancel)
            except LqlError as error:
                error.diagnostic = _with_rest(error.diagnostic, left)
                raise
            try:
                yield result
            except KeyboardInterrupt:  # pressed while the result was shown
                stopped = Diagnostic(Code.CANCELLED, "cancelled")
                raise LqlRuntimeError(_with_rest(stopped, left)) from None
            if cancel.cancelled and left:  # too late to stop this statement, not the next ones
                raise LqlRuntimeError(_with_rest(Diagnostic(Code.CANCELLED, "cancelled"), left))

    def wait(self, seconds: float) -> bool:
        """Wait for a detached statement to end; return whether none runs any more.

        Only looks at the lock: Ctrl-C between taking it and giving it back would keep it for ever.
        """
        end = time.monotonic() + seconds
        while self._turn.locked():
            left = end - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(left, _LOOK_S))
        return True

    def close(self) -> None:
        """Let the worker's thread end."""
        self._worker.close()

    def _run_one(self, statement: ast.Statement, source: SourceText, cancel: CancelToken) -> Result:
        started = time.monotonic()
        try:
            self._await_turn()
            return self._worker.run(
                lambda: self._take_turn(statement, source, cancel),
                cancel,
                timeout_s=self._timeout_s,
            )
        except LqlError as error:
            if error.code is Code.CANCELLED:
                raise _cancelled(error.diagnostic.message, started) from None
            raise
        except TimedOut as failure:
            if failure.abandoned:
                self._detach()
            message = f"stopped after the time limit of {failure.limit_s:g} s"
            raise LqlRuntimeError(Diagnostic(Code.FAILED, message)) from failure
        except (Abandoned, KeyboardInterrupt):  # the latter: pressed outside the worker's wait
            cancel.cancel()
            self._detach()
            note = f"{statement.title} ends in the background, and its result is not shown"
            raise _cancelled("cancelled", started, note) from None

    def _await_turn(self) -> None:
        """Say what is waited for, if a detached statement takes its time.

        Raises:
            LqlRuntimeError: Ctrl-C was pressed.
        """
        try:
            if not self.wait(_PATIENCE_S):
                self._say(f"waiting for {self._current} to end")
        except KeyboardInterrupt:
            raise self._waited_in_vain() from None

    def _take_turn(
        self, statement: ast.Statement, source: SourceText, cancel: CancelToken
    ) -> Result:
        """Run on the worker, once a detached statement before has ended."""
        while not self._turn.acquire(timeout=_SLICE_S):
            if cancel.cancelled:
                raise self._waited_in_vain()
        try:
            self._current = statement.title
            return self._execute(statement, source, cancel)
        finally:
            self._turn.release()

    def _waited_in_vain(self) -> LqlRuntimeError:
        message = f"cancelled while {self._current} before it was still ending,"
        return LqlRuntimeError(Diagnostic(Code.CANCELLED, message))

    def _detach(self) -> None:
        """Leave the running statement to itself; its thread ends with it."""
        self._worker.close()
        self._worker = Worker(self._grace_s)


def _cancelled(message: str, started: float, *notes: str) -> LqlRuntimeError:
    """The error of a stopped statement. Without a place: people know what they typed."""
    took = duration(time.monotonic() - started)
    return LqlRuntimeError(Diagnostic(Code.CANCELLED, f"{message} after {took}", notes=notes))


def _with_rest(diagnostic: Diagnostic, left: int) -> Diagnostic:
    if not left:
        return diagnostic
    count = "1 statement" if left == 1 else f"{left} statements"
    return replace(diagnostic, notes=(*diagnostic.notes, f"{count} after it did not run"))
