"""SET: what changes how the session works, and variables."""

from __future__ import annotations

from typing import NoReturn

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlNameError, LqlTypeError
from lql.names import nearest
from lql.results.lifecycle import SetResult
from lql.syntax_words import Device

OPTIONS = ("device",)


def run(statement: ast.SetOption, context: Context) -> SetResult:
    """Run SET.

    Raises:
        LqlNameError: there is no such option, and a bare word is no value of a variable.
        LqlTypeError: the option does not take this value.
        DeviceMissing: there is no such device here.
    """
    name = statement.option.value
    if name not in OPTIONS and isinstance(statement.value, ast.Text | ast.Integer | ast.Number):
        value = context.state.variables[name] = statement.value.value
        return SetResult(option=name, value=value, variable=True)
    if name not in OPTIONS:
        raise LqlNameError(
            Diagnostic(
                Code.UNKNOWN_OPTION,
                f"there is no option {name}",
                span=statement.option.span,
                suggestions=nearest(name, OPTIONS),
                notes=(
                    f"options are {', '.join(OPTIONS)}; any other name is a variable, "
                    "and its value a number or a string in quotes",
                ),
            )
        )
    device = _device(statement.value)
    if device is Device.CUDA:
        from lql.inference.placement import require_cuda

        require_cuda()
    context.state.run_on(device)
    return SetResult(option=name, value=device.value)


def _device(value: ast.Word | ast.Scalar) -> Device:
    known = [device.value for device in Device]
    match value:
        case ast.Word(value=word) | ast.Text(value=word) if word.lower() in known:
            return Device(word.lower())
        case ast.Parameter():
            raise AssertionError(f"parameter {value.name} is not bound")
        case _:
            _refuse(value, known)


def _refuse(value: ast.Word | ast.Text | ast.Integer | ast.Number, known: list[str]) -> NoReturn:
    raise LqlTypeError(
        Diagnostic(
            Code.WRONG_TYPE,
            f"device is one of {', '.join(known)}",
            span=value.span,
            suggestions=nearest(str(value.value), known),
        )
    )
