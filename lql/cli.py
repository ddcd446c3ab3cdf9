"""The command: from words and streams to an exit code.

====  =================================================================
code  meaning
====  =================================================================
0     every statement succeeded
1     a statement failed: to parse, to resolve or to run
2     wrong usage: an option, a path, an unreadable script
3     a vindex cannot be opened or fails verification
4     a capability is missing: extract level, family, memory
70    a bug in lql; a report file was written
130   interrupted
141   whoever read the output stopped reading
====  =================================================================

Standard output carries results only. Of the environment, ``NO_COLOR``, ``FORCE_COLOR``, ``TERM``
and ``LQL_DEBUG`` (show the traceback of a bug) are read here and nowhere else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from lql import arguments, batch
from lql.arguments import Query, SourceKind, TextSource, configure, usage
from lql.batch import BatchOptions, Input
from lql.codes import EXIT_BUG, EXIT_INTERRUPTED, Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlError, LqlUsageError
from lql.names import nearest
from lql.report import Reporter
from lql.terminal import abandon_streams, prepare_streams

if TYPE_CHECKING:
    from lql.terminal import Terminal

EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE, what a shell reports for a program killed by it

SUBCOMMANDS = ("extract", "run", "verify", "demo")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        argv: the words after the program's name; those of this process by default.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    prepare_streams()
    reporter = Reporter(sys.stdout, sys.stderr, style=arguments.error_style(words))
    try:
        code = _run(words, reporter)
        sys.stdout.flush()
        return code
    except LqlError as error:
        reporter.error(error.diagnostic)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        abandon_streams()
        return EXIT_BROKEN_PIPE
    except Exception as error:
        return _report_bug(error, words, reporter)


def _run(words: Sequence[str], reporter: Reporter) -> int:
    match words:
        case [name, *rest] if name in SUBCOMMANDS:
            if Path(name).exists():
                reporter.note(f'"{name}" is the sub-command; the file of that name is ./{name}')
            return _subcommand(name)(rest, reporter)
        case _:
            query = arguments.parse_query(words)
            if query.info:
                from lql.commands import run_info

                return run_info(query.common, reporter)
            return _query(query, reporter)


def _subcommand(name: str) -> Callable[[Sequence[str], Reporter], int]:
    match name:
        case "extract":
            from lql.commands import run_extract as run
        case "verify":
            from lql.commands import run_verify as run
        case "run":
            from lql.rundown import run_generation as run
        case "demo":
            from lql.demo import run_demo as run
        case _:
            raise AssertionError(f"{name} is in SUBCOMMANDS")
    return run


# --------------------------------------------------------------------------- queries


def _query(command: Query, reporter: Reporter) -> int:
    terminal = configure(command.common, reporter)
    vindex, scripts = _sorted_paths(command.paths)
    if vindex is not None and command.use is not None:
        raise usage("a vindex is named twice", f'leave out "{vindex}" or -u "{command.use}"')
    if scripts and command.sources:
        raise usage("scripts stand beside -e or -f", "name each script with -f, in order")
    sources = [TextSource(SourceKind.FILE, script) for script in scripts] or command.sources
    parameters = _parameters(command.parameters)
    use = vindex or command.use
    if not sources and not command.check and sys.stdin.isatty():
        return _interactive(command, use, parameters, terminal, reporter)
    inputs = _texts(sources or [TextSource(SourceKind.FILE, "-")])
    options = BatchOptions(
        parameters=parameters,
        use=use,
        check=command.check,
        format=command.common.format,
        render=terminal.render,
        output=command.common.output,
        on_error=command.on_error,
        timeout_s=command.timeout_s,
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
    options = ReplOptions(
        use=use,
        format=command.common.format,
        render=terminal.render,
        parameters=parameters,
        timeout_s=command.timeout_s,
    )
    return run_repl(
        options,
        reporter,
        terminal.progress(),
        on_bug=lambda error: _report_bug(error, sys.argv[1:], reporter),
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


# --------------------------------------------------------------------------- failures


def _report_bug(error: Exception, words: Sequence[str], reporter: Reporter) -> int:
    """Write a report file and say where it is."""
    import platform
    import tempfile
    import traceback

    trace = "".join(traceback.format_exception(error))
    if os.environ.get("LQL_DEBUG") == "1":
        sys.stderr.write(trace)
    facts = f"python {platform.python_version()} on {platform.platform()}\nargv {words!r}\n\n"
    helps = ["LQL_DEBUG=1 shows the traceback", "please report it with the statement that fails"]
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="lql-bug-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(facts + trace)
        helps.insert(0, f"the report is in {file.name}")
    except OSError:
        pass
    message = f"this is a bug in lql: {type(error).__name__}: {error}"
    reporter.error(Diagnostic(Code.INTERNAL, message, helps=tuple(helps)))
    return EXIT_BUG
