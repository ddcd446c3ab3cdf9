"""The shell's own commands: one table that dispatch, help, completion and did-you-mean read.

A command begins with a backslash and takes one line; a few have a bare word besides. Scripts have
none of them: they are not part of the language.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import assert_never

from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlUsageError
from lql.names import nearest
from lql.repl import actions
from lql.repl.help_text import Entry, overview, topic_lines, topic_text
from lql.repl.help_topics import find_topics
from lql.repl.shell import Shell
from lql.syntax_words import Table


class Outcome(Enum):
    """What the shell does after a command."""

    STAY = "stay"
    LEAVE = "leave"


class Argument(Enum):
    """What follows a command's name; the value is how help writes it."""

    NONE = ""
    TOPIC = "[STATEMENT | \\COMMAND]"
    FORMAT = "[FORMAT]"
    SWITCH = "[on | off]"
    EXPAND = "[on | off | auto]"
    KEYS = "[emacs | vi]"
    FILE = "[FILE]"
    TABLE = "[TABLE]"
    SECONDS = "[SECONDS]"
    TEXT = "[TEXT]"
    VARIABLE = "[NAME VALUE]"
    NAME = "NAME"


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        name: how help spells it, with the backslash.
        others: further spellings; those without a backslash are bare words.
        argument: what may follow, for help and completion.
        meaning: one line for people.
        run: does it; the text after the name comes stripped, without a final ``;``.
    """

    name: str
    others: tuple[str, ...]
    argument: Argument
    meaning: str
    run: Callable[[Shell, str], Outcome]

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every way to type its name."""
        return (self.name, *self.others)

    @property
    def bare(self) -> tuple[str, ...]:
        """The spellings without a backslash."""
        return tuple(word for word in self.spellings if not word.startswith("\\"))

    @property
    def entry(self) -> Entry:
        """Its line in help."""
        first, *more = (*self.bare, *(word for word in self.spellings if word not in self.bare))
        usage = " ".join(filter(None, (first, self.argument.value)))
        return Entry(", ".join((usage, *more)), self.meaning)


@dataclass(frozen=True, slots=True)
class Call:
    """A command line, taken apart.

    Attributes:
        word: the command as it was typed.
        argument: the rest, stripped.
    """

    word: str
    argument: str


def call_of(line: str) -> Call | None:
    """Take a line apart, or return ``None`` if it is no command but (part of) a statement."""
    text = line.strip()
    word, _, argument = text.partition(" ")
    bare_end = word.rstrip(";")
    argument = argument.strip().rstrip(";").rstrip()
    if text.startswith("\\"):
        return Call(bare_end, argument)
    command = find(bare_end)
    if command is None or (command.argument is Argument.NONE and argument):
        return None
    return Call(bare_end, argument)


def find(word: str) -> Command | None:
    """The command with this spelling, in any case."""
    folded = word.casefold()
    return next((command for command in COMMANDS if folded in command.spellings), None)


def dispatch(call: Call, shell: Shell) -> Outcome:
    """Run a command.

    Raises:
        LqlUsageError: there is no such command, or its argument makes no sense.
    """
    return _known(call.word).run(shell, call.argument)


def values(argument: Argument) -> tuple[str, ...]:
    """The words an argument can be, apart from topics and files."""
    match argument:
        case Argument.FORMAT:
            return actions.FORMATS
        case Argument.SWITCH:
            return actions.SWITCH
        case Argument.EXPAND:
            return actions.EXPAND
        case Argument.KEYS:
            return actions.KEYS
        case Argument.TABLE:
            return tuple(table.value for table in Table)
        case Argument.TOPIC:
            return tuple(command.name for command in COMMANDS)
        case (
            Argument.NONE
            | Argument.FILE
            | Argument.SECONDS
            | Argument.TEXT
            | Argument.VARIABLE
            | Argument.NAME
        ):
            return ()
        case _:
            assert_never(argument)


