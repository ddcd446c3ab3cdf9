"""q4k vindexes beside llama.cpp and transformers: speed, fidelity and memory, in one run.

    python -m tests.bench.bench_quantised [--model smollm2|gemma3] [--rounds 9] [--llama PYTHON]

PYTHON is an interpreter that has ``llama-cpp-python`` (by default this one, if it does); without
it only transformers is compared. Subjects take turns. Ratios above 1 mean that we are faster.

Fidelity is the Kullback-Leibler divergence of next-token distributions from those of the f32 vindex
of the same weights, over 200 prompts; beside it what llama.cpp's Q4_K_M of them, or the plainest
rounding to the nearest code, would give.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lql.inference import load
from lql.inference.model import LoadedModel
from lql.inference.precision import ComputeDtype
from lql.inference.token_scorer import TorchScorer
from tests.bench.bench_inference import (
    DECODED,
    FIRST_WORD,
    PROMPT,
    load_theirs,
    our_decode,
    their_decode,
    their_forward,
    write_safetensors,
)
from tests.bench.timing import interleaved
from tests.models import GEMMA3, SMOLLM2, fetch, model_cache
from vindex.checkpoint import CheckpointSource, open_checkpoint
from vindex.extract import extract
from vindex.kinds import Quant, StorageDtype
from vindex.source import StoredTensor
from vindex.spec import QUANTISED, Role
from vindex.store import open_vindex

Floats = npt.NDArray[np.float32]

MODELS = {"smollm2": SMOLLM2, "gemma3": GEMMA3}
LENGTHS = (5, 64, 512)
MEMORY_LIMIT = 1.3  # of the file size

_TEMPLATES = (
    "The capital of {} is",
    "People in {} often eat",
    "The most famous person from {} was",
    "In the year 1900, {} was",
    "The weather in {} during winter is",
    "A short poem about {}:",
    "Q: What is {} known for? A:",
    "def population_of_{}():",
    "When I first travelled to {}, I",
    "The history of {} began with",
)
_PLACES = (
    *("France", "Japan", "Brazil", "Egypt", "Canada", "India", "Norway", "Kenya", "Peru", "Italy"),
    *("Vietnam", "Poland", "Mexico", "Ghana", "Iran", "Chile", "Greece", "Nepal", "Cuba", "Oman"),
)
PROMPTS = tuple(
    template.format(place) for template, place in itertools.product(_TEMPLATES, _PLACES)
)

_MEMORY = """
import sys
if sys.argv[1:]:
    from lql.__main__ import main
    try:
        main(sys.argv[1:])
    except SystemExit as stopped:
        assert not stopped.code, stopped.code
else:
    import torch
peak = open("/proc/self/status").read().split("VmHWM:")[1].split()[0]
print(peak, file=sys.stderr)
"""


class Llama:
    """llama.cpp in a process of its own; see ``llama_worker``."""

    def __init__(self, python: str) -> None:
        worker = Path(__file__).with_name("llama_worker.py")
        self._process = subprocess.Popen(
            [python, str(worker)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __call__(self, op: str, **request: Any) -> None:
        """Send a request and wait until it is done."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"op": op, **request}), file=self._process.stdin, flush=True)
        if not self._process.stdout.readline():
            raise RuntimeError(f"llama.cpp ended during {op!r}")

    def next_logits(self, ids: Sequence[int], scratch: Path) -> Floats:
        """Logits of the token after ``ids``."""
        target = scratch / "logits.npy"
        self("logits", ids=list(ids), target=str(target))
        found: Floats = np.load(target)
        return found


class RoundedToNearest(CheckpointSource):
    """Matrices in groups of 32 with scale and minimum from their extremes, as plain as can be."""

    def matrix(
        self, role: Role, layer: int | None = None, expert: int | None = None
    ) -> StoredTensor:
        """See ``ModelSource``."""
        stored = super().tensor(role, layer, expert)
        if role not in QUANTISED:
            return stored
        values = stored.float32().reshape(-1, 32)
        low = np.minimum(values.min(axis=1, keepdims=True), 0)
        step = (np.maximum(values.max(axis=1, keepdims=True), 0) - low) / 15
        codes = np.rint((values - low) / np.where(step > 0, step, 1))
        rounded = (codes * step + low).astype(np.float32).reshape(stored.shape)
        return StoredTensor(stored.key, StorageDtype.F32, rounded)


