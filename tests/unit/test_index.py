"""``index.json``: larql's rules on reading, larql's requirements on writing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.vindex_files import VINDEXES
from vindex.bands import Band, Bands, bands_for
from vindex.errors import Unsupported, VindexError, VindexIncomplete, VindexInvalid
from vindex.index import dump_index, index_json, parse_index, read_index, shortest_float32
from vindex.kinds import ExtractLevel, Quant, StorageDtype

PATH = Path("index.json")
REQUIRED = [
    "version",
    "model",
    "family",
    "num_layers",
    "hidden_size",
    "intermediate_size",
    "vocab_size",
    "embed_scale",
    "layers",
    "down_top_k",
]


def tiny(**changes: Any) -> dict[str, Any]:
    """The smallest index larql loads (vindex-format.md 21.1), with changes; ``...`` removes."""
    index: dict[str, Any] = {
        "version": 2,
        "model": "m",
        "family": "llama",
        "num_layers": 1,
        "hidden_size": 4,
        "intermediate_size": 2,
        "vocab_size": 8,
        "embed_scale": 1.0,
        "layers": [{"layer": 0, "num_features": 2, "offset": 0, "length": 32}],
        "down_top_k": 1,
    }
    index |= changes
    return {key: value for key, value in index.items() if value is not ...}


def parse(document: Any) -> Any:
    text = document if isinstance(document, str) else json.dumps(document)
    return parse_index(text.encode(), PATH)


def config(**changes: Any) -> dict[str, Any]:
    base = {
        "model_type": "llama",
        "head_dim": 4,
        "num_q_heads": 1,
        "num_kv_heads": 1,
        "rope_base": 1e4,
    }
    return {key: value for key, value in (base | changes).items() if value is not ...}


def test_absent_keys_mean_what_larql_takes_them_for() -> None:
    index = parse(tiny())
    assert index.extract_level is ExtractLevel.BROWSE
    assert index.dtype is StorageDtype.F32
    assert index.quant is Quant.NONE
    assert index.has_model_weights is False
    assert index.layer_bands is index.model_config is index.source is index.checksums is None
    assert not index.ours
    assert index.num_features == 2
    assert index.layer_info(1) is None


def test_kquant_is_read_and_written_as_q4k() -> None:
    index = parse(tiny(quant="kquant"))
    assert index.quant is Quant.Q4K
    assert index_json(index)["quant"] == "q4k"


def test_bf16_is_ours() -> None:
    index = parse(tiny(dtype="bf16"))
    assert index.dtype is StorageDtype.BF16
    assert index_json(index)["dtype"] == "bf16"


def test_unknown_keys_survive_a_rewrite_everywhere() -> None:
    document = tiny(
        future={"a": [1, None]},
        layers=[{"layer": 0, "num_features": 2, "offset": 0, "length": 32, "hint": "x"}],
        model_config=config(
            novel=1.5, moe={"num_experts": 2, "top_k": 1, "sort": True}, sliding_window=None
        ),
        source={"extracted_at": "t", "larql_version": "0.1.0", "extractor_sha": "abc"},
        fp4={"fp4_format_version": 1},
        bitnet_layout={"x": 1},
        ffn_layout="per_layer",
        tie_word_embeddings=True,
        lql={"writer": "lql 9"},
    )
    again = json.loads(dump_index(parse(document)))
    assert again["future"] == {"a": [1, None]}
    assert again["layers"][0]["hint"] == "x"
    assert again["model_config"]["novel"] == 1.5
    assert again["model_config"]["moe"]["sort"] is True
    assert again["source"]["extractor_sha"] == "abc"
    for key in ("fp4", "bitnet_layout", "ffn_layout", "tie_word_embeddings", "lql"):
        assert again[key] == document[key]
    assert parse(again) == parse(document)


@pytest.mark.parametrize("key", REQUIRED)
def test_each_required_key_is_required(key: str) -> None:
    with pytest.raises(VindexInvalid, match=f"'{key}' is missing"):
        parse(tiny(**{key: ...}))
    with pytest.raises(VindexInvalid, match="must not be null"):
        parse(tiny(**{key: None}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 1.0}, "num_layers: expected an integer, found the number 1.0"),
        ({"num_layers": True}, "num_layers: expected an integer, found true"),
        ({"num_layers": "1"}, "num_layers: expected an integer, found the string '1'"),
        ({"num_layers": 0}, "num_layers: 0 is outside 1"),
        ({"num_layers": 10**9}, "num_layers: 1000000000 is outside"),
        ({"hidden_size": -4}, "hidden_size: -4 is outside"),
        ({"vocab_size": 1 << 60}, "vocab_size"),
        ({"embed_scale": 0}, "embed_scale"),
        ({"embed_scale": "1"}, "embed_scale: expected a number"),
        ({"model": 5}, "model: expected a string"),
        ({"extract_level": None}, "extract_level: must not be null"),
        ({"extract_level": "Browse"}, "extract_level: 'Browse' is not one of all, attention, br"),
        ({"dtype": None}, "dtype: must not be null"),
        ({"dtype": "F16"}, "dtype: 'F16' is not one of bf16, f16, f32"),
        ({"dtype": "fp16"}, "dtype"),
        ({"quant": "q8"}, "quant: 'q8' is not one of kquant, none, q4k"),
        ({"has_model_weights": None}, "has_model_weights"),
        ({"has_model_weights": 1}, "has_model_weights: expected true or false"),
        ({"layers": {}}, "layers: expected an array, found an object"),
        ({"layers": [3]}, r"layers\[0\]: expected an object"),
        ({"layers": [{"layer": 0}]}, r"layers\[0\]: the key 'num_features' is missing"),
        (
            {"layers": [{"layer": 1, "num_features": 2, "offset": 0, "length": 32}]},
            r"layers\[0\]\.layer: 1 is outside 0\.\.0",
        ),
        (
            {"layers": [{"layer": 0, "num_features": 2, "offset": -1, "length": 32}]},
            r"layers\[0\]\.offset: -1 is outside",
        ),
        (
            {
                "num_layers": 2,
                "layers": [{"layer": 0, "num_features": 2, "offset": 0, "length": 32}] * 2,
            },
            "layer 0 is listed twice",
        ),
        (
            {"layers": [{"layer": 0, "num_features": 2, "offset": 0, "length": 32}] * 2},
            "2 elements; at most 1 make sense here",
        ),
        ({"layer_bands": {"syntax": [0, 0]}}, "layer_bands: the key 'knowledge' is missing"),
        (
            {"layer_bands": {"syntax": [0, 9], "knowledge": [0, 0], "output": [0, 0]}},
            "layer_bands.syntax: 0..9 is no layer range of a 1-layer model",
        ),
        (
            {"layer_bands": {"syntax": [0], "knowledge": [0, 0], "output": [0, 0]}},
            "expected \\[first layer, last layer\\]",
        ),
        ({"source": {"larql_version": "0.1.0"}}, "source: the key 'extracted_at' is missing"),
        ({"checksums": {"a.bin": "AB"}}, "checksums.a.bin: not a SHA-256"),
        ({"checksums": {"a.bin": None}}, "checksums.a.bin: must not be null"),
        ({"model_config": config(rope_base=...)}, "model_config: the key 'rope_base' is missing"),
        ({"model_config": config(rope_base=-1)}, "model_config.rope_base"),
        ({"model_config": config(head_dim=0)}, "model_config.head_dim: 0 is outside"),
        ({"model_config": config(layer_types=[1])}, "layer_types: expected an array of strings"),
        ({"model_config": config(moe={"num_experts": 2})}, "model_config.moe: the key 'top_k'"),
        ({"model_config": []}, "model_config: expected an object, found an array"),
        ({"lql": "yes"}, "lql: expected an object"),
    ],
)
def test_wrong_values_are_refused_with_their_place(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(VindexInvalid, match=message):
        parse(tiny(**changes))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid JSON"),
        ("{", "is not valid JSON"),
        ("[]", "expected an object, found an array"),
        ('{"version": 2, "version": 2}', "the key 'version' stands twice"),
        ('{"version": NaN}', "NaN is not JSON"),
        ('{"embed_scale": -Infinity}', "-Infinity is not JSON"),
        ('{"embed_scale": 1e999}', "too large"),
        ('{"version": ' + "9" * 5000 + "}", "too large"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_json_loads_lets_through_is_refused(text: str, message: str) -> None:
    with pytest.raises(VindexInvalid, match=message):
        parse(text)


def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(VindexInvalid, match="byte 1 is not UTF-8"):
        parse_index(b'"\xff"', PATH)


def test_a_newer_format_is_refused_as_such() -> None:
    with pytest.raises(Unsupported, match="format version 3"):
        parse(tiny(version=3))


def test_a_missing_file_is_incomplete(tmp_path: Path) -> None:
    with pytest.raises(VindexIncomplete, match=r"index\.json is missing"):
        read_index(tmp_path)


def test_layers_may_come_in_any_order() -> None:
    layers = [
        {"layer": 1, "num_features": 2, "offset": 32, "length": 32},
        {"layer": 0, "num_features": 2, "offset": 0, "length": 32},
    ]
    index = parse(tiny(num_layers=2, layers=layers))
    assert [info.layer for info in index.layers] == [0, 1]


def test_numbers_print_as_float32() -> None:
    assert shortest_float32(96**0.5) == 9.797959
    assert index_json(parse(tiny(embed_scale=2560**0.5)))["embed_scale"] == 50.596443


@pytest.mark.parametrize(
    ("family", "layers", "expected"),
    [
        ("gemma3", 34, ((0, 13), (14, 27), (28, 33))),
        ("llama", 32, ((0, 12), (13, 25), (26, 31))),
        ("llama", 30, ((0, 11), (12, 23), (24, 29))),
        ("gemma3", 18, ((0, 6), (7, 13), (14, 17))),
        ("phi", 40, ((0, 15), (16, 32), (33, 39))),
        ("gpt2", 48, ((0, 19), (20, 38), (39, 47))),
        ("anything", 8, ((0, 2), (3, 5), (6, 7))),
    ],
)
def test_bands_follow_larqls_table(
    family: str, layers: int, expected: tuple[tuple[int, int], ...]
) -> None:
    bands = bands_for(family, layers)
    assert bands == Bands(*expected)
    assert [bands.band_of(layer) for layer in (0, layers - 1)] == [Band.SYNTAX, Band.OUTPUT]
    assert sum(len(bands.layers(band)) for band in Band) == layers


def test_small_models_have_no_bands() -> None:
    assert bands_for("llama", 7) is None


def test_every_golden_index_is_readable() -> None:
    for path in VINDEXES.iterdir():
        index = read_index(path)
        assert index.num_layers >= 1
        assert index.model_config is not None
        with pytest.raises(VindexError):
            parse_index((path / "index.json").read_bytes()[:-1], PATH)
