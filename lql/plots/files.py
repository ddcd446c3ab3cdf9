"""A figure as the bytes of a file: the same figure, the same bytes."""

from __future__ import annotations

import io
import re
from enum import Enum
from html import escape
from typing import TYPE_CHECKING, assert_never
from warnings import catch_warnings, filterwarnings

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator

from lql.plots.style import styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 200


class PictureFormat(Enum):
    """What a picture can be written as; the value is the file's suffix."""

    PNG = ".png"
    SVG = ".svg"
    HTML = ".html"


FORMATS = tuple(each.value for each in PictureFormat)


def encoded(figure: Figure, chosen: PictureFormat, title: str = "") -> bytes:
    """The bytes of a picture.

    Args:
        title: of the page, for HTML.
    """
    match chosen:
        case PictureFormat.PNG:
            return _png(figure)
        case PictureFormat.SVG:
            return _svg(figure).encode()
        case PictureFormat.HTML:
            return _page(_svg(figure), title).encode()
        case _:
            assert_never(chosen)


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    with styled():
        _spell_missing(figure)
        figure.savefig(out, format="png", dpi=_DPI, metadata={"Software": None})
    return out.getvalue()


def _svg(figure: Figure) -> str:
    """SVG whose text is text: it can be searched, edited and read aloud."""
    out = io.StringIO()
    with styled(), catch_warnings():
        # The reader's fonts draw the text; that this one lacks a character is of no account.
        filterwarnings("ignore", r"Glyph \d+ .*missing from font")
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _page(svg: str, title: str) -> str:
    drawing = re.sub(r"\A.*?(?=<svg)", "", svg, flags=re.DOTALL)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{escape(title)}</title>\n"
        "<style>body { margin: 2em; background: white } svg { max-width: 100%; height: auto }"
        f"</style>\n</head>\n<body>\n{drawing}</body>\n</html>\n"
    )


def _spell_missing(figure: Figure) -> None:
    """Write characters that the font cannot draw as their code, instead of as empty boxes."""
    known = FT2Font(font_manager.findfont("DejaVu Sans")).get_charmap()

    def spelt(shown: str) -> str:
        return "".join(c if ord(c) in known or c == "\n" else _code(c) for c in shown)

    for axes in figure.axes:  # labels of ticks are written anew whenever they are drawn
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_locator(), FixedLocator):
                labels = axis.get_major_formatter().format_ticks(list(axis.get_majorticklocs()))
                axis.set_ticklabels([spelt(label) for label in labels])
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_text(spelt(text.get_text()))


def _code(char: str) -> str:
    number = ord(char)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
