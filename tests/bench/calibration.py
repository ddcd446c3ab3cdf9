"""Whether DESCRIBE is sure of nothing about names of nothing, and says the same every time.

A hundred names of eight shapes are made of syllables; nobody bears them, so every row that is shown
as clear is a false one. The rows of a few real entities are then compared over hash seeds.

    python tests/bench/calibration.py MODEL.vindex … [--names 100] [--seeds 20]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import lql
from lql import ast
from lql.catalogue import catalogue
from lql.results.browse import DescribeResult
from vindex.kept_answers import FILE

_STARTS, _VOWELS, _MIDDLES, _ENDS = "BCDFGHJKLMNPRSTVWZ", "aeiou", "bdgklmnrstvxz", "klmnrstx"
_SHAPES = (
    "{a}",
    "{a} {b}",
    "{a}ia",
    "Mount {a}",
    "{a} Corporation",
    "The {a} of {b}",
    "{a}-tailed {b}",
    "{a}ium",
)
_ENTITIES = ("France", "Albert Einstein", "Hogwarts", "Toyota", "water", "Blenvork")
_CODE = """
import json, sys, lql
with lql.open(sys.argv[1]) as session:
    for entity in sys.argv[2:]:
        print(json.dumps(session.query("DESCRIBE :e RAW", e=entity).rows, default=list))
"""


def made_up(count: int) -> list[str]:
    """Names that nothing bears, the same ones every time, none of the catalogue's."""
    pick = random.Random(20)
    taken = set(catalogue().made_up)
    names: list[str] = []

    def word() -> str:
        parts = [pick.choice(_STARTS), pick.choice(_VOWELS), pick.choice(_MIDDLES)]
        return "".join([*parts, pick.choice(_VOWELS), pick.choice(_ENDS)])

    while len(names) < count:
        name = _SHAPES[len(names) % len(_SHAPES)].format(a=word(), b=word())
        if name not in taken:
            taken.add(name)
            names.append(name)
    return names


def clear_rows(session: lql.Session, name: str) -> list[str]:
    """The rows about a name that are shown as clear."""
    result = session.execute(ast.Describe(ast.Text(name)))
    assert isinstance(result, DescribeResult)
    return [f"{e.relation}: {e.target}" for e in result.edges if e.signal == "clear"]


def outputs(path: Path, seeds: int) -> list[str]:
    """Digests of the rows of real entities, a process that asks the model for each hash seed."""
    found = []
    for seed in range(seeds):
        (path / FILE).unlink(missing_ok=True)  # each is to ask
        done = subprocess.run(
            [sys.executable, "-c", _CODE, str(path), *_ENTITIES],
            capture_output=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
        )
        found.append(hashlib.sha256(done.stdout).hexdigest())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("vindex", nargs="+", type=Path)
    parser.add_argument("--names", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    for path in options.vindex:
        (path / FILE).unlink(missing_ok=True)
        with lql.connect(path) as session:
            told = {name: clear_rows(session, name) for name in made_up(options.names)}
        clear = {name: rows for name, rows in told.items() if rows}
        print(f"{path}: {sum(map(len, clear.values()))} clear rows about {len(told)} made-up names")
        for name, rows in clear.items():
            print(f"  {name}: {', '.join(rows)}")
        digests = outputs(path, options.seeds)
        print(f"{path}: {len(set(digests))} outputs over {len(digests)} hash seeds", flush=True)


if __name__ == "__main__":
    main()
