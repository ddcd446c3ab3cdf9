"""``lql run``: generate text from a vindex or a checkpoint, streamed as it comes."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

from lql import ast
from lql.arguments import Parser, common_of, configure, usage
from lql.batch import supervised
from lql.cancel import CancelToken
from lql.codes import Code
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


_RUN = """\
Generate text, greedily, token by token. Without PROMPT, answer one prompt a line until the input
ends. A prompt on the command line is continued as typed; lines are sent in the model's chat
template if it has one. --chat and --raw choose either.
"""


def run_generation(words: Sequence[str], reporter: Reporter) -> int:
    """``lql run``: answer a prompt, or one a line until the input ends; return the exit code.

    Raises:
        LqlError: the words are wrong, the source cannot be opened or run, or it was cancelled.
    """
    parser = Parser("run", "VINDEX [PROMPT] [options]", _RUN, formats=False, output=False)
    option = parser.section("what to generate")
    option("source", metavar="VINDEX", help="a vindex, or a checkpoint to run without extraction")
    option("prompt", metavar="PROMPT", nargs="?", help="what to continue or answer")
    option("--max-tokens", type=_count, default=256, metavar="N", help="stop after N tokens (256)")
    option("--chat", action="store_true", help="in the model's chat template")
    option("--raw", action="store_true", help="the prompt as typed")
    option("--patch", action="append", default=[], metavar="FILE", help="apply a patch first")
    found = parser.words(words)
    if found.chat and found.raw:
        raise usage("--chat and --raw exclude each other", f"{parser.prog} --help says more")
    configure(common_of(found), reporter)
    with Session() as session:
        run = _Run(
            session,
            reporter,
            source=found.source,
            prompt=found.prompt,
            max_tokens=found.max_tokens,
            chat=found.chat if found.chat or found.raw else None,
            interactive=sys.stdin.isatty(),
            patches=tuple(found.patch),
        )
        run.open()
        if run.prompt is not None:
            run.answer(run.prompt)
        else:
            run.converse()
    return 0


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f'"{word}" is not a whole number of at least 1')
    return int(word)


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
    session: Session
    reporter: Reporter
    source: str
    prompt: str | None
    max_tokens: int
    chat: bool | None
    interactive: bool
    patches: tuple[str, ...] = ()
    worker: Worker = field(default_factory=Worker)

    def open(self) -> None:
        """Open the source and load its weights, before the first prompt is asked for."""
        word = self.source
        path = Path(word)
        bare = word.startswith("package:") or (path.exists() and not (path / INDEX).exists())
        statement = ast.UseModel(ast.Text(word)) if bare else ast.UseVindex(ast.Text(word))
        self.reporter.finished(self.session.execute(statement))
        for patch in self.patches:
            self.reporter.finished(self.session.execute(ast.ApplyPatch(ast.Text(patch))))
        cancel = CancelToken()
        model = self._supervised(lambda: self.session.model(cancel=cancel), cancel)
        if self.chat is None and model.is_instruct:
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
                if error.code is Code.CANCELLED:
                    self.reporter.timed("stopped")
                else:
                    self.reporter.error(error.diagnostic)

    def answer(self, prompt: str) -> None:
        """Generate from one prompt and print the text as it comes."""
        cancel = CancelToken()
        model = self.session.model()
        started = time.perf_counter()
        count = 0
        with translating():
            generation = model.generate(
                prompt, max_tokens=self.max_tokens, mode=self._mode(model), cancel=cancel
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
        chat = self.chat
        if chat is None:
            chat = self.prompt is None and model.is_instruct
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
