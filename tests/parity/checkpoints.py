"""Tiny random checkpoints, one ``Row`` per variant of a model family; here llama and Gemma 3.

A new family adds rows to ``rows.ROWS``; every test of this directory then covers it. The sizes and
distributions make a wrong or missing term visible: epsilons large enough to matter, a window far
shorter than the prompt, norms and biases that are noisy, heads that do not multiply to the hidden
size, soft caps small enough to bend.
"""

from __future__ import annotations

import copy
import json
import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers import PreTrainedModel as Model

from tests.parity import gemma4, mxfp4
from tests.unit.tokenizer_texts import CORPUS

VOCABULARY = 384
EPS = 3e-3  # as large as the mean square of an embedding: another epsilon shows
WINDOW = 8
PROMPT_TOKENS = 60

Config = dict[str, Any]
Keys = Callable[[str], str]


class Spelling(Enum):
    """How ``config.json`` is written."""

    HUB = "hub"  # rope_theta, rope_scaling, rope_local_base_freq, torch_dtype, patterns
    V5 = "v5"  # rope_parameters, dtype, layer_types: what transformers 5 saves


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One checkpoint.

    Attributes:
        name: test id; also the seed of the weights.
        config: transformers 5's spelling.
        offset_norms: norm weights are stored around 0 and used as ``1 + w``.
        dtype: of the saved weights, which are rounded to it.
        listed: the hub spelling keeps ``layer_types`` instead of a pattern.
        multimodal: the text model sits inside an image-and-text model.
        rename: saved tensor name -> name in the checkpoint.
        hub_keys: other names that the hub spelling has for rope keys and rules.
        by_length: rotations depend on the sequence's length: outputs of a prefix are its own.
        stale_keys: the file holds k and v of layers that read those of others.
        head_norms: factor on the weights of q and k norms. Where the scale of attention is 1, a
            factor of 1 would let each query see a single key.
        mxfp4: the file holds experts as codes with scales (gpt_oss).
        fused_experts: the file holds the experts of a layer as transformers has them in memory,
            stacked, and under its names.
    """

    name: str
    config: Mapping[str, Any]
    offset_norms: bool = False
    dtype: torch.dtype = torch.float32
    listed: bool = False
    multimodal: bool = False
    rename: Keys = str
    hub_keys: Mapping[str, str] = field(default_factory=dict)
    by_length: bool = False
    stale_keys: bool = False
    head_norms: float = 1.0
    fused_experts: bool = False
    mxfp4: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def has_experts(self) -> bool:
        """Whether tokens visit experts."""
        return any(key in self.config for key in ("num_experts_per_tok", "top_k_experts"))


@dataclass(frozen=True, slots=True)
class Written:
    """A checkpoint on disk in both spellings, and the model it was saved from."""

    row: Row
    model: Model
    directories: Mapping[Spelling, Path]


def write(row: Row, directory: Path) -> Written:
    """Make a row's model and save it.

    Returns:
        The model holds the saved values, in float32.
    """
    model = _model(row)
    saved = directory / row.name / Spelling.V5.value
    weights = {name: value.to(row.dtype) for name, value in model.state_dict().items()}
    model.save_pretrained(saved, state_dict=weights, save_original_format=not row.fused_experts)
    _rename(saved / "model.safetensors", row)
    tokenizer().save(str(saved / "tokenizer.json"))
    hub = directory / row.name / Spelling.HUB.value
    shutil.copytree(saved, hub)
    config = json.loads((saved / "config.json").read_text())
    config["dtype"] = str(row.dtype).removeprefix("torch.")
    if row.mxfp4:
        config["quantization_config"] = mxfp4.CONFIG
    (saved / "config.json").write_text(json.dumps(config))
    (hub / "config.json").write_text(json.dumps(hub_spelling(config, row)))
    return Written(row, model, {Spelling.V5: saved, Spelling.HUB: hub})


def tokenizer() -> Tokenizer:
    """A byte-level BPE tokenizer without special tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([CORPUS], trainer)
    return made


