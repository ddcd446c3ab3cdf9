"""What ``help`` knows: the sections of the language reference, ``grammar/README.md``.

A statement is a level-three heading with one ``ebnf`` block (its syntax) and one ``lql`` block (an
example that runs). Its first paragraph says in a sentence what it does; the level-two heading above
it is its group.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources

from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlInternalError, LqlUsageError
from lql.names import nearest

_NOT_YET = "*Not available yet.*"
_HEADING = re.compile(r"^(#{1,6}) +(.+?) *$")
_FENCE = re.compile(r"^```(\w*) *$")


@dataclass(frozen=True, slots=True)
class Topic:
    """The reference of one statement.

    Attributes:
        name: its first words, e.g. ``SHOW LAYERS``.
        group: the heading it stands under.
        meaning: what it does, one sentence.
        syntax: its clauses, several lines.
        details: further paragraphs.
        example: statements that run.
        available: false for what parses and runs in a later version.
    """

    name: str
    group: str
    meaning: str
    syntax: str
    details: tuple[str, ...]
    example: str
    available: bool


def load_topics() -> tuple[Topic, ...]:
    """Read the installed language reference.

    Raises:
        LqlInternalError: it is not installed.
    """
    try:
        text = resources.files("lql.grammar").joinpath("README.md").read_text(encoding="utf-8")
    except OSError as error:
        raise LqlInternalError(
            Diagnostic(
                Code.INTERNAL,
                f"the language reference is missing from this installation: {error}",
                helps=("reinstall lql; help reads grammar/README.md",),
            )
        ) from error
    return parse_topics(text)


def parse_topics(text: str) -> tuple[Topic, ...]:
    """Read the statements of a language reference, in order."""
    return tuple(topic for section in _sections(text) if (topic := _topic(section)) is not None)


def find_topics(words: str, topics: Sequence[Topic]) -> tuple[Topic, ...]:
    """Choose the topics that ``words`` mean: the one of that name, else all that begin with them.

    Raises:
        LqlUsageError: there is none; with the nearest names.
    """
    wanted = " ".join(words.upper().split())
    exact = tuple(topic for topic in topics if topic.name == wanted)
    if exact:
        return exact
    begun = tuple(topic for topic in topics if topic.name.startswith(f"{wanted} "))
    if begun:
        return begun
    inside = [
        topic.name for topic in topics if re.search(rf"\b{re.escape(wanted)}\b", topic.syntax)
    ]
    names = [topic.name for topic in topics]
    first_words = {name.partition(" ")[0] for name in names}
    raise LqlUsageError(
        Diagnostic(
            Code.USAGE,
            f"no statement is called {wanted}",
            suggestions=() if inside else nearest(wanted, [*names, *sorted(first_words)]),
            notes=(f"{wanted} is a word of {', '.join(inside)}",) if inside else (),
            helps=("help lists the statements",),
        )
    )


@dataclass(frozen=True, slots=True)
class _Section:
    group: str
    name: str
    lines: tuple[str, ...]


def _sections(text: str) -> Iterator[_Section]:
    """The level-three sections, with the level-two heading each stands under."""
    group, name = "", ""
    lines: list[str] = []
    fenced = False
    for line in text.splitlines():
        if line.startswith("<!--"):  # marks a part that is made by a program
            continue
        fenced ^= line.startswith("```")
        heading = None if fenced else _HEADING.match(line)
        if heading is None:
            lines.append(line)
            continue
        if name:
            yield _Section(group, name, tuple(lines))
        lines, name = [], ""
        match len(heading[1]):
            case 2:
                group = heading[2]
            case 3:
                name = heading[2]
    if name:
        yield _Section(group, name, tuple(lines))


def _topic(section: _Section) -> Topic | None:
    blocks: dict[str, list[str]] = {}
    paragraphs: list[list[str]] = [[]]
    block: list[str] | None = None
    for line in section.lines:
        fence = _FENCE.match(line)
        if fence is not None:
            block = blocks.setdefault(fence[1], []) if block is None else None
        elif block is not None:
            block.append(line)
        elif line.strip():
            paragraphs[-1].append(line)
        elif paragraphs[-1]:
            paragraphs.append([])
    if not {"ebnf", "lql"} <= blocks.keys():
        return None
    meaning, *details = ["\n".join(lines) for lines in paragraphs if lines] or [""]
    return Topic(
        name=section.name,
        group=section.group,
        meaning=" ".join(meaning.replace(_NOT_YET, "").split()),
        syntax="\n".join(blocks["ebnf"]),
        details=tuple(details),
        example="\n".join(blocks["lql"]),
        available=_NOT_YET not in meaning,
    )
