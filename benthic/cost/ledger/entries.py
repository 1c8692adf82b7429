"""What the ledger holds, as dataclasses: a span, its usage, a row, its amendments, sums of rows.

A row is recorded once and never rewritten; `Billed` is the row as it counts: the newest amendment
of each field applied, and the seconds and joules of what ran inside it taken off, so that nested
work is billed once and a reservation keeps what nobody used. Work inside, on the same kind of
device, takes off its seconds times its share of the devices, and only while the outer row lasted;
where that is more than the outer row had, what is inside counts in proportion.
Everything here is checked as it is made, so what is stored can be added up; money is US dollars.
"""

import sys
import uuid
from dataclasses import dataclass, field, fields
from math import inf, isfinite
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar, get_args

from benthic.cost.ledger.purposes import Purpose, purpose_named

Status = Literal["running", "done", "interrupted", "failed"]
STATUSES: tuple[Status, ...] = get_args(Status)
Scope = Literal["purpose", "project"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
AMENDABLE = (
    *("purpose", "project", "name", "user", "note"),
    *("price_per_hour", "count", "device", "seconds"),
    *("status", "seconds_productive"),
)
KEYS = (  # in the order of the ledger's covering index
    *("purpose", "status", "project", "user", "device", "price_per_hour", "price_source"),
    *("source", "month", "run", "attempt", "name"),
)
MAX_PRICE = 1e6  # dollars an hour of one device
MAX_DOLLARS = 1e15
MAX_COUNT = 10**7
_MAX_SECONDS = 1e10  # three hundred years
_MAX_TIME = 1e11  # a unix time in milliseconds is above it
_MAX_INTEGER = 2**63 - 1  # what SQLite holds
_IMPORTED = uuid.UUID("6c1f4b0e-6a0f-5d0c-9b5e-0d5a6e0f7b11")


@dataclass(frozen=True, kw_only=True)
class Span:
    """What is metered, known before it starts."""

    run: str
    """the run's folder, stored as an absolute path; imported rows may bear any name"""
    attempt: str
    """names one fresh start of the run; resuming keeps it"""
    stage: str
    purpose: Purpose
    device: str
    count: int = 1
    """devices allocated"""
    price_per_hour: float
    """US dollars an hour, one device"""
    price_source: str
    project: str = ""
    user: str = ""
    """who runs it; the ledger writes the name of the process's user where it is empty"""
    name: str = ""
    """what people call the work; empty: the last part of `run`"""
    source: str = "benthic"
    """what wrote the row: "benthic", "meter", "python", "import:wandb" and the like"""
    external: str | None = None
    """a key that the ledger holds once, so an import repeated adds nothing"""
    parent: str | None = None
    """id of the row inside which it runs; none: that of $BENTHIC_METER where this ledger has it"""
    command: str = ""
    """as it was given, secrets masked"""
    note: str = ""

    def __post_init__(self) -> None:
        purpose_named(self.purpose)
        _check("count", self.count, low=1, high=MAX_COUNT, what="devices")
        _check("price_per_hour", self.price_per_hour, high=inf, what="US dollars an hour")

    @property
    def label(self) -> str:
        return label(self.name, self.run)


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a span has used so far."""

    seconds: float = 0.0
    """allocated, from the start to the last heartbeat or the end"""
    seconds_productive: float | None = None
    """those of them whose work was kept: up to the last checkpoint, or the end; none: not known"""
    tokens: int = 0
    flops: float = 0.0
    joules: float = 0.0
    joules_low: float | None = None
    """least and greatest energy where `joules` is an estimate"""
    joules_high: float | None = None
    gpus: float = 0.0
    """accelerators held, mean over time"""
    gpu_busy: float | None = None
    """mean share of time that those had work, 0 to 1; none: not known"""
    cpu_seconds: float | None = None
    peak_bytes: int | None = None
    """most memory resident at once"""

    def __post_init__(self) -> None:
        for name, high, what in _USAGE_LIMITS:
            value = getattr(self, name)
            if value is not None:
                _check(name, value, high=high, what=what)


_USAGE_LIMITS = (
    ("seconds", _MAX_SECONDS, "seconds"),
    ("seconds_productive", _MAX_SECONDS, "seconds"),
    ("tokens", _MAX_INTEGER, "tokens"),
    ("flops", sys.float_info.max, "operations"),
    ("joules", 1e21, "joules"),
    ("joules_low", 1e21, "joules"),
    ("joules_high", 1e21, "joules"),
    ("gpus", MAX_COUNT, "accelerators"),
    ("gpu_busy", 1.0, "a share"),
    ("cpu_seconds", _MAX_SECONDS * 1e6, "seconds"),
    ("peak_bytes", _MAX_INTEGER, "bytes"),
)


@dataclass(frozen=True, kw_only=True)
class Entry(Span, Usage):
    """One row as it was recorded; times are unix seconds."""

    id: str = ""
    """empty in a row to import: then made from `external`"""
    energy_source: str
    """"rapl", or "estimate: ..." with the watts and where they come from"""
    started: float
    heartbeat: float
    ended: float | None = None
    status: Status = "running"
    exit_code: int | None = None
    pid: int = 0
    host: str = ""
    process: str = ""
    """the process that writes the row: boot, process namespace and start time, against pid reuse"""

    def __post_init__(self) -> None:
        Span.__post_init__(self)
        Usage.__post_init__(self)
        if self.status not in STATUSES:
            raise ValueError(f"status is '{self.status}': choose one of {', '.join(STATUSES)}")
        for name in ("started", "heartbeat", "ended"):
            value = getattr(self, name)
            if value is not None:
                _check(name, value, high=_MAX_TIME, what="unix time in seconds")
        for name in ("heartbeat", "ended"):
            value = getattr(self, name)
            if value is not None and value < self.started:
                raise ValueError(
                    f"{name} is {value:.3f}, before started {self.started:.3f}: a clock was set "
                    "back or the columns are swapped, so give times of one clock"
                )


Kind = TypeVar("Kind", bound="Entry | Group")
COLUMNS = tuple(column.name for column in fields(Entry))
USAGE_COLUMNS = tuple(column.name for column in fields(Usage))


@dataclass(frozen=True, kw_only=True)
class Billed(Entry):
    """One row as it counts: amendments applied, and what ran inside it known."""

    seconds_recorded: float
    """before amendments"""
    seconds_nested: float = 0.0
    """taken off by rows inside it"""
    scale: float = 1.0
    """what counts of its seconds: less where work beside it, in one outer row, held its devices"""
    joules_nested: float = 0.0
    joules_low_nested: float = 0.0
    joules_high_nested: float = 0.0
    amended: tuple[str, ...] = ()
    """fields whose value is not the recorded one"""

    @property
    def seconds_billable(self) -> float:
        return max(0.0, self.seconds - self.seconds_nested) * self.scale

    @property
    def seconds_shared(self) -> float:
        """What would be billable too, had work beside it not held the same devices."""
        return max(0.0, self.seconds - self.seconds_nested) * (1 - self.scale)

    @property
    def seconds_kept(self) -> float:
        """Billable seconds that were productive; a finished row with nothing said keeps all.

        Of a row that keeps a part, what ran inside counts as inside that part.
        """
        whole, kept = self.status == "done", self.seconds_productive
        if whole and (kept is None or kept >= self.seconds_recorded):
            return self.seconds_billable
        return max(0.0, min(kept or 0.0, self.seconds) - self.seconds_nested) * self.scale

    @property
    def joules_billable(self) -> float:
        return max(0.0, self.joules - self.joules_nested)

    @property
    def joules_range(self) -> tuple[float, float]:
        """Least and greatest energy, work inside taken off; equal where it was measured."""
        low, high = self.joules_low, self.joules_high
        low = (self.joules if low is None else low) - self.joules_low_nested
        high = (self.joules if high is None else high) - self.joules_high_nested
        return max(0.0, low), max(0.0, high)

    @property
    def dollars(self) -> float:
        return self.seconds_billable * self.count * self.price_per_hour / 3600

    @property
    def dollars_kept(self) -> float:
        return self.seconds_kept * self.count * self.price_per_hour / 3600


@dataclass(frozen=True, kw_only=True)
class Group:
    """A sum over rows that agree in `key`; amendments applied, nested work taken off."""

    key: dict[str, Any]
    """value by name, in the order that was asked for"""
    rows: int = 0
    seconds: float = 0.0
    """billable, of the clock"""
    seconds_kept: float = 0.0
    """those of them that were productive"""
    device_seconds: float = 0.0
    """billable seconds times devices"""
    device_seconds_kept: float = 0.0
    device_seconds_shared: float = 0.0
    """not billable since several rows inside one outer row held the same devices"""
    dollars: float = 0.0
    dollars_kept: float = 0.0
    tokens: int = 0
    flops: float = 0.0
    joules: float = 0.0
    joules_low: float = 0.0
    """equal to `joules` where all of it was measured"""
    joules_high: float = 0.0
    gpu_seconds: float = 0.0
    """billable seconds times accelerators, of rows that know how busy those were"""
    gpu_seconds_busy: float = 0.0
    started: float = 0.0
    """of the first"""
    ended: float = 0.0
    """last heartbeat or end"""


@dataclass(frozen=True, kw_only=True)
class Amendment:
    """A correction of one field of one row; of several the newest counts."""

    entry: str
    field: str
    value: str | int | float
    reason: str
    author: str
    at: float


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A limit in dollars for all rows of a purpose or a project; none: the limit was lifted."""

    scope: Scope
    key: str
    dollars: float | None
    hard: bool = False
    """refuse past it, instead of warning"""
    at: float = field(default=0.0)

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise ValueError(f"scope is '{self.scope}': choose one of {', '.join(SCOPES)}")
        if self.scope == "purpose":
            purpose_named(self.key)
        if self.dollars is not None:
            _check("budget", self.dollars, high=MAX_DOLLARS, what="US dollars")


class Filters(TypedDict, total=False):
    """Which rows; those that started in [since, until) and agree with all that is given."""

    since: float | None
    until: float | None
    project: str | None
    purpose: str | None
    user: str | None
    status: str | None
    source: str | None
    name: str | None
    run: str | None
    ids: list[str] | None
    purposes: list[str] | None
    statuses: list[str] | None
    runs: list[str] | None
    """as they are stored"""


def label(name: str, run: str) -> str:
    """What people call a row: its name, else its run: of a folder the last part."""
    return name or (Path(run).name if Path(run).is_absolute() else "") or run


def check_price(dollars: float) -> float:
    """US dollars an hour of one device that can be meant; else ValueError."""
    return _check("price_per_hour", dollars, high=MAX_PRICE, what="US dollars an hour")


def external_id(external: str) -> str:
    """The id of the imported row with that key, so rows of one import can name their parent."""
    return str(uuid.uuid5(_IMPORTED, clean(external)))


def clean(text: str) -> str:
    """Text that can be stored: bytes that are no character become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def amended_value(name: str, value: str | int | float) -> str | int | float:
    """`value` as that field stores it, text read as a number where one is due; else ValueError."""
    if name not in AMENDABLE:
        raise ValueError(f"the field '{name}' cannot be amended: choose {', '.join(AMENDABLE)}")
    if name == "purpose":
        return purpose_named(str(value))
    if name == "count":
        count = _number(name, value)
        if count != int(count):
            raise ValueError(f"count is {value}: give whole devices")
        _check(name, count, low=1, high=MAX_COUNT, what="devices")
        return int(count)
    if name == "price_per_hour":
        return check_price(_number(name, value))
    if name in ("seconds", "seconds_productive"):
        return _check(name, _number(name, value), high=_MAX_SECONDS, what="seconds")
    text = clean(str(value))
    if name == "status" and text not in STATUSES[1:]:
        raise ValueError(f"status is '{value}': choose one of {', '.join(STATUSES[1:])}")
    if name == "device" and not text.strip():
        raise ValueError("device is empty: name one")
    return text


def read_as(kind: type[Kind], values: dict[str, Any]) -> Kind:
    """What the file holds, as it is: what an earlier version or a jumping clock left is no error.

    Several times faster than the checks, too.
    """
    row = object.__new__(kind)
    row.__dict__.update(values)
    return row


def _number(name: str, value: str | int | float) -> float:
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{name} is '{value}': give a number") from None
    if not isfinite(number):
        raise ValueError(f"{name} is {value}: give a number that is finite")
    return number


def _check(name: str, value: float, *, low: float = 0, high: float, what: str) -> float:
    try:
        good = low <= value <= high and isfinite(value)
    except TypeError:
        good = False
    if not good:
        raise ValueError(f"{name} is {value}: give {what}, {low:g} to {high:g}")
    return value
