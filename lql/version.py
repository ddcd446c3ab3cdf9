"""Which version this is."""

from __future__ import annotations


def version_line() -> str:
    """What ``lql --version`` prints."""
    from importlib.metadata import version

    return f"lql {version('lql')}"
