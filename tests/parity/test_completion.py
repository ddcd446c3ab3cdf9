"""Vindexes of larql's that lost something run once the checkpoint they came from is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from lql import connect
from lql.errors import LqlCapabilityError, LqlVindexError
from lql.inference import load
from tests.parity.laboratory import largest
from vindex.checkpoint import CheckpointSource, open_checkpoint
from vindex.completion import Completion
from vindex.errors import CheckpointError, Unsupported, VindexIncomplete, VindexInvalid
from vindex.kinds import ExtractLevel
from vindex.source import StoredTensor
from vindex.spec import TensorIdentity
from vindex.store import open_vindex

pytestmark = pytest.mark.usefixtures("one_thread")

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
LOST = {"qwen2_h96": "biases", "llama3_h96": "rope scaling"}
IDS = tuple(np.random.default_rng(2).integers(0, 384, 60).tolist())

# What larql's cut to f16 moves logits by, at most .026, in Gemma 4 with its many terms .064.
WITHIN, WITHIN_GEMMA4 = 0.04, 0.1


def vindex(name: str) -> Path:
    return GOLDEN / "vindexes" / f"{name}.f16"


def checkpoint(name: str) -> Path:
    return GOLDEN / "checkpoints" / name


def exact(name: str) -> npt.NDArray[np.float32]:
    with open_checkpoint(checkpoint(name)) as opened:
        return load(CheckpointSource(opened)).logits(IDS)


@pytest.mark.parametrize("name", LOST)
def test_without_the_checkpoint_they_do_not_run(name: str) -> None:
    with (
        open_vindex(vindex(name)) as opened,
        pytest.raises(Unsupported, match=LOST[name]) as caught,
    ):
        opened.require(ExtractLevel.INFERENCE, "INFER")
    assert caught.value.hint is not None
    assert 'CONFIG "checkpoint' in caught.value.hint
    assert "--config" in caught.value.hint


@pytest.mark.parametrize("name", [*LOST, "llama_h96", "gemma3_h96", "gemma4_h96"])
def test_with_the_checkpoint_they_answer_as_it_does(name: str) -> None:
    with open_vindex(vindex(name), config=checkpoint(name)) as opened:
        difference = largest(load(opened).logits(IDS), exact(name))
        print(f"{name}: {difference:.4f}, {len(opened.notes)} notes")
        assert difference < (WITHIN_GEMMA4 if name == "gemma4_h96" else WITHIN)
        assert any("completed from" in note for note in opened.notes)


def test_a_config_json_is_enough_for_rope_scaling() -> None:
    config = checkpoint("llama3_h96") / "config.json"
    with open_vindex(vindex("llama3_h96"), config=config) as opened:
        assert largest(load(opened).logits(IDS), exact("llama3_h96")) < WITHIN


def test_what_was_lost_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above would notice: the same weights without scaling and biases are far off."""

    def zero(completion: Completion, place: TensorIdentity) -> StoredTensor:
        exact = tensor(completion, place)
        return StoredTensor(exact.key, exact.dtype, np.zeros_like(exact.array))

    tensor = Completion.tensor
    plain = json.loads((checkpoint("llama3_h96") / "config.json").read_text())
    del plain["rope_scaling"]
    config = tmp_path / "config.json"
    config.write_text(json.dumps(plain))
    with open_vindex(vindex("llama3_h96"), config=config) as opened:
        assert largest(load(opened).logits(IDS), exact("llama3_h96")) > 10 * WITHIN
    monkeypatch.setattr(Completion, "tensor", zero)
    with open_vindex(vindex("qwen2_h96"), config=checkpoint("qwen2_h96")) as opened:
        assert largest(load(opened).logits(IDS), exact("qwen2_h96")) > 10 * WITHIN


def test_a_config_json_cannot_give_biases() -> None:
    config = checkpoint("qwen2_h96") / "config.json"
    with pytest.raises(VindexIncomplete, match="15 tensors") as caught:
        open_vindex(vindex("qwen2_h96"), config=config)
    assert 'CONFIG "checkpoint"' in str(caught.value.hint)


def test_a_directory_with_config_json_alone_is_one(tmp_path: Path) -> None:
    shutil.copy(checkpoint("llama3_h96") / "config.json", tmp_path)
    with open_vindex(vindex("llama3_h96"), config=tmp_path) as opened:
        opened.require(ExtractLevel.INFERENCE, "INFER")


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Path]:
    """The checkpoint with one weight changed."""
    from safetensors.numpy import load_file, save_file

    directory = tmp_path / "other"
    shutil.copytree(checkpoint("qwen2_h96"), directory)
    tensors = load_file(directory / "model.safetensors")
    tensors["model.layers.0.input_layernorm.weight"][3] *= 1.01
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def test_another_checkpoint_is_refused(other: Path) -> None:
    with pytest.raises(VindexInvalid, match=r"layers\.0\.input_layernorm\.weight"):
        open_vindex(vindex("qwen2_h96"), config=other)


@pytest.mark.parametrize("wrong", ["llama_h96", "gemma3_h96"])
def test_another_model_is_refused(wrong: str) -> None:
    with pytest.raises((VindexInvalid, VindexIncomplete)):
        open_vindex(vindex("qwen2_h96"), config=checkpoint(wrong) / "config.json")


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        open_vindex(vindex("qwen2_h96"), config=tmp_path / "nothing")


def test_ours_need_no_config(tmp_path: Path) -> None:
    from vindex.extract import extract

    with open_checkpoint(checkpoint("llama_h96")) as source:
        extract(source, tmp_path / "ours.vindex")
    with pytest.raises(VindexInvalid, match="not written by larql"):
        open_vindex(tmp_path / "ours.vindex", config=checkpoint("llama_h96"))


def test_the_statement_and_the_session_take_it() -> None:
    where = {"path": vindex("qwen2_h96"), "from": checkpoint("qwen2_h96")}
    infer = 'INFER "The capital of France is" TOP 3;'
    with connect() as session:
        session.run("USE :path;", parameters={"path": where["path"]})
        with pytest.raises(LqlCapabilityError, match="biases"):
            session.run(infer)
        (used, found) = session.run(f"USE :path CONFIG :from; {infer}", parameters=where)
        assert any("15 tensors" in note for note in used.meta.notes)
    with connect(where["path"], config=where["from"]) as session:
        assert session.run(infer)[0].to_rows() == found.to_rows()
    with pytest.raises(LqlVindexError, match="15 tensors"):
        connect(where["path"], config=where["from"] / "config.json")
