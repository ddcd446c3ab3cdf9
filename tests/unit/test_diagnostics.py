from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lql import errors
from lql.codes import Code
from lql.diagnostics import (
    MAX_EXCERPT,
    Diagnostic,
    Related,
    Severity,
    one_of,
    render_short,
    render_text,
    to_json,
    visible,
)
from lql.errors import LqlError, LqlRuntimeError, LqlSyntaxError
from lql.parser import keywords, parse
from lql.span import SourceText, Span

CORPUS = Path(__file__).parents[1] / "corpus" / "errors"
FILES = sorted(CORPUS.glob("*.lql"))
WITHOUT_FILE = {Code.TOO_LONG}
"""A text of 50,000 tokens is no file to read; tests/unit/test_parser.py builds one."""


def refusal(path: Path) -> LqlSyntaxError:
    with pytest.raises(LqlSyntaxError) as raised:
        parse(path.read_text(encoding="utf-8"), path.name)
    return raised.value


def about(text: str, part: str, label: str = "here", **parts: object) -> Diagnostic:
    start = text.index(part)
    return Diagnostic(
        Code.UNEXPECTED,
        "wrong",
        source=SourceText("a.lql", text),
        span=Span(start, start + len(part)),
        label=label,
        **parts,  # type: ignore[arg-type]
    )


def carets(rendered: str) -> tuple[str, str]:
    """The source line and the marks under it, without the margin."""
    lines = rendered.splitlines()
    return lines[3].split("| ", 1)[1], lines[4].split("| ", 1)[1]


class TestCorpus:
    @pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
    def test_the_whole_message(self, path: Path) -> None:
        expected = path.with_suffix(".txt").read_text(encoding="utf-8")

        assert render_text(refusal(path).diagnostic) + "\n" == expected

    def test_every_file_has_its_message(self) -> None:
        assert {path.stem for path in FILES} == {path.stem for path in CORPUS.glob("*.txt")}

    def test_every_code_of_the_parser_has_a_file(self) -> None:
        syntax = {code for code in Code if code.id.startswith(("LQL01", "LQL03"))}

        assert {refusal(path).code for path in FILES} == syntax - WITHOUT_FILE

    @pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
    def test_no_message_shows_a_terminals_name(self, path: Path) -> None:
        rendered = path.with_suffix(".txt").read_text(encoding="utf-8")
        source = path.read_text(encoding="utf-8")
        hidden = (
            r"\b(STRING|INTEGER|FLOAT|PARAMETER|NAME|SEMICOLON|PIPE|COMMA|OPEN|CLOSE|STAR|\$END)\b"
        )
        symbols = {"EQ", "NE", "LE", "GE", "LT", "GT", "MINUS"} - keywords().keys()

        assert not re.search(hidden, rendered)
        assert not any(re.search(rf"\b{name}\b", rendered) for name in symbols)
        assert "Token(" not in rendered
        assert source

    @pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
    def test_a_suggestion_in_place_of_the_span_mends_the_text(self, path: Path) -> None:
        diagnostic = refusal(path).diagnostic
        span, source = diagnostic.span, diagnostic.source
        assert span is not None
        assert source is not None
        for suggestion in diagnostic.suggestions[:1]:
            mended = source.text[: span.start] + suggestion + source.text[span.end :]
            parse(mended)


