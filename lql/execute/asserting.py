"""ASSERT: what a model must say for a script to succeed."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import assert_never

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlAssertionError, LqlRuntimeError, LqlTypeError
from lql.execute.slots import not_available, text
from lql.results.forward import InferResult
from lql.results.scripts import AssertResult
from lql.syntax_text import quote
from lql.unparse import unparse

_HOLDS: Mapping[ast.Comparator, Callable[[float, float], bool]] = {
    ast.Comparator.EQ: operator.eq,
    ast.Comparator.NE: operator.ne,
    ast.Comparator.LT: operator.lt,
    ast.Comparator.LE: operator.le,
    ast.Comparator.GT: operator.gt,
    ast.Comparator.GE: operator.ge,
}

_ONE = ast.Integer(1)


@dataclass(frozen=True, slots=True)
class _Found:
    """What a claim is judged by.

    Attributes:
        holds: whether the claim is true.
        found: what was there, as a statement would write it.
        helps: what may have been meant.
    """

    holds: bool
    found: str
    helps: tuple[str, ...] = ()


def run(statement: ast.Assert, context: Context) -> AssertResult:
    """Run ASSERT.

    Raises:
        LqlAssertionError: it does not hold.
        LqlRuntimeError: the SELECT gives no single value.
        LqlTypeError: a text is compared with a number.
        LqlError: what the question itself raises.
    """
    match statement.subject:
        case ast.Infer():
            judged = _infer(statement.subject, statement, context)
        case ast.Select():
            judged = _select(statement.subject, statement, context)
        case ast.Probability():
            judged = _probability(statement.subject, statement, context)
        case _:
            assert_never(statement.subject)
    expected = f"{statement.comparator.value} {_written(_literal(statement.expected))}"
    claim = unparse(replace(statement, message=None)).removeprefix("ASSERT ")
    message = None if statement.message is None else text(statement.message)
    if not judged.holds:
        raise LqlAssertionError(
            Diagnostic(
                Code.ASSERTION_FAILED,
                message or f"does not hold: {claim}",
                span=statement.span,
                helps=judged.helps,
                notes=(f"expected {expected}", f"found {judged.found}"),
            ),
            expected=expected,
            found=judged.found,
        )
    return AssertResult(claim=claim, expected=expected, found=judged.found, message=message)


def _infer(subject: ast.Infer, statement: ast.Assert, context: Context) -> _Found:
    """Whether a token is among the first TOP of the model's answer, by default the very first."""
    from lql.execute.infer import run as run_infer

    if subject.compare:
        raise not_available("ASSERT INFER … COMPARE", subject.span)
    result = run_infer(subject if subject.top else replace(subject, top=_ONE), context)
    assert isinstance(result, InferResult), "INFER without COMPARE"
    tokens = [row.token for row in result.tokens]
    expected = _literal(statement.expected)
    among = expected in tokens
    near = [token for token in tokens if isinstance(expected, str) and _alike(token, expected)]
    return _Found(
        holds=among is (statement.comparator is ast.Comparator.EQ),
        found=", ".join(f"{quote(row.token)} ({row.probability:.1%})" for row in result.tokens),
        helps=() if among else tuple(f"tokens keep their spaces: {quote(each)}" for each in near),
    )


def _alike(token: str, expected: str) -> bool:
    return token.strip() == expected.strip()


def _select(subject: ast.Select, statement: ast.Assert, context: Context) -> _Found:
    from lql.execute.select import run as run_select

    result = run_select(subject, context)
    if len(result.values) != 1 or len(result.columns) != 1:
        rows, columns = len(result.values), len(result.columns)
        raise LqlRuntimeError(
            Diagnostic(
                Code.NOT_ONE_VALUE,
                f"ASSERT compares one value, and the SELECT gives {rows} row{'s' * (rows != 1)} "
                f"of {columns} column{'s' * (columns != 1)}",
                span=subject.span,
                helps=("ask for one column of one row, e.g. COUNT(*) or MAX(logit)",),
            )
        )
    ((found,),) = result.values
    expected = _literal(statement.expected)
    if found is None:  # as in WHERE: nothing is known of a missing value
        return _Found(False, "no value")
    if isinstance(found, tuple) or isinstance(found, str) is not isinstance(expected, str):
        raise LqlTypeError(
            Diagnostic(
                Code.WRONG_TYPE,
                f"the SELECT gives {_written(found)}, which does not compare with "
                f"{_written(expected)}",
                span=statement.expected.span,
            )
        )
    compare: Callable[..., bool] = _HOLDS[statement.comparator]
    return _Found(compare(found, expected), _written(found))


def _probability(subject: ast.Probability, statement: ast.Assert, context: Context) -> _Found:
    """How likely the model goes on with the whole text, as INFER would answer."""
    expected = _literal(statement.expected)
    assert not isinstance(expected, str), "the grammar takes a number"
    prompt, target = text(subject.prompt), text(subject.target)
    if not target.strip():
        raise LqlTypeError(
            Diagnostic(Code.OUT_OF_RANGE, "OF takes a text to look for", span=subject.target.span)
        )
    model = context.model("ASSERT PROBABILITY")
    fact = model.infer(prompt, top=1, cancel=context.cancel).fact if model.facts else None
    if fact is not None:
        context.note(f"the stored fact {fact.entity} —{fact.relation}→ {fact.target} answers")
        found = float(_alike(fact.target, target))
    else:
        ids = model.target_ids(target.removeprefix(" "), spaced=not prompt[-1:].isspace())
        found = model.probability(prompt, ids, cancel=context.cancel)
    return _Found(_HOLDS[statement.comparator](found, expected), f"{found:.6g}")


def _literal(value: ast.Scalar) -> str | int | float:
    assert not isinstance(value, ast.Parameter), f"parameter {value.name} is not bound"
    return value.value


def _written(value: object) -> str:
    match value:
        case str():
            return quote(value)
        case tuple():
            return f"({', '.join(map(_written, value))})"
        case _:
            return str(value)
