"""The vindex: a language model's weights in a directory laid out for queries. NumPy, no torch."""
