"""What a bug in this program looks like to its user."""

from __future__ import annotations

from collections.abc import Sequence

from lql.codes import EXIT_BUG, Code
from lql.diagnostics import Diagnostic
from lql.report import Reporter


def report_bug(error: Exception, words: Sequence[str], reporter: Reporter, *, debug: bool) -> int:
    """Write a report file and say where it is; return the exit code.

    Args:
        error: what nobody expected.
        words: the command line.
        debug: show the traceback as well.
    """
    import platform
    import tempfile
    import traceback

    trace = "".join(traceback.format_exception(error))
    if debug:
        reporter.err.write(trace)
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
