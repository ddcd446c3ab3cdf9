"""Writing facts into down matrices: search, keys and solution, put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lql.cancel import CancelToken
from lql.inference.closed_form import solve
from lql.inference.gradients import traced
from lql.inference.memit import DEFAULTS, Sentence, Settings, Wish, search
from lql.inference.model import LoadedModel
from lql.inference.packed import PackedSequence
from lql.inference.statistics import KeyRecorder
from lql.inference.tree import TokenTree

Floats = npt.NDArray[np.float32]

_AT_ONCE = 8
"""Facts that are searched for together: enough for full products, few enough for little memory."""


def default_layers(count: int) -> tuple[int, ...]:
    """The layers that facts are written into: four, from a sixth of the depth on.

    Measured on SmolLM2-135M (30 layers, 5-8); see ``tests/bench/edits.py``.
    """
    first = min(round(count / 6), max(count - 4, 0))
    return tuple(range(first, min(first + 4, count)))


class Writer:
    """Writes facts into some layers of a model.

    Attributes:
        probabilities: after ``write``, of each fact's target in the search: the least of its
            sentences.

    Args:
        model: as it is before.
        layers: ascending, each with one dense FFN.
    """

    def __init__(
        self, model: LoadedModel, layers: Sequence[int], settings: Settings = DEFAULTS
    ) -> None:
        self._model = model
        self._layers = tuple(layers)
        self._settings = settings
        self.probabilities: tuple[float, ...] = ()

    def sentence(self, text: str, entity: str) -> Sentence:
        """A prompt about an entity; its last mention is what the prompt is about."""
        end = text.rindex(entity) + len(entity)
        ids = self._model.encoder.ids(text)
        spans = self._model.encoder.tokenizer.encode(text, add_special_tokens=False).offsets
        after = sum(start >= end for start, stop in spans if stop > start)
        return Sentence(tuple(ids), len(ids) - after - 1)

    def wish(
        self, sentences: Sequence[Sentence], essence: Sentence, target: tuple[int, ...]
    ) -> Wish:
        """A fact to write."""
        return Wish(tuple(sentences), essence, target)

    def write(
        self,
        wishes: Sequence[Wish],
        guards: Sequence[Sentence],
        moments: Mapping[int, Tensor],
        *,
        cancel: CancelToken | None = None,
    ) -> list[list[tuple[int, Floats, Floats]]]:
        """What each fact adds to each layer's down matrix.

        Args:
            wishes: the facts, solved together.
            guards: sentences whose subjects' keys shall give what they gave.
            moments: C of each layer, float32 [F, F].

        Returns:
            Of each fact, for each layer: the layer, the left factor [F], the right one [D].

        Raises:
            PromptTooLong, Cancelled
        """
        decoder = traced(self._model.decoder)
        found = []
        for start in range(0, len(wishes), _AT_ONCE):
            if cancel is not None:
                cancel.check(f"fact {start + 1}/{len(wishes)}")
            some = wishes[start : start + _AT_ONCE]
            found.append(search(decoder, some, self._layers, self._settings, cancel))
        self.probabilities = tuple(each for part in found for each in part.probabilities)
        counts = [len(part.probabilities) for part in found]
        starts = np.cumsum([0, *counts[:-1]])
        owners = torch.cat([part.owners + int(at) for part, at in zip(found, starts, strict=True)])
        kept = self._keys(guards, cancel)
        pieces: list[list[tuple[int, Floats, Floats]]] = [[] for _ in wishes]
        for layer in self._layers:
            left = solve(
                torch.cat([part.keys[layer] for part in found]),
                owners,
                len(wishes),
                moments[layer],
                kept[layer],
                weight=self._settings.weight,
                guard=self._settings.guard,
            )
            right = torch.cat([part.vectors[layer] for part in found])
            for number, piece in enumerate(pieces):
                piece.append((layer, left[:, number].numpy(), right[number].numpy()))
        return pieces

    @torch.inference_mode()
    def _keys(
        self, sentences: Sequence[Sentence], cancel: CancelToken | None
    ) -> Mapping[int, Tensor]:
        """The keys at the subjects of sentences, float32 [P, F] of each layer."""
        tree = TokenTree()
        nodes = sorted({tree.add(each.ids[: each.subject + 1]) for each in sentences})
        keys: dict[int, Tensor] = {}
        if not nodes:
            widths = (self._model.spec.layers[each].ffn.width for each in self._layers)
            return {
                each: torch.zeros(0, width)
                for each, width in zip(self._layers, widths, strict=True)
            }

        def keep(layer: int, values: Tensor) -> None:
            keys[layer] = values[nodes].cpu()

        sequence = PackedSequence(self._model.decoder, len(tree), tree)
        sequence.read(feed_forward=KeyRecorder(self._layers, keep), cancel=cancel)
        return keys
