"""GGUF files give back the tensors and configuration of the checkpoint they were made from."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.unit.checkpoint_files import (
    GEMMA3,
    LLAMA,
    converter_permute,
    random_arrays,
    sizes,
    write_gguf,
)
from vindex.checkpoint import balance, open_checkpoint
from vindex.checkpoint._gguf_file import GgufFile
from vindex.checkpoint._gguf_names import rope_pairs_apart
from vindex.dtypes import from_float32
from vindex.errors import CheckpointError, LedgerRefusal, Unsupported, VindexError
from vindex.families import spec_from_config
from vindex.kinds import StorageDtype
from vindex.spec import AttentionKind, ModelSpec, RopeScaling

F32 = StorageDtype.F32

# What a GGUF file without further metadata says of a Gemma 3.
PLAIN_GEMMA3 = {**GEMMA3, "query_pre_attn_scalar": 16, "sliding_window_pattern": 6}

# Block codecs need rows that are multiples of 256.
WIDE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "vocab_size": 40}


def spec_of(path: Path) -> ModelSpec:
    with open_checkpoint(path) as checkpoint:
        return spec_from_config(checkpoint.config)


@pytest.mark.parametrize(
    "config",
    [
        LLAMA,
        {**LLAMA, "num_key_value_heads": 4},
        {**LLAMA, "attention_bias": True, "mlp_bias": True},
        {**LLAMA, "tie_word_embeddings": True},
        PLAIN_GEMMA3,
    ],
    ids=["llama", "llama without groups", "llama with biases", "llama tied", "gemma3"],
)
def test_every_tensor_comes_back(tmp_path: Path, config: dict[str, Any]) -> None:
    arrays = random_arrays(config, seed=3)
    path = write_gguf(tmp_path / "m.gguf", config, arrays)
    with open_checkpoint(path) as checkpoint:
        assert sorted(checkpoint.names()) == sorted(arrays)
        spec = spec_from_config(checkpoint.config)
        assert spec == spec_from_config(config)
        balance(checkpoint, spec)
        for name, values in arrays.items():
            if "norm" in name and config is PLAIN_GEMMA3:  # stored as 1 + w, in float32
                values = (values + np.float32(1)) - np.float32(1)
            assert checkpoint.info(name).shape == values.shape
            np.testing.assert_array_equal(checkpoint.read(name, F32), values, err_msg=name)
            middle = values.shape[0] // 2
            rows = checkpoint.read_rows(name, 1, middle, F32)
            np.testing.assert_array_equal(rows, values[1:middle], err_msg=name)
        checkpoint.release()
        with pytest.raises(IndexError):
            checkpoint.read_rows("model.norm.weight", 0, 999, F32)
        with pytest.raises(CheckpointError, match="has no tensor 'nope'"):
            checkpoint.read("nope", F32)


@pytest.mark.parametrize("encoding", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_encodings_decode_as_gguf_does(tmp_path: Path, encoding: str) -> None:
    config = {**LLAMA, **WIDE}
    arrays = random_arrays(config)
    path = write_gguf(tmp_path / "m.gguf", config, arrays, encoding=encoding)
    quant = gguf.GGMLQuantizationType[encoding]

    def lossy(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return gguf.dequantize(gguf.quantize(values, quant), quant)

    with open_checkpoint(path) as checkpoint:
        for name in ("model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight"):
            found = checkpoint.read(name, F32)
            np.testing.assert_array_equal(found, lossy(arrays[name]))
            np.testing.assert_array_equal(checkpoint.read_rows(name, 7, 9, F32), found[7:9])
        # Rows of q are permuted whole, so that decoding and un-permuting commute.
        name = "model.layers.0.self_attn.q_proj.weight"
        np.testing.assert_array_equal(checkpoint.read(name, F32), lossy(arrays[name]))
        info = checkpoint.info(name)
        lossless = {"F16": StorageDtype.F16, "BF16": StorageDtype.BF16}.get(encoding, F32)
        assert (info.dtype, info.stored) == (lossless, encoding)
        raw = checkpoint.read(name, info.dtype)
        assert raw.dtype == np.dtype(lossless.carrier)


@pytest.mark.parametrize("dtype", list(StorageDtype))
def test_blocks_of_rows_join_up(
    tmp_path: Path, dtype: StorageDtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large matrices are decoded block by block; small blocks must give the same."""
    config = {**LLAMA, **WIDE}
    path = write_gguf(tmp_path / "m.gguf", config, random_arrays(config), encoding="Q8_0")
    names = [f"model.layers.0.self_attn.{part}_proj.weight" for part in "qv"]
    with open_checkpoint(path) as checkpoint:
        whole = [from_float32(checkpoint.read(name, F32), dtype) for name in names]
        monkeypatch.setattr("vindex.checkpoint.gguf._BLOCK_ELEMENTS", 256 * 7)
        monkeypatch.setattr("vindex.checkpoint._gguf_file._CHUNK_ELEMENTS", 256 * 3)
        monkeypatch.setattr("vindex.checkpoint._convert._CHUNK_ELEMENTS", 100)
        for name, expected in zip(names, whole, strict=True):
            np.testing.assert_array_equal(checkpoint.read(name, dtype), expected)
            np.testing.assert_array_equal(checkpoint.read_rows(name, 3, 61, dtype), expected[3:61])


