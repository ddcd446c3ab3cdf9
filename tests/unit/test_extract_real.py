"""EXTRACT on the two real models: exact, whole, and within the promised memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vindex.checkpoint import Checkpoint, open_checkpoint
from vindex.downmeta import used_slots
from vindex.kinds import StorageDtype
from vindex.store import Vindex, open_vindex
from vindex.verify import verify

pytestmark = pytest.mark.real_model

PEAK_RSS = 1.2 * 2**30
SAMPLE = 24
ROOT = Path(__file__).parents[2]

CHILD = """
import json, sys
from pathlib import Path
from lql.inference.token_scorer import TorchScorer
from vindex.checkpoint import open_checkpoint
from vindex.extract import extract

with open_checkpoint(sys.argv[1]) as checkpoint:
    report = extract(checkpoint, Path(sys.argv[2]), scorer=TorchScorer())
phases = {phase.name: round(phase.seconds, 2) for phase in report.phases}
print(json.dumps({"seconds": report.seconds, "rss": report.peak_rss_bytes, "phases": phases}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("model", ["smollm2_gguf", "gemma3_gguf"])
def test_a_real_model(model: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    gguf: Path = request.getfixturevalue(model)
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(gguf), str(tmp_path / "v")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    measured = json.loads(child.stdout)
    print(model, measured)
    assert measured["rss"] < PEAK_RSS
    assert verify(tmp_path / "v").ok
    with open_vindex(tmp_path / "v") as vx, open_checkpoint(gguf) as checkpoint:
        assert_exact_tokens(vx, checkpoint)


def assert_exact_tokens(vx: Vindex, checkpoint: Checkpoint) -> None:
    """Features drawn at random against every score of the vocabulary in float64."""
    rng = np.random.default_rng(0)
    embeddings = checkpoint.read("model.embed_tokens.weight", StorageDtype.F32)
    blank = np.array([not text for text in vx.token_texts.texts(range(vx.index.vocab_size))])
    for layer in rng.choice(vx.index.num_layers, 3, replace=False).tolist():
        down = checkpoint.read(f"model.layers.{layer}.mlp.down_proj.weight", StorageDtype.F32)
        features = rng.choice(down.shape[1], SAMPLE // 3, replace=False)
        columns = np.ascontiguousarray(down[:, features], np.float64)
        scores = np.concatenate(
            [part.astype(np.float64) @ columns for part in np.array_split(embeddings, 32)]
        ).astype(np.float32)
        records = vx.down_meta.records(layer)[features]
        used = used_slots(records)
        for index, record in enumerate(records):
            order = np.lexsort((np.arange(len(scores)), -scores[:, index]))[:10]
            expected = order[~blank[order]]
            found = record["top"][used[index]]
            assert found["token"].tolist() == expected.tolist()
            assert found["score"] == pytest.approx(scores[expected, index], rel=1e-6)
