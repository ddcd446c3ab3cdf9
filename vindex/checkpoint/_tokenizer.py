"""Loading a ``tokenizer.json`` from strangers, and finding the chat template."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vindex import tokens
from vindex.errors import CheckpointError, VindexInvalid
from vindex.files import CHAT_TEMPLATE, TOKENIZER

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def load_tokenizer(data: bytes, owner: str) -> Tokenizer:
    """The tokenizer of a ``tokenizer.json``.

    Args:
        data: the file.
        owner: the model, for messages.

    Raises:
        CheckpointError: the ``tokenizers`` library does not take the file.
    """
    try:
        return tokens.load_tokenizer(data, Path(owner, TOKENIZER))
    except VindexInvalid as error:
        raise CheckpointError(f"the tokenizer of {owner} is unusable: {error}") from error


def chat_template(files: Mapping[str, bytes], tokenizer_config: Mapping[str, Any]) -> str | None:
    """The chat template: its own file, or ``chat_template`` of the tokenizer's configuration.

    A configuration may list several by name; the one called ``default`` is meant.
    """
    own = files.get(CHAT_TEMPLATE)
    if own is not None:
        return own.decode("utf-8", "replace")
    match tokenizer_config.get("chat_template"):
        case str(template):
            return template
        case list(named):
            for entry in named:
                match entry:
                    case {"name": "default", "template": str(template)}:
                        return template
    return None
