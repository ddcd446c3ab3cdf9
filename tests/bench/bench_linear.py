"""Times of the kernels that ``lql.inference.linear`` chooses from, by number of tokens.

    python -m tests.bench.bench_linear

Multiplies by the matrices of all 30 layers of SmolLM2-135M (random values). What the columns say
justifies the choices and thresholds in ``linear.py`` and ``sequence.py``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from lql.inference.linear import Coarse, Linear, prepare
from lql.inference.precision import ComputeDtype
from lql.inference.rows import Part, Rows
from tests.bench.timing import interleaved
from vindex.kinds import StorageDtype
from vindex.source import StoredTensor

LAYERS = 30
SHAPES = ((960, 576), (576, 576), (3072, 576), (576, 1536))
TOKENS = (1, 2, 5, 16, 64, 160, 512)


def _stored(directory: Path, shape: tuple[int, int], index: int) -> StoredTensor:
    values = np.random.default_rng(index).standard_normal(shape, dtype=np.float32) * 0.02
    path = directory / f"{index}.bin"
    values.astype(np.float16).tofile(path)
    return StoredTensor("m", StorageDtype.F16, np.memmap(path, np.float16, "r", shape=shape))


@torch.inference_mode()
def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as pool:
        stored = [
            _stored(Path(scratch), shape, index) for index, shape in enumerate(SHAPES * LAYERS)
        ]
        rows = [Rows([Part(each)]) for each in stored]
        half = [prepare(each, None, ComputeDtype.F16, pool)() for each in rows]
        single = [prepare(each, None, ComputeDtype.F32, pool)() for each in rows]
        plain = {dtype: [each.single().to(dtype) for each in rows] for dtype in _PLAIN.values()}
        coarse = Coarse(max(each.elements for each in half))
        print(f"{half[0].kernel} | {single[0].kernel} | torch {torch.__version__}")
        print(f"{torch.get_num_threads()} threads; ms for all layers, the best of 7 rounds")
        for tokens in TOKENS:
            x = {columns: torch.randn(tokens, columns) for _, columns in SHAPES}
            subjects: dict[str, Callable[[], object]] = {
                "half": lambda x=x: _run(half, x, None),
                "single": lambda x=x: _run(single, x, None),
                "coarse": lambda x=x: _run(half, x, coarse),
            }
            for name, dtype in _PLAIN.items():
                subjects[name] = lambda x=x, dtype=dtype: _run_plain(plain[dtype], x)
            times = interleaved(subjects, 7)
            cells = "  ".join(f"{name} {each.best * 1e3:7.1f}" for name, each in times.items())
            print(f"{tokens:4} tokens  {cells}")


_PLAIN = {"F.linear f32": torch.float32, "F.linear bf16": torch.bfloat16}


def _run(matrices: list[Linear], x: dict[int, torch.Tensor], coarse: Coarse | None) -> None:
    for index, matrix in enumerate(matrices):
        matrix(x[SHAPES[index % len(SHAPES)][1]], coarse)


def _run_plain(matrices: list[torch.Tensor], x: dict[int, torch.Tensor]) -> None:
    for matrix in matrices:
        F.linear(x[matrix.shape[1]].to(matrix.dtype), matrix)


if __name__ == "__main__":
    main()
