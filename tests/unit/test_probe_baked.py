"""Answers of PROBE in a compiled vindex: edges of it from then on, without the overlay."""

# ruff: noqa: F811 (fixtures of a neighbour)

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lql.errors import LqlError
from lql.session import Session, connect
from tests.unit.test_probe import NAMES, PROBE, made, session  # noqa: F401
from vindex.edge_store import FILE
from vindex.seal import read_seal
from vindex.verify import verify

EDGES = 'SELECT * FROM EDGES WHERE evidence = "probe"'
CODE = """
import json, sys, lql
with lql.open(sys.argv[1]) as session:
    for statement in sys.argv[2:]:
        print(json.dumps(session.query(statement).rows, default=list))
print("torch" in sys.modules)
"""


def in_a_new_process(vindex: Path, *statements: str) -> list[Any]:
    """The rows of each statement, and whether torch was imported."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(vindex), *statements],
        capture_output=True,
        text=True,
        check=True,
    )
    *rows, torch = done.stdout.splitlines()
    return [*map(json.loads, rows), torch == "True"]


@pytest.fixture
def baked(session: Session, tmp_path: Path) -> Path:
    session.query(PROBE)
    found = session.query("COMPILE CURRENT INTO VINDEX :o", o=str(tmp_path / "baked.vindex"))
    assert found.to_dict()["probes"] == len(NAMES)
    assert FILE in found.to_dict()["rewritten"]
    return tmp_path / "baked.vindex"


def test_a_new_process_sees_them_as_probe_edges(session: Session, baked: Path) -> None:
    expected = json.loads(
        json.dumps(
            [session.query(EDGES).rows, session.query("SHOW RELATIONS WITH EXAMPLES").rows],
            default=list,
        )
    )
    seal = read_seal(baked)
    assert seal is not None
    assert FILE in seal.sealed
    assert verify(baked).ok
    found = in_a_new_process(baked, EDGES, "SHOW RELATIONS WITH EXAMPLES", "SHOW EDITS")
    assert found == [*expected, [], False]
    assert expected[0]


def test_describe_shows_them_where_no_model_can_be_asked(
    session: Session,
    made: Path,
    tmp_path: Path,
) -> None:
    rows = session.query(PROBE).rows
    patch, out = str(tmp_path / "p.vlp"), tmp_path / "baked.vindex"
    session.query("SAVE PATCH :p", p=patch)
    small = str(tmp_path / "browse.vindex")
    with connect() as browse:
        browse.query("EXTRACT MODEL :m INTO :b WITH BROWSE DTYPE f32", m=str(made.parent), b=small)
        browse.query("USE :b", b=small)
        browse.query("APPLY PATCH :p FORCE", p=patch)
        browse.query("COMPILE CURRENT INTO VINDEX :o", o=str(out))
    entity = rows[0]["entity"]
    described, torch = in_a_new_process(out, f'DESCRIBE "{entity}"')
    told = [(r["relation"], r["target"]) for r in described if r["evidence"] == "probe"]
    assert told == [(r["relation"], r["target"]) for r in rows if r["entity"] == entity]
    assert not torch


def test_they_are_a_base_for_further_edits(session: Session, baked: Path, tmp_path: Path) -> None:
    before = session.query(EDGES).rows
    with connect(baked) as again:
        again.query(PROBE)
        assert not again.overlay.edits  # all of them had been probed before
        assert again.query(EDGES).rows == before
        again.query('PROBE RELATION "capital" FOR ("Togo", "France") TOP 2')
        patch = tmp_path / "more.vlp"
        again.query("SAVE PATCH :p", p=str(patch))
        written = json.loads(patch.read_text(encoding="utf-8"))["probes"]
        assert [(each["entity"], each["top"]) for each in written] == [("Togo", 2), ("France", 2)]
        after = again.overlay.view
        again.query("REMOVE PATCH :p", p=str(patch))
        assert again.query(EDGES).rows == before
        again.query("APPLY PATCH :p", p=str(patch))
        assert again.overlay.view == after
        again.query('PROBE RELATION "capital" FOR ("France") TOP 3')  # and a conflict with it
        after = again.overlay.view
        for conflict in ("LAST_WINS", "HIGHEST_CONFIDENCE"):
            out = tmp_path / conflict
            again.query(f"COMPILE CURRENT INTO VINDEX :o ON CONFLICT {conflict}", o=str(out))
            with connect(out) as third:
                assert third.overlay.view == after
        again.discard_edits()
    with connect() as other:
        other.query("COMPILE :b INTO VINDEX :o", b=str(baked), o=str(tmp_path / "copy.vindex"))
    assert (tmp_path / "copy.vindex" / FILE).read_bytes() == (baked / FILE).read_bytes()


def test_a_merge_in_place_keeps_them(session: Session, baked: Path, tmp_path: Path) -> None:
    session.query(
        'INSERT INTO EDGES (entity, relation, target) VALUES ("Chad", "song", "La") CHECK NONE'
    )
    other = tmp_path / "other.vindex"
    session.query("COMPILE CURRENT INTO VINDEX :o", o=str(other))
    (other / FILE).unlink()
    seal = json.loads((other / "seal.json").read_text())
    del seal["files"][FILE]
    (other / "seal.json").write_text(json.dumps(seal))
    kept = (baked / FILE).read_bytes()
    session.query("MERGE :s INTO :t", s=str(other), t=str(baked))
    assert (baked / FILE).read_bytes() == kept
    with connect(baked) as merged:
        assert len(merged.overlay.view.facts) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.update(version=2),
        lambda document: document["probes"][0].update(top=0),
        lambda document: document["probes"][0]["answers"][0].update(token_id=10**9),
        lambda document: document["probes"][0]["answers"][0].update(probability=2),
        lambda document: document.update(probes={}),
    ],
)
@pytest.mark.parametrize("sealed", [True, False])
def test_a_damaged_file_is_refused(baked: Path, change: Any, sealed: bool) -> None:
    document = json.loads((baked / FILE).read_text(encoding="utf-8"))
    change(document)
    data = json.dumps(document).encode()
    size = (baked / FILE).stat().st_size
    (baked / FILE).write_bytes(data.ljust(size))
    if not sealed:
        seal = json.loads((baked / "seal.json").read_text())
        del seal["files"][FILE]
        (baked / "seal.json").write_text(json.dumps(seal))
    with pytest.raises(LqlError, match="probe_edges"):
        connect(baked)
    if sealed:
        assert not verify(baked).ok
