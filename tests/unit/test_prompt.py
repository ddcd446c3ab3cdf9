"""Prompts become the ids that transformers' tokenizer gives; tokens get their exact text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from lql.inference.errors import ChatTemplateFailed, NoChatTemplate, PromptNotText
from lql.inference.prompt import PromptEncoder
from lql.syntax_words import PromptMode
from tests.unit.tokenizer_texts import CORPUS
from vindex.source import StoredTensor
from vindex.spec import ModelSpec, Role

SPECIALS = ["<s>", "</s>", "<|user|>"]
BOS = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
BYTES = processors.ByteLevel(trim_offsets=False)


def byte_level(post_processor: processors.PostProcessor | None) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [CORPUS],
        trainers.BpeTrainer(
            vocab_size=400,
            initial_alphabet=alphabet,
            special_tokens=SPECIALS,
            show_progress=False,
        ),
    )
    if post_processor is not None:
        made.post_processor = post_processor
    return made


class Source:
    """A model of which only the tokenizer is asked."""

    name = "a model"
    spec: ModelSpec

    def __init__(
        self,
        made: Tokenizer,
        config: Mapping[str, Any] | None = None,
        *,
        template: str | None = None,
        generation: Mapping[str, Any] | None = None,
    ) -> None:
        self._made = made
        self.tokenizer_config = config or {}
        self.generation_config = generation or {}
        self.chat_template = template

    def has(self, role: Role, layer: int | None = None, expert: int | None = None) -> bool:
        return False

    def tensor(
        self, role: Role, layer: int | None = None, expert: int | None = None
    ) -> StoredTensor:
        raise AssertionError("no tensors here")

    def tokenizer(self) -> Tokenizer:
        return self._made


TEXTS = ["The capital of France is", "", "héllo 世界 🙂", "<s>typed", " a </s> b"]
BASE = {"tokenizer_class": "TokenizersBackend", "bos_token": "<s>", "eos_token": "</s>"}


def both(
    post_processor: processors.PostProcessor | None, config: Mapping[str, Any], directory: Path
) -> tuple[PromptEncoder, Any]:
    """Our encoder and transformers' tokenizer of the same files."""
    made = byte_level(post_processor)
    made.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return PromptEncoder(Source(made, config)), AutoTokenizer.from_pretrained(directory)


@pytest.mark.parametrize(
    ("post_processor", "config"),
    [
        (None, BASE),
        (None, {**BASE, "add_bos_token": False}),
        (None, {**BASE, "add_bos_token": None}),
        (None, {"tokenizer_class": "TokenizersBackend", "add_bos_token": True}),
        (None, {**BASE, "add_eos_token": True}),
        (BOS, BASE),
        (BOS, {**BASE, "add_bos_token": True}),
        (BOS, {**BASE, "add_bos_token": False}),
        (BYTES, BASE),
        (BYTES, {**BASE, "add_bos_token": False}),
    ],
)
def test_special_tokens_are_added_as_transformers_adds_them(
    post_processor: processors.PostProcessor | None, config: Mapping[str, Any], tmp_path: Path
) -> None:
    ours, theirs = both(post_processor, config, tmp_path)
    for text in TEXTS:
        encoded = ours.encode(text, PromptMode.RAW)
        assert list(encoded.ids) == theirs(text).input_ids, text
        assert len(encoded.ids) == len(encoded.pieces) == len(encoded.from_user)


@pytest.mark.parametrize("bos", ["<s>", {"content": "<s>", "__type": "AddedToken"}])
@pytest.mark.parametrize("post_processor", [None, BYTES], ids=["none", "bytes"])
def test_a_bos_that_only_the_configuration_names_is_added_once(
    post_processor: processors.PostProcessor | None, bos: object, tmp_path: Path
) -> None:
    config = {**BASE, "bos_token": bos, "add_bos_token": True}
    ours, theirs = both(post_processor, config, tmp_path)
    for text in TEXTS:
        expected = theirs(text).input_ids
        encoded = ours.encode(text, PromptMode.RAW)
        assert list(encoded.ids) == ([] if expected[:1] == [0] else [0]) + expected
        assert encoded.added == (() if text.startswith("<s>") else ("<s>",))


def test_bos_is_added_once_and_said() -> None:
    for made in (byte_level(BOS), byte_level(None)):
        encoder = PromptEncoder(Source(made, {"bos_token": "<s>", "add_bos_token": True}))
        encoded = encoder.encode("The capital", PromptMode.RAW)
        assert encoded.added == ("<s>",)
        assert encoded.ids.count(0) == 1
        assert "".join(encoded.pieces) == "<s>The capital"


