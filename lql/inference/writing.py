"""Writing facts into down matrices: search, keys and solution, put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lql.cancel import CancelToken
from lql.inference.causal import Asked
from lql.inference.closed_form import solve
from lql.inference.gradients import traced
from lql.inference.memit import DEFAULTS, Found, Sentence, Settings, Wish, search
from lql.inference.model import LoadedModel
from lql.inference.packed import PackedSequence
from lql.inference.statistics import KeyRecorder
from lql.inference.tree import TokenTree

Floats = npt.NDArray[np.float32]

_READ_AT_ONCE = 64
"""Guarding sentences that are read in one pass."""


def default_layers(count: int) -> tuple[int, ...]:
    """The layers that facts are written into: four, from a sixth of the depth on.

    Measured on SmolLM2-135M (30 layers, 5-8); see ``tests/bench/edits.py``.
    """
    last = max(count - 1, 1)  # nobody reads what the last layer says at the subject
    first = min(round(count / 6), max(last - 4, 0))
    return tuple(range(first, min(first + 4, last)))


class _Enough(Exception):
    """Ends a pass behind the last layer that is written into."""


class Writer:
    """Writes facts into some layers of a model.

    Attributes:
        model, layers: see the arguments.

    Args:
        model: as it is before.
        layers: ascending, each with one dense FFN.
    """

    def __init__(
        self, model: LoadedModel, layers: Sequence[int], settings: Settings = DEFAULTS
    ) -> None:
        self.model = model
        self.layers = tuple(layers)
        self._settings = settings
        self._traced = traced(model.decoder)

    def sentence(self, text: str, entity: str) -> Sentence:
        """A prompt about an entity; its last mention is what the prompt is about."""
        asked = self.asked(text, entity)
        return Sentence(asked.ids, asked.last)

    def asked(self, text: str, entity: str) -> Asked:
        """The same with the whole of the entity's place."""
        begin = text.rindex(entity)
        end = begin + len(entity)
        ids = self.model.encoder.ids(text)
        spans = self.model.encoder.tokenizer.encode(text, add_special_tokens=False).offsets
        within = sum(stop > begin for start, stop in spans if stop > start)
        after = sum(start >= end for start, stop in spans if stop > start)
        return Asked(tuple(ids), len(ids) - within, len(ids) - after - 1)

    def find(self, wish: Wish, cancel: CancelToken | None = None) -> Found:
        """What a fact needs, whatever is written beside it.

        Raises:
            Cancelled: between layers of a pass.
        """
        return search(self._traced, [wish], self.layers, self._settings, cancel)

    def write(
        self,
        found: Sequence[Found],
        guards: Sequence[Sentence],
        moments: Mapping[int, Floats],
        *,
        cancel: CancelToken | None = None,
    ) -> list[list[tuple[int, Floats, Floats]]]:
        """What each fact adds to each layer's down matrix, solved together.

        Args:
            found: what each fact needs.
            guards: sentences whose keys, the first token's aside, shall give what they gave.
            moments: C of each layer, float32 [F, F].

        Returns:
            Of each fact, for each layer: the layer, the left factor [F], the right one [D].

        Raises:
            PromptTooLong, Cancelled
        """
        owners = torch.cat([each.owners + number for number, each in enumerate(found)])
        kept = self._keys(guards, cancel)
        pieces: list[list[tuple[int, Floats, Floats]]] = [[] for _ in found]
        for layer in self.layers:
            left = solve(
                torch.cat([each.keys[layer] for each in found]),
                owners,
                len(found),
                torch.from_numpy(moments[layer]),
                kept[layer],
                weight=self._settings.weight,
                guard=self._settings.guard,
                threshold=self._settings.threshold,
            )
            for number, (piece, each) in enumerate(zip(pieces, found, strict=True)):
                piece.append((layer, left[:, number].numpy(), each.vectors[layer][0].numpy()))
        return pieces

    @torch.inference_mode()
    def _keys(
        self, sentences: Sequence[Sentence], cancel: CancelToken | None
    ) -> Mapping[int, Tensor]:
        """The keys of sentences but those of first tokens, float32 [P, F] of each layer."""
        widths = {each: self.model.spec.layers[each].ffn.width for each in self.layers}
        keys = {layer: [torch.zeros(0, width)] for layer, width in widths.items()}
        for start in range(0, len(sentences), _READ_AT_ONCE):
            tree = TokenTree()
            for sentence in sentences[start : start + _READ_AT_ONCE]:
                tree.add(sentence.ids)
            nodes = [node for node in range(len(tree)) if tree.depth(node)]

            def keep(layer: int, values: Tensor, nodes: list[int] = nodes) -> None:
                keys[layer].append(values[nodes].cpu())
                if layer == self.layers[-1]:
                    raise _Enough

            sequence = PackedSequence(self.model.decoder, len(tree), tree)
            with suppress(_Enough):
                sequence.read(feed_forward=KeyRecorder(self.layers, keep), cancel=cancel)
        return {layer: torch.cat(parts) for layer, parts in keys.items()}
