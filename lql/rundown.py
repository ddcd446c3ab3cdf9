"""``lql run``: generate text from a vindex or a checkpoint, streamed as it comes."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

from lql import ast
from lql.arguments import Parser, common_of, configure, count, model_options, usage
from lql.batch import supervised
from lql.cancel import CancelToken
from lql.codes import Code
from lql.errors import LqlError
from lql.inference.sampling import Sampling
from lql.names import nearest
from lql.render.text import duration, streamable
from lql.report import Reporter
from lql.sampling_options import SamplingWords, sampling_options
from lql.session import Session, translating
from lql.syntax_words import PromptMode
from lql.worker import Worker
from vindex.files import INDEX

if TYPE_CHECKING:
    from lql.inference.answers import GeneratedToken
    from lql.inference.model import LoadedModel

T = TypeVar("T")

_PROMPT = "> "
_EXIT, _RESET = "/exit", "/reset"
_COMMAND = re.compile(r"/[A-Za-z]+")
_LEAVING_HINT = f"Ctrl-D or {_EXIT} leaves"

_RUN = f"""\
Generate text, token by token: the most probable token each time, or with --temperature a random one
of the likely ones. A PROMPT is continued as typed; --chat puts it in the model's chat template.

Without PROMPT, lines are read until the input ends. In the chat template, which an instruct model
gets by default, they are the turns of one conversation: {_RESET} begins anew, {_EXIT} leaves. With
--raw every line is a prompt of its own.
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
    option("--max-tokens", type=count, default=256, metavar="N", help="stop after N tokens (256)")
    option("--stop", action="append", default=[], metavar="TEXT", help="stop before TEXT; repeats")
    option("--chat", action="store_true", help="in the model's chat template")
    option("--raw", action="store_true", help="the prompt as typed")
    option("--patch", action="append", default=[], metavar="FILE", help="apply a patch first")
    sampling_options(parser)
    model_options(parser)
    found = parser.words(words)
    if found.chat and found.raw:
        raise usage("--chat and --raw exclude each other", f"{parser.prog} --help says more")
    configure(common_of(found), reporter)
    choice = SamplingWords.of(found)
    with Session(device=found.device) as session:
        run = _Run(
            session,
            reporter,
            source=found.source,
            config=found.config,
            prompt=found.prompt,
            max_tokens=found.max_tokens,
            stop=tuple(found.stop),
            chat=found.chat if found.chat or found.raw else None,
            choice=choice,
            interactive=sys.stdin.isatty(),
            patches=tuple(found.patch),
        )
        run.open()
        if run.prompt is not None:
            run.answer(run.prompt)
        else:
            run.converse()
    return 0


def _lines(stdin: TextIO, reporter: Reporter, *, interactive: bool) -> Iterator[str]:
    """Non-empty lines, asked for with a prompt on a terminal."""
    while True:
        try:
            if interactive:
                sys.stderr.write(_PROMPT)
                sys.stderr.flush()
            line = stdin.readline()
        except KeyboardInterrupt:
            if not interactive:
                raise
            sys.stderr.write("\n")
            reporter.timed(_LEAVING_HINT)
            continue
        if not line:
            return
        if line.strip():
            yield line.rstrip("\r\n")


@dataclass(slots=True)
class _Run:
    session: Session
    reporter: Reporter
    source: str
    config: str | None
    prompt: str | None
    max_tokens: int
    stop: tuple[str, ...]
    chat: bool | None
    choice: SamplingWords
    interactive: bool
    patches: tuple[str, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    worker: Worker = field(default_factory=Worker)

    def open(self) -> None:
        """Open the source and load its weights, before the first prompt is asked for."""
        self.reporter.finished(self.session.execute(self._use()))
        for patch in self.patches:
            self.reporter.finished(self.session.execute(ast.ApplyPatch(ast.Text(patch))))
        cancel = CancelToken()
        model = self._supervised(lambda: self.session.model(cancel=cancel), cancel)
        with translating():
            base = model.recommended_sampling if self.choice.recommended else Sampling()
            if self.chat and not model.is_instruct:
                model.encode("", PromptMode.CHAT)  # says that there is no template
        self.sampling = self.choice.sampling(base)
        if self.chat is None and model.is_instruct:
            chat = self._mode(model) is PromptMode.CHAT
            used, other = ("in its template", "--raw") if chat else ("as typed", "--chat")
            self.reporter.note(f"this instruct model gets prompts {used}; {other} is the other way")

    def _use(self) -> ast.UseModel | ast.UseVindex:
        word, path = self.source, Path(self.source)
        if word.startswith("package:") or (path.exists() and not (path / INDEX).exists()):
            if self.config is not None:
                raise usage("--config completes a vindex; a checkpoint has its own")
            return ast.UseModel(ast.Text(word))
        config = None if self.config is None else ast.Text(self.config)
        return ast.UseVindex(ast.Text(word), config)

    def converse(self) -> None:
        """Answer line after line. A person may interrupt an answer and go on; a pipe may not."""
        model = self.session.model()
        chatting = self._mode(model) is PromptMode.CHAT
        say = self._turns(model) if chatting else self.answer
        for line in _lines(sys.stdin, self.reporter, interactive=self.interactive):
            if chatting and line.strip() == _EXIT:
                return
            try:
                say(line)
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
        with translating():
            generation = model.generate(
                prompt,
                max_tokens=self.max_tokens,
                mode=self._mode(model),
                stop=self.stop,
                sampling=self.sampling,
                cancel=cancel,
            )
        self._stream(generation, cancel, started, model.device)

    def _turns(self, model: LoadedModel) -> Callable[[str], None]:
        """A conversation: what answers its lines."""
        conversation = model.converse()

        def say(line: str) -> None:
            word = line.strip()
            if word == _RESET:
                conversation.reset()
                self.reporter.timed("a new conversation")
                return
            if _COMMAND.fullmatch(word):
                close = nearest(word, (_RESET, _EXIT), limit=1)
                raise usage(
                    f"there is no command {word}",
                    *(f"did you mean {name}?" for name in close),
                    f"{_RESET} begins a new conversation, {_EXIT} leaves",
                )
            cancel = CancelToken()
            started = time.perf_counter()
            with translating():
                reply = conversation.reply(
                    line,
                    max_tokens=self.max_tokens,
                    stop=self.stop,
                    sampling=self.sampling,
                    cancel=cancel,
                )
            new = len(reply.generation.encoded.ids) - reply.reused
            where = f"{model.device}, {new} tokens read, {reply.reused} known"
            self._stream(reply, cancel, started, where)

        return say

    def _stream(
        self, tokens: Iterator[GeneratedToken], cancel: CancelToken, started: float, where: str
    ) -> None:
        """Print tokens as they come, then how fast they were."""
        number = 0
        while True:
            token = self._supervised(lambda: _next(tokens), cancel)
            if token is None:
                break
            number += 1
            self._print(token.text)
        self._print("\n")
        if self.reporter.timing:
            took = time.perf_counter() - started
            rate = f"{number / took:.1f} tokens/s"
            self.reporter.timed(f"{number} tokens, {duration(took)}, {rate}, {where}")

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


def _next(tokens: Iterator[GeneratedToken]) -> GeneratedToken | None:
    with translating():
        return next(tokens, None)
