"""What the command does besides running scripts: ``extract``, ``verify`` and ``--info``."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import TYPE_CHECKING

from lql import ast, batch
from lql.arguments import ExtractCommand
from lql.batch import BatchOptions
from lql.report import Reporter
from lql.results import InfoResult
from lql.session import Session

if TYPE_CHECKING:
    from lql.render.progress import ProgressBar

_PACKAGES = (
    "numpy",
    "torch",
    "lark",
    "rich",
    "prompt_toolkit",
    "tokenizers",
    "safetensors",
    "gguf",
    "huggingface_hub",
    "jinja2",
)


def run_extract(
    command: ExtractCommand,
    options: BatchOptions,
    reporter: Reporter,
    progress: ProgressBar | None,
) -> int:
    """Run the EXTRACT statement that the words spell; return the exit code."""
    statement = ast.Extract(
        model=ast.Text(command.model),
        target=ast.Text(command.target),
        level=command.level,
        dtype=command.dtype,
        quant=command.quant,
        overwrite=command.overwrite,
    )
    script = ast.Script((ast.Pipeline((statement,)),))
    with Session(progress=progress) as session:
        return batch.run_scripts(session, [script], options, reporter, progress)


def run_info(options: BatchOptions, reporter: Reporter) -> int:
    """Print what runs here."""
    result = InfoResult(
        lql=_version("lql") or "unknown",
        python=platform.python_version(),
        platform=platform.platform(),
        device="cpu",
        cores=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        packages={name: _version(name) for name in _PACKAGES},
    )
    batch.show(result, options, reporter)
    return 0


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
