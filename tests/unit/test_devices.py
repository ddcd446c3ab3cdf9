"""Devices: matrices as a GPU multiplies them, everything in one place, and clear refusals.

Products of ``DeviceLinear`` are computed on the processor here, so that they are tested without a
GPU too. The meta device computes nothing but refuses to mix its tensors with others: what runs on
it keeps all tensors where the weights are.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lql.inference import ComputeDtype, Device, load, weights
from lql.inference.decoder import Decoder
from lql.inference.device_linear import DeviceLinear
from lql.inference.errors import DeviceMemoryShort, DeviceMissing
from lql.inference.explain import LastPosition
from lql.inference.feedforward import FeatureWalk
from lql.inference.placement import CPU, available, bytes_needed, place
from lql.inference.rows import Part, Rows
from lql.inference.sequence import Sequence
from lql.inference.weights import load_weights
from tests.unit.tiny_models import GEMMA3_TINY, LLAMA_TINY, VOCABULARY, source, tame_arrays
from vindex.checkpoint import CheckpointSource
from vindex.dtypes import from_float32
from vindex.kinds import StorageDtype
from vindex.source import StoredTensor

IDS = np.random.default_rng(9).integers(0, VOCABULARY, 40).tolist()
devices = pytest.mark.parametrize("device", available())


def stored(values: np.ndarray[Any, Any], dtype: StorageDtype) -> StoredTensor:
    return StoredTensor("w", dtype, from_float32(values.astype(np.float32), dtype))


def product(
    values: np.ndarray[Any, Any], dtype: StorageDtype, device: str, asked: ComputeDtype
) -> DeviceLinear:
    rows = Rows([Part(stored(part, dtype)) for part in np.array_split(values, 2)])
    bias = torch.arange(len(values), dtype=torch.float32)
    return DeviceLinear(rows, bias, asked, torch.device(device))


@devices
@pytest.mark.parametrize(
    ("dtype", "asked", "kernel", "within"),
    [
        (StorageDtype.F32, ComputeDtype.F32, "float32", 1e-5),
        (StorageDtype.F16, ComputeDtype.F16, "float16", 4e-3),
        (StorageDtype.BF16, ComputeDtype.F16, "bfloat16", 3e-2),
        (StorageDtype.F32, ComputeDtype.F16, "float16", 4e-3),
        (StorageDtype.BF16, ComputeDtype.F32, "float32", 1e-5),
    ],
)
def test_a_product_is_that_of_the_stored_weights(
    dtype: StorageDtype, asked: ComputeDtype, kernel: str, within: float, device: str
) -> None:
    random = np.random.default_rng(1)
    values = random.standard_normal((10, 64)) / 8
    linear = product(values, dtype, device, asked)
    assert linear.kernel.startswith(f"{kernel} on {device}")
    x = torch.from_numpy(random.standard_normal((3, 64)).astype(np.float32)).to(device)
    expected = x.double().cpu() @ torch.from_numpy(stored(values, dtype).float32()).double().T
    found = linear(x).cpu() - torch.arange(10)
    assert found.dtype is torch.float32
    assert float((found - expected).abs().max()) < within
    assert linear.resident_bytes == 10 * 64 * (4 if kernel == "float32" else 2)


@devices
def test_activations_beyond_half_precision_do_not_overflow(device: str) -> None:
    values = np.eye(8, 64)
    linear = product(values, StorageDtype.F16, device, ComputeDtype.F16)
    x = torch.full((2, 64), 3e6, device=device)
    x[1] = 0
    found = linear(x).cpu() - torch.arange(8)
    torch.testing.assert_close(found[0], torch.full((8,), 3e6), rtol=1e-3, atol=0)
    assert torch.equal(found[1], torch.zeros(8))


@devices
def test_weights_beyond_half_precision_take_another_dtype(device: str) -> None:
    values = np.full((4, 8), 1e6)
    linear = product(values, StorageDtype.F32, device, ComputeDtype.F16)
    assert linear.kernel.startswith("bfloat16")
    assert torch.isfinite(linear(torch.ones(1, 8, device=device))).all()


@pytest.fixture
def device_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models on the processor multiply as they would on a GPU."""

    def prepare(rows: Rows, bias: Any, dtype: ComputeDtype, pool: Executor) -> Any:
        return pool.submit(DeviceLinear, rows, bias, dtype, CPU).result

    monkeypatch.setattr(weights, "prepare", prepare)


