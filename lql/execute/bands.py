"""Bands in statements: from the words of the language to the layers of a vindex."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from lql import ast
from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlCapabilityError
from lql.results.show import BandRow
from lql.span import Span
from vindex.bands import Band

if TYPE_CHECKING:
    from vindex.store import Vindex


def band_name(vindex: Vindex, layer: int) -> str | None:
    """The band of a layer, or ``None`` for a model too small for bands."""
    band = None if vindex.bands is None else vindex.bands.band_of(layer)
    return None if band is None else band.value


def band_rows(vindex: Vindex) -> tuple[BandRow, ...]:
    """The bands with their layers and features; none for a model too small for them."""
    bands = vindex.bands
    if bands is None:
        return ()
    return tuple(
        BandRow(band.value, *bands.span(band), sum(map(vindex.num_features, bands.layers(band))))
        for band in Band
    )


def band_layers(vindex: Vindex, band: ast.Band | None, span: Span) -> range:
    """The layers of a band; all layers for ``ALL LAYERS`` and where no band was written.

    Raises:
        LqlCapabilityError: the model has no bands.
    """
    match band:
        case None | ast.Band.ALL:
            return range(vindex.index.num_layers)
        case ast.Band.SYNTAX:
            wanted = Band.SYNTAX
        case ast.Band.KNOWLEDGE:
            wanted = Band.KNOWLEDGE
        case ast.Band.OUTPUT:
            wanted = Band.OUTPUT
        case _:
            assert_never(band)
    if vindex.bands is None:
        raise LqlCapabilityError(
            Diagnostic(
                Code.UNSUPPORTED,
                f"a model of {vindex.index.num_layers} layers has no bands",
                span=span,
                helps=("leave the band out, or name layers: LAYERS a-b, AT LAYER n",),
            )
        )
    return vindex.bands.layers(wanted)
