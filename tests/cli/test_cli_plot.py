"""PLOT from the command line: files whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Lql

LENS = 'PLOT EXPLAIN INFER "The capital"'


@pytest.fixture
def here(lql_here: Lql, vindexes: Path) -> Lql:
    shutil.copytree(vindexes / "tiny.vindex", lql_here.cwd / "tiny.vindex")
    return lql_here


def left(place: Lql) -> list[str]:
    return sorted(path.name for path in place.cwd.iterdir() if path.name != "tiny.vindex")


def test_a_picture_is_written_whole_and_said(here: Lql) -> None:
    (record,) = [here.rows(f'{LENS} TO "lens.svg"')]

    written = (here.cwd / "lens.svg").read_bytes()
    assert record == {
        "statement": "EXPLAIN INFER",
        "kind": "lens",
        "path": "lens.svg",
        "size_bytes": len(written),
    }
    assert left(here) == ["lens.svg"]


def test_two_processes_write_the_same_bytes(here: Lql) -> None:
    for name in ("a", "b"):
        done = here("-u", "tiny.vindex", "-e", f'{LENS} TO "{name}.png"; {LENS} TO "{name}.svg"')
        assert done.returncode == 0, done.stderr

    sums = {
        name: hashlib.sha256((here.cwd / name).read_bytes()).digest()
        for name in ("a.png", "b.png", "a.svg", "b.svg")
    }
    assert sums["a.png"] == sums["b.png"]
    assert sums["a.svg"] == sums["b.svg"]


def test_every_statement_that_parses_after_plot_is_drawn(here: Lql) -> None:
    edit = '(entity, relation, target) VALUES ("Hungary", "capital", "Oslo")'
    text = f"""
        PLOT INFER "The capital" TO "1.html";
        PLOT DESCRIBE "France" TO "2.png";
        PLOT INSERT INTO EDGES {edit} TO "3.png";
        PLOT UPDATE EDGES SET target = "Rome" WHERE entity = "Hungary" TO "4.svg";
        PLOT DELETE FROM EDGES WHERE entity = "Hungary" TO "5.svg";
        DISCARD PATCH;
    """
    done = here("-u", "tiny.vindex", "-e", text)

    assert done.returncode == 0, done.stderr
    assert left(here) == ["1.html", "2.png", "3.png", "4.svg", "5.svg"]


@pytest.mark.parametrize(
    ("statement", "code", "exit_code"),
    [
        (LENS, "LQL0591", 1),
        (f'{LENS} TO "lens.pdf"', "LQL0301", 1),
        (f'{LENS} TO "lens"', "LQL0301", 1),
        (f'{LENS} TO "taken.png"', "LQL0502", 1),
        (f'{LENS} TO "no/such/lens.png"', "LQL0506", 1),
        (f'{LENS} LAYERS 0-99 TO "lens.png"', "LQL0302", 1),
        ('PLOT INFER "x" COMPARE TO "lens.png"', "LQL0590", 1),
        ("PLOT STATS", "LQL0101", 1),
    ],
)
def test_what_cannot_be_drawn_leaves_nothing_behind(
    statement: str, code: str, exit_code: int, here: Lql
) -> None:
    (here.cwd / "taken.png").write_text("mine")

    done = here("-u", "tiny.vindex", "-e", statement)

    assert done.returncode == exit_code
    assert code in done.stderr
    assert left(here) == ["taken.png"]
    assert (here.cwd / "taken.png").read_text() == "mine"


def test_a_file_is_replaced_where_that_is_said(here: Lql) -> None:
    (here.cwd / "lens.png").write_text("old")

    done = here("-u", "tiny.vindex", "-e", f'{LENS} TO "lens.png" OVERWRITE')

    assert done.returncode == 0
    assert (here.cwd / "lens.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_plot_says_what_to_install_and_all_else_works(vindexes: Path) -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from lql.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-c", code, "-u", str(vindexes / "tiny.vindex")),
            *("-e", 'STATS; PLOT INFER "x" TO "x.png"'),
        ],
        capture_output=True,
        text=True,
    )

    assert done.returncode == 4
    assert "LQL0403" in done.stderr
    assert 'pip install "lql[notebook]"' in done.stderr
    assert "llama" in done.stdout