def _known(word: str) -> Command:
    command = find(word)
    if command is not None:
        return command
    spellings = [spelling for each in COMMANDS for spelling in each.spellings]
    raise LqlUsageError(
        Diagnostic(
            Code.USAGE,
            f"there is no command {word}",
            suggestions=nearest(word, [word for word in spellings if word.startswith("\\")]),
            helps=("\\? lists the commands",),
        )
    )


# --------------------------------------------------------------------------- the commands


def _help(shell: Shell, argument: str) -> Outcome:
    if not argument:
        entries = [command.entry for command in COMMANDS]
        shell.print(overview(shell.topics, entries, shell.keys, shell.width))
    elif argument.startswith("\\") or find(argument) is not None:
        entry = _known(argument).entry
        shell.print(f"{entry.name}: {entry.meaning}")
    else:
        found = find_topics(argument, shell.topics)
        several = len(found) > 1
        shell.print(topic_lines(found, shell.width) if several else topic_text(found[0]))
    return Outcome.STAY


def _leave(shell: Shell, argument: str) -> Outcome:
    actions.refuse_argument("\\q", argument)
    return Outcome.LEAVE


def _does(action: Callable[[Shell, str], None]) -> Callable[[Shell, str], Outcome]:
    """A command that stays in the shell."""

    def run(shell: Shell, argument: str) -> Outcome:
        action(shell, argument)
        return Outcome.STAY

    return run


COMMANDS: tuple[Command, ...] = (
    Command(
        "\\?",
        ("\\h", "\\help", "help"),
        Argument.TOPIC,
        "list what can be typed, or explain one statement or command",
        _help,
    ),
    Command("\\q", ("\\quit", "exit", "quit"), Argument.NONE, "leave (also Ctrl-D)", _leave),
    Command(
        "\\d", (), Argument.TABLE, "list the tables, or the columns of one", _does(actions.describe)
    ),
    Command("\\e", (), Argument.FILE, "write statements in an editor", _does(actions.edit)),
    Command("\\i", (), Argument.FILE, "run a script", _does(actions.include)),
    Command(
        "\\o", (), Argument.FILE, "send results to a file; alone: here again", _does(actions.send)
    ),
    Command(
        "\\once", (), Argument.FILE, "send the next result to a file", _does(actions.send_once)
    ),
    Command(
        "\\tee",
        (),
        Argument.FILE,
        "send results to a file as well; alone: stop that",
        _does(actions.send_copies),
    ),
    Command(
        "\\last",
        (),
        Argument.FORMAT,
        "show the last result again, nothing cut",
        _does(actions.last),
    ),
    Command(
        "\\watch",
        (),
        Argument.SECONDS,
        "run the last statements again and again, until Ctrl-C",
        _does(actions.watch),
    ),
    Command(
        "\\history",
        (),
        Argument.TEXT,
        "list what was typed, with a text in it",
        _does(actions.history),
    ),
    Command(
        "\\set",
        (),
        Argument.VARIABLE,
        "give :name a value; alone: list the values",
        _does(actions.set_variable),
    ),
    Command(
        "\\unset", (), Argument.NAME, "forget the value of :name", _does(actions.unset_variable)
    ),
    Command(
        "\\format",
        (),
        Argument.FORMAT,
        "show or choose how results are printed",
        _does(actions.set_format),
    ),
    Command(
        "\\x",
        (),
        Argument.EXPAND,
        "print a line for each value: always, never, or where columns do not fit",
        _does(actions.set_expand),
    ),
    Command(
        "\\pager",
        (),
        Argument.SWITCH,
        "page what does not fit on the screen, or stop",
        _does(actions.set_pager),
    ),
    Command(
        "\\timing",
        (),
        Argument.SWITCH,
        "say how long each statement took, or stop",
        _does(actions.set_timing),
    ),
    Command(
        "\\keys",
        (),
        Argument.KEYS,
        "edit with vi's keys or Emacs's",
        _does(actions.set_keys),
    ),
    Command(
        "\\info", (), Argument.NONE, "versions, devices, and what is open", _does(actions.info)
    ),
    Command(
        "\\clear",
        ("clear",),
        Argument.NONE,
        "clear the screen (also Ctrl-L)",
        _does(actions.clear_screen),
    ),
)
