"""The shell asks before it drops edits that no file holds."""

from __future__ import annotations

from pathlib import Path

from tests.repl.conftest import Typing

INSERT = (
    'INSERT INTO EDGES (entity, relation, target) VALUES ("Hungary", "capital", "Oslo") '
    "CHECK NONE;\r"
)
CTRL_D = "\x04"


def test_leaving_asks_and_no_keeps_the_edits(typing: Typing) -> None:
    out = typing(f"{INSERT}{CTRL_D}n\rSHOW EDITS;\r{CTRL_D}y\r")

    assert "INSERT Hungary —capital→ Oslo" in out.split("number", 1)[1]
    assert "leaving drops 1 edit that no file holds" in typing.err.getvalue()
    assert not typing.session.overlay.unsaved
    assert typing.bugs == []


def test_a_use_that_would_drop_edits_asks_first(typing: Typing, tiny_vindex: Path) -> None:
    use = f'USE "{tiny_vindex}";\r'
    typing(f"{INSERT}{use}n\r{use}y\rSHOW EDITS;\r")

    assert "kept; SAVE PATCH" in typing.err.getvalue()
    assert typing.session.overlay.edits == ()
    assert typing.bugs == []


def test_a_second_ctrl_d_leaves(typing: Typing) -> None:
    typing(f"{INSERT}{CTRL_D}")

    assert "drops 1 edit" in typing.err.getvalue()
    assert not typing.session.overlay.unsaved
