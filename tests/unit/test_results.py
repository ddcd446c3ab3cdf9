"""Results: the documented keys, exact values, and every type flat and nested."""

from __future__ import annotations

import json

import pytest

from lql.results import Kind, Meta, Result
from lql.results.forward import InferResult
from tests.unit import samples


def concrete(root: type[Result]) -> set[str]:
    """Names, because ``slots=True`` leaves a twin of every class behind."""
    found: set[str] = set()
    for child in root.__subclasses__():
        found |= concrete(child)
        if child.__module__.startswith("lql.") and not child.__abstractmethods__:
            found.add(child.__name__)
    return found


def test_every_result_type_has_a_sample() -> None:
    assert concrete(Result) == {type(sample).__name__ for sample in samples.EVERY}


@pytest.mark.parametrize(
    ("result", "keys"),
    [
        (samples.INFER, "rank token token_id probability logit"),
        (samples.WALK, "layer feature gate token also"),
        (
            samples.DESCRIBE,
            "entity relation target evidence signal probability lift_nats score layer feature "
            "source",
        ),
        (samples.COMPARISON, "path rank token token_id probability logit"),
    ],
)
def test_documented_row_keys(result: Result, keys: str) -> None:
    assert all(list(row) == keys.split() for row in result.to_rows())


@pytest.mark.parametrize("result", samples.EVERY, ids=lambda result: type(result).__name__)
def test_rows_agree_with_columns(result: Result) -> None:
    python_types = {
        Kind.INTEGER: int,
        Kind.NUMBER: float,
        Kind.BOOLEAN: bool,
        Kind.TEXT: object,
        Kind.TOKEN: str,
        Kind.TOKENS: tuple,
    }
    for row in result.to_rows():
        assert list(row) == [column.name for column in result.columns]
        for column in result.columns:
            value = row[column.name]
            assert value is None or isinstance(value, python_types[column.kind]), column


@pytest.mark.parametrize("result", samples.EVERY, ids=lambda result: type(result).__name__)
def test_nested_form_is_plain_json(result: Result) -> None:
    nested = result.to_dict()
    assert json.loads(json.dumps(nested)) == nested
    assert "meta" not in nested


def test_numbers_are_not_rounded() -> None:
    assert samples.INFER.to_rows()[0]["probability"] == 0.7724711298942566
    assert samples.EXPLAIN.to_dict()["layers"][0]["lens"]["probability"] == 0.7724711298942566


def test_comparison_nests_both_paths_and_their_difference() -> None:
    nested = samples.COMPARISON.to_dict()
    assert [row["token"] for row in nested["dense"]] == [" Paris", "巴黎"]
    assert [row["token"] for row in nested["walk"]] == [" Paris", "\n[/INST]:smile:"]
    assert nested["largest_difference"] == {"probability": 1.3e-6, "logit": 3.5e-5}


def test_a_layer_without_features_keeps_its_lens_in_flat_rows() -> None:
    last = samples.EXPLAIN.to_rows()[-1]
    assert (last["layer"], last["lens"], last["feature"]) == (21, "巴黎", None)


def test_records_flatten_to_dotted_names() -> None:
    rows = {row["name"]: row["value"] for row in samples.STATS.to_rows()}
    assert rows["hidden"] == 576
    assert rows["bands.syntax.last_layer"] == 11


def test_results_are_equal_whatever_the_clock_said() -> None:
    meta = Meta(elapsed_s=2.0)
    again = InferResult(prompt="The capital", prompt_mode="raw", tokens=samples.TOKENS, meta=meta)
    assert again == samples.INFER
