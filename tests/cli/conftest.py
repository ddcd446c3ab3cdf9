"""The command as a real process, in a directory with small vindexes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lql.session import Session

CHECKPOINT = "golden/checkpoints/llama_h96"
TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}is{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Lql:
    """Runs ``lql`` in a directory."""

    cwd: Path
    cache: Path

    def __call__(
        self, *words: str, stdin: str | bytes = "", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end; both streams as text."""
        done = subprocess.run(
            self.command(*words),
            cwd=self.cwd,
            env=self.environment(env),
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            timeout=120,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start with pipes on both output streams and nothing to read."""
        return subprocess.Popen(
            self.command(*words),
            cwd=self.cwd,
            env=self.environment(None),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    @staticmethod
    def command(*words: str) -> list[str]:
        return [sys.executable, "-m", "lql", *words]

    def environment(self, more: dict[str, str] | None) -> dict[str, str]:
        # One cache for all runs, so that only the first one builds the parser's table. Streams are
        # buffered, as users have them.
        inherited = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
        return {**inherited, "XDG_CACHE_HOME": str(self.cache), **(more or {})}

    def rows(self, statement: str, *words: str) -> Any:
        """The one JSON document that a statement prints on ``tiny.vindex``."""
        done = self("-u", "tiny.vindex", "-e", statement, "--format", "json", *words)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="session")
def vindexes(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """A directory with ``tiny.vindex``, ``browse.vindex`` and ``chat.vindex``, for reading."""
    directory = tmp_path_factory.mktemp("vindexes")
    chat = directory / "chat_model"
    shutil.copytree(data_dir / CHECKPOINT, chat)
    settings = chat / "tokenizer_config.json"
    config = json.loads(settings.read_text())
    settings.write_text(json.dumps({**config, "chat_template": TEMPLATE}))
    with Session() as session:
        session.run(
            """
            EXTRACT MODEL :plain INTO :tiny WITH INFERENCE DTYPE f32;
            EXTRACT MODEL :plain INTO :browse WITH BROWSE;
            EXTRACT MODEL :chat INTO :chatty;
            """,
            parameters={
                "plain": data_dir / CHECKPOINT,
                "chat": chat,
                "tiny": directory / "tiny.vindex",
                "browse": directory / "browse.vindex",
                "chatty": directory / "chat.vindex",
            },
        )
    return directory


@pytest.fixture(scope="session")
def parser_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def lql(vindexes: Path, parser_cache: Path) -> Lql:
    """``lql`` in the directory of the vindexes, which it must not change."""
    return Lql(vindexes, parser_cache)


@pytest.fixture
def lql_here(tmp_path: Path, parser_cache: Path) -> Lql:
    """``lql`` in an empty directory of its own."""
    return Lql(tmp_path, parser_cache)
