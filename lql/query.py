"""``lql`` without a sub-command: run scripts and statements, or start the shell."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from lql import batch
from lql.arguments import Query, SourceKind, TextSource, configure, parse_query, usage
from lql.batch import BatchOptions, Input
from lql.bug import report_bug
from lql.cli import SUBCOMMANDS, debugging
from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlUsageError
from lql.names import nearest
from lql.render import Format
from lql.report import Reporter

if TYPE_CHECKING:
    from lql.terminal import Terminal


def run_query(words: Sequence[str], reporter: Reporter) -> int:
    """Run what the words ask for: scripts, statements, the shell; return the exit code.

    Raises:
        LqlUsageError: the words are wrong, or name what is not there.
    """
    command = parse_query(words)
    if command.info:
        from lql.commands import run_info

        return run_info(command.common, reporter)
    terminal = configure(command.common, reporter)
    vindex, scripts = _sorted_paths(command.paths)
    if vindex is not None and command.use is not None:
        raise usage("a vindex is named twice", f'leave out "{vindex}" or -u "{command.use}"')
    if scripts and command.sources:
        raise usage("scripts stand beside -e or -f", "name each script with -f, in order")
    sources = [TextSource(SourceKind.FILE, script) for script in scripts] or command.sources
    parameters = _parameters(command.parameters)
    use = vindex or command.use
    if command.config is not None and use is None:
        raise usage("--config completes a vindex", "name the vindex as well, e.g. with -u")
    if not sources and not command.check and sys.stdin.isatty():
        return _interactive(command, use, parameters, terminal, reporter)
    inputs = _texts(sources or [TextSource(SourceKind.FILE, "-")])
    options = BatchOptions(
        parameters=parameters,
        use=use,
        config=command.config,
        device=command.device,
        check=command.check,
        format=command.common.format,
        render=terminal.render,
        output=command.common.output,
        on_error=command.on_error,
        timeout_s=command.timeout_s,
        junit=command.junit,
    )
    return batch.run(inputs, options, reporter, terminal.progress())


def _interactive(
    command: Query,
    use: str | None,
    parameters: Mapping[str, str],
    terminal: Terminal,
    reporter: Reporter,
) -> int:
    from lql.repl.app import ReplOptions, run_repl

    if command.common.output is not None:
        raise usage("-o writes the results of a script", "name one, or use -e or -f")
    if command.junit is not None:
        raise usage("--junit reports on a script", "name one, or use -e or -f")
    if command.common.format is Format.PARQUET:
        raise usage("Parquet is no text for a screen", "-o FILE writes the results of a script")
    options = ReplOptions(
        use=use,
        config=command.config,
        device=command.device,
        format=command.common.format,
        render=terminal.render,
        parameters=parameters,
        timeout_s=command.timeout_s,
    )
    return run_repl(
        options,
        reporter,
        terminal.progress(),
        on_bug=lambda error: report_bug(error, sys.argv[1:], reporter, debug=debugging()),
    )


def _parameters(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in pairs:
        if name in values:
            raise usage(f"--param {name} is given twice")
        values[name] = value
    return values


def _sorted_paths(paths: Sequence[str]) -> tuple[str | None, list[str]]:
    """Tell the positional words apart by what is on disk: one vindex, any scripts."""
    vindexes: list[str] = []
    scripts: list[str] = []
    for word in paths:
        path = Path(word)
        if word == "-" or path.is_file() or path.is_fifo() or path.is_char_device():
            scripts.append(word)
        elif (path / "index.json").is_file():
            vindexes.append(word)
        elif path.is_dir():
            raise usage(
                f"{word} is a directory without index.json, so it is no vindex",
                f"lql extract {word} -o OUT writes one, if it is a checkpoint",
            )
        else:
            raise _missing(word)
    if len(vindexes) > 1:
        raise usage(f"{vindexes[0]} and {vindexes[1]}: only one vindex can be open")
    return (vindexes[0] if vindexes else None), scripts


def _missing(word: str) -> LqlUsageError:
    """Nothing by that name: what it may have meant."""
    path = Path(word)
    try:
        there = [
            str(path.parent / entry.name)
            for entry in path.parent.iterdir()
            if entry.suffix == ".lql" or (entry / "index.json").is_file()
        ]
    except OSError:
        there = []
    close = nearest(word, [*SUBCOMMANDS, *there])
    diagnostic = Diagnostic(
        Code.USAGE,
        f'there is no script, vindex or sub-command "{word}"',
        suggestions=close,
        helps=(f"to run it as a statement: lql -e '{word}'",) if " " in word else (),
        notes=(f"sub-commands are {', '.join(SUBCOMMANDS)}",),
    )
    return LqlUsageError(diagnostic)


def _texts(sources: Sequence[TextSource]) -> list[Input]:
    several = sum(source.kind is SourceKind.STATEMENT for source in sources) > 1
    inputs: list[Input] = []
    for number, source in enumerate(sources, start=1):
        match source.kind:
            case SourceKind.STATEMENT:
                name = f"<-e {number}>" if several else "<-e>"
                inputs.append(Input(name, source.value))
            case SourceKind.FILE if source.value == "-":
                inputs.append(Input("<stdin>", _decoded(sys.stdin.buffer.read(), "<stdin>")))
            case SourceKind.FILE:
                inputs.append(Input(source.value, _decoded(_read(source.value), source.value)))
            case _:
                assert_never(source.kind)
    return inputs


def _read(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise usage(f"cannot read {name}: {reason}") from error


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise usage(f"{name} is not UTF-8: byte {error.start} cannot be read") from error
