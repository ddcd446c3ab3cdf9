"""Scripts for CI: ASSERT, ``--junit``, ``--check`` with a vindex, and the example workflow."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.cli.conftest import Lql

ROOT = Path(__file__).parents[2]


@pytest.fixture
def answer(lql: Lql) -> list[dict[str, object]]:
    """What tiny.vindex says after "x": the first five tokens."""
    rows: list[dict[str, object]] = lql.rows('INFER "x" TOP 5')
    return rows


# --------------------------------------------------------------------------- ASSERT


def test_what_holds_prints_nothing(lql: Lql, answer: list[dict[str, object]]) -> None:
    script = """
        ASSERT INFER "x" = :first;
        ASSERT INFER "x" TOP 1 = :first "the first token";
        ASSERT INFER "x" TOP 5 = :fifth;
        ASSERT INFER "x" TOP 4 != "no such token";
        ASSERT (SELECT COUNT(*) FROM LAYERS) >= 2;
        ASSERT (SELECT MAX(attention) FROM LAYERS) = "full";
        ASSERT PROBABILITY "x" OF "abc" <= 1;
    """
    words = ["--param", f"first={answer[0]['token']}", "--param", f"fifth={answer[4]['token']}"]
    done = lql("tiny.vindex", "-e", script, *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("statement", "expected", "found"),
    [
        ('ASSERT INFER "x" = "no such token"', '= "no such token"', r'".*" \(\d+\.\d%\)'),
        ('ASSERT INFER "x" TOP 1 != :first', "!= ", r'".*" \(\d+\.\d%\)'),
        ("ASSERT (SELECT COUNT(*) FROM LAYERS) > 99", "> 99", r"\d+"),
        ('ASSERT (SELECT MAX(attention) FROM LAYERS) = "x"', '= "x"', '"full"'),
        ('ASSERT (SELECT MAX(band) FROM LAYERS WHERE layer > 99) = "x"', '= "x"', "no value"),
        ('ASSERT PROBABILITY "x" OF "abc" > 1.5', "> 1.5", r"[\d.e-]+"),
    ],
)
def test_what_does_not_hold_says_what_was_expected_and_found(
    lql: Lql, answer: list[dict[str, object]], statement: str, expected: str, found: str
) -> None:
    words = ["--param", f"first={answer[0]['token']}"] if ":first" in statement else []
    done = lql("tiny.vindex", "-e", f"{statement}; STATS", *words, "--errors", "json")
    error = json.loads(done.stderr.splitlines()[-1])
    assert (done.returncode, error["code"], done.stdout) == (1, "LQL0570", "")
    assert error["notes"][0].startswith(f"expected {expected}")
    assert re.fullmatch(f"found {found}", error["notes"][1])


def test_the_users_message_is_the_error(lql: Lql) -> None:
    script = "\nASSERT (SELECT COUNT(*) FROM LAYERS) > 99 'too few layers';"
    done = lql("tiny.vindex", "-e", script, "--errors", "short")
    assert done.stderr == "<-e>:2:1: error[LQL0570]: too few layers\n"


def test_a_forgotten_space_is_suggested(lql: Lql, answer: list[dict[str, object]]) -> None:
    token = str(answer[0]["token"])
    done = lql("tiny.vindex", "-e", "ASSERT INFER 'x' = :t", "--param", f"t={token.strip()} ")
    assert done.returncode == 1
    assert "tokens keep their spaces" in done.stderr


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("ASSERT (SELECT layer FROM LAYERS) = 1", "LQL0573"),
        ("ASSERT (SELECT layer, band FROM LAYERS LIMIT 1) = 1", "LQL0573"),
        ("ASSERT (SELECT layer FROM LAYERS LIMIT 0) = 1", "LQL0573"),
        ("ASSERT (SELECT COUNT(*) FROM LAYERS) = 'x'", "LQL0301"),
        ("ASSERT PROBABILITY 'x' OF ' ' > 0", "LQL0302"),
        ("ASSERT INFER 'x' COMPARE = 'y'", "LQL0901"),
    ],
)
def test_what_cannot_be_judged_is_another_error(lql: Lql, statement: str, code: str) -> None:
    done = lql("tiny.vindex", "-e", statement)
    assert (done.returncode, code in done.stderr) == (1, True), done.stderr


# --------------------------------------------------------------------------- --junit


def suites(path: Path) -> dict[str, list[tuple[str, str | None]]]:
    """Per suite, each case's beginning and what its XML says became of it."""
    root = ElementTree.parse(path).getroot()
    found: dict[str, list[tuple[str, str | None]]] = {}
    for suite in root:
        cases = [
            (case.attrib["name"].split()[0], case[0].tag if len(case) else None) for case in suite
        ]
        found[suite.attrib["name"]] = cases
        outcomes = [outcome for _, outcome in cases]
        for tag, attribute in (
            ("failure", "failures"),
            ("error", "errors"),
            ("skipped", "skipped"),
        ):
            assert suite.attrib[attribute] == str(outcomes.count(tag))
        assert suite.attrib["tests"] == str(len(cases))
    return found


