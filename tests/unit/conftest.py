"""A tiny vindex to edit; a module that needs another has a fixture of its own by that name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lql.session import Session, connect


@pytest.fixture(scope="module")
def vindex(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    target = tmp_path_factory.mktemp("unit") / "tiny.vindex"
    with Session() as session:
        session.run(
            "EXTRACT MODEL :model INTO :target DTYPE f32;",
            parameters={"model": data_dir / "golden/checkpoints/llama_h96", "target": target},
        )
    return target


@pytest.fixture
def session(vindex: Path) -> Iterator[Session]:
    with connect(vindex) as opened:
        yield opened
        opened.discard_edits()
