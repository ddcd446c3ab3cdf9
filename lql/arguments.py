"""What may stand on the command line, as frozen values.

``argparse`` only splits words here; wrong words become ``LqlUsageError`` with suggestions.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

from lql.batch import OnError
from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlUsageError
from lql.names import nearest
from lql.render import Format
from lql.report import ErrorStyle, Reporter
from lql.syntax_words import Device
from lql.terminal import Color, Terminal

_QUERY = """\
A query language over the weights of language models.

  lql                          an interactive session
  lql PATH.vindex              the same, with a vindex open
  lql FILE.lql ...             run scripts
  lql -u PATH.vindex -e TEXT   run statements; -e and -f repeat and run in order
  ... | lql                    run standard input

  lql extract MODEL -o OUT     write a vindex from a checkpoint
  lql run VINDEX [PROMPT]      generate text
  lql verify VINDEX            check every file of a vindex
  lql demo                     fetch a small model and take the tour
  lql help [STATEMENT]         explain the language, or one statement of it
"""


class SourceKind(Enum):
    """Where a text of the command line comes from."""

    STATEMENT = "-e"
    FILE = "-f"


@dataclass(frozen=True, slots=True)
class TextSource:
    """One ``-e TEXT`` or ``-f FILE``."""

    kind: SourceKind
    value: str


@dataclass(frozen=True, slots=True)
class Common:
    """Options that every form of the command takes."""

    format: Format
    errors: ErrorStyle
    color: Color
    quiet: bool
    timing: bool
    output: Path | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """``lql`` without a sub-command.

    Attributes:
        paths: positional words, not yet told apart into scripts and a vindex.
        device: where models run.
        config: completes the vindex that is opened.
        sources: ``-e`` and ``-f`` in the order they were written.
    """

    common: Common
    paths: tuple[str, ...]
    sources: tuple[TextSource, ...]
    use: str | None
    parameters: tuple[tuple[str, str], ...]
    check: bool
    info: bool
    on_error: OnError
    timeout_s: float | None
    device: Device = Device.CPU
    config: str | None = None
    junit: Path | None = None


def parse_query(argv: Sequence[str]) -> Query:
    """Read the words of a command without a sub-command.

    Raises:
        LqlUsageError: an unknown option or value, or a missing one.
        SystemExit: ``--help`` or ``--version`` was answered.
    """
    parser = Parser(None, "[options] [PATH ...]", _QUERY)
    option = parser.section("what to run")
    option("paths", nargs="*", metavar="PATH", help="a vindex to open, or scripts to run")
    option("-e", dest="sources", metavar="TEXT", action=_AddSource, help="run these statements")
    option("-f", dest="sources", metavar="FILE", action=_AddSource, help="run a script; - is stdin")
    option("-u", "--use", metavar="VINDEX", help="open this vindex first")
    option(
        "--param",
        dest="parameters",
        metavar="NAME=VALUE",
        action="append",
        type=_parameter,
        default=[],
        help="value of :NAME in the statements",
    )
    option(
        "--check",
        action="store_true",
        help="parse everything and look up every name, run nothing; with -u against that vindex",
    )
    option("--junit", type=Path, metavar="FILE", help="write what became of every statement as XML")
    option(
        "--on-error",
        type=choice(OnError),
        default=OnError.STOP,
        metavar="WHAT",
        help="stop (default) or continue after a statement that fails; the exit code says so",
    )
    option("--timeout", type=_seconds, metavar="SECONDS", help="time allowed for each statement")
    model_options(parser)
    option = parser.section("about this program")
    option("--info", action="store_true", help="show versions and the device, then exit")
    option("--version", action=_ShowVersion, nargs=0, help="show the version, then exit")
    words = parser.words(argv)
    return Query(
        common=common_of(words),
        paths=tuple(words.paths),
        sources=tuple(words.sources or ()),
        use=words.use,
        parameters=tuple(words.parameters),
        check=words.check,
        info=words.info,
        on_error=words.on_error,
        timeout_s=words.timeout,
        device=words.device,
        config=words.config,
        junit=words.junit,
    )


def common_of(words: argparse.Namespace) -> Common:
    """The common options among parsed words."""
    return Common(
        format=getattr(words, "format", Format.TABLE),
        errors=words.errors,
        color=words.color,
        quiet=words.quiet,
        timing=words.timing,
        output=getattr(words, "output", None),
    )


def configure(common: Common, reporter: Reporter) -> Terminal:
    """Make the reporter speak as the options say; return what the streams are."""
    terminal = Terminal.of(common.color, os.environ)
    reporter.style = common.errors
    reporter.quiet = common.quiet
    reporter.status = terminal.err
    reporter.timing = common.timing or (terminal.err and not common.quiet)
    return terminal


# --------------------------------------------------------------------------- argparse


class Parser(argparse.ArgumentParser):
    """A parser with the common options, whose errors are ``LqlUsageError``.

    Args:
        command: the sub-command, or ``None``.
        usage: what follows the command's name.
        description: shown by ``--help``.
        formats: whether it prints results, so that ``--format`` means something.
        output: whether ``-o FILE`` means a file for results.
    """

    def __init__(
        self,
        command: str | None,
        usage: str,
        description: str,
        *,
        formats: bool = True,
        output: bool = True,
    ) -> None:
        name = "lql" if command is None else f"lql {command}"
        super().__init__(
            prog=name,
            usage=f"{name} {usage}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )
        self._formats = formats
        self._output = output
        self._spellings: list[str] = []

    def section(self, title: str) -> Callable[..., argparse.Action]:
        """Begin a section of the help; returns ``add_argument`` for it."""
        group = self.add_argument_group(title)

        def option(*names: Any, **settings: Any) -> argparse.Action:
            action = group.add_argument(*names, **settings)
            self._spellings += action.option_strings  # for suggestions
            return action

        return option

    def _add_common(self) -> None:
        option = self.section("output")
        if self._formats:
            known = ", ".join(each.value for each in Format)
            option(
                "--format",
                type=choice(Format),
                default=Format.TABLE,
                metavar="FORMAT",
                help=f"{known} (default: table)",
            )
        if self._output:
            option("-o", "--output", metavar="FILE", type=Path, help="write results to FILE")
        option(
            "--errors",
            type=choice(ErrorStyle),
            default=ErrorStyle.TEXT,
            metavar="STYLE",
            help="text, short or json: how errors are written to standard error",
        )
        option(
            "--color",
            type=choice(Color),
            default=Color.AUTO,
            metavar="WHEN",
            help="auto, always or never; auto: on a terminal, unless NO_COLOR is set",
        )
        option("-q", "--quiet", action="store_true", help="nothing but errors on standard error")
        option("--timing", action="store_true", help="say how long each statement took")
        option("-h", "--help", action="help", help="show this help, then exit")

    def words(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse ``argv``; options and positional words may stand in any order."""
        self._add_common()
        words, unknown = self.parse_known_intermixed_args(argv)
        if unknown:
            spelling = unknown[0].partition("=")[0]
            raise usage(
                f"unknown option {spelling}"
                if spelling[:1] == "-"
                else f"too many words: {spelling}",
                *(f"did you mean {name}?" for name in nearest(spelling, self._spellings, limit=1)),
                f"{self.prog} --help lists the options",
            )
        return words

    def error(self, message: str) -> NoReturn:
        """Report what argparse found wrong."""
        raise usage(message, f"{self.prog} --help shows how the command is used")


