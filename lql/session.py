"""A session: the Python API, and what every front end runs statements through."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lql import ast
from lql.api.statements import Statements
from lql.cancel import CancelToken
from lql.codes import Code
from lql.context import Context, State, StoppableProgress, unsaved_edits
from lql.diagnostics import Diagnostic
from lql.errors import LqlError, LqlRuntimeError, LqlUsageError
from lql.execute import execute
from lql.execute.failures import translated
from lql.results import Meta, Result
from lql.span import SourceText, Span
from lql.syntax_words import Device
from vindex.closing import Closing
from vindex.progress import NullProgress, Progress

if TYPE_CHECKING:
    from lql.api.models import TransformersModel
    from lql.inference.model import LoadedModel
    from lql.params import ParameterValue
    from lql.scripts import Variables
    from vindex.checkpoint import CheckpointSource
    from vindex.overlay import Overlay
    from vindex.store import Vindex


class Session(Statements, Closing):
    """Runs statements one after another; keeps what USE opened and the weights that were loaded.

    Example:
        >>> with lql.open("smollm2.vindex") as session:
        ...     for row in session.query('INFER "The capital of France is" TOP 5').rows:
        ...         print(row["token"], row["probability"])

    Not safe for use from several threads at once.

    Args:
        progress: told about long work such as EXTRACT.
        device: where models run, until SET device says otherwise.
        pictures: whoever gets the results can show a picture, so PLOT needs no file.
    """

    def __init__(
        self,
        *,
        progress: Progress | None = None,
        device: Device = Device.CPU,
        pictures: bool = False,
    ) -> None:
        self._state = State(device=device, pictures=pictures)
        self._progress = progress or NullProgress()

    @property
    def source(self) -> Vindex | CheckpointSource | None:
        """The current vindex, or the model of USE MODEL; ``None`` before the first USE."""
        return self._state.source

    @property
    def device(self) -> str:
        """Where the loaded model runs; before one is loaded, what was asked for."""
        model = self._state.loaded
        return self._state.device.value if model is None else model.device

    @property
    def loaded(self) -> bool:
        """Whether the weights of what is in use are in memory."""
        return self._state.loaded is not None

    def run(
        self,
        text: str,
        *,
        name: str = "<text>",
        parameters: Mapping[str, ParameterValue] | None = None,
        cancel: CancelToken | None = None,
    ) -> list[Result]:
        """Parse a whole text, then run its statements in order.

        Args:
            text: any number of statements.
            name: what error messages call the text.
            parameters: values of ``:name`` in the text.
            cancel: stops the running statement from another thread.

        Returns:
            One result per statement.

        Raises:
            LqlError: the text does not parse (nothing ran), or a statement failed (those before
                it ran, and what they did stays).
        """
        script = self.prepare(text, name=name, parameters=parameters)
        return [
            self.execute(statement, script.source_of(pipeline), cancel=cancel)
            for pipeline in script.items
            for statement in pipeline.statements
        ]

    def query(self, text: str, /, **parameters: ParameterValue) -> Result:
        """Run one statement and return its result.

        Example:
            >>> found = session.query("SELECT * FROM FEATURES WHERE token = :t", t="Paris")
            >>> found.to_pandas()

        Args:
            text: one statement; its ``;`` may be left out.
            parameters: values of ``:name`` in it.

        Raises:
            LqlError: it failed, or the text is not one statement.
        """
        script = self.prepare(text, name="<query>", parameters=parameters)
        statements = [
            (each, script.source_of(item)) for item in script.items for each in item.statements
        ]
        if len(statements) != 1:
            raise LqlUsageError(
                Diagnostic(
                    Code.USAGE,
                    f"query runs one statement, and the text has {len(statements)}",
                    helps=("run takes any number and returns a list of results",),
                )
            )
        return self.execute(*statements[0])

    def prepare(
        self,
        text: str,
        *,
        name: str = "<text>",
        parameters: Mapping[str, ParameterValue] | None = None,
        words: Mapping[str, str] | None = None,
        variables: Variables | None = None,
    ) -> ast.Script:
        """Parse a text, read the files it includes and bind its parameters, running nothing.

        Args:
            text: any number of statements.
            name: what error messages call the text.
            parameters: values of ``:name`` in the text.
            words: values that arrive as text, as from a command line; each is read as what it
                stands for.
            variables: what SET gave names in texts before this one, which are not run yet; what it
                sets is added. By default those of the statements that have run.

        Raises:
            LqlSyntaxError, LqlNameError, LqlTypeError: with their place in the text.
            LqlRuntimeError: a file cannot be included.
        """
        from lql.parser import parse
        from lql.scripts import Resolver

        known = dict(self._state.variables) if variables is None else variables
        return Resolver(parameters or {}, words or {}, known).resolve(parse(text, name))

    def check(
        self, scripts: Iterable[ast.Script], *, given: bool = False
    ) -> Iterator[tuple[ast.Statement, LqlError | None]]:
        """Look up every name of prepared scripts, and run nothing.

        Args:
            scripts: in their order; a USE of one holds for the next.
            given: a vindex must be there, so one that cannot be opened is an error.

        Yields:
            Each statement, and what is wrong with it.
        """
        from lql.execute.checking import Checker

        checker = Checker(given)
        try:
            for script in scripts:
                for item in script.items:
                    source = script.source_of(item)
                    for statement in item.statements:
                        try:
                            with translating(source if source.text else None, statement.span):
                                checker.check(statement)
                        except LqlError as error:
                            yield statement, error
                        else:
                            yield statement, None
        finally:
            checker.close()

    def execute(
        self,
        statement: ast.Statement,
        source: SourceText | None = None,
        *,
        cancel: CancelToken | None = None,
    ) -> Result:
        """Run one statement of a prepared script.

        Args:
            statement: without unbound parameters.
            source: the text it stands in, for messages.
            cancel: stops it at the next check point.

        Raises:
            LqlError: it failed; the session is as it was before.
        """
        token = cancel or CancelToken()
        context = Context(self._state, token, StoppableProgress(self._progress, token))
        started = time.perf_counter()
        with translating(source, statement.span):
            result = execute(statement, context)
        meta: Meta = replace(
            result.meta,
            elapsed_s=time.perf_counter() - started,
            load_s=context.load_s,
            device=context.device,
            tokens=context.tokens,
            forward_s=context.forward_s,
            touched_bytes=context.touched_bytes,
            notes=(*result.meta.notes, *context.notes),
        )
        return replace(result, meta=meta)

    def model(self, *, cancel: CancelToken | None = None) -> LoadedModel:
        """The weights of what is in use, loaded once and kept until the next USE.

        Raises:
            LqlError: nothing is in use, or it cannot be run.
        """
        context = Context(self._state, cancel or CancelToken())
        with translating():
            return context.model("generating text")

    def use_source(self, source: Vindex | CheckpointSource) -> None:
        """Make a vindex or model current that a program opened; the session closes it.

        Raises:
            LqlError: edits that no file holds would be lost.
        """
        Context(self._state).keep_edits("another model")
        self._state.replace(source)

    def to_transformers(self, *, without_facts: bool = False) -> TransformersModel:
        """The model in use as transformers takes it: a configuration and a state dictionary.

        Edits of features are in the weights. transformers is not imported; the caller builds the
        model, e.g. with ``AutoModelForCausalLM.from_pretrained(None, config=AutoConfig.for_model(
        **config), state_dict=state_dict)``.

        Args:
            without_facts: leave out stored facts, for which a transformers model has no place.

        Raises:
            LqlError: nothing is in use, facts are stored, or the vindex does not hold the weights.
        """
        from lql.api.models import to_transformers

        with translating():
            return to_transformers(self._state, without_facts=without_facts)

    @property
    def overlay(self) -> Overlay:
        """The edits of the session, for reading."""
        return self._state.overlay

    def unsaved_edits(self, loses: str) -> LqlRuntimeError | None:
        """The error of losing edits that no file holds, or ``None`` if there are none.

        Args:
            loses: how its sentence begins, e.g. ``leaving drops``.
        """
        overlay = self._state.overlay
        return LqlRuntimeError(unsaved_edits(overlay, loses)) if overlay.at_risk else None

    def discard_edits(self) -> None:
        """Drop the edits that no file holds, as DISCARD PATCH does."""
        self._state.overlay.discard()

    def close(self) -> None:
        """Let go of files, weights and edits; warns of edits that no file holds."""
        error = self.unsaved_edits("closing the session drops")
        if error is not None:
            warnings.warn(str(error), stacklevel=2)
            self.discard_edits()
        self._state.close()


@contextmanager
def translating(source: SourceText | None = None, span: Span | None = None) -> Iterator[None]:
    """Raise whatever fails inside as an ``LqlError``, with its place in the text if there is one.

    What is not known to fail, a bug, passes through unchanged.
    """
    try:
        yield
    except Exception as failure:
        error = translated(failure)
        if error is None:
            raise
        if source is not None and span is not None:
            error.locate(source, span)
        if error is failure:
            raise
        raise error from failure


def open_session(
    path: str | Path,
    *,
    config: str | Path | None = None,
    device: Device | str = Device.CPU,
    progress: Progress | None = None,
) -> Session:
    """Open a vindex in a session of its own: ``lql.open``.

    Args:
        config, device: see ``connect``.

    Raises:
        LqlError: the vindex cannot be opened.
        ValueError: another device.
    """
    return connect(path, config=config, device=device, progress=progress)


def connect(
    path: str | Path | None = None,
    *,
    config: str | Path | None = None,
    device: Device | str = Device.CPU,
    progress: Progress | None = None,
) -> Session:
    """Open a session, with a vindex in use if one is named.

    Args:
        config: the checkpoint that the vindex was made from, or its ``config.json``; completes a
            vindex written by larql that lost part of it, as USE … CONFIG does.
        device: ``cpu``, ``cuda`` or ``auto``.

    Raises:
        LqlError: the vindex cannot be opened.
        ValueError: another device.
    """
    session = Session(progress=progress, device=Device(device))
    if path is not None:
        supplied = None if config is None else ast.Text(str(config))
        session.execute(ast.UseVindex(ast.Text(str(path)), supplied))
    return session
