"""``down_meta.bin``: its bytes, and the exactness of the scores in it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lql.inference import token_scorer
from lql.inference.token_scorer import TorchScorer
from vindex import scoring
from vindex.downmeta import DownMeta, DownMetaWriter, make_records, present, record_dtype
from vindex.dtypes import from_float32, to_float32
from vindex.errors import VindexInvalid
from vindex.files import MappedFile
from vindex.kinds import StorageDtype
from vindex.scoring import Embeddings, NumpyScorer, TokenScorer, TopTokens, exact_scores

Float32 = npt.NDArray[np.float32]


def brute_force(embeddings: Float32, columns: Float32, k: int) -> TopTokens:
    """Every score in float64, rounded to float32, sorted by score and token id."""
    scores = np.stack(
        [exact_scores(embeddings, np.tile(column, (len(embeddings), 1))) for column in columns]
    )
    ids = np.stack([np.lexsort((np.arange(len(embeddings)), -row))[:k] for row in scores])
    return TopTokens(ids, np.take_along_axis(scores, ids, axis=1))


def score(scorer: TokenScorer, embeddings: Float32, columns: Float32, k: int = 10) -> TopTokens:
    scorer.begin(Embeddings(embeddings, StorageDtype.F32))
    try:
        return scorer.top(columns, k)
    finally:
        scorer.end()


def assert_same(found: TopTokens, expected: TopTokens) -> None:
    assert np.array_equal(found.ids, expected.ids)
    assert np.array_equal(found.scores.view(np.uint32), expected.scores.view(np.uint32))


@pytest.fixture(params=[NumpyScorer, TorchScorer])
def scorer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> TokenScorer:
    """Each scorer; the torch one with its bfloat16 product even where that is slow."""
    monkeypatch.setattr(token_scorer, "_bfloat16_is_faster", lambda hidden: True)
    made: TokenScorer = request.param()
    return made


def normal(*shape: int, seed: int = 0) -> Float32:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def test_random_scores_are_exact(scorer: TokenScorer) -> None:
    embeddings, columns = normal(5000, 96), normal(70, 96, seed=1)
    assert_same(score(scorer, embeddings, columns), brute_force(embeddings, columns, 10))


def test_rows_of_very_different_sizes_are_exact(scorer: TokenScorer) -> None:
    """A bound for the largest row must not hide winners among the small ones, nor the reverse."""
    sizes = np.exp(np.random.default_rng(3).normal(0, 2, (6000, 1))).astype(np.float32)
    embeddings = normal(6000, 64) * sizes
    columns = normal(40, 64, seed=1) * np.float32(1e-3)
    assert_same(score(scorer, embeddings, columns), brute_force(embeddings, columns, 10))


def test_near_ties_below_bfloat16_are_decided_exactly(scorer: TokenScorer) -> None:
    """Rows that agree to 16 bits: the fast product sees hundreds of equal scores."""
    rng = np.random.default_rng(4)
    base = normal(1, 128)
    embeddings = normal(5000, 128, seed=5)
    embeddings[1000:1400] = base * (1 + 1e-6 * rng.standard_normal((400, 1)).astype(np.float32))
    columns = np.concatenate([base, -base, normal(6, 128, seed=6) + base])
    assert_same(score(scorer, embeddings, columns), brute_force(embeddings, columns, 10))


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts of columns that the torch scorer hands to the exact one, call by call."""
    counts: list[int] = []
    top = NumpyScorer.top

    def counted(self: NumpyScorer, columns: Float32, k: int) -> TopTokens:
        counts.append(len(columns))
        return top(self, columns, k)

    monkeypatch.setattr(NumpyScorer, "top", counted)
    monkeypatch.setattr(token_scorer, "_bfloat16_is_faster", lambda hidden: True)
    return counts


def _among_noise(tokens: list[Float32], size: int) -> Float32:
    """4000 tokens of small noise; each given row stands a dozen times, the last given first."""
    embeddings = normal(4000, size, seed=7) * np.float32(2.0**-14)
    rows = [row for row in reversed(tokens) for _ in range(12)]
    embeddings[100 : 100 + len(rows)] = rows
    return embeddings


_BELOW, _ABOVE = 1 + 2**-8 - 2**-12, 1 + 2**-8 + 2**-12  # round to 1 and 1 + 2^-7 in bfloat16
_HALF = 1 + 2**-9  # rounds to 1


