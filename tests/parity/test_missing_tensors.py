"""A vindex that lost any one tensor is refused when it is opened, for every family."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.parity.checkpoints import Row, Spelling
from tests.parity.laboratory import Form, Laboratory
from tests.parity.rows import ROWS
from tests.unit.vindex_files import unseal
from vindex import files
from vindex.errors import VindexIncomplete
from vindex.kinds import ExtractLevel, StorageDtype
from vindex.store import Vindex, open_vindex


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_every_lost_tensor_is_named(row: Row, laboratory: Laboratory, tmp_path: Path) -> None:
    with laboratory.source(row, Form(Spelling.HUB, StorageDtype.F32)) as source:
        assert isinstance(source, Vindex)
        shutil.copytree(source.path, tmp_path / "v")
    path = unseal(tmp_path / "v")
    manifest = path / files.MANIFEST
    entries = json.loads(manifest.read_text())
    for lost in entries:
        if ".1." in lost["key"] or ".2." in lost["key"] or ".3." in lost["key"]:
            continue  # layer 0 and the ends stand for all
        manifest.write_text(json.dumps([each for each in entries if each is not lost]))
        with pytest.raises(VindexIncomplete) as caught, open_vindex(path) as vindex:
            vindex.require(ExtractLevel.INFERENCE, "INFER")
        assert caught.value.details == (lost["key"],)
        assert "EXTRACT MODEL" in (caught.value.hint or "")
