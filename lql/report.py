"""Everything that goes to standard error: errors, notes, status and timing.

Standard output carries results only. Each message here first flushes it, so that both streams
interleave the same way in a file, a pipe and on a terminal.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import TextIO, assert_never

from lql.diagnostics import Diagnostic, render_short, render_text, to_json, visible
from lql.results import Form, Meta, Result


class ErrorStyle(Enum):
    """The values of ``--errors``."""

    TEXT = "text"  # the source line and a caret, for people
    SHORT = "short"  # one line file:line:col, for editors
    JSON = "json"  # one object a line, for programs; notes and timing are objects as well


class Reporter:
    """Writes messages to standard error.

    Args:
        out: standard output, flushed before each message.
        err: standard error.
        style: how errors look.
        quiet: errors only.
        timing: say how long each statement took.
        status: say what became current.
    """

    def __init__(
        self,
        out: TextIO,
        err: TextIO,
        *,
        style: ErrorStyle = ErrorStyle.TEXT,
        quiet: bool = False,
        timing: bool = False,
        status: bool = True,
    ) -> None:
        self.out = out
        self.err = err
        self.style = style
        self.quiet = quiet
        self.timing = timing
        self.status = status
        self._said: set[str] = set()

    def error(self, diagnostic: Diagnostic) -> None:
        """Report an error, always."""
        match self.style:
            case ErrorStyle.TEXT:
                self._write(render_text(diagnostic))
            case ErrorStyle.SHORT:
                self._write(render_short(diagnostic))
            case ErrorStyle.JSON:
                self._write(json.dumps(to_json(diagnostic)))
            case _:
                assert_never(self.style)

    def note(self, sentence: str) -> None:
        """Tell people something; the same sentence only once."""
        if not self.quiet and sentence not in self._said:
            self._said.add(sentence)
            self._say("note", sentence)

    def finished(self, result: Result) -> None:
        """Say what belongs beside a result that was just printed."""
        from lql.render.text import duration
        from lql.render.view import status

        meta = result.meta
        if result.form is Form.STATUS and self.status and not self.quiet:
            self._say("status", status(result))
        for sentence in meta.notes:
            self.note(sentence)
        if meta.truncated is not None:
            cut = meta.truncated
            self.note(f"{cut.shown} of {cut.total} rows are shown; {cut.more} shows more")
        if self.timing and result.form is not Form.STATUS:
            rows = len(result.to_rows()) if result.form is Form.ROWS else None
            count = "" if rows is None else f"{rows} row{'s' * (rows != 1)}, "
            load = f", {duration(meta.load_s)} of it loading weights" if meta.load_s else ""
            where = f", {meta.device}" if meta.device else ""
            self.timed(f"{count}{duration(meta.elapsed_s)}{load}{_cost(meta)}{where}")

    def timed(self, sentence: str) -> None:
        """Say how long something took."""
        self._say("time", sentence)

    def _say(self, kind: str, sentence: str) -> None:
        match self.style:
            case ErrorStyle.JSON:
                self._write(json.dumps({"severity": "note", "kind": kind, "message": sentence}))
            case ErrorStyle.TEXT | ErrorStyle.SHORT:
                prefix = "note: " if kind == "note" else ""
                self._write(prefix + visible(sentence))
            case _:
                assert_never(self.style)

    def _write(self, text: str) -> None:
        self.out.flush()
        self.err.write(text + "\n")
        self.err.flush()


def _cost(meta: Meta) -> str:
    """What a statement took of the model: tokens a second, or bytes of weights."""
    from lql.render.text import size

    if meta.tokens and meta.forward_s > 0:
        count = f"{meta.tokens} token{'s' * (meta.tokens != 1)}"
        return f", {count} at {meta.tokens / meta.forward_s:.0f}/s"
    return f", {size(meta.touched_bytes)} of weights read" if meta.touched_bytes else ""
