"""The prompt and the line below it: what is open, and what changes how statements run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from prompt_toolkit.formatted_text import StyleAndTextTuples

from lql.diagnostics import visible
from lql.render import Format

if TYPE_CHECKING:
    from lql.session import Session

_LONGEST_NAME = 32
_GAP = " │ "


@dataclass(frozen=True, slots=True)
class Open:
    """What a session has in use.

    Attributes:
        name: as the user knows it.
        level, dtype: of a vindex; ``None`` for a model that was not extracted.
        loaded: whether the weights are in memory.
        device: where they are, or will be.
        recording: the patch file that BEGIN PATCH named.
        unsaved: how many edits no file holds.
    """

    name: str
    level: str | None
    dtype: str | None
    loaded: bool
    device: str = "cpu"
    recording: str | None = None
    unsaved: int = 0


def opened(session: Session) -> Open | None:
    """Look at what a session has in use."""
    source = session.source
    if source is None:
        return None
    from vindex.store import Vindex

    level = dtype = None
    if isinstance(source, Vindex):
        level, dtype = source.level.value, source.index.dtype.value
    return Open(
        name=source.name,
        level=level,
        dtype=dtype,
        loaded=session.loaded,
        device=session.device,
        recording=session.overlay.recording,
        unsaved=len(session.overlay.at_risk),
    )


def prompt(current: Open | None) -> str:
    """The text before the cursor: the last part of the open vindex's name.

    ``*`` after it: BEGIN PATCH is recording. ``!``: there are edits that no file holds.
    """
    if current is None:
        return "lql> "
    marks = "*" * (current.recording is not None) + "!" * bool(current.unsaved)
    return f"{_short(current.name)}{marks}> "


def continuation(width: int) -> str:
    """What stands before the second and further lines.

    Args:
        width: of the prompt.
    """
    return f"{'...> ':>{width}}"[-width:]


def toolbar(
    current: Open | None,
    chosen: Format,
    *,
    timing: bool,
    busy_with: str | None,
    names: str = "",
) -> StyleAndTextTuples:
    """The line at the bottom.

    Args:
        busy_with: the title of a cancelled statement that still runs.
        names: how far completion has read the vindex's names.
    """
    facts = [*_facts(current), f"format {chosen.value}", f"timing {'on' if timing else 'off'}"]
    if names:
        facts.append(names)
    if busy_with is not None:
        facts.append(f"{busy_with} is ending")
    return [("", f" {_GAP.join(facts)} ")]


def _facts(current: Open | None) -> list[str]:
    if current is None:
        return ['nothing open: USE "path.vindex"; opens one']
    weights = "weights loaded" if current.loaded else "weights not loaded"
    name = _ending(visible(current.name))
    edits = []
    if current.recording is not None:
        edits.append(f"recording {_short(current.recording)}")
    if current.unsaved:
        edits.append(f"{current.unsaved} unsaved edit{'s' * (current.unsaved != 1)}")
    if current.level is None or current.dtype is None:
        return [name, *edits, "model, not extracted", weights, current.device]
    level, dtype = f"level {current.level}", f"dtype {current.dtype}"
    return [name, *edits, level, dtype, weights, current.device]


def _short(name: str) -> str:
    last = visible(PurePath(name).name or name)
    return last if len(last) <= _LONGEST_NAME else f"{last[: _LONGEST_NAME - 1]}…"


def _ending(name: str) -> str:
    """A path cut at its beginning, where paths are alike."""
    return name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"
