"""The receipt: what a run cost, its final run and everything, and the bridge between the two.

The final run is what a press release would call the cost, by the rule of `headline`: kept seconds
of attempts that ended well. Everything is all that was allocated under the run's folder. Both are
those of the report on the run's rows: amended, and what ran inside taken off. Dollars are seconds /
3600 * price * count. Each row is rounded once, to the microsecond and to a hundred-millionth of a
dollar, and split exactly; so lines and bridge add up to everything, digit by digit. Seconds are
those of the clock: a span on 8 devices lasts as long as on one.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import floor, log10
from typing import TYPE_CHECKING, Any

from benthic.cost.bill.headline import FINAL, Attempt, counts, ended_among
from benthic.cost.bill.words import is_measured
from benthic.cost.ledger.entries import Billed
from benthic.cost.ledger.purposes import PURPOSES

if TYPE_CHECKING:
    from rich.table import Table

_FINAL = "final run"
_RUNNING = "still running"
_LOST = "lost to interruptions"
_DISCARDED = "discarded attempts"
_SECOND = Decimal("1e-6")
_DOLLAR = Decimal("1e-8")


@dataclass(frozen=True, kw_only=True)
class Amount:
    """A sum of the bill."""

    seconds: Decimal = Decimal(0)
    dollars: Decimal = Decimal(0)

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(seconds=self.seconds + other.seconds, dollars=self.dollars + other.dollars)

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(seconds=self.seconds - other.seconds, dollars=self.dollars - other.dollars)


@dataclass(frozen=True, kw_only=True)
class Line:
    """All rows of one stage and purpose that ended alike; productive or not."""

    stage: str
    purpose: str
    status: str
    """the rows' status, or "discarded" for another attempt that did not end well"""
    amount: Amount
    tokens: int
    flops: float
    joules: float
    energy_source: str


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """The bill of one run; `lines`, and the amounts of `bridge`, each add up to `everything`."""

    run: str
    attempt: str
    lines: tuple[Line, ...]
    bridge: tuple[tuple[str, Amount], ...]
    """label and amount, the final run first"""
    everything: Amount
    prices: tuple[str, ...]
    """every price that was charged, with its source"""

    @property
    def final(self) -> Amount:
        return self.bridge[0][1]

    def to_dict(self) -> dict[str, Any]:
        """For JSON; seconds, US dollars, joules. Closes digit by digit below 1e7 dollars."""
        lines = [vars(line) | _numbers(line.amount) for line in self.lines]
        for line in lines:
            del line["amount"]
        return {
            "run": self.run,
            "attempt": self.attempt,
            "lines": lines,
            "final": _numbers(self.final),
            "bridge": [{"label": label} | _numbers(amount) for label, amount in self.bridge],
            "everything": _numbers(self.everything),
            "prices": list(self.prices),
        }


def build_receipt(rows: Sequence[Billed], attempt: str) -> Receipt:
    """Bill all rows of one run as they count, in the order they started.

    `attempt` is the current one; another is discarded unless final work of it ended well. What a
    row of final work kept belongs to the final run once its attempt has ended well. `ValueError`
    where there is no row, or rows of several runs.
    """
    runs = sorted({row.run for row in rows})
    if len(runs) != 1:
        raise ValueError(f"a receipt is of one run and the rows are of {len(runs)}: choose one run")
    ended = ended_among(rows)
    standing = {attempt, *(of for *_, of in ended)}
    others = [purpose for purpose in PURPOSES if purpose not in FINAL]
    steps = dict.fromkeys([_FINAL, *others, _RUNNING, _LOST, _DISCARDED], Amount())
    groups: dict[tuple[str, str, str, str], list[Billed]] = {}
    for row in rows:
        discarded = row.attempt not in standing
        status = "discarded" if discarded else row.status
        key = (row.stage, row.purpose, status, row.energy_source)
        groups.setdefault(key, []).append(row)
        whole, kept = _amount(row, row.seconds_billable), _amount(row, row.seconds_kept)
        left = _DISCARDED if discarded else _RUNNING if row.status == "running" else _LOST
        steps[_kept_as(row, ended, left)] += kept
        steps[left] += whole - kept
    return Receipt(
        run=runs[0],
        attempt=attempt,
        lines=tuple(_line(*key, group) for key, group in groups.items()),
        bridge=tuple(steps.items()),
        everything=_total(rows),
        prices=tuple(dict.fromkeys(_price(row) for row in rows)),
    )


