"""DESCRIBE and DEFINE RELATION on models that know nothing: what is asked, refused and said."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

import lql
from lql.catalogue import catalogue
from lql.codes import Code
from lql.errors import LqlCapabilityError, LqlNameError, LqlTypeError
from lql.execute import asking
from lql.results.browse import DescribeResult
from lql.session import Session, connect
from tests.unit.checkpoint_files import write_directory
from tests.unit.tiny_models import LLAMA_TINY, byte_tokenizer, tame_arrays
from vindex import gates
from vindex.answers import file_name
from vindex.verify import verify

SMALL = """
made_up = ["Zog"]
[kind.country]
noun = "Country"
examples = ["Malaysia"]
like = ["Chad"]
background = ["Fiji", "Oman"]
[kind.person]
noun = "Person"
examples = ["Max"]
like = ["Ada"]
background = ["Eva", "Bob"]
[[relation]]
name = "capital"
templates = ["The capital of {entity} is", "Capital:"]
answers.country = ["Kuala"]
[[relation]]
name = "work"
templates = ["{entity} is a"]
answers.person = ["cook"]
"""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalogue of two kinds: the whole one is for models that know something."""
    from lql.catalogue import parse

    monkeypatch.setattr(asking, "catalogue", lambda: parse(SMALL.encode()))
    monkeypatch.setattr("lql.inference.facts._LEAST", 0.0)  # nothing is probable here


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint = tmp_path_factory.mktemp("describe")
    config = {**LLAMA_TINY, "max_position_embeddings": 2048}
    write_directory(checkpoint, config, tame_arrays(config))
    byte_tokenizer().save(str(checkpoint / "tokenizer.json"))
    target = checkpoint / "tiny.vindex"
    with Session() as session:
        session.run(
            "EXTRACT MODEL :m INTO :t DTYPE f32; EXTRACT MODEL :m INTO :b WITH BROWSE;",
            parameters={"m": checkpoint, "t": target, "b": checkpoint / "browse.vindex"},
        )
    return target


@pytest.fixture
def vindex(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "tiny.vindex")
    return tmp_path / "tiny.vindex"


@pytest.fixture
def session(vindex: Path) -> Iterator[Session]:
    with connect(vindex) as opened:
        yield opened


def describe(session: Session, text: str, **parameters: str) -> DescribeResult:
    (result,) = session.run(text, parameters=parameters)
    assert isinstance(result, DescribeResult)
    return result


@pytest.mark.usefixtures("small")
def test_answers_come_with_what_was_asked(session: Session, vindex: Path) -> None:
    found = describe(session, 'DESCRIBE "France" RAW;')
    assert found.kinds
    assert found.edges
    assert {edge.evidence for edge in found.edges} == {"answer"}
    assert all("France" in str(edge.source) for edge in found.edges)
    scores = [edge.score for edge in found.edges]
    assert scores == sorted(scores, reverse=True)
    targets = [edge.target.casefold() for edge in found.edges]
    assert len(set(targets)) == len(targets)
    assert verify(vindex).ok
    assert (vindex / file_name("kinds")).exists()


@pytest.mark.usefixtures("small")
def test_the_stored_background_is_used_and_gives_the_same_rows(
    session: Session, vindex: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = describe(session, 'DESCRIBE "France" RAW;')
    monkeypatch.setattr(asking, "_computed", None)
    with connect(vindex) as other:
        assert describe(other, 'DESCRIBE "France" RAW;').to_rows() == first.to_rows()


@pytest.mark.usefixtures("small")
def test_a_vindex_that_cannot_be_written_is_described_all_the_same(
    session: Session, vindex: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(asking, "write_background", refuse)
    found = describe(session, 'DESCRIBE "France";')
    assert sum("could not be stored" in note for note in found.meta.notes) == 1
    assert not list(vindex.glob("lql_answers_*"))
    monkeypatch.setattr(asking, "_computed", None)  # what was computed is kept
    again = describe(session, 'DESCRIBE "France";')
    assert again.edges == found.edges
    assert not any("could not be stored" in note for note in again.meta.notes)


@pytest.mark.usefixtures("small")
def test_first_use_shows_its_progress(vindex: Path) -> None:
    class Seen:
        """Progress that is remembered."""

        phases: ClassVar[dict[str, list[int]]] = {}

        def phase(self, name: str, total: int, unit: str = "B") -> None:
            """Begin."""
            self.phases[name] = [total, 0]

        def advance(self, amount: int) -> None:
            """Go on."""
            list(self.phases.values())[-1][1] += amount

        def check(self) -> None:
            """Never stops."""

    with connect(vindex, progress=Seen()) as opened:
        describe(opened, 'DESCRIBE "France";')
    asked = {name: counts for name, counts in Seen.phases.items() if name.startswith("what")}
    assert len(asked) >= 2
    assert all(total == done > 0 for total, done in asked.values())


@pytest.mark.usefixtures("small")
def test_verbose_names_the_features_and_causal_silences_the_first(session: Session) -> None:
    found = describe(session, 'DESCRIBE "France" VERBOSE CAUSAL TOP 3;')
    for edge in found.edges:
        assert edge.via
        assert edge.via[0].startswith(f"L{edge.layer} F{edge.feature} ")
        assert edge.causal is not None
        assert 0 <= edge.causal <= 1


@pytest.mark.usefixtures("small")
def test_layers_limit_the_features_of_answers(session: Session) -> None:
    found = describe(session, 'DESCRIBE "France" EVIDENCE ANSWER VERBOSE AT LAYER 1;')
    assert {edge.layer for edge in found.edges} <= {1, None}


@pytest.mark.usefixtures("small")
def test_a_question_about_layers_is_one_about_features(session: Session) -> None:
    found = describe(session, 'DESCRIBE "France" LAYERS 0-1;')
    assert found.kinds == ()
    assert {edge.evidence for edge in found.edges} <= {"static"}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "name",
    ["{entity}", "{0!r}", "%s", "[bold]x[/]", "a\nb\tc", "'; -- x", "Köln", "日本", "\u202e1"],
)
def test_any_name_is_a_name(session: Session, name: str) -> None:
    found = describe(session, "DESCRIBE :e EVIDENCE ALL RAW;", e=name)
    assert all(edge.entity == name for edge in found.edges)
    shown = " ".join(name.split())
    assert all(shown in str(e.source) for e in found.edges if e.evidence == "answer")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["Malaysia", "Max", "Chad", "Fiji"])
