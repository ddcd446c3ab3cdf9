"""Running statements in tests, and what stays as it was where one is refused."""

from __future__ import annotations

from typing import Any

import pytest

from lql.errors import LqlError
from lql.session import Session


def one(session: Session, statement: str, **parameters: Any) -> Any:
    """The result of one statement."""
    (result,) = session.run(statement, parameters=parameters)
    return result


def refused(session: Session, statement: str) -> LqlError:
    """The error of a statement, which leaves the edits as they were."""
    before = (session.overlay.edits, session.overlay.view)
    with pytest.raises(LqlError) as caught:
        session.run(statement)
    assert (session.overlay.edits, session.overlay.view) == before
    return caught.value
