"""Every statement of this version through the command: documented JSON, true numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import CHECKPOINT, Lql

PROMPT = "The capital of France is"


def test_infer_rows(lql: Lql) -> None:
    rows = lql.rows(f'INFER "{PROMPT}" TOP 5;')
    assert [list(row) for row in rows] == [
        ["rank", "token", "token_id", "probability", "logit"]
    ] * 5
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
    # transformers in float32 on the same checkpoint.
    assert (rows[0]["token"], rows[2]["token"]) == (" of", " capital")
    assert rows[0]["probability"] == pytest.approx(0.387576, abs=1e-5)
    assert rows[2]["probability"] == pytest.approx(0.052333, abs=1e-5)


def test_infer_top_defaults_to_five_and_stops_at_the_vocabulary(lql: Lql) -> None:
    assert len(lql.rows(f'INFER "{PROMPT}";')) == 5
    rows = lql.rows(f'INFER "{PROMPT}" TOP 100000;')
    assert len(rows) == 384
    assert sum(row["probability"] for row in rows) == pytest.approx(1)


def test_infer_compare_shows_both_paths(lql: Lql) -> None:
    both = lql.rows(f'INFER "{PROMPT}" TOP 3 COMPARE;')
    assert [row["token"] for row in both["dense"]] == [row["token"] for row in both["walk"]]
    assert 0 <= both["largest_difference"]["probability"] < 1e-5
    assert 0 <= both["largest_difference"]["logit"] < 1e-3


def test_walk_rows(lql: Lql) -> None:
    rows = lql.rows(f'WALK "{PROMPT}" TOP 3;')
    assert all(list(row) == ["layer", "feature", "gate", "token", "also"] for row in rows)
    # larql: L0 F158 gate=-1.0, F78 -0.9, F65 +0.9; L1 F54 +1.2.
    assert [(row["layer"], row["feature"]) for row in rows[:4]] == [
        (0, 158),
        (0, 78),
        (0, 65),
        (1, 54),
    ]
    assert [round(row["gate"], 1) for row in rows[:4]] == [-1.0, -0.9, 0.9, 1.2]
    assert rows[0]["token"] == "token"
    assert len(rows) == 12


def test_walk_layers(lql: Lql) -> None:
    assert {row["layer"] for row in lql.rows('WALK "x" TOP 1 LAYERS 1-2;')} == {1, 2}


def test_walk_modes(lql: Lql) -> None:
    """Each mode ranks by what it says, and the forward pass is that of EXPLAIN INFER."""
    pure = lql.rows(f'WALK "{PROMPT}" TOP 3;')
    assert lql.rows(f'WALK "{PROMPT}" TOP 3 MODE PURE;') == pure
    dense = lql.rows(f'WALK "{PROMPT}" TOP 3 MODE DENSE;')
    explained = lql.rows(f'EXPLAIN INFER "{PROMPT}" TOP 3;')
    assert [(r["layer"], r["feature"], r["gate"], r["activation"], r["token"]) for r in dense] == [
        (layer["layer"], hit["feature"], hit["gate"], hit["activation"], hit["token"])
        for layer in explained["layers"]
        for hit in layer["features"]
    ]
    everything = lql.rows(f'WALK "{PROMPT}" TOP 160 LAYERS 2-2 MODE DENSE;')
    hybrid = lql.rows(f'WALK "{PROMPT}" TOP 5 LAYERS 2-2 MODE HYBRID;')
    ranked = sorted(everything, key=lambda row: -abs(row["gate"]))
    assert [row["feature"] for row in hybrid] == [row["feature"] for row in ranked[:5]]
    assert hybrid != lql.rows(f'WALK "{PROMPT}" TOP 5 LAYERS 2-2 MODE DENSE;')


def test_walk_compare_puts_both_modes_side_by_side(lql: Lql) -> None:
    done = lql("-u", "tiny.vindex", "-e", f'WALK "{PROMPT}" TOP 2 COMPARE;', "--format", "json")
    rows = json.loads(done.stdout)
    keys = ["mode", "layer", "feature", "gate", "activation", "token", "also"]
    assert all(list(row) == keys for row in rows)
    assert [row["mode"] for row in rows] == ["pure"] * 8 + ["dense"] * 8
    pure, dense = ({(r["layer"], r["feature"]) for r in part} for part in (rows[:8], rows[8:]))
    assert f"name {len(pure & dense)} features alike, of 8" in done.stderr
    modes = {row["mode"] for row in lql.rows(f'WALK "{PROMPT}" TOP 2 COMPARE MODE HYBRID;')}
    assert modes == {"pure", "hybrid"}


def test_a_walk_that_runs_the_model_needs_its_weights(lql: Lql) -> None:
    done = lql("browse.vindex", "-e", 'WALK "x" MODE HYBRID;')
    assert done.returncode == 4
    assert "EXTRACT MODEL" in done.stderr


def test_explain_walk_adds_band_and_relation(lql: Lql) -> None:
    rows = lql.rows('EXPLAIN WALK "x" LAYERS 1-1;')
    assert len(rows) == 5
    keys = ["layer", "band", "feature", "relation", "gate", "token", "also"]
    assert all(list(row) == keys and len(row["also"]) <= 3 for row in rows)
    assert len(lql.rows('EXPLAIN WALK "x" LAYERS 1-1 VERBOSE;')) == 10


def test_describe_without_an_edge_is_an_empty_array_and_says_why(lql: Lql) -> None:
    done = lql("tiny.vindex", "-e", 'DESCRIBE "France" EVIDENCE STATIC;', "--format", "json")
    assert (done.returncode, done.stdout) == (0, "[]\n")
    assert "no signal" in done.stderr


def test_explain_infer(lql: Lql) -> None:
    found = lql.rows(f'EXPLAIN INFER "{PROMPT}" TOP 3;')
    assert [token["token"] for token in found["tokens"]][1:2] == ["The"]
    assert found["tokens"][0] == {"position": 0, "token": "<bos>", "token_id": 2, "added": True}
    assert [layer["layer"] for layer in found["layers"]] == [0, 1, 2, 3]
    assert all(len(layer["features"]) == 3 for layer in found["layers"])
    assert found["layers"][-1]["lens"]["token"] == found["prediction"][0]["token"] == " of"
    strengths = [abs(hit["activation"]) for hit in found["layers"][0]["features"]]
    assert strengths == sorted(strengths, reverse=True)


def test_explain_infer_layers(lql: Lql) -> None:
    found = lql.rows('EXPLAIN INFER "The" LAYERS 2-3 VERBOSE;')
    assert [layer["layer"] for layer in found["layers"]] == [2, 3]
    assert len(found["layers"][0]["features"]) == 10


def test_show_layers(lql: Lql) -> None:
    rows = lql.rows("SHOW LAYERS;")
    assert [row["layer"] for row in rows] == [0, 1, 2, 3]
    assert all(row["features"] == row["described"] == 160 for row in rows)
    assert [row["layer"] for row in lql.rows("SHOW LAYERS 1-2 LIMIT 1;")] == [1]


def test_show_features(lql: Lql) -> None:
    rows = lql.rows("SHOW FEATURES 1;")
    assert len(rows) == 160
    assert list(rows[1]) == ["layer", "feature", "token", "token_id", "logit", "relation", "also"]
    assert (rows[1]["token"], round(rows[1]["logit"], 4)) == ("Fran", 1.1009)


def test_show_features_where(lql: Lql) -> None:
    everything = lql.rows("SHOW FEATURES 1;")
    found = lql.rows('SHOW FEATURES 1 WHERE token LIKE "fr%" OR logit >= 1.5;')
    wanted = [r for r in everything if r["token"].lower().startswith("fr") or r["logit"] >= 1.5]
    assert found == wanted
    assert 0 < len(found) < 160


def test_show_features_pages(lql: Lql) -> None:
    everything = lql.rows("SHOW FEATURES 1;")
    assert lql.rows("SHOW FEATURES 1 LIMIT 3 OFFSET 2;") == everything[2:5]
    done = lql("tiny.vindex", "-e", "SHOW FEATURES 1 LIMIT 3;")
    assert "3 of 160 rows" in done.stderr


def test_show_models_lists_the_directory(lql: Lql) -> None:
    rows = lql.rows("SHOW MODELS;")
    assert [row["path"] for row in rows] == ["browse.vindex", "chat.vindex", "tiny.vindex"]
    assert {row["status"] for row in rows} == {"ready"}


def test_show_models_says_why_one_cannot_be_opened(lql_here: Lql) -> None:
    broken = lql_here.cwd / "broken.vindex"
    broken.mkdir()
    (broken / "index.json").write_text("{}")
    rows = json.loads(lql_here("-e", "SHOW MODELS;", "--format", "json").stdout)
    assert rows[0]["path"] == "broken.vindex"
    assert "index.json" in rows[0]["status"]


def test_stats_of_the_current_and_of_another_vindex(lql: Lql) -> None:
    here = lql.rows("STATS;")
    assert (here["layers"], here["features"], here["level"]) == (4, 640, "inference")
    assert lql.rows('STATS "browse.vindex";')["level"] == "browse"


def test_a_model_answers_without_extraction(lql: Lql, data_dir: Path) -> None:
    model = data_dir / CHECKPOINT
    script = f'USE MODEL "{model}"; INFER "{PROMPT}" TOP 2; STATS;'
    done = lql("-e", script, "--format", "json")
    infer, stats = map(json.loads, done.stdout.splitlines())
    assert infer[0]["token"] == " of"
    assert (stats["level"], stats["features"]) == (None, 640)


def test_a_statement_that_needs_a_vindex_says_so(lql: Lql, data_dir: Path) -> None:
    done = lql("-e", f'USE MODEL "{data_dir / CHECKPOINT}"; WALK "x";')
    assert done.returncode == 1
    assert "LQL0505" in done.stderr
    assert "EXTRACT MODEL" in done.stderr


def test_extract_then_ask(lql_here: Lql, data_dir: Path) -> None:
    script = f'EXTRACT MODEL "{data_dir / CHECKPOINT}" INTO "x.vindex" WITH BROWSE; SHOW LAYERS;'
    done = lql_here("-e", script, "--format", "json")
    wrote, layers = map(json.loads, done.stdout.splitlines())
    assert (wrote["path"], wrote["level"], wrote["features"]) == ("x.vindex", "browse", 640)
    assert wrote["size_bytes"] == sum(
        f.stat().st_size for f in (lql_here.cwd / "x.vindex").iterdir()
    )
    assert len(layers) == 4


def test_chat_wraps_the_prompt_in_the_template(lql: Lql) -> None:
    chat = lql("chat.vindex", "-e", 'INFER "The capital of France" CHAT;', "--format", "json")
    # The template of the fixture adds " is", so the chat equals this raw prompt without BOS.
    raw = lql(
        "chat.vindex", "-e", 'EXPLAIN INFER "The capital of France" CHAT;', "--format", "json"
    )
    tokens = "".join(token["token"] for token in json.loads(raw.stdout)["tokens"])
    assert tokens == "The capital of France is"
    assert "CHAT" in chat.stderr
    assert "RAW" in chat.stderr
    assert "RAW" in lql("chat.vindex", "-e", 'INFER "The";').stderr


def test_chat_on_a_model_without_a_template_is_a_missing_capability(lql: Lql) -> None:
    done = lql("tiny.vindex", "-e", 'INFER "x" CHAT;')
    assert done.returncode == 4
    assert "chat template" in done.stderr


@pytest.mark.parametrize(
    "statement",
    [
        'USE REMOTE "http://localhost";',
        'USE MODEL "x" AUTO_EXTRACT;',
        'EXTRACT MODEL "x" INTO "y" RESUME;',
        'EXTRACT MODEL "x" INTO "y" LAYERS 0-1;',
        'EXTRACT MODEL "x" INTO "y" COMPONENTS FFN_GATE;',
    ],
)
def test_what_does_not_run_yet_says_so_and_does_nothing(lql: Lql, statement: str) -> None:
    done = lql("tiny.vindex", "-e", statement)
    assert (done.returncode, done.stdout) == (1, "")
    assert "error[LQL0901]" in done.stderr
    assert "not available yet" in done.stderr