def receipt_table(receipt: Receipt) -> "Table":
    """The receipt for a console of 80 columns; an estimated energy bears a tilde."""
    from rich import box
    from rich.table import Table

    estimates = {
        line.energy_source
        for line in receipt.lines
        if line.joules and not is_measured(line.energy_source)
    }
    notes = [*receipt.prices, *(f"~ {source}" for source in sorted(estimates))]
    table = Table(
        box=box.SIMPLE,
        pad_edge=False,
        show_edge=False,
        collapse_padding=True,
        title=f"Receipt of {receipt.run}",
        title_justify="left",
        caption="\n".join(notes),
        caption_justify="left",
    )
    table.add_column("")
    for name in ("h:mm:ss", "tokens", "compute", "energy", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    for line in receipt.lines:
        table.add_row(
            _name(line),
            _time(line.amount.seconds),
            _scaled(line.tokens, ""),
            _scaled(line.flops, "FLOP"),
            energy(line.joules, line.energy_source),
            _dollars(line.amount.dollars),
        )
    table.add_section()
    for label, amount in receipt.bridge:
        if label == _FINAL or amount != Amount():
            name = label if label == _FINAL else f"+ {label}"
            table.add_row(name, _time(amount.seconds), "", "", "", _dollars(amount.dollars))
    total = receipt.everything
    table.add_row(
        "= everything", _time(total.seconds), "", "", "", _dollars(total.dollars), style="bold"
    )
    return table


def energy(joules: float, source: str) -> str:
    """Joules, not negative, as watt-hours; all but a measurement bears a tilde."""
    amount = _scaled(joules / 3600, "Wh")
    return amount if is_measured(source) or not joules else f"~{amount}"


def _kept_as(row: Billed, ended: Collection[Attempt], left: str) -> str:
    """The step that the row's kept seconds belong to; `left` is that of its others."""
    if counts(row, ended):
        return _FINAL
    if left == _DISCARDED or row.purpose in FINAL:
        return left
    return row.purpose if row.purpose in PURPOSES else "other"


def _amount(row: Billed, seconds: float) -> Amount:
    dollars = Decimal(seconds) * Decimal(row.price_per_hour) * row.count / 3600
    return Amount(seconds=Decimal(seconds).quantize(_SECOND), dollars=dollars.quantize(_DOLLAR))


def _price(row: Billed) -> str:
    return f"{row.count} x {row.device} at ${row.price_per_hour:g}/h: {row.price_source}"


def _total(rows: Iterable[Billed]) -> Amount:
    return sum((_amount(row, row.seconds_billable) for row in rows), Amount())


def _line(
    stage: str, purpose: str, status: str, energy_source: str, rows: Sequence[Billed]
) -> Line:
    return Line(
        stage=stage,
        purpose=purpose,
        status=status,
        amount=_total(rows),
        tokens=sum(row.tokens for row in rows),
        flops=sum(row.flops for row in rows),
        joules=sum(row.joules_billable for row in rows),
        energy_source=energy_source,
    )


def _numbers(amount: Amount) -> dict[str, float]:
    return {"seconds": float(amount.seconds), "dollars": float(amount.dollars)}


def _name(line: Line) -> str:
    notes = [] if line.purpose == line.stage else [line.purpose]
    notes += [] if line.status == "done" else [line.status]
    return f"{line.stage} ({', '.join(notes)})" if notes else line.stage


def _time(seconds: Decimal) -> str:
    if seconds < 60:
        return f"{_digits(seconds)} s"
    minutes, hours = int(seconds) // 60, int(seconds) // 3600
    return f"{hours:,}:{minutes % 60:02d}:{int(seconds) % 60:02d}"


def _dollars(dollars: Decimal) -> str:
    if dollars >= 1 or not dollars:
        return f"${dollars:,.2f}"
    return f"${_digits(dollars)}"


def _scaled(value: float, unit: str) -> str:
    if not value:
        return "-"
    if isinstance(value, int) and value < 1000:
        return f"{value} {unit}".strip()
    for prefix in ("", "k", "M", "G", "T", "P", "E", "Z"):
        if value < 999.5:
            return f"{_digits(value)} {prefix}{unit}".strip()
        value /= 1000
    return f"{_digits(value)} Y{unit}"


def _digits(value: float | Decimal) -> str:
    """Two significant digits below ten, whole numbers above."""
    if not value:
        return "0"
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.{max(1, 1 - floor(log10(value)))}f}"
