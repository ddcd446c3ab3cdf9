"""Inference of the interpreter."""