@pytest.mark.parametrize("encoding", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ2_XXS"])
def test_encodings_that_only_decode(tmp_path: Path, encoding: str) -> None:
    """gguf cannot write these: random blocks stand for a quantised embedding."""
    config = {**LLAMA, **WIDE, "tie_word_embeddings": True}
    quant = gguf.GGMLQuantizationType[encoding]
    block, size = gguf.GGML_QUANT_SIZES[quant]
    rng = np.random.default_rng(5)
    raw = rng.integers(0, 100, (40, 256 // block * size), dtype=np.uint8)

    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("token_embd.weight", raw, raw_dtype=quant)

    arrays = random_arrays(config)
    del arrays["model.embed_tokens.weight"]
    path = write_gguf(tmp_path / "m.gguf", config, arrays, extend=add)
    with open_checkpoint(path) as checkpoint, np.errstate(all="ignore"):
        found = checkpoint.read("model.embed_tokens.weight", F32)
        np.testing.assert_array_equal(found, gguf.dequantize(raw, quant))
        assert checkpoint.info("model.embed_tokens.weight").shape == (40, 256)


def test_unpermuting_is_the_converters_inverse() -> None:
    rows = np.arange(48)
    assert not np.array_equal(converter_permute(rows, 3), rows)
    np.testing.assert_array_equal(converter_permute(rows, 3)[rope_pairs_apart(48, 3)], rows)


def test_llama_config(tmp_path: Path) -> None:
    arrays = random_arrays(LLAMA)
    path = write_gguf(tmp_path / "m.gguf", LLAMA, arrays, metadata=sizes(LLAMA))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.config == {
            "model_type": "llama",
            "vocab_size": 64,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "hidden_act": "silu",
            "rms_norm_eps": 0.003,
            "rope_theta": 20000.0,
            "max_position_embeddings": 256,
            "tie_word_embeddings": False,
            "attention_bias": False,
            "mlp_bias": False,
        }


def without(config: dict[str, Any], *keys: str, **more: Any) -> dict[str, Any]:
    """The architecture's metadata less some keys, plus others (``__`` for a dot)."""
    kept = {key: value for key, value in sizes(config).items() if key not in keys}
    return kept | {key.replace("__", "."): value for key, value in more.items()}


def test_old_llama_files_leave_keys_out(tmp_path: Path) -> None:
    config = {**LLAMA, "head_dim": 8, "num_key_value_heads": 4, "rope_theta": 10000.0}
    gone = ("attention.key_length", "attention.value_length", "attention.head_count_kv")
    metadata = without(config, *gone, "rope.freq_base", "vocab_size")
    arrays = random_arrays(config)
    path = write_gguf(tmp_path / "m.gguf", config, arrays, metadata=metadata)
    assert spec_of(path) == spec_from_config(config)


def llama3_table(theta: float, size: int, factor: float, trained: int) -> list[float]:
    """``generate_extra_tensors`` of llama.cpp's converter: three bands."""
    table = []
    for lane in range(0, size, 2):
        wavelength = 2 * math.pi * theta ** (lane / size)
        if wavelength < trained / 4:
            table.append(1.0)
        elif wavelength > trained:
            table.append(factor)
        else:
            smooth = (trained / wavelength - 1) / 3
            table.append(1 / ((1 - smooth) / factor + smooth))
    return table


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_scaling_is_read_off_its_table(tmp_path: Path, factor: float) -> None:
    config = {**LLAMA, "head_dim": 64, "rope_theta": 500000.0}
    table = np.array(llama3_table(500000.0, 64, factor, 8192), np.float32)
    assert len(set(table.tolist())) > 3

    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("rope_freqs.weight", table)

    path = write_gguf(tmp_path / "m.gguf", config, random_arrays(config), extend=add)
    rope = spec_of(path).layers[0].attention.rope
    assert rope is not None
    assert (rope.scaling, rope.factor) == (RopeScaling.LLAMA3, factor)
    assert (rope.low_freq_factor, rope.high_freq_factor) == (1.0, 4.0)
    assert rope.original_max_positions == 8192
    with open_checkpoint(path) as checkpoint:
        ledger = balance(checkpoint, spec_from_config(checkpoint.config))
        assert [(drop.name, drop.rule) for drop in ledger.dropped] == [
            ("rope_freqs.weight", "gguf-rope-freqs")
        ]


@pytest.mark.parametrize("damage", ["value", "length", "zero", "negative", "nan", "inf"])
def test_another_rope_table_is_refused(tmp_path: Path, damage: str) -> None:
    table = np.array(llama3_table(20000.0, 16, 8.0, 8192), np.float32)
    match damage:
        case "value":
            table[4] *= 1.01
        case "length":
            table = table[:-1].copy()
        case "zero":
            table[:] = 0
        case "negative":
            table[-1] = -8
        case _:
            table[-1] = float(damage)

    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("rope_freqs.weight", table)

    path = write_gguf(tmp_path / "m.gguf", LLAMA, random_arrays(LLAMA), extend=add)
    with pytest.raises(VindexError, match="rope_freqs"):
        open_checkpoint(path)


def test_linear_scaling(tmp_path: Path) -> None:
    scaled = {"rope__scaling__type": "linear", "rope__scaling__factor": 4.0}
    metadata = without(LLAMA, **scaled)
    path = write_gguf(tmp_path / "m.gguf", LLAMA, random_arrays(LLAMA), metadata=metadata)
    rope = spec_of(path).layers[0].attention.rope
    assert rope is not None
    assert (rope.scaling, rope.factor) == (RopeScaling.LINEAR, 4.0)


def test_gemma3_stretches_only_its_full_layers(tmp_path: Path) -> None:
    scaled = {"rope__scaling__type": "linear", "rope__scaling__factor": 8.0}
    metadata = without(GEMMA3, **scaled, attention__sliding_window_pattern=3)
    path = write_gguf(tmp_path / "m.gguf", GEMMA3, random_arrays(GEMMA3), metadata=metadata)
    spec = spec_of(path)
    ropes = [layer.attention.rope for layer in spec.layers]
    assert [rope and (rope.theta, rope.factor) for rope in ropes] == [
        (1e4, None),
        (1e4, None),
        (1e6, 8.0),
    ]
    assert {layer.attention.scale for layer in spec.layers} == {16**-0.5}


def test_gemma3_pattern_as_a_list(tmp_path: Path) -> None:
    metadata = without(GEMMA3, attention__sliding_window_pattern=[False, True, False])
    path = write_gguf(tmp_path / "m.gguf", GEMMA3, random_arrays(GEMMA3), metadata=metadata)
    full, sliding = AttentionKind.FULL, AttentionKind.SLIDING
    assert [layer.attention.kind for layer in spec_of(path).layers] == [full, sliding, full]


def test_gemma3_defaults_to_every_sixth_layer(tmp_path: Path) -> None:
    config = {**GEMMA3, "num_hidden_layers": 7}
    path = write_gguf(tmp_path / "m.gguf", config, random_arrays(config))
    kinds = [layer.attention.kind for layer in spec_of(path).layers]
    assert [index for index, kind in enumerate(kinds) if kind is AttentionKind.FULL] == [5]


@pytest.mark.parametrize(("depth", "divisor"), [(61, 8), (62, 64 // 4), (63, 8)])
def test_gemma3_27b_scales_by_the_width_per_head(tmp_path: Path, depth: int, divisor: int) -> None:
    config = {**GEMMA3, "num_hidden_layers": depth, "hidden_size": 64, "head_dim": 8}
    path = write_gguf(tmp_path / "m.gguf", config, random_arrays(config))
    assert spec_of(path).layers[0].attention.scale == divisor**-0.5


METADATA_REFUSALS: list[tuple[dict[str, Any], type[VindexError], str]] = [
    (without(LLAMA, "embedding_length"), CheckpointError, "embedding_length is missing"),
    (without(LLAMA, embedding_length="32"), CheckpointError, "embedding_length is '32'"),
    (without(LLAMA, attention__head_count=0), CheckpointError, "attention.head_count is 0"),
    (without(LLAMA, attention__head_count_kv=[2, 1]), CheckpointError, "head_count_kv is [2, 1]"),
    (without(LLAMA, attention__layer_norm_rms_epsilon=math.nan), CheckpointError, "is nan"),
    (without(LLAMA, attention__key_length=8), Unsupported, "value_length is 16 where a head has 8"),
    (without(LLAMA, rope__dimension_count=8), Unsupported, "rope.dimension_count is 8"),
    (without(LLAMA, rope__scaling__type="dynamic"), Unsupported, "scaling.type is 'dynamic'"),
    (without(LLAMA, expert_count=8), CheckpointError, "expert_used_count is missing"),
    (without(LLAMA, attention__sliding_window=512), Unsupported, "sliding_window is 512"),
    (without(LLAMA, attention__head_count_kv=3), CheckpointError, "m.gguf: num_attention_heads is"),
    (without(LLAMA, logit_scale=2.0), Unsupported, "llama.logit_scale"),
]


@pytest.mark.parametrize(("metadata", "error", "text"), METADATA_REFUSALS)
def test_metadata_refusals(
    tmp_path: Path, metadata: dict[str, Any], error: type[VindexError], text: str
) -> None:
    path = write_gguf(tmp_path / "m.gguf", LLAMA, random_arrays(LLAMA), metadata=metadata)
    with pytest.raises(error) as caught:
        open_checkpoint(path)
    assert text in str(caught.value)


def test_gemma3_without_a_window_is_refused(tmp_path: Path) -> None:
    metadata = without(GEMMA3, "attention.sliding_window")
    path = write_gguf(tmp_path / "m.gguf", GEMMA3, random_arrays(GEMMA3), metadata=metadata)
    with pytest.raises(CheckpointError, match="sliding_window is missing"):
        open_checkpoint(path)


def test_unknown_architectures_list_the_supported_ones(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "mamba")
    writer.add_tensor("t", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(Unsupported, match="architecture is 'mamba'") as caught:
        open_checkpoint(tmp_path / "m.gguf")
    assert caught.value.hint == (
        "supported: gemma, gemma2, gemma3, gemma4, glm4, gpt2, gptneox, granite, llama, olmo2,"
        " phi2, phi3, qwen2, qwen2moe, qwen3, qwen3moe, starcoder2"
    )


def test_parts_of_a_split_file_are_refused(tmp_path: Path) -> None:
    def split(writer: gguf.GGUFWriter) -> None:
        writer.add_uint16("split.count", 3)

    path = write_gguf(tmp_path / "m.gguf", LLAMA, random_arrays(LLAMA), extend=split)
    with pytest.raises(Unsupported, match="is one of 3 parts"):
        open_checkpoint(path)


def test_missing_and_unknown_tensors_reach_the_ledger(tmp_path: Path) -> None:
    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("blk.0.attn_sinks.weight", np.zeros(4, np.float32))

    gone = frozenset({"blk.1.ffn_up.weight"})
    arrays = random_arrays(LLAMA)
    path = write_gguf(tmp_path / "m.gguf", LLAMA, arrays, extend=add, leave_out=gone)
    with open_checkpoint(path) as checkpoint, pytest.raises(LedgerRefusal) as caught:
        balance(checkpoint, spec_from_config(checkpoint.config))
    assert set(caught.value.details) == {
        "unknown: 'blk.0.attn_sinks.weight'",
        "missing: layers.1.mlp.up_proj.weight",
    }


def test_a_file_without_embedding_is_refused(tmp_path: Path) -> None:
    gone = frozenset({"token_embd.weight"})
    path = write_gguf(tmp_path / "m.gguf", LLAMA, random_arrays(LLAMA), leave_out=gone)
    with pytest.raises(CheckpointError, match=r"has no tensor token_embd\.weight"):
        open_checkpoint(path)


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def header(
    *,
    version: int = 3,
    tensors: int = 0,
    keys: int = 0,
    body: bytes = b"",
    magic: bytes = b"GGUF",
) -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, keys) + body


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", kind) + value


def tensor(
    name: bytes = b"t", dims: tuple[int, ...] = (4,), encoding: int = 0, offset: int = 0
) -> bytes:
    shape = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return string(name) + shape + struct.pack("<IQ", encoding, offset)


HUGE = 2**63
HOSTILE: list[tuple[str, bytes, type[VindexError], str]] = [
    ("magic", header(magic=b"GGML"), CheckpointError, "is not a GGUF file"),
    ("version 1", header(version=1), Unsupported, "has GGUF version 1"),
    ("big-endian", header(version=3 << 24), Unsupported, "is big-endian"),
    ("tensor count", header(tensors=HUGE), CheckpointError, f"claims {HUGE} tensors"),
    ("key count", header(keys=HUGE), CheckpointError, f"claims {HUGE} metadata keys"),
    ("key length", header(keys=1, body=struct.pack("<Q", HUGE) + bytes(20)), CheckpointError,
     "has a metadata key of"),
    ("string length", header(keys=1, body=key(b"k", 8, struct.pack("<Q", HUGE))), CheckpointError,
     "ends inside the value of 'k'"),
    ("array length", header(keys=1, body=key(b"k", 9, struct.pack("<IQ", 4, HUGE))),
     CheckpointError, f"claims {HUGE} values in 'k'"),
    ("strings length", header(keys=1, body=key(b"k", 9, struct.pack("<IQ", 8, HUGE))),
     CheckpointError, f"claims {HUGE} strings in 'k'"),
    ("value type", header(keys=1, body=key(b"k", 99, bytes(8))), Unsupported, "of type 99"),
    ("nested array", header(keys=1, body=key(b"k", 9, struct.pack("<IQ", 9, 1) + bytes(12))),
     Unsupported, "an array of type 9"),
    ("not UTF-8", header(keys=1, body=key(b"\xff\xfe", 4, bytes(4))), CheckpointError,
     "that is not UTF-8"),
    ("not UTF-8 inside",
     header(keys=1, body=key(b"k", 9, struct.pack("<IQ", 8, 1) + string(b"\xff"))),
     CheckpointError, "with text that is not UTF-8"),
    ("twice", header(keys=2, body=key(b"k", 4, bytes(4)) * 2), CheckpointError, "'k' twice"),
    ("alignment 0", header(keys=1, body=key(b"general.alignment", 4, struct.pack("<I", 0))),
     CheckpointError, "alignment of 0"),
    ("alignment 48", header(keys=1, body=key(b"general.alignment", 4, struct.pack("<I", 48))),
     CheckpointError, "alignment of 48"),
    ("alignment text", header(keys=1, body=key(b"general.alignment", 8, string(b"32"))),
     CheckpointError, "alignment of '32'"),
    ("alignment huge", header(keys=1, body=key(b"general.alignment", 4, struct.pack("<I", 2**31))),
     CheckpointError, "alignment of 2147483648"),
    ("rank 0", header(tensors=1, body=tensor(dims=())), CheckpointError, "of rank 0"),
    ("rank 5", header(tensors=1, body=tensor(dims=(1,) * 5)), CheckpointError, "of rank 5"),
    ("empty axis", header(tensors=1, body=tensor(dims=(0,))), CheckpointError, "empty dimension"),
    ("wrapping", header(tensors=1, body=tensor(dims=(4194305, 4194305, 211106198978564))),
     CheckpointError, "ends inside the data"),
    ("wrapping to 0", header(tensors=1, body=tensor(dims=(2**32, 2**32))), CheckpointError,
     "ends inside the data"),
    ("encoding", header(tensors=1, body=tensor(encoding=200)), Unsupported, "of encoding 200"),
    ("removed encoding", header(tensors=1, body=tensor(encoding=4)), Unsupported, "of encoding 4"),
    ("block", header(tensors=1, body=tensor(dims=(33,), encoding=8)), CheckpointError,
     "no multiple of Q8_0's block of 32"),
    ("unaligned", header(tensors=1, body=tensor(offset=4)) + bytes(99), CheckpointError,
     "unaligned offset 4"),
    ("past the end", header(tensors=1, body=tensor(offset=2**62)), CheckpointError,
     "ends inside the data"),
    ("wrapping offset", header(tensors=1, body=tensor(offset=2**64 - 32)), CheckpointError,
     "ends inside the data"),
    ("overlap", header(tensors=2, body=tensor(b"a", (16,)) + tensor(b"b")) + bytes(128),
     CheckpointError, "overlapping another"),
    ("same name", header(tensors=2, body=tensor() + tensor(offset=32)) + bytes(128),
     CheckpointError, "'t' twice"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "error", "text"), [row[1:] for row in HOSTILE],
                         ids=[row[0] for row in HOSTILE])  # fmt: skip
def test_hostile_files(tmp_path: Path, content: bytes, error: type[VindexError], text: str) -> None:
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(error) as caught:
        GgufFile(tmp_path / "m.gguf")
    assert text in str(caught.value)


def vocabulary(writer: gguf.GGUFWriter) -> None:
    """A tokenizer of ten tokens."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*"abcdefghi", "ab"])
    writer.add_token_types([1] * 10)
    writer.add_token_merges(["a b"])


def outcome(path: Path) -> VindexError | None:
    """Open, account for and read everything; the typed error if there was one."""
    try:
        with open_checkpoint(path) as checkpoint:
            checkpoint.files()
            balance(checkpoint, spec_from_config(checkpoint.config))
            for name in checkpoint.names():
                checkpoint.read(name, F32)
    except VindexError as error:
        return error
    return None


@pytest.fixture
def tiny(tmp_path: Path) -> bytes:
    """A file of one layer, with a tokenizer."""
    config = {**LLAMA, "num_hidden_layers": 1}
    path = write_gguf(tmp_path / "t.gguf", config, random_arrays(config), extend=vocabulary)
    assert outcome(path) is None
    return path.read_bytes()


def test_every_truncation_is_refused(tmp_path: Path, tiny: bytes) -> None:
    path = tmp_path / "m.gguf"
    header_ends = tiny.index(b"output_norm.weight") + 64
    for length in [*range(0, header_ends, 7), *range(header_ends, len(tiny), 997)]:
        path.write_bytes(tiny[:length])
        assert outcome(path) is not None, length


@pytest.mark.parametrize("damage", ["byte", "word"])
def test_random_damage_never_escapes_as_a_traceback(
    tmp_path: Path, tiny: bytes, damage: str
) -> None:
    path = tmp_path / "m.gguf"
    rng = random.Random(13)
    header_ends = tiny.index(b"output_norm.weight") + 64
    refused = 0
    for _ in range(600):
        mutant = bytearray(tiny)
        place = rng.randrange(header_ends)
        if damage == "byte":
            mutant[place] = rng.randrange(256)
        else:
            value = rng.choice([0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1])
            mutant[place : place + 8] = struct.pack("<Q", value)
        path.write_bytes(mutant)
        error = outcome(path)
        if error is not None:
            refused += 1
            assert str(error).isprintable()
    assert refused > 100


PROPERTIES: list[Callable[[GgufFile], object]] = [
    lambda file: file.metadata["i8"] == -3,
    lambda file: file.metadata["bools"] == [True, False],
    lambda file: file.metadata["f64"] == 0.1,
    lambda file: file.metadata["u64"] == 2**60,
    lambda file: file.metadata["text"] == "grüße",
    lambda file: file.metadata["texts"] == ["a", "", "日"],
    lambda file: file.metadata["empty"] == [],
]


@pytest.mark.parametrize("holds", PROPERTIES)
def test_every_metadata_type_is_read(tmp_path: Path, holds: Callable[[GgufFile], object]) -> None:
    texts = b"".join(map(string, [b"a", b"", "日".encode()]))
    body = b"".join(
        [
            key(b"i8", 1, struct.pack("<b", -3)),
            key(b"bools", 9, struct.pack("<IQ2?", 7, 2, True, False)),
            key(b"f64", 12, struct.pack("<d", 0.1)),
            key(b"u64", 10, struct.pack("<Q", 2**60)),
            key(b"text", 8, string("grüße".encode())),
            key(b"texts", 9, struct.pack("<IQ", 8, 3) + texts),
            key(b"empty", 9, struct.pack("<IQ", 6, 0)),
        ]
    )  # fmt: skip
    (tmp_path / "m.gguf").write_bytes(header(keys=7, body=body))
    assert holds(GgufFile(tmp_path / "m.gguf"))


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.parametrize("model", ["smollm2_gguf", "gemma3_gguf"])
def test_real_models_equal_transformers(model: str, request: pytest.FixtureRequest) -> None:
    """Every tensor of the two real models, as transformers loads the same file."""
    import torch
    from transformers import AutoModelForCausalLM

    path: Path = request.getfixturevalue(model)
    reference = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    with open_checkpoint(path) as checkpoint:
        compared = 0
        for name, values in reference.state_dict().items():
            if name == "lm_head.weight":
                continue
            np.testing.assert_array_equal(checkpoint.read(name, F32), values.numpy(), err_msg=name)
            compared += 1
        assert compared == len(checkpoint.names())
        config = {**reference.config.to_dict(), "quantization_config": None}
        ours = checkpoint.config["rms_norm_eps"]  # 1e-05; transformers keeps the float32's digits
        assert math.isclose(config["rms_norm_eps"], ours, rel_tol=1e-7)
        config["rms_norm_eps"] = ours
        assert spec_from_config(config) == spec_from_config(checkpoint.config)
