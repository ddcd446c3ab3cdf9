"""The prompt and the line below the input."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lql.render import Format
from lql.repl.toolbar import Open, continuation, prompt, toolbar

VINDEX = Open("work/smollm2.vindex", "inference", "f16", loaded=True, device="cuda")


def line(current: Open | None, *, busy_with: str | None = None) -> str:
    pieces = toolbar(current, Format.TABLE, timing=True, busy_with=busy_with)
    return "".join(piece for _, piece, *_ in pieces)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("smollm2.vindex", "smollm2.vindex> "),
        ("/data/models/smollm2.vindex", "smollm2.vindex> "),
        ("package:llm/SmolLM2.gguf", "SmolLM2.gguf> "),
        ("a" * 50, "a" * 31 + "…> "),
        ("bell\x07.vindex", "bell␇.vindex> "),
        ("/", "/> "),
    ],
)
def test_the_prompt_names_what_is_open(name: str, expected: str) -> None:
    assert prompt(Open(name, None, None, loaded=False)) == expected


def test_the_prompt_of_a_shell_with_nothing_open() -> None:
    assert prompt(None) == "lql> "


@pytest.mark.parametrize(
    ("recording", "unsaved", "expected"),
    [(None, 0, "x> "), ("a.vlp", 0, "x*> "), (None, 2, "x!> "), ("a.vlp", 1, "x*!> ")],
)
def test_the_prompt_marks_a_recording_and_unsaved_edits(
    recording: str | None, unsaved: int, expected: str
) -> None:
    opened = Open("x", "all", "f16", loaded=False, recording=recording, unsaved=unsaved)

    assert prompt(opened) == expected


def test_the_toolbar_names_the_recording_and_counts_unsaved_edits() -> None:
    opened = replace(VINDEX, recording="work/facts.vlp", unsaved=2)

    assert line(opened).startswith(
        " work/smollm2.vindex │ recording facts.vlp │ 2 unsaved edits │ level inference"
    )


def test_a_long_path_leaves_room_for_the_facts() -> None:
    opened = replace(VINDEX, name=f"/tmp/{'deep/' * 40}smollm2.vindex")

    assert line(opened).startswith(" …")
    assert len(line(opened)) < 120
    assert "smollm2.vindex │ level inference" in line(opened)


@pytest.mark.parametrize("width", [3, 5, 20])
def test_further_lines_begin_in_the_column_of_the_first(width: int) -> None:
    assert len(continuation(width)) == width


def test_the_toolbar_says_what_changes_how_statements_run() -> None:
    assert line(VINDEX) == (
        " work/smollm2.vindex │ level inference │ dtype f16 │ weights loaded"
        " │ cuda │ format table │ timing on "
    )


def test_the_toolbar_of_a_model_without_a_vindex() -> None:
    found = line(Open("org/model", None, None, loaded=False))

    assert found.startswith(" org/model │ model, not extracted │ weights not loaded")


def test_the_toolbar_says_how_to_begin() -> None:
    assert 'USE "path.vindex";' in line(None)


def test_the_toolbar_names_a_statement_that_is_still_ending() -> None:
    assert line(VINDEX, busy_with="EXTRACT").endswith("EXTRACT is ending ")
