"""From grammar rules to the parts of TRACE, and of what INFER and TRACE change in a pass."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lql import ast
from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlLiteralError
from lql.span import Span
from lql.syntax_values import Builder, Children, Part, kinds, parts

_PLACE = re.compile(r"([0-9]+)\.([0-9]+)")


def _place(children: Children, span: Span) -> Part:
    """``layer:index`` or ``layer.index``; the lexer takes the latter for one number."""
    if kinds(children)[0] != "FLOAT":
        return Part(tuple(parts(children)), span)
    found = _PLACE.fullmatch(children[0])
    if found is None or max(map(len, found.groups())) > 9:
        raise LqlLiteralError(
            Diagnostic(
                Code.BAD_NUMBER,
                f"{children[0]} is no place in the model",
                span=span,
                label="a layer and a number, e.g. 3:12",
            )
        )
    return Part(tuple(ast.Integer(int(digits), span=span) for digits in found.groups()), span)


def _ablation(children: Children, span: Span) -> ast.Ablation:
    kind = ast.Ablated[kinds(children)[0]]
    (place,) = parts(children)
    layer, index = place.value if isinstance(place, Part) else (place, None)
    return ast.Ablation(kind, layer, index, span=span)


def _steering(children: Children, span: Span) -> ast.Steering:
    toward, *away, amount, layer = parts(children)
    return ast.Steering(toward, away[0] if away else None, amount, layer, span=span)


TRACE_RULES: Mapping[str, Builder] = {
    "place": _place,
    "ablation": _ablation,
    "steering": _steering,
}
"""What each of these rules builds."""
