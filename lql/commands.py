"""What the command does besides scripts: ``extract``, ``verify``, ``help`` and ``--info``."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from lql import ast, batch
from lql.arguments import Common, Parser, choice, common_of, configure, usage
from lql.batch import BatchOptions
from lql.cancel import CancelToken
from lql.context import StoppableProgress
from lql.report import Reporter
from lql.results.base import Meta
from lql.results.commands import FileRow, InfoResult, VerifyResult
from lql.session import Session, translating
from lql.worker import Worker
from vindex.kinds import ExtractLevel, Quant, StorageDtype
from vindex.progress import NullProgress

if TYPE_CHECKING:
    from lql.render.progress import ProgressBar
    from vindex.verify import FileStatus, VerifyReport

_EXTRACT = """\
Write a vindex from a checkpoint: a directory of safetensors, a .safetensors or .gguf file, a hub
id such as org/name, or package:NAME/FILE.gguf inside an installed Python package.
"""
_VERIFY = "Read every file of a vindex and compare it with what was sealed when it was written."

_HELP = "Explain the language: list its statements, or show one with its syntax and an example."
_HELP_WIDTH = 100

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


def run_extract(words: Sequence[str], reporter: Reporter) -> int:
    """``lql extract``: run the EXTRACT statement that the words spell; return the exit code.

    Raises:
        LqlUsageError: the words are wrong.
    """
    parser = Parser("extract", "MODEL -o OUT [options]", _EXTRACT, output=False)
    option = parser.section("what to write")
    option("model", metavar="MODEL", help="the checkpoint")
    option("-o", dest="target", metavar="OUT", required=True, help="the vindex to write")
    option(
        "--level",
        type=choice(ExtractLevel),
        metavar="LEVEL",
        help="browse, attention, inference (default) or all",
    )
    option("--dtype", type=choice(StorageDtype), metavar="DTYPE", help="f16 (default), bf16, f32")
    option("--quant", type=choice(Quant), metavar="QUANT", help="none (default) or q4k")
    option(
        "--down-q4k",
        action="store_true",
        help="with q4k: the down matrices in 4 bits too, not 6: smaller, less exact",
    )
    option(
        "--drop-gate-vectors",
        action="store_true",
        help="with q4k: keep gate vectors in blocks alone; browsing decodes them",
    )
    option("--overwrite", action="store_true", help="replace OUT if it exists")
    found = parser.words(words)
    if found.down_q4k and found.quant is not Quant.Q4K:
        raise usage("--down-q4k says how q4k is done", "add --quant q4k")
    if found.drop_gate_vectors and found.quant is not Quant.Q4K:
        raise usage("--drop-gate-vectors leaves gate vectors to q4k", "add --quant q4k")
    common = common_of(found)
    terminal = configure(common, reporter)
    statement = ast.Extract(
        model=ast.Text(found.model),
        target=ast.Text(found.target),
        level=found.level,
        dtype=found.dtype,
        quant=found.quant,
        overwrite=found.overwrite,
        down_q4k=found.down_q4k,
        drop_gate_vectors=found.drop_gate_vectors,
    )
    script = ast.Script((ast.Pipeline((statement,)),))
    progress = terminal.progress()
    with Session(progress=progress) as session:
        options = BatchOptions(format=common.format, render=terminal.render)
        return batch.run_scripts(session, [script], options, reporter, progress)


def run_verify(words: Sequence[str], reporter: Reporter) -> int:
    """``lql verify``: check a vindex to its last byte, print every file; return the exit code.

    Raises:
        LqlError: there is no vindex, it is damaged, or the work was cancelled.
    """
    parser = Parser("verify", "VINDEX [options]", _VERIFY)
    parser.section("what to check")("vindex", metavar="VINDEX", help="the directory to check")
    found = parser.words(words)
    common = common_of(found)
    terminal = configure(common, reporter)
    options = BatchOptions(format=common.format, render=terminal.render, output=common.output)
    started = time.perf_counter()
    report = _verified(found.vindex, reporter, terminal.progress())
    files = tuple(FileRow(file.name, file.size, _status(file)) for file in report.files)
    meta = Meta(elapsed_s=time.perf_counter() - started)
    batch.show(VerifyResult(path=str(report.path), files=files, meta=meta), options, reporter)
    with translating():
        report.raise_if_damaged()
    if not report.sealed:
        reporter.note("written without a seal, so not every file can be checked against a checksum")
    return 0


def _verified(path: str, reporter: Reporter, progress: ProgressBar | None) -> VerifyReport:
    from vindex.verify import verify

    cancel = CancelToken()
    watched = StoppableProgress(progress or NullProgress(), cancel)

    def check() -> VerifyReport:
        with translating():
            return verify(Path(path).expanduser(), watched)

    try:
        return batch.supervised(check, cancel, Worker(), reporter)
    finally:
        if progress is not None:
            progress.clear()


def _status(file: FileStatus) -> str:
    return f"{file.status.value}: {file.detail}" if file.detail else file.status.value


def run_help(words: Sequence[str], reporter: Reporter) -> int:
    """``lql help``: list the statements, or explain those that the words name.

    Raises:
        LqlUsageError: no statement is called like that.
    """
    from lql.repl.help_text import overview, topic_lines, topic_text
    from lql.repl.help_topics import find_topics, load_topics

    parser = Parser("help", "[STATEMENT]", _HELP, formats=False, output=False)
    parser.section("what to explain")(
        "words", nargs="*", metavar="STATEMENT", help="its first words, e.g. show layers"
    )
    found = parser.words(words)
    terminal = configure(common_of(found), reporter)
    width = terminal.render.width or _HELP_WIDTH
    topics = load_topics()
    if not found.words:
        text = overview(topics, (), (), width)
    else:
        chosen = find_topics(" ".join(found.words), topics)
        text = topic_text(chosen[0]) if len(chosen) == 1 else topic_lines(chosen, width)
    reporter.out.write(f"{text}\n")
    return 0


def run_info(common: Common, reporter: Reporter) -> int:
    """``lql --info``: print what runs here; return the exit code."""
    terminal = configure(common, reporter)
    options = BatchOptions(format=common.format, render=terminal.render, output=common.output)
    batch.show(info_result(), options, reporter)
    return 0


def info_result() -> InfoResult:
    """Versions and devices, as ``--info`` and the shell tell them."""
    return InfoResult(
        lql=_version("lql") or "unknown",
        python=platform.python_version(),
        platform=platform.platform(),
        device=", ".join(_devices()),
        cores=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        packages={name: _version(name) for name in _PACKAGES},
    )


def _devices() -> tuple[str, ...]:
    """What --device can name here; the processor alone where torch is not installed."""
    try:
        from lql.inference.placement import available
    except ImportError:
        return ("cpu",)
    return available()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