def main() -> None:
    """Run and print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="smollm2")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--llama", metavar="PYTHON", default=_own_llama())
    parser.add_argument("--skip", nargs="*", choices=("speed", "fidelity", "memory"), default=())
    options = parser.parse_args()
    gguf = fetch(MODELS[options.model], model_cache())
    llama = Llama(options.llama) if options.llama else None
    print(f"{gguf.name}; torch {torch.__version__}, {torch.get_num_threads()} threads")
    if llama is None:
        print("llama-cpp-python is not installed: transformers only")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        path = scratch / "q4k.vindex"
        with open_checkpoint(gguf) as checkpoint:
            report = extract(checkpoint, path, quant=Quant.Q4K, scorer=TorchScorer())
        encoding = next((p.seconds for p in report.phases if p.name == "encode"), 0.0)
        print(
            f"extracted in {report.seconds:.1f} s, {encoding:.1f} of them encoding;"
            f" {report.size_bytes / 1e6:.1f} MB\n"
        )
        if "memory" not in options.skip:
            _memory(path, report.size_bytes)
        if "fidelity" not in options.skip:
            _fidelity(gguf, path, llama, scratch)
        if "speed" not in options.skip:
            _speed(gguf, path, llama, scratch, options.rounds)


def _own_llama() -> str | None:
    return sys.executable if importlib.util.find_spec("llama_cpp") else None


def _memory(path: Path, size: int) -> None:
    def peak(*words: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", _MEMORY, *words], capture_output=True, text=True, check=True
        )
        return int(done.stderr.splitlines()[-1]) * 1024

    base = peak()
    taken = peak("-e", f'USE "{path}"; INFER "{PROMPT}";') - base
    print(
        f"peak memory of INFER above import torch ({base / 1e6:.0f} MB): {taken / 1e6:.1f} MB,"
        f" {taken / size:.2f} x file size (limit {MEMORY_LIMIT})\n"
    )


def _fidelity(gguf: Path, path: Path, llama: Llama | None, scratch: Path) -> None:
    with open_checkpoint(gguf) as checkpoint:
        exact = load(CheckpointSource(checkpoint))  # the weights of the f32 vindex, to the bit
        prompts = [exact.encode(prompt).ids for prompt in PROMPTS]
        expected = [exact.next_logits(ids) for ids in prompts]
        del exact
        with open_vindex(path) as vindex:
            for label, dtype in (
                ("q4k, as computed", ComputeDtype.AUTO),
                ("q4k, in float32", ComputeDtype.F32),
            ):
                model = load(vindex, dtype=dtype)
                _divergence(label, [model.next_logits(ids) for ids in prompts], expected)
        if llama is None:
            # Of a GGUF in groups of 32 (Q4_1) it finds the file's own codes again: nothing is lost.
            nearest = load(RoundedToNearest(checkpoint))
            _divergence("round to nearest", [nearest.next_logits(ids) for ids in prompts], expected)
    if llama is not None:
        for label, file in (
            ("llama.cpp, source", gguf),
            ("llama.cpp, Q4_K_M", scratch / "q4_k_m.gguf"),
        ):
            if file is not gguf:
                llama("quantise", source=str(gguf), target=str(file))
            llama("load", path=str(file), threads=torch.get_num_threads())
            found = [llama.next_logits(ids, scratch) for ids in prompts]
            _divergence(f"{label}, {file.stat().st_size / 1e6:.0f} MB", found, expected)
    print()


def _divergence(label: str, found: Sequence[Floats], expected: Sequence[Floats]) -> None:
    divergences, agreeing = [], 0
    for one, other in zip(found, expected, strict=True):
        q, p = (torch.from_numpy(logits).double().log_softmax(0) for logits in (one, other))
        divergences.append(float((p.exp() * (p - q)).sum()))
        agreeing += int(p.argmax() == q.argmax())
    print(
        f"KL to f32, {len(found)} prompts, {label:28} mean {np.mean(divergences):.4f},"
        f" median {np.median(divergences):.4f}, 95 % {np.quantile(divergences, 0.95):.4f},"
        f" same first token {agreeing / len(found):.0%}",
        flush=True,
    )


def _speed(gguf: Path, path: Path, llama: Llama | None, scratch: Path, rounds: int) -> None:
    write_safetensors(gguf, scratch / "dense")
    theirs = load_theirs(scratch / "dense", torch.bfloat16)
    if llama is not None:
        llama("load", path=str(gguf), threads=torch.get_num_threads())
    with open_vindex(path) as vindex:
        ours = load(vindex)
        print(f"{ours.compute}; {ours.resident_bytes / 1e6:.0f} MB in {ours.load_seconds:.2f} s")
        first = ours.encode(FIRST_WORD).ids
        subjects: dict[str, Callable[[], object]] = {
            "lql q4k": lambda: our_decode(ours),
            "transformers bf16": lambda: their_decode(theirs, first),
        }
        if llama is not None:
            request = {"id": first[0], "count": DECODED}
            subjects["llama.cpp"] = lambda: llama("decode", **request)
        _print(f"decode, {DECODED} tokens", subjects, DECODED, rounds)
        for length in LENGTHS:
            _prefill(length, ours, theirs, llama, rounds)


def _prefill(length: int, ours: LoadedModel, theirs: Any, llama: Llama | None, rounds: int) -> None:
    ids = tuple(np.random.default_rng(0).integers(0, 40000, length).tolist())
    subjects: dict[str, Callable[[], object]] = {
        "lql q4k": lambda: ours.next_logits(ids),
        "transformers bf16": lambda: their_forward(theirs, ids),
    }
    if llama is not None:
        subjects["llama.cpp"] = lambda: llama("forward", ids=list(ids))
    _print(f"prefill, {length} tokens", subjects, length, rounds)


def _print(
    title: str, subjects: Mapping[str, Callable[[], object]], tokens: int, rounds: int
) -> None:
    times = interleaved(subjects, rounds)
    own = times["lql q4k"]
    print(title)
    for name, each in times.items():
        print(
            f"  {name:18} {tokens / each.median:8.1f} tok/s (best {tokens / each.best:8.1f})"
            f"   lql q4k is {each.median / own.median:5.2f} x as fast"
            f" (best {each.best / own.best:5.2f} x)",
            flush=True,
        )


if __name__ == "__main__":
    main()
