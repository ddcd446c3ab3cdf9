"""Renders one chat template, in a process of its own that has limits; see ``lql.inference.chat``.

Run as a script. Reads a JSON object from standard input (``template``, ``variables``,
``output_limit``, ``memory_limit``, ``cpu_limit``) and writes one to standard output:
``{"text": …}``, or ``{"error": …}`` with a sentence.

The environment and its helpers are those that Hugging Face renders templates with, so that
released templates work unchanged.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class _Refused(Exception):
    """The template called ``raise_exception``."""


class _Generation(Extension):
    """``{% generation %}``, which marks the model's own words for training: renders its body."""

    tags = {"generation"}  # noqa: RUF012 - how Jinja asks for it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _raise_exception(message: object) -> NoReturn:
    raise _Refused(str(message))


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
    # Jinja's own filter escapes HTML characters, which no model expects.
    allowed = {key: more[key] for key in ("separators", "sort_keys") if key in more}
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **allowed)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _render(request: dict[str, Any]) -> str:
    template = _environment().from_string(request["template"])
    pieces: list[str] = []
    size = 0
    for piece in template.generate(**request["variables"]):
        pieces.append(piece)
        size += len(piece)
        if size > request["output_limit"]:
            raise _Refused(f"the output exceeds {request['output_limit']} characters")
    return "".join(pieces)


def _limit(memory: int, cpu_seconds: int) -> None:
    """Bound memory and processor time, where the system can; the parent bounds wall time."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for kind, amount in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, cpu_seconds)):
        with contextlib.suppress(ValueError, OSError):  # a lower limit is in force, or no such one
            resource.setrlimit(kind, (amount, amount))


def _answer(work: Callable[[], str]) -> dict[str, str]:
    try:
        return {"text": work()}
    except _Refused as error:
        return {"error": str(error)}
    except SecurityError as error:
        return {"error": f"it does what templates may not: {error}"}
    except TemplateSyntaxError as error:
        return {"error": f"line {error.lineno}: {error.message}"}
    except TemplateError as error:
        return {"error": str(error) or type(error).__name__}
    except MemoryError:
        return {"error": "it exceeds its memory limit"}
    except RecursionError:
        return {"error": "it nests too deeply"}
    except Exception as error:  # whatever the template's own expressions raise
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Answer the request on standard input."""
    request = json.load(sys.stdin)
    _limit(request["memory_limit"], request["cpu_limit"])
    answer = _answer(lambda: _render(request))
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
