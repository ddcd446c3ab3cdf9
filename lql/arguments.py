"""What may stand on the command line, as frozen values.

``argparse`` only splits words here; wrong words become ``LqlUsageError`` with suggestions. Nothing
looks at the file system or the environment: ``lql.cli`` does.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

from lql.batch import OnError
from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlUsageError
from lql.execute.names import nearest
from lql.render import Format
from lql.report import ErrorStyle
from vindex.kinds import ExtractLevel, Quant, StorageDtype

SUBCOMMANDS = ("extract", "run", "verify", "demo")

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
"""
_EXTRACT = """\
Write a vindex from a checkpoint: a directory of safetensors, a .safetensors or .gguf file, a hub
id such as org/name, or package:NAME/FILE.gguf inside an installed Python package.
"""
_RUN = """\
Generate text, greedily, token by token. Without a prompt, read one prompt a line until the input
ends. An instruct model is talked to inside its chat template unless --raw is given.
"""
_VERIFY = "Read every file of a vindex and compare it with what was sealed when it was written."
_DEMO = """\
Fetch SmolLM2-135M-Instruct from the package index (once), extract it to smollm2.vindex in this
directory, and run the tour of examples/demo.lql.
"""


class Color(Enum):
    """The values of ``--color``."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


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


@dataclass(frozen=True, slots=True)
class ExtractCommand:
    """``lql extract``."""

    common: Common
    model: str
    target: str
    level: ExtractLevel | None
    dtype: StorageDtype | None
    quant: Quant | None
    overwrite: bool


@dataclass(frozen=True, slots=True)
class RunCommand:
    """``lql run``; ``chat`` is ``None`` where neither ``--chat`` nor ``--raw`` was written."""

    common: Common
    vindex: str
    prompt: str | None
    max_tokens: int
    chat: bool | None


@dataclass(frozen=True, slots=True)
class VerifyCommand:
    """``lql verify``."""

    common: Common
    vindex: str


@dataclass(frozen=True, slots=True)
class DemoCommand:
    """``lql demo``."""

    common: Common


Command = Query | ExtractCommand | RunCommand | VerifyCommand | DemoCommand


def parse_arguments(argv: Sequence[str]) -> Command:
    """Read the words after the program's name.

    Raises:
        LqlUsageError: an unknown option or value, or a missing one.
        SystemExit: ``--help`` or ``--version`` was answered.
    """
    match argv:
        case ["extract", *rest]:
            return _extract(rest)
        case ["run", *rest]:
            return _run(rest)
        case ["verify", *rest]:
            return _verify(rest)
        case ["demo", *rest]:
            return DemoCommand(_common(_Parser("demo", _DEMO).words(rest)))
        case _:
            return _query(argv)


def error_style(argv: Sequence[str]) -> ErrorStyle:
    """``--errors`` of a command line that may be wrong elsewhere; ``TEXT`` if it is not there."""
    for word, following in zip(argv, [*argv[1:], ""], strict=False):
        value = following if word == "--errors" else word.removeprefix("--errors=")
        if word.startswith("--errors") and value in {style.value for style in ErrorStyle}:
            return ErrorStyle(value)
    return ErrorStyle.TEXT


# --------------------------------------------------------------------------- forms


def _query(argv: Sequence[str]) -> Query:
    parser = _Parser(None, _QUERY)
    option = parser.add_argument
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
    option("--check", action="store_true", help="parse everything, run nothing")
    option(
        "--on-error",
        type=_choice(OnError),
        default=OnError.STOP,
        metavar="stop|continue",
        help="after a statement that fails (default: stop); the exit code tells either way",
    )
    option("--timeout", type=_seconds, metavar="SECONDS", help="time allowed for each statement")
    option("--info", action="store_true", help="show versions and the device, then exit")
    option("--version", action=_ShowVersion, nargs=0, help="show the version, then exit")
    words = parser.words(argv)
    return Query(
        common=_common(words),
        paths=tuple(words.paths),
        sources=tuple(words.sources or ()),
        use=words.use,
        parameters=tuple(words.parameters),
        check=words.check,
        info=words.info,
        on_error=words.on_error,
        timeout_s=words.timeout,
    )


def _extract(argv: Sequence[str]) -> ExtractCommand:
    parser = _Parser("extract", _EXTRACT)
    option = parser.add_argument
    option("model", metavar="MODEL", help="the checkpoint")
    option("-o", dest="target", metavar="OUT", required=True, help="the vindex to write")
    option(
        "--level",
        type=_choice(ExtractLevel),
        metavar="LEVEL",
        help="browse, attention, inference (default) or all",
    )
    option("--dtype", type=_choice(StorageDtype), metavar="DTYPE", help="f16 (default), bf16, f32")
    option("--quant", type=_choice(Quant), metavar="QUANT", help="none (default) or q4k")
    option("--overwrite", action="store_true", help="replace OUT if it exists")
    words = parser.words(argv)
    return ExtractCommand(
        common=_common(words),
        model=words.model,
        target=words.target,
        level=words.level,
        dtype=words.dtype,
        quant=words.quant,
        overwrite=words.overwrite,
    )


def _run(argv: Sequence[str]) -> RunCommand:
    parser = _Parser("run", _RUN)
    option = parser.add_argument
    option("vindex", metavar="VINDEX", help="a vindex, or a checkpoint to run without extraction")
    option("prompt", metavar="PROMPT", nargs="?", help="what to continue or answer")
    option("--max-tokens", type=_count, default=256, metavar="N", help="stop after N tokens (256)")
    option("--chat", action="store_true", default=None, help="inside the model's chat template")
    option("--raw", dest="chat", action="store_false", help="the prompt as typed")
    words = parser.words(argv)
    return RunCommand(_common(words), words.vindex, words.prompt, words.max_tokens, words.chat)


def _verify(argv: Sequence[str]) -> VerifyCommand:
    parser = _Parser("verify", _VERIFY)
    parser.add_argument("vindex", metavar="VINDEX", help="the directory to check")
    words = parser.words(argv)
    return VerifyCommand(_common(words), words.vindex)


def _common(words: argparse.Namespace) -> Common:
    return Common(
        format=words.format,
        errors=words.errors,
        color=words.color,
        quiet=words.quiet,
        timing=words.timing,
        output=getattr(words, "output", None),
    )


# --------------------------------------------------------------------------- argparse


class _Parser(argparse.ArgumentParser):
    """A parser with the common options, whose errors are ``LqlUsageError``."""

    def __init__(self, command: str | None, description: str) -> None:
        super().__init__(
            prog="lql" if command is None else f"lql {command}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )
        self._spellings: list[str] = []
        option = self.add_argument
        option("-h", "--help", action="help", help="show this help, then exit")
        formats = ", ".join(each.value for each in Format)
        option(
            "--format",
            type=_choice(Format),
            default=Format.TABLE,
            metavar="FORMAT",
            help=f"{formats} (default: table)",
        )
        if command != "extract":
            option("-o", "--output", metavar="FILE", type=Path, help="write results to FILE")
        option(
            "--errors",
            type=_choice(ErrorStyle),
            default=ErrorStyle.TEXT,
            metavar="text|short|json",
            help="how errors are written to standard error (default: text)",
        )
        option(
            "--color",
            type=_choice(Color),
            default=Color.AUTO,
            metavar="auto|always|never",
            help="auto (default) means on a terminal, unless NO_COLOR is set",
        )
        option("-q", "--quiet", action="store_true", help="nothing but errors on standard error")
        option("--timing", action="store_true", help="say how long each statement took")

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """Declare an argument, remembering its spellings for suggestions."""
        action = super().add_argument(*names, **settings)
        self._spellings += action.option_strings
        return action

    def words(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse ``argv``; options and positional words may stand in any order."""
        words, unknown = self.parse_known_intermixed_args(argv)
        if unknown:
            spelling = unknown[0].partition("=")[0]
            raise _usage(
                f"unknown option {spelling}"
                if spelling[:1] == "-"
                else f"too many words: {spelling}",
                *(f"did you mean {name}?" for name in nearest(spelling, self._spellings, limit=1)),
                f"{self.prog} --help lists the options",
            )
        return words

    def error(self, message: str) -> NoReturn:
        """Report what argparse found wrong."""
        raise _usage(message, f"{self.prog} --help shows how the command is used")


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
        from importlib.metadata import version

        print(f"lql {version('lql')}")
        parser.exit()


def _usage(message: str, *helps: str) -> LqlUsageError:
    return LqlUsageError(Diagnostic(Code.USAGE, message, helps=helps))


# --------------------------------------------------------------------------- words to values


def _choice(kind: type[Enum]) -> Callable[[str], Enum]:
    """A reader of one value of an enum."""

    def read(word: str) -> Enum:
        known = [member.value for member in kind]
        if word in known:
            return kind(word)
        close = nearest(word, known, limit=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise argparse.ArgumentTypeError(f'"{word}" is not one of {", ".join(known)}{hint}')

    return read


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


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f'"{word}" is not a whole number of at least 1')
    return int(word)
