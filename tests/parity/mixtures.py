"""FFNs changed on purpose, single ones and those of a mixture of experts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from vindex.spec import Activation, FfnSpec, MoeSpec


def other_activation(
    ffn: FfnSpec | MoeSpec, wrong: Callable[[Activation], Activation]
) -> FfnSpec | MoeSpec:
    """An FFN, or every one of a mixture, with another activation."""
    if isinstance(ffn, FfnSpec):
        return _activated(ffn, wrong)
    beside = ffn.beside
    return dataclasses.replace(
        ffn,
        expert=_activated(ffn.expert, wrong),
        shared=None if ffn.shared is None else _activated(ffn.shared, wrong),
        beside=(
            None
            if beside is None
            else dataclasses.replace(beside, ffn=_activated(beside.ffn, wrong))
        ),
    )


def _activated(ffn: FfnSpec, wrong: Callable[[Activation], Activation]) -> FfnSpec:
    return dataclasses.replace(ffn, activation=wrong(ffn.activation))


def is_ungated(ffn: FfnSpec | MoeSpec) -> bool:
    """Whether a layer's gate rows are for browsing only."""
    return isinstance(ffn, FfnSpec) and not ffn.gated
