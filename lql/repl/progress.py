"""Progress of the statement that the user waits for."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lql.render.progress import ProgressBar


class DetachableProgress:
    """A ``vindex.progress.Progress`` that a detached statement can no longer draw on.

    Args:
        bar: draws, if there is a terminal to draw on.
    """

    def __init__(self, bar: ProgressBar | None) -> None:
        self._bar = bar
        self._attached = False
        self._lock = threading.Lock()

    def attach(self) -> None:
        """Show what follows."""
        self._attached = True

    def clear(self) -> None:
        """Erase what is shown."""
        with self._lock:
            if self._bar is not None:
                self._bar.clear()

    def detach(self) -> None:
        """Erase what is shown, and show nothing more until the next statement begins."""
        with self._lock:
            self._attached = False
            if self._bar is not None:
                self._bar.clear()

    def phase(self, name: str, total: int, unit: str = "B") -> None:
        """Begin a phase."""
        with self._lock:
            if self._bar is not None and self._attached:
                self._bar.phase(name, total, unit)

    def advance(self, amount: int) -> None:
        """Count ``amount`` more units."""
        with self._lock:
            if self._bar is not None and self._attached:
                self._bar.advance(amount)

    def check(self) -> None:
        """Never cancels; the session does."""
