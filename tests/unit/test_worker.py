"""The worker thread: results, errors, Ctrl-C and time limits."""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable

import pytest

from lql.cancel import Cancelled, CancelToken
from lql.worker import Abandoned, TimedOut, Worker


def press_ctrl_c(*after_s: float) -> None:
    """Interrupt the main thread at these times from now."""

    def press() -> None:
        started = time.monotonic()
        for moment in after_s:
            time.sleep(max(0.0, started + moment - time.monotonic()))
            _thread.interrupt_main()

    threading.Thread(target=press, daemon=True).start()


def stubborn(seconds: float) -> Callable[[], None]:
    return lambda: time.sleep(seconds)


def obedient(cancel: CancelToken) -> None:
    for step in range(1000):
        cancel.check(f"step {step}")
        time.sleep(0.01)


def test_returns_and_raises_what_the_call_does() -> None:
    worker = Worker()
    assert worker.run(lambda: 42, CancelToken()) == 42
    with pytest.raises(ZeroDivisionError):
        worker.run(lambda: 1 // 0, CancelToken())


def test_one_thread_runs_every_call_and_it_is_not_the_main_one() -> None:
    worker = Worker()
    first, second = (worker.run(threading.get_ident, CancelToken()) for _ in range(2))
    assert first == second != threading.get_ident()


def test_ctrl_c_stops_a_call_at_its_next_check_point() -> None:
    cancel = CancelToken()
    press_ctrl_c(0.1)
    started = time.monotonic()
    with pytest.raises(Cancelled):
        Worker().run(lambda: obedient(cancel), cancel)
    assert time.monotonic() - started < 2


def test_a_call_that_finishes_anyway_keeps_its_result() -> None:
    cancel = CancelToken()
    press_ctrl_c(0.1)
    assert Worker().run(lambda: time.sleep(0.4) or "done", cancel) == "done"  # type: ignore[func-returns-value]
    assert cancel.cancelled


def test_a_second_ctrl_c_abandons_a_call_that_does_not_stop() -> None:
    press_ctrl_c(0.1, 0.3)
    started = time.monotonic()
    with pytest.raises(Abandoned):
        Worker().run(stubborn(5), CancelToken())
    assert time.monotonic() - started < 2


def test_a_call_that_does_not_stop_within_its_grace_time_is_abandoned() -> None:
    press_ctrl_c(0.1)
    started = time.monotonic()
    with pytest.raises(Abandoned):
        Worker(grace_s=0.3).run(stubborn(5), CancelToken())
    assert time.monotonic() - started < 2


def test_a_time_limit_stops_a_call() -> None:
    cancel = CancelToken()
    with pytest.raises(TimedOut) as caught:
        Worker().run(lambda: obedient(cancel), cancel, timeout_s=0.2)
    assert not caught.value.abandoned
    assert caught.value.limit_s == 0.2


def test_a_time_limit_abandons_a_call_that_does_not_stop() -> None:
    with pytest.raises(TimedOut) as caught:
        Worker(grace_s=0.2).run(stubborn(5), CancelToken(), timeout_s=0.1)
    assert caught.value.abandoned
