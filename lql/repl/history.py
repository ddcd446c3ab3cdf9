"""Input history: one file per user, entries of several lines kept whole.

The file is prompt_toolkit's own format. Every entry is appended when it is entered, so a crash
loses nothing, and several shells can share the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from prompt_toolkit.history import FileHistory


def history_path(environment: Mapping[str, str]) -> Path:
    """Where history is kept: ``$XDG_STATE_HOME/lql/history``, or below ``~/.local/state``."""
    state = environment.get("XDG_STATE_HOME", "")
    base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    return base / "lql" / "history"


class PrivateHistory(FileHistory):
    """History in a file that only its user can read.

    Text that begins with a space is not kept. Where the file cannot be read or written, history
    lasts as long as the process.

    Attributes:
        problem: why nothing is saved, once that is known.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.problem: OSError | None = None
        self._path = path
        self._unsent = False

    def append_string(self, string: str) -> None:
        """Keep and save what was entered."""
        if not string.startswith(" "):
            super().append_string(string)

    def keep_unsent(self, string: str) -> None:
        """Keep text that was cleared without running, for this process only."""
        if not string.strip() or string in self.get_strings()[-1:]:
            return
        self._unsent = True
        try:
            self.append_string(string)
        finally:
            self._unsent = False

    def load_history_strings(self) -> Iterable[str]:
        """Read the entries, newest first."""
        try:
            return super().load_history_strings()
        except OSError as error:
            self.problem = error
            return ()

    def store_string(self, string: str) -> None:
        """Append an entry to the file."""
        if self._unsent or self.problem is not None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600))
            super().store_string(string)
        except OSError as error:
            self.problem = error
