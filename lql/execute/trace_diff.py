"""TRACE a DIFF b: two residual streams, and the first run with the second's at one layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lql import ast
from lql.context import Context
from lql.execute.changes import changes_of
from lql.execute.infer import note_prompt_mode
from lql.execute.slots import integer_or, layer, layer_range, text
from lql.inference.interventions import Patch
from lql.inference.traces import LensScore, Trace
from lql.results import Meta, Truncation
from lql.results.trace import DiffRow, RunTokenRow, TraceDiffResult

TOP = 5


def run(statement: ast.Trace, context: Context) -> TraceDiffResult:
    """Run TRACE … DIFF; the prompts are compared at their last positions."""
    assert statement.prompt is not None
    assert statement.diff is not None
    layers = layer_range(statement.layers, context.source().spec.num_layers)
    model = context.model(statement.title)
    mode = statement.prompt_mode or ast.PromptMode.RAW
    note_prompt_mode(model, mode, context)
    target = None if statement.answer is None else text(statement.answer)
    wanted = changes_of(statement, model).wanted
    prompts = text(statement.prompt), text(statement.diff)
    runs = {
        name: model.trace(
            prompt, target=target, mode=mode, interventions=wanted, top=TOP, cancel=context.cancel
        )
        for name, prompt in zip("ab", prompts, strict=True)
    }
    patch_layer = None
    if statement.patch_layer is not None:
        patch_layer = layer(statement.patch_layer, model.spec.num_layers)
        other = runs["b"].stream.residual[patch_layer + 1, -1:]
        runs["patched"] = model.trace(
            prompts[0],
            target=target,
            mode=mode,
            interventions=(*wanted, Patch(patch_layer, other, positions=(-1,))),
            top=TOP,
            cancel=context.cancel,
        )
    rows = _rows(runs["a"], runs["b"], runs.get("patched"))
    if statement.layers is not None:
        rows = [row for row in rows if row.layer in layers]
    shown = integer_or(statement.limit, len(rows))
    cut = Truncation(shown, len(rows), "LIMIT n") if shown < len(rows) else None
    return TraceDiffResult(
        meta=Meta(truncated=cut),
        a=prompts[0],
        b=prompts[1],
        target=target,
        patch_layer=patch_layer,
        layers=tuple(rows[:shown]),
        predictions=tuple(
            RunTokenRow(name, t.rank, t.token, t.token_id, t.probability, t.logit)
            for name, trace in runs.items()
            for t in trace.prediction
        ),
    )


def _rows(a: Trace, b: Trace, patched: Trace | None) -> list[DiffRow]:
    rows = []
    third: Sequence[LensScore | None] = [None] * len(a.lens) if patched is None else patched.lens
    for index, (one, other, changed) in enumerate(zip(a.lens, b.lens, third, strict=True)):
        x = a.stream.residual[index, -1].astype(np.float64)
        y = b.stream.residual[index, -1].astype(np.float64)
        distance = float(np.linalg.norm(x - y))
        length, product = float(np.linalg.norm(x)), float(np.linalg.norm(x) * np.linalg.norm(y))
        rows.append(
            DiffRow(
                layer=one.layer,
                distance=distance,
                relative=distance / max(length, 1e-30),
                cosine=float(x @ y) / max(product, 1e-30),
                lens_a=one.best.token,
                probability_a=one.best.probability,
                lens_b=other.best.token,
                probability_b=other.best.probability,
                lens_patched=None if changed is None else changed.best.token,
                probability_patched=None if changed is None else changed.best.probability,
                target_a=_target(one),
                target_b=_target(other),
                target_patched=_target(changed),
            )
        )
    return rows


def _target(score: LensScore | None) -> float | None:
    return None if score is None or score.target is None else score.target.probability