class TestRenderText:
    def test_the_parts_in_their_order(self) -> None:
        text = "\n" * 13 + 'SELECT entity FROM EDGES WHERE relation = "captial";'
        start = text.index('"captial"')
        diagnostic = Diagnostic(
            Code.UNKNOWN_RELATION,
            'unknown relation "captial"',
            source=SourceText("audit.lql", text),
            span=Span(start, start + 9),
            label="not in gemma3-4b.vindex (512 relations)",
            suggestions=('"capital"', '"capitals"'),
            helps=("or leave the condition out",),
            notes=("SHOW RELATIONS lists them all",),
        )

        assert render_text(diagnostic) == "\n".join(
            [
                'error[LQL0203]: unknown relation "captial"',
                "  --> audit.lql:14:43",
                "   |",
                '14 | SELECT entity FROM EDGES WHERE relation = "captial";',
                "   |                                           ^^^^^^^^^ "
                "not in gemma3-4b.vindex (512 relations)",
                '  help: did you mean "capital" or "capitals"?',
                "  help: or leave the condition out",
                "  note: SHOW RELATIONS lists them all",
            ]
        )

    def test_everything_after_the_first_line_is_optional(self) -> None:
        assert render_text(Diagnostic(Code.USAGE, "no such flag")) == "error[LQL0902]: no such flag"

    def test_a_file_without_a_place(self) -> None:
        diagnostic = Diagnostic(Code.FILE_FAILED, "unreadable", source=SourceText("a.lql", ""))

        assert render_text(diagnostic) == "error[LQL0506]: unreadable\n  --> a.lql"

    def test_the_margin_grows_with_the_line_number(self) -> None:
        text = "\n" * 1233 + "STATS x"

        lines = render_text(about(text, "x")).splitlines()

        assert lines[1] == "    --> a.lql:1234:7"
        assert lines[3] == "1234 | STATS x"
        assert lines[4] == "     |       ^ here"

    def test_warnings_say_so(self) -> None:
        diagnostic = Diagnostic(Code.FAILED, "slow", severity=Severity.WARNING)

        assert render_text(diagnostic).startswith("warning[LQL0507]")

    @pytest.mark.parametrize(
        ("line", "part", "shown", "marks"),
        [
            ("\tWALK x", "x", "    WALK x", "         ^ here"),
            ("ab\tx", "x", "ab  x", "    ^ here"),
            ("日本 x", "x", "日本 x", "     ^ here"),
            ("日本 x", "本", "日本 x", "  ^^ here"),
            ("e\u0301 x", "x", "e\u0301 x", "  ^ here"),
            ("a\x1b[31m x", "x", "a\u241b[31m x", "       ^ here"),
            ("abc", "bc", "abc", " ^^ here"),
            ("a\r\nb", "a", "a", "^ here"),
        ],
    )
    def test_the_caret_stands_under_the_span(
        self, line: str, part: str, shown: str, marks: str
    ) -> None:
        assert carets(render_text(about(line, part))) == (shown, marks)

    def test_a_place_between_characters_gets_one_caret(self) -> None:
        diagnostic = Diagnostic(
            Code.UNFINISHED, "ends", source=SourceText("a", "STATS"), span=Span(5, 5)
        )

        assert carets(render_text(diagnostic)) == ("STATS", "     ^")

    def test_a_span_over_several_lines_is_marked_on_its_first(self) -> None:
        assert carets(render_text(about("ab 'c\nd' e", "'c\nd'"))) == ("ab 'c", "   ^^ here")

    @given(before=st.integers(0, 400), part=st.integers(1, 400), after=st.integers(0, 400))
    def test_a_long_line_is_cut_around_the_span(self, before: int, part: int, after: int) -> None:
        shown, marks = carets(
            render_text(about("a" * before + "b" * part + "c" * after, "b" * part))
        )

        assert len(shown) <= MAX_EXCERPT + 2
        start, end = marks.index("^"), marks.rindex("^") + 1
        assert set(shown[start:end]) == {"b"}
        assert end - start == shown.count("b")

    def test_related_places_follow_with_their_own_marks(self) -> None:
        text = "TOP 5\nTOP 6"
        diagnostic = about(text, "TOP 6", related=(Related(Span(0, 5), "first"),))

        assert render_text(diagnostic).splitlines()[5:] == [
            "  ::: a.lql:1:1",
            "   |",
            " 1 | TOP 5",
            "   | ----- first",
        ]

    def test_text_from_outside_cannot_move_the_cursor(self) -> None:
        diagnostic = Diagnostic(
            Code.FAILED,
            "no \x1b[2J\n here",
            source=SourceText("a\r.lql", "x"),
            span=Span(0, 1),
            notes=("\x07",),
        )

        rendered = render_text(diagnostic)

        assert all(char == "\n" or char.isprintable() for char in rendered)
        assert len(rendered.splitlines()) == 6


