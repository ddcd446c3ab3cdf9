"""Layouts of EXTRACT, USE, SET and DEFINE RELATION."""

from __future__ import annotations

from collections.abc import Sequence

from lql.render.blocks import Block, facts
from lql.render.text import duration, size, visible
from lql.render.view import lay_out, say_status
from lql.results.lifecycle import DefineRelationResult, ExtractResult, SetResult, UseResult
from lql.syntax_text import quote


@lay_out.register
def _(result: ExtractResult) -> Sequence[Block]:
    dropped = ", ".join(f"{count} by rule {rule}" for rule, count in result.dropped.items())
    pairs = [
        ("wrote", result.path),
        ("model", result.model),
        ("family", result.family),
        ("level", result.level),
        ("dtype", result.dtype if result.quant == "none" else f"{result.dtype}, {result.quant}"),
        ("layers", str(result.layers)),
        ("features", f"{result.features:,}"),
        ("size", size(result.size_bytes)),
        ("dropped tensors", dropped),
        ("time", ", ".join(f"{name} {duration(took)}" for name, took in result.seconds.items())),
    ]
    return (facts(pairs),)


@say_status.register
def _(result: UseResult) -> str:
    stored = f"{result.level}, {result.dtype}" if result.level else "not extracted"
    return (
        f"using {result.path}: {result.model} ({result.family}, {result.layers} layers, "
        f"{result.features:,} features, {stored})"
    )


@say_status.register
def _(result: DefineRelationResult) -> str:
    count = len(result.templates)
    templates = "1 template" if count == 1 else f"{count} templates"
    suits = "every kind of entity" if result.kind is None else f"kind {result.kind}"
    return f'DESCRIBE asks for "{visible(result.relation)}" of {suits} ({templates})'


@say_status.register
def _(result: SetResult) -> str:
    value = result.value
    if not result.variable:
        return f"{result.option} is {value}"
    return f":{result.option} is {quote(value) if isinstance(value, str) else value}"
