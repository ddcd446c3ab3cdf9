"""One thread that runs statements, so that the main thread can always answer Ctrl-C.

Python runs signal handlers in the main thread only, between byte codes; a main thread inside a long
native call (a matrix product) would answer when the call returns. Here it waits in short slices
instead. The first Ctrl-C asks the job to stop at its next check point; a second one within two
seconds, or a job that does not stop within its grace time, abandons the job.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from lql.cancel import CancelToken

T = TypeVar("T")

_SLICE_S = 0.05
_SECOND_PRESS_S = 2.0


class Abandoned(Exception):
    """The job did not stop when asked; its thread still runs and its result is discarded."""


class TimedOut(Exception):
    """The job ran longer than allowed and has stopped, or was abandoned.

    Attributes:
        limit_s: what was allowed.
        abandoned: the job still runs.
    """

    def __init__(self, limit_s: float, *, abandoned: bool) -> None:
        super().__init__(f"time limit of {limit_s:g} s")
        self.limit_s = limit_s
        self.abandoned = abandoned


class _Job(Generic[T]):
    """A call, and its outcome once ``done`` is set."""

    def __init__(self, call: Callable[[], T]) -> None:
        self.call = call
        self.done = threading.Event()
        self.value: T
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.value = self.call()
        except BaseException as error:  # handed to the waiting thread, whatever it is
            self.error = error
        finally:
            self.done.set()

    def outcome(self) -> T:
        if self.error is not None:
            raise self.error
        return self.value


class Worker:
    """Runs calls one after another on a daemon thread of its own.

    One thread for all of them: native thread pools belong to the thread that first used them.
    """

    def __init__(self, grace_s: float = 5.0) -> None:
        self._grace_s = grace_s
        self._jobs: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(
        self, call: Callable[[], T], cancel: CancelToken, *, timeout_s: float | None = None
    ) -> T:
        """Run a call and return what it returns, or raise what it raises.

        Args:
            call: must check ``cancel`` at points where stopping leaves nothing half done.
            cancel: set on Ctrl-C and on time-out.
            timeout_s: wall time allowed, or ``None``.

        Raises:
            TimedOut: the limit passed.
            Abandoned: the job ignored Ctrl-C. This worker must not be used again.
        """
        job: _Job[T] = _Job(call)
        started = time.monotonic()
        asked: float | None = None
        with _counted_interrupts() as presses:
            self._submit(job)
            while not job.done.wait(_SLICE_S):
                now = time.monotonic()
                for pressed in _taken(presses):
                    if asked is not None and pressed - asked <= _SECOND_PRESS_S:
                        raise Abandoned
                    asked = pressed
                    cancel.cancel()
                if timeout_s is not None and now - started >= timeout_s:
                    cancel.cancel()
                    raise TimedOut(timeout_s, abandoned=not job.done.wait(self._grace_s))
                if asked is not None and now - asked >= self._grace_s:
                    raise Abandoned
        # Looked at when Ctrl-C is raised again, so that none falls between the two.
        if _taken(presses):  # too late for this call; whoever runs a series asks the token
            cancel.cancel()
        return job.outcome()

    def close(self) -> None:
        """Let the thread end after the current job. The worker is not used again."""
        self._jobs.put(None)

    def _submit(self, job: _Job[T]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="lql-worker", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def _loop(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()
            del job  # a thread that waits keeps nothing of the last call alive


@contextmanager
def _counted_interrupts() -> Iterator[list[float]]:
    """Collect the times of Ctrl-C instead of raising KeyboardInterrupt.

    Where Ctrl-C would not have been raised here (another thread, another handler), nothing is
    collected.
    """
    presses: list[float] = []
    raised_here = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if not raised_here:
        yield presses
        return
    signal.signal(signal.SIGINT, lambda *_: presses.append(time.monotonic()))
    try:
        yield presses
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _taken(presses: list[float]) -> list[float]:
    """Take what was collected so far; a handler may add more at any moment."""
    return [presses.pop(0) for _ in range(len(presses))]