def hub_spelling(config: Mapping[str, Any], row: Row) -> Config:
    """A configuration of transformers 5 as files on the hub spell it."""
    result = copy.deepcopy(dict(config))
    result["torch_dtype"] = result.pop("dtype")
    text = result.get("text_config", result)
    text.pop("_sliding_window_pattern", None)
    if "per_layer_config" in text:
        gemma4.hub_spelling(text)
    if not row.listed:
        text.pop("layer_types", None)
    if text["model_type"] == "qwen3_moe":
        text["num_experts"] = text.pop("num_local_experts")
    if text["model_type"].startswith("gemma4"):  # younger than the key rope_parameters
        return result
    rope = text.pop("rope_parameters", None)
    if rope is None:
        return result
    if "sliding_attention" in rope:
        text["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    elif rope["rope_type"] in ("linear", "dynamic", *row.hub_keys):  # older than that key
        kind = rope.pop("rope_type")
        rope["type"] = row.hub_keys.get(kind, kind)
    for key in ("rope_theta", "partial_rotary_factor"):
        if key in rope:
            text[row.hub_keys.get(key, key)] = rope.pop(key)
    text["rope_scaling"] = None if rope.get("rope_type") == "default" else rope
    return result


def _model(row: Row) -> Model:
    # transformers writes into the objects it is given, which rows share.
    config = AutoConfig.for_model(**copy.deepcopy(dict(row.config)))
    config._attn_implementation = "eager"
    kind = AutoModelForImageTextToText if row.multimodal else AutoModelForCausalLM
    make = kind.from_config
    model: Model = make(config, dtype=torch.float32, attn_implementation="eager")
    random = torch.Generator().manual_seed(zlib.crc32(row.name.encode()))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=random)
            if name.endswith("bias"):
                values = 0.15 * noise
            elif name.endswith("sinks"):
                values = noise
            elif row.mxfp4 and mxfp4.holds(name):
                values = mxfp4.values(name, parameter.shape)
            elif name.endswith(("router.scale", "per_expert_scale")):
                values = 0.3 * noise + 1.0
            elif name.endswith("router.proj.weight"):
                values = noise  # its input is small: with 0.12 all experts would score the same
            elif "norm" in name or ".ln_" in name:
                values = 0.2 * noise + (0.0 if row.offset_norms else 1.0)
                if "q_norm" in name or "k_norm" in name:
                    values *= row.head_norms
            else:
                values = 0.12 * noise
            if gemma4.SIDECAR.search(name):  # exact in a vindex of every dtype
                values = (values * (3 if "embed" in name else 1)).half().float()
            parameter.copy_(values.to(row.dtype))
        for name, buffer in model.named_buffers():
            if name.endswith("layer_scalar"):
                scalar = 0.6 + 0.7 * torch.rand(buffer.shape, generator=random)
                buffer.copy_(scalar.to(row.dtype))
            elif name.endswith("correction_bias"):
                buffer.copy_(0.15 * torch.randn(buffer.shape, generator=random))
    return model.eval()


def _rename(path: Path, row: Row) -> None:
    tensors = {row.rename(name): tensor for name, tensor in load_file(path).items()}
    if row.mxfp4:
        tensors = mxfp4.encoded(tensors)
    if row.stale_keys:
        added = gemma4.stale_keys(tensors, torch.Generator().manual_seed(7))
        assert added, "no layer reads the keys of another"
        tensors |= added
    save_file(tensors, path, metadata={"format": "pt"})


COMMON: Config = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": EPS,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
PLAIN_ROPE: Config = {"rope_type": "default", "rope_theta": 10000.0}


def _llama(**changes: Any) -> Config:
    return {
        "model_type": "llama",
        **COMMON,
        "num_hidden_layers": 4,
        "tie_word_embeddings": False,
        "rope_parameters": PLAIN_ROPE,
        **changes,
    }


def _gemma3(**changes: Any) -> Config:
    return {
        "model_type": "gemma3_text",
        **COMMON,
        "num_hidden_layers": 6,
        "head_dim": 24,
        "query_pre_attn_scalar": 40,
        "sliding_window": WINDOW,
        "sliding_window_pattern": 3,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
            "sliding_attention": PLAIN_ROPE,
        },
        **changes,
    }


def _gemma3_multimodal() -> Config:
    return {
        "model_type": "gemma3",
        "text_config": _gemma3(),
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        "mm_tokens_per_image": 4,
        "image_token_index": VOCABULARY - 1,
        "boi_token_index": VOCABULARY - 2,
        "eoi_token_index": VOCABULARY - 3,
    }


def _inner_prefix(name: str) -> str:
    """Names as transformers 5 has them in memory: everything below ``model.``."""
    for theirs, ours in (
        ("language_model.model.", "model.language_model."),
        ("vision_tower.", "model.vision_tower."),
        ("multi_modal_projector.", "model.multi_modal_projector."),
    ):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    raise AssertionError(f"transformers saves a tensor named {name}")


_LLAMA3_ROPE: Config = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

LLAMA_AND_GEMMA3 = (
    Row("llama", _llama()),
    Row("llama-tied", _llama(tie_word_embeddings=True)),
    Row("llama-head-dim", _llama(head_dim=24, hidden_size=96, num_attention_heads=6)),
    Row("llama-llama3-rope", _llama(head_dim=32, rope_parameters=_LLAMA3_ROPE)),
    Row(
        "llama-linear-rope",
        _llama(rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}),
    ),
    Row(
        "llama-dynamic-rope",
        _llama(
            max_position_embeddings=32,
            rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
        ),
        by_length=True,
    ),
    Row("llama-biases", _llama(attention_bias=True, mlp_bias=True, num_key_value_heads=4)),
    Row("llama-bf16", _llama(attention_bias=True), dtype=torch.bfloat16),
    Row("gemma3", _gemma3(), offset_norms=True),
    Row(
        "gemma3-layer-types",
        _gemma3(
            layer_types=[f"{kind}_attention" for kind in ("full", *["sliding"] * 3, "full")],
            num_hidden_layers=5,
            num_key_value_heads=1,
        ),
        offset_norms=True,
        listed=True,
    ),
    Row(
        "gemma3-softcap",
        _gemma3(final_logit_softcapping=1.5, attn_logit_softcapping=0.8, attention_bias=True),
        offset_norms=True,
    ),
    Row("gemma3-bf16", _gemma3(), offset_norms=True, dtype=torch.bfloat16),
    Row("gemma3-multimodal", _gemma3_multimodal(), offset_norms=True, multimodal=True),
    Row(
        "gemma3-multimodal-inner",
        _gemma3_multimodal(),
        offset_norms=True,
        multimodal=True,
        rename=_inner_prefix,
    ),
)
