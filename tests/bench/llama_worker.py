"""llama.cpp behind a pipe: requests and answers are lines of JSON.

Runs under the Python that has ``llama-cpp-python``, which need not be the one that has this
project; it imports nothing else but NumPy.

    {"op": "load", "path": P, "threads": N}
    {"op": "quantise", "source": P, "target": P}    to Q4_K_M
    {"op": "forward", "ids": [...]}
    {"op": "decode", "id": I, "count": N}           greedy, from one token
    {"op": "logits", "ids": [...], "target": P}     of the next token, to a .npy file
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any

import llama_cpp
import numpy as np


class Model:
    """One loaded model."""

    def __init__(self, path: str, threads: int) -> None:
        self._model = llama_cpp.Llama(
            path, n_ctx=1024, n_batch=512, n_threads=threads, n_threads_batch=threads, verbose=False
        )

    def logits(self, ids: list[int]) -> Any:
        """Of the token after ``ids``; valid until the next call."""
        self._model.reset()
        return self._append(ids)

    def decode(self, first: int, count: int) -> None:
        """Continue a token greedily."""
        logits = self.logits([first])
        for _ in range(count - 1):
            logits = self._append([int(logits.argmax())])

    def _append(self, ids: list[int]) -> Any:
        self._model.eval(ids)
        pointer = llama_cpp.llama_get_logits_ith(self._model.ctx, -1)
        return np.ctypeslib.as_array(pointer, shape=(self._model.n_vocab(),))


def quantise(source: str, target: str) -> None:
    """Write a model again as Q4_K_M."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    parameters.allow_requantize = True
    failed = llama_cpp.llama_model_quantize(
        source.encode(), target.encode(), ctypes.byref(parameters)
    )
    if failed:
        raise RuntimeError(f"llama_model_quantize returned {failed}")


def main() -> None:
    """Serve until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # llama.cpp prints to standard output
    model: Model | None = None
    for line in sys.stdin:
        request = json.loads(line)
        match request.pop("op"):
            case "load":
                model = Model(**request)
            case "quantise":
                quantise(**request)
            case "forward":
                assert model is not None
                model.logits(request["ids"])
            case "decode":
                assert model is not None
                model.decode(request["id"], request["count"])
            case "logits":
                assert model is not None
                np.save(request["target"], model.logits(request["ids"]))
        print("{}", file=answers, flush=True)


if __name__ == "__main__":
    main()
