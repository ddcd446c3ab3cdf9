"""``config.json`` of a checkpoint made from a vindex: the original's, true of what is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vindex import files
from vindex.completion import CompletedVindex
from vindex.errors import Unsupported
from vindex.families import spec_from_config
from vindex.kinds import StorageDtype
from vindex.spec import ModelSpec, Role
from vindex.store import Vindex
from vindex.strict_json import load

_MAX_BYTES = 64 << 20
_DTYPES = {
    "float32": StorageDtype.F32,
    "float16": StorageDtype.F16,
    "bfloat16": StorageDtype.BF16,
}
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True, slots=True)
class Written:
    """A configuration.

    Attributes:
        config: what ``config.json`` holds, less the dtype.
        dtype: the original's, else the vindex's.
        notes: what the user should know.
    """

    config: Mapping[str, Any]
    dtype: StorageDtype
    notes: tuple[str, ...] = ()

    def in_dtype(self, dtype: StorageDtype) -> dict[str, Any]:
        """The file, for weights of this dtype."""
        key = "dtype" if "dtype" in self.config else "torch_dtype"
        name = next(name for name, each in _DTYPES.items() if each is dtype)
        return {**self.config, key: name}


def checkpoint_config(source: Vindex) -> Written:
    """The configuration of the checkpoint that a vindex makes: text only, and not quantised.

    Raises:
        Unsupported: the vindex has none, or what would be written describes another model.
    """
    original = _original(source)
    notes: list[str] = []
    config = dict(original)
    text = config.get("text_config")
    if isinstance(text, Mapping):
        config = _text_only(config, text)
        notes.append("only the text model is written: a vindex holds nothing else")
    config.pop("quantization_config", None)
    has_head = source.has(Role.HEAD)
    if source.spec.tied and has_head:
        config["tie_word_embeddings"] = False
        notes.append("the head differs from the embedding, so they are written as not tied")
    _check(config, source.spec)
    dtype = next((config[key] for key in ("dtype", "torch_dtype") if key in config), None)
    known = _DTYPES.get(dtype) if isinstance(dtype, str) else None
    return Written(config, known or source.index.dtype, tuple(notes))


def _original(source: Vindex) -> Mapping[str, Any]:
    base = source.base
    if isinstance(base, CompletedVindex):
        return base.config
    path = base.path / files.CONFIG
    if not path.exists():
        raise Unsupported(
            f"{base.path} was written by larql, which keeps no {files.CONFIG}",
            hint=f'open it with its checkpoint: USE "{base.path}" CONFIG "checkpoint";',
            path=base.path,
        )
    value: Mapping[str, Any] = load(files.read_small(path, _MAX_BYTES), path)
    return value


def _text_only(config: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, Any]:
    """The text model's part of a configuration, on its own."""
    result = dict(text)
    result.setdefault("model_type", f"{config['model_type']}_text")
    for key in (*_TOKEN_IDS, "dtype", "torch_dtype", "tie_word_embeddings"):
        if key in config:
            result.setdefault(key, config[key])
    result.pop("architectures", None)
    return result


def _check(config: Mapping[str, Any], spec: ModelSpec) -> None:
    """What is written must describe the model whose tensors are written."""
    found = _nameless(spec_from_config(config))
    if found != _nameless(spec):
        different = [
            each.name
            for each in dataclasses.fields(ModelSpec)
            if getattr(found, each.name) != getattr(_nameless(spec), each.name)
        ]
        raise Unsupported(
            "the configuration would describe another model than the vindex holds",
            details=[f"differs: {name}" for name in different],
        )


def _nameless(spec: ModelSpec) -> ModelSpec:
    """A specification less what does not change what is computed: names, and who is tied.

    Whether there is a head is told by the tensors; they are compared where it is read back.
    """
    tensors = tuple(
        dataclasses.replace(each, optional=False) if each.role is Role.HEAD else each
        for each in spec.tensors
    )
    return dataclasses.replace(spec, model_type="", tied=False, tensors=tensors)
