"""Experts in browse statements: whose features are shown, and where the routers would go."""

from __future__ import annotations

import math
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lql.session import connect
from tests.unit.moe_models import ALL, MIXTRAL, QWEN2, extracted
from vindex.edges import is_content
from vindex.features import embedding_rows, entity_query
from vindex.routes import expert_of, expert_routes, expert_tokens, layer_route, routers
from vindex.spec import MoeSpec, PartKind, Role, ffn_parts
from vindex.store import open_vindex

models = pytest.mark.parametrize("config", ALL.values(), ids=ALL)


@models
def test_a_feature_is_shown_with_its_expert(config: dict[str, Any], tmp_path: Path) -> None:
    path = extracted(tmp_path, config)
    with open_vindex(path) as vindex:
        assert vindex.known_spec is not None
        layers = vindex.known_spec.layers
        for layer in layers:
            for part in ffn_parts(layer.ffn):
                expected = part.expert if part.kind is PartKind.EXPERT else None
                for feature in (part.first, part.first + part.ffn.width - 1):
                    assert expert_of(vindex, layer.index, feature) == expected
    with connect(path) as session:
        for statement in ('WALK "France" TOP 200', 'EXPLAIN WALK "France" TOP 200'):
            result = session.query(statement)
            assert "expert" in [column.name for column in result.columns]
            for row in result.rows:
                parts = ffn_parts(layers[int(str(row["layer"]))].ffn)
                (own,) = (
                    part.expert
                    for part in parts
                    if part.first <= int(str(row["feature"])) < part.first + part.ffn.width
                )
                assert row["expert"] == own


@models
def test_routers_choose_by_score_and_weigh_by_softmax(
    config: dict[str, Any], tmp_path: Path
) -> None:
    with open_vindex(extracted(tmp_path, config)) as vindex:
        assert vindex.known_spec is not None
        query = entity_query(vindex, "France")
        assert query is not None
        asked = routers(vindex, range(vindex.index.num_layers))
        assert asked
        seen: dict[int, list[float]] = {}
        for layer in asked:
            ffn = vindex.known_spec.layers[layer].ffn
            assert isinstance(ffn, MoeSpec)
            table = vindex.tensor(Role.ROUTER, layer)
            rows = np.asarray(table.rows(0, table.shape[0]), np.float64)
            scores = {e: float(row @ query.astype(np.float64)) for e, row in enumerate(rows)}
            best = sorted(scores, key=lambda e: -scores[e])[: ffn.routing.chosen]
            total = sum(math.exp(scores[e]) for e in best)
            for e in best:
                seen.setdefault(e, []).append(math.exp(scores[e]) / total)
        found = expert_routes(vindex, query, asked)
        assert {each.expert: len(each.layers) for each in found} == {
            e: len(weights) for e, weights in seen.items()
        }
        for each in found:
            assert each.weight == pytest.approx(sum(seen[each.expert]) / len(each.layers), rel=1e-3)
        counts = [(len(each.layers), each.weight) for each in found]
        assert counts == sorted(counts, reverse=True)


@models
def test_the_words_of_an_expert_are_those_that_its_router_sends_there(
    config: dict[str, Any], tmp_path: Path
) -> None:
    with open_vindex(extracted(tmp_path, config)) as vindex:
        assert vindex.known_spec is not None
        layer = routers(vindex, range(vindex.index.num_layers))[-1]
        ffn = vindex.known_spec.layers[layer].ffn
        assert isinstance(ffn, MoeSpec)
        sent: dict[int, list[tuple[float, int]]] = {e: [] for e in range(ffn.routing.experts)}
        step = max(1, vindex.index.vocab_size // 2000)
        for token in range(0, vindex.index.vocab_size, step):
            embedding = embedding_rows(vindex, [token])[0] * np.float32(vindex.index.embed_scale)
            for expert, weight in layer_route(vindex, embedding, layer):
                sent[expert].append((-weight, token))
        left_out = ""
        for told in (False, True):
            found = expert_tokens(vindex, layer, list(sent), leave_out=left_out)
            assert any(found)
            for expert, words in zip(sent, found, strict=True):
                order = [t for _, t in sorted(sent[expert], key=lambda each: round(each[0], 5))]
                texts = [w for w in vindex.token_texts.texts(order) if is_content(w)]
                expected = [w for w in texts if w.lower() != left_out]
                assert set(words) <= set(expected)
                assert len(words) == min(10, len([*groupby(expected)]))
                assert not words or words[0] in expected[:3]
            if not told:
                left_out = next(words[0] for words in found if words).lower()
                assert any(left_out in map(str.lower, words) for words in found)


def test_verbose_tells_every_layers_choice_and_describe_other_words(tmp_path: Path) -> None:
    with connect(extracted(tmp_path, QWEN2)) as session:
        for statement in ('DESCRIBE "France" EVIDENCE STATIC', 'EXPLAIN WALK "France"'):
            brief, verbose = (
                [note for note in session.query(each).meta.notes if note.startswith("layer ")]
                for each in (statement, f"{statement} VERBOSE")
            )
            words = [note for note in brief if " also sends to expert " in note]
            assert words == brief
            assert bool(words) == statement.startswith("DESCRIBE")
            choices = [note for note in verbose if note not in words]
            assert [note.partition(": ")[0] for note in choices] == [
                "layer 0",
                "layer 2",
                "layer 3",
            ]
            assert all("expert " in note and "(" in note for note in choices)


def test_statements_say_which_experts_an_entity_goes_to(tmp_path: Path) -> None:
    path = extracted(tmp_path, QWEN2)  # its second layer has no experts
    with connect(path) as session:
        for statement in ('DESCRIBE "France" EVIDENCE STATIC', 'WALK "France"'):
            notes = session.query(statement).meta.notes
            (note,) = (each for each in notes if each.startswith("by the embedding alone"))
            assert "of 3 layers (weight " in note
        assert not any(
            "by the embedding alone" in note
            for note in session.query('WALK "France" LAYERS 1-1').meta.notes
        )


def test_a_dense_model_has_no_column_of_experts(tmp_path: Path) -> None:
    dense = {**MIXTRAL, "model_type": "llama"}
    del dense["num_local_experts"]
    with connect(extracted(tmp_path, dense)) as session:
        result = session.query('WALK "France"')
        assert "expert" not in [column.name for column in result.columns]
        assert not any("router" in note for note in result.meta.notes)
