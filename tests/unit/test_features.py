"""Gate scores, walks, descriptions, listings and labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.unit.vindex_files import VINDEXES, copy_golden, extract_golden
from vindex import edges, files
from vindex.bands import Band
from vindex.dtypes import from_float32, to_float32
from vindex.edges import describe_static, is_content, is_readable
from vindex.errors import VindexInvalid
from vindex.features import (
    describe_layer,
    entity_query,
    feature_table,
    gate_walk,
    prompt_query,
    strongest,
)
from vindex.gates import gate_scores, matvec
from vindex.kinds import StorageDtype
from vindex.labels import Label, Labels, LabelSource, read_labels
from vindex.store import Vindex, open_vindex

Float32 = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def vx() -> Vindex:
    return open_vindex(VINDEXES / "llama_h96.f16")


@pytest.fixture(scope="module")
def gemma() -> Vindex:
    return open_vindex(VINDEXES / "gemma3_h96.f16")


# ------------------------------------------------------------------------------ gate scores


@pytest.mark.parametrize("dtype", list(StorageDtype))
@pytest.mark.parametrize("shape", [(1, 1), (1000, 96), (3, 70_000), (0, 5)])
def test_scores_are_the_matrix_times_the_query(dtype: StorageDtype, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    stored = from_float32(rng.standard_normal(shape, dtype=np.float32), dtype)
    query = rng.standard_normal(shape[1], dtype=np.float32)
    exact = to_float32(stored, dtype).astype(np.float64) @ query
    assert matvec(stored, dtype, query) == pytest.approx(exact, rel=1e-5, abs=1e-3)


def test_every_float16_is_widened_exactly() -> None:
    """All 65,536 bit patterns, one a row, subnormals and signed zeros included."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)[:, None]
    scores = matvec(every, StorageDtype.F16, np.ones(1, np.float32))
    expected = every[:, 0].astype(np.float32)
    finite = np.isfinite(expected)
    assert np.array_equal(scores[finite], expected[finite])
    assert not np.isfinite(scores[~finite]).any()


def test_a_query_too_large_for_the_shortcut_is_still_right() -> None:
    row = np.full((1, 2), 2.0**-10, np.float16)
    assert matvec(row, StorageDtype.F16, np.float32([1e30, 0])).tolist() == [
        np.float32(1e30 / 1024)
    ]


@pytest.mark.parametrize("bits", [0x7C00, 0xFC00, 0x7C01, 0xFFFF])
def test_gate_rows_that_are_not_finite_are_refused(tmp_path: Path, vx: Vindex, bits: int) -> None:
    path = copy_golden("llama_h96.f16", tmp_path / "v")
    gate = np.fromfile(path / files.GATE, np.uint16)
    gate[160 * 96 + 5] = bits
    gate.tofile(path / files.GATE)
    query = np.ones(96, np.float32)
    with open_vindex(path) as damaged:
        assert np.array_equal(gate_scores(damaged, 0, query), gate_scores(vx, 0, query))
        with pytest.raises(VindexInvalid, match="gate vectors of layer 1 hold NaN or infinity"):
            gate_scores(damaged, 1, query)


def test_a_layer_that_does_not_exist_scores_nothing(vx: Vindex) -> None:
    assert gate_scores(vx, 99, np.ones(96, np.float32)).shape == (0,)


def test_strongest_is_by_size_and_then_by_index() -> None:
    scores = np.float32([0.5, -3, 2, 3, -2, 0])
    assert strongest(scores, 4).tolist() == [1, 3, 2, 4]
    assert strongest(scores, 99).tolist() == [1, 3, 2, 4, 0, 5]
    assert strongest(scores, 0).tolist() == []
    many = np.tile(np.float32([1, -1]), 500)
    assert strongest(many, 7).tolist() == list(range(7))


# ------------------------------------------------------------------------------ queries


def test_an_entity_is_the_mean_of_its_tokens_scaled(gemma: Vindex) -> None:
    ids = gemma.encode("France", special=False)
    assert len(ids) > 1
    expected = gemma.embeddings.float32()[ids].mean(axis=0) * np.sqrt(96)
    assert entity_query(gemma, "France") == pytest.approx(expected, rel=1e-5)


