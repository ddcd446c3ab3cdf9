"""SET of variables, INCLUDE and ``--check``: what happens before the first statement runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lql import ast, scripts
from lql.codes import Code
from lql.errors import LqlError, LqlSyntaxError
from lql.session import Session
from lql.unparse import unparse


@pytest.fixture
def session() -> Any:
    with Session() as opened:
        yield opened


def prepared(session: Session, text: str, **settings: Any) -> list[str]:
    """The statements of a prepared text, as text."""
    return unparse(session.prepare(text, **settings)).splitlines()


def refusal(session: Session, text: str, **settings: Any) -> LqlError:
    with pytest.raises(LqlError) as raised:
        session.prepare(text, **settings)
    return raised.value


class TestVariables:
    def test_a_variable_stands_for_its_value_after_it_is_set(self, session: Session) -> None:
        text = 'SET city = "Paris"; SET n = 3; INFER :City TOP :N; SET n = 4; WALK :city TOP :n;'

        assert prepared(session, text)[2::2] == ['INFER "Paris" TOP 3;', 'WALK "Paris" TOP 4;']

    def test_before_it_is_set_it_has_no_value(self, session: Session) -> None:
        error = refusal(session, 'INFER :p; SET p = "x";')

        assert error.code is Code.UNBOUND_PARAMETER
        assert "SET p = …" in error.diagnostic.helps[0]

    def test_its_value_must_suit_the_place(self, session: Session) -> None:
        error = refusal(session, 'SET n = "3";\nINFER "x" TOP :n;', name="a.lql")

        assert error.code is Code.WRONG_TYPE
        assert str(error).startswith("a.lql:2:15:")

    def test_what_the_caller_gives_wins_over_set(self, session: Session) -> None:
        text = "SET n = 3; WALK 'x' TOP :n;"

        assert prepared(session, text, parameters={"n": 7})[1] == 'WALK "x" TOP 7;'
        assert prepared(session, text, words={"n": "7"})[1] == 'WALK "x" TOP 7;'
        (setting,) = session.prepare("SET n = 3", parameters={"n": 7}).items[0].statements
        assert setting == ast.SetOption(ast.Word("n"), ast.Integer(7))

    def test_it_outlives_the_text(self, session: Session) -> None:
        result: Any = session.run('SET p = "a b";')[0]

        assert (result.option, result.value, result.variable) == ("p", "a b", True)
        assert prepared(session, "INFER :p") == ['INFER "a b";']

    def test_a_text_that_did_not_run_sets_nothing(self, session: Session) -> None:
        session.prepare('SET p = "x";')

        assert refusal(session, "INFER :p").code is Code.UNBOUND_PARAMETER

    def test_a_bare_word_is_the_value_of_an_option_only(self, session: Session) -> None:
        with pytest.raises(LqlError) as raised:
            session.run("SET devise = cpu;")

        assert raised.value.code is Code.UNKNOWN_OPTION
        assert raised.value.diagnostic.suggestions == ("device",)

    def test_a_variable_may_be_made_of_another(self, session: Session) -> None:
        assert prepared(session, "SET a = 2; SET b = :a; WALK 'x' TOP :b;")[2] == 'WALK "x" TOP 2;'

    def test_the_names_that_occur_are_known(self, session: Session) -> None:
        script = session.prepare("SET a = :b; WALK 'x' TOP :a;", parameters={"b": 1, "c": 2})

        assert script.used == {"a", "b"}


class TestInclude:
    def test_statements_stand_in_its_place(self, session: Session, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "one.lql").write_text('SET n = 2; INCLUDE "two.lql"; STATS "after";')
        (tmp_path / "sub" / "two.lql").write_text("\ufeffWALK 'x' TOP :n")
        main = str(tmp_path / "main.lql")

        found = prepared(session, 'STATS "a"; INCLUDE "sub/one.lql"; STATS "b";', name=main)

        walk = 'WALK "x" TOP 2;'
        assert found == ['STATS "a";', "SET n = 2;", walk, 'STATS "after";', 'STATS "b";']

    def test_an_error_names_the_included_file(self, session: Session, tmp_path: Path) -> None:
        (tmp_path / "one.lql").write_text("STATS;\nWALKK;")
        main = str(tmp_path / "main.lql")

        error = refusal(session, 'STATS;\n  INCLUDE "one.lql";', name=main)

        assert str(error).startswith(f"{tmp_path / 'one.lql'}:2:1: error[LQL0104]")
        assert error.diagnostic.notes[-1] == f"included at {main}:2:3"

    def test_a_failing_statement_names_the_included_file(
        self, session: Session, tmp_path: Path
    ) -> None:
        (tmp_path / "one.lql").write_text("\nSTATS;")

        with pytest.raises(LqlError) as raised:
            session.run('INCLUDE "one.lql";', name=str(tmp_path / "main.lql"))

        assert str(raised.value).startswith(f"{tmp_path / 'one.lql'}:2:1: error[LQL0501]")

    def test_a_circle_is_refused_with_its_files(self, session: Session, tmp_path: Path) -> None:
        for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
            (tmp_path / f"{name}.lql").write_text(f'INCLUDE "{other}.lql";')

        error = refusal(session, 'INCLUDE "a.lql";', name=str(tmp_path / "main.lql"))

        assert error.code is Code.INCLUDE_CYCLE
        chain = "a.lql includes b.lql includes c.lql includes a.lql"
        assert error.diagnostic.notes[0] == chain
        assert str(error).startswith(f"{tmp_path / 'c.lql'}:1:9:")

    def test_a_file_that_includes_itself_is_a_circle(
        self, session: Session, tmp_path: Path
    ) -> None:
        main = tmp_path / "main.lql"
        main.write_text(text := 'INCLUDE "./main.lql";')

        assert refusal(session, text, name=str(main)).code is Code.INCLUDE_CYCLE

    def test_a_file_may_be_included_twice(self, session: Session, tmp_path: Path) -> None:
        (tmp_path / "a.lql").write_text("STATS")
        main = str(tmp_path / "main.lql")

        assert prepared(session, 'INCLUDE "a.lql"; INCLUDE "a.lql";', name=main) == ["STATS;"] * 2

    def test_files_that_multiply_are_stopped(
        self, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scripts, "MAX_FILES", 20)
        for level in range(8):
            (tmp_path / f"{level}.lql").write_text(f'INCLUDE "{level + 1}.lql";' * 2)
        (tmp_path / "8.lql").write_text("STATS;")

        error = refusal(session, 'INCLUDE "0.lql";', name=str(tmp_path / "main.lql"))

        assert (error.code, "more than 20 files" in str(error)) == (Code.INCLUDE_FAILED, True)

    @pytest.mark.parametrize(
        ("content", "said"), [(None, "no such file"), (b"STATS; -- \xe9", "byte 10")]
    )
    def test_what_cannot_be_read_is_said(
        self, session: Session, tmp_path: Path, content: bytes | None, said: str
    ) -> None:
        if content is not None:
            (tmp_path / "x.lql").write_bytes(content)

        error = refusal(session, 'INCLUDE "x.lql";', name=str(tmp_path / "main.lql"))

        assert (error.code, said in str(error)) == (Code.INCLUDE_FAILED, True)

    def test_texts_without_a_file_include_from_the_working_directory(
        self, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "x.lql").write_text("STATS")
        monkeypatch.chdir(tmp_path)

        assert prepared(session, "INCLUDE :file;", parameters={"file": "x.lql"}) == ["STATS;"]

    @pytest.mark.parametrize("text", ['STATS |> INCLUDE "x"', 'INCLUDE "x" |> STATS'])
    def test_it_stands_alone(self, session: Session, text: str) -> None:
        with pytest.raises(LqlSyntaxError, match="stands alone"):
            session.prepare(text)


class TestCheck:
    def errors(self, session: Session, text: str, *, given: bool = False) -> list[Code | None]:
        checked = session.check([session.prepare(text)], given=given)
        return [None if error is None else error.code for _, error in checked]

    @pytest.mark.parametrize(
        ("statement", "code"),
        [
            ("SELECT layr FROM FEATURES", Code.UNKNOWN_COLUMN),
            ("SELECT f.layer FROM LAYERS AS l", Code.UNKNOWN_COLUMN),
            ("SELECT layer FROM LAYERS HAVING SUM(band) > 1", Code.WRONG_TYPE),
            ("ASSERT (SELECT COUNT(*) FROM LAYERS WHERE nope = 1) > 2", Code.UNKNOWN_COLUMN),
            ("COPY (SELECT nope FROM LAYERS) TO 'x.csv'", Code.UNKNOWN_COLUMN),
            ("SHOW FEATURES 1 WHERE nope = 1", Code.UNKNOWN_COLUMN),
            ("DELETE FROM EDGES WHERE nope = 1", Code.UNKNOWN_COLUMN),
            ("UPDATE EDGES SET layer = 1 WHERE entity = 'x'", Code.UNKNOWN_COLUMN),
            ("DELETE FROM EDGES WHERE entity = 'x' REQUIRE nope > 1", Code.UNKNOWN_COLUMN),
            ("SET nope = word", Code.UNKNOWN_OPTION),
            ("SET device = gpu", Code.WRONG_TYPE),
            ("DEFINE RELATION 'r' TEMPLATE '{entity}' KIND 'nope'", Code.UNKNOWN_KIND),
            ('USE REMOTE "http://x"', Code.NOT_AVAILABLE_YET),
            ("EXPLAIN SELECT layr FROM FEATURES", Code.UNKNOWN_COLUMN),
            ("SELECT layer FROM FEATURES", None),
            ("SHOW LAYERS 0-99", None),
            ("INFER 'x'", None),
            ("SET device = cuda", None),
            ("USE 'missing.vindex'", None),
        ],
    )
    def test_names_are_looked_up_without_a_vindex(
        self, session: Session, statement: str, code: Code | None
    ) -> None:
        assert self.errors(session, statement) == [code]

    def test_layers_and_levels_are_looked_up_in_the_vindex(
        self, session: Session, tmp_path: Path, data_dir: Path
    ) -> None:
        browse = tmp_path / "browse.vindex"
        with Session() as maker:
            model = data_dir / "golden/checkpoints/llama_h96"
            maker.run("EXTRACT MODEL :m INTO :b WITH BROWSE", parameters={"m": model, "b": browse})
        text = (
            f'USE "{browse}"; SHOW LAYERS 0-99; WALK "x" LAYERS 0-1; INFER "x"; '
            'SELECT * FROM FEATURES NEAREST TO "x" AT LAYER 99; DESCRIBE "x" AT LAYER 99; '
            'WALK "x" MODE DENSE; STATS;'
        )

        low, range_ = Code.LEVEL_TOO_LOW, Code.OUT_OF_RANGE
        assert self.errors(session, text) == [None, range_, None, low, range_, range_, low, None]
        assert session.source is None

    def test_a_vindex_that_is_named_must_be_there(self, session: Session) -> None:
        text = "USE 'missing.vindex'; SHOW LAYERS 0-99;"

        assert self.errors(session, text, given=True) == [Code.VINDEX_NOT_FOUND, None]

    def test_what_the_script_writes_need_not_be_there(self, session: Session) -> None:
        text = "EXTRACT MODEL 'm' INTO 'new.vindex'; USE './new.vindex'; INFER 'x';"

        assert self.errors(session, text, given=True) == [None] * 3
