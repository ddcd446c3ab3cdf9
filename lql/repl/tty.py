"""The terminal while the shell is open: keys pressed during a statement wait for the prompt."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unechoed() -> Iterator[None]:
    """Keep the terminal from showing what is typed while nobody reads it.

    Echoed keys would stand in the middle of a result, and a prompt drawn behind them would be
    garbled. They are kept, Ctrl-D as well, and the next prompt shows them; Ctrl-C stays a signal.
    Does nothing where standard input is no POSIX terminal.
    """
    if sys.platform == "win32" or not os.isatty(sys.stdin.fileno()):
        yield
        return
    import termios

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    silent = termios.tcgetattr(terminal)
    silent[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(terminal, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