def test_a_prompt_is_its_last_token_scaled(gemma: Vindex) -> None:
    ids = gemma.encode("The capital of France is", special=True)
    assert ids[0] == 2  # <bos>
    found = prompt_query(gemma, "The capital of France is")
    assert found is not None
    assert found[1] == ids[-1]
    assert found[0] == pytest.approx(gemma.embeddings.float32()[ids[-1]] * np.sqrt(96), rel=1e-6)


def test_nothing_to_look_up_is_no_query(vx: Vindex) -> None:
    assert entity_query(vx, "") is None
    assert prompt_query(vx, "") is not None  # the beginning-of-text token remains
    assert describe_static(vx, "").edges == ()


def test_a_token_that_the_tokenizer_appends_is_not_the_last_one(tmp_path: Path) -> None:
    path = copy_golden("llama_h96.f16", tmp_path / "v")
    document = json.loads((path / files.TOKENIZER).read_text())
    eos = {"SpecialToken": {"id": "<eos>", "type_id": 0}}
    document["post_processor"]["single"].append(eos)
    document["post_processor"]["special_tokens"]["<eos>"] = {
        "id": "<eos>",
        "ids": [1],
        "tokens": ["<eos>"],
    }
    (path / files.TOKENIZER).write_text(json.dumps(document))
    with open_vindex(path) as changed, open_vindex(VINDEXES / "llama_h96.f16") as plain:
        assert changed.tokenizer().encode("France").ids[-1] == 1
        one, other = prompt_query(changed, "France"), prompt_query(plain, "France")
    assert one is not None
    assert other is not None
    assert one[1] == other[1]
    assert np.array_equal(one[0], other[0])


# ------------------------------------------------------------------------------ walks


def test_a_walk_ranks_each_layer_by_size(vx: Vindex) -> None:
    found = prompt_query(vx, "The capital of France is")
    assert found is not None
    query = found[0]
    hits = gate_walk(vx, query, [2, 0], 5)
    assert [hit.layer for hit in hits] == [2] * 5 + [0] * 5
    scores = vx.gate(2).float32() @ query
    best = np.argsort(-np.abs(scores), kind="stable")[:5]
    assert [hit.feature for hit in hits[:5]] == best.tolist()
    assert [hit.gate for hit in hits[:5]] == pytest.approx(scores[best], rel=1e-5)
    for hit in hits:
        record = vx.down_meta.records(hit.layer)[hit.feature]
        assert (hit.token_id, hit.score) == (record["token"], record["score"])
        assert [down.token_id for down in hit.down] == record["top"]["token"][
            : len(hit.down)
        ].tolist()
        assert hit.down[0].token == hit.token
        assert hit.also == tuple(down.token for down in hit.down[1:])


def test_features_without_tokens_are_left_out_of_the_top(tmp_path: Path) -> None:
    path = copy_golden("llama_h96.f16", tmp_path / "v")
    with open_vindex(path) as before:
        query = np.ones(96, np.float32)
        first, *rest = gate_walk(before, query, [0], 3)
    data = bytearray((path / files.DOWN_META).read_bytes())
    start = 16 + 4 + first.feature * 88
    data[start : start + 88] = bytes(88)
    (path / files.DOWN_META).write_bytes(data)
    with open_vindex(path) as after:
        assert gate_walk(after, query, [0], 3) == rest
        assert describe_layer(after, 0).described == 159
        assert first.feature not in feature_table(after, 0).features


def test_a_token_id_beyond_the_vocabulary_is_refused(tmp_path: Path) -> None:
    path = copy_golden("llama_h96.f16", tmp_path / "v")
    data = bytearray((path / files.DOWN_META).read_bytes())
    for slot in range(160):
        data[20 + slot * 88 + 8 : 20 + slot * 88 + 12] = (9999).to_bytes(4, "little")
    (path / files.DOWN_META).write_bytes(data)
    with open_vindex(path) as vx, pytest.raises(VindexInvalid, match="names token 9,999 of 384"):
        gate_walk(vx, np.ones(96, np.float32), [0], 1)


# ------------------------------------------------------------------------------ listings


