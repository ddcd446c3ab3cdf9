"""Patch files: BEGIN, SAVE, APPLY, REMOVE."""

from __future__ import annotations

import os
from pathlib import Path
from typing import assert_never

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlNameError, LqlRuntimeError
from lql.execute.slots import not_available, text
from lql.names import nearest
from lql.results import Result
from lql.results.edits import ConflictRow, PatchResult
from vindex.errors import TargetExists
from vindex.overlay import Edit
from vindex.patch import Patch, base_of, check_base, read_patch, write_patch

_Patching = ast.BeginPatch | ast.SavePatch | ast.ApplyPatch | ast.RemovePatch


def run(statement: _Patching, context: Context) -> Result:
    """Run a statement about patch files."""
    match statement:
        case ast.BeginPatch():
            return _begin(statement, context)
        case ast.SavePatch():
            return _save(statement, context)
        case ast.ApplyPatch():
            return _apply(statement, context)
        case ast.RemovePatch():
            return _remove(statement, context)
        case _:
            assert_never(statement)


def patch_path(slot: ast.TextSlot) -> Path:
    """The path of a patch file; the hub is not read yet."""
    word = text(slot)
    if word.startswith("hf://"):
        raise not_available("a patch on the hub", slot.span, "download it and name the file")
    return Path(word).expanduser()


def file_name(path: Path) -> str:
    """What the overlay calls a patch file: the same for every way to write its path."""
    return os.path.abspath(path)


def _begin(statement: ast.BeginPatch, context: Context) -> PatchResult:
    context.vindex(statement.title)
    overlay = context.state.overlay
    path = patch_path(statement.path)
    if overlay.recording is not None:
        raise LqlRuntimeError(
            Diagnostic(
                Code.FAILED,
                f"{overlay.recording} is being recorded",
                helps=("SAVE PATCH; writes it", "DISCARD PATCH; drops it"),
            )
        )
    _refuse_directory(path)
    if path.exists() and file_name(path) not in overlay.patches:
        raise _exists(path)
    overlay.recording = str(path)
    if overlay.unsaved:
        context.note(f"{len(overlay.unsaved)} edits made before belong to it")
    return PatchResult(
        statement=statement.title,
        patch=str(path),
        edits=tuple(edit.title for edit in overlay.unsaved),
        operations=0,
        left=len(overlay.edits),
    )


def _save(statement: ast.SavePatch, context: Context) -> PatchResult:
    vindex = context.vindex(statement.title)
    overlay = context.state.overlay
    if statement.path is not None:
        path = patch_path(statement.path)
    elif overlay.recording is not None:
        path = Path(overlay.recording)
    else:
        raise LqlRuntimeError(
            Diagnostic(
                Code.FAILED,
                "SAVE PATCH needs a file: no patch is being recorded",
                span=statement.span,
                helps=('SAVE PATCH "edits.vlp"; writes the edits that no file holds',),
            )
        )
    if not overlay.unsaved:
        raise LqlRuntimeError(
            Diagnostic(
                Code.FAILED,
                "there is no edit to save",
                helps=("SHOW EDITS; lists the edits in effect and their files",),
            )
        )
    name = file_name(path)
    _refuse_directory(path)
    if path.exists() and name not in overlay.patches and not statement.overwrite:
        raise _exists(path)
    edits = tuple(edit.title for edit in overlay.edits if edit.patch in (None, name))
    operations = overlay.to_save(name)
    size = write_patch(path, Patch(base_of(vindex), operations))
    overlay.saved(name)
    return PatchResult(
        statement=statement.title,
        patch=str(path),
        edits=edits,
        operations=len(operations),
        left=len(overlay.edits),
        size_bytes=size,
    )


def _exists(path: Path) -> TargetExists:
    return TargetExists(
        f"{path} exists", hint="choose another path, or SAVE PATCH … OVERWRITE", path=path
    )


def _refuse_directory(path: Path) -> None:
    if path.is_dir():
        raise TargetExists(f"{path} is a directory", hint="choose another path", path=path)


def _apply(statement: ast.ApplyPatch, context: Context) -> PatchResult:
    vindex = context.vindex(statement.title)
    overlay = context.state.overlay
    path = patch_path(statement.path)
    name = file_name(path)
    if name in overlay.patches:
        raise LqlRuntimeError(
            Diagnostic(
                Code.FAILED,
                f"{path} is applied already",
                helps=(f'REMOVE PATCH "{path}"; takes it away',),
            )
        )
    patch = read_patch(path, vindex)
    if not statement.force:
        check_base(patch, base_of(vindex), path)
    edit = Edit(f"APPLY PATCH {path}", patch.operations, name)
    conflicts = overlay.conflicts(edit)
    overlay.commit(edit)
    for each in conflicts:
        context.note(f"the patch wins: {each.what} {each.before} is now {each.after}")
    return PatchResult(
        statement=statement.title,
        patch=str(path),
        edits=(edit.title,),
        operations=len(patch.operations),
        conflicts=tuple(ConflictRow(c.what, c.before, c.after) for c in conflicts),
        left=len(overlay.edits),
    )


def _remove(statement: ast.RemovePatch, context: Context) -> PatchResult:
    overlay = context.state.overlay
    path = patch_path(statement.path)
    name = file_name(path)
    if name not in overlay.patches:
        shown = [os.path.relpath(patch) for patch in overlay.patches]
        raise LqlNameError(
            Diagnostic(
                Code.UNKNOWN_PATCH,
                f"{path} is not applied",
                span=statement.path.span,
                suggestions=nearest(str(path), shown),
                helps=("SHOW PATCHES; lists those that are",),
            )
        )
    gone = overlay.remove(name)
    return PatchResult(
        statement=statement.title,
        patch=str(path),
        edits=tuple(edit.title for edit in gone),
        operations=sum(len(edit.operations) for edit in gone),
        left=len(overlay.edits),
    )
