"""Figures with a range, a unit, a source and a date; how a CSV file of them is read and refused.

A row is key,value,low,high,unit,source,date,confidence,note. Units are written out and checked:
each has bounds, so that a slip (watts for kilowatts, cents for dollars) is seen where it was made.
Money is in US dollars alone: a file in another currency is refused, since a rate has a date too.
Every fault ends in one CostError that names the file, the line and the remedy.
"""

import csv
import re
from calendar import monthrange
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date as Day
from datetime import timedelta
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from benthic.svg import visible

COLUMNS = ("key", "value", "low", "high", "unit", "source", "date", "confidence", "note")
CONFIDENCE = ("high", "medium", "low", "derived", "own")
PERIOD = timedelta(days=92)  # observations so close to the newest one speak of the same market
_FEW = 3  # observations; of fewer, those of a second PERIOD before have a say, too
LARGEST = 1_000_000  # bytes of a file; the largest shipped one has a tenth of it

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DATE = re.compile(r"(\d{4})(?:-(\d\d))?(?:-(\d\d))?", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_CURRENCY = re.compile(
    "EUR|CNY|RMB|GBP|JPY|CHF|INR|KRW|CAD|AUD|HKD|SGD|TWD|BRL|[\u20ac\u00a3\u00a5\u20b9\u20a9]",
    re.IGNORECASE,
)


class CostError(ValueError):
    """A figure, a name or a file of a plan cannot be used; the text says which, and the remedy. It
    may quote a stranger's file or its name, so control characters are made visible."""

    def __str__(self) -> str:
        return visible(super().__str__())


class Unit(NamedTuple):
    """What a unit measures, how many base units it is, and the least and most that is no slip."""

    kind: str
    scale: float
    least: float
    most: float


UNITS = {
    "TFLOP/s": Unit("FLOP/s", 1e12, 1e-3, 1e5),
    "PFLOP/s": Unit("FLOP/s", 1e15, 1e-6, 1e2),
    "GB": Unit("bytes", 1e9, 0.1, 1e5),
    "GiB": Unit("bytes", 2**30, 0.1, 1e5),
    "TB": Unit("bytes", 1e12, 1e-4, 1e2),
    "Gbit/s": Unit("bytes/s", 1.25e8, 0.1, 1e5),
    "GB/s": Unit("bytes/s", 1e9, 0.1, 1e5),
    "TB/s": Unit("bytes/s", 1e12, 1e-4, 1e2),
    "W": Unit("W", 1, 1, 1e5),
    "kW": Unit("W", 1e3, 1e-3, 1e2),
    "GPU": Unit("GPU", 1, 1, 1e5),
    "people": Unit("people", 1, 0, 1e6),
    "count": Unit("count", 1, 0, 1e9),
    "h": Unit("seconds", 3600, 0, 1e7),
    "s": Unit("seconds", 1, 0, 1e6),
    "years": Unit("years", 1, 0.1, 50),
    "USD": Unit("USD", 1, 0, 1e7),
    "USD/h": Unit("USD/h", 1, 0, 1e3),
    "USD/kWh": Unit("USD/kWh", 1, 0, 5),
    "USD/kW-month": Unit("USD/kW-month", 1, 0, 5e3),
    "USD/year": Unit("USD/year", 1, 0, 1e8),
    "CNY/USD": Unit("CNY/USD", 1, 1, 20),
    "fraction": Unit("fraction", 1, 0, 1),
    "%": Unit("fraction", 0.01, 0, 100),
    "fraction/year": Unit("fraction/year", 1, 0, 1),
    "%/year": Unit("fraction/year", 0.01, 0, 100),
    "OOM/year": Unit("OOM/year", 1, 0, 5),
    "x": Unit("x", 1, 1, 100),
}


@dataclass(frozen=True)
class Figure:
    """One figure: low <= value <= high, all three in `unit`; `date` is the source's."""

    key: str
    value: float
    low: float
    high: float
    unit: str
    source: str
    date: str
    confidence: str
    note: str = ""

    @property
    def si(self) -> float:
        """The value in base units: FLOP/s, bytes, bytes/s, W, seconds; money stays in USD."""
        return self.value * UNITS[self.unit].scale


def explain(figure: Figure) -> str:
    """One line: key = value unit (low to high): source, date, confidence; note."""
    span = "" if figure.low == figure.high else f" ({figure.low:,.6g} to {figure.high:,.6g})"
    note = f"; {figure.note}" if figure.note else ""
    return (
        f"{figure.key} = {figure.value:,.6g} {figure.unit}{span}: {figure.source}, "
        f"{figure.date or 'undated'}, confidence {figure.confidence}{note}"
    )


def summary(rows: list[Figure], until: Day) -> Figure:
    """The rows up to `until`, of the newest one's time, as one; an undated row is of any time.

    That is their lower median, so a price that somebody asked, or the middle of two, with the
    lowest and the highest of them. Where they are few, those of twice the time widen the range, and
    decide between two; one that is alone in its time stays the value.
    """
    dated = [(days(row.date)[0] if row.date else min(until, Day.today()), row) for row in rows]
    past = [(day, row) for day, row in dated if day <= until]
    if not past:
        dates = sorted({row.date for row in rows})
        raise CostError(
            f"no {rows[0].key} is known as early as {until}: the dates with figures go from "
            f"{dates[0]} to {dates[-1]}"
        )
    newest = max(day for day, _ in past)
    near = [row for day, row in past if newest - day <= PERIOD]
    wide = near
    if len(near) < _FEW:
        wide = [row for day, row in past if newest - day <= 2 * PERIOD]
    chosen, how = _median(wide if len(near) > 1 else near)
    if len(wide) == 1:
        return chosen
    first, last = min(row.date for row in wide), max(row.date for row in wide)
    return replace(
        chosen,
        low=min(row.low for row in wide),
        high=max(row.high for row in wide),
        note=f"{how} of {len(wide)} from {first} to {last}; {chosen.note}",
    )


def _median(rows: list[Figure]) -> tuple[Figure, str]:
    """The lower one, or the middle of two, and what it is called."""
    ordered = sorted(rows, key=lambda row: (row.value, row.date))
    if len(ordered) != 2 or ordered[0].value == ordered[1].value:
        return ordered[(len(ordered) - 1) // 2], "lower median" if len(rows) > 1 else "newest"
    one, other = sorted(rows, key=lambda row: row.date)
    middle = replace(
        other,
        value=(one.value + other.value) / 2,
        source=f"{one.source} and {other.source}",
        note=f"{one.note}; {other.note}",
    )
    return middle, "middle"


def cells_of(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and rows of a file of figures that has the columns `needed`."""
    reader = csv.reader(StringIO(text_of(path), newline=""), strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        missing = [name for name in needed if name not in header]
        if missing:
            raise CostError(
                f"{path} lacks the column {missing[0]} in line 1: let that be {','.join(COLUMNS)}, "
                f"separated by commas, of which {', '.join(needed)} must be there"
            )
        for place, name in enumerate(header):
            if name not in COLUMNS or name in header[:place]:
                fault = "twice" if name in COLUMNS else "which means nothing"
                raise CostError(
                    f"{path} has the column {quoted(name)} in line 1, {fault}: columns are "
                    f"{', '.join(COLUMNS)}, each once"
                )
        for cells in reader:
            if len(cells) > len(header):
                raise CostError(
                    f"{path}, line {reader.line_num} has {len(cells)} cells for {len(header)} "
                    "columns: quote texts that hold commas"
                )
            # One line each, without the marks that turn a terminal's writing round.
            texts = ["".join(filter(str.isprintable, " ".join(cell.split()))) for cell in cells]
            if any(texts):
                # A row may end early; what is left out is empty.
                texts += [""] * (len(header) - len(texts))
                yield reader.line_num, dict(zip(header, texts))
    except csv.Error as error:
        raise CostError(
            f"{path}, line {reader.line_num} cannot be read as CSV ({error}): "
            "close every quote and save the file again"
        ) from None


def text_of(path: Path) -> str:
    """The text of a file of figures that is no larger than LARGEST."""
    try:
        if not path.is_file():
            raise CostError(f"{path} is no file: give the path of a CSV file")
        size = path.stat().st_size
        if size > LARGEST:
            raise CostError(
                f"{path} has {size / 1e6:,.1f} MB, a file of figures at most {LARGEST / 1e6:g}: "
                "keep the rows that change a figure"
            )
        text = path.read_bytes().decode("utf-8-sig")
    except CostError:
        raise
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise CostError(f"{path} cannot be read, {cause}: save it as CSV in UTF-8") from None
    if _CONTROL.search(text):  # a terminal would obey some of them
        raise CostError(f"{path} cannot be read, it is no text: save it as CSV in UTF-8")
    return text


def figure_of(row: dict[str, str], where: str) -> Figure:
    """A row of texts, of a unit that there is, as a figure; CostError says what is wrong."""
    key, unit = row["key"].lower(), row["unit"]
    value = _number(row["value"], key, unit, where)
    low = _number(row["low"], key, unit, where) if row.get("low") else value
    high = _number(row["high"], key, unit, where) if row.get("high") else value
    if not low <= value <= high:
        raise CostError(
            f"{where}: {key[:60]} is {value:g}, outside its own range of {low:g} to {high:g}: "
            "let low <= value <= high"
        )
    date, confidence = row.get("date", ""), row.get("confidence") or "own"
    try:
        days(date or "2000")
    except CostError as error:
        raise CostError(f"{where}: {error}") from None
    if confidence not in CONFIDENCE:
        raise CostError(
            f"{where}: the confidence {quoted(confidence)} is not one of {', '.join(CONFIDENCE)}"
        )
    source = row.get("source") or where
    return Figure(key, value, low, high, unit, source, date, confidence, row.get("note", ""))


def wrong_unit(unit: str, kind: str) -> str:
    """The end of a sentence about a figure that has such a unit, and is of such a kind."""
    if _CURRENCY.search(unit):
        return f"in {quoted(unit)}, the catalog in USD: convert it, and note the rate and its date"
    fit = " or ".join(name for name, known in UNITS.items() if known.kind == kind)
    return f"in {quoted(unit)}: give it in {fit}" if unit else f"without a unit: give it in {fit}"


def _number(text: str, key: str, unit: str, where: str) -> float:
    if not NUMBER.fullmatch(text):
        raise CostError(
            f"{where}: {key[:60]} is {quoted(text)}, no number: write digits and a point, without "
            "separators or unit"
        )
    value, bounds = float(text), UNITS[unit]
    if not bounds.least <= value <= bounds.most:
        raise CostError(
            f"{where}: {key[:60]} is {value:g} {unit}, not from {bounds.least:g} to "
            f"{bounds.most:g}: check the value and its unit"
        )
    return value


@lru_cache(maxsize=4096)
def days(date: str) -> tuple[Day, Day]:
    """First and last day of 2025, 2025-03 or 2025-03-17."""
    match = _DATE.fullmatch(date)
    try:
        if not match:
            raise ValueError
        year, month, day = (int(part) if part else None for part in match.groups())
        first = Day(year or 0, 1 if month is None else month, 1 if day is None else day)
        if day is not None:
            return first, first
        if month is not None:
            return first, first.replace(day=monthrange(first.year, first.month)[1])
        return first, first.replace(month=12, day=31)
    except ValueError:
        raise CostError(f"{quoted(date)} is no date: write 2025, 2025-03 or 2025-03-17") from None


def quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
