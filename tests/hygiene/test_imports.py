"""The direction of imports (design.md): checked in the source, and in fresh interpreters."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Third-party package -> the only places of the product that may import it.
ONLY_IN = {
    "lark": ("lql/parser.py",),
    "rich": ("lql/render/", "lql/repl/"),
    "prompt_toolkit": ("lql/repl/",),
    "pygments": ("lql/repl/",),
    "torch": ("lql/inference/",),
    "duckdb": ("lql/tables/engine.py",),
    "pyarrow": ("lql/results/",),
    "pandas": ("lql/results/",),
    "polars": ("lql/results/",),
    "jinja2": ("lql/inference/",),
    "gguf": ("vindex/checkpoint/", "vindex/export/"),
    "huggingface_hub": ("vindex/checkpoint/",),
    "transformers": (),
    "accelerate": (),
    "pytest": (),
}


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module name imported anywhere in a file, lazily or not, with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from ((alias.name, node.lineno) for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module, node.lineno


def product_files() -> list[Path]:
    return sorted([*ROOT.glob("lql/**/*.py"), *ROOT.glob("vindex/**/*.py")])


def test_third_party_packages_stay_in_their_rooms() -> None:
    strays = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in product_files()
        for module, line in imports(path)
        for package, rooms in ONLY_IN.items()
        if module.split(".")[0] == package
        and not str(path.relative_to(ROOT)).startswith(rooms or ("nowhere",))
    ]
    assert not strays, "\n".join(strays)


# Room -> the rooms of our own that it must not import.
FORBIDDEN = {
    "vindex/": ("lql",),
    "lql/render/": ("lql.execute", "lql.session", "lql.inference", "lql.repl", "lql.cli"),
    "lql/results/": ("lql.render", "lql.execute", "lql.session", "lql.inference"),
    "lql/ast.py": ("lql.parser", "lql.execute", "lql.session", "lql.inference", "vindex.store"),
    "lql/inference/": ("lql.execute", "lql.session", "lql.render", "lql.repl", "lql.cli"),
    "lql/tables/": ("lql.render", "lql.execute", "lql.session", "lql.repl", "lql.cli", "lql.batch"),
    "lql/execute/": ("lql.render", "lql.repl", "lql.cli", "lql.batch"),
    "lql/session.py": ("lql.render", "lql.repl", "lql.cli", "lql.batch"),
}


def test_rooms_import_in_one_direction() -> None:
    strays = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in product_files()
        for room, rooms in FORBIDDEN.items()
        if str(path.relative_to(ROOT)).startswith(room)
        for module, line in imports(path)
        if any(module == other or module.startswith(other + ".") for other in rooms)
    ]
    assert not strays, "\n".join(strays)


HEAVY = (
    "torch",
    "duckdb",
    "pyarrow",
    "pandas",
    "polars",
    "transformers",
    "huggingface_hub",
    "gguf",
    "prompt_toolkit",
    "rich",
    "lark",
)


@pytest.mark.parametrize("module", ["lql", "vindex", "lql.ast", "lql.results"])
def test_importing_a_package_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(sorted(set(sys.modules) & {set(HEAVY)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_root_holds_only_what_the_design_names() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    top = {name.split("/")[0] for name in tracked}
    allowed = {"pyproject.toml", "lql", "grammar", "vindex", "tests", "examples", "README.md"}
    assert {name for name in top if not name.startswith(".")} <= allowed | {"LICENSE"}
