"""A tiny vindex, a shell on a pipe, and a shell in a terminal."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from lql.repl.app import Repl, ReplOptions
from lql.report import Reporter
from lql.session import Session, connect
from tests.repl.terminal import Terminal


@pytest.fixture(scope="session")
def tiny_vindex(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of four layers with random weights."""
    target = tmp_path_factory.mktemp("repl") / "tiny.vindex"
    checkpoint = data_dir / "golden" / "checkpoints" / "llama_h96"
    with Session() as session:
        session.run(f'EXTRACT MODEL "{checkpoint}" INTO "{target}";')
    return target


@dataclass
class Typing:
    """Types into a shell that reads from a pipe, to its end.

    Attributes:
        out, err: what it wrote.
        bugs: exceptions that only a bug can raise.
    """

    session: Session
    options: ReplOptions = field(default_factory=ReplOptions)
    out: io.StringIO = field(default_factory=io.StringIO)
    err: io.StringIO = field(default_factory=io.StringIO)
    bugs: list[Exception] = field(default_factory=list)

    def __call__(self, keys: str) -> str:
        """Press keys, then Ctrl-D at an empty prompt; return what went to standard output."""
        reporter = Reporter(self.out, self.err)
        with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
            pipe.send_text(f"{keys}\x04")
            Repl(self.session, self.options, reporter, on_bug=self.bugs.append).loop()
        return self.out.getvalue()


@pytest.fixture
def typing(tiny_vindex: Path) -> Iterator[Typing]:
    """A shell with the tiny vindex open."""
    with connect(tiny_vindex) as session:
        yield Typing(session)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """The real command in a terminal, in an empty directory; nothing runs yet."""
    with Terminal(tmp_path) as opened:
        yield opened