@pytest.mark.parametrize("config", [LLAMA_TINY, GEMMA3_TINY], ids=["llama", "gemma3"])
@pytest.mark.parametrize(("dtype", "within"), [(np.float32, 1e-4), (np.float16, 3e-2)])
def test_a_model_answers_as_with_the_processors_kernels(
    config: dict[str, Any],
    dtype: type[np.floating[Any]],
    within: float,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    with source(tmp_path, config, tame_arrays(config, dtype)) as opened:
        expected = load(opened).logits(tuple(IDS))
        request.getfixturevalue("device_kernels")
        model = load(opened)
        assert "on cpu" in model.compute
        difference = float(np.abs(model.logits(tuple(IDS)) - expected).max())
        print(f"{dtype.__name__}: {difference:.2g} of {np.abs(expected).max():.2g}")
        assert difference < within


# --------------------------------------------------------------------------- one place


@pytest.fixture(params=[LLAMA_TINY, GEMMA3_TINY], ids=["llama", "gemma3"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CheckpointSource]:
    with source(tmp_path, request.param) as checkpoint:
        yield checkpoint


@torch.inference_mode()
def test_every_tensor_is_where_the_weights_are(opened: CheckpointSource) -> None:
    meta = torch.device("meta")
    model = Decoder(opened.spec, load_weights(opened, ComputeDtype.F32, None, meta), meta)
    sequence = Sequence(model, 60)
    observer = LastPosition()
    for part in (IDS[:20], IDS[20:21], IDS[21:]):
        assert model.logits(sequence.read(part, observe=observer)).device == meta
    sequence.reserve(100)
    sequence.go_back_to(IDS[:39])
    assert sequence.read([1, 2], feed_forward=FeatureWalk(opened)).device == meta
    assert observer.lens_logits(model).shape[-1] == VOCABULARY


@devices
def test_a_device_answers_as_the_processor_does(device: str, opened: CheckpointSource) -> None:
    expected = load(opened)
    model = load(opened, device=Device(device))
    assert model.device == device
    assert model.compute.startswith(f"{device}: ")
    ids = tuple(IDS)
    assert np.abs(model.logits(ids) - expected.logits(ids)).max() < 1e-4
    assert np.abs(model.layer_outputs(ids) - expected.layer_outputs(ids)).max() < 1e-4
    both = model.compare("The capital", top=3)
    assert both.logit_difference < 1e-3
    assert [row.token for row in model.explain("The capital").prediction.rows] == [
        row.token for row in expected.infer("The capital").rows
    ]
    found, wanted = (
        [token.token_id for token in each.generate("The", max_tokens=9)]
        for each in (model, expected)
    )
    assert found == wanted


# --------------------------------------------------------------------------- refusals


def pretend_cuda(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 10**12))


def test_a_torch_without_cuda_is_said(
    opened: CheckpointSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceMissing, match="built without CUDA") as caught:
        load(opened, device=Device.CUDA)
    assert caught.value.code == "INF10"
    assert load(opened, device=Device.AUTO).device == "cpu"


def test_a_missing_gpu_is_said(opened: CheckpointSource, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cuda(monkeypatch, 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceMissing, match="finds no CUDA device"):
        load(opened, device=Device.CUDA)


def test_too_little_memory_is_said_in_bytes(
    opened: CheckpointSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = bytes_needed(opened, ComputeDtype.AUTO)
    pretend_cuda(monkeypatch, needed - 1)
    with pytest.raises(DeviceMemoryShort, match=f"takes {needed:,} bytes on CUDA") as caught:
        load(opened, device=Device.CUDA)
    assert (caught.value.needed, caught.value.free) == (needed, needed - 1)
    assert "--device cpu" in str(caught.value.hint)
    assert load(opened, device=Device.AUTO).device == "cpu"
    pretend_cuda(monkeypatch, needed)
    assert place(Device.AUTO, needed) == place(Device.CUDA, needed) == torch.device("cuda")


def test_the_bytes_needed_are_those_of_the_weights(opened: CheckpointSource) -> None:
    needed = bytes_needed(opened, ComputeDtype.F32)
    meta = torch.device("meta")
    decoder = Decoder(opened.spec, load_weights(opened, ComputeDtype.F32, None, meta), meta)
    held = sum(matrix.resident_bytes for matrix in (*decoder._matrices, decoder._weights.head))
    vectors = sum(
        4 * int(np.prod(tensor.shape)) for tensor in opened.spec.tensors if len(tensor.shape) == 1
    )
    assert needed == held + vectors
    assert bytes_needed(opened, ComputeDtype.F16) == needed // 2


def test_memory_that_runs_out_while_computing(
    opened: CheckpointSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(opened)
    pretend_cuda(monkeypatch, 77)

    def fail(*_: Any, **__: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    generation = model.generate("The", max_tokens=3)
    first = next(generation)
    with monkeypatch.context() as patched:
        patched.setattr(model._decoder, "forward", fail)
        with pytest.raises(DeviceMemoryShort, match="77 bytes free"):
            next(generation)
    assert first.token_id >= 0
