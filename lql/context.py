"""What a statement may use while it runs, and the state that outlives it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lql.cancel import CancelToken
from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlRuntimeError
from lql.syntax_words import Device
from vindex.kinds import ExtractLevel
from vindex.overlay import Overlay
from vindex.progress import NullProgress, Progress

if TYPE_CHECKING:
    from lql.catalogue import Relation
    from lql.execute.asking import Asking
    from lql.execute.kept import Answers
    from lql.inference.model import LoadedModel
    from lql.tables.store import ModelTables
    from vindex.checkpoint import CheckpointSource
    from vindex.edited import EditedVindex
    from vindex.edits import EditView
    from vindex.store import Vindex
    from vindex.tracefile import TraceFile


@dataclass(slots=True)
class State:
    """What a session has in use. A failing statement leaves it as it was.

    Attributes:
        source: the current vindex, or the model of USE MODEL.
        loaded: the weights of ``source``, once a statement has needed them.
        model: those weights with the edits of the current view; ``loaded`` where there are none.
        device: where they run.
        tables: its tables, once a SELECT has needed them.
        asking: what DESCRIBE has learnt about how this model answers.
        answers: what this model answered before, once a statement has asked.
        defined: relations that DEFINE RELATION added, by name; they outlive USE.
        overlay: the edits over ``source``.
        edited: ``source`` with the weight edits and labels of a view, while that is current.
        answering: the view whose facts ``model`` answers with.
        variables: what SET gave names, in lower case; they outlive USE.
        pictures: whoever gets the results can show a picture.
        trace: what USE TRACE opened; it outlives USE.
    """

    source: Vindex | CheckpointSource | None = None
    loaded: LoadedModel | None = None
    model: LoadedModel | None = None
    device: Device = Device.CPU
    tables: ModelTables | None = None
    asking: Asking | None = None
    answers: Answers | None = None
    defined: dict[str, Relation] = field(default_factory=dict)
    overlay: Overlay = field(default_factory=Overlay)
    edited: tuple[EditView, EditedVindex] | None = None
    answering: EditView | None = None
    variables: dict[str, str | int | float] = field(default_factory=dict)
    pictures: bool = False
    trace: TraceFile | None = None

    def replace(self, source: Vindex | CheckpointSource) -> None:
        """Make another vindex or model current and let go of the one before, edits included."""
        try:
            overlay = _overlay(source)
        except BaseException:
            source.close()
            raise
        old = self.source
        self._forget_tables()
        self.source, self.loaded, self.model, self.asking = source, None, None, None
        self.overlay, self.edited, self.answering, self.answers = overlay, None, None, None
        if old is not None:
            old.close()

    def effective(self) -> Vindex | CheckpointSource | None:
        """The current vindex with its weights as they are edited, or the model in use."""
        view = self.overlay.view
        known = self.edited
        if known is not None and known[0] is view:
            return known[1]
        weights = ({}, {}) if known is None else known[0].weights
        if weights != view.weights:
            self.model = self.asking = None  # labels do not reach the model
        if not (view.changes_weights or view.labels) or self.source is None:
            self.edited = None
            return self.source
        if known is None or (weights, known[0].labels) != (view.weights, view.labels):
            self.edited = (view, self.edited_as(view))
        assert self.edited is not None, "it is there, or was just made"
        return self.edited[1]

    def edited_as(self, view: EditView) -> EditedVindex:
        """The current vindex with its weights as a view edits them."""
        from vindex.edited import EditedVindex
        from vindex.store import Vindex

        assert isinstance(self.source, Vindex), "only a vindex is edited"
        return EditedVindex.of(self.source, view)

    def run_on(self, device: Device) -> None:
        """Run models there from now on; weights that are elsewhere are loaded again when needed."""
        if device is not self.device:
            self.device, self.loaded, self.model, self.asking = device, None, None, None

    def close(self) -> None:
        """Let go of everything."""
        self.loaded = self.model = self.asking = None
        self.edited = None
        self._forget_tables()
        if self.source is not None:
            self.source.close()
            self.source = None

    def _forget_tables(self) -> None:
        if self.tables is not None:
            self.tables.close()
            self.tables = None


def _overlay(source: Vindex | CheckpointSource) -> Overlay:
    """No edits over what a vindex holds beside its weights."""
    from vindex.edge_store import read_edge_store
    from vindex.knn_store import read_knn_store
    from vindex.store import Vindex

    if not isinstance(source, Vindex):
        return Overlay()
    return Overlay(read_knn_store(source.path, source.index), read_edge_store(source))


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
        tokens, forward_s, touched_bytes: what the statement cost; see ``Meta``.
    """

    state: State
    cancel: CancelToken = field(default_factory=CancelToken)
    progress: Progress = field(default_factory=NullProgress)
    notes: list[str] = field(default_factory=list)
    load_s: float = 0.0
    device: str | None = None
    tokens: int = 0
    forward_s: float = 0.0
    touched_bytes: int = 0

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
            effective = self.state.effective()
            assert isinstance(effective, Vindex)
            return effective
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
        effective = self.state.effective()
        view = self.state.overlay.view
        if self.state.loaded is None:
            from lql.inference import load

            started = time.perf_counter()
            self.state.loaded = load(source, device=self.state.device, cancel=self.cancel)
            self.load_s = time.perf_counter() - started
        if self.state.model is None:
            self.state.model = _edited_model(self.state.loaded, view, effective)
            self.state.answering = None
        self.device = self.state.model.device
        if self.state.answering is not view:
            from lql.inference.knn import FactStore

            self.state.model.facts = FactStore(tuple(view.facts.values()))
            self.state.answering = view
        return self.state.model

    def model_with(self, view: EditView, title: str) -> LoadedModel:
        """The model as ``model`` gives it, with the weights of another view in place of its own.

        Its own ``facts`` are those of the view in effect.
        """
        model = self.model(title)
        if view.weights == self.state.overlay.view.weights:
            return model
        assert self.state.loaded is not None, "the model has just been loaded"
        if not view.changes_weights:
            return self.state.loaded
        return _edited_model(self.state.loaded, view, self.state.edited_as(view))

    def tables(self, title: str) -> ModelTables:
        """The tables of the current vindex, kept until another becomes current.

        Raises:
            LqlRuntimeError: nothing is in use, or a model without a vindex is.
            LqlCapabilityError: DuckDB is not installed.
        """
        vindex = self.vindex(title)
        held = self.state.tables
        if held is not None and held.vindex is not vindex:
            held.close()
            self.state.tables = None
        if self.state.tables is None:
            from lql.tables.store import ModelTables

            self.state.tables = ModelTables(vindex)
        return self.state.tables

    def keep_edits(self, title: str) -> None:
        """Refuse a statement that would drop edits that no file holds.

        Raises:
            LqlRuntimeError: there are some.
        """
        if self.state.overlay.at_risk:
            raise LqlRuntimeError(unsaved_edits(self.state.overlay, f"{title} would drop"))

    def ran(self, tokens: int, seconds: float) -> None:
        """Count tokens that went through the model."""
        self.tokens += tokens
        self.forward_s += seconds

    def read_gates(self, vindex: Vindex, layers: Iterable[int]) -> None:
        """Count gate vectors that were read from the first to the last."""
        self.touched_bytes += sum(vindex.gate_vectors.stored_bytes(layer) for layer in layers)

    def note(self, sentence: str) -> None:
        """Tell people something beside the result."""
        self.notes.append(sentence)


