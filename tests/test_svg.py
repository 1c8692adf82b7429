"""Drawings: well-formed, escaped, inside their box, untroubled by what is not a number."""

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benthic.svg import (
    Axis,
    Bar,
    Line,
    average,
    line_chart,
    number,
    spread,
    thin,
    ticks,
    visible,
    waterfall,
)

AXIS = Axis(name="x", show=lambda value: f"{value:g}")
ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(st.tuples(ANY_FLOAT, ANY_FLOAT), max_size=40), st.text())
def test_a_chart_of_anything_is_xml_and_stays_in_its_box(
    points: list[tuple[float, float]], label: str
) -> None:
    lines = [Line(points=points, label=label), Line(points=[(0.0, 1.0)], role="second")]
    root = ElementTree.fromstring(line_chart(label, label, lines, x=AXIS, y=AXIS))
    assert root.get("role") == "img"
    assert [child.tag for child in root][:2] == ["title", "desc"]
    drawn = " ".join(e.get("points", "") for e in root.iter("polyline")).split()
    for x, y in (pair.split(",") for pair in drawn):
        assert -0.1 <= float(x) <= 440.1 and -0.1 <= float(y) <= 250.1


def test_points_that_are_not_numbers_are_skipped() -> None:
    points = [(0.0, 1.0), (1.0, math.nan), (2.0, math.inf), (3.0, 2.0)]
    root = ElementTree.fromstring(line_chart("a", "b", [Line(points=points)], x=AXIS, y=AXIS))
    (line,) = root.iter("polyline")
    assert len(line.get("points", "").split()) == 2


def test_a_chart_without_points_is_refused() -> None:
    with pytest.raises(ValueError, match="'Loss' has no finite point"):
        line_chart("Loss", "", [Line(points=[(0.0, math.nan)])], x=AXIS, y=AXIS)


def test_text_cannot_leave_its_element() -> None:
    hostile = "</svg><script>alert(1)</script>\x00\x1b[2J\ud800"
    drawing = line_chart(hostile, hostile, [Line(points=[(0, 0)], label=hostile)], x=AXIS, y=AXIS)
    assert "<script" not in drawing and drawing.count("</svg>") == 1
    drawing.encode()
    ElementTree.fromstring(drawing)


@given(st.text(alphabet=st.characters()))
def test_visible_text_is_xml_and_keeps_what_can_be_read(text: str) -> None:
    shown = visible(text)
    shown.encode()
    assert not any(ord(c) < 32 and c not in "\t\n" for c in shown)
    assert visible("plain, 7 + 5\n") == "plain, 7 + 5\n"


def test_visible_names_what_hides() -> None:
    assert visible("a\x00\x7f\u202eb\x9b") == "a\u2400\u2421<U+202E>b<U+009B>"


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=900))
def test_thinning_is_short_and_keeps_the_extremes(values: list[float]) -> None:
    points = [(float(i), value) for i, value in enumerate(values)]
    kept = thin(points, 300)
    assert len(kept) <= 300 and kept == sorted(kept)
    assert {min(values), max(values)} <= {y for _, y in kept}


def test_averaging_keeps_the_mean() -> None:
    points = [(float(i), float(i % 2)) for i in range(120)]
    assert average(points, 60) == [(2 * i + 0.5, 0.5) for i in range(60)]


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_are_few_and_inside(low: float, span: float) -> None:
    high = low + span
    if high - low < 1e-9 * max(abs(low), abs(high)):
        return
    found = ticks(low, high)
    assert 1 <= len(found) <= 7
    assert all(low - span * 1e-3 <= t <= high + span * 1e-3 for t in found)


def test_labels_are_moved_apart() -> None:
    assert spread([10, 11, 90], 20, 0, 100) == [10, 30, 90]
    assert spread([95, 96], 20, 0, 100) == [80, 100]


def test_a_waterfall_starts_where_the_last_bar_ended() -> None:
    bars = [
        Bar(label="final", note="1", amount=1.0, total=True),
        Bar(label="failed", note="2", amount=2.0),
        Bar(label="refund <&>", note="-1", amount=-1.0),
        Bar(label="all", note="2", amount=2.0, total=True),
    ]
    root = ElementTree.fromstring(waterfall("t", "d", bars, width=300))
    rects = [(float(e.get("x", "")), float(e.get("width", ""))) for e in root.iter("rect")]
    assert rects == [(0, 100), (100, 200), (200, 100), (0, 200)]
    with pytest.raises(ValueError, match="has no bars"):
        waterfall("t", "d", [])


def test_numbers_are_finite_and_no_bools() -> None:
    assert number(3) == 3.0
    assert all(number(v) is None for v in (True, None, "3", math.nan, -math.inf, 10**400))