def test_the_entities_of_the_catalogue_are_described_like_others(
    session: Session, name: str
) -> None:
    # An example's own lines are left out for itself: its prompt is how those of others begin.
    session.query('DESCRIBE "Zog"')
    session.query("DESCRIBE :e EVIDENCE ANSWER", e=name)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["", "  ", "...", "{}", "x " * 70, "y" * 100_000])
def test_what_is_no_name_is_refused(session: Session, name: str) -> None:
    with pytest.raises(LqlTypeError) as caught:
        describe(session, "DESCRIBE :e;", e=name)
    assert caught.value.code is Code.OUT_OF_RANGE


@pytest.mark.usefixtures("small")
def test_a_defined_relation_is_asked_and_outlives_use(session: Session, vindex: Path) -> None:
    define, found = session.run(
        'DEFINE RELATION "anthem" TEMPLATE "{entity} sings", "The song of {entity} is";'
        'DESCRIBE "France" RAW;'
    )
    assert define.to_dict()["kind"] is None
    asked = {edge.source for edge in found.edges if edge.relation == "anthem"}  # type: ignore[attr-defined]
    assert asked <= {"France sings", "The song of France is"}
    assert asked
    _, again = session.run('USE :v; DESCRIBE "France" RAW;', parameters={"v": str(vindex)})
    assert again == found


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('DEFINE RELATION "a" TEMPLATE "The anthem is";', LqlTypeError),
        ('DEFINE RELATION "a" TEMPLATE "{entity} and {entity}";', LqlTypeError),
        ('DEFINE RELATION " " TEMPLATE "{entity} is";', LqlTypeError),
        ('DEFINE RELATION "a" TEMPLATE "{entity} is" KIND "contry";', LqlNameError),
        ('DESCRIBE "x" EVIDENCE STATIC CAUSAL;', LqlTypeError),
    ],
)
def test_what_makes_no_sense_is_refused(
    session: Session, text: str, error: type[lql.LqlError]
) -> None:
    with pytest.raises(error):
        session.run(text)


def test_a_model_with_too_few_positions_is_described_by_its_features(tmp_path: Path) -> None:
    config = {**LLAMA_TINY, "max_position_embeddings": 64}
    write_directory(tmp_path / "m", config, tame_arrays(config))
    byte_tokenizer().save(str(tmp_path / "m" / "tokenizer.json"))
    with Session() as session:
        session.run(
            "EXTRACT MODEL :m INTO :t;",
            parameters={"m": tmp_path / "m", "t": tmp_path / "t.vindex"},
        )
        found = describe(session, 'DESCRIBE "France";')
        assert any("do not fit" in note for note in found.meta.notes)
        with pytest.raises(lql.LqlError):
            describe(session, 'DESCRIBE "France" EVIDENCE ANSWER;')


def test_a_browse_vindex_says_which_extract_gives_more_and_loads_no_torch(made: Path) -> None:
    browse = made.with_name("browse.vindex")
    with connect(browse) as session:
        found = describe(session, 'DESCRIBE "France";')
        assert any("EXTRACT MODEL" in note and "INFERENCE" in note for note in found.meta.notes)
        with pytest.raises(LqlCapabilityError):
            describe(session, 'DESCRIBE "France" EVIDENCE ANSWER;')
    code = (
        "import sys, lql\n"
        f'lql.connect({str(browse)!r}).run(\'DESCRIBE "France"; DEFINE RELATION "a" TEMPLATE '
        '"{entity} is";\')\n'
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("entity", ["France", "zz", "the"])
def test_static_evidence_reads_every_gate_once(
    session: Session, entity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    matvec = gates.matvec
    monkeypatch.setattr(gates, "matvec", lambda *args: read.append(1) or matvec(*args))
    describe(session, f'DESCRIBE "{entity}" EVIDENCE STATIC;')
    assert session.source is not None
    assert len(read) == session.source.spec.num_layers


def test_every_catalogue_kind_has_a_noun_of_its_own() -> None:
    nouns = [kind.noun for kind in catalogue().kinds.values()]
    assert len(set(nouns)) == len(nouns)


def test_the_rows_do_not_depend_on_the_hash_seed(made: Path) -> None:
    code = (
        "import json, lql, lql.execute.asking as asking, lql.inference.facts as facts\n"
        "import lql.execute.kept as kept\n"
        "from lql.catalogue import parse\n"
        f"asking.catalogue = lambda: parse({SMALL.encode()!r})\n"
        "asking.write_background = lambda *_: None\n"
        "facts._LEAST = 0.0\n"
        "kept.write_value = lambda *_: None\n"
        f"rows = lql.connect({str(made)!r}).run('DESCRIBE \"France\" EVIDENCE ALL RAW;')\n"
        "print(json.dumps([r.to_rows() for r in rows], default=list))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
        ).stdout
        for seed in range(3)
    }
    assert len(outputs) == 1
    assert "answer" in outputs.pop()
