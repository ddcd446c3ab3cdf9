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

import io
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from lql import arguments
from lql.arguments import Color, Common, SourceKind, TextSource
from lql.batch import BatchOptions, Input
from lql.codes import EXIT_BUG, EXIT_INTERRUPTED, Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlError, LqlUsageError
from lql.execute.names import nearest
from lql.render import RenderOptions
from lql.report import Reporter

if TYPE_CHECKING:
    from lql.render.progress import ProgressBar

EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE, what a shell reports for a program killed by it


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        argv: the words after the program's name; those of this process by default.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    _prepare_streams()
    reporter = Reporter(sys.stdout, sys.stderr, style=arguments.error_style(words))
    try:
        code = _run(arguments.parse_arguments(words), reporter)
        sys.stdout.flush()
        return code
    except LqlError as error:
        reporter.error(error.diagnostic)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return EXIT_BROKEN_PIPE
    except Exception as error:
        return _report_bug(error, words, reporter)


def _run(command: arguments.Command, reporter: Reporter) -> int:
    terminal = Terminal.of(command.common.color, os.environ)
    reporter.style = command.common.errors
    reporter.quiet = command.common.quiet
    reporter.status = terminal.err
    reporter.timing = command.common.timing or (terminal.err and not command.common.quiet)
    match command:
        case arguments.Query(info=True):
            from lql.commands import run_info

            return run_info(_batch_options(command.common, terminal), reporter)
        case arguments.Query():
            return _query(command, terminal, reporter)
        case arguments.ExtractCommand():
            from lql.commands import run_extract

            _warn_of_shadowed_file("extract", reporter)
            options = _batch_options(command.common, terminal)
            return run_extract(command, options, reporter, terminal.progress())
        case arguments.VerifyCommand():
            from lql.commands import run_verify

            _warn_of_shadowed_file("verify", reporter)
            options = _batch_options(command.common, terminal)
            return run_verify(command, options, reporter, terminal.progress())
        case arguments.RunCommand():
            from lql.rundown import run_generation

            _warn_of_shadowed_file("run", reporter)
            return run_generation(command, reporter)
        case arguments.DemoCommand():
            from lql.demo import run_demo

            _warn_of_shadowed_file("demo", reporter)
            options = _batch_options(command.common, terminal)
            return run_demo(_cache_directory(os.environ), options, reporter, terminal.progress())
        case _:
            assert_never(command)


# --------------------------------------------------------------------------- queries


def _query(command: arguments.Query, terminal: Terminal, reporter: Reporter) -> int:
    from lql import batch

    vindex, scripts = _sorted_paths(command.paths)
    if vindex is not None and command.use is not None:
        raise _usage("a vindex is named twice", f'leave out "{vindex}" or -u "{command.use}"')
    if scripts and command.sources:
        raise _usage("scripts stand beside -e or -f", "name each script with -f, in order")
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
    command: arguments.Query,
    use: str | None,
    parameters: Mapping[str, str],
    terminal: Terminal,
    reporter: Reporter,
) -> int:
    from lql.repl.app import ReplOptions, run_repl

    if command.common.output is not None:
        raise _usage("-o writes the results of a script", "name one, or use -e or -f")
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
            raise _usage(f"--param {name} is given twice")
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
            raise _usage(
                f"{word} is a directory without index.json, so it is no vindex",
                f"lql extract {word} -o OUT writes one, if it is a checkpoint",
            )
        else:
            raise _missing(word)
    if len(vindexes) > 1:
        raise _usage(f"{vindexes[0]} and {vindexes[1]}: only one vindex can be open")
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
    close = nearest(word, [*arguments.SUBCOMMANDS, *there])
    diagnostic = Diagnostic(
        Code.USAGE,
        f'there is no script, vindex or sub-command "{word}"',
        suggestions=close,
        helps=(f"to run it as a statement: lql -e '{word}'",) if " " in word else (),
        notes=(f"sub-commands are {', '.join(arguments.SUBCOMMANDS)}",),
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
        raise _usage(f"cannot read {name}: {reason}") from error


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _usage(f"{name} is not UTF-8: byte {error.start} cannot be read") from error


# --------------------------------------------------------------------------- terminal


@dataclass(frozen=True, slots=True)
class Terminal:
    """What the streams of this process are connected to.

    Attributes:
        out, err: whether standard output and standard error are terminals.
        render: what tables may do.
        color_err: whether standard error may carry colour.
    """

    out: bool
    err: bool
    render: RenderOptions
    color_err: bool

    @classmethod
    def of(cls, color: Color, environment: Mapping[str, str]) -> Terminal:
        """Look at the streams and the environment."""
        out, err = sys.stdout.isatty(), sys.stderr.isatty()
        width = os.get_terminal_size(sys.stdout.fileno()).columns if out else None
        return cls(
            out=out,
            err=err,
            render=RenderOptions(width=width or None, color=_colored(color, out, environment)),
            color_err=_colored(color, err, environment),
        )

    def progress(self) -> ProgressBar | None:
        """A progress bar, if there is a terminal to draw it on."""
        if not self.err:
            return None
        from lql.render.progress import ProgressBar

        return ProgressBar(sys.stderr, color=self.color_err)


def _colored(color: Color, terminal: bool, environment: Mapping[str, str]) -> bool:
    match color:
        case Color.ALWAYS:
            return True
        case Color.NEVER:
            return False
        case Color.AUTO:
            if environment.get("NO_COLOR"):
                return False
            if environment.get("FORCE_COLOR"):
                return True
            return terminal and environment.get("TERM") != "dumb"
        case _:
            assert_never(color)


def _cache_directory(environment: Mapping[str, str]) -> Path:
    """Where fetched models stay: ``$XDG_CACHE_HOME/lql`` or ``~/.cache/lql``."""
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lql"


def _batch_options(common: Common, terminal: Terminal) -> BatchOptions:
    return BatchOptions(format=common.format, render=terminal.render, output=common.output)


def _prepare_streams() -> None:
    """UTF-8 and bare newlines in files and pipes, whatever the locale; no crash on a terminal."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            if stream.isatty():
                stream.reconfigure(errors="backslashreplace")
            else:
                stream.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")


def _silence_stdout() -> None:
    """Keep the interpreter from writing what is buffered to a pipe that nobody reads."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(null, stream.fileno())
    os.close(null)


# --------------------------------------------------------------------------- failures


def _usage(message: str, *helps: str) -> LqlUsageError:
    return LqlUsageError(Diagnostic(Code.USAGE, message, helps=helps))


def _warn_of_shadowed_file(command: str, reporter: Reporter) -> None:
    if Path(command).exists():
        reporter.note(f'"{command}" is the sub-command; the file of that name is ./{command}')


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