def test_rounding_of_the_embedding_to_bfloat16_is_bounded(handed: list[int]) -> None:
    """Rounding errors all point one way: the better token scores 0, the worse one the most."""
    column = np.tile(np.float32([1, -1]), 32)
    better = np.tile(np.float32([_BELOW, 1]), 32)
    worse = np.tile(np.float32([_ABOVE, _HALF]), 32)
    column[0], better[0], worse[0] = 2, 1, 1  # lifts the scores over the bound
    embeddings = _among_noise([better, worse], 64)
    found = score(TorchScorer(), embeddings, column[None])
    assert found.ids[0].tolist() == list(range(112, 122))
    assert_same(found, brute_force(embeddings, column[None], 10))
    assert handed == []


def test_rounding_of_the_column_to_bfloat16_is_bounded(handed: list[int]) -> None:
    column = np.tile(np.float32([_BELOW, 1, _ABOVE, _HALF]), 16)
    better = np.tile(np.float32([1, -1, 0, 0]), 16)
    worse = np.tile(np.float32([0, 0, 1, -1]), 16)
    column[0], better[0], worse[:2] = 2, 1, (1, -1)
    embeddings = _among_noise([better, worse], 64)
    found = score(TorchScorer(), embeddings, column[None])
    assert found.ids[0].tolist() == list(range(112, 122))
    assert_same(found, brute_force(embeddings, column[None], 10))
    assert handed == []


def test_rounding_of_the_product_to_bfloat16_is_bounded(handed: list[int]) -> None:
    """Sums on the two sides of a rounding boundary, 16 apart in bfloat16, 0.003 in truth.

    Everything is exact in bfloat16; the float32 sum loses the small terms behind 4096.
    """
    column = np.ones((1, 64), np.float32)
    worse = np.zeros(64, np.float32)
    worse[[0, 63]] = 4096, -72
    better = worse.copy()
    better[1:33] = 2.0**-13
    better[40] = -(2.0**-10)
    embeddings = _among_noise([better, worse], 64)
    found = score(TorchScorer(), embeddings, column)
    assert found.ids[0].tolist() == list(range(112, 122))
    assert_same(found, brute_force(embeddings, column, 10))
    assert handed == []


def test_terms_lost_in_a_float32_sum_are_bounded(handed: list[int]) -> None:
    column = np.ones((1, 64), np.float32)
    worse = np.zeros(64, np.float32)
    worse[[0, 61, 62]] = 8192, -8192, 1 + 2.0**-6
    better = worse.copy()
    better[1:61] = 1.5 * 2.0**-12  # each below half a step of 8192
    better[62] = 1
    embeddings = _among_noise([better, worse], 64)
    found = score(TorchScorer(), embeddings, column)
    assert found.ids[0].tolist() == list(range(112, 122))
    assert_same(found, brute_force(embeddings, column, 10))
    assert handed == []


def test_rounding_of_a_float32_sum_is_bounded(scorer: TokenScorer) -> None:
    """Scores are small differences of large terms, below the noise of a float32 product."""
    column = np.tile(np.float32([1, -1]), 64)[None]
    large = np.repeat(normal(4000, 64, seed=8) * np.float32(1000), 2, axis=1)
    embeddings = large + normal(4000, 128, seed=9) * np.float32(1e-4)
    assert_same(score(scorer, embeddings, column), brute_force(embeddings, column, 10))


def test_equal_rows_are_ordered_by_token_id(scorer: TokenScorer) -> None:
    """Vocabularies hold hundreds of unused tokens with one and the same embedding."""
    embeddings = normal(5000, 48)
    twins = np.random.default_rng(0).permutation(5000)[:700]
    embeddings[twins] = embeddings[twins[0]]
    columns = np.concatenate([embeddings[twins[:1]], normal(5, 48, seed=2)])
    found = score(scorer, embeddings, columns)
    assert found.ids[0].tolist() == sorted(twins.tolist())[:10]
    assert_same(found, brute_force(embeddings, columns, 10))


@pytest.mark.parametrize("shift", [-30.0, 0.0])
def test_columns_that_point_away_from_every_token(scorer: TokenScorer, shift: float) -> None:
    """All scores negative: maxima over integer bits would pick the worst token of a block."""
    embeddings = np.abs(normal(4000, 32)) + np.float32(0.1)
    columns = -np.abs(normal(9, 32, seed=1)) + np.float32(shift)
    columns[4] = normal(1, 32, seed=2)
    assert_same(score(scorer, embeddings, columns), brute_force(embeddings, columns, 10))


