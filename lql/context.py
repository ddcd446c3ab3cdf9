"""What a statement may use while it runs, and the state that outlives it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lql.cancel import CancelToken
from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlRuntimeError
from lql.syntax_words import Device
from vindex.kinds import ExtractLevel
from vindex.progress import NullProgress, Progress

if TYPE_CHECKING:
    from lql.inference.model import LoadedModel
    from vindex.checkpoint import CheckpointSource
    from vindex.store import Vindex


@dataclass(slots=True)
class State:
    """What a session has in use. A failing statement leaves it as it was.

    Attributes:
        source: the current vindex, or the model of USE MODEL.
        model: its weights, once a statement has needed them.
        device: where they run.
    """

    source: Vindex | CheckpointSource | None = None
    model: LoadedModel | None = None
    device: Device = Device.CPU

    def replace(self, source: Vindex | CheckpointSource) -> None:
        """Make another vindex or model current and let go of the one before."""
        old = self.source
        self.source, self.model = source, None
        if old is not None:
            old.close()

    def run_on(self, device: Device) -> None:
        """Run models there from now on; weights that are elsewhere are loaded again when needed."""
        if device is not self.device:
            self.device, self.model = device, None

    def close(self) -> None:
        """Let go of everything."""
        self.model = None
        if self.source is not None:
            self.source.close()
            self.source = None


class StoppableProgress:
    """Progress that is shown by one object and cancelled through a token."""

    def __init__(self, shown: Progress, cancel: CancelToken) -> None:
        self._shown = shown
        self._cancel = cancel
        self._phase = ""

    def phase(self, name: str, total: int, unit: str = "B") -> None:
        """Begin a phase."""
        self._phase = name
        self._shown.phase(name, total, unit)

    def advance(self, amount: int) -> None:
        """Report progress."""
        self._shown.advance(amount)

    def check(self) -> None:
        """Raise ``Cancelled`` if the statement is to stop."""
        self._cancel.check(self._phase)


@dataclass(slots=True)
class Context:
    """Handed to an executor for one statement.

    Attributes:
        state: may be changed as the last step of a statement, when nothing can fail any more.
        cancel: checked between layers, tokens and batches.
        progress: told about long work; checks ``cancel``.
        notes: sentences for people; the session puts them into the result.
        load_s: time this statement spent loading weights.
        device: where the model runs, once the statement has asked for it.
    """

    state: State
    cancel: CancelToken = field(default_factory=CancelToken)
    progress: Progress = field(default_factory=NullProgress)
    notes: list[str] = field(default_factory=list)
    load_s: float = 0.0
    device: str | None = None

    def source(self) -> Vindex | CheckpointSource:
        """The current vindex or model.

        Raises:
            LqlRuntimeError: none is in use.
        """
        if self.state.source is None:
            raise LqlRuntimeError(
                Diagnostic(
                    Code.NOTHING_OPEN,
                    "no vindex or model is in use",
                    helps=('USE "path.vindex"; opens one', "SHOW MODELS; lists those here"),
                )
            )
        return self.state.source

    def vindex(self, title: str) -> Vindex:
        """The current vindex.

        Args:
            title: the statement that asks, for the message.

        Raises:
            LqlRuntimeError: nothing is in use, or a model without a vindex is.
        """
        from vindex.store import Vindex

        source = self.source()
        if isinstance(source, Vindex):
            return source
        raise LqlRuntimeError(
            Diagnostic(
                Code.NEEDS_VINDEX,
                f"{title} reads a vindex, and {source.name} is a model in use without extraction",
                helps=(f'EXTRACT MODEL "{source.name}" INTO "model.vindex"; USE "model.vindex";',),
            )
        )

    def model(self, title: str) -> LoadedModel:
        """The weights of the current vindex or model, loaded once and kept.

        Raises:
            LqlRuntimeError: nothing is in use.
            LevelTooLow: the vindex does not hold every weight.
        """
        from vindex.store import Vindex

        source = self.source()
        if isinstance(source, Vindex):
            source.require(ExtractLevel.INFERENCE, title)
        if self.state.model is None:
            from lql.inference import load

            started = time.perf_counter()
            self.state.model = load(source, device=self.state.device, cancel=self.cancel)
            self.load_s = time.perf_counter() - started
        self.device = self.state.model.device
        return self.state.model

    def note(self, sentence: str) -> None:
        """Tell people something beside the result."""
        self.notes.append(sentence)
