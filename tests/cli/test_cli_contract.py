"""The contract of the command: exit codes, streams, one path for every kind of input."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from lql import batch, cli
from lql.session import connect
from tests.cli.conftest import CHECKPOINT, Lql

SCRIPT = 'USE "tiny.vindex"; WALK "x" TOP 1; SHOW LAYERS 0-1;'


# --------------------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["-e", "SHOW MODELS;"], 0, ""),
        (["-e", ""], 0, ""),
        (["-e", "SELEC 1;"], 1, "LQL0104"),
        (["-e", "STATS;"], 1, "LQL0501"),
        (["-e", 'USE REMOTE "http://x";'], 1, "LQL0901"),
        (["-u", "tiny.vindex", "-e", "SHOW LAYERS 0-9;"], 1, "LQL0302"),
        (["-e", 'STATS "a"; STATS "b"', "--param", "n=1"], 1, "LQL0202"),
        (["--no-such-option"], 2, "LQL0902"),
        (["-e"], 2, "LQL0902"),
        (["-e", "STATS", "--format", "jsn"], 2, "did you mean json"),
        (["-e", "STATS", "--fromat=json"], 2, "did you mean --format"),
        (["-e", "STATS", "--param", "x"], 2, "NAME=VALUE"),
        (["-e", "STATS", "--param", "x=1", "--param", "x=2"], 2, "twice"),
        (["-e", "STATS", "--timeout", "-1"], 2, "positive"),
        (["-f", "missing.lql"], 2, "missing.lql"),
        (["verfy"], 2, "did you mean verify"),
        (["tiny.vindx"], 2, "did you mean tiny.vindex"),
        (["chat_model"], 2, "index.json"),
        (["tiny.vindex", "browse.vindex"], 2, "one vindex"),
        (["tiny.vindex", "-u", "browse.vindex"], 2, "twice"),
        (["-e", "STATS", "-o", "no/such/dir"], 2, "cannot write"),
        (["extract", "chat_model"], 2, "-o"),
        (["extract", "chat_model", "-o", "x", "--down-q4k"], 2, "--quant q4k"),
        (["run", "tiny.vindex", "x", "--max-tokens", "0"], 2, "at least 1"),
        (["run", "tiny.vindex", "x", "--chat", "--raw"], 2, "exclude each other"),
        (["run", "tiny.vindex", "x", "--format", "json"], 2, "unknown option --format"),
        (["-u", "missing.vindex", "-e", "STATS;"], 3, "LQL0601"),
        (["-e", 'USE "tiny.vindx";'], 3, 'did you mean "tiny.vindex"'),
        (["verify", "missing.vindex"], 3, "LQL0601"),
        (["browse.vindex", "-e", 'INFER "x";'], 4, "WITH INFERENCE"),
    ],
)
def test_exit_codes(lql: Lql, words: list[str], code: int, error: str) -> None:
    done = lql(*words)
    assert done.returncode == code, done.stderr
    assert error in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_vindex_is_exit_3(lql: Lql, lql_here: Lql) -> None:
    copy = lql_here.cwd / "x.vindex"
    shutil.copytree(lql.cwd / "browse.vindex", copy)
    assert lql_here("verify", "x.vindex").returncode == 0
    gate = copy / "gate_vectors.bin"
    data = bytearray(gate.read_bytes())
    data[1000] ^= 1
    gate.write_bytes(data)
    done = lql_here("verify", "x.vindex")
    assert done.returncode == 3
    assert re.search(r"gate_vectors\.bin .*damaged", done.stdout)
    gate.write_bytes(data[:-2])
    assert lql_here("-u", "x.vindex", "-e", "STATS;").returncode == 3


def test_opening_never_creates_anything(lql_here: Lql) -> None:
    lql_here("-u", "new.vindex", "-e", "STATS;")
    lql_here("new.vindex")
    assert list(lql_here.cwd.iterdir()) == []


def test_a_bug_is_exit_70_with_a_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(*_: object) -> int:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr(batch, "run", fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert cli.main(["-e", "STATS;"]) == 70
    said = capsys.readouterr().err
    assert "this is a bug in lql" in said
    assert "Traceback" not in said
    (report,) = tmp_path.iterdir()
    assert "ZeroDivisionError: boom" in report.read_text()
    assert report.name in said
    monkeypatch.setenv("LQL_DEBUG", "1")
    assert cli.main(["-e", "STATS;"]) == 70
    assert "Traceback" in capsys.readouterr().err


# --------------------------------------------------------------------------- one code path


def test_every_way_to_give_a_script_prints_the_same(lql: Lql, tmp_path: Path) -> None:
    file = tmp_path / "script.lql"
    file.write_text(SCRIPT)
    ways = [
        lql("-e", SCRIPT),
        lql("-f", str(file)),
        lql(str(file)),
        lql("-f", "-", stdin=SCRIPT),
        lql(stdin=SCRIPT),
        lql("-", stdin=SCRIPT),
        lql(*(word for part in SCRIPT.split(";")[:-1] for word in ("-e", part))),
        lql("-f", "-", stdin=b"\xef\xbb\xbf" + SCRIPT.replace(" ", "\r\n").encode()),
    ]
    assert {done.returncode for done in ways} == {0}
    assert len({done.stdout for done in ways}) == 1
    assert {done.stderr for done in ways} == {""}


def test_sources_run_in_the_order_they_are_written(lql: Lql, tmp_path: Path) -> None:
    file = tmp_path / "script.lql"
    file.write_text("SHOW LAYERS 1-1;")
    words = ["-e", "SHOW LAYERS 0-0", "-f", str(file), "-e", "SHOW LAYERS 2-2", "--format", "csv"]
    done = lql("tiny.vindex", *words)
    assert re.findall(r"^\d", done.stdout, re.MULTILINE) == ["0", "1", "2"]


def test_scripts_beside_e_are_refused_rather_than_reordered(lql: Lql, tmp_path: Path) -> None:
    file = tmp_path / "script.lql"
    file.write_text("STATS;")
    assert lql(str(file), "-e", "STATS").returncode == 2


def test_the_whole_text_is_parsed_before_anything_runs(lql_here: Lql, data_dir: Path) -> None:
    extract = f'EXTRACT MODEL "{data_dir / CHECKPOINT}" INTO "x.vindex";'
    done = lql_here("-e", extract, "-e", "STATS;\nWALKK;")
    assert (done.returncode, done.stdout) == (1, "")
    assert "<-e 2>:2:1" in done.stderr
    assert list(lql_here.cwd.iterdir()) == []


def test_check_parses_and_runs_nothing(lql_here: Lql, data_dir: Path) -> None:
    extract = f'EXTRACT MODEL "{data_dir / CHECKPOINT}" INTO "x.vindex"; STATS "none";'
    done = lql_here("--check", "-e", extract)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(lql_here.cwd.iterdir()) == []
    done = lql_here("--check", "-e", "SELEC;", "-e", "INFER :x;")
    assert done.returncode == 1
    assert "LQL0104" in done.stderr
    assert "LQL0201" in done.stderr


def test_a_script_that_is_not_utf8_is_refused(lql: Lql) -> None:
    done = lql("-f", "-", stdin=b"STATS; -- \xe9")
    assert done.returncode == 2
    assert "byte 10" in done.stderr


def test_parameters_are_values_of_their_places(lql: Lql) -> None:
    words = ["--param", 'p="; STATS; --', "--param", "n=2"]
    rows = lql.rows("INFER :p TOP :n;", *words)
    assert len(rows) == 2
    done = lql("tiny.vindex", "-e", "INFER :p TOP :n;", "--param", "p=x", "--param", "n=two")
    assert (done.returncode, "LQL0301" in done.stderr) == (1, True)


# --------------------------------------------------------------------------- failing statements


def test_a_failure_stops_the_script_unless_told_otherwise(lql: Lql) -> None:
    script = "SHOW LAYERS 0-0; SHOW LAYERS 9-9; SHOW LAYERS 1-1;"
    stopped = lql("tiny.vindex", "-e", script, "--format", "jsonl")
    assert stopped.returncode == 1
    assert [json.loads(line)["layer"] for line in stopped.stdout.splitlines()] == [0]
    words = ["-e", script, "--format", "jsonl", "--on-error", "continue"]
    went_on = lql("tiny.vindex", *words)
    assert went_on.returncode == 1
    assert [json.loads(line)["layer"] for line in went_on.stdout.splitlines()] == [0, 1]


def test_a_pipe_skips_what_comes_after_a_failure(lql: Lql) -> None:
    script = "SHOW LAYERS 0-0 |> SHOW LAYERS 9-9 |> SHOW LAYERS 1-1; SHOW LAYERS 2-2;"
    done = lql("tiny.vindex", "-e", script, "--format", "jsonl", "--on-error", "continue")
    assert [json.loads(line)["layer"] for line in done.stdout.splitlines()] == [0, 2]
    assert done.returncode == 1


def test_a_failing_use_keeps_what_was_open(lql: Lql) -> None:
    script = 'USE "tiny.vindex"; USE "missing.vindex"; STATS;'
    done = lql("-e", script, "--format", "json", "--on-error", "continue")
    assert done.returncode == 3
    assert json.loads(done.stdout)["path"] == "tiny.vindex"


def test_a_time_limit_stops_a_statement(lql: Lql) -> None:
    done = lql("tiny.vindex", "-e", 'INFER "x";', "--timeout", "0.01")
    assert done.returncode == 1
    assert "time limit of 0.01 s" in done.stderr


# --------------------------------------------------------------------------- streams


def test_only_results_are_on_standard_output(lql: Lql) -> None:
    done = lql(
        "chat.vindex", "-e", 'INFER "x" TOP 1; STATS "none";', "--format", "json", "--timing"
    )
    assert len(json.loads(done.stdout)) == 1
    assert "note:" in done.stderr
    assert re.search(r"1 row, .* loading weights", done.stderr)
    quiet = lql("chat.vindex", "-e", 'INFER "x" TOP 1; STATS "none";', "--format", "json", "-q")
    assert quiet.stdout == done.stdout
    assert quiet.stderr.startswith("error[")


def test_a_note_is_said_once(lql: Lql) -> None:
    done = lql("chat.vindex", "-e", 'INFER "x"; INFER "y";')
    assert done.stderr.count("note:") == 1


def test_errors_for_editors_and_for_programs(lql: Lql) -> None:
    short = lql("-e", "STATS;\nWALKK;", "--errors", "short")
    assert re.fullmatch(r"<-e>:2:1: error\[LQL0104\]: .*\n", short.stderr)
    found = json.loads(lql("-e", "STATS;\nWALKK;", "--errors=json").stderr)
    assert (found["code"], found["line"], found["col"]) == ("LQL0104", 2, 1)
    assert found["suggestions"] == ["WALK"]
    usage = json.loads(lql("--errors=json", "--fromat").stderr)
    assert usage["code"] == "LQL0902"


def test_every_line_of_json_errors_is_json(lql: Lql) -> None:
    done = lql("chat.vindex", "-e", 'INFER "x"; STATS "no";', "--errors", "json", "--timing")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line["severity"] for line in lines} == {"note", "error"}


def test_output_goes_to_a_file(lql: Lql, tmp_path: Path) -> None:
    file = tmp_path / "out.csv"
    done = lql("tiny.vindex", "-e", "SHOW LAYERS;", "--format", "csv", "-o", str(file))
    assert (done.returncode, done.stdout) == (0, "")
    assert file.read_text() == lql("tiny.vindex", "-e", "SHOW LAYERS;", "--format", "csv").stdout
    before = file.read_text()
    lql("tiny.vindex", "-e", "SELEC;", "-o", str(file))
    assert file.read_text() == before


@pytest.mark.parametrize("statements", [1, 40])
def test_a_reader_that_leaves_is_no_error(lql: Lql, statements: int) -> None:
    words = ["-e", "SHOW FEATURES 1; " * statements, "--format", "json"]
    process = lql.start("tiny.vindex", *words)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr.read() == ""


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["--info"]])
def test_nobody_reads_the_help(lql: Lql, words: list[str]) -> None:
    process = lql.start(*words)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.wait(timeout=60)
    assert process.stderr.read() == ""


def test_ctrl_c_ends_a_batch_promptly(lql: Lql) -> None:
    process = lql.start(
        "tiny.vindex", "-e", 'INFER "The capital" COMPARE; ' * 3000, "--format", "json"
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - started < 5
    assert "Traceback" not in said


def test_colour_is_asked_for_or_on_a_terminal(lql: Lql) -> None:
    words = ["tiny.vindex", "-e", "SHOW LAYERS;"]
    assert "\x1b[" not in lql(*words).stdout
    assert "\x1b[1m" in lql(*words, "--color", "always").stdout
    assert "\x1b[1m" in lql(*words, env={"FORCE_COLOR": "1", "NO_COLOR": ""}).stdout
    assert "\x1b[" not in lql(*words, env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).stdout


def test_a_terminal_gets_the_same_table_with_timing_beside_it(lql: Lql) -> None:
    words = ["tiny.vindex", "-e", "SHOW LAYERS;"]
    piped = lql(*words).stdout
    shown = on_terminal(lql, words)
    assert piped in shown
    assert re.search(r"4 rows, [\d.]+ m?s", shown)
    assert "using tiny.vindex" in shown


def on_terminal(lql: Lql, words: list[str]) -> str:
    """Everything the command writes when both streams are a terminal."""
    main, side = pty.openpty()
    process = subprocess.Popen(
        lql.command(*words),
        cwd=lql.cwd,
        env=lql.environment({"COLUMNS": "", "TERM": "xterm"}),
        stdin=subprocess.DEVNULL,
        stdout=side,
        stderr=side,
    )
    os.close(side)
    text = b""
    try:
        while chunk := os.read(main, 4096):
            text += chunk
    except OSError:  # Linux says so when the other end is closed
        pass
    finally:
        os.close(main)
    assert process.wait(timeout=60) == 0
    return text.decode().replace("\r\n", "\n")


# --------------------------------------------------------------------------- help and imports


def test_help_and_version(lql: Lql) -> None:
    done = lql("--version")
    assert re.fullmatch(r"lql \d+\.\d+\.\d+\S*\n", done.stdout)
    for words in (["--help"], ["extract", "-h"], ["run", "-h"], ["verify", "-h"], ["demo", "-h"]):
        done = lql(*words)
        assert done.returncode == 0
        assert "--errors" in done.stdout


def test_info_is_a_result_like_any_other(lql: Lql) -> None:
    done = lql("--info", "--format", "json")
    found = json.loads(done.stdout)
    assert found["packages"]["numpy"]
    assert found["device"] == "cpu"


BROWSE = [
    'DESCRIBE "France" EVIDENCE STATIC;',
    'WALK "x";',
    'EXPLAIN WALK "x";',
    "SHOW LAYERS;",
    "SHOW FEATURES 1;",
    "SHOW MODELS;",
    "STATS;",
]


@pytest.mark.parametrize("statement", BROWSE)
def test_browsing_imports_no_heavy_module(lql: Lql, statement: str) -> None:
    code = (
        "import sys; from lql.cli import main\n"
        f"code = main(['tiny.vindex', '-e', {statement!r}, '-q'])\n"
        "heavy = {'torch', 'transformers', 'prompt_toolkit', 'jinja2', 'gguf', 'huggingface_hub',"
        " 'safetensors', 'rich.progress', 'rich.console'}\n"
        "print(code, sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=lql.cwd,
        env=lql.environment(None),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "0 []"


# --------------------------------------------------------------------------- sub-commands


def test_extract_is_the_statement(lql_here: Lql, data_dir: Path) -> None:
    words = ["extract", str(data_dir / CHECKPOINT), "-o", "x.vindex", "--level", "browse"]
    done = lql_here(*words, "--dtype", "bf16", "--format", "json")
    assert done.returncode == 0, done.stderr
    wrote = json.loads(done.stdout)
    assert (wrote["level"], wrote["dtype"]) == ("browse", "bf16")
    again = lql_here(*words)
    assert again.returncode == 1
    assert "LQL0502" in again.stderr
    assert lql_here(*words, "--overwrite").returncode == 0


def test_run_generates_what_the_model_does(lql: Lql) -> None:
    with connect(lql.cwd / "tiny.vindex") as session:
        tokens = list(session.model().generate("The capital", max_tokens=12))
    done = lql("run", "tiny.vindex", "The capital", "--max-tokens", "12")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "".join(token.text for token in tokens) + "\n"
    assert 1 < len(tokens) <= 12


def test_run_answers_line_by_line(lql: Lql) -> None:
    one = lql("run", "tiny.vindex", "The capital", "--max-tokens", "3").stdout
    done = lql(
        "run", "tiny.vindex", "--max-tokens", "3", "--raw", stdin="The capital\n\nThe capital"
    )
    assert done.stdout == one + one


def test_run_takes_a_checkpoint_as_it_is(lql: Lql) -> None:
    words = ["The capital", "--max-tokens", "3", "--raw"]
    assert lql("run", "chat_model", *words).stdout == lql("run", "tiny.vindex", *words).stdout


def test_a_file_named_like_a_sub_command_is_not_silently_passed_over(lql_here: Lql) -> None:
    (lql_here.cwd / "verify").write_text("SHOW MODELS;")
    assert "./verify" in lql_here("verify", "x").stderr
    assert lql_here("./verify").returncode == 0


def test_a_quantised_vindex_is_extracted_and_asked(lql_here: Lql, data_dir: Path) -> None:
    sizes = {}
    for name, more in (("six.vindex", []), ("four.vindex", ["--down-q4k"])):
        words = ["extract", str(data_dir / CHECKPOINT), "-o", name, "--quant", "q4k", *more]
        assert lql_here(*words).returncode == 0
        done = lql_here(name, "--format", "json", "-e", 'INFER "The capital" TOP 2;')
        assert done.returncode == 0, done.stderr
        assert len(json.loads(done.stdout)) == 2
        assert lql_here("verify", name).returncode == 0
        sizes[name] = (lql_here.cwd / name / "interleaved_kquant.bin").stat().st_size
    assert sizes["four.vindex"] < sizes["six.vindex"]
