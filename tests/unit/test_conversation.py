"""A chat in turns: what the cache holds is what reading the whole conversation anew would give."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lql.cancel import Cancelled, CancelToken
from lql.inference import PromptMode, Sampling, load
from lql.inference.conversation import Message, Reply, Speaker
from lql.inference.errors import NoChatTemplate, PromptTooLong
from lql.inference.model import LoadedModel
from tests.unit.tiny_models import DYNAMIC_TINY, GEMMA3_TINY, LLAMA_TINY, source


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Products this small are fastest with one thread, and on a busy machine by far."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


PLAIN = (
    "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)
# Leaves out what an earlier answer says before its first comma, as templates drop thoughts.
FORGETFUL = (
    "{% for m in messages %}<{{ m.role[0] }}>"
    "{{ m.content if m.role == 'user' else m.content[3:] }}\n{% endfor %}<a>"
)
WINDOWED: dict[str, Any] = {**GEMMA3_TINY, "max_position_embeddings": 1024}
CONFIGS = {
    "llama": {**LLAMA_TINY, "max_position_embeddings": 1024},
    "gemma3": WINDOWED,
    "dynamic": {
        **DYNAMIC_TINY,
        "max_position_embeddings": 64,
        "rope_scaling": {"rope_type": "dynamic", "factor": 16.0},
    },
}
SAID = ("The capital of France is", "And of Spain?", "Why?", "naïve 日本語 😀")


@contextmanager
def chatting(
    directory: Path, config: dict[str, Any], template: str | None
) -> Iterator[LoadedModel]:
    directory.mkdir(exist_ok=True)
    settings = {} if template is None else {"chat_template": template}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    with source(directory, config) as opened:
        yield load(opened)


def taken(reply: Reply) -> list[int]:
    return [token.token_id for token in reply]


def assert_as_from_scratch(model: LoadedModel, reply: Reply, found: list[int]) -> None:
    """Every token is the best one after the whole text before it, and its logprob is that one's."""
    text = reply.generation.encoded.ids
    for token in found:
        logits = model.next_logits(text)
        assert logits[token] >= logits.max() - 1e-4
        text += (token,)


@pytest.mark.parametrize("template", [PLAIN, FORGETFUL], ids=["plain", "forgetful"])
@pytest.mark.parametrize("name", CONFIGS)
def test_turns_equal_the_whole_conversation(name: str, template: str, tmp_path: Path) -> None:
    with chatting(tmp_path, CONFIGS[name], template) as model:
        conversation = model.converse()
        for said in SAID:
            reply = conversation.reply(said, max_tokens=30)
            found = taken(reply)
            assert len(found) == 30
            assert_as_from_scratch(model, reply, found)
            with torch.inference_mode():
                sequence = conversation._sequence
                assert sequence is not None
                known = tuple(sequence.ids)
                assert known == (*reply.generation.encoded.ids, *found)[: len(known)]
                logits = model._decoder.logits(sequence.read([5]))[0].numpy()
                np.testing.assert_allclose(logits, model.next_logits((*known, 5)), atol=2e-4)
                sequence.go_back_to(known)


def test_only_new_tokens_are_read(tmp_path: Path) -> None:
    with chatting(tmp_path, CONFIGS["llama"], PLAIN) as model:
        conversation = model.converse()
        first = conversation.reply(SAID[0], max_tokens=10)
        assert first.reused == 0
        answer = taken(first)
        second = conversation.reply(SAID[1], max_tokens=1)
        before = (*first.generation.encoded.ids, *answer)
        now = second.generation.encoded.ids
        shared = next(
            (n for n, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), len(before)
        )
        # The last token of an answer is never read; an answer may be split otherwise than it came.
        assert second.reused == min(shared, len(before) - 1)
        assert second.reused >= len(first.generation.encoded.ids)


def test_a_template_that_rewrites_goes_back(tmp_path: Path) -> None:
    with chatting(tmp_path, CONFIGS["llama"], FORGETFUL) as model:
        conversation = model.converse()
        first = conversation.reply(SAID[0], max_tokens=10)
        taken(first)
        second = conversation.reply(SAID[1], max_tokens=1)
        assert 0 < second.reused <= len(first.generation.encoded.ids)


def test_messages_are_what_was_said(tmp_path: Path) -> None:
    with chatting(tmp_path, CONFIGS["llama"], PLAIN) as model:
        conversation = model.converse()
        assert conversation.messages == ()
        reply = conversation.reply("Hello", max_tokens=8)
        assert conversation.messages == ()
        text = "".join(token.text for token in reply)
        assert conversation.messages == (
            Message(Speaker.USER, "Hello"),
            Message(Speaker.ASSISTANT, text),
        )
        broken = conversation.reply("More", max_tokens=8)
        part = next(broken).text
        assert conversation.messages[-1] == Message(Speaker.ASSISTANT, part)
        after = conversation.reply("Again", max_tokens=8)
        assert list(broken) == []  # it is over
        assert_as_from_scratch(model, after, taken(after))
        conversation.reset()
        assert conversation.messages == ()
        assert conversation.reply("Hello", max_tokens=1).reused == 0


@pytest.mark.parametrize("name", CONFIGS)
def test_a_conversation_goes_on_after_ctrl_c(name: str, tmp_path: Path) -> None:
    with chatting(tmp_path, CONFIGS[name], PLAIN) as model:
        conversation = model.converse()
        taken(conversation.reply(SAID[0], max_tokens=30))
        cancel = CancelToken()
        stopped = conversation.reply(SAID[1], max_tokens=30, cancel=cancel)
        next(stopped)
        next(stopped)
        cancel.cancel()
        with pytest.raises(Cancelled):
            next(stopped)
        never = CancelToken()
        never.cancel()
        unanswered = conversation.reply("not heard", max_tokens=30, cancel=never)
        with pytest.raises(Cancelled):
            next(unanswered)
        assert len(conversation.messages) == 4
        reply = conversation.reply(SAID[2], max_tokens=30)
        assert_as_from_scratch(model, reply, taken(reply))


def test_the_first_turn_is_chat(tmp_path: Path) -> None:
    with chatting(tmp_path, CONFIGS["llama"], PLAIN) as model:
        single = model.generate("Hello", max_tokens=12, mode=PromptMode.CHAT)
        turn = model.converse().reply("Hello", max_tokens=12)
        assert turn.generation.encoded == single.encoded
        assert taken(turn) == [token.token_id for token in single]


def test_turns_are_sampled(tmp_path: Path) -> None:
    with chatting(tmp_path, CONFIGS["llama"], PLAIN) as model:
        warm = Sampling(temperature=2.0, seed=3)
        replies = [
            [taken(conversation.reply(said, max_tokens=9, sampling=warm)) for said in SAID]
            for conversation in (model.converse(), model.converse())
        ]
        assert replies[0] == replies[1]


def test_a_conversation_can_outgrow_the_model(tmp_path: Path) -> None:
    config = {**LLAMA_TINY, "max_position_embeddings": 64}
    with chatting(tmp_path, config, PLAIN) as model:
        conversation = model.converse()
        taken(conversation.reply("Hello", max_tokens=1000))
        before = conversation.messages
        with pytest.raises(PromptTooLong):
            conversation.reply("x" * 60, max_tokens=5)
        assert conversation.messages == before


def test_a_model_without_a_template_cannot_chat(tmp_path: Path) -> None:
    with chatting(tmp_path, LLAMA_TINY, None) as model, pytest.raises(NoChatTemplate):
        model.converse().reply("Hello", max_tokens=5)
