"""``--junit FILE``: what became of every statement, as the XML that CI systems read.

A statement is a test case, the text that it stands in a suite. An ASSERT that does not hold is a
``failure``, any other error an ``error``; what did not run because of one is ``skipped``.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from lql import ast
from lql.codes import Code
from lql.diagnostics import Diagnostic, render_text, visible
from lql.errors import LqlAssertionError, LqlError, LqlUsageError
from lql.span import NO_SOURCE, SourceText
from lql.unparse import unparse

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_NAME_LENGTH = 200
_UNFINISHED = Diagnostic(Code.INTERNAL, "the statement did not finish")


class _Outcome(Enum):
    """What became of a statement; the value is the element that says so, if any."""

    PASSED = ""
    FAILURE = "failure"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(slots=True)
class _Case:
    name: str
    source: SourceText | None
    line: int | None
    outcome: _Outcome = _Outcome.SKIPPED
    seconds: float = 0.0
    diagnostic: Diagnostic | None = None


@dataclass(slots=True)
class JunitReport:
    """Collects what becomes of statements, and writes it.

    Attributes:
        path: the file, in a directory that exists.
    """

    path: Path
    _cases: list[_Case] = field(default_factory=list)
    _by_statement: dict[int, _Case] = field(default_factory=dict)
    _kept: list[ast.Statement] = field(default_factory=list)
    _started: float = 0.0

    def __post_init__(self) -> None:
        if not self.path.parent.is_dir():
            raise LqlUsageError(
                Diagnostic(
                    Code.USAGE, f"cannot write {self.path}: {self.path.parent} is no directory"
                )
            )

    def expect(self, scripts: Iterable[ast.Script]) -> None:
        """Name the statements that are to run, in their order."""
        for script in scripts:
            for item in script.items:
                source = script.source_of(item)
                for statement in item.statements:
                    self._kept.append(statement)  # so that its id stays its own
                    self._by_statement[id(statement)] = self._add(statement, source)

    def begin(self, statement: ast.Statement) -> None:
        """A statement begins; unless something else is said of it, it did not finish."""
        case = self._by_statement[id(statement)]
        case.outcome, case.diagnostic = _Outcome.ERROR, _UNFINISHED
        self._started = time.perf_counter()

    def end(self, statement: ast.Statement, error: LqlError | None = None) -> None:
        """A statement ended, with an error or well."""
        case = self._by_statement[id(statement)]
        case.seconds = time.perf_counter() - self._started
        case.outcome, case.diagnostic = _judged(error)

    def other(self, name: str, error: LqlError) -> None:
        """Something else failed: a text does not parse, edits are lost."""
        diagnostic = error.diagnostic
        case = _Case(name, diagnostic.source, None)
        case.outcome, case.diagnostic = _judged(error)
        self._cases.append(case)

    def write(self) -> None:
        """Write the file whole; one that was there before is replaced at once or stays.

        Raises:
            LqlUsageError: it cannot be written.
        """
        from xml.etree import ElementTree

        data = ElementTree.tostring(self._root(), encoding="utf-8", xml_declaration=True)
        stage: Path | None = None
        try:
            with tempfile.NamedTemporaryFile(
                dir=self.path.parent, prefix=f".{self.path.name}.", delete=False
            ) as file:
                stage = Path(file.name)
                file.write(data + b"\n")
                file.flush()
                os.fsync(file.fileno())
            stage.chmod(0o644)
            os.replace(stage, self.path)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            message = f"cannot write {self.path}: {reason}"
            raise LqlUsageError(Diagnostic(Code.USAGE, message)) from error
        finally:
            if stage is not None:
                stage.unlink(missing_ok=True)

    def _add(self, statement: ast.Statement, source: SourceText) -> _Case:
        text = " ".join(unparse(statement).split())
        name = text if len(text) <= _NAME_LENGTH else f"{text[: _NAME_LENGTH - 1]}…"
        if source is NO_SOURCE or not source.text:
            case = _Case(name, None, None)
        else:
            case = _Case(name, source, source.position(statement.span.start).line)
        self._cases.append(case)
        return case

    def _root(self) -> Element:
        from xml.etree.ElementTree import Element

        root = Element("testsuites", {"name": "lql", **_counts(self._cases)})
        suites: dict[str, list[_Case]] = {}
        for case in self._cases:
            suites.setdefault("lql" if case.source is None else case.source.name, []).append(case)
        for name, cases in suites.items():
            suite = Element("testsuite", {"name": visible(name), **_counts(cases)})
            suite.extend(_element(case, name) for case in cases)
            root.append(suite)
        return root


def _judged(error: LqlError | None) -> tuple[_Outcome, Diagnostic | None]:
    if error is None:
        return _Outcome.PASSED, None
    failed = isinstance(error, LqlAssertionError)
    return (_Outcome.FAILURE if failed else _Outcome.ERROR), error.diagnostic


def _counts(cases: Sequence[_Case]) -> dict[str, str]:
    def count(outcome: _Outcome) -> str:
        return str(sum(case.outcome is outcome for case in cases))

    return {
        "tests": str(len(cases)),
        "failures": count(_Outcome.FAILURE),
        "errors": count(_Outcome.ERROR),
        "skipped": count(_Outcome.SKIPPED),
        "time": f"{sum(case.seconds for case in cases):.3f}",
    }


def _element(case: _Case, suite: str) -> Element:
    from xml.etree.ElementTree import Element

    attributes = {"name": visible(case.name), "classname": visible(suite)}
    if case.source is not None and case.line is not None:
        attributes |= {"file": visible(case.source.name), "line": str(case.line)}
    element = Element("testcase", {**attributes, "time": f"{case.seconds:.3f}"})
    if case.outcome is _Outcome.SKIPPED:
        element.append(Element("skipped", {"message": "not run"}))
    elif case.diagnostic is not None:
        found = case.diagnostic
        problem = Element(
            case.outcome.value, {"message": visible(found.message), "type": found.code.id}
        )
        problem.text = "\n".join(map(visible, render_text(found).splitlines()))
        element.append(problem)
    return element
