"""The vindex: a language model's weights in a directory laid out for queries. NumPy, no torch.

The way in is ``vindex.store.open_vindex``; the way there is ``vindex.extract.extract``. Nothing is
imported here, so that a statement pays only for what it uses.
"""
