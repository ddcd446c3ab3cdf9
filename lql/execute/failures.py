"""Errors of the layers below become errors of the language, here and nowhere else."""

from __future__ import annotations

from lql.cancel import Cancelled
from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import (
    LqlCapabilityError,
    LqlCheckpointError,
    LqlError,
    LqlRuntimeError,
    LqlTypeError,
    LqlVindexError,
)
from lql.inference import errors as inference_errors
from lql.inference.errors import InferenceError
from vindex import errors as vindex_errors
from vindex.errors import VindexError

_Kind = tuple[type[LqlError], Code]

_KINDS: dict[type, _Kind] = {
    vindex_errors.VindexNotFound: (LqlVindexError, Code.VINDEX_NOT_FOUND),
    vindex_errors.VindexInvalid: (LqlVindexError, Code.VINDEX_INVALID),
    vindex_errors.VindexIncomplete: (LqlVindexError, Code.VINDEX_INCOMPLETE),
    vindex_errors.VerifyFailed: (LqlVindexError, Code.VERIFY_FAILED),
    vindex_errors.LevelTooLow: (LqlCapabilityError, Code.LEVEL_TOO_LOW),
    vindex_errors.Unsupported: (LqlCapabilityError, Code.UNSUPPORTED),
    vindex_errors.CheckpointError: (LqlCheckpointError, Code.CHECKPOINT_UNREADABLE),
    vindex_errors.LedgerRefusal: (LqlCheckpointError, Code.LEDGER_REFUSAL),
    vindex_errors.TargetExists: (LqlRuntimeError, Code.TARGET_EXISTS),
    vindex_errors.Interrupted: (LqlRuntimeError, Code.CANCELLED),
    inference_errors.WeightsMissing: (LqlVindexError, Code.VINDEX_INCOMPLETE),
    inference_errors.WeightsInvalid: (LqlVindexError, Code.VINDEX_INVALID),
    inference_errors.EmptyPrompt: (LqlRuntimeError, Code.EMPTY_PROMPT),
    inference_errors.PromptTooLong: (LqlTypeError, Code.OUT_OF_RANGE),
    inference_errors.NoChatTemplate: (LqlCapabilityError, Code.UNSUPPORTED),
}


def translated(error: Exception) -> LqlError | None:
    """The error as the language reports it, or ``None`` for one that only a bug can raise."""
    match error:
        case LqlError():
            return error
        case VindexError() | InferenceError():
            return _with_facts(error)
        case Cancelled():
            where = f" in {error.where}" if error.where else ""
            return LqlRuntimeError(Diagnostic(Code.CANCELLED, f"cancelled{where}"))
        case MemoryError():
            return LqlCapabilityError(
                Diagnostic(Code.NOT_ENOUGH_MEMORY, "the machine has too little memory for this")
            )
        case OSError():
            return _from_os(error)
        case _:
            return None


def _with_facts(error: VindexError | InferenceError) -> LqlError:
    known = next((base for base in type(error).__mro__ if base in _KINDS), None)
    kind, code = (LqlRuntimeError, Code.FAILED) if known is None else _KINDS[known]
    helps = () if error.hint is None else (error.hint,)
    return kind(Diagnostic(code, error.message, helps=helps, notes=error.details))


def _from_os(error: OSError) -> LqlError:
    reason = (error.strerror or str(error)).lower()
    message = reason if error.filename is None else f"{error.filename}: {reason}"
    return LqlRuntimeError(Diagnostic(Code.FILE_FAILED, message))
