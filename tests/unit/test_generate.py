"""Generation: greedy, cached, streamed as whole characters, and it ends for a stated reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lql.cancel import Cancelled, CancelToken
from lql.inference import load
from lql.inference.errors import EmptyPrompt, PromptTooLong
from lql.inference.generate import Finish, _TextStream
from lql.inference.model import LoadedModel
from tests.unit.tiny_models import (
    DYNAMIC_TINY,
    GEMMA3_TINY,
    LLAMA_TINY,
    byte_tokenizer,
    source,
)


@pytest.fixture
def model(tmp_path: Path) -> Iterator[LoadedModel]:
    with source(tmp_path, LLAMA_TINY) as opened:
        yield load(opened)


@pytest.mark.parametrize("config", [LLAMA_TINY, GEMMA3_TINY, DYNAMIC_TINY])
def test_tokens_are_those_of_recomputing_the_whole_text(
    config: dict[str, Any], tmp_path: Path
) -> None:
    with source(tmp_path, config) as opened:
        model = load(opened)
        generation = model.generate("The capital of France is", max_tokens=40)
        ids = list(generation.encoded.ids)
        for token in generation:
            logits = model.next_logits(tuple(ids)).astype(np.float64)
            assert token.token_id == logits.argmax()
            logprob = logits.max() - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
            assert token.logprob == pytest.approx(logprob, abs=1e-4)
            ids.append(token.token_id)
        assert len(ids) > len(generation.encoded.ids) + 30


def test_length_ends_it(model: LoadedModel) -> None:
    generation = model.generate("The", max_tokens=3)
    assert len(list(generation)) == 3
    assert generation.finish is Finish.LENGTH
    assert list(generation) == []


def test_no_tokens_can_be_asked_for(model: LoadedModel) -> None:
    generation = model.generate("The", max_tokens=0)
    assert list(generation) == []
    assert generation.finish is Finish.LENGTH


def test_positions_end_it(model: LoadedModel) -> None:
    prompt = "a" * 250
    generation = model.generate(prompt, max_tokens=10)
    room = 256 - len(generation.encoded.ids)
    assert 0 < room < 10
    assert len(list(generation)) == room
    assert generation.finish is Finish.POSITIONS
    exact = model.generate(prompt, max_tokens=room)
    assert len(list(exact)) == room
    assert exact.finish is Finish.LENGTH


def test_a_prompt_beyond_all_positions_is_refused(model: LoadedModel) -> None:
    with pytest.raises(PromptTooLong, match="256 positions"):
        model.generate("a" * 300, max_tokens=1)


def test_an_empty_prompt_is_refused(model: LoadedModel) -> None:
    with pytest.raises(EmptyPrompt):
        next(model.generate("", max_tokens=1))


def test_cancellation_ends_it(model: LoadedModel) -> None:
    cancel = CancelToken()
    generation = model.generate("The", max_tokens=9, cancel=cancel)
    next(generation)
    cancel.cancel()
    with pytest.raises(Cancelled, match="token 2/9"):
        next(generation)


def stopping_at(tokens: list[int], where: int, directory: Path) -> Path:
    """Name the ``where``-th of some tokens as the end in generation_config.json."""
    (directory / "generation_config.json").write_text(f'{{"eos_token_id": [{tokens[where]}]}}')
    return directory


def test_a_stop_token_ends_it_and_has_no_text(tmp_path: Path) -> None:
    with source(tmp_path, LLAMA_TINY) as opened:
        free = [token.token_id for token in load(opened).generate("The", max_tokens=30)]
    where = next(i for i in range(4, 30) if free[i] not in free[:i])
    stopping_at(free, where, tmp_path)
    with source(tmp_path, LLAMA_TINY) as opened:
        generation = load(opened).generate("The", max_tokens=30)
        found = list(generation)
    assert [token.token_id for token in found] == free[: where + 1]
    assert found[-1].text == ""
    assert generation.finish is Finish.STOP_TOKEN


def test_a_stop_text_ends_it_and_is_left_out(model: LoadedModel) -> None:
    everything = "".join(token.text for token in model.generate("The", max_tokens=30))
    stop = everything[9:13]
    generation = model.generate("The", max_tokens=30, stop=("not in it", stop))
    assert "".join(token.text for token in generation) == everything[: everything.index(stop)]
    assert generation.finish is Finish.STOP_TEXT


def test_text_held_back_at_the_end_is_given_out(model: LoadedModel) -> None:
    everything = "".join(token.text for token in model.generate("The", max_tokens=30))
    might_go_on = everything[-2:] + "not in it"
    generation = model.generate("The", max_tokens=30, stop=(might_go_on,))
    assert "".join(token.text for token in generation) == everything
    assert generation.finish is Finish.LENGTH


# --------------------------------------------------------------------------- text

TOKENIZER = byte_tokenizer()
TEXT = "naïve 日本語 😀👨‍👩‍👧 🇫🇷 end"


def stream(text: str, stops: tuple[str, ...] = ()) -> tuple[list[str], _TextStream]:
    made = _TextStream(TOKENIZER, (5, 6), stops)
    pieces = []
    for token in TOKENIZER.encode(text).ids:
        pieces.append(made.push(token))
        if made.stopped:
            break
    return pieces, made


def test_only_whole_characters_are_given_out() -> None:
    pieces, made = stream(TEXT)
    assert "".join(pieces) == TEXT
    assert "\ufffd" not in "".join(pieces)
    assert "" in pieces  # tokens in the middle of a character
    assert made.rest() == ""


@pytest.mark.parametrize("stop", ["語 😀", "end", "n", "\u200d👩"])
def test_text_stops_before_a_stop_text_that_spans_tokens(stop: str) -> None:
    pieces, made = stream(TEXT, (stop,))
    assert made.stopped
    assert "".join(pieces) == TEXT[: TEXT.index(stop)]


def test_the_first_of_several_stop_texts_counts() -> None:
    pieces, _ = stream(TEXT, ("end", "日本", "本語"))
    assert "".join(pieces) == "naïve "


def test_what_might_have_become_a_stop_text_is_not_lost() -> None:
    pieces, made = stream("a b endi", ("ending",))
    assert "".join(pieces) == "a b "
    assert made.rest() == "endi"
    pieces, made = stream("a b endless", ("ending",))
    assert "".join(pieces) + made.rest() == "a b endless"


def test_an_unfinished_character_is_left_out() -> None:
    ids = TOKENIZER.encode("ok-😀").ids
    made = _TextStream(TOKENIZER, (), ())
    assert "".join(made.push(token) for token in ids[:-1]) == "ok-"
    assert made.rest() == ""
