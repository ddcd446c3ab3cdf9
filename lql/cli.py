"""The command: from words and streams to an exit code.

====  =================================================================
code  meaning
====  =================================================================
0     every statement succeeded
1     a statement failed: to parse, to resolve or to run
2     wrong usage: an option, a path, an unreadable script
3     a vindex cannot be opened or fails verification
4     a capability is missing: extract level, family, device, memory
70    a bug in lql; a report file was written
130   interrupted
141   whoever read the output stopped reading
====  =================================================================

Standard output carries results only. ``LQL_DEBUG=1`` shows the traceback of a bug.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lql.bug import report_bug
from lql.codes import EXIT_INTERRUPTED
from lql.errors import LqlError
from lql.report import ErrorStyle, Reporter
from lql.terminal import abandon_streams, prepare_streams

EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE, what a shell reports for a program killed by it

SUBCOMMANDS = ("extract", "run", "verify", "demo", "help")

_GC_THRESHOLD = 100_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        argv: the words after the program's name; those of this process by default.
    """
    # Start-up makes a hundred thousand objects and no garbage: looking for some costs 20 ms.
    gc.set_threshold(_GC_THRESHOLD)
    words = list(sys.argv[1:] if argv is None else argv)
    prepare_streams()
    try:
        code = _outcome(words, Reporter(sys.stdout, sys.stderr, style=_error_style(words)))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        abandon_streams()
        return EXIT_BROKEN_PIPE
    finally:
        # What is alive now dies with the process, so the interpreter need not search it; but DuckDB
        # counts its objects at the end and complains of those that were not freed.
        if "duckdb" not in sys.modules:
            gc.freeze()


def _outcome(words: Sequence[str], reporter: Reporter) -> int:
    """Run the command and report how it failed, if it did; return the exit code."""
    try:
        return _run(words, reporter)
    except LqlError as error:
        reporter.error(error.diagnostic)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except SystemExit as answered:  # --help, --version
        return int(answered.code or 0)
    except BrokenPipeError:
        raise
    except Exception as error:
        return report_bug(error, words, reporter, debug=debugging())


def _run(words: Sequence[str], reporter: Reporter) -> int:
    match words:
        case ["--version"]:  # answered before anything else is imported
            from lql.version import version_line

            print(version_line())
            return 0
        case [name, *rest] if name in SUBCOMMANDS:
            if Path(name).exists():
                reporter.note(f'"{name}" is the sub-command; the file of that name is ./{name}')
            return _subcommand(name)(rest, reporter)
        case _:
            from lql.query import run_query

            return run_query(words, reporter)


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
        case "help":
            from lql.commands import run_help as run
        case _:
            raise AssertionError(f"{name} is in SUBCOMMANDS")
    return run


def _error_style(words: Sequence[str]) -> ErrorStyle:
    """``--errors`` of a command line that may be wrong elsewhere; ``TEXT`` if it is not there."""
    for word, following in zip(words, [*words[1:], ""], strict=False):
        value = following if word == "--errors" else word.removeprefix("--errors=")
        if word.startswith("--errors") and value in {style.value for style in ErrorStyle}:
            return ErrorStyle(value)
    return ErrorStyle.TEXT


def debugging() -> bool:
    """Whether the user wants to see tracebacks."""
    return os.environ.get("LQL_DEBUG") == "1"
