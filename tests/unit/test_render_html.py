"""Results as HTML: what a model wrote is data, and every type has a page."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from lql.render.html import SHOWN, html
from lql.results import Column, Kind, Result, Truncation
from lql.results.base import Meta
from lql.results.table import TableResult
from tests.unit.samples import EVERY, INFER

ALLOWED = {"table", "thead", "tbody", "tr", "th", "td", "p"}


class Checked(HTMLParser):
    """Refuses tags that the page does not mean to have, and keeps the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED
        assert {name for name, _ in attrs} <= {"style"}
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> str:
    checked = Checked()
    checked.feed(page)
    checked.close()
    assert checked.open == []
    return checked.text


@pytest.mark.parametrize("result", EVERY, ids=lambda result: type(result).__name__)
def test_every_result_is_a_page_of_tables_and_text(result: Result) -> None:
    text = read(html(result))

    assert text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_tokens_are_shown_as_in_a_terminal_and_never_as_markup() -> None:
    page = html(INFER)

    assert "␣Paris" in page
    assert "\\n[/INST]:smile:" in page
    assert "\\x1b[31mred|,\\t&quot;&#x27;\\\\n" in page


def test_no_colour_is_fixed_so_dark_pages_are_as_readable() -> None:
    for result in EVERY:
        assert "color" not in html(result).replace("colorbar", "")


def test_rows_that_are_left_out_are_counted() -> None:
    long = TableResult(shape=(Column("n", Kind.INTEGER),), values=tuple((n,) for n in range(999)))
    cut = replace(long, meta=Meta(truncated=Truncation(999, 5000, "LIMIT n"), notes=("a <note>",)))

    text = read(html(cut))
    assert f"{SHOWN} of 999 rows are on this page" in text
    assert "999 of 5000 rows are shown; LIMIT n shows more" in text
    assert "a <note>" in text
