"""Repl of the interpreter."""
