"""The progress line: late, rate-limited, erased."""

from __future__ import annotations

import io
import time

import pytest

from lql.render.progress import ProgressBar, amounts


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0, 2 << 30, None, "B"), "0 %, 0 B of 2.0 GiB"),
        ((1 << 30, 4 << 30, 100 << 20, "B"), "25 %, 1.0 GiB of 4.0 GiB, 100.0 MiB/s, 31 s left"),
        ((500, 46080, 100, "features"), "1 %, 500 of 46,080 features, 100/s, 7 min 36 s left"),
        ((3, 0, None, "files"), "3 of 0 files"),
    ],
)
def test_amounts(arguments: tuple[float, float, float | None, str], text: str) -> None:
    assert amounts(*arguments) == text


def test_short_work_shows_nothing() -> None:
    err = io.StringIO()
    bar = ProgressBar(err, color=False)
    bar.phase("read", 100)
    bar.advance(100)
    bar.clear()
    assert err.getvalue() == ""


def test_long_work_is_shown_and_erased() -> None:
    err = io.StringIO()
    bar = ProgressBar(err, color=False)
    bar.phase("[red]read", 100, "rows")
    bar.advance(10)
    time.sleep(0.6)
    bar.advance(40)
    bar.clear()
    text = err.getvalue()
    assert "[red]read" in text
    assert "50 of 100 rows" in text
    assert text.endswith(("\x1b[2K", "\x1b[1A\x1b[2K", "\r\x1b[1A\x1b[2K"))
