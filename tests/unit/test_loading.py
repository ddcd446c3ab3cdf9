"""Loading and asking: complete, checked, counted, cancellable, and torch stays as it was."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from lql.cancel import Cancelled, CancelToken
from lql.inference import ComputeDtype, PromptMode, load
from lql.inference.errors import WeightsInvalid, WeightsMissing
from tests.unit.tiny_models import GEMMA3_TINY, LLAMA_TINY, source, tame_arrays
from vindex.kinds import StorageDtype
from vindex.source import ModelSource, StoredTensor
from vindex.spec import ModelSpec, Role

PROMPT = "The capital of France is"


class Altered:
    """Another source with some tensors left out or replaced."""

    def __init__(
        self,
        inner: ModelSource,
        *,
        without: frozenset[Role] = frozenset(),
        replaced: Mapping[Role, StoredTensor] | None = None,
    ) -> None:
        self._inner = inner
        self._without = without
        self._replaced = replaced or {}
        self.name = "altered"
        self.spec: ModelSpec = inner.spec
        self.tokenizer_config = inner.tokenizer_config
        self.generation_config = inner.generation_config
        self.chat_template = inner.chat_template

    def has(self, role: Role, layer: int | None = None, expert: int | None = None) -> bool:
        return role not in self._without and self._inner.has(role, layer, expert)

    def tensor(
        self, role: Role, layer: int | None = None, expert: int | None = None
    ) -> StoredTensor:
        return self._replaced.get(role) or self._inner.tensor(role, layer, expert)

    def matrix(
        self, role: Role, layer: int | None = None, expert: int | None = None
    ) -> StoredTensor:
        return self.tensor(role, layer, expert)

    def tokenizer(self) -> Tokenizer:
        return self._inner.tokenizer()


def test_missing_tensors_are_listed_before_anything_is_loaded(tmp_path: Path) -> None:
    with source(tmp_path, LLAMA_TINY) as opened:
        with pytest.raises(WeightsMissing, match="lacks 3 tensors") as caught:
            load(Altered(opened, without=frozenset({Role.UP, Role.FINAL_NORM})))
        assert caught.value.details == (
            "layers.0.mlp.up_proj.weight",
            "layers.1.mlp.up_proj.weight",
            "norm.weight",
        )
        assert "extract" in (caught.value.hint or "")


@pytest.mark.parametrize("role", [Role.DOWN, Role.FFN_NORM, Role.EMBED, Role.HEAD])
def test_a_tensor_of_another_shape_is_refused(role: Role, tmp_path: Path) -> None:
    wrong = StoredTensor("x", StorageDtype.F32, np.ones((3, 5), np.float32))
    with (
        source(tmp_path, LLAMA_TINY) as opened,
        pytest.raises(WeightsInvalid, match=r"shape \[3, 5\], expected"),
    ):
        load(Altered(opened, replaced={role: wrong}))


def test_weights_that_are_not_finite_are_said(tmp_path: Path) -> None:
    arrays = tame_arrays(LLAMA_TINY)
    arrays["model.layers.1.mlp.down_proj.weight"][:] = np.nan
    with source(tmp_path, LLAMA_TINY, arrays) as opened:
        model = load(opened)
        with pytest.raises(WeightsInvalid, match="not finite"):
            model.infer(PROMPT)
        with pytest.raises(WeightsInvalid, match="not finite"):
            next(model.generate(PROMPT, max_tokens=1))


def test_loading_can_be_cancelled(tmp_path: Path) -> None:
    token = CancelToken()
    token.cancel()
    with source(tmp_path, LLAMA_TINY) as opened, pytest.raises(Cancelled, match="loading layer 0"):
        load(opened, cancel=token)


def test_one_copy_of_the_matrices_is_counted(tmp_path: Path) -> None:
    for dtype, size in ((ComputeDtype.F32, 4), (ComputeDtype.F16, 2)):
        with source(tmp_path, LLAMA_TINY) as opened:
            model = load(opened, dtype=dtype)
            matrices = [
                tensor
                for tensor in opened.spec.tensors
                if len(tensor.shape) == 2 and tensor.role is not Role.EMBED
            ]
            values = sum(int(np.prod(tensor.shape)) for tensor in matrices)
            assert model.resident_bytes == size * values
            assert dtype.value in model.compute
            assert model.load_seconds > 0


BIASED = {**LLAMA_TINY, "attention_bias": True, "mlp_bias": True}


@pytest.mark.parametrize(
    "config", [LLAMA_TINY, BIASED, GEMMA3_TINY], ids=["llama", "biased", "gemma3"]
)
@pytest.mark.parametrize("dtype", list(ComputeDtype))
def test_dense_and_walk_agree(config: dict[str, Any], dtype: ComputeDtype, tmp_path: Path) -> None:
    with source(tmp_path, config) as opened:
        both = load(opened, dtype=dtype).compare(PROMPT)
    within = 2e-3 if dtype is ComputeDtype.F16 else 1e-5
    assert both.logit_difference < within
    assert both.probability_difference < within
    assert [row.token_id for row in both.dense.rows] == [row.token_id for row in both.walk.rows]
    assert both.dense.encoded == both.walk.encoded


def test_walk_and_dense_differ_when_their_weights_do(tmp_path: Path) -> None:
    with source(tmp_path, LLAMA_TINY) as opened:
        other = opened.tensor(Role.UP, 1)
        altered = Altered(opened)
        model = load(altered)
        changed = StoredTensor(other.key, other.dtype, np.asarray(other.array) * 1.01)
        altered._replaced = {Role.UP: changed}
        assert model.compare(PROMPT).logit_difference > 1e-3


def test_rows_are_the_most_probable_tokens(tmp_path: Path) -> None:
    with source(tmp_path, LLAMA_TINY) as opened:
        model = load(opened)
        prediction = model.infer(PROMPT, top=7)
        logits = model.next_logits(prediction.encoded.ids).astype(np.float64)
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    best = np.argsort(-logits, kind="stable")[:7]
    assert [row.rank for row in prediction.rows] == list(range(1, 8))
    assert [row.token_id for row in prediction.rows] == best.tolist()
    np.testing.assert_allclose(
        [row.probability for row in prediction.rows], probabilities[best], 1e-4
    )
    np.testing.assert_allclose([row.logit for row in prediction.rows], logits[best], 1e-5)
    assert [row.token for row in prediction.rows] == [model.token_text(token) for token in best]


def test_equal_tokens_are_ranked_by_id(tmp_path: Path) -> None:
    arrays = tame_arrays(LLAMA_TINY)
    arrays["lm_head.weight"][:] = arrays["lm_head.weight"][17]
    with source(tmp_path, LLAMA_TINY, arrays) as opened:
        model = load(opened)
        assert [row.token_id for row in model.infer(PROMPT, top=3).rows] == [0, 1, 2]
        assert len(model.infer(PROMPT, top=10**6).rows) == LLAMA_TINY["vocab_size"]
        some = torch.zeros(LLAMA_TINY["vocab_size"])
        some[[350, 17, 200, 5]] = 2.0
        some[99] = 3.0
        assert [row.token_id for row in model._best(some, 4)] == [99, 5, 17, 200]


def test_explanations_show_what_the_layers_do(tmp_path: Path) -> None:
    with source(tmp_path, LLAMA_TINY) as opened:
        model = load(opened)
        found = model.explain(PROMPT, per_layer=4)
        ids = found.prediction.encoded.ids
        assert found.prediction.rows == model.infer(PROMPT).rows
        assert [layer.layer for layer in found.layers] == [0, 1]
        # The lens at the last layer is the prediction itself.
        last = found.layers[-1].lens
        assert last.token_id == found.prediction.rows[0].token_id
        assert last.probability == pytest.approx(found.prediction.rows[0].probability, abs=1e-6)

        # Layer 0 by the definition: attention's output is the layer's minus the FFN's.
        outputs = model.layer_outputs(ids)
        gate, up, down = (
            opened.tensor(role, 0).float32().astype(np.float64)
            for role in (Role.GATE, Role.UP, Role.DOWN)
        )
        for hit in found.layers[0].hits:
            silu = hit.gate / (1 + np.exp(-hit.gate))
            assert abs(hit.activation) <= abs(found.layers[0].hits[0].activation)
            assert abs(hit.activation / silu) < np.abs(up).sum()
        assert len({hit.feature for hit in found.layers[0].hits}) == 4
        assert gate.shape == up.shape == down.T.shape
        assert np.isfinite(outputs).all()


def test_all_features_of_an_explanation_rebuild_the_ffn(tmp_path: Path) -> None:
    with source(tmp_path, LLAMA_TINY) as opened:
        model = load(opened)
        found = model.explain(PROMPT, per_layer=10**6)
        down = opened.tensor(Role.DOWN, 0).float32()
        rebuilt = sum(hit.activation * down[:, hit.feature] for hit in found.layers[0].hits)
        taps = _taps(model, found.prediction.encoded.ids)
        np.testing.assert_allclose(rebuilt, taps["ffn"], atol=1e-5)
        gates = opened.tensor(Role.GATE, 0).float32() @ taps["ffn_input"]
        for hit in found.layers[0].hits:
            assert hit.gate == pytest.approx(gates[hit.feature], abs=1e-5)


@torch.inference_mode()
def _taps(model: Any, ids: tuple[int, ...]) -> dict[str, np.ndarray[Any, Any]]:
    from lql.inference.sequence import Sequence

    seen: dict[str, np.ndarray[Any, Any]] = {}

    def observe(tap: Any, layer: int, values: torch.Tensor) -> None:
        if layer == 0:
            seen[tap.value] = values[-1].clone().numpy()

    Sequence(model._decoder, len(ids)).read(ids, observe=observe)
    return seen


def test_the_same_question_has_the_same_answer(tmp_path: Path) -> None:
    with source(tmp_path, LLAMA_TINY) as opened:
        model = load(opened)
        first, second = model.infer(PROMPT), model.infer(PROMPT)
    assert first.rows == second.rows


def test_raw_is_the_default_mode(tmp_path: Path) -> None:
    with source(tmp_path, LLAMA_TINY) as opened:
        model = load(opened)
        assert not model.is_instruct
        assert model.encode("x").mode is PromptMode.RAW


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import lql.inference, sys; print({'torch', 'jinja2', 'tokenizers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_torchs_settings_stay_as_they_are() -> None:
    code = """
import torch, sys
def state():
    return (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(),
            torch.get_float32_matmul_precision(), torch.backends.quantized.engine,
            torch.backends.mkldnn.flags, torch.is_inference_mode_enabled())
before = state()
import lql.inference.model
assert state() == before
"""
    subprocess.run([sys.executable, "-c", code], check=True)
