"""Block codecs: how quantised matrices lie on disk, and how to read and write them.

One module per format, its byte layout in the docstring; ``formats.BlockFormat`` is the registry
and ``matrix.QuantMatrix`` the view over a file map. NumPy only.
"""

from vindex.quant.formats import BlockFormat
from vindex.quant.matrix import QuantMatrix, encode_rows, pad_columns
from vindex.quant.q4_k import AffineGroups

__all__ = ["AffineGroups", "BlockFormat", "QuantMatrix", "encode_rows", "pad_columns"]
