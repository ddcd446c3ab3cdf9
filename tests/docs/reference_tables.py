"""The tables of grammar/README.md that are made from the program: statements, options, keywords.

python -m tests.docs.reference_tables      writes them anew
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

from lql import ast
from lql.errors import LqlNotAvailableError
from lql.execute.needs import Base, needs
from lql.execute.settings import OPTIONS
from lql.parser import keywords, parse
from lql.syntax_help import STATEMENT_HELP, StatementHelp
from lql.syntax_words import Device

REFERENCE = Path(__file__).parents[2] / "grammar" / "README.md"

_MARK = "made by python -m tests.docs.reference_tables"
_END = "<!-- end -->"
_VALUES = {"device": [device.value for device in Device]}


def statements() -> str:
    """Every statement with what it does and what it needs."""
    rows = [f"| {entry.title} | {entry.meaning} | {_needs(entry)} |" for entry in STATEMENT_HELP]
    return "\n".join(["| statement | what it does | needs |", "|---|---|---|", *rows])


def _needs(entry: StatementHelp) -> str:
    ((statement,),) = (item.statements for item in parse(entry.example).items)
    if isinstance(statement, ast.Explain):
        return "what the statement needs"
    try:
        needed = needs(statement)
    except LqlNotAvailableError:
        return "*a later version*"
    if needed.base is Base.NOTHING:
        return "nothing"
    level = f" of level {needed.level.value}" if needed.runs_model else ""
    return f"{needed.base.value}{level}"


def options() -> str:
    """The options of SET and their values."""
    rows = [
        f"| `{name}` | {', '.join(f'`{word}`' for word in _VALUES[name])} |" for name in OPTIONS
    ]
    return "\n".join(["| option | values |", "|---|---|", *rows])


def words() -> str:
    """The keywords, in alphabetical order."""
    every = " ".join(sorted(keywords().values()))
    return "```text\n" + "\n".join(textwrap.wrap(every, 98)) + "\n```"


TABLES: Mapping[str, Callable[[], str]] = {
    "statements": statements,
    "options": options,
    "keywords": words,
}


def written(text: str) -> str:
    """A reference with its tables as they are now."""
    for name, make in TABLES.items():
        head, begun, rest = text.partition(f"<!-- {name}: {_MARK} -->\n")
        _, ended, tail = rest.partition(_END)
        assert begun, name
        assert ended, name
        text = f"{head}{begun}{make()}\n{ended}{tail}"
    return text


if __name__ == "__main__":
    REFERENCE.write_text(written(REFERENCE.read_text(encoding="utf-8")), encoding="utf-8")
