"""Printing results: one module per format, all driven by ``Result.to_rows`` and ``to_dict``.

People read ``table``, ``vertical`` and ``markdown``: numbers rounded, model text made visible
(``text.py``), laid out by ``view.py``. Programs read ``json``, ``jsonl``, ``csv``, ``tsv`` and
``parquet``: exact, every documented key, the same bytes on a terminal and in a pipe.

What a script's standard output looks like, when several statements print:

* ``json``: one JSON document per result, each on one line. A script with one query prints one
  valid JSON document; ``jq`` and line readers read any number.
* ``jsonl``: one row object per line.
* ``csv``, ``tsv``: a header line and rows per result, an empty line between results.
* ``table``, ``vertical``, ``markdown``: an empty line between results.
* ``parquet``: one file; a second result is refused, and so is a terminal.
* ``none``: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol, TextIO, assert_never

if TYPE_CHECKING:
    from lql.results import Result


class Format(Enum):
    """The values of ``--format``."""

    TABLE = "table"
    VERTICAL = "vertical"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    TSV = "tsv"
    MARKDOWN = "markdown"
    PARQUET = "parquet"
    NONE = "none"


class Expand(Enum):
    """When a table's rows are printed a line for each value."""

    ON = "on"
    OFF = "off"
    AUTO = "auto"  # where the columns do not fit side by side


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """What may differ between a terminal and a pipe.

    Attributes:
        width: columns to fit tables into, or ``None`` for no limit (anything but a terminal).
        color: whether headings may carry ANSI styles.
        expand: when rows of a table stand vertically.
    """

    width: int | None = None
    color: bool = False
    expand: Expand = Expand.AUTO


class Renderer(Protocol):
    """Writes results in one format, one after another."""

    def write(self, result: Result) -> None:
        """Write one result and flush."""


def renderer(chosen: Format, out: TextIO, options: RenderOptions | None = None) -> Renderer:
    """Make the renderer of a format; only that format's module is imported."""
    options = options or RenderOptions()
    match chosen:
        case Format.TABLE:
            from lql.render.table import TableRenderer

            return TableRenderer(out, options)
        case Format.VERTICAL:
            from lql.render.vertical import VerticalRenderer

            return VerticalRenderer(out)
        case Format.JSON | Format.JSONL:
            from lql.render.json import JsonLinesRenderer, JsonRenderer

            return JsonRenderer(out) if chosen is Format.JSON else JsonLinesRenderer(out)
        case Format.CSV | Format.TSV:
            from lql.render.delimited import CsvRenderer, TsvRenderer

            return CsvRenderer(out) if chosen is Format.CSV else TsvRenderer(out)
        case Format.MARKDOWN:
            from lql.render.markdown import MarkdownRenderer

            return MarkdownRenderer(out)
        case Format.PARQUET:
            from lql.render.parquet import ParquetRenderer

            return ParquetRenderer(out)
        case Format.NONE:
            return _Nothing()
        case _:
            assert_never(chosen)


class _Nothing:
    def write(self, result: Result) -> None:
        """Write nothing."""
