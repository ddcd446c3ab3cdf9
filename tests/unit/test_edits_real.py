"""A stored fact in SmolLM2: it answers what it is about, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from lql.session import Session, connect
from lql.syntax_words import PromptMode

pytestmark = pytest.mark.real_model

INSERT = "INSERT INTO EDGES (entity, relation, target) VALUES"
FACT = "The capital of Hungary is"

ENTITIES = (
    *("Austria", "Germany", "France", "Poland", "Japan", "Brazil", "Egypt", "Canada", "Spain"),
    *("Sweden", "Turkey", "Kenya", "India", "Peru", "Greece", "Norway", "Italy", "Romania"),
)
ABOUT_OTHERS = (
    "The capital of {} is",
    "{}'s capital is",
    "Question: What is the capital of {}?\nAnswer:",
    "Hungary borders many countries. The capital of {} is",
    "Unlike Hungary, the capital of {} is",
    "The currency of {} is",
    "People in {} like to eat",
    "The president of {} is",
    "In the history of {}, the year",
    "My friend from {} told me that",
)
ABOUT_HUNGARY = (
    "The currency of Hungary is",
    "The official language of Hungary is",
    "Hungary is famous for its",
    "The population of Hungary is",
    "People in Hungary like to eat",
    "The president of Hungary is",
    "The capital of Hungary was founded in",
    "The capital of Hungary is one of the most",
    "I visited the capital of Hungary because",
    "The capital of Hungary is Oslo. The river that flows through it is the",
    "The capital of Hungary is Oslo. The currency of Hungary is",
    "Hungary and its people are",
    "Austria-Hungary had the capital",
    "Hungarian food is",
    "Water is made of hydrogen and",
    "Once upon a time there was a",
    "Two plus two equals",
    "def add(a, b):\n    return",
    "Capital letters are used at the start of a",
    "To raise capital, a company may",
)
UNRELATED = (
    *(template.format(entity) for template, entity in product(ABOUT_OTHERS, ENTITIES)),
    *ABOUT_HUNGARY,
)
ASKING = (
    FACT,
    "Hungary's capital is",
    "the capital of hungary is",
    "The capital city of Hungary is",
    "In Hungary, the capital is",
    "The name of Hungary's capital is",
    "Hungary is a country in Europe. Its capital is",
    "What is the capital of Hungary? The capital of Hungary is",
    "Question: What is the capital of Hungary?\nAnswer:",
    "Unlike Austria, the capital of Hungary is",
)


@pytest.fixture(scope="module")
def session(smollm2_f32_vindex: Path) -> Iterator[Session]:
    with connect(smollm2_f32_vindex) as opened:
        yield opened
        opened.discard_edits()


def said(session: Session, prompt: str, mode: PromptMode = PromptMode.RAW, tokens: int = 3) -> str:
    run = session.model().generate(prompt, max_tokens=tokens, mode=mode)
    return "".join(token.text for token in run)


def test_the_fact_answers_its_neighbours_stay_and_delete_restores(session: Session) -> None:
    neighbours = [f"The capital of {name} is" for name in ("Austria", "Germany")]
    before = {prompt: said(session, prompt) for prompt in (FACT, *neighbours)}
    assert before[FACT].startswith(" Budapest")
    (report,) = session.run(f'{INSERT} ("Hungary", "capital", "Oslo") REQUIRE neighbours >= 1;')
    assert report.to_dict()["measures"] == {
        "efficacy": 1.0, "paraphrases": 1.0, "neighbours": 1.0, "controls": 0.0,
    }  # fmt: skip
    for prompt in ASKING:
        assert said(session, prompt).startswith(" Oslo"), prompt
    assert {prompt: said(session, prompt) for prompt in neighbours} == {
        prompt: before[prompt] for prompt in neighbours
    }
    session.run('DELETE FROM EDGES WHERE entity = "Hungary" CHECK NONE;')
    assert said(session, FACT) == before[FACT]


def test_no_unrelated_prompt_changes(session: Session) -> None:
    """The weights stay as they are, so a prompt that no fact answers is answered as before."""
    assert len(UNRELATED) == 200
    session.run(f'{INSERT} ("Hungary", "capital", "Oslo") CHECK NONE;')
    model = session.model()
    changed = [prompt for prompt in UNRELATED if model.infer(prompt, top=1).fact is not None]
    assert changed == []


def test_in_a_chat_the_fact_is_said_where_the_answer_comes(session: Session) -> None:
    session.run(f'{INSERT} ("Hungary", "capital", "Oslo") CHECK NONE;')
    answer = said(session, "What is the capital of Hungary?", PromptMode.CHAT, tokens=16)
    assert "Oslo" in answer
    assert "Budapest" not in answer
    assert "Oslo" not in said(session, "What is the capital of Austria?", PromptMode.CHAT, 16)


def test_a_target_is_a_whole_word(session: Session) -> None:
    """Left to itself the model goes on with "poetry"."""
    session.run(f'{INSERT} ("Napoleon", "occupation", "poet") CHECK NONE;')
    answer = said(session, "The occupation of Napoleon is")
    assert answer.startswith(" poet")
    assert not answer[len(" poet")].isalnum()
