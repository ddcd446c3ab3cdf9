"""What the shell's own commands may look at and change."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from lql.render import Format, RenderOptions
from lql.repl.help_text import Entry
from lql.repl.help_topics import Topic, load_topics
from lql.repl.showing import Destinations, Screen, Showing, default_pager
from lql.report import Reporter
from lql.results import Result

if TYPE_CHECKING:
    from lql.session import Session

_DEFAULT_WIDTH = 80


def _run_nothing(text: str, name: str) -> None:
    raise AssertionError("this shell has nothing to run statements with")


@dataclass
class Shell:
    """The settings of one interactive session, and where it writes.

    Attributes:
        reporter: the two streams; its ``timing`` is the setting of ``\\timing``.
        format: how results are printed.
        render: what tables may do; the width is looked up anew for every result.
        keys: the key bindings, for help.
        session: what statements run in.
        run: runs a text of statements under a name for messages, and shows the results.
        typed_before: the input history, oldest first.
        destinations: where results go.
        paging: whether what does not fit goes through the pager.
        vi_keys: whether what is typed is edited with vi's keys, not Emacs's.
        variables: values of ``:name``, as words.
        last: the last result that was shown.
        last_text: the last text of statements that ran.
        prefill: what the next prompt begins with.
    """

    reporter: Reporter
    format: Format = Format.TABLE
    render: RenderOptions = field(default_factory=RenderOptions)
    keys: tuple[Entry, ...] = field(default=())
    session: Session | None = None
    run: Callable[[str, str], None] = _run_nothing
    typed_before: Callable[[], Sequence[str]] = tuple
    destinations: Destinations = field(default_factory=Destinations)
    paging: bool = True
    vi_keys: bool = False
    variables: dict[str, str] = field(default_factory=dict)
    last: Result | None = None
    last_text: str = ""
    prefill: str = ""

    @cached_property
    def topics(self) -> tuple[Topic, ...]:
        """The language reference."""
        return load_topics()

    @property
    def width(self) -> int:
        """Columns of the terminal as it is now."""
        return self._size()[0] or _DEFAULT_WIDTH

    def showing(self, *, whole: bool = False, format: Format | None = None) -> Showing:
        """Something to show the results of one input with.

        Args:
            whole: let no cell be cut, however narrow the terminal is.
            format: another than the chosen one.
        """
        width = None if self.render.width is None or whole else self._size()[0]
        return Showing(
            format=format or self.format,
            screen=self.screen,
            options=replace(self.render, width=width),
            destinations=self.destinations,
            seen=self._seen,
        )

    @property
    def screen(self) -> Screen:
        """The terminal as it is now, with the pager if it is wanted."""
        width, height = self._size()
        page = default_pager() if self.paging and width is not None else None
        return Screen(self.reporter.out, width, height, page)

    def print(self, text: str) -> None:
        """Answer on standard output."""
        self.reporter.out.write(text + "\n")
        self.reporter.out.flush()

    def say(self, text: str) -> None:
        """Tell something on standard error, in order with what was printed before."""
        self.reporter.out.flush()
        self.reporter.err.write(text + "\n")
        self.reporter.err.flush()

    def take_prefill(self) -> str:
        """What the next prompt begins with, once."""
        text, self.prefill = self.prefill, ""
        return text

    def _seen(self, result: Result) -> None:
        self.last = result

    def _size(self) -> tuple[int | None, int | None]:
        try:
            size = os.get_terminal_size(self.reporter.out.fileno())
        except OSError:
            return None, None
        return size.columns or None, size.lines or None
