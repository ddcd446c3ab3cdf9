"""Edits through the command: scripts, formats, exit codes, patches between processes."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Lql

HUNGARY = (
    'INSERT INTO EDGES (entity, relation, target) VALUES ("Hungary", "capital", "Oslo") CHECK NONE;'
)
ASK = 'INFER "The capital of Hungary is" TOP 2;'


def test_a_fact_goes_from_process_to_process(lql: Lql, tmp_path: Path) -> None:
    file = tmp_path / "h.vlp"
    made = lql(
        "-u", "tiny.vindex", "-e", f'{HUNGARY} {ASK} SAVE PATCH "{file}";', "--format", "json"
    )
    assert made.returncode == 0, made.stderr
    report, answer, saved = map(json.loads, made.stdout.splitlines())
    assert report["facts"][0]["target"] == "Oslo"
    assert answer[0]["fact"] == "Hungary —capital→ Oslo"
    assert saved["size_bytes"] == file.stat().st_size
    assert "the stored fact Hungary —capital→ Oslo answers" in made.stderr
    applied = lql("-u", "tiny.vindex", "-e", f'APPLY PATCH "{file}"; {ASK}', "--format", "jsonl")
    assert applied.returncode == 0, applied.stderr
    rows = [json.loads(line) for line in applied.stdout.splitlines()]
    assert rows[-2] == answer[0]
    told = lql(
        "run", "tiny.vindex", "The capital of Hungary is", "--patch", str(file), "--max-tokens", "6"
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith(" Oslo")
    alone = lql("run", "tiny.vindex", "The capital of Hungary is", "--max-tokens", "6")
    assert not alone.stdout.startswith(" Oslo")


def test_a_script_that_ends_with_unsaved_edits_fails_and_says_so(lql: Lql) -> None:
    done = lql("-u", "tiny.vindex", "-e", HUNGARY)
    assert done.returncode == 1
    assert "error[LQL0508]" in done.stderr
    assert "INSERT Hungary —capital→ Oslo" in done.stderr
    meant = lql("-u", "tiny.vindex", "-e", f"{HUNGARY} DISCARD PATCH;")
    assert meant.returncode == 0, meant.stderr


def test_a_use_that_would_drop_edits_fails(lql: Lql) -> None:
    done = lql("-u", "tiny.vindex", "-e", f'{HUNGARY} USE "chat.vindex";')
    assert done.returncode == 1
    assert "USE would drop 1 edit that no file holds" in done.stderr


def test_a_requirement_that_is_not_met_rolls_back(lql: Lql) -> None:
    statement = HUNGARY.replace("CHECK NONE", "REQUIRE efficacy > 1")
    done = lql("-u", "tiny.vindex", "-e", f"{statement}", "--errors", "json")
    assert done.returncode == 1
    assert json.loads(done.stderr.splitlines()[-1])["code"] == "LQL0509"
    assert "LQL0508" not in done.stderr


def test_the_report_is_printed_in_every_format(lql: Lql) -> None:
    statement = HUNGARY.replace("CHECK NONE", "CHECK QUICK") + " DISCARD PATCH;"
    for form in ("table", "vertical", "markdown", "csv", "tsv", "jsonl"):
        done = lql("-u", "tiny.vindex", "-e", statement, "--format", form)
        assert done.returncode == 0, done.stderr
        assert "The capital of Hungary is" in done.stdout
    assert "neighbour" in done.stdout


def test_a_patch_over_other_weights_is_refused(lql: Lql, tmp_path: Path) -> None:
    file = tmp_path / "h.vlp"
    made = lql("-u", "tiny.vindex", "-e", f'{HUNGARY} SAVE PATCH "{file}";')
    assert made.returncode == 0, made.stderr
    done = lql("-u", "chat.vindex", "-e", f'APPLY PATCH "{file}";')
    assert done.returncode == 1
    assert "error[LQL0511]" in done.stderr
    assert "gate_vectors.bin" in done.stderr
    forced = lql("-u", "chat.vindex", "-e", f'APPLY PATCH "{file}" FORCE;')
    assert forced.returncode == 0, forced.stderr
