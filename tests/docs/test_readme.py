"""What README.md shows is what happens: commands, tables and scripts, on the real model."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from vindex.families import families

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.real_model


def test_gguf_architectures_are_all_listed() -> None:
    table = README.partition("| architecture in the file |")[2].partition("\n\n")[0]
    listed = {
        name
        for line in table.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    readable = {name for each in families() if each.gguf for name in each.gguf.architectures}
    assert listed == readable


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, smollm2_f32_vindex: Path) -> Path:
    """A directory as the README's first command leaves it."""
    place = tmp_path_factory.mktemp("readme")
    (place / "smollm2.vindex").symlink_to(smollm2_f32_vindex)
    shutil.copytree(ROOT / "examples", place / "examples")
    return place


def run(command: str, workplace: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell command with this interpreter's ``lql`` first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=workplace,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_first_command_ends_with_the_table_shown(workplace: Path) -> None:
    question = re.search(r"lql -e '.*'", blocks("sh")[0])
    assert question is not None
    done = run(question[0], workplace)
    assert done.returncode == 0, done.stderr
    shown = blocks("text")[0]
    assert done.stdout.strip() == shown.strip()


@pytest.mark.parametrize("command", blocks("sh")[2].strip().splitlines())
def test_the_commands_shown_run(command: str, workplace: Path) -> None:
    done = run(command, workplace)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_python_shown_runs(workplace: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", blocks("python")[0]], cwd=workplace, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert " Paris 0.77" in done.stdout


def test_the_generating_python_shown_runs(workplace: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", blocks("python")[1]], cwd=workplace, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout


def test_the_session_shown_runs(workplace: Path) -> None:
    shown = blocks("console")[0]
    statements = re.findall(r"^smollm2> (?!help)(.*)$", shown, re.M)
    assert len(statements) >= 3
    done = subprocess.run(
        [sys.executable, "-m", "lql", "-u", "smollm2.vindex", "-f", "-"],
        input="\n".join(statements),
        cwd=workplace,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", sorted(ROOT.glob("examples/*.lql")), ids=lambda path: path.name)
def test_the_example_scripts_run_as_they_say(script: Path, workplace: Path) -> None:
    says = re.search(r"Run with: +(lql .*?)(?: \*/)?$", script.read_text(encoding="utf-8"), re.M)
    done = run(says[1] if says else f"lql examples/{script.name}", workplace)
    assert done.returncode == 0, done.stderr
    assert "France" in done.stdout or "Paris" in done.stdout


def steps_of_the_workflow() -> list[str]:
    """What the example workflow runs, after the installation."""
    workflow = yaml.safe_load((ROOT / "examples" / "model_facts.yml").read_text(encoding="utf-8"))
    steps = workflow["jobs"]["facts"]["steps"]
    return [step["run"] for step in steps if step.get("run", "").startswith("lql ")]


def test_the_example_workflow_runs_and_reports(workplace: Path) -> None:
    extract, check, facts = steps_of_the_workflow()
    assert extract.startswith("lql extract")
    for command in (check, facts):
        done = run(command, workplace)
        assert done.returncode == 0, done.stderr
    cases = ElementTree.parse(workplace / "facts.xml").getroot()
    assert cases.attrib["failures"] == cases.attrib["errors"] == "0"
    wrong = run(f'{facts} --param capital=" Lyon"', workplace)
    assert wrong.returncode == 1
    assert "examples/model_facts.lql:7:1: error[LQL0570]: the capital of France" in wrong.stderr
    cases = ElementTree.parse(workplace / "facts.xml").getroot()
    assert cases.attrib["failures"] == "1"


def test_the_statements_said_to_run_are_those_the_reference_offers() -> None:
    reference = (ROOT / "grammar" / "README.md").read_text(encoding="utf-8")
    sections = re.findall(r"^### ([A-Z ]+)\n(.*?)(?=^##|\Z)", reference, re.M | re.S)
    missing = {title for title, body in sections if "*Not available yet.*" in body}
    row = re.search(r"^\| statements \| all of .*, but (.*) \|$", README, re.M)
    assert row is not None
    assert set(row[1].split(", ")) - {"USE REMOTE"} == missing  # it has no section of its own
