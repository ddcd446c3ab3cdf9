"""Cooperative cancellation: one token per running statement, checked between layers and batches."""

from __future__ import annotations

import threading


class Cancelled(Exception):
    """Raised at a check point after ``CancelToken.cancel``; ``where`` says how far the work got."""

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.where = where


class CancelToken:
    """Set from any thread; the worker calls ``check`` where stopping leaves nothing half done."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the work to stop at its next check point."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether cancellation was asked for."""
        return self._event.is_set()

    def check(self, where: str) -> None:
        """Raise ``Cancelled`` if cancellation was asked for.

        Args:
            where: how far the work is, e.g. ``layer 12/34``.
        """
        if self._event.is_set():
            raise Cancelled(where)
