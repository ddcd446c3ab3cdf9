"""Mistakes in the order of Gemma 4's operations, which no wrong specification expresses."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from lql.inference import load
from lql.inference.decoder import Decoder
from lql.inference.norms import Norm
from lql.inference.sequence import Sequence as TokenSequence
from tests.parity.checkpoints import Row, Spelling
from tests.parity.laboratory import EXACT_FORMS, Form, Laboratory, decoder, largest, prompt_ids
from tests.parity.rows import ROWS
from tests.parity.test_parity import LOGITS_WITHIN
from vindex.checkpoint import CheckpointSource, open_checkpoint
from vindex.dtypes import to_float32
from vindex.families._tensors import FOUR_NORMS, decoder_tensors
from vindex.kinds import StorageDtype
from vindex.source import StoredTensor
from vindex.spec import ModelSpec, Role

pytestmark = pytest.mark.usefixtures("one_thread")

ROW = {row.name: row for row in ROWS}
FORM = Form(Spelling.HUB)


class StalePerLayer(Decoder):
    """Keeps the per-layer vectors of the first call, as larql's cached decode once did."""

    _first: Tensor | None = None

    def _per_layer_inputs(self, ids: Sequence[int], h: Tensor) -> Tensor | None:
        if self._first is None:
            self._first = super()._per_layer_inputs(ids, h)
        assert self._first is not None
        return self._first[-1:].expand(len(ids), -1, -1)


@torch.inference_mode()
def test_stale_per_layer_embeddings_show_in_the_second_call(laboratory: Laboratory) -> None:
    """The first token is right and everything after it is not."""
    row = ROW["gemma4-e2b"]
    expected = laboratory.expected(row).logits
    with laboratory.source(row, FORM) as source:
        right = decoder(source)
        broken = StalePerLayer(right.spec, right._weights)
        ids = prompt_ids()
        sequence = TokenSequence(broken, len(ids))
        first = broken.logits(sequence.read(ids[:1])).numpy()
        second = broken.logits(sequence.read(ids[1:2])).numpy()
    assert largest(first, expected[:1]) <= LOGITS_WITHIN
    assert largest(second, expected[1:2]) > 100 * LOGITS_WITHIN


def test_values_taken_after_the_keys_norm_show(laboratory: Laboratory) -> None:
    row = ROW["gemma4-keys-are-values"]
    with laboratory.source(row, FORM) as source:
        model = load(source)
        layers = []
        for layer in model._decoder._weights.layers:
            attention = layer.attention
            if attention.value_lanes is not None:
                assert attention.v_norm is not None
                weight = torch.from_numpy(source.tensor(Role.K_NORM, layer.index).float32().copy())
                norm = Norm(attention.v_norm.factor * weight, attention.v_norm.floor)
                attention = dataclasses.replace(attention, v_norm=norm)
            layers.append(dataclasses.replace(layer, attention=attention))
        weights = dataclasses.replace(model._decoder._weights, layers=tuple(layers))
        model._decoder = Decoder(model.spec, weights)
        found = model.logits(prompt_ids())
    assert largest(found, laboratory.expected(row).logits) > 100 * LOGITS_WITHIN


class OwnKeys(CheckpointSource):
    """Sharing layers use the left-over k and v of the file."""

    def __init__(self, row: Row, laboratory: Laboratory) -> None:
        self._file = open_checkpoint(laboratory.written(row).directories[Spelling.HUB])
        super().__init__(self._file)
        self.spec = _without_sharing(self.spec)
        self._shared = {tensor.key for tensor in self.spec.tensors} - {
            tensor.key for tensor in self.ledger.used
        }

    def has(self, role: Role, layer: int | None = None, expert: int | None = None) -> bool:
        return role is not Role.HEAD

    def tensor(
        self, role: Role, layer: int | None = None, expert: int | None = None
    ) -> StoredTensor:
        wanted = next(t for t in self.spec.tensors if t.identity == (role, layer, expert))
        if wanted.key not in self._shared:
            return super().tensor(role, layer, expert)
        (name,) = [name for name in self._file.names() if name.endswith(f".{wanted.key}")]
        values = to_float32(self._file.read(name, StorageDtype.F32), StorageDtype.F32)
        return StoredTensor(wanted.key, StorageDtype.F32, values)


def _without_sharing(spec: ModelSpec) -> ModelSpec:
    layers = tuple(
        dataclasses.replace(
            layer,
            attention=dataclasses.replace(
                layer.attention, kv_source=None, v_norm=spec.layers[0].attention.v_norm
            ),
        )
        for layer in spec.layers
    )
    tensors = decoder_tensors(
        layers,
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        tied=spec.tied,
        naming=FOUR_NORMS,
        ple=spec.ple,
    )
    return dataclasses.replace(spec, layers=layers, tensors=tensors)


def test_left_over_keys_are_there_and_would_show(laboratory: Laboratory) -> None:
    row = ROW["gemma4-e4b-multimodal"]
    with OwnKeys(row, laboratory) as source:
        dropped = [drop for drop in source.ledger.dropped if drop.rule.startswith("kv-shared")]
        assert len(dropped) == 3 * 4  # k, v and k_norm of four layers
        found = load(source).logits(prompt_ids())
    assert largest(found, laboratory.expected(row).logits) > 100 * LOGITS_WITHIN


@pytest.mark.parametrize("form", EXACT_FORMS, ids=str)
def test_sharing_layers_cache_nothing(form: Form, laboratory: Laboratory) -> None:
    with laboratory.source(ROW["gemma4-e2b"], form) as source:
        sequence = TokenSequence(decoder(source), 10)
        layers = sequence._cache.layers
    assert [layers.index(layer) for layer in layers] == [0, 1, 2, 3, 4, 3, 3, 4, 3, 4]
    assert [layer._slots.shape[-1] for layer in layers[:5]] == [16, 16, 32, 16, 32]
