"""The torch backend: runs a model from a ``ModelSource``, answers in plain values.

::

    model = load(open_vindex("smollm2.vindex"))
    model.infer("The capital of France is", top=5).rows[0].token    # ' Paris'

Read ``decoder.py`` for the forward pass, ``linear.py`` for what it multiplies with, ``model.py``
for what can be asked. Importing this package does not import torch; ``load`` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lql.inference.answers import (
    Comparison,
    Encoded,
    Explanation,
    FeatureActivation,
    GeneratedToken,
    LayerHits,
    Prediction,
    TokenScore,
)
from lql.inference.errors import InferenceError
from lql.inference.precision import ComputeDtype
from lql.inference.sampling import Sampling
from lql.syntax_words import Device, PromptMode

if TYPE_CHECKING:
    from lql.cancel import CancelToken
    from lql.inference.model import LoadedModel
    from vindex.source import ModelSource

__all__ = [
    "Comparison",
    "ComputeDtype",
    "Device",
    "Encoded",
    "Explanation",
    "FeatureActivation",
    "GeneratedToken",
    "InferenceError",
    "LayerHits",
    "Prediction",
    "PromptMode",
    "Sampling",
    "TokenScore",
    "load",
]


def load(
    source: ModelSource,
    *,
    dtype: ComputeDtype = ComputeDtype.AUTO,
    device: Device = Device.CPU,
    cancel: CancelToken | None = None,
) -> LoadedModel:
    """Make a model ready to run.

    Args:
        source: an opened vindex (level inference or all) or a checkpoint; stays open.
        dtype: how matrices are multiplied; the default follows what is stored.
        device: where; the weights are copied there once.
        cancel: checked between layers.

    Raises:
        WeightsMissing, WeightsInvalid: the source cannot be run.
        DeviceMissing, DeviceMemoryShort: the device is not there, or has too little room.
        vindex.errors.Unsupported: the model needs something that is not implemented.
        lql.cancel.Cancelled: between layers.
    """
    from lql.inference.model import LoadedModel  # imports torch: 0.8 s

    return LoadedModel(source, dtype=dtype, device=device, cancel=cancel)
