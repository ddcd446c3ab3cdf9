"""What the streams of this process are connected to, and what may therefore be written to them."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, assert_never

from lql.render import RenderOptions

if TYPE_CHECKING:
    from lql.render.progress import ProgressBar


class Color(Enum):
    """The values of ``--color``."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Terminal:
    """The two output streams.

    Attributes:
        err: whether standard error is a terminal.
        render: what tables on standard output may do.
        color_err: whether standard error may carry colour.
    """

    err: bool
    render: RenderOptions
    color_err: bool

    @classmethod
    def of(cls, color: Color, environment: Mapping[str, str]) -> Terminal:
        """Look at the streams and the environment."""
        out, err = sys.stdout.isatty(), sys.stderr.isatty()
        width = os.get_terminal_size(sys.stdout.fileno()).columns if out else None
        return cls(
            err=err,
            render=RenderOptions(width=width or None, color=_colored(color, out, environment)),
            color_err=_colored(color, err, environment),
        )

    def progress(self) -> ProgressBar | None:
        """A progress bar, if there is a terminal to draw it on."""
        if not self.err:
            return None
        from lql.render.progress import ProgressBar

        return ProgressBar(sys.stderr, color=self.color_err)


def _colored(color: Color, terminal: bool, environment: Mapping[str, str]) -> bool:
    match color:
        case Color.ALWAYS:
            return True
        case Color.NEVER:
            return False
        case Color.AUTO:
            if environment.get("NO_COLOR"):
                return False
            if environment.get("FORCE_COLOR"):
                return True
            return terminal and environment.get("TERM") != "dumb"
        case _:
            assert_never(color)


def prepare_streams() -> None:
    """UTF-8 and bare newlines in files and pipes, whatever the locale; no crash on a terminal."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            if stream.isatty():
                stream.reconfigure(errors="backslashreplace")
            else:
                stream.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")


def abandon_streams() -> None:
    """Keep the interpreter from writing what is buffered to a pipe that nobody reads."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(null, stream.fileno())
    os.close(null)