def test_a_feature_table_is_the_records(vx: Vindex) -> None:
    table = feature_table(vx, 1)
    records = vx.down_meta.records(1)
    assert len(table) == 160
    assert np.array_equal(table.features, np.arange(160))
    assert np.array_equal(table.token_ids, records["token"])
    assert np.array_equal(table.scores, records["score"])
    used = table.also_ids >= 0
    assert np.array_equal(table.also_ids[used], records["top"]["token"][:, 1:][used])
    assert (records["top"]["score"][:, 1:][~used] == 0).all()
    assert not used.all()
    assert len(feature_table(vx, 77)) == 0


def test_a_layer_summary_counts_the_commonest_token(vx: Vindex) -> None:
    summary = describe_layer(vx, 3)
    tokens = vx.down_meta.records(3)["token"].tolist()
    most = max(sorted(set(tokens)), key=tokens.count)
    assert (summary.features, summary.described) == (160, 160)
    assert summary.writers == tokens.count(most)
    assert summary.token == vx.token_texts.text(most)
    nothing = describe_layer(vx, 50)
    assert (nothing.features, nothing.described, nothing.token, nothing.writers) == (0, 0, None, 0)


# ------------------------------------------------------------------------------ descriptions


@pytest.mark.parametrize(
    ("token", "readable", "content"),
    [
        ("Paris", True, True),
        ("Saint-Denis", True, True),
        ("of", True, False),  # too short
        ("the", True, False),  # a function word
        ("Which", True, False),
        ("camelCase", True, False),
        ("1984", True, False),  # no letters
        ("A380s", True, False),  # too few letters
        ("été", False, False),
        ("résumé", True, True),
        ("Zürich", True, True),
        ("巴黎", False, False),
        ("\ufffd", False, False),
        ("})", False, False),
        ("", False, False),
        ("x" * 26, True, False),
        ("x" * 31, False, False),
    ],
)
def test_token_filters(token: str, readable: bool, content: bool) -> None:
    assert is_readable(token) is readable
    assert is_content(token) is content


