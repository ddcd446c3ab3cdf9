"""Text -> token ids as the model's own tokenizer does it, and token ids -> exact text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from lql.inference.answers import Encoded
from lql.inference.chat import render
from lql.inference.errors import NoChatTemplate, PromptNotText
from lql.syntax_words import PromptMode
from vindex.source import ModelSource

_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")


class PromptEncoder:
    """Encodes prompts for one model, and names tokens.

    A prompt as typed (RAW) gets the special tokens that tokenizer.json adds, as transformers does.
    Where that is no BOS, but tokenizer_config.json says ``add_bos_token``, the prompt gets one:
    such models were trained with it, and their own tokenizer classes used to add it.
    A rendered chat (CHAT) gets none: its template writes them.

    Args:
        starts_with_bos: the same for a family that is known for it, whatever its files say.
    """

    def __init__(self, source: ModelSource, *, starts_with_bos: bool = False) -> None:
        self._name = source.name
        self._tokenizer = source.tokenizer()
        # A prompt is never cut or filled up, whatever tokenizer.json was saved with.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._config = source.tokenizer_config
        self._wants_bos = starts_with_bos or source.tokenizer_config.get("add_bos_token") is True
        self._generation = source.generation_config
        self._template = source.chat_template

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._tokenizer

    @property
    def is_instruct(self) -> bool:
        """Whether the model has a chat template."""
        return self._template is not None

    def encode(self, prompt: str, mode: PromptMode) -> Encoded:
        """Encode a prompt.

        Raises:
            PromptNotText: the prompt holds half of a surrogate pair.
            NoChatTemplate: CHAT on a model without a template.
            ChatTemplateFailed: the template cannot be rendered.
        """
        _check_text(prompt)
        if mode is PromptMode.CHAT:
            return self.encode_chat([("user", prompt)])
        ids, typed = self._raw(prompt)
        return self._encoded(prompt, mode, ids, typed)

    def ids(self, prompt: str) -> tuple[int, ...]:
        """The token ids of a prompt as typed, without the spelling of each.

        Raises:
            PromptNotText: the prompt holds half of a surrogate pair.
        """
        _check_text(prompt)
        return tuple(self._raw(prompt)[0])

    def _raw(self, prompt: str) -> tuple[list[int], list[bool]]:
        """Token ids, and of each whether the user typed it."""
        plain = self._tokenizer.encode(prompt, add_special_tokens=True)
        ids, typed = list(plain.ids), [not special for special in plain.special_tokens_mask]
        bos = self._special_id("bos_token") if self._wants_bos else None
        if bos is not None and ids[:1] != [bos]:
            ids, typed = [bos, *ids], [False, *typed]
        return ids, typed

    def token_text(self, token_id: int) -> str:
        """The exact text of a token inside a text; U+FFFD for bytes that are no character.

        Decoders of SentencePiece models strip the first space of a text, so the token is decoded
        behind another one whose text is then taken away. An id that the tokenizer does not know
        (models round their vocabulary up) is ``T<id>``.
        """
        if self._tokenizer.id_to_token(token_id) is None:
            return f"T{token_id}"
        alone = self._tokenizer.decode([token_id], skip_special_tokens=False)
        twice = self._tokenizer.decode([token_id, token_id], skip_special_tokens=False)
        return twice[len(alone) :] if twice.startswith(alone) else alone

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids inside a text, the space before the first one included."""
        anchor = ids[0]
        alone = self._tokenizer.decode([anchor], skip_special_tokens=False)
        behind = self._tokenizer.decode([anchor, *ids], skip_special_tokens=False)
        return behind[len(alone) :] if behind.startswith(alone) else behind

    def first_token(self, text: str) -> int:
        """The token with which a text continues another one."""
        head, whole = self.ids("x"), self.ids(f"x{text}")
        return whole[len(head)]

    def stop_ids(self) -> frozenset[int]:
        """Ids that end a text: of generation_config.json, and the tokenizer's own end token."""
        found = self._generation.get("eos_token_id")
        ids = found if isinstance(found, list) else [found]
        own = self._special_id("eos_token")
        return frozenset(token for token in (*ids, own) if isinstance(token, int))

    def _special_id(self, name: str) -> int | None:
        text = _special_text(self._config.get(name))
        return None if text is None else self._tokenizer.token_to_id(text)

    def encode_chat(self, turns: Sequence[tuple[str, str]]) -> Encoded:
        """Encode a conversation, up to where the model is to speak.

        Args:
            turns: role and text of each, the last one what the user says now.

        Raises:
            PromptNotText, NoChatTemplate, ChatTemplateFailed: see ``encode``.
        """
        prompt = turns[-1][1]
        _check_text(prompt)
        if self._template is None:
            raise NoChatTemplate(
                f'"{self._name}" has no chat template', hint="leave out CHAT, or write RAW"
            )
        specials = {name: _special_text(self._config.get(name)) for name in _SPECIAL_NAMES}
        variables: dict[str, Any] = {
            "messages": [{"role": role, "content": content} for role, content in turns],
            "tools": None,
            "documents": None,
            "add_generation_prompt": True,
            **{name: text for name, text in specials.items() if text is not None},
        }
        text = render(self._template, variables)
        plain = self._tokenizer.encode(text, add_special_tokens=False)
        # Templates trim what they wrap.
        wanted = prompt if prompt in text else prompt.strip()
        start = text.rfind(wanted)
        stop = start + len(wanted)
        typed = [start >= 0 and first < stop and last > start for first, last in plain.offsets]
        return self._encoded(text, PromptMode.CHAT, list(plain.ids), typed)

    def _encoded(self, text: str, mode: PromptMode, ids: list[int], typed: list[bool]) -> Encoded:
        pieces = tuple(self.token_text(token) for token in ids)
        return Encoded(text, mode, tuple(ids), pieces, tuple(typed))


def _check_text(prompt: str) -> None:
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptNotText(
            f"the prompt is not text: character {error.start + 1} is half of a surrogate pair",
            hint="write the prompt as UTF-8",
        ) from None


def _special_text(value: object) -> str | None:
    """The text of a special token, which tokenizer_config.json writes as text or as an object."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None
