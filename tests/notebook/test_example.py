"""The example notebook runs from top to bottom in a kernel of its own, without a display."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tests.repl.conftest import tiny_vindex as tiny_vindex

EXAMPLE = Path(__file__).parents[2] / "examples" / "tour.ipynb"


def executed(cells: list[str], place: Path) -> list[Any]:
    """Run cells in a fresh kernel; their outputs."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    client = NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(place)}},
    )
    client.execute()
    return [cell["outputs"] for cell in notebook.cells]


def read() -> Any:
    return nbformat.read(EXAMPLE, as_version=4)  # type: ignore[no-untyped-call]


def kinds(outputs: list[Any]) -> set[str]:
    return {kind for output in outputs for kind in output.get("data", {})}


@pytest.fixture(autouse=True)
def _kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))


def test_the_example_runs_and_shows_what_was_stored_with_it(
    tiny_vindex: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LQL_VINDEX", str(tiny_vindex))
    written = [cell for cell in read().cells if cell["cell_type"] == "code"]

    outputs = executed([cell["source"] for cell in written], tmp_path)

    stored = [kinds(cell["outputs"]) for cell in written]
    assert [kinds(each) for each in outputs] == stored
    assert sum("image/svg+xml" in each for each in stored) == 3
    assert sum("text/html" in each for each in stored) >= 6


def test_the_stored_pages_show_the_real_model() -> None:
    notebook = read()
    nbformat.validate(notebook)
    text = EXAMPLE.read_text(encoding="utf-8")

    assert "␣Paris" in text
    assert "77.27 %" in text
    assert len(text) < 250_000


def test_a_failing_statement_fails_the_run(tmp_path: Path) -> None:
    with pytest.raises(CellExecutionError) as raised:
        executed(["%load_ext lql", "%lql SHOW LAYRS"], tmp_path)

    assert "did you mean LAYERS" in str(raised.value)


def test_the_interrupt_button_stops_a_statement_and_the_session_goes_on(
    tiny_vindex: Path, tmp_path: Path
) -> None:
    many = "\n".join(f'EXPLAIN INFER "word {n}" TOP 1;' for n in range(2000))
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(tmp_path))
    try:
        for cell in ("%load_ext lql", f"%lql USE '{tiny_vindex}'", "%lql INFER 'a' TOP 1"):
            assert client.execute_interactive(cell, timeout=60)["content"]["status"] == "ok"
        busy = client.execute(f"%%lql\n{many}")
        wait_for_output(client, busy)
        manager.interrupt_kernel()
        reply = reply_of(client, busy)
        assert reply["status"] == "error"
        assert "cancelled" in reply["evalue"]
        status = "aborted"
        while status == "aborted":  # a kernel drops what was sent right after an error
            again = client.execute_interactive("%lql SHOW LAYERS 1-1", timeout=60)
            status = again["content"]["status"]
        assert status == "ok"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def wait_for_output(client: Any, message: str) -> None:
    while True:
        said = client.get_iopub_msg(timeout=60)
        if said["parent_header"].get("msg_id") == message and said["msg_type"] == "display_data":
            return


def reply_of(client: Any, message: str) -> Any:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        reply = client.get_shell_msg(timeout=60)
        if reply["parent_header"].get("msg_id") == message:
            return reply["content"]
    raise AssertionError("the kernel did not answer")
