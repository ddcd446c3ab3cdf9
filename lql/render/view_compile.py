"""Layouts of what COMPILE and MERGE wrote."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from lql.render.blocks import Block, facts
from lql.render.text import duration, size
from lql.render.view import lay_out
from lql.results.compile import CompileModelResult, CompileVindexResult, MergeResult


@lay_out.register
def _(result: CompileModelResult) -> Sequence[Block]:
    files = [f"{name} {size(count)}" for name, count in result.files.items()]
    stored = [f"{count} in {encoding}" for encoding, count in result.encodings.items()]
    error = f"{result.rounding_relative:.3%}, at most {result.rounding:.3g}"
    pairs = [
        ("wrote", f"{result.path} ({result.format})"),
        ("from", result.source),
        ("files", ", ".join(files)),
        ("tensors", ", ".join(stored)),
        ("size", size(result.size_bytes)),
        ("rounding error", error if result.rounding else "none"),
        ("time", duration(result.seconds)),
    ]
    return (facts(pairs),)


@lay_out.register
def _(result: MergeResult) -> Sequence[Block]:
    taken = f"{result.facts:,} facts, {result.features:,} features"
    kept = f"{result.conflicts:,}, the target's kept in {result.kept:,} ({result.on_conflict})"
    pairs = [
        ("merged", f"{result.source} into {result.target}"),
        ("taken", taken),
        ("conflicts", kept),
        ("time", duration(result.seconds)),
    ]
    return (facts(pairs),)


@lay_out.register
def _(result: CompileVindexResult) -> Sequence[Block]:
    shared: dict[str, list[str]] = defaultdict(list)
    for name, how in result.shared.items():
        shared[how].append(name)
    pairs = [
        ("wrote", result.path),
        ("from", result.source),
        ("rewritten", ", ".join(result.rewritten)),
        *((how, ", ".join(names)) for how, names in sorted(shared.items())),
        ("left out", ", ".join(result.left_out)),
        ("stored facts", str(result.facts)),
        ("kept answers", f"about {result.probes} entities" if result.probes else ""),
        ("size", f"{size(result.size_bytes)}, {size(result.new_bytes)} of it new"),
    ]
    if result.edited_values:
        error = f"largest rounding error {result.rounding:.3g}"
        pairs.append(("edited values", f"{result.edited_values:,}, {error}"))
    if result.requantised_values:
        error = f"error {result.requantised_relative:.2%}, at most {result.requantised_error:.3g}"
        pairs.append(("requantised values", f"{result.requantised_values:,}, {error}"))
    return (facts([*pairs, ("time", duration(result.seconds))]),)
