"""Completion, in two steps: which kinds of things can stand at the cursor, and their names.

``wanted`` is a pure function from the text before the cursor to kinds; ``names`` turns kinds into
words. A new kind of value needs a class here and a case in ``names``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, assert_never

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from lql.diagnostics import visible
from lql.parser import Expectation, expectation, keywords, tokens
from lql.repl.buffer import CommandLine, Statements, is_blank, split
from lql.repl.commands import COMMANDS, Argument, find, values
from lql.repl.help_topics import Topic
from lql.repl.known import NOTHING_KNOWN, Known
from lql.repl.paths import PathKind, entries
from lql.syntax_text import quote, unquote
from lql.syntax_words import Slot

MAX_LENGTH = 8_000
"""Longer texts are not completed, so that typing in them stays quick."""

MAX_NAMES = 50


@dataclass(frozen=True, slots=True)
class CommandNames:
    """Names of the shell's commands; without a backslash only the bare words."""

    backslash: bool


@dataclass(frozen=True, slots=True)
class CommandArgument:
    """What may follow a command."""

    argument: Argument


@dataclass(frozen=True, slots=True)
class Keywords:
    """Keywords of the language, as they are spelt."""

    spellings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PathIn:
    """A path in a string literal.

    Attributes:
        kind: what the path is of.
        quote: the quote that stands before it already, or ``""``.
    """

    kind: PathKind
    quote: str


@dataclass(frozen=True, slots=True)
class NameOf:
    """A name that the open vindex knows.

    Attributes:
        slot: what it is of.
        quote: the quote that stands before it already, or ``""``.
        bare: it stands without quotes: a column or a number.
    """

    slot: Slot
    quote: str
    bare: bool = False


Want: TypeAlias = CommandNames | CommandArgument | Keywords | PathIn | NameOf


@dataclass(frozen=True, slots=True)
class Request:
    """What completion is asked for.

    Attributes:
        typed: what stands before the cursor of the word that is completed.
        wants: kinds of things that could stand there, best first.
    """

    typed: str
    wants: tuple[Want, ...]


NOTHING = Request("", ())

_PATHS = {
    Slot.VINDEX_PATH: PathKind.VINDEX,
    Slot.MODEL: PathKind.MODEL,
    Slot.PATCH_PATH: PathKind.PATCH,
    Slot.OUTPUT_PATH: PathKind.ANY,
    Slot.FACTS_PATH: PathKind.ANY,
    Slot.TRACE_PATH: PathKind.ANY,
}
_NAMES = (Slot.ENTITY, Slot.RELATION, Slot.TARGET, Slot.KIND)
_BARE_NAMES = {Slot.LAYER: "INTEGER", Slot.FIELD: "NAME"}


def wanted(before: str) -> Request:
    """Say what could stand at the end of a text.

    Args:
        before: everything before the cursor.
    """
    if len(before) > MAX_LENGTH:
        return NOTHING
    line_start = before.rfind("\n") + 1
    unread = 0
    match split(before)[-1:]:
        case [CommandLine(span=span)] if span.start == line_start:
            return _in_command(before[line_start:])
        case [CommandLine(span=span)]:
            unread = span.end + 1
        case [Statements(start=start)]:
            unread = start
    text = _open_statement(before[unread:])
    return _in_statement(text, begins_line=len(before) - len(text) <= line_start)


def _in_command(line: str) -> Request:
    word, space, argument = line.lstrip().partition(" ")
    if not space:
        return Request(word, (CommandNames(backslash=word.startswith("\\")), *_bare_keywords(word)))
    command = find(word)
    if command is None or command.argument is Argument.NONE:
        return NOTHING
    return Request(argument.lstrip(), (CommandArgument(command.argument),))


def _in_statement(text: str, *, begins_line: bool) -> Request:
    """Look at the end of an unfinished statement; a command can stand where it begins a line."""
    here = expectation(text)
    typed = text[here.start :]
    wants: list[Want] = []
    if not typed.startswith(('"', "'")):
        wants += _keywords(here)
        if wants and begins_line and is_blank(text[: here.start]):
            wants.append(CommandNames(backslash=False))
    kind = None if here.slot is None else _PATHS.get(here.slot)
    if kind is not None and "STRING" in here.legal:
        if typed[:1] in ('"', "'"):
            return Request(typed[1:], (PathIn(kind, typed[0]),))
        if not typed:
            wants.append(PathIn(kind, ""))
    if here.slot in _NAMES and "STRING" in here.legal:
        if typed[:1] in ('"', "'"):
            return Request(typed[1:], (NameOf(here.slot, typed[0]),))
        if not typed:
            wants.append(NameOf(here.slot, ""))
    if here.slot in _BARE_NAMES and _BARE_NAMES[here.slot] in here.legal:
        wants.insert(0, NameOf(here.slot, "", bare=True))
    return Request(typed, tuple(wants))


def _bare_keywords(word: str) -> list[Want]:
    return [] if word.startswith("\\") else _keywords(expectation(word))


def _keywords(here: Expectation) -> list[Want]:
    spelt = tuple(word for name, word in keywords().items() if name in here.legal)
    return [Keywords(spelt)] if spelt else []