def test_columns_of_zeros_score_zero_everywhere(scorer: TokenScorer) -> None:
    embeddings, columns = normal(4000, 32), normal(5, 32, seed=1)
    columns[[0, 3]] = 0
    found = score(scorer, embeddings, columns)
    assert found.ids[3].tolist() == list(range(10))
    assert not found.scores[3].any()
    assert_same(found, brute_force(embeddings, columns, 10))


@pytest.mark.parametrize("scale", [1e-42, 1e-25, 1e18])
def test_extreme_magnitudes_are_exact(scorer: TokenScorer, scale: float) -> None:
    embeddings = normal(4000, 32)
    columns = (normal(6, 32, seed=1).astype(np.float64) * scale).astype(np.float32)
    assert_same(score(scorer, embeddings, columns), brute_force(embeddings, columns, 10))


@pytest.mark.parametrize(("vocabulary", "k"), [(1, 10), (7, 10), (384, 10), (2561, 10), (99, 99)])
def test_small_vocabularies(scorer: TokenScorer, vocabulary: int, k: int) -> None:
    embeddings, columns = normal(vocabulary, 24), normal(11, 24, seed=1)
    found = score(scorer, embeddings, columns, k)
    assert found.ids.shape == (11, min(k, vocabulary))
    assert_same(found, brute_force(embeddings, columns, min(k, vocabulary)))


def test_no_columns(scorer: TokenScorer) -> None:
    found = score(scorer, normal(50, 8), np.empty((0, 8), np.float32))
    assert found.ids.shape == found.scores.shape == (0, 10)


@pytest.mark.parametrize("dtype", list(StorageDtype))
def test_embeddings_of_any_storage_dtype(scorer: TokenScorer, dtype: StorageDtype) -> None:
    stored = from_float32(normal(4000, 40), dtype)
    columns = normal(8, 40, seed=1)
    scorer.begin(Embeddings(stored, dtype))
    assert_same(scorer.top(columns, 10), brute_force(to_float32(stored, dtype), columns, 10))


