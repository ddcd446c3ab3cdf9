"""How long operations report progress and notice cancellation, without printing anything."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives progress of one operation. Implementations must be cheap: they are called often."""

    def phase(self, name: str, total: int, unit: str = "B") -> None:
        """Begin a phase of ``total`` units (bytes unless said)."""

    def advance(self, amount: int) -> None:
        """Report ``amount`` more units of the current phase."""

    def check(self) -> None:
        """Raise (``vindex.errors.Interrupted`` or the caller's own) if asked to cancel."""


class NullProgress:
    """Ignores everything and never cancels."""

    def phase(self, name: str, total: int, unit: str = "B") -> None:
        """Do nothing."""

    def advance(self, amount: int) -> None:
        """Do nothing."""

    def check(self) -> None:
        """Do nothing."""
