"""Execute of the interpreter."""
