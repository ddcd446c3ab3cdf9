"""Tiny random checkpoints: the backend answers what transformers answers."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from lql.inference import Device
from lql.inference.decoder import Decoder
from lql.inference.placement import available
from lql.inference.sequence import Sequence as TokenSequence
from tests.parity.checkpoints import PROMPT_TOKENS, WINDOW, Row, Spelling
from tests.parity.gemma4 import SIDECAR
from tests.parity.laboratory import (
    EXACT_FORMS,
    LOGITS_WITHIN,
    Form,
    Laboratory,
    decoder,
    largest,
    loaded,
    prompt_ids,
)
from tests.parity.reference import Floats, Reference
from tests.parity.rows import ROWS
from vindex.kinds import StorageDtype

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS_WITHIN = 1e-3
GREEDY_TOKENS = 12

# Texts of few tokens, of more than the window, and of more than dynamic rope's 32 positions once
# continued; and one beyond those from the start.
GREEDY_PROMPTS = (
    "The",
    "one two three four five six seven eight",
    "The quick brown fox jumps over the lazy dog",
)

rows = pytest.mark.parametrize("row", ROWS, ids=str)
devices = pytest.mark.parametrize(
    "device", tuple(map(Device, available())), ids=lambda each: each.value
)
exact_forms = pytest.mark.parametrize("form", EXACT_FORMS, ids=str)


@rows
@exact_forms
@devices
def test_logits_and_layer_outputs(
    row: Row, form: Form, device: Device, laboratory: Laboratory
) -> None:
    expected = laboratory.expected(row)
    with laboratory.source(row, form) as source:
        model = loaded(source, device)
        logits = largest(model.logits(prompt_ids()), expected.logits)
        layers = largest(model.layer_outputs(prompt_ids()), expected.layer_outputs)
    print(f"{row} {form}: logits {logits:.1e}, layers {layers:.1e}")
    assert logits <= LOGITS_WITHIN
    assert layers <= LAYERS_WITHIN


@rows
@exact_forms
@devices
def test_greedy_generation(row: Row, form: Form, device: Device, laboratory: Laboratory) -> None:
    """Generation reads a cache; the reference computes every prefix anew."""
    expected = laboratory.expected(row)
    with laboratory.source(row, form) as source:
        model = loaded(source, device)
        for prompt in GREEDY_PROMPTS:
            generation = model.generate(prompt, max_tokens=GREEDY_TOKENS)
            found = tuple(token.token_id for token in generation)
            assert found == expected.greedy(generation.encoded.ids, GREEDY_TOKENS), prompt


def test_greedy_prompts_reach_what_they_are_for(laboratory: Laboratory) -> None:
    with laboratory.source(ROWS[0], EXACT_FORMS[0]) as source:
        few, some, many = (len(source.tokenizer().encode(text).ids) for text in GREEDY_PROMPTS)
    assert few < WINDOW < some
    assert some < 32 < some + GREEDY_TOKENS
    assert many > 32


@rows
@pytest.mark.parametrize("chunk", [1, 4, 7, PROMPT_TOKENS])
@devices
def test_prefill_in_chunks(row: Row, chunk: int, device: Device, laboratory: Laboratory) -> None:
    """Every position has the same logits, however many tokens are read at a time."""
    with laboratory.source(row, Form(Spelling.HUB, StorageDtype.F32)) as source:
        for found, expected in _chunks(decoder(source, device.value), chunk, row, laboratory):
            assert largest(found, expected) <= LOGITS_WITHIN


@torch.inference_mode()
def _chunks(
    model: Decoder, chunk: int, row: Row, laboratory: Laboratory
) -> Iterator[tuple[Floats, Floats]]:
    """Logits of each chunk, found and expected."""
    expected = laboratory.expected(row)
    ids = prompt_ids()
    sequence = TokenSequence(model, len(ids))
    for start in range(0, len(ids), chunk):
        stop = min(start + chunk, len(ids))
        found = model.logits(sequence.read(ids[start:stop], keep=stop - start)).cpu().numpy()
        whole = expected.reference.logits(ids[:stop]) if row.by_length else expected.logits
        yield found, whole[start:stop]


# What rounding the weights may move logits and layer outputs by. Measured maxima over all rows:
# 0.036 and 0.094 for f16, 0.28 and 0.95 for bf16; without Gemma 4, whose many terms with random
# weights amplify rounding most, 0.015 and 0.021, 0.085 and 0.15.
ROUNDED = {StorageDtype.F16: (0.06, 0.15), StorageDtype.BF16: (0.5, 1.5)}


@rows
@pytest.mark.parametrize("dtype", ROUNDED, ids=lambda dtype: dtype.value)
def test_rounded_vindexes(row: Row, dtype: StorageDtype, laboratory: Laboratory) -> None:
    """A 16-bit vindex answers what its rounded weights say, so nearly what the exact ones do."""
    expected = laboratory.expected(row)
    rounded = rounded_reference(laboratory.written(row).model, dtype)
    with laboratory.source(row, Form(Spelling.HUB, dtype)) as source:
        model = loaded(source)
        logits, layers = model.logits(prompt_ids()), model.layer_outputs(prompt_ids())
    print(
        f"{row} {dtype.value}: logits {largest(logits, expected.logits):.1e},"
        f" layers {largest(layers, expected.layer_outputs):.1e};"
        f" with rounded weights {largest(logits, rounded.logits(prompt_ids())):.1e},"
        f" {largest(layers, rounded.layer_outputs(prompt_ids())):.1e}"
    )
    if not row.has_experts:  # rounding sends some tokens to other experts, a step of any size
        assert largest(logits, expected.logits) <= ROUNDED[dtype][0]
        assert largest(layers, expected.layer_outputs) <= ROUNDED[dtype][1]
    assert largest(logits, rounded.logits(prompt_ids())) <= LOGITS_WITHIN
    assert largest(layers, rounded.layer_outputs(prompt_ids())) <= LAYERS_WITHIN


def rounded_reference(model: PreTrainedModel, dtype: StorageDtype) -> Reference:
    """The model with the weights that a vindex of this dtype holds.

    Biases stay exact, and the per-layer embeddings are f16 in all.
    """
    target = {StorageDtype.F16: torch.float16, StorageDtype.BF16: torch.bfloat16}[dtype]
    model = copy.deepcopy(model)
    scalars = (each for each in model.named_buffers() if each[0].endswith("layer_scalar"))
    with torch.no_grad():
        for name, values in (*model.named_parameters(), *scalars):
            if SIDECAR.search(name):
                values.copy_(values.half())
            elif not name.endswith(("bias", "sinks")):
                values.copy_(values.to(target))
    return Reference(model)


@rows
def test_transformers_reads_both_spellings_alike(row: Row, laboratory: Laboratory) -> None:
    """What the tests write as the hub's spelling means what they think it means."""
    written = laboratory.written(row)
    texts = {(path / "config.json").read_text() for path in written.directories.values()}
    assert len(texts) == 2
    for directory in written.directories.values():
        model = type(written.model).from_pretrained(
            directory, dtype=torch.float32, attn_implementation="eager"
        )
        found = Reference(model.eval()).logits(prompt_ids())
        assert np.array_equal(found, laboratory.expected(row).logits)
