"""What happened: the closed set of frozen types that statements return.

A result holds facts: never prose to parse, colour or tensors. Every type gives the same facts in
two shapes, ``to_rows`` (flat, one table; csv, tsv and jsonl print it) and ``to_dict`` (nested).
``form`` says which of the two ``--format json`` prints:

======  ================================================================  =========================
form    types                                                             ``--format json``
======  ================================================================  =========================
ROWS    Infer, Walk, ExplainWalk, Describe, Layers, Features, Models,     an array of row objects
        Verify
RECORD  InferComparison, ExplainInfer, Stats, Extract, Info               one object
STATUS  Use                                                               nothing; a note on stderr
======  ================================================================  =========================

Names in ``columns`` are the keys of the row objects. They are stable; numbers are never rounded.
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
from lql.results.browse import (
    BandRow,
    DescribeResult,
    EdgeRow,
    ExplainWalkResult,
    FeatureInfoRow,
    FeatureRow,
    FeaturesResult,
    LayerRow,
    LayersResult,
    ModelRow,
    ModelsResult,
    StatsResult,
    WalkResult,
)
from lql.results.forward import (
    ActivationRow,
    ExplainInferResult,
    ExplainInferRow,
    InferComparison,
    InferResult,
    LayerExplanation,
    PathTokenRow,
    PromptToken,
    TokenRow,
)
from lql.results.lifecycle import (
    ExtractResult,
    FileRow,
    InfoResult,
    UseResult,
    VerifyResult,
)

__all__ = [
    "ActivationRow",
    "BandRow",
    "Column",
    "DescribeResult",
    "EdgeRow",
    "ExplainInferResult",
    "ExplainInferRow",
    "ExplainWalkResult",
    "ExtractResult",
    "FeatureInfoRow",
    "FeatureRow",
    "FeaturesResult",
    "FileRow",
    "Form",
    "InferComparison",
    "InferResult",
    "InfoResult",
    "Kind",
    "LayerExplanation",
    "LayerRow",
    "LayersResult",
    "Meta",
    "ModelRow",
    "ModelsResult",
    "PathTokenRow",
    "PromptToken",
    "Property",
    "Record",
    "Result",
    "Row",
    "StatsResult",
    "TokenRow",
    "Truncation",
    "Unit",
    "UseResult",
    "Value",
    "VerifyResult",
    "WalkResult",
]