def test_batches_and_released_maps_do_not_change_the_result(
    scorer: TokenScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_RESIDENT_BYTES", 1 << 14)
    monkeypatch.setattr(scoring, "_FAULT_BYTES", 1 << 10)
    monkeypatch.setattr(scoring, "_SCORE_BYTES", 1 << 17)
    monkeypatch.setattr(scoring, "_EXACT_CHUNK_BYTES", 1 << 12)
    monkeypatch.setattr(token_scorer, "_SCORE_BYTES", 1 << 20)
    released: list[int] = []
    embeddings, columns = normal(4000, 32), normal(300, 32, seed=1)
    scorer.begin(Embeddings(embeddings, StorageDtype.F32, release=lambda: released.append(1)))
    assert_same(scorer.top(columns, 10), brute_force(embeddings, columns, 10))
    assert len(released) > 10


def test_the_fast_product_decides_ordinary_columns_alone(handed: list[int]) -> None:
    score(TorchScorer(), normal(5000, 96), normal(70, 96, seed=1))
    assert handed == []


@pytest.mark.parametrize("damage", ["scaled", "shuffled", "zeroed"])
def test_a_product_that_breaks_its_bound_is_not_used(
    damage: str, handed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A faulty kernel must not reach the file: candidates are checked, then all is redone."""
    real: Callable[..., torch.Tensor] = torch.mm

    def faulty(left: torch.Tensor, right: torch.Tensor, **options: torch.Tensor) -> torch.Tensor:
        product = real(left, right, **options)
        match damage:
            case "scaled":
                product.mul_(1.5)
            case "shuffled":
                product.copy_(product.roll(1, 1))
            case _:
                product.zero_()
        return product

    embeddings, columns = normal(5000, 96), normal(70, 96, seed=1)
    monkeypatch.setattr(torch, "mm", faulty)
    assert_same(score(TorchScorer(), embeddings, columns), brute_force(embeddings, columns, 10))
    assert sum(handed) == 70


def test_the_slow_dtype_is_not_used(handed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_scorer, "_bfloat16_is_faster", lambda hidden: False)
    embeddings, columns = normal(5000, 32), normal(7, 32, seed=1)
    assert_same(score(TorchScorer(), embeddings, columns), brute_force(embeddings, columns, 10))
    assert handed == [7]


def test_exact_scores_are_correctly_rounded_and_independent_of_position() -> None:
    rows, columns = normal(999, 577), normal(999, 577, seed=1)
    expected = [
        np.float32(sum(map(float.__mul__, row, column)))
        for row, column in zip(
            rows[:20].astype(float).tolist(), columns[:20].astype(float).tolist(), strict=True
        )
    ]
    assert exact_scores(rows, columns)[:20] == pytest.approx(expected, rel=1e-7)
    same = exact_scores(np.tile(rows[:1], (999, 1)), np.tile(columns[:1], (999, 1)))
    assert len(set(same.tolist())) == 1


# ------------------------------------------------------------------------------- the file


def _write(path: Path, layers: list[npt.NDArray[np.void]], top_k: int) -> DownMeta:
    chunks: list[bytes] = []
    writer = DownMetaWriter(chunks.append, len(layers), top_k)
    for records in layers:
        writer.layer(records)
    (path / "down_meta.bin").write_bytes(b"".join(chunks))
    return DownMeta(MappedFile(path, "down_meta.bin"))


def test_bytes_are_as_documented(tmp_path: Path) -> None:
    best = TopTokens(np.array([[5, 3]]), np.array([[2.5, -1.0]], np.float32))
    meta = _write(tmp_path, [make_records(best, np.zeros(8, bool), 2)], 2)
    assert (tmp_path / "down_meta.bin").read_bytes() == (
        b"TEMD"
        + struct.pack("<III", 1, 1, 2)
        + struct.pack("<I", 1)
        + struct.pack("<IfIfIf", 5, 2.5, 5, 2.5, 3, -1.0)
    )
    assert (meta.num_layers, meta.top_k, meta.num_features(0), meta.num_features(1)) == (1, 2, 1, 0)


def test_blank_tokens_are_dropped_and_not_replaced(tmp_path: Path) -> None:
    blank = np.array([True, False, True, False])
    best = TopTokens(
        np.array([[2, 1, 0], [3, 2, 1], [0, 2, 0]]),
        np.array([[9, 8, 7], [6, 5, 4], [3, 2, 1]], np.float32),
    )
    records = _write(tmp_path, [make_records(best, blank, 4)], 4).records(0)
    assert records["token"].tolist() == [1, 3, 0]
    assert records["score"].tolist() == [8, 6, 0]
    assert records["top"]["token"].tolist() == [[1, 0, 0, 0], [3, 1, 0, 0], [0, 0, 0, 0]]
    assert records["top"]["score"].tolist() == [[8, 0, 0, 0], [6, 4, 0, 0], [0, 0, 0, 0]]
    assert present(records).tolist() == [True, True, False]


def test_layers_may_be_empty(tmp_path: Path) -> None:
    one = np.ones(3, record_dtype(1))
    meta = _write(tmp_path, [np.zeros(0, record_dtype(1)), one], 1)
    assert [meta.num_features(layer) for layer in range(3)] == [0, 3, 0]
    assert np.array_equal(meta.records(1), one)


def test_the_other_magic_is_read(tmp_path: Path) -> None:
    _write(tmp_path, [np.ones(3, record_dtype(1))], 1)
    path = tmp_path / "down_meta.bin"
    path.write_bytes(b"DMET" + path.read_bytes()[4:])
    assert DownMeta(MappedFile(tmp_path, "down_meta.bin")).num_features(0) == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "too short"),
        (b"TEMD" + bytes(11), "too short"),
        (b"DEMT" + struct.pack("<III", 1, 0, 1), "starts with b'DEMT'"),
        (b"TEMD" + struct.pack("<III", 2, 0, 1), "version 2"),
        (b"TEMD" + struct.pack("<III", 1, 1, 1), "ends before layer 0"),
        (b"TEMD" + struct.pack("<IIII", 1, 1, 1, 2) + bytes(16), "ends inside layer 0"),
        (b"TEMD" + struct.pack("<IIII", 1, 1, 1, 2**32 - 1), "ends inside layer 0"),
        (b"TEMD" + struct.pack("<III", 1, 2**32 - 1, 1), "4,294,967,295 layers"),
        (b"TEMD" + struct.pack("<III", 1, 0, 2**32 - 1), "4,294,967,295 slots"),
        (b"TEMD" + struct.pack("<III", 1, 0, 1) + b"x", "1 bytes follow"),
    ],
)
def test_damaged_files_are_refused(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "down_meta.bin").write_bytes(data)
    with pytest.raises(VindexInvalid, match=message):
        DownMeta(MappedFile(tmp_path, "down_meta.bin"))
