"""How a bill writes its figures: dollars to the cent, hours, energy, dates.

Dollars are whole from ten thousand on, to the cent below, finer below a dollar: the size of the
whole bill decides, so that a column has one precision.
"""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Context, Decimal

from benthic.cost.ledger.entries import label
from benthic.cost.page import digits, share

Write = Callable[[float], str]
_EXACT = Context(prec=60)


def places(full: float) -> int:
    """Digits after the point that a bill of that size shows."""
    return 0 if full >= 1e4 else cents(full)


def cents(full: float) -> int:
    """Digits after the point that a bill of that size is kept to: two, or more below a dollar."""
    return 2 if full >= 1 or not full else min(10, 2 - math.floor(math.log10(full)))


def dollars(full: float) -> Write:
    """How a bill of that size writes dollars."""
    after = places(full)
    return lambda amount: f"{'-' if amount < 0 else ''}${nearest(abs(amount), after):,f}"


def nearest(amount: float, places: int) -> Decimal:
    """An amount rounded, halves up."""
    return decimal(amount).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP, _EXACT)


def decimal(amount: float) -> Decimal:
    """An amount to 14 digits: the same sum in another order is apart in the last of a float's."""
    return Decimal(f"{amount:.14g}")


def hours(value: float) -> str:
    """Device-hours: two digits below ten, whole above; a tenth of a second is not nothing."""
    return digits(value, 2) if 0 < value < 9.95 else f"{value:,.0f}"


def day(unix: float) -> str:
    """The date in UTC; what a broken clock has left is shown as the number it is."""
    try:
        return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return f"unix time {unix:g}"


def run_label(run: str) -> str:
    return label("", run)


def row_word(number: int) -> str:
    return "row" if number == 1 else "rows"


def signed(amount: float, write: Write) -> str:
    return f"+{write(amount)}" if amount >= 0 else write(amount)


def part_of(amount: float, full: float) -> str:
    return share(amount / full) if full else ""


def blank(write: Write) -> Write:
    return lambda amount: write(amount) if amount else "-"


def short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def kwh(joules: float) -> str:
    """Joules as Wh, kWh, MWh or GWh."""
    hour = joules / 3600
    for scale, unit in ((1e9, "GWh"), (1e6, "MWh"), (1e3, "kWh")):
        if hour >= 0.9995 * scale:
            return f"{digits(hour / scale, 3)} {unit}"
    return f"{digits(hour, 3)} Wh"


def between(low: float, high: float, otherwise: str) -> str:
    return f"{kwh(low)} - {kwh(high)}" if low < high else otherwise


def ends(low: float, high: float) -> str:
    return f"{low:,.10g} - {high:,.10g}" if low < high else ""


def is_measured(source: str) -> bool:
    """Whether energy of this source was read from counters, the GPUs' or the processor's."""
    return set(source.split("+")) <= {"nvml", "rapl"}
