"""The language in a notebook: ``%load_ext lql``, then ``%lql`` and ``%%lql``.

The only room that imports IPython. ``magics`` is what is typed, ``cells`` takes a cell apart,
``display`` decides how results look there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Make ``%lql`` and ``%%lql`` known: what ``%load_ext lql`` calls."""
    from lql.notebook.display import register
    from lql.notebook.magics import LqlMagics

    register(shell)
    shell.register_magics(LqlMagics(shell))
