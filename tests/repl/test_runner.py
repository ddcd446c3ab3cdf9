"""Running statements on the worker, and the Ctrl-C ladder."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from lql import ast
from lql.cancel import CancelToken
from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlError, LqlRuntimeError
from lql.repl.runner import Runner
from lql.results import Result
from lql.results.lifecycle import UseResult
from lql.span import SourceText
from lql.worker import Worker

LONG_S = 30.0


def result(name: str) -> Result:
    return UseResult(path=name, model="", family="", layers=0, features=0, level=None, dtype=None)


def script(count: int) -> ast.Script:
    return ast.Script(tuple(ast.Pipeline((ast.Stats(None),)) for _ in range(count)))


class Work:
    """Statements that take as long as the test says, and count themselves.

    Args:
        durations_s: of one statement after the other.
        obedient: whether the cancel token stops it.
    """

    def __init__(self, *durations_s: float, obedient: bool = True) -> None:
        self._durations = iter(durations_s)
        self._obedient = obedient
        self.started = threading.Event()
        self.release = threading.Event()
        self.running = self.most_at_once = self.finished = 0

    def __call__(self, statement: ast.Statement, source: SourceText, cancel: CancelToken) -> Result:
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            end = time.monotonic() + next(self._durations)
            while time.monotonic() < end and not self.release.is_set():
                self.started.set()
                if self._obedient and cancel.cancelled:
                    raise LqlRuntimeError(Diagnostic(Code.CANCELLED, "cancelled in layer 3/9"))
                time.sleep(0.005)
            self.finished += 1
            return result(f"{self.finished}")
        finally:
            self.running -= 1


@contextmanager
def ctrl_c(work: Work, presses: int = 1, after_s: float = 0.1) -> Iterator[None]:
    """Press Ctrl-C once the work runs."""

    def press() -> None:
        assert work.started.wait(LONG_S)
        for _ in range(presses):
            time.sleep(after_s)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_results_come_one_by_one_in_order() -> None:
    work = Work(0, 0, 0)
    seen = []

    for each in Runner(work).run(script(3)):
        assert work.finished == len(seen) + 1  # the next statement has not begun
        seen.append(each)

    assert seen == [result("1"), result("2"), result("3")]


def test_a_failure_stops_the_rest_and_says_so() -> None:
    def fail(statement: ast.Statement, source: SourceText, cancel: CancelToken) -> Result:
        raise LqlRuntimeError(Diagnostic(Code.FAILED, "no"))

    with pytest.raises(LqlError) as caught:
        list(Runner(fail).run(script(3)))

    assert caught.value.diagnostic.notes == ("2 statements after it did not run",)


def test_ctrl_c_stops_the_statement_and_the_rest() -> None:
    work = Work(LONG_S, 0)

    with ctrl_c(work), pytest.raises(LqlError) as caught:
        list(Runner(work).run(script(2)))

    assert caught.value.code is Code.CANCELLED
    assert caught.value.diagnostic.message.startswith("cancelled in layer 3/9 after ")
    assert caught.value.diagnostic.notes == ("1 statement after it did not run",)
    assert work.finished == 0


def test_ctrl_c_too_late_for_a_statement_is_in_time_for_the_next() -> None:
    work = Work(0.5, 0, obedient=False)
    seen = []

    with ctrl_c(work), pytest.raises(LqlError) as caught:
        seen.extend(Runner(work, grace_s=LONG_S).run(script(2)))

    assert caught.value.code is Code.CANCELLED
    assert work.finished == 1


def test_ctrl_c_twice_leaves_a_statement_that_does_not_stop() -> None:
    work = Work(LONG_S, obedient=False)
    runner = Runner(work, grace_s=LONG_S)

    with ctrl_c(work, presses=2), pytest.raises(LqlError) as caught:
        list(runner.run(script(1)))

    assert caught.value.code is Code.CANCELLED
    assert runner.busy_with == "STATS"
    work.release.set()
    assert runner.wait(LONG_S)
    assert runner.busy_with is None


def test_a_statement_that_does_not_stop_is_left_behind_after_its_grace() -> None:
    work = Work(LONG_S, obedient=False)
    runner = Runner(work, grace_s=0.2)

    with ctrl_c(work), pytest.raises(LqlError):
        list(runner.run(script(1)))

    assert runner.busy_with == "STATS"
    work.release.set()
    assert runner.wait(LONG_S)


def test_the_next_statement_waits_for_the_one_left_behind() -> None:
    work = Work(LONG_S, 0, obedient=False)
    said: list[str] = []
    runner = Runner(work, grace_s=0.2, say=said.append)
    with ctrl_c(work), pytest.raises(LqlError):
        list(runner.run(script(1)))

    threading.Timer(0.6, work.release.set).start()
    (seen,) = runner.run(script(1))

    assert seen == result("2")
    assert work.most_at_once == 1
    assert said == ["waiting for STATS to end"]


@pytest.mark.parametrize("after_s", [0.1, 0.7])
def test_ctrl_c_stops_waiting_for_the_one_left_behind(after_s: float) -> None:
    work = Work(LONG_S, 0, obedient=False)
    runner = Runner(work, grace_s=0.2)
    with ctrl_c(work), pytest.raises(LqlError):
        list(runner.run(script(1)))

    with ctrl_c(work, after_s=after_s), pytest.raises(LqlError) as caught:
        list(runner.run(script(1)))

    assert "cancelled while STATS before it was still ending" in caught.value.diagnostic.message
    work.release.set()
    assert runner.wait(LONG_S)
    assert work.finished == 1  # the waiting statement never began


def test_ctrl_c_before_the_wait_begins_stops_the_statement_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(worker: Worker, call: Callable[[], Result], *_: object, **__: object) -> Result:
        def job() -> None:
            with suppress(LqlError):
                call()

        threading.Thread(target=job, daemon=True).start()
        raise KeyboardInterrupt

    monkeypatch.setattr(Worker, "run", interrupted)
    work = Work(LONG_S)
    runner = Runner(work)

    with pytest.raises(LqlError) as caught:
        list(runner.run(script(1)))

    assert caught.value.code is Code.CANCELLED
    assert work.started.wait(LONG_S)
    assert runner.wait(LONG_S / 2)
    assert work.finished == 0


def test_no_moment_is_wrong_for_ctrl_c() -> None:
    """A KeyboardInterrupt inside a lock of ``threading`` would break it."""
    seen: list[str] = []
    for _ in range(60):
        work = Work(LONG_S)
        try:
            with ctrl_c(work, presses=4, after_s=0.0002):
                list(Runner(work, grace_s=LONG_S).run(script(1)))
        except LqlError as error:
            seen.append(error.code.id)
        except KeyboardInterrupt:  # pressed when the statement had ended already
            seen.append("after")
        work.release.set()

    assert len(seen) == 60


def test_a_time_limit_stops_a_statement() -> None:
    work = Work(LONG_S)

    with pytest.raises(LqlError) as caught:
        list(Runner(work, timeout_s=0.2).run(script(1)))

    assert "time limit of 0.2 s" in caught.value.diagnostic.message


def test_a_bug_in_a_statement_comes_through_as_it_is() -> None:
    def crash(statement: ast.Statement, source: SourceText, cancel: CancelToken) -> Result:
        raise ZeroDivisionError

    runner = Runner(crash)
    with pytest.raises(ZeroDivisionError):
        list(runner.run(script(1)))

    assert runner.busy_with is None


def test_ctrl_c_while_a_result_is_shown_stops_the_statements_after_it() -> None:
    shown: list[Result] = []

    def show(each: Result) -> None:
        shown.append(each)
        raise KeyboardInterrupt

    runner = Runner(lambda *_: result("a"))
    with pytest.raises(LqlError) as caught:
        runner.show_each(script(3), show)
    assert len(shown) == 1
    assert caught.value.code is Code.CANCELLED
    assert caught.value.diagnostic.notes == ("2 statements after it did not run",)
