"""q4k vindexes of tiny checkpoints: a forward pass over what their blocks say.

The other side is the checkpoint with every matrix replaced by what the ``gguf`` package decodes
from the vindex's blocks: another decoder, another file, float matrices and their products.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from lql.inference.precision import ComputeDtype
from tests.parity.checkpoints import VOCABULARY, Row, Spelling
from tests.parity.laboratory import Form, Laboratory, largest, loaded, prompt_ids
from tests.parity.mixtures import is_ungated
from tests.parity.reference import Floats
from tests.parity.rows import ROWS
from vindex.checkpoint import Checkpoint, CheckpointSource, open_checkpoint
from vindex.kinds import Quant, StorageDtype
from vindex.quant import BlockFormat, q6_k
from vindex.source import QuantTensor, StoredTensor
from vindex.spec import QUANTISED, MoeSpec, Role
from vindex.store import Vindex

pytestmark = pytest.mark.usefixtures("one_thread")

Q4K = Form(Spelling.HUB, StorageDtype.F32, Quant.Q4K)
DECODED_WITHIN = 3e-4  # as for float vindexes: the same arithmetic on other weights
# The int4 kernel rounds activations, scales and results to bfloat16: relative to the spread of the
# logits, largest and root mean square. Measured over all rows: 0.52 and 0.04, without Gemma 4 0.085
# and 0.014; quantisation itself: 0.2 to 0.6 root mean square.
KERNEL_WITHIN = (0.8, 0.06)

rows = pytest.mark.parametrize("row", ROWS, ids=str)


class Dequantised(CheckpointSource):
    """A checkpoint with the values that a q4k vindex of it stores."""

    def __init__(self, checkpoint: Checkpoint, vindex: Vindex) -> None:
        super().__init__(checkpoint)
        self._vindex = vindex
        self.decoded: set[str] = set()

    def tensor(
        self, role: Role, layer: int | None = None, expert: int | None = None
    ) -> StoredTensor:
        exact = super().tensor(role, layer, expert)
        if exact.key not in self._vindex.quantised_keys:
            return exact
        self.decoded.add(exact.key)
        values = decoded_by_gguf(self._vindex.quantised(exact.key), exact.shape[1])
        assert values.shape == exact.shape
        return StoredTensor(exact.key, StorageDtype.F32, values)


def decoded_by_gguf(stored: QuantTensor, cols: int) -> Floats:
    """A matrix as the ``gguf`` package decodes it, without its padding."""
    matrix = stored.matrix
    if matrix.block_format is BlockFormat.Q6_K:
        blocks = q6_k.to_ggml(matrix.data.reshape(-1, 210)).reshape(matrix.rows, -1)
        values = dequantize(blocks, GGMLQuantizationType.Q6_K)
    else:
        values = dequantize(matrix.data, GGMLQuantizationType.Q4_K)
    return np.ascontiguousarray(values[:, :cols])


@contextmanager
def both(row: Row, laboratory: Laboratory) -> Iterator[tuple[Vindex, Dequantised]]:
    """A row's q4k vindex, and its checkpoint with the vindex's values."""
    with (
        laboratory.source(row, Q4K) as vindex,
        open_checkpoint(laboratory.written(row).directories[Spelling.HUB]) as checkpoint,
    ):
        assert isinstance(vindex, Vindex)
        yield vindex, Dequantised(checkpoint, vindex)


@rows
def test_logits_are_those_of_the_decoded_weights(row: Row, laboratory: Laboratory) -> None:
    """In float32: nothing is lost between the blocks and the product, whatever the sizes."""
    with both(row, laboratory) as (vindex, reference):
        expected = loaded(reference).logits(prompt_ids())
        gated = not is_ungated(vindex.spec.layers[0].ffn)
        model = loaded(vindex, dtype=ComputeDtype.F32)
        found = largest(model.logits(prompt_ids()), expected)
        print(f"{row}: {found:.1e}")
        in_blocks = {t.key for t in vindex.spec.tensors if t.role in QUANTISED}
    assert found <= DECODED_WITHIN
    roles = {key.rsplit(".", 2)[-2] for key in reference.decoded}
    assert len(roles) >= (6 if gated else 5), roles
    assert reference.decoded <= in_blocks


@rows
def test_the_kernels_rounding(row: Row, laboratory: Laboratory) -> None:
    """The int4 kernel against float32 on the same blocks."""
    with both(row, laboratory) as (vindex, reference):
        expected = loaded(reference).logits(prompt_ids())
        model = loaded(vindex)
        assert "int4" in model.compute or "decoded" in model.compute
        difference = (model.logits(prompt_ids()) - expected) / expected.std()
        routed = any(isinstance(layer.ffn, MoeSpec) for layer in vindex.spec.layers)
    if routed:
        # Rounding sends a token to other experts here and there, and moves those after it as well.
        first = np.sqrt(np.square(difference[:2]).mean(axis=1))
        assert first.min() <= KERNEL_WITHIN[1], first
        return
    worst, mean = np.abs(difference).max(), np.sqrt(np.square(difference).mean())
    print(f"{row}: {worst:.1e} {mean:.1e}")
    assert worst <= KERNEL_WITHIN[0]
    assert mean <= KERNEL_WITHIN[1]


PER_LAYER = tuple(row for row in ROWS if "hidden_size_per_layer_input" in str(row.config))


@pytest.mark.parametrize("row", PER_LAYER, ids=str)
@pytest.mark.parametrize(
    "form",
    [*(Form(Spelling.HUB, dtype) for dtype in StorageDtype), Q4K],
    ids=str,
)
def test_every_storage_path_of_per_layer_embeddings_infers(
    row: Row, form: Form, laboratory: Laboratory
) -> None:
    expected = laboratory.expected(row)
    with laboratory.source(row, form) as source:
        model = loaded(source)
        prediction = model.infer("The capital", top=VOCABULARY)
        found = model.logits(prompt_ids())
    assert sum(token.probability for token in prediction.rows) == pytest.approx(1, abs=1e-4)
    # As correlated with the exact answer as the weights are with the exact weights.
    correlation = np.corrcoef(found.ravel(), expected.logits.ravel())[0, 1]
    print(f"{row} {form}: {correlation:.4f}")
    assert correlation > (0.8 if form.quant is Quant.Q4K else 0.99)
