"""What the command does besides running scripts: ``extract``, ``verify`` and ``--info``."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from lql import ast, batch
from lql.arguments import ExtractCommand, VerifyCommand
from lql.batch import BatchOptions
from lql.cancel import CancelToken
from lql.context import StoppableProgress
from lql.report import Reporter
from lql.results import FileRow, InfoResult, Meta, VerifyResult
from lql.session import Session, translating
from lql.worker import Worker
from vindex.progress import NullProgress

if TYPE_CHECKING:
    from lql.render.progress import ProgressBar
    from vindex.verify import FileStatus, VerifyReport

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


def run_verify(
    command: VerifyCommand,
    options: BatchOptions,
    reporter: Reporter,
    progress: ProgressBar | None,
) -> int:
    """Check a vindex to its last byte and print every file; return the exit code.

    Raises:
        LqlError: there is no vindex, it is damaged, or the work was cancelled.
    """
    from vindex.verify import verify

    cancel = CancelToken()
    watched = StoppableProgress(progress or NullProgress(), cancel)

    def check() -> VerifyReport:
        with translating():
            return verify(Path(command.vindex).expanduser(), watched)

    started = time.perf_counter()
    try:
        report = batch.supervised(check, cancel, Worker(), reporter)
    finally:
        if progress is not None:
            progress.clear()
    files = tuple(FileRow(file.name, file.size, _status(file)) for file in report.files)
    meta = Meta(elapsed_s=time.perf_counter() - started)
    batch.show(VerifyResult(path=str(report.path), files=files, meta=meta), options, reporter)
    with translating():
        report.raise_if_damaged()
    if not report.sealed:
        reporter.note("written without a seal, so not every file can be checked against a checksum")
    return 0


def _status(file: FileStatus) -> str:
    return f"{file.status.value}: {file.detail}" if file.detail else file.status.value


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
