"""The Python API beyond texts: statements as methods, conditions as expressions, models in memory.

``lql.session.Session`` has the methods of ``statements``. They build the AST that a text would
parse to and run it on the same path, so nothing is spliced into a text and nothing is parsed.
"""
