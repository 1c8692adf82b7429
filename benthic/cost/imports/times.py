"""Times and durations as other tools write them, in unix seconds and seconds.

A time is ISO 8601 (2025-03-17 14:30, with or without seconds and zone) or a unix time in seconds or
milliseconds; 03/04/2025 is two days and is refused. A time without a zone is read in the caller's,
else in this machine's, and the intake says so. An hour that clocks going back pass twice is the
first of the two; one that they skip is refused, since the zone must be wrong.
"""

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

from benthic.cost.imports.intake import Intake
from benthic.cost.imports.record import RecordError, clip

_UNIX = re.compile(r"\d{9,11}(\.\d*)?|\d{12,14}(\.0*)?", re.ASCII)
_OFFSET = re.compile(r"([+-])(\d{1,2}):?(\d{2})?", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?", re.ASCII | re.I)
_COMMA = re.compile(r"([+-]?\d+),(\d+)", re.ASCII)
_CLOCK = re.compile(r"(?:(\d{1,5})(?:-| days? ))?(\d{1,6}):(\d{2}):(\d{2}(?:\.\d*)?)", re.ASCII)
_SHORT = re.compile(r"(\d{1,6}):(\d{2}(?:\.\d*)?)", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d*)?)\s*(days?|d|hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s)")
_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


@dataclass(frozen=True)
class Moment:
    unix: float
    key: str
    """the same whatever the caller takes the zone for"""


def zone_named(name: str | None) -> tzinfo | None:
    """The time zone of Europe/Berlin, UTC or +02:00; none: None. Raises RecordError."""
    if name is None:
        return None
    offset = _OFFSET.fullmatch(name.strip())
    try:
        if offset:
            minutes = int(offset[2]) * 60 + int(offset[3] or 0)
            return timezone(timedelta(minutes=minutes if offset[1] == "+" else -minutes))
        return UTC if name.strip().upper() in ("UTC", "Z") else ZoneInfo(name.strip())
    except (ValueError, OSError, KeyError):
        raise RecordError(
            f"--timezone is '{clip(name, 60)}', which this machine does not know: write "
            "Europe/Berlin, UTC or +02:00"
        ) from None


def moment(text: str, where: str, intake: Intake, *, zone: tzinfo | None = None) -> Moment:
    """The time that `text` writes; `zone`: what the tool means by times without one.

    Raises RecordError, its sentence opening with `where`.
    """
    text = text.strip()
    if _UNIX.fullmatch(text):
        number = float(text)
        unix = number / 1000 if number >= 1e11 else number
        return Moment(unix, str(math.floor(unix)))
    try:
        time = datetime.fromisoformat(text[:-4] + "+00:00" if text.endswith(" UTC") else text)
        if time.tzinfo is None and zone is not None:
            time = time.replace(tzinfo=zone)
        if time.tzinfo is not None:
            return Moment(time.timestamp(), str(math.floor(time.timestamp())))
        return Moment(_local(time, where, intake), time.replace(microsecond=0).isoformat())
    except (ValueError, OverflowError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(
            f"{where}: '{clip(text, 60)}' is no time that can be read in one way only: write "
            "2025-03-17 14:30, with +01:00 behind it if you know the zone"
        ) from None


def _local(time: datetime, where: str, intake: Intake) -> float:
    zone = intake.terms.zone
    early, late = (_unix(time.replace(fold=fold), zone) for fold in (0, 1))
    named = zone or "this machine's zone, " + str(time.astimezone().tzname())
    if early > late:
        raise RecordError(
            f"{where}: {time.isoformat(' ')} does not exist in {named}, where clocks went forward: "
            "give the zone that the file was written in with --timezone"
        )
    if early < late:
        intake.assume(f"Times that clocks went back over, twice in {named}, are the first of both.")
    if zone is None:
        intake.assume(f"Times without a zone are in {named}: give --timezone if they are not.")
    return early


def _unix(time: datetime, zone: tzinfo | None) -> float:
    return (time.replace(tzinfo=zone) if zone else time.astimezone()).timestamp()


def wall_clock(unix: float, intake: Intake) -> str:
    """What a time without a zone said, from which `moment` made this one."""
    return datetime.fromtimestamp(unix, intake.terms.zone).replace(tzinfo=None).isoformat()


def span(text: str, where: str, *, unit: float | None = 1.0) -> float:
    """Seconds of 5400, 1:30:00, 1-02:30:00 or 1h 30m; a bare number counts in `unit` seconds.

    Raises RecordError, also for a bare number where `unit` is None.
    """
    text = " ".join(text.split())
    refuse_comma(text, where, "a duration")
    if _NUMBER.fullmatch(text):
        if unit is None:
            raise RecordError(
                f"{where}: '{clip(text, 60)}' is a duration without a unit: call the column "
                "seconds or hours, or write 1:30:00 or 1h 30m"
            )
        return float(text) * unit
    if match := _CLOCK.fullmatch(text):
        days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
        return days * 86400 + hours * 3600 + minutes * 60 + seconds
    if match := _SHORT.fullmatch(text):
        return float(match[1]) * 60 + float(match[2])
    parts = _PART.findall(text.lower())
    if parts and not _PART.sub("", text.lower()).strip(" ,"):
        return sum(float(number) * _SECONDS[unit[0]] for number, unit in parts)
    raise RecordError(
        f"{where}: '{clip(text, 60)}' is no duration: write seconds, 1:30:00 or 1h 30m"
    )


def refuse_comma(text: str, where: str, what: str) -> None:
    """RecordError where a number has a comma; nothing tells 1,500 for 1.5 from 1500."""
    match = _COMMA.fullmatch(text)
    if match is None:
        return
    cut = clip(text, 40)
    decimal = f"{clip(match[1], 20)}.{clip(match[2], 20)}"
    if len(match[2]) == 3 and match[1].lstrip("+-") != "0":
        raise RecordError(
            f"{where}: {what} is '{cut}', whose comma may part thousands or decimals: write "
            f"{decimal} or {clip(match[1] + match[2], 40)}"
        )
    raise RecordError(f"{where}: {what} is '{cut}', with a decimal comma: write {decimal}")


def is_number(text: str) -> bool:
    """Whether it is one in digits, with a point or an exponent."""
    return _NUMBER.fullmatch(text.strip()) is not None


def number(text: str, where: str, what: str) -> float:
    """A finite number in plain digits; `what` names it. Raises RecordError."""
    text = text.strip()
    refuse_comma(text, where, what)
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise RecordError(
            f"{where}: {what} is '{clip(text, 60)}', no number: write digits and a point, without "
            "separators or unit"
        )
    return value


def whole(text: str, where: str, what: str) -> int:
    """A whole number, 0 or more. Raises RecordError."""
    value = number(text, where, what)
    if value < 0 or value != int(value):
        raise RecordError(f"{where}: {what} is '{clip(text, 60)}': give a whole number, 0 or more")
    return int(value)
