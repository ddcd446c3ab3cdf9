"""Fixtures of the comparison with transformers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.parity.laboratory import Laboratory, threads


@pytest.fixture(scope="session")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    """Tiny checkpoints and their vindexes."""
    return Laboratory(tmp_path_factory.mktemp("parity"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """See ``threads``."""
    with threads(1):
        yield
