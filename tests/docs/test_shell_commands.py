"""README.md lists every command of the shell, as ``help`` does."""

from __future__ import annotations

import re
from pathlib import Path

from lql.repl.commands import COMMANDS

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_every_command_is_in_the_readme_and_no_other() -> None:
    listed = set(re.findall(r"^\| `(\\[?\w]+)", README, re.M))

    assert listed == {command.name for command in COMMANDS}
