"""DEFINE RELATION: a user's own question to what DESCRIBE asks."""

from __future__ import annotations

from collections.abc import Sequence

from lql import ast
from lql.catalogue import PLACE, Relation, catalogue
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlNameError, LqlTypeError
from lql.execute.slots import text
from lql.names import nearest
from lql.results.lifecycle import DefineRelationResult


def run(statement: ast.DefineRelation, context: Context) -> DefineRelationResult:
    """Run DEFINE RELATION. A relation of the same name is replaced."""
    kind = None if statement.kind is None else text(statement.kind).lower()
    kinds = catalogue().kinds
    if statement.kind is not None and kind not in kinds:
        raise LqlNameError(
            Diagnostic(
                Code.UNKNOWN_KIND,
                f'there is no kind "{kind}"',
                span=statement.kind.span,
                suggestions=nearest(str(kind), kinds),
                helps=(f"kinds: {', '.join(kinds)}",),
            )
        )
    name = text(statement.relation).strip()
    if not name:
        raise _wrong("a relation has a name", statement.relation)
    templates = templates_of(statement.templates)
    context.state.defined[name] = Relation(name, templates, {}, kind)
    return DefineRelationResult(relation=name, templates=templates, kind=kind)


def templates_of(slots: Sequence[ast.TextSlot]) -> tuple[str, ...]:
    """Templates that a user wrote.

    Raises:
        LqlTypeError: one does not have the entity's place in it, once.
    """
    templates = []
    for slot in slots:
        template = text(slot).rstrip()
        if template.count(PLACE) != 1:
            raise _wrong(f"a template has {PLACE} in it, once", slot)
        templates.append(template)
    return tuple(templates)


def _wrong(message: str, slot: ast.TextSlot) -> LqlTypeError:
    return LqlTypeError(
        Diagnostic(
            Code.OUT_OF_RANGE,
            message,
            span=slot.span,
            helps=('TEMPLATE "The capital of {entity} is"',),
        )
    )
