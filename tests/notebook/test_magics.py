"""``%lql`` in an IPython shell: values, names, parameters, errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from lql.notebook.cells import Cell, cell_of, values
from lql.notebook.display import CellError
from lql.results import Result
from lql.session import Session
from tests.repl.conftest import tiny_vindex as tiny_vindex


class Notebook:
    """Cells of one notebook."""

    def __init__(self) -> None:
        self.shell = InteractiveShell.instance()
        self.shell.run_line_magic("load_ext", "lql")

    def run(self, cell: str) -> Any:
        """Run a cell and return its value; raises what it raised."""
        done = self.shell.run_cell(cell, store_history=False)
        done.raise_error()
        return done.result

    def shown(self, value: object) -> dict[str, str]:
        """What a front end gets of a value, by MIME type."""
        formatter = self.shell.display_formatter
        assert formatter is not None
        data, _ = formatter.format(value)
        return data


@pytest.fixture
def notebook(tiny_vindex: Path) -> Iterator[Notebook]:
    opened = Notebook()
    opened.run(f"%lql USE '{tiny_vindex}'")
    yield opened
    opened.run("%lql").close()
    InteractiveShell.clear_instance()


def test_a_statement_returns_a_typed_result(notebook: Notebook) -> None:
    found = notebook.run("%lql INFER 'The capital' TOP 3")

    assert isinstance(found, Result)
    assert [row["rank"] for row in found.rows] == [1, 2, 3]
    assert list(found.to_pandas().columns)[:2] == ["rank", "token"]


def test_a_line_can_be_assigned_by_python(notebook: Notebook) -> None:
    notebook.run("found = %lql SHOW LAYERS 1-2")

    assert [row["layer"] for row in notebook.run("found.rows")] == [1, 2]


@pytest.mark.parametrize(
    "cell",
    [
        "%lql found << SHOW LAYERS 1-2",
        "%%lql found <<\nSHOW LAYERS 0-0;\nSHOW LAYERS 1-2;",
        "%%lql\nfound <<\nSHOW LAYERS\n  1-2;",
    ],
)
def test_a_result_is_bound_and_not_shown(cell: str, notebook: Notebook) -> None:
    assert notebook.run(cell) is None
    assert [row["layer"] for row in notebook.run("found.rows")] == [1, 2]


def test_parameters_are_the_variables_of_the_notebook(notebook: Notebook) -> None:
    notebook.run('import numpy as np\nfirst, last, prompt = np.int64(1), 2, "it\'s {first} $last"')

    found = notebook.run("%lql SHOW LAYERS :first-:last")
    assert [row["layer"] for row in found.rows] == [1, 2]
    assert notebook.run("%lql INFER :prompt TOP 1").prompt == "it's {first} $last"


def test_what_is_typed_is_not_expanded_by_ipython(notebook: Notebook) -> None:
    notebook.run("name = 'x'")

    assert notebook.run("%lql INFER 'a {name} $name' TOP 1").prompt == "a {name} $name"


def test_a_cell_shows_every_result_and_returns_the_last(
    notebook: Notebook, capsys: pytest.CaptureFixture[str]
) -> None:
    found = notebook.run("%%lql\nSHOW LAYERS 3-3;\nSHOW LAYERS 1-1;")

    assert [row["layer"] for row in found.rows] == [1]
    assert "\n    3  " in capsys.readouterr().out


def test_nothing_at_all_is_the_session(notebook: Notebook) -> None:
    session = notebook.run("session = %lql\nsession")

    assert isinstance(session, Session)
    assert notebook.shown(session.query("SHOW LAYERS 1-1"))["text/html"].startswith("<table>")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("%lql SHOW LAYRS", "did you mean LAYERS"),
        ("%lql INFER :nothing", "assign it in Python first"),
        ("%lql SHOW LAYERS 99", "layer 99 does not exist"),
        ("%%lql SHOW LAYERS\nSTATS", "statements stand below %%lql"),
    ],
)
def test_an_error_is_shown_as_a_shell_shows_it(
    cell: str, message: str, notebook: Notebook, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CellError):
        notebook.run(cell)

    said = capsys.readouterr().out
    assert message in said
    assert said.startswith("error[LQL")
    assert "Traceback" not in said


def test_a_result_is_a_table_in_a_browser_and_text_in_a_terminal(notebook: Notebook) -> None:
    shown = notebook.shown(notebook.run("%lql INFER 'The capital' TOP 2"))

    assert shown["text/html"].count("<tr>") == 3
    assert shown["text/plain"].splitlines()[0].split()[:2] == ["rank", "token"]


def test_a_status_is_a_line(notebook: Notebook, tiny_vindex: Path) -> None:
    shown = notebook.shown(notebook.run(f"%lql USE '{tiny_vindex}'"))

    assert shown["text/plain"].startswith(f"using {tiny_vindex}")
    assert shown["text/html"].startswith(f"<p>using {tiny_vindex}")


def test_a_plot_without_a_file_is_a_picture(notebook: Notebook) -> None:
    shown = notebook.shown(notebook.run("%lql PLOT EXPLAIN INFER 'The capital'"))

    assert "<svg" in shown["image/svg+xml"]
    assert "text/html" not in shown


def test_a_plot_with_a_file_says_what_was_written(notebook: Notebook, tmp_path: Path) -> None:
    path = tmp_path / "lens.png"
    shown = notebook.shown(notebook.run(f"%lql PLOT EXPLAIN INFER 'x' TO '{path}'"))

    assert path.read_bytes().startswith(b"\x89PNG")
    assert str(path) in shown["text/html"]
    assert "image/svg+xml" not in shown


@pytest.mark.parametrize(
    ("line", "body", "expected"),
    [
        ("STATS", None, Cell(None, "STATS", "<%lql>")),
        ("x << STATS", None, Cell("x", " STATS", "<%lql>")),
        ("été<<STATS", None, Cell("été", "STATS", "<%lql>")),
        ("", "STATS;", Cell(None, "STATS;", "<%%lql>")),
        (" x <<", "STATS;", Cell("x", "STATS;", "<%%lql>")),
        ("", 'INFER "a << b"', Cell(None, 'INFER "a << b"', "<%%lql>")),
    ],
)
def test_cells_are_taken_apart(line: str, body: str | None, expected: Cell) -> None:
    assert cell_of(line, body) == expected


def test_only_what_a_parameter_can_hold_is_offered() -> None:
    found = values({"a": 1, "b": "x", "_c": 2, "d": object(), "e": [1, "y"], "f": True, "g": 1.5})

    assert found == {"a": 1, "b": "x", "e": [1, "y"], "g": 1.5}
