"""Layout of ASSERT."""

from __future__ import annotations

from lql.render.text import printable
from lql.render.view import say_status
from lql.results.scripts import AssertResult


@say_status.register
def _(result: AssertResult) -> str:
    return printable(f"holds: {result.claim} (found {result.found})")
