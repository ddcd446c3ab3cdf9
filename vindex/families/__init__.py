"""Model families: configuration -> ``ModelSpec``, checkpoint tensor names -> vindex keys.

Every public module of this package is one family and binds ``FAMILY``; adding a model means adding
a module. It bears the family's name, and a model type that starts with that name is looked for
there first: opening one model imports one family. Modules that start with an underscore are shared
parts.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Container, Mapping
from functools import cache
from typing import Any

from vindex.errors import CheckpointError, Unsupported
from vindex.families import _larql_index
from vindex.families._base import DropRule, Family, GgufFacts, GgufRules
from vindex.families._config import ConfigReader, show
from vindex.index import VindexIndex
from vindex.spec import ModelSpec

__all__ = [
    "DropRule",
    "Family",
    "GgufFacts",
    "GgufRules",
    "families",
    "family_of",
    "gguf_family",
    "model_types",
    "normalise_key",
    "spec_from_config",
    "spec_from_index",
]


# vindex.checkpoint undoes these; who computes sees floats.
_READ_QUANTIZATIONS = ("mxfp4", "fp8")


@cache
def _names() -> tuple[str, ...]:
    """The names of the families, sorted."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in modules if not name.startswith("_")))


def _family(name: str) -> Family:
    """The family of that name, which is one of ``_names``."""
    family: Family = importlib.import_module(f"{__name__}.{name}").FAMILY
    return family


def families() -> tuple[Family, ...]:
    """Every family, by name."""
    return tuple(map(_family, _names()))


def model_types() -> tuple[str, ...]:
    """Every supported ``model_type``, sorted."""
    return tuple(sorted(name for family in families() for name in family.model_types))


def spec_from_config(config: Mapping[str, Any], where: str = "config.json") -> ModelSpec:
    """The specification of a model from its ``config.json``.

    Args:
        config: the parsed file, in the hub's or transformers 5's spelling.
        where: how to call it in messages.

    Raises:
        Unsupported: a model type, rope type, activation or option that is not implemented.
        CheckpointError: values that are missing, of the wrong type, absurd or contradictory.
    """
    reader = ConfigReader(config, where)
    family = _by_model_type(reader.text("model_type"))
    if family is None:
        raise Unsupported(
            f"{where}: model_type is {show(reader.get('model_type'))}, which is not supported",
            hint=f"supported: {', '.join(model_types())}",
        )
    _check_quantization(reader)
    return family.build(reader)


def spec_from_index(
    index: VindexIndex, have_keys: Container[str]
) -> tuple[ModelSpec, tuple[str, ...]]:
    """The specification of a larql-written vindex that has no ``config.json``.

    Args:
        index: the parsed ``index.json``.
        have_keys: keys of the tensors that the vindex stores.

    Returns:
        The specification, and notes on what the index does not record and was assumed.

    Raises:
        Unsupported: what larql records of this family does not determine the model.
        CheckpointError: values that are missing, of the wrong type, absurd or contradictory.
    """
    if index.model_config is None:
        raise Unsupported(
            "index.json has no model_config, so the model cannot be rebuilt",
            hint=_larql_index.SUPPLY_CONFIG,
        )
    model_type = index.model_config.model_type
    family = _by_model_type(model_type)
    if family is None:
        raise _larql_index.refuse_unknown(model_type, ", ".join(model_types()))
    rebuilt = family.from_index(index, have_keys)
    return family.build(ConfigReader(rebuilt.config, "index.json")), rebuilt.notes


def normalise_key(spec_or_family: ModelSpec | str, name: str) -> str:
    """The vindex key of a checkpoint tensor: its name without the family's prefix.

    Args:
        spec_or_family: a specification or a family's name.
        name: tensor name as in the checkpoint.
    """
    return family_of(spec_or_family).key(name)


def family_of(spec_or_family: ModelSpec | str) -> Family:
    """The family of a specification, or by name."""
    name = spec_or_family if isinstance(spec_or_family, str) else spec_or_family.family
    if name not in _names():
        raise CheckpointError(f"there is no model family {show(name)}")
    return _family(name)


def gguf_family(architecture: str) -> Family:
    """The family that reads GGUF files of this ``general.architecture``.

    Raises:
        Unsupported: none does.
    """
    readable = [family for family in families() if family.gguf is not None]
    for family in readable:
        if family.gguf is not None and architecture in family.gguf.architectures:
            return family
    names = sorted(name for family in readable if family.gguf for name in family.gguf.architectures)
    raise Unsupported(
        f"the GGUF file's architecture is {show(architecture)}, which is not supported",
        hint=f"supported: {', '.join(names)}",
    )


def _check_quantization(config: ConfigReader) -> None:
    """Refuse encodings of weights that the readers of checkpoints do not undo."""
    section = config.section("quantization_config")
    if section is None:
        return
    method = section.text("quant_method")
    if method not in _READ_QUANTIZATIONS:
        raise Unsupported(
            f"{section.where}: quant_method is {show(method)}, which is not supported",
            hint=f"supported: {', '.join(_READ_QUANTIZATIONS)}, and weights that are not quantised",
        )
    if method == "fp8":
        section.must_be_default("weight_block_size", [128, 128])


def _by_model_type(model_type: str | None) -> Family | None:
    if model_type is None:
        return None
    likely_first = sorted(_names(), key=lambda name: -len(name) * model_type.startswith(name))
    candidates = map(_family, likely_first)
    return next((family for family in candidates if model_type in family.model_types), None)
