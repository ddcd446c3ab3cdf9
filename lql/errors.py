"""Everything ``lql`` raises on purpose.

::

    LqlError                          code      exit code
    ├── LqlSyntaxError                LQL01xx   1    the text is not LQL
    │   └── LqlLiteralError           LQL03xx   1    … because of a literal in it
    ├── LqlNameError                  LQL02xx   1    a name that stands for nothing
    ├── LqlTypeError                  LQL03xx   1    a value of the wrong kind or range
    │   └── LqlLiteralError           LQL03xx   1    … that is written in the text
    ├── LqlCapabilityError            LQL04xx   4    the vindex or the machine cannot do this
    ├── LqlRuntimeError               LQL05xx   1    the statement failed (130 when cancelled)
    │   └── LqlAssertionError         LQL0570   1    … because ASSERT does not hold
    ├── LqlVindexError                LQL06xx   3    a vindex cannot be opened or verified
    ├── LqlCheckpointError            LQL07xx   1    a checkpoint cannot be read or balanced
    ├── LqlNotAvailableError          LQL0901   1    parses, and a later version runs it
    ├── LqlUsageError                 LQL0902   2    wrong command line or configuration
    └── LqlInternalError              LQL9999   70   a bug in lql

An error carries one ``Diagnostic``; codes and their meanings are in ``lql.codes``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from lql.codes import Code
from lql.diagnostics import Diagnostic, render_short
from lql.span import SourceText, Span


class LqlError(Exception):
    """Root of the package's errors.

    Attributes:
        diagnostic: everything there is to say.
    """

    family: ClassVar[str] = "LQL"

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic)
        self.diagnostic = diagnostic

    @property
    def code(self) -> Code:
        """The kind of error."""
        return self.diagnostic.code

    @property
    def exit_code(self) -> int:
        """The exit code of a process that ends with this error."""
        return self.diagnostic.code.exit_code

    def locate(self, source: SourceText, span: Span) -> None:
        """Fill in the place, unless the error already knows it.

        Executors raise without a source; whoever runs the statement knows its text and span.
        """
        if self.diagnostic.source is None:
            self.diagnostic = replace(
                self.diagnostic, source=source, span=self.diagnostic.span or span
            )

    def __str__(self) -> str:
        return render_short(self.diagnostic)


class LqlSyntaxError(LqlError):
    """The text is not LQL.

    Attributes:
        incomplete: the text is the beginning of valid LQL; more input could mend it.
    """

    family = "LQL01"

    def __init__(self, diagnostic: Diagnostic, *, incomplete: bool = False) -> None:
        super().__init__(diagnostic)
        self.incomplete = incomplete


class LqlNameError(LqlError):
    """A name that stands for nothing."""

    family = "LQL02"


class LqlTypeError(LqlError):
    """A value of the wrong kind, or outside its range."""

    family = "LQL03"


class LqlLiteralError(LqlSyntaxError, LqlTypeError):
    """A literal in the text is of the wrong kind, or outside its range."""

    family = "LQL03"


class LqlCapabilityError(LqlError):
    """The vindex or the machine cannot do this."""

    family = "LQL04"


class LqlRuntimeError(LqlError):
    """The statement failed while running."""

    family = "LQL05"


class LqlAssertionError(LqlRuntimeError):
    """What ASSERT says does not hold.

    Attributes:
        expected, found: as a statement would write them, the first with its comparator.
    """

    family = "LQL0570"

    def __init__(self, diagnostic: Diagnostic, *, expected: str, found: str) -> None:
        super().__init__(diagnostic)
        self.expected = expected
        self.found = found


class LqlVindexError(LqlError):
    """A vindex cannot be opened or verified."""

    family = "LQL06"


class LqlCheckpointError(LqlError):
    """A checkpoint cannot be read, or its tensors do not balance."""

    family = "LQL07"


class LqlNotAvailableError(LqlError):
    """The statement parses; a later version runs it."""

    family = "LQL0901"


class LqlUsageError(LqlError):
    """The command line or the configuration is wrong."""

    family = "LQL0902"


class LqlInternalError(LqlError):
    """A bug in lql."""

    family = "LQL9999"
