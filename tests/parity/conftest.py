"""Fixtures of the comparison with transformers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.parity.laboratory import Laboratory


@pytest.fixture(scope="session")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    """Tiny checkpoints and their vindexes."""
    return Laboratory(tmp_path_factory.mktemp("parity"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads only slow tiny products down, and a machine that is busy makes them wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
