"""Render of the interpreter."""
