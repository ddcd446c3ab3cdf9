"""Ctrl-C in the moments when the prompt hands the terminal over, which are too short to hit.

Each test makes one of them last, in a real terminal: a press that falls into it must count.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.repl.terminal import Terminal

CTRL_C, CTRL_D = "\x03", "\x04"

# When the text is accepted and Ctrl-C is a signal again, the prompt waits for its own tasks.
PROMPT_ENDS = """
import asyncio
from prompt_toolkit.application import Application

ending = Application.cancel_and_wait_for_background_tasks

async def slowly(self):
    print("PROMPT ENDS", flush=True)
    await asyncio.sleep(0.5)
    await ending(self)

Application.cancel_and_wait_for_background_tasks = slowly
"""
# Python may run a handler right after the worker has looked for presses for the last time.
WORKER_ENDS = """
import lql.worker, time

taken = lql.worker._taken

def slowly(presses):
    found = taken(presses)
    print("WORKER ENDS", flush=True)
    time.sleep(0.5)
    return found

lql.worker._taken = slowly
"""
# A statement is being parsed, names are looked up: nothing runs on the worker yet.
PARSING = """
import time
from lql.session import Session

prepare = Session.prepare

def slowly(self, *arguments, **named):
    print("PARSING", flush=True)
    time.sleep(0.5)
    return prepare(self, *arguments, **named)

Session.prepare = slowly
"""


@pytest.mark.parametrize(
    ("moment", "said"),
    [(PROMPT_ENDS, "PROMPT ENDS"), (PARSING, "PARSING"), (WORKER_ENDS, "WORKER ENDS")],
    ids=["prompt-ends", "parsing", "worker-ends"],
)
def test_a_press_counts(terminal: Terminal, tiny_vindex: Path, moment: str, said: str) -> None:
    terminal.start(str(tiny_vindex), first=moment)
    terminal.run("SHOW LAYERS 0-0;")  # the next ones take no time
    terminal.run("\\clear")
    terminal.paste("SHOW LAYERS 0-0;\nSHOW LAYERS 1-1;\nSHOW LAYERS 3-3;")
    terminal.wait_for("3-3;")
    terminal.type("\r")
    terminal.wait_for(said)

    terminal.type(CTRL_C)

    terminal.wait_for("cancelled")
    terminal.wait_for_prompt()
    assert not any(line.split()[:2] == ["3", "output"] for line in terminal.screen.lines)
    terminal.type(CTRL_D)
    assert terminal.exit_code() == 0


def test_pressing_again_and_again_never_leaves_the_shell(
    terminal: Terminal, tiny_vindex: Path
) -> None:
    terminal.start(str(tiny_vindex), first=PARSING)
    for _ in range(3):
        terminal.type("SHOW LAYERS 0-0;\r")
        terminal.wait_for("PARSING")
        terminal.type(CTRL_C * 20)
        terminal.wait_for("cancelled")
        terminal.wait_for_prompt()
        terminal.run("\\clear")
    terminal.run("SHOW LAYERS 1-1;")
