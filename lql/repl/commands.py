"""The shell's own commands: one table that dispatch, help, completion and did-you-mean read.

A command begins with a backslash and takes one line; a few have a bare word besides. Scripts have
none of them: they are not part of the language.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from prompt_toolkit.shortcuts import clear

from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlUsageError
from lql.names import nearest
from lql.render import Format
from lql.repl.help_text import Entry, overview, topic_lines, topic_text
from lql.repl.help_topics import find_topics
from lql.repl.shell import Shell


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
    """The words an argument can be, apart from topics."""
    match argument:
        case Argument.FORMAT:
            return tuple(each.value for each in Format)
        case Argument.SWITCH:
            return ("on", "off")
        case Argument.TOPIC:
            return tuple(command.name for command in COMMANDS)
        case Argument.NONE:
            return ()


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
    _refuse_argument("\\q", argument)
    return Outcome.LEAVE


def _format(shell: Shell, argument: str) -> Outcome:
    if argument:
        shell.format = Format(_one_of(argument, Argument.FORMAT))
    shell.say(f"format {shell.format.value}")
    return Outcome.STAY


def _timing(shell: Shell, argument: str) -> Outcome:
    reporter = shell.reporter
    reporter.timing = (
        _one_of(argument, Argument.SWITCH) == "on" if argument else not reporter.timing
    )
    shell.say(f"timing {'on' if reporter.timing else 'off'}")
    return Outcome.STAY


def _clear(shell: Shell, argument: str) -> Outcome:
    _refuse_argument("\\clear", argument)
    clear()
    return Outcome.STAY


def _one_of(argument: str, kind: Argument) -> str:
    known = values(kind)
    if argument.casefold() in known:
        return argument.casefold()
    raise LqlUsageError(
        Diagnostic(
            Code.USAGE,
            f'"{argument}" is not one of {", ".join(known)}',
            suggestions=nearest(argument, known, limit=1),
        )
    )


def _refuse_argument(name: str, argument: str) -> None:
    if argument:
        raise LqlUsageError(Diagnostic(Code.USAGE, f"{name} takes nothing after it"))


COMMANDS: tuple[Command, ...] = (
    Command(
        "\\?",
        ("\\h", "\\help", "help"),
        Argument.TOPIC,
        "list what can be typed, or explain one statement or command",
        _help,
    ),
    Command("\\q", ("\\quit", "exit", "quit"), Argument.NONE, "leave (also Ctrl-D)", _leave),
    Command("\\format", (), Argument.FORMAT, "show or choose how results are printed", _format),
    Command("\\timing", (), Argument.SWITCH, "say how long each statement took, or stop", _timing),
    Command("\\clear", ("clear",), Argument.NONE, "clear the screen (also Ctrl-L)", _clear),
)
