"""Progress of long work on a terminal: one line, erased before anything else is printed."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, TextIO

from lql.render.text import size

if TYPE_CHECKING:
    from rich.progress import Progress, Task, TaskID
    from rich.text import Text

_DELAY_S = 0.5
_PER_SECOND = 10


class ProgressBar:
    """A ``vindex.progress.Progress`` that draws phases with amount, rate and time left.

    Drawn only once the work has lasted half a second, at most ten times a second.

    Args:
        err: a terminal.
    """

    def __init__(self, err: TextIO, *, color: bool) -> None:
        self._err = err
        self._color = color
        self._started: float | None = None
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._phase: tuple[str, int, str] = ("", 0, "B")
        self._done = 0

    def phase(self, name: str, total: int, unit: str = "B") -> None:
        """Begin a phase."""
        self._started = self._started or time.monotonic()
        self._phase = (name, total, unit)
        self._done = 0
        if self._bar is not None:
            self._show_phase(self._bar)

    def advance(self, amount: int) -> None:
        """Count ``amount`` more units."""
        self._done += amount
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done)
        elif self._started is not None and time.monotonic() - self._started > _DELAY_S:
            self._bar = _make_bar(self._err, color=self._color)
            self._bar.start()
            self._show_phase(self._bar)

    def check(self) -> None:
        """Never cancels; the session does."""

    def clear(self) -> None:
        """Erase the line. The next phase begins anew."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = self._started = None

    def _show_phase(self, bar: Progress) -> None:
        if self._task is not None:
            bar.remove_task(self._task)
        name, total, unit = self._phase
        self._task = bar.add_task(name, total=total, completed=self._done, unit=unit)


def _make_bar(err: TextIO, *, color: bool) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Amounts(ProgressColumn):
        """Done, total, rate and time left."""

        def render(self, task: Task) -> Text:
            unit = task.fields["unit"]
            return Text(amounts(task.completed, task.total or 0, task.speed, unit), overflow="crop")

    console = Console(file=err, force_terminal=True, no_color=not color, highlight=False)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        Amounts(table_column=Column(no_wrap=True)),
        console=console,
        transient=True,
        refresh_per_second=_PER_SECOND,
    )


def amounts(done: float, total: float, speed: float | None, unit: str) -> str:
    """``46 %, 1.2 GiB of 2.6 GiB, 190.0 MiB/s, 7 s left``."""
    parts = [f"{done / total:.0%}".replace("%", " %")] if total else []
    if unit == "B":
        parts.append(f"{size(int(done))} of {size(int(total))}")
    else:
        parts.append(f"{done:,.0f} of {total:,.0f} {unit}")
    if speed:
        parts.append(f"{size(int(speed))}/s" if unit == "B" else f"{speed:,.0f}/s")
        parts.append(f"{_left(max(total - done, 0) / speed)} left")
    return ", ".join(parts)


def _left(seconds: float) -> str:
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