def test_a_bos_that_the_user_typed_is_the_users() -> None:
    encoder = PromptEncoder(Source(byte_level(BOS), BASE))
    encoded = encoder.encode("<s>x", PromptMode.RAW)
    assert encoded.ids[:2] == (0, 0)  # as transformers has it
    assert encoded.from_user[:2] == (False, True)


def test_a_saved_truncation_or_padding_does_not_touch_prompts() -> None:
    made = byte_level(None)
    made.enable_truncation(2)
    made.enable_padding(length=50)
    encoded = PromptEncoder(Source(made)).encode("The capital of France is", PromptMode.RAW)
    assert "".join(encoded.pieces) == "The capital of France is"


def sentencepiece(strips: bool) -> Tokenizer:
    """Spaces as U+2581, as in Llama 2 (whose decoder strips the text's first) and Gemma."""
    made = Tokenizer(models.BPE(byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first" if strips else "never")
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strips else steps)
    made.train_from_iterator([CORPUS], trainers.BpeTrainer(vocab_size=400, show_progress=False))
    return made


@pytest.mark.parametrize("made", [byte_level(None), sentencepiece(True), sentencepiece(False)])
def test_token_texts_keep_their_spaces(made: Tokenizer) -> None:
    encoder = PromptEncoder(Source(made))
    encoded = encoder.encode("and the capital of Germany", PromptMode.RAW)
    assert "".join(encoded.pieces).removeprefix(" ") == "and the capital of Germany"
    assert any(piece.startswith(" ") for piece in encoded.pieces[1:])


def test_an_id_without_a_token_is_named_by_its_number() -> None:
    assert PromptEncoder(Source(byte_level(None))).token_text(5000) == "T5000"


@pytest.mark.parametrize("mode", list(PromptMode))
def test_half_a_surrogate_pair_is_refused(mode: PromptMode) -> None:
    encoder = PromptEncoder(Source(byte_level(None), template="{{ messages[0].content }}"))
    with pytest.raises(PromptNotText, match="character 3 "):
        encoder.encode("ab\ud83dc", mode)


def test_a_part_of_a_character_is_a_replacement_character() -> None:
    made = byte_level(None)
    encoder = PromptEncoder(Source(made))
    ids = made.encode("🦜").ids
    assert [encoder.token_text(token) for token in ids] == ["\ufffd"] * len(ids)


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|user|>{{ m.content | trim }}{% endfor %}"
    "{% if add_generation_prompt %} answer:{% endif %}"
)


def test_a_chat_gets_no_tokens_but_its_templates() -> None:
    made = byte_level(BOS)
    config = {"bos_token": "<s>", "add_bos_token": True}
    encoder = PromptEncoder(Source(made, config, template=TEMPLATE))
    encoded = encoder.encode(" The capital\n", PromptMode.CHAT)
    assert encoded.text == "<s><|user|>The capital answer:"
    assert "".join(encoded.pieces) == encoded.text
    assert encoded.ids[:2] == (0, 2)
    assert encoded.ids.count(0) == 1
    typed = [piece for piece, user in zip(encoded.pieces, encoded.from_user, strict=True) if user]
    assert "".join(typed) == "The capital"
    assert "".join(encoded.added) == "<s><|user|> answer:"


def test_a_chat_with_a_model_without_template_is_refused() -> None:
    encoder = PromptEncoder(Source(byte_level(None)))
    assert not encoder.is_instruct
    with pytest.raises(NoChatTemplate) as caught:
        encoder.encode("hi", PromptMode.CHAT)
    assert "RAW" in (caught.value.hint or "")


def test_a_template_that_fails_is_refused() -> None:
    encoder = PromptEncoder(Source(byte_level(None), template="{{ raise_exception('no') }}"))
    with pytest.raises(ChatTemplateFailed, match="no"):
        encoder.encode("hi", PromptMode.CHAT)


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({}, {}, set()),
        ({"eos_token_id": 7}, {}, {7}),
        ({"eos_token_id": [7, 9]}, {"eos_token": "</s>"}, {1, 7, 9}),
        ({}, {"eos_token": {"content": "</s>"}}, {1}),
        ({"eos_token_id": None}, {"eos_token": "unknown to the tokenizer"}, set()),
    ],
)
def test_stop_ids_come_from_both_files(
    generation: Mapping[str, Any], config: Mapping[str, Any], expected: set[int]
) -> None:
    encoder = PromptEncoder(Source(byte_level(None), config, generation=generation))
    assert encoder.stop_ids() == expected
