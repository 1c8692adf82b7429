"""Figures as people write them: 70B, 14.8T, 1.5e9; 30d, 54.2 days; $5.6M, 5.6 MUSD.

Everything comes out in plain units: a number, seconds, US dollars. What could be read in two ways
is refused: a duration without a unit, a currency that is no dollar, a number that no model, run or
budget can be.
"""

import math
import re

from benthic.cost.catalog.load import CostError
from benthic.hub.files import shown

_SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12, "p": 1e15}
_SECONDS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
    **dict.fromkeys(("w", "week", "weeks"), 7 * 86400.0),
    **dict.fromkeys(("month", "months"), 365 / 12 * 86400.0),
    **dict.fromkeys(("y", "year", "years"), 365 * 86400.0),
}
_NUMBER = r"([+-]?(?:\d{1,3}(?:[,_]\d{3})+|\d+)?(?:\.\d+)?(?:e[+-]?\d{1,3})?)"
_COUNT = re.compile(rf"{_NUMBER}\s*([kmbgtp]?)", re.I)
_DURATION = re.compile(rf"{_NUMBER}\s*([a-z]*)", re.I)
_DOLLARS = re.compile(r"us\s?dollars?|dollars?|us\s?\$|usd|\$", re.I)
_LIMITS = {"params": (1e3, 1e16), "tokens": (1e3, 1e18)}  # 70 is not 70B; nor is 1e30 a network


def count(
    value: str | float,
    what: str,
    *,
    low: float = 1.0,
    high: float = 1e18,
    like: str = "70B, 14.8T or 1.5e9",
) -> float:
    """A number with or without k, M, B (or G), T, P; `what` names it in errors.

    CostError outside `low` to `high`; `params` and `tokens` have limits of their own.
    """
    low, high = _LIMITS.get(what, (low, high))
    number = _scaled(value, what) if isinstance(value, str) else float(value)
    return _within(number, value, what, low, high, f"like {like}")


def duration(value: str, what: str = "the duration") -> float:
    """Seconds of a number with its unit; CostError where the unit is missing or not known."""
    match = _DURATION.fullmatch(value.strip())
    number, unit = match.groups() if match else ("", "")
    if not match or _plain(number) is None or unit.lower() not in _SECONDS:
        raise CostError(
            f"{what} is {shown(value)}: write a number with a unit, s, min, h, d, weeks, months or "
            "y, like 30d or 54.2 days"
        )
    seconds = float(_plain(number) or 0.0) * _SECONDS[unit.lower()]
    return _within(seconds, value, what, 1e-3, 100 * _SECONDS["y"], "within a century, like 30d")


def money(value: str | float, what: str = "the budget", *, like: str = "50000 or $5.6M") -> float:
    """US dollars; CostError for another currency, since no rate of exchange is known here."""
    if not isinstance(value, str):
        return _within(float(value), value, what, 0.01, 1e15, f"like {like}")
    bare, named = _DOLLARS.subn(" ", value)
    match = _COUNT.fullmatch(bare.strip())
    if named > 1 or not match or _plain(match[1]) is None:
        raise CostError(
            f"{what} is {shown(value)}: give US dollars, like 50000, $5.6M or 5.6 MUSD, and change "
            "other currencies into USD at a rate of your own"
        )
    dollars = float(_plain(match[1]) or 0.0) * _SCALES[match[2].lower()]
    return _within(dollars, value, what, 0.01, 1e15, f"like {like}")


def _scaled(value: str, what: str) -> float:
    match = _COUNT.fullmatch(value.strip())
    number = _plain(match[1]) if match else None
    if match is None or number is None:
        raise CostError(
            f"{what} is {shown(value)}: write a number with k, M, B, T or an exponent, like 70B, "
            "14.8T or 1.5e9"
        )
    return number * _SCALES[match[2].lower()]


def _plain(number: str) -> float | None:
    try:
        return float(number.replace(",", "").replace("_", ""))
    except ValueError:
        return None


def _within(
    number: float, value: str | float, what: str, low: float, high: float, remedy: str
) -> float:
    if math.isfinite(number) and low <= number <= high:
        return number
    text = shown(value) if isinstance(value, str) else f"{value:g}"
    raise CostError(f"{what} is {text}: it must be between {low:g} and {high:g}, {remedy}")
