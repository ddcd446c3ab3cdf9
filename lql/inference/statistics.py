"""What the inner activations of FFNs look like on ordinary text: C = E[k kᵀ].

A key k is what a down matrix is multiplied with. An edit that is to leave other text alone must
know which directions other text uses. The text is the model's own: sampled with a fixed seed from
its beginning-of-text token on, so that nothing has to be downloaded; text of the user's can stand
in its place.

Shape legend: T tokens, D hidden, F features of a layer, V vocabulary, N streams sampled at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lql.cancel import CancelToken
from lql.inference.decoder import Decoder
from lql.inference.feedforward import FeedForward, dense, gates_and_activations
from lql.inference.linear import Coarse
from lql.inference.packed import PackedSequence
from lql.inference.tree import TokenTree

if TYPE_CHECKING:
    from lql.inference.model import LoadedModel

SEED = 20_240_229
STREAMS = 32
STREAM_TOKENS = 128
"""A text of 4,096 tokens: several keys for each feature of a small model, in seconds."""

_CHUNK = 256  # tokens of a user's text that are read at a time


class KeyRecorder:
    """A ``FeedForwardRule`` that evaluates as ``dense`` does and shows the keys of some layers.

    Args:
        layers: whose keys are shown.
        show: called with a layer and its keys, float32 [T, F], valid only during the call.
    """

    def __init__(self, layers: Collection[int], show: Callable[[int, Tensor], None]) -> None:
        self._layers = layers
        self._show = show

    def __call__(self, x: Tensor, layer: FeedForward, coarse: Coarse | None) -> Tensor:
        """See ``FeedForwardRule``."""
        if layer.layer not in self._layers:
            return dense(x, layer, coarse)
        _, keys = gates_and_activations(x, layer)
        self._show(layer.layer, keys)
        return layer.down(keys)


@torch.inference_mode()
def sample_text(
    decoder: Decoder,
    first: int,
    *,
    streams: int = STREAMS,
    tokens: int = STREAM_TOKENS,
    seed: int = SEED,
    cancel: CancelToken | None = None,
) -> list[list[int]]:
    """Texts of the model's own, sampled as it predicts, all at once.

    Args:
        first: the token that every text begins with; it is not part of what is returned.
        streams, tokens: how many texts, of how many tokens.
    """
    random = torch.Generator().manual_seed(seed)
    tree = TokenTree()
    leaves = [tree.join(first, -1) for _ in range(streams)]
    sequence = PackedSequence(decoder, streams * (tokens + 1), tree)
    texts: list[list[int]] = [[] for _ in range(streams)]
    for step in range(tokens):
        if cancel is not None:
            cancel.check(f"sampling text, token {step}/{tokens}")
        logits = decoder.logits(sequence.read(cancel=cancel)).cpu()  # [N, V]
        chosen = torch.multinomial(logits.softmax(-1), 1, generator=random)[:, 0].tolist()
        leaves = [tree.join(token, leaf) for token, leaf in zip(chosen, leaves, strict=True)]
        for text, token in zip(texts, chosen, strict=True):
            text.append(token)
    return texts


@torch.inference_mode()
def second_moments(
    decoder: Decoder,
    texts: Sequence[Sequence[int]],
    layers: Collection[int],
    *,
    skip: int = 1,
    cancel: CancelToken | None = None,
) -> Mapping[int, Tensor]:
    """The mean of k kᵀ over the tokens of texts, float32 [F, F] of each layer.

    Args:
        texts: token ids, the beginning-of-text token included.
        skip: first tokens of each text that do not count: there models keep their sinks, whose
            keys are thousands of times as long as those of words.
    """
    sums: dict[int, Tensor] = {}
    count = 0
    lengths: list[int] = []

    def add(layer: int, keys: Tensor) -> None:
        rows = keys.cpu()
        if layer not in sums:
            sums[layer] = torch.zeros(rows.shape[1], rows.shape[1])
        kept = rows[skip:]
        sums[layer].addmm_(kept.T, kept)

    recorder = KeyRecorder(layers, add)
    for number, text in enumerate(texts):
        for start in range(0, len(text), _CHUNK):
            chunk = list(text[start : start + _CHUNK])
            if len(chunk) <= skip:
                continue
            if cancel is not None:
                cancel.check(f"reading text {number}/{len(texts)}")
            sequence = PackedSequence(decoder, len(chunk))
            sequence.tree.add(chunk)
            sequence.read(feed_forward=recorder, cancel=cancel)
            count += len(chunk) - skip
            lengths.append(len(chunk))
    return {layer: total.div_(max(count, 1)) for layer, total in sums.items()}


def recipe() -> str:
    """What the model's own text is made by: statistics of another recipe are not these."""
    return hashlib.sha256(f"1 {SEED} {STREAMS} {STREAM_TOKENS}".encode()).hexdigest()


def own_text(model: LoadedModel, *, cancel: CancelToken | None = None) -> list[list[int]]:
    """Texts of the model's own, each with the token it begins with."""
    first = _first_token(model)
    texts = sample_text(model.decoder, first, cancel=cancel)
    return [[first, *text] for text in texts]


def moments_of(
    model: LoadedModel,
    texts: Sequence[Sequence[int]],
    layers: Collection[int],
    *,
    cancel: CancelToken | None = None,
) -> Mapping[int, npt.NDArray[np.float32]]:
    """See ``second_moments``."""
    found = second_moments(model.decoder, texts, layers, cancel=cancel)
    return {layer: values.numpy() for layer, values in found.items()}


def _first_token(model: LoadedModel) -> int:
    """What a text begins with: BOS where the model reads it, else what ends the text before."""
    begun = model.encoder.ids("")
    if begun:
        return begun[0]
    ends = sorted(model.encoder.stop_ids())
    return ends[0] if ends else 0
