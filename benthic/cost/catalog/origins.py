"""Where a figure is from, for a reader: what it says, then its sources, an address a line.

A price that sums up several observations has ends that others asked: `ends` finds whose they are.
"""

import re
from collections.abc import Iterable
from datetime import date as Day

from benthic.cost.catalog.figures import Figure, days

_BETWEEN = re.compile(r"\s*;\s+(?=https?://)|(?<=[^\s;])\s+(?=\()")


def origin(figure: Figure) -> tuple[str, tuple[str, ...]]:
    """Key, value, range, unit, date, confidence and note in one line; then each source, words that
    follow an address apart from it."""
    ranged = f" ({figure.low:,.12g} to {figure.high:,.12g})" if figure.low < figure.high else ""
    note = f"; {figure.note}" if figure.note else ""
    words = (
        f"{figure.key} = {figure.value:,.12g} {figure.unit}{ranged}, {figure.date or 'undated'}, "
        f"confidence {figure.confidence}{note}"
    )
    return words, tuple(_BETWEEN.split(figure.source))


def ends(figure: Figure, rows: Iterable[Figure], until: Day = Day.max) -> list[tuple[str, Figure]]:
    """Of a figure that sums up some of `rows`, the newest up to `until` that has its low end, and
    the newest that has its high end, by name; none where its own source has them."""
    past = [row for row in rows if not row.date or days(row.date)[0] <= until]
    past.sort(key=lambda row: row.date)
    found = []
    for name, value in (("low", figure.low), ("high", figure.high)):
        row = next((row for row in reversed(past) if getattr(row, name) == value), None)
        if row and (row.source, row.date) != (figure.source, figure.date):
            found.append((name, row))
    return found
