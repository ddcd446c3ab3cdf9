"""How long whole processes take, beside the imports that they cannot do without.

    python -m tests.bench.bench_startup VINDEX [--rounds 15]

Runs ``lql --version``, ``STATS``, ``DESCRIBE … EVIDENCE STATIC``, a ``DESCRIBE`` whose answers are
kept, and ``python -c "import numpy, lark, rich.console"`` in turn, and prints the best wall time of
each, what is allowed, and the ratio of either DESCRIBE to the imports. The vindex is one of level
inference: the first DESCRIBE asks the model, and writes into the vindex what it answers.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

IMPORTS = "import numpy, lark, rich.console"
ALLOWED_MS = {"version": 150, "stats": 350}
ALLOWED_RATIO = 2.5
DESCRIBES = {"static": 'DESCRIBE "France" EVIDENCE STATIC;', "kept": 'DESCRIBE "France";'}


def wall_s(command: list[str]) -> float:
    """Wall time of one process."""
    # What is installed has been compiled; a checkout is by the first round, unless that is off.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    nowhere = subprocess.DEVNULL
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=nowhere, stderr=nowhere, env=environment)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("vindex", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    commands = {
        "imports": [sys.executable, "-c", IMPORTS],
        "version": [sys.executable, "-m", "lql", "--version"],
        "stats": [sys.executable, "-m", "lql", "-u", str(options.vindex), "-e", "STATS"],
        **{
            name: [sys.executable, "-m", "lql", "-e", f'USE "{options.vindex}"; {statement}']
            for name, statement in DESCRIBES.items()
        },
    }
    print(f"asked      {wall_s(commands['kept']) * 1000:6.0f} ms (the model, once)")
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(options.rounds):
        for name, command in commands.items():
            times[name].append(wall_s(command))
    best = {name: min(values) for name, values in times.items()}
    for name, value in best.items():
        allowed = f" (allowed: {ALLOWED_MS[name]} ms)" if name in ALLOWED_MS else ""
        print(f"{name:<10} {value * 1000:6.0f} ms{allowed}")
    for name in DESCRIBES:
        print(f"ratio {name:<8}{best[name] / best['imports']:6.2f} (allowed: {ALLOWED_RATIO})")


if __name__ == "__main__":
    main()
