"""Figures as people write them: 70B, 14.8T, 1.5e9; 30d, 54.2 days; $5.6M, 5.6 MUSD.

Everything comes out in plain units: a number, seconds, US dollars. What could be read in two ways
is refused: a duration without a unit, a currency that is no dollar, 1.000 where a thousand could be
meant, a number that no model, run or budget can be.
"""

import math
import re
from collections.abc import Sequence

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
_EITHER = re.compile(r"[+-]?[1-9]\d{0,2}\.\d{3}")  # a thousand and more where points separate those
_LIMITS = {  # 70 is not 70B; nor is 1e30 a network
    "params": (1e3, 1e16, "B"),
    "active": (1e3, 1e16, "B"),
    "tokens": (1e3, 1e16, "T"),
}


def count(
    value: str | float,
    what: str,
    *,
    low: float = 1.0,
    high: float = 1e18,
    like: str = "70B, 14.8T or 1.5e9",
) -> float:
    """A number with or without k, M, B (or G), T, P; `what` names it in errors.

    CostError outside `low` to `high`; `params`, `active` and `tokens` have limits of their own.
    """
    low, high, scale = _LIMITS.get(what, (low, high, ""))
    if isinstance(value, str):
        refuse_either(value, what)
        number = _scaled(value, what, like)
    else:
        number = float(value)
    remedy = f", like {like}"
    if scale and 1 <= number < low:
        remedy = f": did you mean {number:g}{scale}?"
    return _within(number, value, what, low, high, remedy)


def whole(value: str, what: str, *, like: str = "1,024") -> int | None:
    """A whole number, like 1024, 1,024, 1k or 4e3; None where nothing is given."""
    if not value.strip():
        return None
    number = _scaled(value, what, like)
    if not number.is_integer() or _EITHER.fullmatch(value.strip()):
        raise CostError(f"{what} is {shown(value)}: give a whole number, like {like}")
    return int(number)


def choice(value: str, what: str, choices: Sequence[str]) -> str:
    """One of the words, whatever its case."""
    if value.strip().lower() not in choices:
        listed = f"{', '.join(choices[:-1])} or {choices[-1]}"
        raise CostError(f"{what} is {shown(value)}: choose {listed}")
    return value.strip().lower()


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
    return _within(seconds, value, what, 1e-3, 100 * _SECONDS["y"], ", within a century, like 30d")


def money(
    value: str | float,
    what: str = "the budget",
    *,
    high: float = 1e12,
    like: str = "50000 or $5.6M",
) -> float:
    """US dollars, up to `high`; CostError for another currency, since no rate of exchange is known
    here."""
    if not isinstance(value, str):
        return _within(float(value), value, what, 0.01, high, f", like {like}")
    bare, named = _DOLLARS.subn(" ", value)
    match = _COUNT.fullmatch(bare.strip())
    if named > 1 or not match or _plain(match[1]) is None:
        raise CostError(
            f"{what} is {shown(value)}: {_comma(value)}give US dollars, like {like} or 5.6 MUSD, "
            "and change other currencies into USD at a rate of your own"
        )
    dollars = float(_plain(match[1]) or 0.0) * _SCALES[match[2].lower()]
    _within(dollars, value, what, 0.01, high, f", like {like}")
    if 1000 * dollars <= high:
        refuse_either(bare, what)
    return dollars


def refuse_either(number: str, what: str) -> None:
    """CostError for 1.000, which is one here and a thousand elsewhere."""
    if _EITHER.fullmatch(number.strip()):
        here, elsewhere = float(number), number.strip().replace(".", "")
        exact = f"{here:.2f}" if round(here, 2) == here else f"{here}0"
        raise CostError(
            f"{what} is {number.strip()}, which is {here:g} here and {elsewhere} elsewhere: write "
            f"{elsewhere} or {exact}"
        )


def _scaled(value: str, what: str, like: str) -> float:
    match = _COUNT.fullmatch(value.strip())
    number = _plain(match[1]) if match else None
    if match is None or number is None:
        raise CostError(
            f"{what} is {shown(value)}: {_comma(value)}write a number with k, M, B, T or an "
            f"exponent, like {like}"
        )
    return number * _SCALES[match[2].lower()]


def _comma(value: str) -> str:
    """What a comma means, where there is one that separates no thousands."""
    return "a comma separates thousands and a point decimals, so " if "," in value else ""


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
    raise CostError(
        f"{what} is {text}: it must be between {_limit(low)} and {_limit(high)}{remedy}"
    )


def _limit(number: float) -> str:
    """1,000 and 10,000T, 0.01."""
    for scale, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if number >= scale:
            return f"{number / scale:,.6g}{letter}"
    return f"{number:,.6g}"