class Bench:
    """A vindex whose layer scores and tokens a test chooses."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        extract_golden("llama_h96", path)
        self.vx = open_vindex(path)
        self._words: dict[int, str] = {}
        self._scores = np.zeros((4, 160), np.float32)
        self.records = {layer: self.vx.down_meta.records(layer).copy() for layer in range(4)}
        for records in self.records.values():
            records[:] = 0
        monkeypatch.setattr(self.vx.down_meta, "records", self.records.__getitem__)
        monkeypatch.setattr(
            self.vx.token_texts, "texts", lambda ids: [self._words[token] for token in ids]
        )
        monkeypatch.setattr("vindex.edges.gate_scores", lambda vx, layer, q: self._scores[layer])

    def feature(self, layer: int, feature: int, gate: float, *words: str) -> None:
        self._scores[layer, feature] = gate
        for slot, word in enumerate(words):
            token = len(self._words) + 5
            self._words[token] = word
            self.records[layer][feature]["top"][slot] = (token, 9 - slot)
        self.records[layer]["token"] = self.records[layer]["top"]["token"][:, 0]
        self.records[layer]["score"] = self.records[layer]["top"]["score"][:, 0]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path / "v", monkeypatch)


def test_edges_are_merged_by_word_and_sorted_by_gate(bench: Bench) -> None:
    bench.feature(0, 3, 8.0, "paris", "Lyon", "Nice", "Lille", "Brest")
    bench.feature(2, 7, 12.0, "Paris", "Rome")
    bench.feature(3, 9, 6.0, "PARIS", "Oslo")
    bench.feature(3, 1, 9.5, "Europe", "Asia")
    bench.feature(3, 2, -30.0, "Spain", "Madrid")
    first, second = describe_static(bench.vx, "France").edges
    assert (first.target, first.score, first.layer, first.feature) == ("paris", 12.0, 2, 7)
    assert (first.layers, first.hits, first.also) == ((0, 2, 3), 3, ("Lyon", "Nice", "Lille"))
    assert (first.relation, first.band) == (None, None)
    assert (second.target, second.score, second.also) == ("Europe", 9.5, ("Asia",))


def test_the_floor_is_five(bench: Bench) -> None:
    bench.feature(0, 0, 4.999, "Paris", "Lyon")
    assert describe_static(bench.vx, "France").edges == ()
    bench.feature(0, 1, 5.0, "Berlin", "Bonn")
    assert [edge.target for edge in describe_static(bench.vx, "France").edges] == ["Berlin"]


def test_only_the_layers_asked_for_are_walked(bench: Bench) -> None:
    bench.feature(0, 0, 9, "Paris", "Lyon")
    bench.feature(2, 0, 9, "Berlin", "Bonn")
    assert [edge.target for edge in describe_static(bench.vx, "France", [2]).edges] == ["Berlin"]


def test_noise_and_the_entity_itself_are_no_targets(bench: Bench) -> None:
    for feature, word in enumerate(["france", "FRANCE", "the", "巴黎", "})", "aB"]):
        bench.feature(0, feature, 30, word, "Lyon")
    assert describe_static(bench.vx, "France").edges == ()


def test_incoherent_features_need_a_gate_of_twenty(bench: Bench) -> None:
    """Readable companions of which none carries content speak against a weak feature."""
    bench.feature(0, 0, 19.9, "Paris", "12", "a1")
    bench.feature(0, 1, 20.0, "Berlin", "12", "a1")
    bench.feature(0, 2, 6.0, "Vienna", "})", "巴黎")  # companions that cannot be read say nothing
    assert [edge.target for edge in describe_static(bench.vx, "France").edges] == [
        "Berlin",
        "Vienna",
    ]


def test_companions_with_negative_logits_do_not_count(bench: Bench) -> None:
    bench.feature(0, 0, 8.0, "Paris", "Lyon", "Nice")
    bench.records[0][0]["top"]["score"][1] = -1
    (edge,) = describe_static(bench.vx, "France").edges
    assert edge.also == ("Nice",)


def test_only_twenty_features_of_a_layer_are_looked_at(bench: Bench) -> None:
    for feature in range(edges.PER_LAYER):
        bench.feature(1, feature, -100.0, "Rome", "Milan")
    bench.feature(1, 150, 50.0, "Paris", "Lyon")
    assert describe_static(bench.vx, "France").edges == ()


def test_edges_carry_labels_and_bands(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.feature(0, 3, 8.0, "Paris", "Lyon")
    labels = Labels({(0, 3): "capital"}, {}, {})
    bench.vx.__dict__["labels"] = labels
    from vindex.bands import Bands

    bench.vx.__dict__["bands"] = Bands((1, 1), (2, 2), (3, 3))
    (edge,) = describe_static(bench.vx, "France").edges
    assert edge.relation == Label("capital", LabelSource.PROBE)
    assert edge.band is Band.KNOWLEDGE  # outside every band


# ------------------------------------------------------------------------------ labels


def test_probe_labels_win_over_clusters(tmp_path: Path) -> None:
    (tmp_path / files.FEATURE_LABELS).write_text(
        json.dumps({"L26_F9515": "capital", "26:9515": "x", "L1_F2": 5, "Lx_F1": "y"})
    )
    (tmp_path / files.RELATION_CLUSTERS).write_text(
        json.dumps({"k": 2, "labels": ["continent", "language"], "counts": [1, 2]})
    )
    (tmp_path / files.FEATURE_CLUSTERS).write_text(
        '{"l": 26, "f": 9515, "c": 0}\n\n{"l": 1, "f": 2, "c": 1}\n{"l": 1, "f": 3, "c": 7}\n'
        '{"l": 1, "f": "3", "c": 0}\n'
    )
    labels = read_labels(tmp_path)
    assert labels.of(26, 9515) == Label("capital", LabelSource.PROBE)
    assert labels.of(1, 2) == Label("language", LabelSource.CLUSTER)
    assert labels.of(1, 3) is labels.of(0, 0) is None
    assert labels.skipped == 4
    assert labels


def test_no_label_files_are_no_labels(tmp_path: Path) -> None:
    labels = read_labels(tmp_path)
    assert not labels
    assert labels.of(0, 0) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (files.FEATURE_LABELS, "[]"),
        (files.FEATURE_LABELS, '{"L0_F0": "a", "L0_F0": "b"}'),
        (files.RELATION_CLUSTERS, '{"labels": [1]}'),
        (files.RELATION_CLUSTERS, "{}"),
        (files.FEATURE_CLUSTERS, '{"l": NaN}'),
        (files.FEATURE_CLUSTERS, "3"),
    ],
)
def test_damaged_label_files_are_refused(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(VindexInvalid, match=name.replace(".", r"\.")):
        read_labels(tmp_path)
