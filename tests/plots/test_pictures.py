"""Pictures: what is on them, that they are the same every time, and that text stays text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from matplotlib.colors import to_rgb

from lql.errors import LqlRuntimeError
from lql.plots import PictureFormat, encoded, figure, lens, picture_of, waterfall
from lql.plots.style import ink_on, sequential, styled
from lql.results import Result
from lql.results.browse import DescribeResult
from lql.results.lifecycle import SetResult
from lql.results.pictures import (
    AttentionMap,
    Contribution,
    Contributions,
    HasContributions,
    HasLens,
    HeadShares,
    LensCell,
    LensMap,
    traced_contributions,
    traced_lens,
)
from lql.session import connect
from tests.repl.conftest import tiny_vindex as tiny_vindex
from tests.unit.samples import ANSWER, DESCRIBE, EDIT, EXPLAIN, INFER

DRAWN: tuple[Result, ...] = (
    EXPLAIN,
    INFER,
    DESCRIBE,
    DescribeResult(entity="xyz", edges=(), detailed=False),
    DescribeResult(entity="France", edges=(ANSWER,) * 40, detailed=True, kinds=("country",)),
    EDIT,
    replace(EDIT, probes=()),
)
LENS = LensMap(
    title="The capital of $France$",
    tokens=("<s>", " $France$", "巴黎\n"),
    layers=(0, 10, 20),
    cells=tuple(
        tuple(LensCell(text, share) for text, share in ((" the", 0.0), ("$x$", 0.5), ("\n", 1.0)))
        for _ in range(3)
    ),
)
SUMS = Contributions(
    "The capital of France is",
    " Paris",
    "logit",
    (
        Contribution(None, "embedding", 1.5),
        Contribution(0, "attention", -4.0),
        Contribution(0, "ffn", 2.25),
        Contribution(1, "attention", 7.5),
        Contribution(1, "per-layer embedding", 0.125),
    ),
)


def texts(svg: bytes) -> list[str]:
    """What the text elements of a picture say, top to bottom as they are drawn."""
    root = ET.fromstring(svg)
    return ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]


def svg_of(drawn: Result) -> bytes:
    return encoded(figure(drawn), PictureFormat.SVG)


@pytest.mark.parametrize("chosen", PictureFormat)
@pytest.mark.parametrize("result", DRAWN, ids=lambda result: type(result).__name__)
@pytest.mark.filterwarnings("error")
def test_the_same_result_gives_the_same_bytes(result: Result, chosen: PictureFormat) -> None:
    first, second = (encoded(figure(result), chosen, "a title") for _ in range(2))

    assert first == second
    beginning = {
        PictureFormat.PNG: b"\x89PNG\r\n\x1a\n",
        PictureFormat.SVG: b"<?xml",
        PictureFormat.HTML: b"<!DOCTYPE html>",
    }
    assert first.startswith(beginning[chosen])


def test_the_lens_names_every_layer_and_what_it_says() -> None:
    shown = texts(svg_of(EXPLAIN))

    assert {"20", "21", "␣Paris", "巴黎"} <= set(shown)
    assert "after layer" in shown


@pytest.mark.filterwarnings("error")
def test_a_lens_over_positions_has_a_cell_for_each_and_no_text_is_mathematics() -> None:
    with styled():
        drawn = lens.draw(LENS)
        shown = texts(encoded(drawn, PictureFormat.SVG))
        encoded(drawn, PictureFormat.PNG)

    assert shown.count("␣the") == shown.count("$x$") == shown.count("\\n") == 3
    assert {"<s>", "␣$France$", "巴黎\\n", "at the token"} <= set(shown)


def test_a_picture_of_pixels_spells_characters_that_its_font_lacks() -> None:
    drawn = figure(EXPLAIN)
    encoded(drawn, PictureFormat.PNG)

    shown = [text.get_text() for axes in drawn.axes for text in axes.texts]
    assert "\\u5df4\\u9ece" in shown


def test_a_waterfall_ends_at_the_sum_of_its_terms() -> None:
    with styled():
        (axes,) = waterfall.draw(SUMS).axes
    bars = axes.patches

    assert [bar.get_height() for bar in bars] == [term.amount for term in SUMS.terms]  # type: ignore[attr-defined]
    tops = [bar.get_y() + bar.get_height() for bar in bars]  # type: ignore[attr-defined]
    assert tops == [1.5, -2.5, -0.25, 7.25, 7.375]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1"]
    named = {text.get_text() for text in axes.texts}
    assert {"+7.5", "-4.0"} <= named


def test_a_graph_shows_relation_target_and_probability_of_every_edge() -> None:
    two = replace(ANSWER, relation="people", target="French", signal="weak", probability=0.5)
    shown = texts(
        svg_of(DescribeResult(entity="France", edges=(ANSWER, two), detailed=True, kinds=("land",)))
    )

    assert {"France", "capital", "Paris", "95.77 %", "people", "French", "50.00 %"} <= set(shown)
    assert {"France (land)", "clear signal", "weak signal"} <= set(shown)


def test_a_graph_says_how_many_edges_it_leaves_out() -> None:
    found = DescribeResult(entity="France", edges=(ANSWER,) * 40, detailed=True)

    assert "the strongest 24 of 40 edges" in texts(svg_of(found))


def test_the_report_of_an_edit_shows_measures_and_what_the_model_says() -> None:
    shown = texts(svg_of(EDIT))

    assert {"efficacy", "paraphrases", "neighbours", "100%", "50%"} <= set(shown)
    assert "✓ The capital of Hungary is" in shown
    assert "␣Oslo\\x1b[2J" in shown  # what would act on a terminal is spelt here as well
    assert "␣Budapest.…" in shown


def test_bars_begin_with_the_most_probable_token() -> None:
    shown = texts(svg_of(INFER))

    assert shown.index("␣Paris") < shown.index("巴黎")
    assert "77.25 %" in shown


def test_the_page_holds_the_picture_and_escapes_its_title() -> None:
    page = encoded(figure(INFER), PictureFormat.HTML, "<b>").decode()

    assert "<title>&lt;b&gt;</title>" in page
    assert page.count("<svg") == 1
    assert "<?xml" not in page
    assert not re.search(r"https?://(?!www\.w3\.org|purl\.org|creativecommons\.org)", page)


def test_text_can_be_read_on_every_shade_of_a_cell() -> None:
    def luminance(colour: tuple[float, ...]) -> float:
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    shades = [sequential()(step / 100) for step in range(101)]
    for shade in shades:
        pair = sorted((luminance(shade), luminance(to_rgb(ink_on(shade)))))
        assert (pair[1] + 0.05) / (pair[0] + 0.05) > 3.0
    darkness = [luminance(shade) for shade in shades]
    assert darkness == sorted(darkness, reverse=True)  # also read in grey, and by the colour-blind


def test_the_users_own_style_is_neither_used_nor_changed() -> None:
    import matplotlib

    before = svg_of(INFER)
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path"}):
        mine = dict(matplotlib.rcParams)
        assert svg_of(INFER) == before
        assert dict(matplotlib.rcParams) == mine


def test_a_result_without_a_picture_is_an_error() -> None:
    with pytest.raises(LqlRuntimeError, match="LQL0590"):
        figure(SetResult(option="device", value="cpu"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced(SetResult):
    """What a TRACE will be: a result that satisfies the protocols."""

    sums: Contributions | None

    def lens_map(self) -> LensMap:
        return LENS

    def contributions(self) -> Contributions | None:
        return self.sums


@pytest.mark.parametrize(("sums", "kind"), [(None, "lens"), (SUMS, "waterfall")])
def test_any_result_that_has_the_numbers_is_drawn(sums: Contributions | None, kind: str) -> None:
    traced = Traced(option="", value="", sums=sums)

    assert isinstance(traced, HasLens)
    assert isinstance(traced, HasContributions)
    assert picture_of(traced).kind == kind
    assert figure(traced).axes


@dataclass(frozen=True, slots=True)
class Row:
    """A row as TRACE has them."""

    layer: int
    position: int
    token: str | None = " is"
    lens: str | None = " Paris"
    lens_probability: float | None = 0.5
    contribution: float | None = None
    attention_logit: float | None = None
    ffn_logit: float | None = None


def test_the_rows_of_a_trace_are_a_lens_over_positions() -> None:
    rows = [
        Row(layer, position, token=f"t{position}") for layer in (-1, 0, 1) for position in (0, 1, 2)
    ]

    found = traced_lens("prompt", rows)
    assert found is not None
    assert found.tokens == ("t0", "t1", "t2")
    assert found.layers == (0, 1)
    assert found.cells[1][2] == LensCell(" Paris", 0.5)
    assert traced_lens("prompt", rows[:-1]) is None
    assert traced_lens("prompt", [replace(row, lens=None) for row in rows]) is None


def test_the_rows_of_a_trace_add_up_in_order() -> None:
    rows = [
        Row(1, 4, contribution=2.0, attention_logit=3.0, ffn_logit=-1.0),
        Row(-1, 4, contribution=0.5),
        Row(0, 4, contribution=1.0, attention_logit=1.0, ffn_logit=0.0),
        Row(0, 3),
    ]

    found = traced_contributions("prompt", " Paris", rows, constant=0.25)
    assert found is not None
    assert [(term.layer, term.part, term.amount) for term in found.terms] == [
        (None, "embedding", 0.5),
        (0, "attention", 1.0),
        (1, "attention", 3.0),
        (1, "ffn", -1.0),
        (None, "bias", 0.25),
    ]
    assert sum(term.amount for term in found.terms) == 0.5 + 1.0 + 2.0 + 0.25
    assert traced_contributions("prompt", "x", [Row(0, 3)]) is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attended(SetResult):
    """What EXPLAIN INFER WITH ATTENTION will be."""

    def attention_map(self) -> AttentionMap:
        heads = tuple(
            HeadShares(layer, head, (0.5, 0.25, 0.25)) for layer in range(3) for head in range(4)
        )
        return AttentionMap("The prompt", ("<s>", "The", " prompt"), heads)


@pytest.mark.filterwarnings("error")
def test_attention_has_a_row_for_each_head_and_a_column_for_each_token() -> None:
    attended = Attended(option="", value="")
    shown = texts(svg_of(attended))

    assert picture_of(attended).kind == "attention"
    assert {"<s>", "The", "␣prompt", "0", "1", "2"} <= set(shown)
    (mesh,) = figure(attended).axes[0].collections
    values = mesh.get_array()
    assert values is not None
    assert values.shape == (12, 3)


def test_an_edit_whose_picture_fails_is_not_made(
    tiny_vindex: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object) -> bytes:
        raise OSError(28, "No space left on device")

    edit = '(entity, relation, target) VALUES ("Hungary", "capital", "Oslo") CHECK NONE'
    with connect(tiny_vindex) as session:
        monkeypatch.setattr("lql.plots.encoded", fails)
        with pytest.raises(LqlRuntimeError):
            session.query(f"PLOT INSERT INTO EDGES {edit} TO :path", path=tmp_path / "x.png")

        assert session.query("SHOW EDITS").rows == []
        assert list(tmp_path.iterdir()) == []
        monkeypatch.undo()
        session.query(f"PLOT INSERT INTO EDGES {edit} TO :path", path=tmp_path / "x.png")
        assert len(session.query("SHOW EDITS").rows) == 1
        session.discard_edits()
