"""SELECT and COPY through the command: every format, files whole or not at all, one order."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lql.session import open_session
from tests.cli.conftest import Lql

SELECT = (
    "SELECT layer, COUNT(*) AS n, MAX(logit) AS best, MIN(token) AS word FROM FEATURES "
    "WHERE logit > 1 GROUP BY layer ORDER BY layer"
)


def expected(vindexes: Path, statement: str) -> list[dict[str, object]]:
    with open_session(vindexes / "tiny.vindex") as session:
        return [dict(row) for row in session.query(statement).rows]


def output(lql: Lql, statement: str, form: str) -> str:
    done = lql("-u", "tiny.vindex", "-e", statement, "--format", form)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_every_format_shows_the_same_rows(lql: Lql, vindexes: Path) -> None:
    rows = expected(vindexes, SELECT)
    assert len(rows) == 4
    names = ["layer", "n", "best", "word"]
    assert json.loads(output(lql, SELECT, "json")) == rows
    assert [json.loads(line) for line in output(lql, SELECT, "jsonl").splitlines()] == rows
    cells = [[str(row[name]) for name in names] for row in rows]
    assert [*csv.reader(io.StringIO(output(lql, SELECT, "csv")))] == [names, *cells]
    tsv = output(lql, SELECT, "tsv").splitlines()
    assert [line.split("\t") for line in tsv] == [names, *cells]
    assert output(lql, SELECT, "none") == ""
    for form in ("table", "vertical", "markdown"):
        shown = output(lql, SELECT, form)
        assert all(str(row["n"]) in shown for row in rows)


def test_what_cannot_be_selected_fails_with_its_place(lql: Lql) -> None:
    done = lql("-u", "tiny.vindex", "-e", "SELECT tokn FROM FEATURES")
    assert (done.returncode, done.stdout) == (1, "")
    assert "LQL0204" in done.stderr
    assert "did you mean token" in done.stderr
    done = lql("-u", "tiny.vindex", "-e", "SELECT * FROM FEATURE")
    assert (done.returncode, done.stdout) == (1, "")
    assert "did you mean FEATURES" in done.stderr


def test_parameters_are_values(lql: Lql) -> None:
    hostile = "x' OR 1=1; --"
    statement = "SELECT feature FROM FEATURES WHERE token = :t OR layer = :n"
    words = ("--param", f"t={hostile}", "--param", "n=2")
    rows = lql.rows(statement, *words)
    assert [row["feature"] for row in rows] == list(range(160))


@pytest.mark.parametrize("form", ["csv", "json", "jsonl"])
def test_copy_writes_what_the_format_prints(lql: Lql, tmp_path: Path, form: str) -> None:
    statement = "SELECT * FROM FEATURES WHERE layer = 1"
    target = tmp_path / f'it\'s "x".{form}'
    done = lql("-u", "tiny.vindex", "-e", f"COPY ({statement}) TO :f", "--param", f"f={target}")
    assert done.returncode == 0, done.stderr
    assert target.read_text() == output(lql, statement, form)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_copy_to_parquet_keeps_types(lql: Lql, vindexes: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    statement = "SELECT *, layer AS again FROM FEATURES ORDER BY logit DESC LIMIT 99"
    target = tmp_path / "x.parquet"
    done = lql("-u", "tiny.vindex", "-e", f"COPY ({statement}) TO :f", "--param", f"f={target}")
    assert done.returncode == 0, done.stderr
    table = pq.read_table(target)
    rows = [{**row, "also": tuple(row["also"])} for row in table.to_pylist()]
    assert rows == expected(vindexes, statement)
    assert table.schema.field("layer").type == pa.int64()
    assert table.schema.field("logit").type == pa.float64()
    assert table.schema.field("relation").type == pa.string()  # although all are missing
    assert table.schema.field("edited").type == pa.bool_()
    assert table.schema.field("also").type.value_type == pa.string()


def test_copy_keeps_what_is_there(lql: Lql, tmp_path: Path) -> None:
    target = tmp_path / "x.csv"
    target.write_text("mine")
    copy = "COPY (SELECT layer FROM LAYERS) TO :f"
    done = lql("-u", "tiny.vindex", "-e", copy, "--param", f"f={target}")
    assert done.returncode == 1
    assert "LQL0502" in done.stderr
    assert target.read_text() == "mine"
    done = lql("-u", "tiny.vindex", "-e", f"{copy} OVERWRITE", "--param", f"f={target}")
    assert done.returncode == 0, done.stderr
    assert target.read_text() == "layer\n0\n1\n2\n3\n"


@pytest.mark.parametrize(
    ("statement", "name", "code"),
    [
        ("SELECT tokn FROM FEATURES", "x.csv", "LQL0204"),
        ("SELECT layer FROM LAYERS", "x.xlsx", "LQL0301"),
        ("SELECT layer FROM LAYERS", "x", "LQL0301"),
        ("SELECT layer FROM LAYERS", "no/such/directory/x.csv", "LQL0506"),
        ("SELECT layer FROM LAYERS", "no/such/directory/x.parquet", "LQL0506"),
    ],
)
def test_a_copy_that_fails_leaves_nothing(
    lql: Lql, tmp_path: Path, statement: str, name: str, code: str
) -> None:
    words = ("--param", f"f={tmp_path / name}")
    done = lql("-u", "tiny.vindex", "-e", f"COPY ({statement}) TO :f", *words)
    assert done.returncode == 1
    assert code in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_no_file_can_have_is_refused(lql: Lql) -> None:
    done = lql("-u", "tiny.vindex", "-e", r'COPY (SELECT layer FROM LAYERS) TO "a\0.csv"')
    assert (done.returncode, done.stdout) == (1, "")
    assert "LQL0301" in done.stderr


SCRIPT = """
import json, sys
import lql
with lql.open(sys.argv[1]) as session:
    for statement in (
        "SELECT token, COUNT(*), AVG(logit) FROM FEATURES GROUP BY token ORDER BY COUNT(*) DESC",
        "SELECT DISTINCT token FROM FEATURES ORDER BY token DESC",
        "SELECT * FROM FEATURES AS f JOIN LAYERS AS l USING (layer) ORDER BY l.writers",
        "SELECT feature FROM FEATURES WHERE also IN ('a', 'of', 'is') OR token LIKE '%a%'",
        "SHOW ENTITIES", "SHOW LAYERS", "SHOW RELATIONS WITH EXAMPLES",
        'SELECT * FROM EDGES NEAREST TO "France" AT LAYER 1',
        'SELECT feature FROM FEATURES NEAREST TO "France" AT LAYER 1',
        'DESCRIBE "France" EVIDENCE STATIC RAW', "SHOW FEATURES 2",
    ):
        print(json.dumps(session.query(statement).rows))
"""


def test_the_same_rows_over_twenty_hash_seeds(lql: Lql, vindexes: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(vindexes / "tiny.vindex")]
    outputs = {
        subprocess.run(
            command,
            env=lql.environment({"PYTHONHASHSEED": str(seed)}),
            capture_output=True,
            check=True,
        ).stdout
        for seed in range(20)
    }
    assert len(outputs) == 1
    assert outputs.pop().count(b"\n") == 11


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ('DESCRIBE "France" EVIDENCE STATIC', {"torch", "duckdb"}),
        ("STATS", {"torch", "duckdb"}),
        ("SELECT layer FROM LAYERS", {"torch", "pandas", "pyarrow", "polars"}),
    ],
)
def test_a_statement_imports_only_what_it_uses(lql: Lql, statement: str, heavy: set[str]) -> None:
    code = (
        "import sys; from lql.cli import main; "
        f"main(['tiny.vindex', '-e', {statement!r}, '--format', 'none']); "
        f"print(sorted(set(sys.modules) & {heavy!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=lql.cwd,
        env=lql.environment(None),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
