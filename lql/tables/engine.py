"""DuckDB, in memory: the only module that imports it.

One thread, so that sums add up in one order and the same statement gives the same bits. The engine
sees no file and no variable of the process: it reads what was registered and nothing else.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from lql.cancel import Cancelled, CancelToken
from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlCapabilityError
from lql.results import Column, Kind
from lql.results import Value as Cell

Array = npt.NDArray[Any]
Value = str | int | float

_BATCH = 8192
_POLL_S = 0.05


class Engine:
    """A database of registered arrays.

    Raises:
        LqlCapabilityError: DuckDB is not installed.
    """

    def __init__(self) -> None:
        self._duckdb = _duckdb()
        self._connection = self._duckdb.connect(
            ":memory:",
            config={
                "threads": 1,
                "enable_external_access": False,
                "python_enable_replacements": False,
                "pandas_analyze_sample": 0,  # an array of objects holds text, whatever is in it
            },
        )

    def register(self, name: str, columns: Mapping[str, Array]) -> None:
        """Make arrays of one length a table. Numbers are read in place, never copied.

        Args:
            name: of the table; replaces one of that name.
            columns: by name. Masked entries, and ``None`` among objects, are missing.
        """
        self._connection.register(name, dict(columns))

    def forget(self, name: str) -> None:
        """Take a registered table away."""
        self._connection.unregister(name)

    def command(self, sql: str) -> None:
        """Run a constant statement without an answer."""
        self._connection.execute(sql)

    def rows(
        self, sql: str, values: Sequence[Value], cancel: CancelToken | None = None
    ) -> list[tuple[Any, ...]]:
        """Run a query and fetch all its rows.

        Args:
            sql: with ``$1``, ``$2`` … for the values.
            values: bound, in that order.
            cancel: stops the query.

        Raises:
            Cancelled: by ``cancel``.
            MemoryError: the rows do not fit into memory.
        """
        token = cancel or CancelToken()
        found: list[tuple[Any, ...]] = []
        with self._stoppable(token):
            self._connection.execute(sql, list(values))
            while batch := self._connection.fetchmany(_BATCH):
                token.check("fetching rows")
                found += batch
        return found

    def close(self) -> None:
        """Let go of everything."""
        self._connection.close()
        # DuckDB complains on standard error of what is still referred to when the process ends.
        del self._connection, self._duckdb

    @contextmanager
    def _stoppable(self, token: CancelToken) -> Iterator[None]:
        """Interrupt the engine when the token is set, and translate its refusals."""
        token.check("before the query")
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(token, done), daemon=True)
        watcher.start()
        try:
            yield
        except self._duckdb.InterruptException as error:
            raise Cancelled("the query") from error
        except self._duckdb.OutOfMemoryException as error:
            raise MemoryError from error
        finally:
            done.set()
            watcher.join()

    def _watch(self, token: CancelToken, done: threading.Event) -> None:
        while not done.wait(_POLL_S):
            if token.cancelled:
                self._connection.interrupt()
                return


def write_parquet(columns: Sequence[Column], rows: Sequence[tuple[Cell, ...]], path: Path) -> None:
    """Write rows to a Parquet file, by an engine that sees nothing else.

    Args:
        columns: name and type of each.
        rows: a value for each column.
        path: where to.

    Raises:
        OSError: the file cannot be written.
    """
    arrays = {
        f"c{i}": _PARQUET[column.kind][0]([row[i] for row in rows])
        for i, column in enumerate(columns)
    }
    shown = ", ".join(
        f'CAST(c{i} AS {_PARQUET[column.kind][1]}) AS "{column.name.replace(chr(34), chr(34) * 2)}"'
        for i, column in enumerate(columns)
    )
    config = {"threads": 1, "pandas_analyze_sample": max(1, len(rows))}
    duckdb = _duckdb()
    with duckdb.connect(":memory:", config=config) as connection:
        connection.register("result", arrays)
        try:
            relation = connection.sql(f"SELECT {shown} FROM result")
            relation.write_parquet(str(path), compression="zstd")
        except duckdb.IOException as error:
            raise OSError(errno.EIO, str(error).splitlines()[0], str(path)) from error


def integers(values: Sequence[int | None]) -> Array:
    """Whole numbers, some perhaps missing."""
    mask = [value is None for value in values]
    return np.ma.masked_array([value or 0 for value in values], mask, dtype=np.int64)


def numbers(values: Sequence[float | None]) -> Array:
    """Numbers, some perhaps missing."""
    mask = [value is None for value in values]
    return np.ma.masked_array([value or 0.0 for value in values], mask, dtype=np.float64)


def texts(values: Sequence[str | None]) -> Array:
    """Texts, some perhaps missing."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _truths(values: Sequence[Any]) -> Array:
    return np.ma.masked_array(
        [bool(value) for value in values], [value is None for value in values], dtype=np.bool_
    )


def _lists(values: Sequence[Any]) -> Array:
    array = np.empty(len(values), object)
    for index, value in enumerate(values):  # a slice would make a matrix of lists of one length
        array[index] = None if value is None else list(value)
    return array


_PARQUET: Mapping[Kind, tuple[Callable[[Sequence[Any]], Array], str]] = {
    Kind.INTEGER: (integers, "BIGINT"),
    Kind.NUMBER: (numbers, "DOUBLE"),
    Kind.BOOLEAN: (_truths, "BOOLEAN"),
    Kind.TEXT: (texts, "VARCHAR"),
    Kind.TOKEN: (texts, "VARCHAR"),
    Kind.TOKENS: (_lists, "VARCHAR[]"),
}


def _duckdb() -> ModuleType:
    try:
        import duckdb
    except ImportError as error:
        raise LqlCapabilityError(
            Diagnostic(
                Code.BACKEND_MISSING,
                "SELECT needs DuckDB, which is not installed",
                helps=("install it: pip install duckdb",),
            )
        ) from error
    return cast(ModuleType, duckdb)
