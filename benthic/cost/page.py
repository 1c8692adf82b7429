"""An answer about money, said twice from one story: in a terminal, and as a page for a browser.

A `Page` is plain data: a verdict, four numbers, sections of prose, lists, tables and drawings. The
terminal leaves drawings and folded tables out. The HTML is one file without scripts that loads
nothing, light or dark as the reader's system is; its words are the story's, its looks stand in
`page.html.jinja`. Every text is escaped and its control characters are made visible.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from markupsafe import Markup

from benthic.cost.catalog.load import CostError
from benthic.svg import visible

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class Number:
    """One of the numbers beside the verdict."""

    label: str
    value: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text; columns named in `right` are aligned there. A `folded` one is for the page."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[str] = ()
    title: str = ""
    note: str = ""
    total: bool = False
    """the last row is the sum of those above"""
    phone: str = ""
    """grid columns on a narrow screen, where the last column takes a line of its own"""
    folded: bool = False
    kind: str = "table"


@dataclass(frozen=True, kw_only=True)
class Prose:
    text: str
    kind: str = "prose"


@dataclass(frozen=True, kw_only=True)
class Points:
    """A list of short statements, each opened by what it is about."""

    items: Sequence[tuple[str, str]]
    kind: str = "points"


@dataclass(frozen=True, kw_only=True)
class Origins:
    """Figures in words, each with its sources, on lines of their own that nothing breaks."""

    title: str
    items: Sequence[tuple[str, Sequence[str]]]
    kind: str = "origins"


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """An SVG with the sentence that says how to read it; its look sets the size of its text."""

    title: str
    drawing: Markup
    caption: str
    look: Literal["wide", "rings", "chart"] = "wide"
    kind: str = "drawing"


@dataclass(frozen=True, kw_only=True)
class Section:
    title: str
    blocks: Sequence[Table | Prose | Points | Origins | Drawing]


@dataclass(frozen=True, kw_only=True)
class Page:
    title: str
    span: str = ""
    """of time, which the name of a window or a file tells too"""
    verdict: str
    about: str
    numbers: Sequence[Number]
    sections: Sequence[Section]


def money(amount: float) -> str:
    """US dollars for a reader: cents below a hundred, four digits from a million on, in billions
    from ten of them on, so that amounts to be compared share a unit."""
    sign, size = "-" if amount < 0 else "", abs(amount)
    if size < 100:
        return f"{sign}${size:,.2f}"
    if size < 999_999.5:
        return f"{sign}${size:,.0f}"
    scale, letter = (1e6, "M") if size < 9_999.5e6 else (1e9, "B")
    return f"{sign}${_short(digits(size / scale))}{letter}"


def _short(number: str) -> str:
    return number.rstrip("0").rstrip(".") if "." in number else number


def rate(dollars: float) -> str:
    """US dollars an hour, to a tenth of a cent."""
    return f"${dollars:,.3f}"


def digits(value: float, count: int = 4) -> str:
    """A number with `count` significant digits, whole from there on; 2572.56 is 2,573.

    From 1e15 on with an exponent; one beyond all floats is "inf".
    """
    if not value:
        return "0"
    if abs(value) >= 1e15:
        return f"{value:.{count}g}"
    places = max(0, count - 1 - math.floor(math.log10(abs(value)) + 1e-9))
    return f"{value:,.{places}f}"


def share(value: float) -> str:
    """A share of one in per cent: two digits below ten per cent, whole above."""
    size = abs(100 * value)
    return f"{100 * value:.0f}%" if size >= 9.95 or not size else f"{100 * value:.2g}%"


def whole(value: float) -> str:
    return f"{value:,.0f}"


def terminal(width: int | None = None) -> "Console":
    """What prints; BrokenPipeError where whoever read it has left, instead of rich's own exit."""
    import rich.console

    class Terminal(rich.console.Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Terminal(highlight=False, width=width)


def say(sentence: str) -> None:
    terminal().print(visible(sentence), markup=False)


def print_page(page: Page) -> None:
    """Print a page for a terminal of 80 columns, without drawings and folded tables."""
    from rich.padding import Padding
    from rich.table import Table as Grid
    from rich.text import Text

    out = terminal()
    out.print(Text(visible(page.verdict), "bold"))
    out.print(Text(visible(page.about), "dim"))
    for section in page.sections:
        shown = [b for b in section.blocks if b.kind != "drawing" and not _folded(b)]
        if shown:
            out.print(Text(f"\n{visible(section.title)}", "bold cyan"))
        for block in shown:
            if isinstance(block, Prose):
                out.print(Text(visible(block.text)))
            elif isinstance(block, Points):
                points = Grid(box=None, show_header=False, pad_edge=False)
                widest = max(len(name) for name, _ in block.items)
                points.add_column(style="bold", width=min(widest, 28))
                points.add_column(overflow="fold")
                for name, text in block.items:
                    points.add_row(Text(visible(name)), Text(visible(text)))
                out.print(points)
            elif isinstance(block, Origins):
                out.print(Text(visible(block.title), "italic"))
                for words, places in block.items:
                    out.print(Padding(Text(visible(words)), (0, 0, 0, 2)))
                    for place in map(visible, places):
                        if place.startswith("http"):  # only the terminal wraps it: copied whole
                            out.print(Text(f"    {place}", "dim"), soft_wrap=True)
                        else:
                            out.print(Padding(Text(place, "dim"), (0, 0, 0, 4)))
            elif isinstance(block, Table):
                table = Grid(box=None, pad_edge=False, header_style="dim", title_justify="left")
                for name in block.columns:
                    right = name in block.right
                    table.add_column(
                        Text(name),
                        justify="right" if right else "left",
                        no_wrap=right,
                        overflow="fold",
                    )
                for i, row in enumerate(block.rows):
                    bold = block.total and i == len(block.rows) - 1
                    table.add_row(*(Text(visible(c)) for c in row), style="bold" if bold else "")
                if block.title:
                    out.print(Text(visible(block.title), "italic"))
                out.print(table)
                if block.note:
                    out.print(Padding(Text(visible(block.note), "dim"), (0, 0, 0, 2)))


def _folded(block: object) -> bool:
    return isinstance(block, Table) and block.folded


def render(page: Page) -> str:
    """Return the page as HTML text."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("benthic.cost", "."),
        autoescape=True,
        finalize=lambda v: visible(v) if isinstance(v, str) and not isinstance(v, Markup) else v,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["link"] = lambda text: text.startswith(("https://", "http://"))
    return environment.get_template("page.html.jinja").render(page=page)


def write_page(page: Page, target: Path) -> None:
    """Write the page, whole or not at all. Raises `CostError` where that cannot be done."""
    write_text(render(page), target)


def write_text(text: str, target: Path) -> None:
    """Write a file, whole or not at all. Raises `CostError` where that cannot be done."""
    partial = target.with_name(f".partial-{target.name}")
    try:
        try:
            partial.write_text(text, encoding="utf-8", newline="\n")
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        name, why = visible(str(target)), visible(cause)
        raise CostError(f"{name} cannot be written ({why}); name a file in a folder.") from None


def circles(title: str, words: str, amounts: Sequence[tuple[str, float, str]]) -> Markup:
    """Concentric circles whose areas are amounts, the largest first: label, amount, its writing."""
    size, centre = 400.0, 200.0
    most = amounts[0][1]
    parts, labels = [], []
    for i, (label, amount, shown) in enumerate(amounts):
        radius = max(centre * math.sqrt(amount / most) - 1, 1.5)
        parts.append(_tag("circle", f"ring r{i}", cx=centre, cy=centre, r=radius))
        if not i:
            labels += [_words(centre, 58, label, "name", "middle")]
            labels += [_words(centre, 82, shown, "value", "middle")]
            continue
        y = 152.0 + 52 * (i - 1)
        x1, y1 = centre + radius * 0.8, centre + radius * (-0.6, 0, 0.6)[min(i - 1, 2)]
        labels.append(_tag("line", "leader", x1=x1, y1=y1, x2=246, y2=y - 5))
        labels.append(_words(250, y - 8, label, "name", "start"))
        labels.append(_words(250, y + 13, shown, "value", "start"))
    return _svg(title, words, parts + labels, size, size)


def boxes(title: str, words: str, pairs: Sequence[tuple[str, float, float]]) -> Markup:
    """Rectangles of width and height, on one scale from a shared corner: label, width, height."""
    widest, highest = max(p[1] for p in pairs), max(p[2] for p in pairs)
    left, bottom, wide, high = 2.0, 238.0, 596.0, 190.0
    parts = [_tag("line", "grid", x1=left, y1=bottom, x2=left + wide, y2=bottom)]
    for i, (label, width, height) in enumerate(pairs):
        across, up = max(width / widest * wide, 2.0), height / highest * high
        parts.append(_tag("rect", f"box b{i}", x=left, y=bottom - up, width=across, height=up))
        if across < 60:
            parts.append(_words(left, bottom - up - 10, label, "name"))
        else:
            parts.append(_words(left + 14, bottom - up + 30, label, "name inside"))
    return _svg(title, words, parts, 600, 250)


def bars(
    title: str,
    words: str,
    rows: Sequence[tuple[str, str, Sequence[tuple[float, float, str]]]],
) -> Markup:
    """Rows of a label, a note and spans (start, end, class), all on one scale that holds zero."""
    ends = [end for _, _, spans in rows for span in spans for end in span[:2]]
    low, high = min(0.0, *ends), max(ends)
    span = (high - low) or 1.0
    parts = []
    for i, (label, note, spans) in enumerate(rows):
        y = 50.0 * i
        parts.append(_words(0, y + 18, label, "name"))
        parts.append(_words(600, y + 18, note, "value", "end"))
        parts.append(_tag("line", "grid", x1=0, y1=y + 33, x2=600, y2=y + 33))
        for start, end, role in spans:
            x1, x2 = ((v - low) / span * 600 for v in (start, end))
            wide = max(abs(x2 - x1), 3.0)
            at = min(x1, x2, 600 - wide)
            parts.append(_tag("rect", f"bar {role}", x=at, y=y + 26, width=wide, height=14))
    return _svg(title, words, parts, 600, 50 * len(rows))


def _tag(name: str, role: str, **places: float) -> Markup:
    shown = Markup(" ").join(
        Markup('{}="{:.1f}"').format(key, value) for key, value in places.items()
    )
    return Markup('<{} class="{}" {}/>').format(name, role, shown)


def _words(x: float, y: float, text: str, role: str, anchor: str = "start") -> Markup:
    form = '<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>'
    return Markup(form).format(role, x, y, anchor, visible(text))


def _svg(title: str, words: str, parts: Sequence[Markup], width: float, height: float) -> Markup:
    form = '<svg role="img" viewBox="0 0 {:.0f} {:.0f}"><title>{}</title><desc>{}</desc>{}</svg>'
    return Markup(form).format(
        width, height, visible(title), visible(words), Markup("").join(parts)
    )
