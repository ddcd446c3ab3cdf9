"""Fixtures shared by every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models import GEMMA3, SMOLLM2, fetch, model_cache

_REAL_MODEL_CACHE = model_cache()


def pytest_configure() -> None:
    """Share the cores among the workers of pytest-xdist; before anything imports torch."""
    workers = os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    if workers is not None:
        share = max(1, (os.cpu_count() or 1) // int(workers))
        os.environ.setdefault("OMP_NUM_THREADS", str(share))


@pytest.fixture(autouse=True)
def _quiet_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests away from the user's files and the network's hub; no colour."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path_factory.getbasetemp() / "matplotlib"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("LQL_DEBUG", raising=False)


@pytest.fixture(autouse=True, scope="session")
def _nothing_is_written_into_checked_in_data() -> Iterator[None]:
    """A statement that caches beside its vindex must be given a copy."""
    data = Path(__file__).parent / "data"

    def listed() -> dict[Path, tuple[int, int]]:
        found = ((path, path.stat()) for path in data.rglob("*") if path.is_file())
        return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in found}

    before = listed()
    yield
    after = listed()
    assert after == before, sorted(str(p) for p, _ in after.items() ^ before.items())


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Small files the tests ship: golden vindexes and checkpoints, written by the real larql."""
    return Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct (Q4_1), the real model of the README."""
    return fetch(SMOLLM2, _REAL_MODEL_CACHE)


@pytest.fixture(scope="session")
def gemma3_gguf() -> Path:
    """Gemma 3 270M (Q4_K_M)."""
    return fetch(GEMMA3, _REAL_MODEL_CACHE)


@pytest.fixture(scope="session")
def smollm2_f32_vindex(tmp_path_factory: pytest.TempPathFactory, smollm2_gguf: Path) -> Path:
    """SmolLM2 extracted at level inference, unrounded."""
    return _extracted(smollm2_gguf, tmp_path_factory.mktemp("smollm2") / "smollm2.vindex")


@pytest.fixture(scope="session")
def gemma3_f32_vindex(tmp_path_factory: pytest.TempPathFactory, gemma3_gguf: Path) -> Path:
    """Gemma 3 270M extracted at level inference, unrounded."""
    return _extracted(gemma3_gguf, tmp_path_factory.mktemp("gemma3") / "gemma3.vindex")


def _extracted(checkpoint: Path, target: Path) -> Path:
    from lql.inference.token_scorer import TorchScorer
    from vindex.checkpoint import open_checkpoint
    from vindex.extract import extract
    from vindex.kinds import StorageDtype

    with open_checkpoint(checkpoint) as opened:
        extract(opened, target, dtype=StorageDtype.F32, scorer=TorchScorer())
    return target
