"""The log of edits and the patch file, without a model: properties over random operations."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.vindex_files import VINDEXES, extract_golden
from vindex.edits import (
    ChangeFeature,
    DropFacts,
    DropFeature,
    Fact,
    Operation,
    Piece,
    PutFact,
    PutFeature,
    Vector,
    WriteFact,
    WrittenFact,
    WrittenToken,
    compacted,
    folded,
)
from vindex.errors import OtherBase, PatchInvalid, VindexInvalid
from vindex.knn_store import FILE, read_knn_store
from vindex.overlay import Edit, Overlay
from vindex.patch import Base, Patch, base_of, check_base, dump_patch, read_patch, write_patch
from vindex.probes import FeatureLabel, Probe, ProbeAnswer, PutLabel, PutProbe
from vindex.store import open_vindex

HIDDEN, LAYERS, FEATURES, VOCABULARY = 96, 4, 160, 384
NAMES = st.sampled_from(["Hungary", "hungary ", "Austria", "Österreich", "a-b", "a b"])
RELATIONS = st.sampled_from(["capital", "capital-of", "Capital", "currency"])
VECTORS = st.integers(0, 2**16).map(lambda seed: Vector(struct.pack("<f", seed / 7) * HIDDEN))
SLOTS = {"layer": st.integers(0, LAYERS - 1), "feature": st.integers(0, 5)}
WRITES = st.none() | st.builds(
    WrittenToken, st.just("x"), st.integers(0, VOCABULARY - 1), st.floats(0, 1, width=32)
)
CHANGES: dict[str, Any] = {
    **{name: st.none() | VECTORS for name in ("gate", "up", "down")},
    "writes": WRITES,
}
FACTS = st.builds(
    Fact,
    layer=st.integers(0, LAYERS - 1),
    entity=NAMES,
    relation=RELATIONS,
    target=st.text(min_size=1, max_size=5),
    target_id=st.integers(0, VOCABULARY - 1),
    keys=st.lists(VECTORS, min_size=1, max_size=3).map(tuple),
    confidence=st.floats(0, 1),
    aliases=st.lists(NAMES, max_size=2).map(tuple),
)
ANSWERS = st.builds(
    ProbeAnswer,
    target=st.text(min_size=1, max_size=5),
    token_id=st.integers(0, VOCABULARY - 1),
    probability=st.floats(0, 1),
    lift_nats=st.floats(-9, 9),
    signal=st.sampled_from(["none", "weak", "clear"]),
    source=st.text(max_size=5),
)
PROBES = st.builds(
    Probe,
    entity=NAMES,
    relation=RELATIONS,
    kind=st.just("country"),
    templates=st.just(("{entity} is",)),
    top=st.integers(1, 3),
    answers=st.lists(ANSWERS, max_size=2).map(tuple),
)
LEFTS = st.integers(0, 2**16).map(lambda seed: Vector(struct.pack("<f", seed / 7) * FEATURES))
WRITTEN = st.builds(
    WrittenFact,
    entity=NAMES,
    relation=RELATIONS,
    target=st.text(min_size=1, max_size=5),
    pieces=st.builds(Piece, layer=SLOTS["layer"], left=LEFTS, right=VECTORS).map(
        lambda piece: (piece,)
    ),
    confidence=st.floats(0, 1),
    aliases=st.lists(NAMES, max_size=2).map(tuple),
)
OPERATIONS: st.SearchStrategy[Operation] = st.one_of(
    FACTS.map(PutFact),
    WRITTEN.map(WriteFact),
    st.builds(DropFacts, NAMES, st.none() | RELATIONS),
    st.builds(
        PutFeature, **SLOTS, entity=NAMES, target=st.text(max_size=4), relation=RELATIONS, **CHANGES
    ),
    st.builds(ChangeFeature, **SLOTS, **CHANGES),
    st.builds(DropFeature, **SLOTS),
    PROBES.map(PutProbe),
    st.builds(
        FeatureLabel,
        **SLOTS,
        relation=RELATIONS,
        support=st.none() | st.integers(0, 99),
        precision=st.none() | st.floats(0, 1),
    ).map(PutLabel),
)
LOGS = st.lists(OPERATIONS, max_size=12).map(tuple)


@given(st.lists(FACTS, max_size=3), LOGS)
def test_a_compacted_log_has_the_same_effect_over_any_base(
    base: list[Fact], log: tuple[Operation, ...]
) -> None:
    once = compacted(log)
    assert folded(base, once) == folded(base, log)
    assert compacted(once) == once


@given(st.lists(LOGS, min_size=1, max_size=8), st.data())
def test_undo_goes_back_to_the_very_state(logs: list[tuple[Operation, ...]], data: Any) -> None:
    overlay = Overlay()
    seen = [overlay.view]
    for number, log in enumerate(logs):
        expected = overlay.with_edit(Edit(f"{number}", log))
        overlay.commit(Edit(f"{number}", log))
        assert overlay.view == expected
        seen.append(overlay.view)
    count = data.draw(st.integers(1, len(logs)))
    overlay.undo(count)
    assert overlay.view == seen[-1 - count]
    overlay.undo(overlay.depth)
    assert overlay.view == folded((), ())
    assert overlay.depth == 0


@given(LOGS, LOGS)
def test_removing_a_patch_leaves_what_was_made_beside_it(
    own: tuple[Operation, ...], patch: tuple[Operation, ...]
) -> None:
    overlay, alone = Overlay(), Overlay()
    overlay.commit(Edit("patch", patch, "/p.vlp"))
    overlay.commit(Edit("own", own))
    alone.commit(Edit("own", own))
    overlay.remove("/p.vlp")
    assert overlay.view == alone.view
    assert overlay.unsaved == alone.unsaved
    overlay.undo()
    assert overlay.patches == ("/p.vlp",)


def test_saving_names_the_file_and_discarding_keeps_what_is_saved() -> None:
    overlay = Overlay()
    fact = Fact(0, "a", "b", "c", 1, (Vector(b"\0\0\0\0"),))
    overlay.commit(Edit("one", (PutFact(fact),)))
    assert overlay.to_save("/p.vlp") == (PutFact(fact),)
    overlay.saved("/p.vlp")
    assert overlay.unsaved == ()
    overlay.commit(Edit("two", (DropFacts("a", "b"),)))
    assert overlay.to_save("/other.vlp") == (DropFacts("a", "b"),)
    assert [edit.title for edit in overlay.discard()] == ["two"]
    assert overlay.view.facts[fact.name] == fact


# --------------------------------------------------------------------------- files


@pytest.fixture(scope="module")
def vindex_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("overlay") / "tiny.vindex"
    extract_golden("llama_h96", target)
    return target


def test_a_patch_reads_back_as_it_was_written(vindex_path: Path, tmp_path: Path) -> None:
    file = tmp_path / "p.vlp"
    with open_vindex(vindex_path) as vindex:

        @given(LOGS)
        def round_trip(log: tuple[Operation, ...]) -> None:
            # Probes and labels stand behind the operations, which never depend on them.
            order = (PutProbe, PutLabel)
            log = tuple(sorted(log, key=lambda each: (type(each) in order, type(each) is PutLabel)))
            patch = Patch(base_of(vindex), log, "d", "me", ("x",))
            write_patch(file, patch)
            assert read_patch(file, vindex) == patch

        round_trip()


def test_patches_of_larql_load(data_dir: Path) -> None:
    with open_vindex(VINDEXES / "llama_h96.f16") as vindex:
        knn = read_patch(data_dir / "golden/patches/knn.vlp", vindex)
        (put,) = knn.operations
        assert isinstance(put, PutFact)
        assert (str(put.fact), put.fact.layer, put.fact.target_id) == (
            "France —capital→ Rome",
            2,
            377,
        )
        check_base(knn, base_of(vindex), Path("knn.vlp"))
        compose = read_patch(data_dir / "golden/patches/compose.vlp", vindex)
        kinds = [type(operation) for operation in compose.operations]
        assert kinds == [PutFeature, ChangeFeature, DropFeature]


def test_what_larql_reads_is_written_as_larql_writes_it(data_dir: Path) -> None:
    for name in ("knn.vlp", "compose.vlp"):
        data = (data_dir / "golden/patches" / name).read_bytes()
        with open_vindex(VINDEXES / "llama_h96.f16") as vindex:
            patch = read_patch(data_dir / "golden/patches" / name, vindex)
        ours = json.loads(dump_patch(patch))
        assert ours.pop("base_files") == {}
        assert ours == json.loads(data)
        assert list(ours) == list(json.loads(data))


def test_another_base_is_refused_with_what_differs(vindex_path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.vindex"
    extract_golden("gemma3_h96", other)
    with open_vindex(vindex_path) as mine, open_vindex(other) as theirs:
        patch = Patch(base_of(theirs), ())
        check_base(patch, base_of(theirs), Path("p.vlp"))
        with pytest.raises(OtherBase) as caught:
            check_base(patch, base_of(mine), Path("p.vlp"))
    assert any(line.startswith("gate_vectors.bin: ") for line in caught.value.details)
    assert any(line.startswith("model: ") for line in caught.value.details)


def test_the_same_weights_extracted_again_are_the_same_base(
    vindex_path: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again.vindex"
    extract_golden("llama_h96", again)
    with open_vindex(vindex_path) as first, open_vindex(again) as second:
        assert base_of(first).checksum == base_of(second).checksum is not None


def broken(change: Any) -> bytes:
    """A good patch file with one change."""
    fact = Fact(1, "a", "b", "c", 5, (Vector(struct.pack("<f", 1.0) * HIDDEN),))
    feature = PutFeature(1, 2, "a", "c", gate=Vector(struct.pack("<f", 1.0) * HIDDEN))
    document = json.loads(dump_patch(Patch(Base("m", None, {}), (PutFact(fact), feature))))
    change(document)
    return json.dumps(document).encode()


NAN = base64.b64encode(struct.pack("<f", float("nan")) * HIDDEN).decode()
DAMAGES: dict[str, Any] = {
    "unknown operation": lambda d: d["operations"][0].update(op="explode"),
    "no operation": lambda d: d["operations"][0].pop("op"),
    "version": lambda d: d.update(version=2),
    "no base": lambda d: d.pop("base_model"),
    "operations": lambda d: d.update(operations={}),
    "layer": lambda d: d["operations"][0].update(layer=LAYERS),
    "negative layer": lambda d: d["operations"][0].update(layer=-1),
    "feature": lambda d: d["operations"][1].update(feature=FEATURES),
    "token": lambda d: d["operations"][0].update(target_id=VOCABULARY),
    "no key": lambda d: d["operations"][0].pop("key_vector_b64"),
    "not base64": lambda d: d["operations"][0].update(key_vector_b64="!!!!"),
    "cut base64": lambda d: d["operations"][0].update(key_vector_b64="AAA"),
    "short key": lambda d: d["operations"][0].update(key_vector_b64="AAAAAA=="),
    "nan": lambda d: d["operations"][0].update(key_vector_b64=NAN),
    "nan gate": lambda d: d["operations"][1].update(gate_vector_b64=NAN),
    "text layer": lambda d: d["operations"][0].update(layer="1"),
    "meta": lambda d: d["operations"][1].update(down_meta={"t": "x", "i": 1}),
    "aliases": lambda d: d["operations"][0].update(aliases=[1]),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_bad_patch_is_refused_whole(name: str, vindex_path: Path, tmp_path: Path) -> None:
    file = tmp_path / "bad.vlp"
    with open_vindex(vindex_path) as vindex:
        file.write_bytes(broken(lambda document: None))
        assert len(read_patch(file, vindex).operations) == 2
        file.write_bytes(broken(DAMAGES[name]))
        with pytest.raises(PatchInvalid):
            read_patch(file, vindex)


@pytest.mark.parametrize("cut", [0, 1, 40, 200, -1])
def test_a_cut_patch_is_refused(cut: int, vindex_path: Path, tmp_path: Path) -> None:
    file = tmp_path / "cut.vlp"
    file.write_bytes(broken(lambda document: None)[:cut])
    with open_vindex(vindex_path) as vindex, pytest.raises(PatchInvalid):
        read_patch(file, vindex)


def test_the_facts_that_larql_compiled_in_are_read() -> None:
    with open_vindex(VINDEXES / "llama_h96.compiled_knn") as vindex:
        facts = read_knn_store(vindex.path, vindex.index)
    assert sorted(map(str, facts)) == ["France —capital→ Rome", "Italy —capital→ Berlin"]


@pytest.mark.parametrize("cut", [3, 10, 17, 100, -1])
def test_a_damaged_store_is_refused(cut: int, tmp_path: Path) -> None:
    with open_vindex(VINDEXES / "llama_h96.compiled_knn") as vindex:
        data = (vindex.path / FILE).read_bytes()
        (tmp_path / FILE).write_bytes(data[:cut])
        with pytest.raises(VindexInvalid):
            read_knn_store(tmp_path, vindex.index)
        (tmp_path / FILE).write_bytes(data + b"\0")
        with pytest.raises(VindexInvalid):
            read_knn_store(tmp_path, vindex.index)
