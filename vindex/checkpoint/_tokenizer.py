"""Loading a ``tokenizer.json`` from strangers, and finding the chat template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vindex.errors import CheckpointError
from vindex.files import CHAT_TEMPLATE

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def load_tokenizer(data: bytes, owner: str) -> Tokenizer:
    """The tokenizer of a ``tokenizer.json``.

    Args:
        data: the file.
        owner: the model, for messages.

    Raises:
        CheckpointError: the ``tokenizers`` library refuses the file, or panics on it.
    """
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_buffer(data)
    except Exception as error:
        raise _refusal(owner, error) from error
    except BaseException as error:
        # A panic in the library's Rust code derives from BaseException.
        if type(error).__name__ == "PanicException":
            raise _refusal(owner, error) from error
        raise


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


def _refusal(owner: str, error: BaseException) -> CheckpointError:
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return CheckpointError(f"the tokenizer.json of {owner} cannot be loaded: {reason}")
