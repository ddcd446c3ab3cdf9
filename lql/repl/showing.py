"""Where results go: the terminal, a pager when they do not fit, files."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from rich.cells import cell_len

from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlUsageError
from lql.render import Format, Renderer, RenderOptions, renderer
from lql.results import Result

_PROMPT_ROWS = 3
"""Rows that the prompt and the toolbar take: a result that leaves them free needs no pager."""


@dataclass(slots=True)
class Destinations:
    """What ``\\o``, ``\\once`` and ``\\tee`` chose.

    Attributes:
        file: results go there instead of the terminal, until told otherwise.
        once: the same, for the next result.
        copy: results go there as well as where they go.
    """

    file: Path | None = None
    once: Path | None = None
    copy: Path | None = None

    def take(self) -> tuple[Path | None, Path | None]:
        """The files of the next result: instead of the terminal, and beside it."""
        instead, self.once = self.once or self.file, None
        return instead, self.copy


@dataclass(frozen=True, slots=True)
class Screen:
    """The terminal that results go to.

    Attributes:
        width, height: in cells; ``None`` where it is no terminal.
        page: the pager's command, or ``None`` to print everything.
    """

    out: TextIO
    width: int | None
    height: int | None
    page: Callable[[str], bool] | None = None


@dataclass(slots=True)
class Showing:
    """Prints the results of one input, one after another.

    Attributes:
        options: what tables may do on the screen.
        seen: told about every result that was shown.
    """

    format: Format
    screen: Screen
    options: RenderOptions
    destinations: Destinations
    seen: Callable[[Result], None]
    _buffer: io.StringIO = field(default_factory=io.StringIO)
    _renderers: dict[Path | None, Renderer] = field(default_factory=dict)

    def write(self, result: Result) -> None:
        """Show one result.

        Raises:
            LqlUsageError: a file that was chosen cannot be written.
        """
        instead, copy = self.destinations.take()
        self.seen(result)
        if instead is None:
            show(self._text(result, None), self.screen)
        for path in {instead, copy} - {None}:
            assert path is not None
            append(path, self._text(result, path))

    def _text(self, result: Result, path: Path | None) -> str:
        """A result as text; for a file without colour, and nothing cut."""
        if path not in self._renderers:
            options = self.options if path is None else RenderOptions(expand=self.options.expand)
            self._renderers[path] = renderer(self.format, self._buffer, options)
        self._renderers[path].write(result)
        text = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        return text


def show(text: str, screen: Screen) -> None:
    """Print a text, through the pager if it does not fit."""
    if screen.page is not None and not _fits(text, screen) and screen.page(text):
        return
    screen.out.write(text)
    screen.out.flush()


def _fits(text: str, screen: Screen) -> bool:
    if screen.width is None or screen.height is None:
        return True
    lines = text.splitlines()
    room = screen.height - _PROMPT_ROWS
    if len(lines) > room:
        return False
    return sum(max(1, -(-cell_len(line) // screen.width)) for line in lines) <= room


def append(path: Path, text: str) -> None:
    """Add to the end of a file: nothing that is there is lost.

    Raises:
        LqlUsageError: it cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            file.write(text)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise LqlUsageError(Diagnostic(Code.USAGE, f"cannot write {path}: {reason}")) from error


def pager(environment: Mapping[str, str]) -> Callable[[str], bool] | None:
    """The user's pager, ``less`` by default; ``None`` where ``PAGER`` is empty or ``cat``.

    Returns:
        Shows a text and waits; false where the pager cannot be started.
    """
    words = shlex.split(environment.get("PAGER", "less"))
    if not words or words == ["cat"]:
        return None
    # F leaves at once where all fits, R keeps colours, S cuts lines, X leaves the text standing.
    told = {"LESS": "FRSX", **environment, "LESSSECURE": "1", "LESSCHARSET": "utf-8"}

    def page(text: str) -> bool:
        return _piped(words, text, told)

    return page


def _piped(words: list[str], text: str, environment: Mapping[str, str]) -> bool:
    try:
        process = subprocess.Popen(words, stdin=subprocess.PIPE, env=dict(environment))
    except OSError:
        return False
    assert process.stdin is not None
    data = text.encode(errors="backslashreplace")
    while True:
        try:
            process.communicate(data)
        except KeyboardInterrupt:  # the pager answers Ctrl-C itself
            data = b""
            continue
        except ValueError:  # its input was closed before Ctrl-C came
            process.wait()
        return True


def default_pager() -> Callable[[str], bool] | None:
    """The pager of this process's user."""
    return pager(os.environ)
