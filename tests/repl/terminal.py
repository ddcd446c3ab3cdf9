"""The real ``lql`` in a pseudo-terminal, driven by keys and read from a screen."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from tests.repl.screen import Screen

PATIENCE_S = 60.0
"""How long a test waits for what must come; it says nothing about how fast it should."""

_PROMPT = re.compile(r"[^. ][^ ]*>$")

# The child makes the terminal its controlling one, so that Ctrl-C reaches it as a signal.
_LAUNCH = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)

_RUN = "import sys; from lql.cli import main; sys.exit(main())"


class Terminal:
    """One process in one terminal.

    Attributes:
        screen: what a person sees.
        raw: everything the process wrote.

    Args:
        directory: where the process runs.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.screen = Screen()
        self.raw = ""
        # Ctrl-C makes the terminal drop what was not read yet, maybe in the middle of a character.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._master, self._slave = pty.openpty()
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self,
        *arguments: str,
        prompt: bool = True,
        stdout: Path | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
        first: str = "",
    ) -> None:
        """Run ``lql``.

        Args:
            arguments: of the command.
            prompt: wait for the first one.
            stdout: a file instead of the terminal.
            environment: variables beside those of the test.
            first: Python that the process runs before ``lql``.
        """
        size = struct.pack("HHHH", self.screen.height, self.screen.width, 0, 0)
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, size)
        program = ["-c", f"{first}\n{_RUN}"] if first else ["-m", "lql"]
        with stdout.open("wb") if stdout else nullcontext(self._slave) as out:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _LAUNCH, sys.executable, *program, *arguments],
                stdin=self._slave,
                stdout=out,
                stderr=self._slave,
                cwd=self.directory,
                env={**os.environ, "TERM": "xterm", "PAGER": "", **environment},
                start_new_session=True,
            )
        if prompt:
            self.wait_for_prompt()

    @property
    def modes(self) -> list[object]:
        """What the terminal does with keys and output."""
        return termios.tcgetattr(self._slave)

    def type(self, keys: str) -> None:
        """Press keys; control characters are what they are."""
        os.write(self._master, keys.encode())

    def paste(self, text: str) -> None:
        """Paste, as terminals that bracket it do."""
        self.type(f"\x1b[200~{text}\x1b[201~")

    def run(self, line: str) -> None:
        """Type a line and Enter, and wait until the prompt is back."""
        self.type(line)
        self.wait(lambda: self.screen.line.endswith(line.strip()[-20:]))
        self.type("\r")
        self.wait_for_prompt()

    def kill(self) -> None:
        """End the process without a chance to clean up."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def wait_for(self, text: str) -> None:
        """Wait until the screen holds a text."""
        self.wait(lambda: text in self.screen.text)

    def wait_for_prompt(self) -> None:
        """Wait until the cursor stands behind an empty prompt."""
        self.wait(lambda: _PROMPT.match(self.screen.line) and "│" in self.screen.text)

    def wait(self, happened: Callable[[], object]) -> None:
        """Read what the process writes until something has happened."""
        deadline = time.monotonic() + PATIENCE_S
        while not happened():
            if not self._read(deadline):
                raise AssertionError(f"it did not happen; the screen:\n{self.screen.text}")

    def settle(self, seconds: float) -> None:
        """Read for a while."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass

    def exit_code(self) -> int:
        """Wait for the process to end."""
        assert self._process is not None
        deadline = time.monotonic() + PATIENCE_S
        while self._process.poll() is None and time.monotonic() < deadline:
            self._read(min(deadline, time.monotonic() + 0.05))
        return self._process.wait(timeout=1)

    def _read(self, deadline: float) -> bool:
        """Read once; return whether anything came before the deadline."""
        ready, _, _ = select.select([self._master], [], [], max(deadline - time.monotonic(), 0))
        if not ready:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux says so when the other end is closed
            data = b""
        text = self._decoder.decode(data)
        self.raw += text
        self.screen.feed(text)
        for reply in self.screen.replies:
            self.type(reply)
        self.screen.replies.clear()
        return bool(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
        os.close(self._master)
        os.close(self._slave)
