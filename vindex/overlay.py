"""Edits over a read-only base: one ordered log, one effective view.

An edit is what one statement did, whole or not at all. The overlay keeps every state it has been
in, so that UNDO goes back exactly; states share their edits, so that costs a tuple each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from vindex.edits import (
    EditView,
    Fact,
    Operation,
    compacted,
    folded,
)
from vindex.probes import Probe


@dataclass(frozen=True, slots=True)
class Edit:
    """What one statement did.

    Attributes:
        title: the statement for people, e.g. ``INSERT Hungary —capital→ Oslo``.
        operations: in order.
        patch: the file that holds them, or ``None`` while no file does.
    """

    title: str
    operations: tuple[Operation, ...]
    patch: str | None = None


@dataclass(frozen=True, slots=True)
class Conflict:
    """A fact or feature that an edit before had set otherwise.

    Attributes:
        what: the fact's or feature's name.
        before, after: what stood there and what stands there now, for people.
    """

    what: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class _State:
    edits: tuple[Edit, ...] = ()


class Overlay:
    """The edits of a session over one base.

    Args:
        base: facts that the base itself holds.
        probes: kept answers that it holds.
    """

    def __init__(self, base: Iterable[Fact] = (), probes: Iterable[Probe] = ()) -> None:
        self._base = tuple(base)
        self._probes = tuple(probes)
        self._states = [_State()]
        self._view = self._folded(())
        self.recording: str | None = None
        self._baked: tuple[tuple[Edit, ...], tuple[type[Operation], ...]] = ((), ())

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits in effect, oldest first."""
        return self._states[-1].edits

    @property
    def view(self) -> EditView:
        """What the edits come to. The same object until an edit is made or taken back."""
        return self._view

    @property
    def base_view(self) -> EditView:
        """The view without any edit."""
        return self._folded(())

    @property
    def unsaved(self) -> tuple[Edit, ...]:
        """The edits that no patch file holds."""
        return tuple(edit for edit in self.edits if edit.patch is None)

    @property
    def at_risk(self) -> tuple[Edit, ...]:
        """The edits that are lost with the session: neither a patch file nor a target holds them.

        A target of COMPILE holds the edits as they were then; after one more, or one less, it
        holds others. What is being recorded for a patch file is at risk until that is written.
        """
        edits, without = self._baked
        if edits is not self.edits or self.recording is not None:
            return self.unsaved
        return tuple(
            edit
            for edit in self.unsaved
            if any(isinstance(operation, without) for operation in edit.operations)
        )

    @property
    def patches(self) -> tuple[str, ...]:
        """The patch files in effect, in the order in which they came."""
        return tuple(dict.fromkeys(edit.patch for edit in self.edits if edit.patch is not None))

    @property
    def depth(self) -> int:
        """How many times UNDO can go back."""
        return len(self._states) - 1

    def with_edit(self, edit: Edit) -> EditView:
        """What the view would be after one more edit. Nothing is changed."""
        return self._folded((*self.edits, edit))

    def commit(self, edit: Edit) -> None:
        """Make an edit: the last step of a statement, which cannot fail."""
        self._push((*self.edits, edit))

    def undo(self, count: int = 1) -> tuple[Edit, ...]:
        """Go back ``count`` statements, at most ``depth``; returns the edits no longer made."""
        now = self.edits
        del self._states[max(1, len(self._states) - count) :]
        self._view = self._folded(self.edits)
        return tuple(edit for edit in now if edit not in self.edits)

    def discard(self) -> tuple[Edit, ...]:
        """Take back every edit that no file holds, and end the recording."""
        gone = self.unsaved
        self.recording = None
        if gone:
            self._push(tuple(edit for edit in self.edits if edit.patch is not None))
        return gone

    def remove(self, patch: str) -> tuple[Edit, ...]:
        """Take back the edits of a patch file; returns them."""
        gone = tuple(edit for edit in self.edits if edit.patch == patch)
        self._push(tuple(edit for edit in self.edits if edit.patch != patch))
        return gone

    def to_save(self, patch: str) -> tuple[Operation, ...]:
        """The operations that the file is to hold: its own so far, and all that no file holds."""
        return compacted(
            operation
            for edit in self.edits
            if edit.patch in (None, patch)
            for operation in edit.operations
        )

    def saved(self, patch: str) -> None:
        """Say that the file now holds every edit that no file held; ends the recording."""
        edits = tuple(
            replace(edit, patch=patch) if edit.patch is None else edit for edit in self.edits
        )
        self._states[-1] = _State(edits)
        self.recording = None

    def baked(self, without: tuple[type[Operation], ...] = ()) -> None:
        """Say that a compiled target holds what the edits in effect come to.

        Args:
            without: kinds of operations that it does not hold.
        """
        self._baked = self.edits, without

    def conflicts(self, edit: Edit) -> tuple[Conflict, ...]:
        """What the edit would set otherwise than it is now, base facts included."""
        before, after = self.view, self.with_edit(edit)
        found = [
            Conflict(f"{old.entity} —{old.relation}→", old.target, new.target)
            for old in (*before.every_fact, *before.forgotten)
            if (new := after.saying(old.name)) is not None and new.target != old.target
        ]
        found += [
            Conflict(f"feature {slot[0]}:{slot[1]}", "edited", "edited again")
            for slot, old_edit in before.features.items()
            if after.features[slot] != old_edit
        ]
        found += [
            Conflict(
                f"label of feature {slot[0]}:{slot[1]}", old_label.relation, new_label.relation
            )
            for slot, old_label in before.labels.items()
            if (new_label := after.labels[slot]).relation != old_label.relation
        ]
        found += [
            Conflict(f"probe of {old_probe.entity}", str(old_probe), str(new_probe))
            for name, old_probe in before.probes.items()
            if (new_probe := after.probes[name]) != old_probe
        ]
        return tuple(found)

    def _push(self, edits: tuple[Edit, ...]) -> None:
        view = self._folded(edits)
        self._states.append(_State(edits))
        self._view = view

    def _folded(self, edits: Sequence[Edit]) -> EditView:
        operations = (each for edit in edits for each in edit.operations)
        return folded(self._base, operations, self._probes)
