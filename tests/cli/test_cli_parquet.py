"""``--format parquet``: typed rows in a file or a pipe."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pyarrow.parquet as pq

from tests.cli.conftest import Lql

QUERY = "SELECT layer, token, also FROM FEATURES WHERE layer < 2 LIMIT 7"


def test_a_file_holds_the_rows_that_json_shows(lql: Lql, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    words = ("-u", "tiny.vindex", "-e", QUERY, "--format", "parquet")
    done = lql(*words, "-o", str(path))

    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert pq.read_table(path).to_pylist() == lql.rows(QUERY)


def test_a_pipe_gets_the_same_bytes(lql: Lql, tmp_path: Path) -> None:
    words = ("-u", "tiny.vindex", "-e", QUERY, "--format", "parquet")
    lql(*words, "-o", str(tmp_path / "rows.parquet"))
    done = subprocess.run(
        lql.command(*words), cwd=lql.cwd, env=lql.environment(None), capture_output=True
    )

    assert done.stdout == (tmp_path / "rows.parquet").read_bytes()
    assert pq.read_table(io.BytesIO(done.stdout)).num_rows == 7


def test_a_second_result_is_refused(lql: Lql, tmp_path: Path) -> None:
    done = lql(
        *("-u", "tiny.vindex", "-e", f"{QUERY}; STATS", "--format", "parquet"),
        *("-o", str(tmp_path / "rows.parquet")),
    )

    assert done.returncode == 2
    assert "a Parquet file holds one result" in done.stderr
