"""Figures from a TOML file that a reader edits: read, checked and bounded, one sentence an error.

A figure is a table of value, low, high, unit, source, date and confidence. The unit decides what is
sane (`LIMITS`). A file may hold one currency; amounts in another need a dated rate beside them.
Names and texts of a file are a stranger's: messages make their control characters visible.
"""

import datetime
import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benthic.cost.catalog.load import CostError, Figure
from benthic.svg import visible

LARGEST = 1_000_000  # bytes of a file; the largest that is shipped has 40,000
DOTS = 100  # in one line: the time tomllib takes for a key grows with the square of its parts
CONFIDENCES = ("high", "medium", "low", "assumption")
LIMITS: dict[str, tuple[float, float]] = {
    "share": (0, 1),
    "share/year": (0, 1),
    "years": (0.05, 50),
    "days": (0.01, 20_000),
    "GPUs": (1, 1e9),
    "GPUs/node": (1, 1e4),
    "nodes": (0.01, 1e8),
    "people": (0, 1e6),
    "GPU-hours": (1, 1e13),
    "GPU-hours/T tokens": (1, 1e10),
    "T tokens": (1e-6, 1e5),
    "G tokens/day": (1e-6, 1e9),
    "tokens": (1, 1e9),
    "tokens/s/node": (1, 1e9),
    "USD": (0, 1e13),
    "USD/year": (0, 1e12),
    "USD/day": (0, 1e12),
    "USD/GPU": (0, 1e7),
    "USD/GPU-hour": (0.001, 1000),
    "USD/GPU-year": (0, 1e6),
    "USD/kWh": (0, 10),
    "USD/kW-month": (0, 10_000),
    "USD/M tokens": (0, 1e5),
    "USD/person-year": (0, 1e8),
    "CNY": (0, 1e14),
    "CNY/USD": (0.1, 1000),
    "kW/GPU": (0.01, 100),
    "TFLOP/s": (0.1, 1e6),
    "PUE": (1, 5),
    "parameters": (1, 1e16),
    "layers": (1, 1e5),
    "heads": (1, 1e5),
    "elements": (1, 1e7),
    "bytes/element": (0.1, 16),
}
_FIELDS = ("value", "low", "high", "unit", "source", "date", "confidence", "note")
_OWN = {"source": "own figure", "date": "", "confidence": "high"}
_DATE = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")
_CURRENCY = re.compile(r"\b(?!GPU|PUE)[A-Z]{3}\b")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file of at most a megabyte. Raises `CostError` whatever is wrong with it."""
    name = visible(str(path))
    try:
        if not path.is_file():
            raise CostError(f"{name} is no file; name a TOML file that exists.")
        size = path.stat().st_size
        if size > LARGEST:
            raise CostError(f"{name} has {size:,} bytes; such a file has at most {LARGEST:,}.")
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise CostError(f"{name} is not UTF-8 at byte {error.start}; save it as UTF-8.") from None
    except (OSError, ValueError) as error:
        if isinstance(error, CostError):
            raise
        raise CostError(f"{name} cannot be read ({visible(str(error))}); check it.") from None
    for i, line in enumerate(text.splitlines(), 1):
        if line.count(".") > DOTS:
            raise CostError(f"{name} has more than {DOTS} dots in line {i}; break the line up.")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise CostError(f"{name} nests too deep to be a file of costs; flatten it.") from None
    except ValueError as error:
        raise CostError(f"{name} is not valid TOML: {visible(str(error))}; mend it.") from None


def nearest(word: str, known: Iterable[str]) -> str:
    """What a mistyped word may have meant, as the end of a sentence; every known one if few."""
    words = sorted(known)
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    if near:
        return f"did you mean '{near[0]}'?"
    shown = ", ".join(words[:12])
    return f"known are {shown}{' and more' if len(words) > 12 else ''}."


def check_keys(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse the first key that is not known, with the nearest that is."""
    known = tuple(known)
    for key in given:
        if key not in known:
            raise CostError(f"{where} has an unknown key '{quoted(key)}': {nearest(key, known)}")


