"""EXTRACT killed with SIGKILL: the target is whole, or it is what it was before.

``LQL_KILLS`` sets how many random moments are tried in each mode (CI: 5; 50 for a full run).
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.hostile.killing import killed_at, start, steps_of
from tests.unit.test_extract import arrays_of, make_checkpoint
from tests.unit.vindex_files import copy_golden, open_and_read
from vindex.store import open_vindex
from vindex.verify import verify

KILLS = int(os.environ.get("LQL_KILLS", "5"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that takes some tenths of a second."""
    changes = {"hidden_size": 128, "intermediate_size": 1024, "num_hidden_layers": 6}
    return make_checkpoint(tmp_path_factory.mktemp("kill") / "s", arrays_of(**changes), **changes)


def prepare(tmp_path: Path, overwrite: bool) -> Path:
    out = tmp_path / "v"
    if overwrite:
        copy_golden("llama_h96.browse", out)
    return out


def assert_whole(out: Path, overwrite: bool) -> bool:
    """Check what stands under the target's name; whether it is the new vindex."""
    if not out.exists():
        assert not overwrite, "the old vindex is gone and the new one is not there"
        return False
    open_and_read(out)
    assert verify(out).ok
    with open_vindex(out) as vx:
        new = vx.index.ours
        assert vx.num_features(0) == (1024 if new else 160)
    assert new or overwrite
    return new


@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwrite"])
def test_killed_at_random_moments(overwrite: bool, source: Path, tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    out = prepare(tmp_path, overwrite)
    whole = start("extract", tmp_path, source, tmp_path / "whole", False)
    begin = time.perf_counter()
    assert whole.wait() == 0
    seconds = time.perf_counter() - begin
    killed = 0
    for _ in range(KILLS):
        process = start("extract", tmp_path, source, out, overwrite)
        time.sleep(rng.uniform(0, seconds))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        if assert_whole(out, overwrite) and not overwrite:
            shutil.rmtree(out)
    print(f"{killed} of {KILLS} killed before they ended")
    assert killed
    # The next extract starts from a clean table and clears away what the dead ones left.
    assert start("extract", tmp_path, source, out, True).wait() == 0
    assert assert_whole(out, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["v", "whole"]


@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwrite"])
def test_killed_around_every_step_of_publication(
    overwrite: bool, source: Path, tmp_path: Path
) -> None:
    """The last steps one by one, the earlier ones sampled."""
    steps = steps_of("extract", tmp_path, source, tmp_path / "count", False)
    outcomes = []
    for number in [*range(1, steps - 8, 7), *range(steps - 8, steps + 4)]:
        directory = tmp_path / str(number)
        directory.mkdir()
        out = prepare(directory, overwrite)
        code = killed_at(number, "extract", directory, source, out, overwrite)
        new = assert_whole(out, overwrite)
        outcomes.append((code, new))
    assert outcomes[0] == (-signal.SIGKILL, False)
    assert (-signal.SIGKILL, True) in outcomes
    assert outcomes == sorted(outcomes, key=lambda outcome: (outcome[1], -abs(outcome[0])))