def test_junit_has_a_case_for_every_statement(lql: Lql, tmp_path: Path) -> None:
    count = "ASSERT (SELECT COUNT(*) FROM LAYERS)"
    (tmp_path / "more.lql").write_text(f"{count} > 0;\nSHOW LAYERS 9-9;")
    (tmp_path / "main.lql").write_text(
        f"STATS;\n{count} > 99 '<&\x1b\"]]>';\nINCLUDE 'more.lql';STATS;"
    )
    report = tmp_path / "out.xml"
    words = ["--junit", str(report), "--format", "none", "-q"]
    done = lql("-u", "tiny.vindex", str(tmp_path / "main.lql"), *words, "--on-error", "continue")
    assert done.returncode == 1
    main, more = str(tmp_path / "main.lql"), str(tmp_path / "more.lql")
    assert suites(report) == {
        "lql": [("USE", None)],
        main: [("STATS", None), ("ASSERT", "failure"), ("STATS", None)],
        more: [("ASSERT", None), ("SHOW", "error")],
    }
    case = ElementTree.parse(report).findall(".//testcase")[2]
    assert (case.attrib["file"], case.attrib["line"]) == (main, "2")
    assert case[0].attrib == {"message": '<&␛"]]>', "type": "LQL0570"}
    assert "note: found" in str(case[0].text)


def test_junit_is_written_when_a_statement_fails(lql: Lql, tmp_path: Path) -> None:
    report = tmp_path / "out.xml"
    report.write_text("old")
    done = lql("-e", "SHOW MODELS; STATS; SHOW MODELS", "--junit", str(report))
    assert done.returncode == 1
    assert suites(report)["<-e>"] == [("SHOW", None), ("STATS", "error"), ("SHOW", "skipped")]
    assert [path.name for path in tmp_path.iterdir()] == ["out.xml"]


def test_junit_tells_of_a_text_that_does_not_parse(lql: Lql, tmp_path: Path) -> None:
    report = tmp_path / "out.xml"
    assert lql("-e", "SELEC;", "--junit", str(report)).returncode == 1
    assert suites(report) == {"<-e>": [("<-e>", "error")]}


def test_junit_is_written_when_the_script_is_interrupted(lql: Lql, tmp_path: Path) -> None:
    report = tmp_path / "out.xml"
    many = "INFER 'x';" * 2000
    process = lql.start("tiny.vindex", "-e", many, "--junit", str(report), "--format", "jsonl")
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    outcomes = [outcome for _, outcome in suites(report)["<-e>"]]
    assert outcomes[0] is None
    assert outcomes[-1] == "skipped"


def test_junit_that_cannot_be_written_is_told_before_anything_runs(lql: Lql) -> None:
    done = lql("-e", "SHOW MODELS", "--junit", "no/such/out.xml")
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot write no/such/out.xml" in done.stderr


def test_junit_of_a_check(lql: Lql, tmp_path: Path) -> None:
    report = tmp_path / "out.xml"
    words = ["--check", "--junit", str(report)]
    done = lql("-u", "tiny.vindex", "-e", "STATS; SHOW LAYERS 0-9", *words)
    assert done.returncode == 1
    assert suites(report)["<-e>"] == [("STATS", None), ("SHOW", "error")]


# --------------------------------------------------------------------------- --check


def test_check_looks_names_up_in_the_vindex(lql: Lql) -> None:
    script = "SELECT layr FROM LAYERS; SHOW LAYERS 0-9; INFER 'x'"
    done = lql("-u", "browse.vindex", "--check", "-e", script, "--errors", "short")
    assert done.returncode == 1
    assert re.findall(r"LQL\d+", done.stderr) == ["LQL0204", "LQL0302", "LQL0401"]
    assert lql("-u", "missing.vindex", "--check", "-e", "STATS").returncode == 3
    good = lql("-u", "tiny.vindex", "--check", "-e", "SELECT layer FROM LAYERS; INFER 'x'")
    assert (good.returncode, good.stdout, good.stderr) == (0, "", "")


def test_a_parameter_of_an_included_file_counts_as_used(lql: Lql, tmp_path: Path) -> None:
    (tmp_path / "more.lql").write_text("ASSERT (SELECT COUNT(*) FROM LAYERS) > :n;")
    (tmp_path / "main.lql").write_text("INCLUDE 'more.lql';")
    main = str(tmp_path / "main.lql")
    assert lql("-u", "tiny.vindex", main, "--param", "n=0").returncode == 0
    assert "LQL0202" in lql("-u", "tiny.vindex", main, "--param", "n=0", "--param", "m=0").stderr


def test_variables_hold_for_the_texts_after(lql: Lql) -> None:
    words = ["-e", "SET n = 1", "-e", "SHOW LAYERS LIMIT :n", "--format", "jsonl"]
    assert len(lql("tiny.vindex", *words).stdout.splitlines()) == 1


# --------------------------------------------------------------------------- lql help


def test_help_lists_and_explains_statements(lql: Lql) -> None:
    listed = lql("help")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert re.search(r"^  ASSERT +Fail unless", listed.stdout, re.MULTILINE)
    explained = lql("help", "show", "layers")
    assert explained.stdout.startswith("SHOW LAYERS: List layers")
    assert lql("help", "asert").returncode == 2