class TestOtherForms:
    def test_short_is_one_line_for_editors(self) -> None:
        assert render_short(about("STATS\n x", "x")) == "a.lql:2:2: error[LQL0101]: wrong"
        assert (
            render_short(Diagnostic(Code.USAGE, "no such flag")) == "error[LQL0902]: no such flag"
        )

    def test_json_has_every_fact(self) -> None:
        diagnostic = about(
            "STATS\nab'c\nd'",
            "'c\nd'",
            suggestions=("x",),
            helps=("h",),
            notes=("n",),
            related=(Related(Span(0, 5), "first"),),
        )

        assert json.loads(json.dumps(to_json(diagnostic))) == {
            "severity": "error",
            "code": "LQL0101",
            "message": "wrong",
            "file": "a.lql",
            "line": 2,
            "col": 3,
            "end_line": 3,
            "end_col": 3,
            "label": "here",
            "suggestions": ["x"],
            "helps": ["h"],
            "notes": ["n"],
            "related": [
                {
                    "file": "a.lql",
                    "line": 1,
                    "col": 1,
                    "end_line": 1,
                    "end_col": 6,
                    "label": "first",
                }
            ],
        }

    def test_json_about_no_text_has_null_places(self) -> None:
        found = to_json(Diagnostic(Code.USAGE, "no such flag"))

        assert [found[key] for key in ("file", "line", "col", "end_line", "end_col")] == [None] * 5

    def test_one_of(self) -> None:
        assert one_of([]) == ""
        assert one_of(["a"]) == "a"
        assert one_of(["a", "b"]) == "a or b"
        assert one_of(["a", "b", "c"]) == "a, b or c"

    @given(st.text())
    def test_visible_text_is_one_printable_line(self, text: str) -> None:
        shown = visible(text)

        assert len(shown.splitlines()) <= 1
        assert visible(shown) == shown
        assert len(shown) == len(text)


class TestPlaces:
    @given(st.text(alphabet="ab\n\r日"), st.integers(0, 30))
    def test_positions_point_at_their_characters(self, text: str, offset: int) -> None:
        source = SourceText("a", text)
        position = source.position(offset)

        before = text[: min(offset, len(text))]
        assert position.line == before.count("\n") + 1
        assert position.column == len(before) - (before.rfind("\n") + 1) + 1

    def test_join_covers_both(self) -> None:
        assert Span(5, 7).join(Span(1, 2)) == Span(1, 7)


class TestErrors:
    def test_codes_are_unique_and_have_one_line_meanings(self) -> None:
        assert len({code.id for code in Code}) == len(Code)
        for code in Code:
            assert re.fullmatch(r"LQL\d{4}", code.id)
            assert code.meaning
            assert "\n" not in code.meaning
            assert not code.meaning.endswith(".")

    def test_every_code_belongs_to_a_class_of_the_tree(self) -> None:
        classes = [
            cls
            for cls in vars(errors).values()
            if isinstance(cls, type) and issubclass(cls, LqlError) and cls is not LqlError
        ]

        for code in Code:
            assert any(code.id.startswith(cls.family) for cls in classes), code
        for cls in classes:
            assert any(code.id.startswith(cls.family) for code in Code), cls
            assert cls.__name__ in (errors.__doc__ or "")

    @pytest.mark.parametrize(
        ("code", "exit_code"),
        [
            (Code.UNEXPECTED, 1),
            (Code.UNBOUND_PARAMETER, 1),
            (Code.OUT_OF_RANGE, 1),
            (Code.LEVEL_TOO_LOW, 4),
            (Code.NOTHING_OPEN, 1),
            (Code.CANCELLED, 130),
            (Code.VINDEX_NOT_FOUND, 3),
            (Code.LEDGER_REFUSAL, 1),
            (Code.NOT_AVAILABLE_YET, 1),
            (Code.USAGE, 2),
            (Code.INTERNAL, 70),
        ],
    )
    def test_exit_codes(self, code: Code, exit_code: int) -> None:
        assert LqlError(Diagnostic(code, "x")).exit_code == exit_code

    def test_an_error_learns_its_place_once(self) -> None:
        error = LqlRuntimeError(Diagnostic(Code.FAILED, "no"))
        first, second = SourceText("first", "STATS"), SourceText("second", "x")

        error.locate(first, Span(0, 5))
        error.locate(second, Span(0, 1))

        assert error.diagnostic.source is first
        assert error.diagnostic.span == Span(0, 5)
        assert str(error) == "first:1:1: error[LQL0507]: no"

    def test_an_error_keeps_the_span_it_knows(self) -> None:
        error = LqlRuntimeError(Diagnostic(Code.FAILED, "no", span=Span(2, 3)))

        error.locate(SourceText("a", "STATS"), Span(0, 5))

        assert error.diagnostic.span == Span(2, 3)
