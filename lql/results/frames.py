"""Results as tables of other libraries, which are imported when they are first asked for."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlCapabilityError
from lql.results.base import Column, Kind, Row, Value

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa


def arrow_table(columns: Sequence[Column], rows: Sequence[Row]) -> pa.Table:
    """A ``pyarrow.Table``; whole numbers are int64, numbers float64, lists of tokens lists."""
    pa = _library("pyarrow", "arrow")
    types = {
        Kind.INTEGER: pa.int64(),
        Kind.NUMBER: pa.float64(),
        Kind.BOOLEAN: pa.bool_(),
        Kind.TEXT: pa.string(),
        Kind.TOKEN: pa.string(),
        Kind.TOKENS: pa.list_(pa.string()),
    }
    schema = pa.schema([(column.name, types[column.kind]) for column in columns])
    return pa.table(_columns(columns, rows), schema=schema)


def parquet_bytes(columns: Sequence[Column], rows: Sequence[Row]) -> bytes:
    """The rows as a Parquet file of the types of ``arrow_table``.

    Raises:
        LqlCapabilityError: pyarrow is not installed.
    """
    import io

    table = arrow_table(columns, rows)
    out = io.BytesIO()
    _library("pyarrow.parquet", "parquet").write_table(table, out)
    return out.getvalue()


def pandas_frame(columns: Sequence[Column], rows: Sequence[Row]) -> pd.DataFrame:
    """A ``pandas.DataFrame``; missing values are ``NA``, whatever the type."""
    pd = _library("pandas", "pandas")
    types = {
        Kind.INTEGER: "Int64",
        Kind.NUMBER: "Float64",
        Kind.BOOLEAN: "boolean",
        Kind.TEXT: "string",
        Kind.TOKEN: "string",
        Kind.TOKENS: "object",
    }
    values = _columns(columns, rows)
    kinds = {column.name: types[column.kind] for column in columns}
    series = {name: pd.Series(values[name], dtype=kinds[name]) for name in values}
    return pd.DataFrame(series, columns=[column.name for column in columns])


def polars_frame(columns: Sequence[Column], rows: Sequence[Row]) -> pl.DataFrame:
    """A ``polars.DataFrame`` of the same types as ``arrow_table``."""
    pl = _library("polars", "polars")
    types = {
        Kind.INTEGER: pl.Int64,
        Kind.NUMBER: pl.Float64,
        Kind.BOOLEAN: pl.Boolean,
        Kind.TEXT: pl.String,
        Kind.TOKEN: pl.String,
        Kind.TOKENS: pl.List(pl.String),
    }
    schema = {column.name: types[column.kind] for column in columns}
    return pl.DataFrame(_columns(columns, rows), schema=schema)


def _columns(columns: Sequence[Column], rows: Sequence[Row]) -> dict[str, list[Any]]:
    return {
        column.name: [_plain(row[column.name], column.kind) for row in rows] for column in columns
    }


def _plain(value: Value, kind: Kind) -> Any:
    """A value of the column's type; the flat rows of a record hold all kinds in a text column."""
    if isinstance(value, tuple):
        return list(value) if kind is Kind.TOKENS else ", ".join(value)
    if value is None or isinstance(value, str) or kind not in (Kind.TEXT, Kind.TOKEN):
        return value
    return str(value)


def _library(name: str, extra: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise LqlCapabilityError(
            Diagnostic(
                Code.BACKEND_MISSING,
                f"{name} is not installed",
                helps=(f'pip install "lql[{extra}]"',),
            )
        ) from error