def _open_statement(text: str) -> str:
    """What stands after the last ``;``: all that matters at the cursor."""
    if ";" not in text:
        return text
    ends = [token.span.end for token in tokens(text) if token.text == ";"]
    return text[ends[-1] :] if ends else text


# --------------------------------------------------------------------------- names


@dataclass(frozen=True, slots=True)
class Name:
    """One thing to offer.

    Attributes:
        text: replaces the last ``replaces`` characters before the cursor.
        shown: what the menu says.
        meta: a word about it.
    """

    text: str
    replaces: int
    shown: str
    meta: str = ""


def names(
    request: Request,
    directory: Path,
    topics: Callable[[], Sequence[Topic]],
    known: Known = NOTHING_KNOWN,
) -> list[Name]:
    """The things to offer, best first, at most ``MAX_NAMES``.

    Args:
        directory: relative paths are looked up in it.
        topics: the statements that help knows.
        known: the names of the open vindex.
    """
    found: list[Name] = []
    for want in request.wants:
        match want:
            case CommandNames(backslash=backslash):
                found += _words(request.typed, _command_names(backslash))
            case CommandArgument(argument=Argument.TOPIC):
                statements = [(topic.name, topic.meaning) for topic in topics()]
                found += _words(request.typed, [*statements, *_command_names(backslash=True)])
            case CommandArgument(argument=Argument.FILE):
                found += _files(request.typed, directory)
            case CommandArgument(argument=argument):
                found += _words(request.typed, [(word, "") for word in values(argument)])
            case Keywords(spellings=spellings):
                found += _words(request.typed, [(word, "") for word in sorted(spellings)])
            case PathIn():
                found += _paths(request.typed, want, directory)
            case NameOf():
                found += _known_names(request.typed, want, known)
            case _:
                assert_never(want)
    return found[:MAX_NAMES]


def _command_names(backslash: bool) -> list[tuple[str, str]]:
    if backslash:
        return [(command.name, command.meaning) for command in COMMANDS]
    return [(word, command.meaning) for command in COMMANDS for word in command.bare]


def _words(typed: str, known: Iterable[tuple[str, str]]) -> list[Name]:
    """Words that begin with what is typed, then those with a later part that does."""
    folded = typed.casefold()
    lower = typed.islower()
    first: list[Name] = []
    second: list[Name] = []
    for word, meta in known:
        name = Name(word.lower() if lower else word, len(typed), word, meta)
        if word.casefold().startswith(folded):
            first.append(name)
        elif any(part.startswith(folded) for part in word.casefold().split("_")):
            second.append(name)
    only_itself = [name.text for name in first + second] == [typed]
    return [] if only_itself else first + second


def _files(typed: str, directory: Path) -> Iterator[Name]:
    """Files after a command of the shell, which need no quotes."""
    replaces = len(typed) - typed.rfind("/") - 1
    for entry in entries(typed, PathKind.ANY, directory):
        end = "" if entry.meta.ends_path else "/"
        yield Name(entry.name + end, replaces, visible(entry.name), entry.meta.value)


def _paths(typed: str, want: PathIn, directory: Path) -> Iterator[Name]:
    """Entries that go on from what is typed; only the last part of the path is replaced."""
    mark = want.quote or '"'
    replaces = len(typed) - typed.rfind("/") - 1
    for entry in entries(unquote(f"{mark}{typed}{mark}"), want.kind, directory):
        written = _inside(entry.name, mark) + (mark if entry.meta.ends_path else "/")
        text = written if want.quote else mark + written
        yield Name(text, replaces, visible(entry.name), entry.meta.value)


def _known_names(typed: str, want: NameOf, known: Known) -> Iterator[Name]:
    """Names of the vindex that go on from what is typed; nothing where that is one already."""
    terms = known.terms(want.slot)
    if want.bare:
        for term in terms.beginning(typed, MAX_NAMES):
            if term.text != typed:
                yield Name(term.text, len(typed), term.text, term.meta)
        return
    mark = want.quote or '"'
    begun = unquote(f"{mark}{typed}{mark}")
    for term in terms.beginning(begun, MAX_NAMES):
        text = _inside(term.text, mark) + mark
        yield Name(text if want.quote else mark + text, len(typed), visible(term.text), term.meta)


def _inside(name: str, mark: str) -> str:
    """A name as it is written inside a string literal."""
    body = quote(name)[1:-1]
    return body.replace("'", "''") if mark == "'" else body


class LqlCompleter(Completer):
    """Completes the buffer.

    Args:
        topics: the statements that help knows.
        known: the names of what is open, by now.
    """

    def __init__(
        self,
        topics: Callable[[], Sequence[Topic]],
        known: Callable[[], Known] = lambda: NOTHING_KNOWN,
    ) -> None:
        self._topics = topics
        self._known = known

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterator[Completion]:
        """Offer names for the text before the cursor."""
        request = wanted(document.text_before_cursor)
        if not request.typed and not complete_event.completion_requested:
            return
        after = document.text_after_cursor
        for name in names(request, Path.cwd(), self._topics, self._known()):
            text = name.text
            if after[:1] in ('"', "'") and text.endswith(after[0]):
                text = text[:-1]
            yield Completion(
                text,
                start_position=-name.replaces,
                display=[("", name.shown)],
                display_meta=[("", name.meta)],
            )
