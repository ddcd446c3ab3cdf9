"""Results as HTML for notebooks: the same blocks that a terminal shows, as real tables.

Nothing has a colour of its own, so a light and a dark notebook show it alike. Every text is
escaped after it was made visible (``text.py``): what a model wrote is data, never markup.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import assert_never

from lql.render.blocks import Block, Facts, Grid, Heading, Line
from lql.render.text import printable
from lql.render.view import status, view
from lql.results import Form, Result

SHOWN = 200
"""Rows of a grid that a page shows; more would make a notebook slow and unreadable."""

_MONOSPACE = "font-family: monospace; white-space: pre"


def html(result: Result) -> str:
    """One result, with its notes below it."""
    if result.form is Form.STATUS:
        return _paragraph(status(result))
    body = [text for block in view(result) for text in _block(block)]
    cut = result.meta.truncated
    notes = [*result.meta.notes]
    if cut is not None:
        notes.append(f"{cut.shown} of {cut.total} rows are shown; {cut.more} shows more")
    return "".join([*body, *map(_note, notes)])


def _block(block: Block) -> Iterator[str]:
    match block:
        case Line(text=text):
            yield _paragraph(text)
        case Facts(pairs=pairs):
            yield _table((), pairs, (Heading("name"), Heading("value")))
        case Grid(rows=()):
            yield _paragraph("(no rows)")
        case Grid(headings=headings, rows=rows):
            yield _table(headings, rows[:SHOWN], headings)
            if len(rows) > SHOWN:
                yield _note(f"{SHOWN} of {len(rows)} rows are on this page")
        case _:
            assert_never(block)


def _table(
    titles: Sequence[Heading], rows: Sequence[Sequence[str]], sides: Sequence[Heading]
) -> str:
    head = "".join(f'<th style="{_side(title)}">{escape(title.title)}</th>' for title in titles)
    body = "".join(f"<tr>{''.join(map(_cell, row, sides))}</tr>" for row in rows)
    above = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f"<table>{above}<tbody>{body}</tbody></table>"


def _cell(text: str, heading: Heading) -> str:
    return f'<td style="{_side(heading)}; {_MONOSPACE}">{escape(text)}</td>'


def _side(heading: Heading) -> str:
    return f"text-align: {'right' if heading.right else 'left'}"


def _paragraph(text: str) -> str:
    return f"<p>{escape(printable(text))}</p>"


def _note(text: str) -> str:
    return f'<p style="opacity: 0.7">{escape(printable(text))}</p>'
