"""Line charts and waterfalls drawn by hand as SVG strings.

A drawing is `Markup` to set into a page: it scales by its viewBox, names itself with a title and a
description, and takes every colour from the page's style sheet through the classes `line`, `first`,
`second`, `third`, `faint`, `even`, `grid`, `tick`, `name`, `value`, `bar`, `total`, `step`, `less`.
Every text passes through `visible` and is escaped. Left out: log axes, legends, interaction.
"""

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from markupsafe import Markup

Point = tuple[float, float]

LARGEST = 1e100  # beyond it a sum or a span could overflow; no measured quantity comes near
LABEL_GAP = 31.0  # two lines of text at the size that phones are given
ROW = 50.0  # one bar of a waterfall with its text above


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve: `role` is its CSS classes; a `label` stands at its right end with its value."""

    points: Sequence[Point]
    role: str = "first"
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis: its name, how a value on it is written, and bounds that it must at least cover."""

    name: str
    show: Callable[[float], str]
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar of a waterfall: a `total` starts from zero, a step from where the last bar ended."""

    label: str
    note: str
    amount: float
    total: bool = False


def number(value: object) -> float | None:
    """Return a finite number of sane size as float, and None for anything else, bools included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < LARGEST else None


def visible(text: str) -> str:
    """Make control, bidirectional, zero-width and broken characters visible; keep tab and newline.

    The result can always be encoded as UTF-8 and be placed in XML.
    """
    return "".join(map(_visible, text))


def _visible(char: str) -> str:
    code = ord(char)
    if char in "\t\n" or 0x20 <= code < 0x7F:
        return char
    if code < 0x20:
        return chr(0x2400 + code)  # the Unicode block of control pictures
    if code == 0x7F:
        return "\u2421"
    hidden = unicodedata.category(char) in {"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"}
    return f"<U+{code:04X}>" if hidden else char