def quoted(value: object) -> str:
    """A stranger's value, short and without control characters."""
    text = visible(str(value)).replace("\n", "\\n")
    return text if len(text) <= 60 else f"{text[:57]}..."


def number(where: str, value: object, unit: str) -> float:
    """A finite number that is sane for its unit; `where` opens the sentence of an error."""
    if isinstance(value, str):
        raise CostError(
            f"{where} is the text '{quoted(value)}'; write the bare number, in {unit}, "
            "without quotes."
        )
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CostError(f"{where} is {quoted(value)}; give a number, in {unit}.")
    low, high = LIMITS[unit]
    if not low <= value <= high:  # no number is within NaN's reach; a whole one has no largest
        shown = f"{value:g}" if isinstance(value, float) else quoted(value)
        raise CostError(f"{where} is {shown}; in {unit} it must be from {low:g} to {high:g}.")
    return float(value)


def check_unit(where: str, given: object, wanted: str) -> None:
    """Refuse a unit that is not the wanted one; another currency gets its own remedy."""
    if given == wanted:
        return
    ours, theirs = _currency(wanted), _currency(str(given))
    if ours and theirs and ours != theirs:
        raise CostError(
            f"{where} is in {theirs} where the file counts in {ours}: two currencies do not add; "
            f"convert it to {wanted} at the rate of its date and say so in the note."
        )
    raise CostError(f"{where} has the unit '{quoted(given)}'; give the figure in '{wanted}'.")


def _currency(unit: str) -> str:
    found = _CURRENCY.search(unit)
    return found[0] if found else ""


def figure(path: Path, key: str, table: object, unit: str, *, sourced: bool = True) -> Figure:
    """One figure of a file, `unit` being what it must be in. Raises `CostError`.

    Where it need not be `sourced`, value and unit suffice: it is certain, and the reader's own.
    """
    where = f"{visible(path.name)}: '{quoted(key)}'"
    if not isinstance(table, Mapping):
        raise CostError(
            f"{where} is {quoted(table)} without a unit; "
            f'write {{ value = {quoted(table)}, unit = "{unit}" }}.'
        )
    check_keys(where, table, _FIELDS)
    for name in _FIELDS[:-1] if sourced else ("value", "unit"):
        if name not in table:
            raise CostError(f"{where} has no '{name}'; every figure needs one: add it.")
    if not sourced:
        own = {"low": table["value"], "high": table["value"], **_OWN}
        table = own | dict(table)
    check_unit(where, table["unit"], unit)
    value, low, high = (number(f"{where} {n}", table[n], unit) for n in ("value", "low", "high"))
    if not low <= value <= high:
        raise CostError(
            f"{where} has low {low:g}, value {value:g}, high {high:g}; put them in that order."
        )
    confidence = table["confidence"]
    if confidence not in CONFIDENCES:
        raise CostError(
            f"{where} has the confidence '{quoted(confidence)}'; "
            f"choose one of {', '.join(CONFIDENCES)}."
        )
    return Figure(
        key=key,
        value=value,
        low=low,
        high=high,
        unit=unit,
        source=_text(where, table, "source"),
        date=date(where, table["date"]) if sourced or table["date"] else "",
        confidence=str(confidence),
        note=_text(where, table, "note"),
    )


def date(where: str, value: object) -> str:
    """A date as text, of a year, a month or a day. Raises `CostError`."""
    text = value.isoformat() if isinstance(value, datetime.date) else value
    if isinstance(text, str) and _DATE.fullmatch(text):
        try:
            day = datetime.date.fromisoformat(text + "-01-01"[len(text) - 4 :])
        except ValueError:
            pass
        else:
            if 1990 <= day.year <= 2100:
                return text
    raise CostError(f"{where} has the date '{quoted(value)}'; write 2024, 2024-12 or 2024-12-27.")


def _text(where: str, table: Mapping[str, Any], name: str) -> str:
    value = table.get(name, "")
    if not isinstance(value, str) or (name == "source" and not value.strip()):
        raise CostError(f"{where} has the {name} '{quoted(value)}'; write a text.")
    if len(value) > 1000:
        raise CostError(f"{where} has a {name} of {len(value):,} characters; keep it below 1,000.")
    return visible(value)
