"""What happened: the closed set of frozen types that statements return.

A result holds facts: never prose to parse, colour or tensors. Every type gives the same facts in
two shapes, ``to_rows`` (flat, one table; csv, tsv and jsonl print it) and ``to_dict`` (nested).
``form`` says which of the two ``--format json`` prints:

======  ================================================================  =========================
form    types                                                             ``--format json``
======  ================================================================  =========================
ROWS    Infer, Walk, ExplainWalk, Describe, Table, Verify, TraceHeads,    an array of row objects
        TraceFeatures
RECORD  InferComparison, ExplainInfer, Plan, Stats, Extract, Copy, Plot,  one object
        Info, Trace, TraceDiff
STATUS  Use, UseTrace, Set, DefineRelation, Assert                        nothing; a note on stderr
======  ================================================================  =========================

Names in ``columns`` are the keys of the row objects. They are stable; numbers are never rounded.

``base`` holds the vocabulary, repeated here. The types stand in one module per family: ``browse``
(WALK, DESCRIBE), ``table`` (SELECT, SHOW, COPY), ``show`` (STATS), ``forward`` (INFER),
``trace`` (TRACE), ``lifecycle`` (EXTRACT, USE, SET), ``scripts`` (ASSERT), ``plan`` (EXPLAIN) and
``commands`` (``lql verify``, ``lql --info``).
"""

from lql.results.base import (
    Column,
    Form,
    Kind,
    Meta,
    Property,
    Record,
    Result,
    Row,
    Truncation,
    Unit,
    Value,
)

__all__ = [
    "Column",
    "Form",
    "Kind",
    "Meta",
    "Property",
    "Record",
    "Result",
    "Row",
    "Truncation",
    "Unit",
    "Value",
]
