"""Did-you-mean: the known names nearest to a wrong one."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], limit: int = 3) -> tuple[str, ...]:
    """The known names most like ``name``, best first; case does not count."""
    from difflib import get_close_matches

    folded: dict[str, str] = {}
    for candidate in known:
        folded.setdefault(candidate.casefold(), candidate)
    return tuple(folded[match] for match in get_close_matches(name.casefold(), folded, limit))
