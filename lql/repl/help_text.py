"""How ``help`` looks: plain text, because reference text is data and never markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import fill, indent

from lql.repl.help_topics import Topic

_INDENT = "  "


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a list: what is typed, and what it does."""

    name: str
    meaning: str


def overview(
    topics: Sequence[Topic], commands: Sequence[Entry], keys: Sequence[Entry], width: int
) -> str:
    """Everything that can be typed, most of it a line each.

    Args:
        width: columns; longer lines are cut, for ``help NAME`` says all of it.
    """
    groups: dict[str, list[Entry]] = {}
    for topic in topics:
        if topic.available:
            groups.setdefault(topic.group, []).append(Entry(topic.name, topic.meaning))
    blocks = [_block(title, entries, width) for title, entries in groups.items()]
    later = [topic.name for topic in topics if not topic.available]
    if later:
        names = fill(", ".join(later), width, initial_indent=_INDENT, subsequent_indent=_INDENT)
        blocks.append(f"Statements of later versions (they parse, and do not run yet)\n{names}\n")
    return "\n".join(
        [
            *blocks,
            *(_block("Commands of the shell", commands, width) for _ in commands[:1]),
            *(_block("Keys", keys, width) for _ in keys[:1]),
            "A statement ends with ; and may take several lines.",
            "help STATEMENT shows its syntax and an example.",
        ]
    )


def topic_text(topic: Topic) -> str:
    """One statement: meaning, syntax, details, example."""
    state = () if topic.available else ("It parses; running it is not available yet.",)
    return "\n\n".join(
        [
            f"{topic.name}: {topic.meaning}",
            indent(topic.syntax, _INDENT),
            *topic.details,
            *state,
            f"Example:\n\n{indent(topic.example, _INDENT)}",
        ]
    )


def topic_lines(topics: Iterable[Topic], width: int) -> str:
    """Several statements, a line each."""
    return _lines([Entry(topic.name, topic.meaning) for topic in topics], width)


def _block(title: str, entries: Sequence[Entry], width: int) -> str:
    return f"{title}\n{_lines(entries, width)}\n"


def _lines(entries: Sequence[Entry], width: int) -> str:
    column = max(len(entry.name) for entry in entries)
    return "\n".join(
        _cut(f"{_INDENT}{entry.name:<{column}}{_INDENT}{entry.meaning}", width) for entry in entries
    )


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: max(width - 1, 0)] + "…"