def thin(points: Sequence[Point], limit: int = 300) -> list[Point]:
    """Keep at most `limit` points, the lowest and highest of each stretch, so spikes survive."""
    if len(points) <= limit:
        return list(points)
    kept: list[Point] = []
    for stretch in _stretches(points, limit // 2):
        kept.extend(sorted({min(stretch, key=_y), max(stretch, key=_y)}))
    return kept


def average(points: Sequence[Point], limit: int) -> list[Point]:
    """Replace the points of each of `limit` equal stretches by their mean, if there are more."""
    if len(points) <= limit:
        return list(points)
    return [
        (fmean(x for x, _ in stretch), fmean(y for _, y in stretch))
        for stretch in _stretches(points, limit)
    ]


def _stretches(points: Sequence[Point], count: int) -> list[Sequence[Point]]:
    edges = [len(points) * i // count for i in range(count + 1)]
    return [points[a:b] for a, b in pairwise(edges)]


def _y(point: Point) -> float:
    return point[1]


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round values (1, 2 or 5 times a power of ten apart) that lie in [low, high]."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _bounds(axis: Axis, values: list[float]) -> tuple[float, float]:
    low = min(values) if axis.low is None else min(axis.low, *values)
    high = max(values) if axis.high is None else max(axis.high, *values)
    size = max(abs(low), abs(high), 1e-9)
    if high - low < 1e-9 * size:  # a constant: give it air on the open sides
        return low - (size / 2 if axis.low is None else 0.0), high + size / 2
    return low, high


def line_chart(
    title: str,
    description: str,
    lines: Sequence[Line],
    *,
    x: Axis,
    y: Axis,
    width: int = 440,
    height: int = 250,
) -> Markup:
    """Draw curves over shared axes, in viewBox units of about one CSS pixel.

    Points that are not finite numbers are skipped; a line of one point becomes a dot. Raises
    ValueError when nothing is left to draw.
    """
    clean = [[p for p in line.points if None not in map(number, p)] for line in lines]
    everything = [p for points in clean for p in points]
    if not everything:
        raise ValueError(f"The chart '{title}' has no finite point; leave the chart out.")
    left, right, top, bottom = 50.0, width - 76.0, 29.0, height - 42.0
    x_low, x_high = _bounds(x, [p[0] for p in everything])
    y_low, y_high = _bounds(y, [p[1] for p in everything])

    def across(value: float) -> float:
        return left + (value - x_low) / (x_high - x_low) * (right - left)

    def down(value: float) -> float:
        return bottom - (value - y_low) / (y_high - y_low) * (bottom - top)

    parts = [_rule(left, bottom, right, bottom)]
    for value in ticks(y_low, y_high):
        parts.append(_rule(left, down(value), right, down(value)))
        parts.append(_text(left - 7, down(value) + 4, y.show(value), "tick", "end"))
    for value in ticks(x_low, x_high, width // 100):
        parts.append(_text(across(value), bottom + 18, x.show(value), "tick", "middle"))
    parts.append(_text(0, 11, y.name, "tick", "start"))
    parts.append(_text(right, bottom + 37, x.name, "tick", "end"))

    ends: list[tuple[float, str, Line]] = []
    for line, points in zip(lines, clean, strict=True):
        if not points:
            continue
        parts.append(_path([(across(a), down(b)) for a, b in points], line.role))
        if line.label:
            ends.append((down(points[-1][1]), y.show(points[-1][1]), line))
    ends.sort(key=lambda end: end[0])
    heights = spread([h for h, _, _ in ends], LABEL_GAP, top + 4, bottom - 12)
    for at, (_, shown, line) in zip(heights, ends, strict=True):
        parts.append(_text(right + 8, at, line.label, f"name {line.role}", "start"))
        parts.append(_text(right + 8, at + 15, shown, f"value {line.role}", "start"))
    return _drawing(title, description, parts, width, height)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move ascending positions apart to at least `gap`, as near as can be, inside [low, high].

    Where they cannot all fit they overflow above `low` rather than overlap.
    """
    placed: list[float] = []
    for value in wanted:
        placed.append(max(value, low, placed[-1] + gap if placed else low))
    limit = high
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - gap
    return placed


def waterfall(title: str, description: str, bars: Sequence[Bar], *, width: int = 600) -> Markup:
    """Draw bars from top to bottom: totals start from zero, steps from where the last bar ended.

    The label stands above its bar on the left, the note on the right. Raises ValueError without
    bars.
    """
    if not bars:
        raise ValueError(f"The waterfall '{title}' has no bars; leave the drawing out.")
    spans: list[tuple[float, float]] = []
    for bar in bars:
        start = 0.0 if bar.total or not spans else spans[-1][1]
        spans.append((start, start + (number(bar.amount) or 0.0)))
    low = min(min(span) for span in spans)
    scale = width / (max(max(max(span) for span in spans) - low, 1e-12))
    parts: list[Markup] = []
    for i, (bar, (start, end)) in enumerate(zip(bars, spans, strict=True)):
        y, at = i * ROW, (min(start, end) - low) * scale
        role = "total" if bar.total else "less" if end < start else "step"
        parts.append(_text(0, y + 18, bar.label, "name", "start"))
        parts.append(_text(width, y + 18, bar.note, "value", "end"))
        rect = Markup('<rect class="bar {}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="14"/>')
        long = max(abs(end - start) * scale, 1.5)
        parts.append(rect.format(role, min(at, width - long), y + 26, long))
        if i + 1 < len(bars):  # set before the texts, which it runs behind
            edge = (end - low) * scale
            parts.insert(0, _rule(edge, y + 40, edge, y + ROW + 26))
    return _drawing(title, description, parts, width, round(len(bars) * ROW))


def _path(points: list[Point], role: str) -> Markup:
    if len(points) == 1:
        dot = Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="3"/>')
        return dot.format(role, *points[0])
    joined = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    return Markup('<polyline class="line {}" points="{}"/>').format(role, joined)


def _rule(x1: float, y1: float, x2: float, y2: float) -> Markup:
    form = '<line class="grid" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'
    return Markup(form).format(x1, y1, x2, y2)


def _text(x: float, y: float, text: str, role: str, anchor: str) -> Markup:
    form = '<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>'
    return Markup(form).format(role, x, y, anchor, visible(text))


def _drawing(title: str, description: str, parts: list[Markup], width: int, height: int) -> Markup:
    form = '<svg role="img" viewBox="0 0 {} {}"><title>{}</title><desc>{}</desc>{}</svg>'
    body = Markup("\n").join(parts)
    return Markup(form).format(width, height, visible(title), visible(description), body)
