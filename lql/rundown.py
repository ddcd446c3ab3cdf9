"""``lql run``: generate text from a vindex or a checkpoint, streamed as it comes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

from lql import ast
from lql.arguments import RunCommand
from lql.batch import supervised
from lql.cancel import CancelToken
from lql.errors import LqlError
from lql.render.text import duration, streamable
from lql.report import Reporter
from lql.session import Session, translating
from lql.syntax_words import PromptMode
from lql.worker import Worker
from vindex.files import INDEX

if TYPE_CHECKING:
    from lql.inference.answers import GeneratedToken
    from lql.inference.model import LoadedModel

T = TypeVar("T")

_PROMPT = "> "


def run_generation(command: RunCommand, reporter: Reporter) -> int:
    """Answer the prompt, or one prompt a line until the input ends; return the exit code.

    Raises:
        LqlError: the source cannot be opened or run, or the work was cancelled.
    """
    with Session() as session:
        run = _Run(command, session, reporter, interactive=sys.stdin.isatty())
        run.open()
        if command.prompt is not None:
            run.answer(command.prompt)
        else:
            run.converse()
    return 0


def _lines(stdin: TextIO, *, interactive: bool) -> Iterator[str]:
    """Non-empty lines, asked for with a prompt on a terminal."""
    while True:
        if interactive:
            sys.stderr.write(_PROMPT)
            sys.stderr.flush()
        line = stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.rstrip("\r\n")


@dataclass(slots=True)
class _Run:
    command: RunCommand
    session: Session
    reporter: Reporter
    interactive: bool
    worker: Worker = field(default_factory=Worker)

    def open(self) -> None:
        """Open the source and load its weights, before the first prompt is asked for."""
        word = self.command.vindex
        path = Path(word)
        bare = word.startswith("package:") or (path.exists() and not (path / INDEX).exists())
        statement = ast.UseModel(ast.Text(word)) if bare else ast.UseVindex(ast.Text(word))
        self.reporter.finished(self.session.execute(statement))
        cancel = CancelToken()
        model = self._supervised(lambda: self.session.model(cancel=cancel), cancel)
        if self.command.chat is None and model.is_instruct:
            chat = self._mode(model) is PromptMode.CHAT
            used, other = ("in its template", "--raw") if chat else ("as typed", "--chat")
            self.reporter.note(f"this instruct model gets prompts {used}; {other} is the other way")

    def converse(self) -> None:
        """Answer line after line. A person may interrupt an answer and go on; a pipe may not."""
        for line in _lines(sys.stdin, interactive=self.interactive):
            try:
                self.answer(line)
            except LqlError as error:
                if not self.interactive:
                    raise
                self._print("\n")
                self.reporter.error(error.diagnostic)

    def answer(self, prompt: str) -> None:
        """Generate from one prompt and print the text as it comes."""
        cancel = CancelToken()
        model = self.session.model()
        started = time.perf_counter()
        count = 0
        with translating():
            generation = model.generate(
                prompt, max_tokens=self.command.max_tokens, mode=self._mode(model), cancel=cancel
            )
        while True:
            token = self._supervised(lambda: _next(generation), cancel)
            if token is None:
                break
            count += 1
            self._print(token.text)
        self._print("\n")
        if self.reporter.timing:
            took = time.perf_counter() - started
            self.reporter.timed(f"{count} tokens, {duration(took)}, {count / took:.1f} tokens/s")

    def _mode(self, model: LoadedModel) -> PromptMode:
        """As asked for; else a prompt of the command line is continued, a conversation chats."""
        chat = self.command.chat
        if chat is None:
            chat = self.command.prompt is None and model.is_instruct
        return PromptMode.CHAT if chat else PromptMode.RAW

    def _print(self, text: str) -> None:
        out = self.reporter.out
        out.write(streamable(text) if out.isatty() else text)
        out.flush()

    def _supervised(self, call: Callable[[], T], cancel: CancelToken) -> T:
        return supervised(call, cancel, self.worker, self.reporter)


def _next(generation: Iterator[GeneratedToken]) -> GeneratedToken | None:
    with translating():
        return next(generation, None)