def unsaved_edits(overlay: Overlay, loses: str) -> Diagnostic:
    """What is wrong with going on while the overlay holds edits that no file holds.

    Args:
        overlay: the session's.
        loses: how the sentence begins, e.g. ``USE would drop``.
    """
    edits = overlay.at_risk
    count = "1 edit" if len(edits) == 1 else f"{len(edits)} edits"
    titles, more = [edit.title for edit in edits[:5]], len(edits) - 5
    return Diagnostic(
        Code.UNSAVED_EDITS,
        f"{loses} {count} that no file holds",
        helps=(
            'SAVE PATCH "edits.vlp"; keeps them',
            'COMPILE CURRENT INTO VINDEX "…"; bakes them in',
            "DISCARD PATCH; drops them",
        ),
        notes=(*titles, *([f"and {more} more"] if more > 0 else [])),
    )


def _edited_model(
    loaded: LoadedModel, view: EditView, edited: Vindex | CheckpointSource | None
) -> LoadedModel:
    """Loaded weights as a view edits them, which ``edited`` holds.

    Layers whose down matrix is written into are prepared anew, all edits included; features of the
    others cost no more than their vectors.
    """
    if not view.changes_weights:
        return loaded
    assert edited is not None, "what is edited is in use"
    anew = {piece.layer for fact in view.written.values() for piece in fact.pieces}
    model = loaded.over(edited, anew) if anew else loaded
    rest = {slot: edit for slot, edit in view.features.items() if slot[0] not in anew}
    return model.edited(rest, edited) if rest else model
