"""Models of transformers, in memory: asked without a file, and given back with the edits.

transformers is never imported. A model is whatever has ``state_dict()`` and ``config.to_dict()``, a
tokenizer whatever has ``save_pretrained(directory)``.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from lql.codes import Code
from lql.context import State
from lql.diagnostics import Diagnostic
from lql.errors import LqlCapabilityError, LqlRuntimeError
from lql.syntax_words import Device
from vindex.files import CARRIED, CONFIG, GENERATION_CONFIG

if TYPE_CHECKING:
    from lql.inference.memory import Tensor
    from lql.session import Session


class _HasDict(Protocol):
    def to_dict(self) -> dict[str, Any]:
        """Its settings."""


class Model(Protocol):
    """What is needed of a transformers model."""

    @property
    def config(self) -> _HasDict:
        """Its configuration."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """Its tensors."""


class Tokenizer(Protocol):
    """What is needed of a transformers tokenizer."""

    def save_pretrained(self, save_directory: str) -> object:
        """Write its files into a directory."""


class TransformersModel(NamedTuple):
    """A model as transformers takes it.

    Attributes:
        config: the contents of ``config.json``, of the language model only.
        state_dict: tensors by the checkpoint's names; a tied head is left out.
    """

    config: dict[str, Any]
    state_dict: dict[str, Tensor]


def from_transformers(
    model: Model, tokenizer: Tokenizer | None = None, *, device: Device | str = Device.CPU
) -> Session:
    """Open a session on a model in memory, as USE MODEL does on a checkpoint.

    Example:
        >>> session = lql.from_transformers(model, tokenizer)
        >>> session.infer("The capital of France is").rows

    Args:
        model: a causal language model of a supported family, in float32, bfloat16 or float16. Its
            weights on the processor are shared until a statement loads them; what is changed in
            the model after that is not seen.
        tokenizer: without one, statements that take a text fail.
        device: ``cpu``, ``cuda`` or ``auto``.

    Raises:
        LqlError: the model is of another family, or its tensors do not balance.
    """
    from lql.inference.memory import arrays_of
    from lql.session import Session, translating
    from vindex.checkpoint import CheckpointSource
    from vindex.checkpoint.memory import MemoryCheckpoint

    config = _plain(model.config)
    with translating():
        checkpoint = MemoryCheckpoint(
            name=str(config.get("_name_or_path") or type(model).__name__),
            config=config,
            tensors=arrays_of(model.state_dict()),
            side_files=_side_files(model, tokenizer),
        )
        source = CheckpointSource(checkpoint)
    session = Session(device=Device(device))
    session.use_source(source)
    return session


def to_transformers(state: State, *, without_facts: bool = False) -> TransformersModel:
    """What ``Session.to_transformers`` returns."""
    from lql.inference.memory import tensors_of
    from vindex.checkpoint.joining import checkpoint_tensors
    from vindex.kinds import ExtractLevel
    from vindex.store import Vindex

    if state.source is None:
        raise LqlRuntimeError(Diagnostic(Code.NOTHING_OPEN, "no vindex or model is in use"))
    if state.overlay.view.facts and not without_facts:
        count = len(state.overlay.view.facts)
        raise LqlCapabilityError(
            Diagnostic(
                Code.UNSUPPORTED,
                f"{count} stored fact{'s' * (count != 1)} stand beside the weights, where a "
                "transformers model has no place for them",
                helps=("to_transformers(without_facts=True) leaves them out",),
            )
        )
    if isinstance(state.source, Vindex):
        state.source.require(ExtractLevel.INFERENCE, "to_transformers")
    source = state.effective()
    assert source is not None, "something is in use"
    return TransformersModel(_config(source), tensors_of(checkpoint_tensors(source)))


def _config(source: Any) -> dict[str, Any]:
    from vindex.store import Vindex

    if not isinstance(source, Vindex):
        return _of_text(source.config)
    path = source.path / CONFIG
    if not path.is_file():
        raise LqlCapabilityError(
            Diagnostic(
                Code.UNSUPPORTED,
                f"{source.path} has no {CONFIG}, so larql wrote it and its configuration is lost",
                helps=("EXTRACT the model again",),
            )
        )
    return _of_text(json.loads(path.read_bytes()))


def _of_text(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the language model: of one that sees, the part that is here."""
    inner = config.get("text_config")
    return dict(inner if isinstance(inner, Mapping) else config)


def _side_files(model: Model, tokenizer: Tokenizer | None) -> dict[str, bytes]:
    """The tokenizer's files as it saves them, and the model's settings for generation."""
    found: dict[str, bytes] = {}
    if tokenizer is not None:
        with tempfile.TemporaryDirectory() as directory:
            tokenizer.save_pretrained(directory)
            paths = {name: Path(directory, name) for name in CARRIED}
            found = {name: path.read_bytes() for name, path in paths.items() if path.is_file()}
    generation = getattr(model, "generation_config", None)
    if generation is not None:
        found[GENERATION_CONFIG] = json.dumps(_plain(generation)).encode()
    return found


def _plain(settings: _HasDict) -> dict[str, Any]:
    """Settings as their JSON file would hold them."""
    found: dict[str, Any] = json.loads(json.dumps(settings.to_dict(), default=str))
    return found
