"""What the shell's own commands may look at and change."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property

from lql.render import Format, Renderer, RenderOptions, renderer
from lql.repl.help_text import Entry
from lql.repl.help_topics import Topic, load_topics
from lql.report import Reporter

_DEFAULT_WIDTH = 80


@dataclass
class Shell:
    """The settings of one interactive session, and where it writes.

    Attributes:
        reporter: the two streams; its ``timing`` is the setting of ``\\timing``.
        format: how results are printed.
        render: what tables may do; the width is looked up anew for every result.
        keys: the key bindings, for help.
    """

    reporter: Reporter
    format: Format = Format.TABLE
    render: RenderOptions = field(default_factory=RenderOptions)
    keys: tuple[Entry, ...] = field(default=())

    @cached_property
    def topics(self) -> tuple[Topic, ...]:
        """The language reference."""
        return load_topics()

    @property
    def width(self) -> int:
        """Columns of the terminal as it is now."""
        return self._terminal_width() or _DEFAULT_WIDTH

    def renderer(self) -> Renderer:
        """A renderer for the results of one input."""
        width = None if self.render.width is None else self._terminal_width()
        options = RenderOptions(width=width, color=self.render.color)
        return renderer(self.format, self.reporter.out, options)

    def print(self, text: str) -> None:
        """Answer on standard output."""
        self.reporter.out.write(text + "\n")
        self.reporter.out.flush()

    def say(self, text: str) -> None:
        """Tell something on standard error, in order with what was printed before."""
        self.reporter.out.flush()
        self.reporter.err.write(text + "\n")
        self.reporter.err.flush()

    def _terminal_width(self) -> int | None:
        try:
            return os.get_terminal_size(self.reporter.out.fileno()).columns or None
        except OSError:
            return None
