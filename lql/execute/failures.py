"""Errors of the layers below become errors of the language, here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

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
from vindex import errors
from vindex.errors import VindexError

if TYPE_CHECKING:
    from lql.inference.errors import InferenceError

_Kind = tuple[type[LqlError], Code]

_VINDEX: dict[type, _Kind] = {
    errors.VindexNotFound: (LqlVindexError, Code.VINDEX_NOT_FOUND),
    errors.VindexInvalid: (LqlVindexError, Code.VINDEX_INVALID),
    errors.VindexIncomplete: (LqlVindexError, Code.VINDEX_INCOMPLETE),
    errors.VerifyFailed: (LqlVindexError, Code.VERIFY_FAILED),
    errors.LevelTooLow: (LqlCapabilityError, Code.LEVEL_TOO_LOW),
    errors.Unsupported: (LqlCapabilityError, Code.UNSUPPORTED),
    errors.CheckpointError: (LqlCheckpointError, Code.CHECKPOINT_UNREADABLE),
    errors.OptionsConflict: (LqlCheckpointError, Code.OPTIONS_CONFLICT),
    errors.LedgerRefusal: (LqlCheckpointError, Code.LEDGER_REFUSAL),
    errors.TargetExists: (LqlRuntimeError, Code.TARGET_EXISTS),
    errors.PatchInvalid: (LqlRuntimeError, Code.PATCH_INVALID),
    errors.OtherBase: (LqlRuntimeError, Code.OTHER_BASE),
    errors.TraceInvalid: (LqlRuntimeError, Code.TRACE_INVALID),
    errors.Interrupted: (LqlRuntimeError, Code.CANCELLED),
}


def translated(error: Exception) -> LqlError | None:
    """The error as the language reports it, or ``None`` for one that only a bug can raise."""
    match error:
        case LqlError():
            return error
        case VindexError():
            return _with_facts(error, _VINDEX)
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
            return _from_inference(error)


def _from_inference(error: Exception) -> LqlError | None:
    from lql.inference import errors

    if not isinstance(error, errors.InferenceError):
        return None
    kinds: dict[type, _Kind] = {
        errors.WeightsMissing: (LqlVindexError, Code.VINDEX_INCOMPLETE),
        errors.WeightsInvalid: (LqlVindexError, Code.VINDEX_INVALID),
        errors.EmptyPrompt: (LqlRuntimeError, Code.EMPTY_PROMPT),
        errors.PromptTooLong: (LqlTypeError, Code.OUT_OF_RANGE),
        errors.NoChatTemplate: (LqlCapabilityError, Code.UNSUPPORTED),
        errors.SamplingInvalid: (LqlTypeError, Code.OUT_OF_RANGE),
        errors.DeviceMissing: (LqlCapabilityError, Code.DEVICE_MISSING),
        errors.InterventionInvalid: (LqlTypeError, Code.OUT_OF_RANGE),
        errors.PositionInvalid: (LqlTypeError, Code.NO_POSITION),
        errors.TraceOpen: (LqlRuntimeError, Code.TRACE_OPEN),
        errors.DeviceMemoryShort: (LqlCapabilityError, Code.NOT_ENOUGH_MEMORY),
    }
    return _with_facts(error, kinds)


def _with_facts(error: VindexError | InferenceError, kinds: Mapping[type, _Kind]) -> LqlError:
    """The error of the nearest class that has one, with everything the original knows."""
    known = next((kinds[base] for base in type(error).__mro__ if base in kinds), None)
    kind, code = known or (LqlRuntimeError, Code.FAILED)
    helps = () if error.hint is None else (error.hint,)
    return kind(Diagnostic(code, error.message, helps=helps, notes=error.details))


def _from_os(error: OSError) -> LqlError:
    reason = (error.strerror or str(error)).lower()
    message = reason if error.filename is None else f"{error.filename}: {reason}"
    return LqlRuntimeError(Diagnostic(Code.FILE_FAILED, message))