class _AddSource(argparse.Action):
    """Collects ``-e`` and ``-f`` into one list, in order."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        so_far = getattr(namespace, self.dest) or []
        setattr(namespace, self.dest, [*so_far, TextSource(SourceKind(option_string), values)])


class _ShowVersion(argparse.Action):
    """Prints the version and exits."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        from lql.version import version_line

        print(version_line())
        parser.exit()


def model_options(parser: Parser) -> None:
    """Add a section about the model that is opened to a parser."""
    option = parser.section("the model")
    option(
        "--device",
        type=choice(Device),
        default=Device.CPU,
        metavar="DEVICE",
        help="cpu (default), cuda, or auto: a GPU if there is one with room for the model",
    )
    option(
        "--config",
        metavar="CHECKPOINT",
        help="complete the vindex from the checkpoint it was made from, or from its config.json:"
        " larql loses rope scaling and biases",
    )


def usage(message: str, *helps: str) -> LqlUsageError:
    """The error of a command line that is wrong."""
    return LqlUsageError(Diagnostic(Code.USAGE, message, helps=helps))


# --------------------------------------------------------------------------- words to values


def choice(kind: type[Enum]) -> Callable[[str], Enum]:
    """A reader of one value of an enum, for ``type=``."""

    def read(word: str) -> Enum:
        known = [member.value for member in kind]
        if word in known:
            return kind(word)
        close = nearest(word, known, limit=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise argparse.ArgumentTypeError(f'"{word}" is not one of {", ".join(known)}{hint}')

    return read


def count(word: str) -> int:
    """A reader of a whole number of at least 1, for ``type=``."""
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f'"{word}" is not a whole number of at least 1')
    return int(word)


def _parameter(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f'"{word}" is not NAME=VALUE')
    return name, value


def _seconds(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f'"{word}" is not a positive number of seconds')
    return value
