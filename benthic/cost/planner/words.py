"""How a plan writes its figures: counts, dollars, prices, times, energy, and one or several.

An estimate has three digits; what somebody gave is said as it was given.
"""

from collections.abc import Callable

from benthic.cost.page import digits, money
from benthic.cost.spread import Spread


def count(number: float) -> str:
    """671B, 14.8T, 512: three digits and a scale."""
    number = float(f"{number:.3g}")
    for scale, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= scale:
            return digits(number / scale, 3) + letter
    return digits(number, 3)


def dollars(amount: float) -> str:
    """An estimate of US dollars: three digits, cents below a hundred; `money` is for given ones."""
    if amount < 100:
        return money(amount) if amount >= 0.1 else f"${amount:.1g}"
    amount = float(f"{amount:.3g}")
    return f"${amount:,.0f}" if amount < 1e6 else f"${count(amount)}"


def price(amount: float) -> str:
    """US dollars an hour: cents, and the tenth of one where there is one."""
    return f"${amount:.2f}" if round(amount, 3) == round(amount, 2) else f"${amount:.3f}"


def plural(number: int, noun: str) -> str:
    """1 step, 2,048 steps."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def given_days(days: float) -> str:
    """Days as somebody gave them, or `time` where those are few or many."""
    return f"{days:.3g} days" if 2 <= days < 730 else time(days)


def span(found: Spread, text: Callable[[float], str]) -> str:
    return f"{text(found.p10)} to {text(found.p90)}"


def time(days: float) -> str:
    """Days, or hours, minutes and seconds where those say more."""
    if days >= 730:
        return f"{digits(days / 365, 2 if days < 3650 else 3)} years"
    if days >= 2:
        return f"{digits(days, 2 if days < 10 else 3)} days" if days < 100 else f"{days:,.0f} days"
    hours = 24 * days
    if hours >= 2:
        return f"{hours:.0f} h" if hours >= 10 else f"{hours:.1f} h"
    minutes = 60 * hours
    return f"{minutes:.0f} min" if minutes >= 2 else f"{60 * minutes:.0f} s"


def seconds_of(part: float, whole: float) -> str:
    """Seconds with the digits that the whole asks for."""
    if whole >= 1:
        return f"{part:.2f} s" if whole < 100 else f"{part:,.0f} s"
    return f"{1000 * part:.3g} ms"


def pace(tokens: float) -> str:
    return f"{tokens:,.0f}" if tokens >= 10 else f"{tokens:.2g}"


def energy(megawatt_hours: float) -> str:
    if megawatt_hours >= 1e6:
        return f"{digits(megawatt_hours / 1e6, 3)} TWh"
    if megawatt_hours >= 1000:
        return f"{digits(megawatt_hours / 1000, 3)} GWh"
    if megawatt_hours >= 1:
        return f"{digits(megawatt_hours, 3)} MWh"
    return f"{digits(1000 * megawatt_hours, 3)} kWh"
