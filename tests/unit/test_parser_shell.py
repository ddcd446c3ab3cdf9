"""What the shell asks the parser: is this complete, what may follow, what is what."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from lql.ast import Slot
from lql.parser import (
    Completeness,
    completeness,
    expectation,
    keywords,
    legal_next,
    slot_at,
    tokens,
)
from lql.syntax_tokens import TokenKind


class TestCompleteness:
    @pytest.mark.parametrize(
        "text", ["", ";", "STATS", "STATS;", 'WALK "x"', 'WALK "x" TOP 5; -- note', "/* a */"]
    )
    def test_complete(self, text: str) -> None:
        assert completeness(text) is Completeness.COMPLETE

    @pytest.mark.parametrize(
        "text",
        [
            "WALK",
            'WALK "x" TOP',
            'WALK "x" |>',
            'WALK "open',
            "WALK 'open; STATS;",
            "SELECT *",
            "SELECT * FROM EDGES WHERE (a = 1",
            "/* open",
            "STATS; /* open",
            "EXPLAIN",
        ],
    )
    def test_incomplete(self, text: str) -> None:
        assert completeness(text) is Completeness.INCOMPLETE

    @pytest.mark.parametrize(
        "text", ["FROB", 'WALK "x" TOPP', 'WALK "x" TOP 0', "WALK x", 'WALK "x" TOP 1 TOP 2', ")"]
    )
    def test_invalid(self, text: str) -> None:
        assert completeness(text) is Completeness.INVALID


class TestExpectation:
    def test_the_beginning_offers_statements(self) -> None:
        assert {"SELECT", "WALK", "SEMICOLON", "$END"} <= legal_next("")
        assert "TOP" not in legal_next("")

    def test_clauses_are_offered_once(self) -> None:
        assert {"TOP", "LIMIT", "LAYERS", "$END"} <= legal_next('WALK "x" ')
        after = legal_next('WALK "x" TOP 5 ')
        assert "LAYERS" in after
        assert not {"TOP", "LIMIT"} & after

    def test_clauses_that_exclude_each_other_are_not_offered(self) -> None:
        assert not {"RAW", "VERBOSE", "BRIEF"} & legal_next('DESCRIBE "x" RAW ')
        assert not {"OVERWRITE", "RESUME"} & legal_next('EXTRACT MODEL "m" INTO "o" RESUME ')
        assert not {"AT", "LAYER"} & legal_next("SHOW ENTITIES 5 ")
        assert not {"INTEGER", "RANGE"} & legal_next("SHOW LAYERS 0-3 ")
        assert "TOPK" not in legal_next('INFER "x" ROUTE VERIFY TOPK 5 ')

    def test_select_offers_clauses_in_order(self) -> None:
        after = legal_next("SELECT * FROM EDGES ORDER BY a ")

        assert {"LIMIT", "OFFSET", "ASC", "COMMA"} <= after
        assert not {"WHERE", "GROUP", "HAVING", "NEAREST"} & after
        assert "LIMIT" in legal_next("SELECT * FROM EDGES OFFSET 5 ")
        assert "WHERE" in legal_next("SHOW FEATURES 1 LIMIT 5 ")

    def test_nothing_follows_what_is_wrong(self) -> None:
        assert legal_next("FROB ") == frozenset()
        assert legal_next('WALK "open') == frozenset()

    @pytest.mark.parametrize(
        ("text", "slot"),
        [
            ("DESCRIBE ", Slot.ENTITY),
            ('DESCRIBE "Fra', Slot.ENTITY),
            ("DESCRIBE 'Fra", Slot.ENTITY),
            ("USE ", Slot.VINDEX_PATH),
            ('STATS; USE "/tmp/x', Slot.VINDEX_PATH),
            ('USE MODEL "', Slot.MODEL),
            ("EXTRACT MODEL 'a' INTO ", Slot.VINDEX_PATH),
            ("COMPILE CURRENT INTO MODEL ", Slot.OUTPUT_PATH),
            ("APPLY PATCH ", Slot.PATCH_PATH),
            ("DIFF 'a' 'b' RELATION ", Slot.RELATION),
            ("TRACE 'x' FOR ", Slot.TARGET),
            ("INFER ", Slot.PROMPT),
            ('DESCRIBE "x" AT LAYER ', Slot.LAYER),
            ('WALK "x" LAYERS 0-', Slot.LAYER),
            ('WALK "x" TOP ', Slot.TOP),
            ("SHOW MODELS LIMIT ", Slot.COUNT),
            ("SELECT ", Slot.FIELD),
            ("SELECT ent", Slot.FIELD),
            ("SELECT a, ", Slot.FIELD),
            ("SELECT COUNT(", Slot.FIELD),
            ("SELECT * FROM EDGES WHERE ", Slot.FIELD),
            ("SELECT * FROM EDGES ORDER BY ", Slot.FIELD),
            ("INSERT INTO EDGES (entity, ", Slot.FIELD),
            ("INSERT INTO EDGES (entity, relation, target) VALUES ('a', ", Slot.RELATION),
            ("SELECT * FROM EDGES WHERE relation = ", Slot.RELATION),
            ("SELECT * FROM EDGES WHERE RELATION NOT IN ('a', '", Slot.RELATION),
            ("SELECT * FROM EDGES WHERE a = 1 AND entity LIKE ", Slot.ENTITY),
            ("SELECT * FROM EDGES WHERE layer BETWEEN 1 AND ", Slot.LAYER),
            ("SELECT * FROM EDGES WHERE score > ", Slot.VALUE),
            ("REBALANCE FLOOR ", Slot.NUMBER),
            ("EXPLAIN DESCRIBE ", Slot.ENTITY),
            ("", None),
            ("DESCRIBE 'x' ", None),
            ("SELECT a AS ", None),
            ("DESCRIBE 'x' -- relation = ", None),
            ("DESCRIBE 'x' /* open", None),
            ("FROB ", None),
        ],
    )
    def test_slots(self, text: str, slot: Slot | None) -> None:
        assert slot_at(text) is slot

    def test_expectation_leaves_out_the_word_being_typed(self) -> None:
        assert expectation("SELECT * FRO").start == 9
        assert "FROM" in expectation("SELECT * FRO").legal
        assert expectation('USE "a/b').start == 4
        assert expectation("SELECT * ").start == 9
        assert expectation("STATS -- FRO").legal == frozenset()

    def test_completion_is_quick(self) -> None:
        text = "SELECT entity FROM EDGES WHERE relation = 'capital' AND "
        expectation(text)
        start = time.process_time()
        for _ in range(20):
            expectation(text)

        assert (time.process_time() - start) / 20 < 0.030


class TestTokens:
    def test_tokens_put_together_are_the_text(self) -> None:
        text = 'WALK "a;b" /* c */ TOP 1e-3 <> :n; -- d\n\x00é “'

        assert "".join(token.text for token in tokens(text)) == text
        assert all(text[t.span.start : t.span.end] == t.text for t in tokens(text))

    def test_kinds(self) -> None:
        text = "SELECT top FROM EDGES WHERE a != .5 AND b = :c -- x\n; 'open"
        kinds = [(t.text, t.kind) for t in tokens(text) if t.kind is not TokenKind.SPACE]

        assert kinds == [
            ("SELECT", TokenKind.KEYWORD),
            ("top", TokenKind.NAME),
            ("FROM", TokenKind.KEYWORD),
            ("EDGES", TokenKind.KEYWORD),
            ("WHERE", TokenKind.KEYWORD),
            ("a", TokenKind.NAME),
            ("!=", TokenKind.OPERATOR),
            (".5", TokenKind.NUMBER),
            ("AND", TokenKind.KEYWORD),
            ("b", TokenKind.NAME),
            ("=", TokenKind.OPERATOR),
            (":c", TokenKind.PARAMETER),
            ("-- x", TokenKind.COMMENT),
            (";", TokenKind.PUNCTUATION),
            ("'open", TokenKind.OPEN),
        ]

    def test_keywords_are_coloured_even_where_the_text_is_wrong(self) -> None:
        assert tokens("WALK WALK WALK")[-1].kind is TokenKind.KEYWORD

    def test_keywords_are_spelt_like_their_terminals(self) -> None:
        assert keywords()["TOP"] == "TOP"
        assert "NAME" not in keywords()


class TestCache:
    def run(self, home: Path, **environment: str) -> str:
        code = "from lql.parser import parse; print(len(parse('STATS; STATS').items))"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"HOME": str(home), "PATH": "", **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        return done.stdout.strip()

    def test_the_table_is_kept_in_the_users_cache_and_survives_damage(self, tmp_path: Path) -> None:
        assert self.run(tmp_path) == "2"
        (table,) = (tmp_path / ".cache" / "lql").iterdir()
        assert self.run(tmp_path) == "2"
        table.write_bytes(table.read_bytes()[:1000])
        assert self.run(tmp_path) == "2"

    def test_a_cache_that_cannot_be_written_is_no_error(self, tmp_path: Path) -> None:
        blocked = tmp_path / "file"
        blocked.write_text("")

        assert self.run(tmp_path, XDG_CACHE_HOME=str(blocked)) == "2"
