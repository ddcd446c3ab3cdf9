"""What completion knows of the open vindex, how it gets to know it, and how quickly it answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from lql.repl.completer import MAX_NAMES, LqlCompleter, NameOf, names, wanted
from lql.repl.known import NOTHING_KNOWN, Known, KnownNames, State, Term, Terms, gathered
from lql.session import Session, connect
from lql.syntax_words import Slot
from vindex.errors import VindexError

KNOWN = Known(
    {
        Slot.ENTITY: Terms(
            [Term("France", "9 features", -9), Term("Franz", "1 feature", -1), Term('Fr"x', "")]
        ),
        Slot.RELATION: Terms([Term("capital", "label"), Term("capital of", "label")]),
        Slot.LAYER: Terms(Term(str(n), "syntax", n) for n in range(12)),
        Slot.FIELD: Terms([Term("layer", "FEATURES"), Term("logit", "FEATURES")]),
        Slot.KIND: Terms([Term("country", "Country")]),
    }
)


@pytest.mark.parametrize(
    ("before", "want"),
    [
        ('DESCRIBE "Fr', NameOf(Slot.ENTITY, '"')),
        ("DESCRIBE ", NameOf(Slot.ENTITY, "")),
        ('DIFF CURRENT "b" RELATION "c', NameOf(Slot.RELATION, '"')),
        ("SELECT * FROM EDGES WHERE relation = 'c", NameOf(Slot.RELATION, "'")),
        ('SELECT * FROM EDGES WHERE entity IN ("a", "F', NameOf(Slot.ENTITY, '"')),
        ("SELECT la", NameOf(Slot.FIELD, "", bare=True)),
        ("SELECT * FROM FEATURES WHERE lo", NameOf(Slot.FIELD, "", bare=True)),
        ("SELECT * FROM FEATURES ORDER BY lo", NameOf(Slot.FIELD, "", bare=True)),
        ("SHOW FEATURES ", NameOf(Slot.LAYER, "", bare=True)),
        ('WALK "x" LAYERS ', NameOf(Slot.LAYER, "", bare=True)),
        ('DEFINE RELATION "a" TEMPLATE "b" KIND "co', NameOf(Slot.KIND, '"')),
        ('PLOT DESCRIBE "Fr', NameOf(Slot.ENTITY, '"')),
    ],
)
def test_the_slot_of_the_grammar_chooses_the_names(before: str, want: NameOf) -> None:
    assert want in wanted(before).wants


@pytest.mark.parametrize("before", ['INFER "Fr', 'WALK "Fr', 'INSERT INTO EDGES FROM "Fr'])
def test_no_names_stand_in_a_prompt_or_a_path(before: str) -> None:
    assert not [want for want in wanted(before).wants if isinstance(want, NameOf)]


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ('DESCRIBE "fr', ['France"', 'Franz"', 'Fr\\"x"']),
        ("DESCRIBE ", ['"France"', '"Franz"', '"Fr\\"x"']),
        ("DESCRIBE 'Fr\"", ["Fr\\\"x'"]),
        ('DESCRIBE "z', []),
        ("SELECT lo", ["logit"]),
        ("SELECT logit", []),
        ("SHOW FEATURES ", [str(n) for n in range(12)]),
        ("SELECT * FROM EDGES WHERE relation = 'cap", ["capital'", "capital of'"]),
    ],
)
def test_names_begin_like_what_is_typed_and_the_strongest_come_first(
    before: str, expected: list[str], tmp_path: Path
) -> None:
    found = [name.text for name in names(wanted(before), tmp_path, tuple, KNOWN)]
    bare = [text for text in found if not text.isupper()]
    assert sorted(bare) == sorted(expected)
    if before.startswith("DESCRIBE"):
        assert found[:1] == expected[:1]


def test_a_completed_name_means_itself(tmp_path: Path) -> None:
    from lql import ast
    from lql.parser import parse

    for start in ('DESCRIBE "Fr"', "DESCRIBE 'Fr\"", 'DESCRIBE "Fr\\"'):
        before = start[:-1] if start.count('"') == 2 and "\\" not in start else start
        for name in names(wanted(before), tmp_path, tuple, KNOWN):
            text = before[: len(before) - name.replaces] + name.text
            (statement,) = parse(text).items[0].statements
            assert isinstance(statement, ast.Describe)
            assert isinstance(statement.entity, ast.Text)
            assert statement.entity.value in ("France", "Franz", 'Fr"x')


# --------------------------------------------------------------------------- gathering


@pytest.fixture
def session(tiny_vindex: Path) -> Iterator[Session]:
    with connect(tiny_vindex) as opened:
        yield opened


def test_the_names_are_those_that_the_tables_list(session: Session, tiny_vindex: Path) -> None:
    known = gathered(tiny_vindex)

    listed = {str(row["entity"]): row["features"] for row in session.query("SHOW ENTITIES").rows}
    offered = {term.text: -term.rank for term in known.terms(Slot.ENTITY).beginning("", 10_000)}
    assert offered == listed
    assert [term.text for term in known.terms(Slot.LAYER).beginning("", 9)] == ["0", "1", "2", "3"]
    assert {"layer", "token", "lift_nats"} <= {
        term.text for term in known.terms(Slot.FIELD).beginning("", 99)
    }
    assert known.terms(Slot.RELATION).beginning("capita", 9)[0].text == "capital"


def wait_for(known: KnownNames, state: State) -> None:
    deadline = time.monotonic() + 30
    while known.state is not state:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_names_are_read_in_the_background_and_swapped_in_whole(session: Session) -> None:
    go_on = Event()

    def slowly(path: Path) -> Known:
        go_on.wait(30)
        return KNOWN

    known = KnownNames(session, slowly)
    assert known.state is State.NOTHING
    assert known.now() is NOTHING_KNOWN
    assert known.state is State.LOADING
    go_on.set()
    wait_for(known, State.READY)
    assert known.now() is KNOWN


def test_a_vindex_that_cannot_be_read_costs_only_its_names(session: Session) -> None:
    def fails(path: Path) -> Known:
        raise VindexError("damaged")

    known = KnownNames(session, fails)
    known.now()
    wait_for(known, State.FAILED)
    assert known.now() is NOTHING_KNOWN


def test_the_names_of_a_vindex_that_was_left_are_dropped(session: Session) -> None:
    go_on = Event()

    def slowly(path: Path) -> Known:
        go_on.wait(30)
        return KNOWN

    known = KnownNames(session, slowly)
    known.now()
    session.close()
    assert known.now() is NOTHING_KNOWN
    go_on.set()
    time.sleep(0.1)
    assert known.now() is NOTHING_KNOWN
    assert known.state is State.NOTHING


# --------------------------------------------------------------------------- speed

BUDGET_S = 0.030


def test_a_keystroke_is_answered_within_the_budget_among_a_quarter_million_names() -> None:
    """The median of every prefix, so that a busy machine does not decide."""
    many = Known(
        {Slot.ENTITY: Terms(Term(f"{chr(65 + n % 26)}ame{n}", "1", -n) for n in range(262_144))}
    )
    completer = LqlCompleter(tuple, lambda: many)
    event = CompleteEvent(text_inserted=True)
    text = 'SELECT * FROM EDGES WHERE layer > 3 AND entity = "Aame1"'
    times = []
    for end in range(1, len(text)):
        started = time.process_time()
        found = list(completer.get_completions(Document(text[:end], end), event))
        times.append(time.process_time() - started)
        assert len(found) <= MAX_NAMES
    median = sorted(times)[len(times) // 2]
    print(f"median {median * 1000:.1f} ms, worst {max(times) * 1000:.1f} ms")
    assert median < BUDGET_S
