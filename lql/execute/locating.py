"""Where the model looks a relation up, told beside the report of MODE MEMIT … CHECK FULL.

The layers that are written into are not chosen by this: on SmolLM2 causal tracing points at the
first layers, and facts written there changed more neighbours and more unrelated text than those
written into the fixed band (README, "Edits, measured").
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lql.context import Context
from lql.execute.facts import Row
from lql.probes import bystanders, canonical
from vindex.edits import plain_relation
from vindex.effects import Float32, read_effects, write_effects
from vindex.errors import VindexError

if TYPE_CHECKING:
    from lql.inference.writing import Writer
    from vindex.store import Vindex

_SUBJECTS = 8
_RELATIONS = 4
"""Relations of one statement that are traced; the first of them."""

_CLEAR = 0.1
"""Of what noise takes: windows that bring back less do not stand out."""


def tell_where(rows: Sequence[Row], writer: Writer, vindex: Vindex, context: Context) -> None:
    """Note, for each relation, the layers that causal tracing finds and those written into.

    Args:
        writer: of the model without edits.

    Raises:
        Cancelled: between layers of a pass.
    """
    width = len(writer.layers)
    asked: dict[str, Row] = {}
    for row in rows:
        asked.setdefault(plain_relation(row.relation), row)
    for relation, row in list(asked.items())[:_RELATIONS]:
        effects = _effects(row, width, writer, vindex, context)
        best = int(effects[:-1].argmax()) if len(effects) > 1 else 0  # the last is never read
        own = writer.layers[0]
        if effects[best] < _CLEAR:
            context.note(f"causal tracing of {relation}: no {width} layers stand out")
            continue
        context.note(
            f"causal tracing of {relation}: of what noise on the subject takes from the answer, "
            f"the FFNs of layers {best}-{best + width - 1} bring back {effects[best]:.0%}, "
            f"those of the layers written into, {own}-{writer.layers[-1]}, {effects[own]:.0%}"
        )


def _effects(row: Row, width: int, writer: Writer, vindex: Vindex, context: Context) -> Float32:
    """The effects of a relation, kept in the vindex, or traced now and then kept."""
    from lql.inference.causal import indirect_effects, recipe

    names = bystanders(row.entity, row.relation)
    names = names[:: max(1, len(names) // _SUBJECTS)][:_SUBJECTS]
    prompts = [canonical(name, row.relation) for name in names]
    made_for = hashlib.sha256("\n".join((recipe(), str(width), *prompts)).encode()).hexdigest()
    held = read_effects(vindex.path, row.relation, made_for)
    if held is not None:
        return held
    context.progress.phase(f"where {row.relation} is looked up", 0, "")
    asked = [writer.asked(text, name) for text, name in zip(prompts, names, strict=True)]
    found = indirect_effects(writer.model.decoder, asked, width, cancel=context.cancel)
    try:
        write_effects(vindex.path, row.relation, found, made_for)
    except (OSError, VindexError) as error:
        context.note(f"where {row.relation} is looked up could not be stored: {error}")
    return found
