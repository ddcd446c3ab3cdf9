"""What the shell's commands do. Each takes the shell and what stands after the command's name."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from prompt_toolkit.shortcuts import clear

from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlUsageError
from lql.names import nearest
from lql.render import Expand, Format
from lql.render.text import duration
from lql.repl.shell import Shell
from lql.repl.showing import show

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HISTORY_SHOWN = 50
_WATCH_S = 2.0

SWITCH = ("on", "off")
KEYS = ("emacs", "vi")
EXPAND = tuple(each.value for each in Expand)
FORMATS = tuple(each.value for each in Format if each is not Format.PARQUET)  # it is no text


def set_format(shell: Shell, argument: str) -> None:
    """``\\format``: choose or tell the format."""
    if argument:
        shell.format = Format(one_of(argument, FORMATS))
    shell.say(f"format {shell.format.value}")


def set_expand(shell: Shell, argument: str) -> None:
    """``\\x``: choose when rows are printed a line for each value."""
    chosen = shell.render.expand
    if argument:
        chosen = Expand(one_of(argument, EXPAND))
    else:
        chosen = Expand.AUTO if chosen is Expand.ON else Expand.ON
    shell.render = replace(shell.render, expand=chosen)
    shell.say(f"expanded {chosen.value}")


def set_timing(shell: Shell, argument: str) -> None:
    """``\\timing``: say how long each statement took, or stop."""
    reporter = shell.reporter
    reporter.timing = one_of(argument, SWITCH) == "on" if argument else not reporter.timing
    shell.say(f"timing {'on' if reporter.timing else 'off'}")


def set_pager(shell: Shell, argument: str) -> None:
    """``\\pager``: page what does not fit, or stop."""
    shell.paging = one_of(argument, SWITCH) == "on" if argument else not shell.paging
    shell.say(f"pager {'on' if shell.paging else 'off'}")


def set_keys(shell: Shell, argument: str) -> None:
    """``\\keys``: choose or tell whose keys edit what is typed."""
    if argument:
        shell.vi_keys = one_of(argument, KEYS) == "vi"
    shell.say(f"keys {'vi' if shell.vi_keys else 'emacs'}")


def clear_screen(shell: Shell, argument: str) -> None:
    """``\\clear``: clear the screen."""
    refuse_argument("\\clear", argument)
    clear()


# --------------------------------------------------------------------------- files


def include(shell: Shell, argument: str) -> None:
    """``\\i``: run a script."""
    path = _path(argument, "\\i")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        _refuse(f"cannot read {path}: {(error.strerror or str(error)).lower()}")
    except UnicodeDecodeError as error:
        _refuse(f"{path} is not UTF-8: byte {error.start} cannot be read")
    shell.run(text, str(path))


def send(shell: Shell, argument: str) -> None:
    """``\\o``: send results to a file, or to the terminal again."""
    shell.destinations.file = _path(argument, "\\o") if argument else None
    shell.say(_told("results go to", shell.destinations.file))


def send_once(shell: Shell, argument: str) -> None:
    """``\\once``: send the next result to a file."""
    shell.destinations.once = _path(argument, "\\once")
    shell.say(_told("the next result goes to", shell.destinations.once))


def send_copies(shell: Shell, argument: str) -> None:
    """``\\tee``: send results to a file as well, or stop."""
    shell.destinations.copy = _path(argument, "\\tee") if argument else None
    what = "results go nowhere else" if not argument else "results also go to"
    shell.say(_told(what, shell.destinations.copy) if argument else what)


def _told(what: str, path: Path | None) -> str:
    if path is None:
        return f"{what} the terminal"
    return f"{what} {path}{', at its end' if path.exists() else ''}"


def _path(argument: str, command: str) -> Path:
    if not argument:
        _refuse(f"{command} takes the name of a file")
    return Path(_unquoted(argument)).expanduser()


# --------------------------------------------------------------------------- variables


def set_variable(shell: Shell, argument: str) -> None:
    """``\\set``: give ``:name`` a value, or list the values."""
    if not argument:
        lines = [f"{name} = {value}" for name, value in sorted(shell.variables.items())]
        shell.print("\n".join(lines) or "no variable is set; \\set NAME VALUE sets one")
        return
    name, _, value = argument.partition(" ")
    if not _NAME.fullmatch(name):
        _refuse(f'"{name}" is no name of a parameter')
    if not value.strip():
        _refuse(f"\\set {name} takes a value", f"\\unset {name} forgets it")
    shell.variables[name] = _unquoted(value.strip())


def unset_variable(shell: Shell, argument: str) -> None:
    """``\\unset``: forget the value of ``:name``."""
    if argument not in shell.variables:
        raise LqlUsageError(
            Diagnostic(
                Code.USAGE,
                f'no variable is called "{argument}"',
                suggestions=nearest(argument, shell.variables),
                helps=("\\set lists the variables",),
            )
        )
    del shell.variables[argument]


# --------------------------------------------------------------------------- looking back


def last(shell: Shell, argument: str) -> None:
    """``\\last``: the last result again, nothing cut, in any format."""
    if shell.last is None:
        _refuse("there is no last result yet")
    chosen = Format(one_of(argument, FORMATS)) if argument else None
    shell.showing(whole=True, format=chosen).write(shell.last)


def history(shell: Shell, argument: str) -> None:
    """``\\history``: what was typed before, with a text in it."""
    wanted = argument.casefold()
    typed = list(shell.typed_before())
    if typed and typed[-1].strip().startswith("\\history"):
        typed.pop()  # what was typed just now
    found = [text for text in typed if wanted in text.casefold()]
    if not found:
        _refuse(f'nothing that was typed holds "{argument}"' if argument else "nothing was typed")
    if not argument:
        found = found[-_HISTORY_SHOWN:]
    show("\n".join(found) + "\n", shell.screen)


def edit(shell: Shell, argument: str) -> None:
    """``\\e``: write statements in an editor; they stand at the next prompt."""
    environment = os.environ
    words = shlex.split(environment.get("VISUAL") or environment.get("EDITOR") or "vi")
    if argument:
        path = _path(argument, "\\e")
        _edited(words, path)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
    else:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "statement.lql"
            path.write_text(shell.last_text, encoding="utf-8")
            _edited(words, path)
            text = path.read_text(encoding="utf-8")
    shell.prefill = text.rstrip("\n")


def _edited(words: list[str], path: Path) -> None:
    try:
        process = subprocess.Popen([*words, str(path)])
    except OSError as error:
        _refuse(
            f"cannot start the editor {words[0]}: {(error.strerror or str(error)).lower()}",
            "the variable EDITOR names one",
        )
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:  # the editor answers Ctrl-C itself
            continue
        if code:
            _refuse(f"the editor {words[0]} ended with code {code}, and nothing was taken")
        return


# --------------------------------------------------------------------------- again and again


def watch(shell: Shell, argument: str, sleep: Callable[[float], None] = time.sleep) -> None:
    """``\\watch``: run the last statements again and again, until Ctrl-C."""
    seconds = _WATCH_S
    if argument:
        try:
            seconds = float(argument)
        except ValueError:
            _refuse(f'"{argument}" is no number of seconds')
    if not 0.1 <= seconds <= 86_400:
        _refuse("\\watch takes a number of seconds between 0.1 and 86400")
    if not shell.last_text:
        _refuse("nothing ran yet that could run again")
    text, paging = shell.last_text, shell.paging
    shell.paging = False  # a pager would wait for keys
    try:
        while True:
            shell.say(f"every {duration(seconds)}, {time.strftime('%H:%M:%S')}; Ctrl-C ends")
            shell.run(text, "<watch>")
            sleep(seconds)
    except KeyboardInterrupt:
        shell.say("ended")
    finally:
        shell.paging = paging


# --------------------------------------------------------------------------- what there is


def describe(shell: Shell, argument: str) -> None:
    """``\\d``: the tables, or the columns of one."""
    from lql.ast import Table
    from lql.results import Column, Kind
    from lql.results.table import TableResult
    from lql.tables.schema import SCHEMAS

    names = {table.value: table for table in Table}
    if not argument:
        shape = (Column("table", Kind.TEXT), Column("columns", Kind.TEXT))
        rows = tuple(
            (name, ", ".join(each.name for each in SCHEMAS[table].fields))
            for name, table in names.items()
        )
        shell.showing().write(TableResult(shape=shape, values=rows))
        return
    table = names[one_of(argument.upper(), tuple(names), "table")]
    columns = tuple(Column(name, Kind.TEXT) for name in ("column", "kind", "unit"))
    values = tuple(
        (each.name, each.column.kind.value, each.column.unit.value or None)
        for each in SCHEMAS[table].fields
    )
    shell.showing().write(TableResult(shape=columns, values=values))


def info(shell: Shell, argument: str) -> None:
    """``\\info``: versions, devices, and what is open."""
    from lql.commands import info_result

    refuse_argument("\\info", argument)
    shell.showing().write(info_result())
    if shell.session is not None and shell.session.source is not None:
        shell.run("STATS;", "<info>")


# --------------------------------------------------------------------------- refusing


def one_of(argument: str, known: tuple[str, ...], what: str = "") -> str:
    """The word among ``known`` that an argument is, in any case.

    Raises:
        LqlUsageError: it is none, with the nearest.
    """
    for word in known:
        if argument.casefold() == word.casefold():
            return word
    kind = f"no {what}: one" if what else "not one"
    raise LqlUsageError(
        Diagnostic(
            Code.USAGE,
            f'"{argument}" is {kind} of {", ".join(known)}',
            suggestions=nearest(argument, known, limit=1),
        )
    )


def refuse_argument(name: str, argument: str) -> None:
    """Refuse what stands after a command that takes nothing.

    Raises:
        LqlUsageError: something does.
    """
    if argument:
        _refuse(f"{name} takes nothing after it")


def _unquoted(word: str) -> str:
    from lql.syntax_text import unquote

    quoted = len(word) >= 2 and word[0] == word[-1] and word[0] in "\"'"
    return unquote(word) if quoted else word


def _refuse(message: str, *helps: str) -> NoReturn:
    raise LqlUsageError(Diagnostic(Code.USAGE, message, helps=helps))
