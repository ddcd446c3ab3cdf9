"""What transformers computes, in float32, without a cache: the other side of every comparison."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import PreTrainedModel

Floats = npt.NDArray[np.float32]

_LAYER = re.compile(r"(^|\.)(layers|h)\.\d+$")


class Reference:
    """A transformers model, asked for plain values.

    Notation: T tokens, D hidden, V vocabulary, L layers.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    @torch.no_grad()
    def logits(self, ids: Sequence[int]) -> Floats:
        """Logits of every position, [T, V]."""
        # Dynamic rope remembers the longest sequence; a short one makes it forget.
        self._model(input_ids=torch.tensor([ids[:1]]), use_cache=False)
        return self._model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].numpy()

    def layer_outputs(self, ids: Sequence[int]) -> Floats:
        """The residual stream after every layer, [L, T, D]."""
        outputs: list[torch.Tensor] = []

        def keep(_module: nn.Module, _args: object, output: Any) -> None:
            hidden = output if isinstance(output, torch.Tensor) else output[0]  # [1, T, D]
            outputs.append(hidden[0].clone())

        hooks = [layer.register_forward_hook(keep) for layer in self._layers]
        try:
            self.logits(ids)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(outputs[len(self._layers) :]).numpy()  # the first run: one token

    def greedy(self, ids: tuple[int, ...], count: int) -> tuple[int, ...]:
        """The next ``count`` ids, each from the whole text before it."""
        text = ids
        for _ in range(count):
            text += (int(self.logits(text)[-1].argmax()),)
        return text[len(ids) :]

    @cached_property
    def _layers(self) -> list[nn.Module]:
        return [
            module
            for name, module in self._model.named_modules()
            if _LAYER.search(name) and "vision" not in name and "audio" not in name
        ]
