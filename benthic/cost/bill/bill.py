"""The bill of a ledger: the headline beside the full cost, and what lies between the two.

The headline is what a press release would state: device-hours of final runs (PRETRAIN, CONTEXT,
POST-TRAIN, RL) that were kept, at the ledger's price. Kept are the productive hours of rows that
ended well, and of cut-off ones whose run ended well after all in the same attempt: one begun anew
threw away what came before. The full cost is all that the ledger
holds, with an owner's rate, people and other costs where a file of terms gives them:

  full / headline = (hours / headline hours) * (mean price / headline's) * (full / what is metered)

Every hour stands in one step between the two: lost or failed, a purpose, or idle, which is spread
over nothing. Amounts are floats; `rounded` writes them so that the steps add up to the cent.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from math import fsum
from typing import Any, cast

from benthic.cost.bill.headline import FINAL, LOST, counts, ended_among, ended_attempts
from benthic.cost.bill.plans import Held, held
from benthic.cost.bill.terms import Terms, people_cost, price_range, with_days
from benthic.cost.bill.words import decimal, nearest, run_label
from benthic.cost.catalog.load import CostError, Figure
from benthic.cost.ledger.entries import Billed, Filters, Group
from benthic.cost.ledger.ledger import Ledger
from benthic.cost.network.units import duration
from benthic.cost.spread import Spread, Swing

STEPS = (  # what an hour beyond the headline went to, in the order they are told
    *("lost", "failed", "running", "ablation", "evaluation", "data", "other", "serving", "chat"),
    "idle",
)
LARGEST = 10  # runs, users and projects told by name
EXACT = 100_000  # rows up to which sources of energy are summed, which reads the whole file
SAMPLE = 1_000  # newest rows that are looked at beyond
_DAY = 86_400.0
_KEYS = ("purpose", "status", "project", "user", "device", "price_per_hour", "price_source")
_TRIVIAL = 1e-9  # of a dollar, and of the full cost: a headline below either measures nothing


@dataclass
class Amount:
    """A sum of metered work."""

    dollars: float = 0.0
    hours: float = 0.0
    """of devices"""
    rows: int = 0

    def add(self, dollars: float, hours: float, rows: int = 0) -> None:
        self.dollars += dollars
        self.hours += hours
        self.rows += rows


@dataclass
class Share:
    """What a project or a user has used."""

    headline: Amount = field(default_factory=Amount)
    full: Amount = field(default_factory=Amount)
    lost: Amount = field(default_factory=Amount)
    """failed, interrupted and unkept"""
    idle: Amount = field(default_factory=Amount)


@dataclass
class Price:
    """All hours of one device at one price."""

    device: str
    price: float
    source: str
    rows: int = 0
    hours: float = 0.0
    headline_hours: float = 0.0
    low: float = 0.0
    high: float = 0.0


@dataclass(kw_only=True)
class Run:
    """A run, by what was metered of it."""

    run: str
    amount: Amount = field(default_factory=Amount)
    tokens: int = 0

    @property
    def name(self) -> str:
        return run_label(self.run)


@dataclass
class Energy:
    joules: float = 0.0
    low: float = 0.0
    high: float = 0.0
    kinds: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    """joules, least, greatest by source: rapl, nvml, estimate; empty where only looked at"""
    sources: dict[str, int] = field(default_factory=dict)
    """rows by what they say of themselves"""
    sampled: bool = False
    hours: float = 0.0
    """device-hours that have an energy; nothing is counted where rows were only looked at"""
    amended: int = 0
    """rows whose seconds were amended: they keep the energy of the recorded ones"""


@dataclass(kw_only=True)
class Bill:
    """All that a report tells."""

    ledger: str
    filters: Filters
    terms: Terms
    rows: int = 0
    open_rows: int = 0
    started: float = 0.0
    ended: float = 0.0
    headline: Amount = field(default_factory=Amount)
    metered: Amount = field(default_factory=Amount)
    """everything, at the owner's rate where there is one"""
    shared_hours: float = 0.0
    """device-hours that do not count, for work side by side in one row held the same devices"""
    owned: float = 0.0
    """what the headline's hours cost more at the owner's rate"""
    steps: dict[str, Amount] = field(default_factory=lambda: {name: Amount() for name in STEPS})
    cells: dict[tuple[str, str], Amount] = field(default_factory=dict)
    """by purpose and status"""
    projects: dict[str, Share] = field(default_factory=dict)
    users: dict[str, Share] = field(default_factory=dict)
    prices: list[Price] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    run_count: int = 0
    plans: list[Held] = field(default_factory=list)
    energy: Energy = field(default_factory=Energy)
    gpu_hours: float = 0.0
    """accelerator-hours of work that knows how busy those were"""
    gpu_hours_busy: float = 0.0
    people: float = 0.0
    costs: dict[str, float] = field(default_factory=dict)
    inputs: dict[str, Figure] = field(default_factory=dict)
    """what is uncertain or assumed, by key; these three by `spread.weigh`"""
    spread: dict[str, Spread] = field(default_factory=dict)
    swings: list[Swing] = field(default_factory=list)

    @property
    def full(self) -> float:
        return self.metered.dollars + self.people + sum(self.costs.values())

    @property
    def ratio(self) -> float | None:
        """Full / headline; none where the headline is too small to measure anything by."""
        return self.full / self.headline.dollars if self.factors else None

    @property
    def factors(self) -> tuple[float, float, float] | None:
        """Hours, price, and people with other costs, whose product is full / headline."""
        if self.headline.dollars < max(_TRIVIAL, _TRIVIAL * self.full) or not self.metered.hours:
            return None
        hours = self.metered.hours / self.headline.hours
        price = self.metered.dollars / self.metered.hours
        paid = self.headline.dollars / self.headline.hours
        return hours, price / paid, self.full / self.metered.dollars

    @property
    def waterfall(self) -> list[tuple[str, float]]:
        """Steps from the headline to the full cost, whose sum is the full cost."""
        steps = [("headline", self.headline.dollars), ("owned", self.owned)]
        steps += [(name, amount.dollars) for name, amount in self.steps.items()]
        steps += [("people", self.people), *self.costs.items()]
        return [steps[0], *(step for step in steps[1:] if step[1])]

    def shown(self, places: int) -> dict[str, float]:
        """The waterfall rounded, so that its steps still add up; a step has one figure anywhere."""
        amounts = rounded((amount for _, amount in self.waterfall), places)
        return {key: amount for (key, _), amount in zip(self.waterfall, amounts, strict=True)}


def rounded(amounts: Iterable[float], places: int) -> list[float]:
    """Amounts rounded so that they add up to their rounded sum, each off by one place at most.

    As few as can be are moved off their nearest, those nearest to a half, and never the first: so
    an amount is the same in nearly every column that it stands in.
    """
    given = list(amounts)
    shown = [nearest(amount, places) for amount in given]
    missing = nearest(fsum(given), places) - sum(shown)
    unit = Decimal(1).scaleb(-places).copy_sign(missing)
    moved = sorted(range(1, len(given)), key=lambda i: unit * (shown[i] - decimal(given[i])))
    for i in moved[: int(missing / unit)]:
        shown[i] += unit
    return [float(amount) for amount in shown]


def purpose_name(purpose: str) -> str:
    """A purpose as people read it, who may have written "final"."""
    return f"{purpose} (final)" if purpose in FINAL else purpose


def moment(text: str | None, now: float) -> float | None:
    """The unix time of 2025-03, 2025-03-17, 2025-03-17T14:30+02:00 (UTC where no zone), or 30d ago.

    Raises `CostError`.
    """
    if not text:
        return None
    text = text.strip()
    try:
        at = datetime.fromisoformat(f"{text}-01" if len(text) == 7 else text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        pass
    try:
        return now - duration(text)
    except CostError:
        raise CostError(
            f"the time is {text[:60]!r}: write 2025-03-17, 2025-03, 2025-03-17T14:30+02:00 (UTC "
            "without a zone), or how long ago, like 30d"
        ) from None


def draw_up(ledger: Ledger, terms: Terms | None = None, **filters: Any) -> Bill:
    """The bill of the rows that pass `filters`; raises LedgerError, ValueError."""
    given = cast(Filters, {name: value for name, value in filters.items() if value is not None})
    bill = Bill(ledger=str(ledger.path), filters=given, terms=terms or Terms())
    with ledger.one_moment(given):
        _read(bill, ledger, given)
    bill.terms = with_days(bill.terms, (bill.ended - bill.started) / _DAY)
    inputs = bill.terms.inputs
    bill.people = people_cost(bill.terms, {key: entry.value for key, entry in inputs.items()})
    bill.costs = {key: inputs[key].value for key in bill.terms.costs}
    return bill


def _read(bill: Bill, ledger: Ledger, given: Filters) -> None:
    groups = ledger.groups(_KEYS, **given)  # one pass over the file for nearly all that is told
    saved = _saved(ledger, given, groups)
    prices: dict[tuple[str, float, str], Price] = {}
    for group in groups:
        _count(bill, group, saved.get(tuple(group.key.values()), (0.0, 0.0)), prices)
    if groups:
        bill.started = min(group.started for group in groups)
        bill.ended = max(group.ended for group in groups)
    bill.prices = sorted(prices.values(), key=lambda p: (-p.hours * p.price, -p.hours, p.device))
    rates = {price.device: bill.terms.rate(price.device) for price in bill.prices}
    each = {name: bill.terms.inputs[rate].value for name, rate in rates.items() if rate}
    largest, bill.run_count = ledger.largest_runs(LARGEST, each, **given)
    for run in largest:
        amount = Amount(run.dollars, run.device_seconds / 3600, run.rows)
        bill.runs.append(Run(run=run.key["run"], amount=amount, tokens=run.tokens))
    bill.plans = list(held(ledger, (*FINAL, "ablation", "other"), given))
    _energy_sources(bill, ledger, given)


def totals_reference(rows: Sequence[Billed]) -> tuple[float, float]:
    """Headline and metered dollars row by row, at the ledger's prices; `rows` are all there are."""
    ended = ended_among(rows)
    headline = sum(row.dollars_kept for row in rows if counts(row, ended))
    return headline, sum(row.dollars for row in rows)


def _saved(
    ledger: Ledger, filters: Filters, groups: Sequence[Group]
) -> Mapping[tuple[Any, ...], tuple[float, float]]:
    """Dollars and device-seconds that cut-off rows add to the headline, by the keys of groups."""
    if not any(_cut(group) and group.device_seconds_kept for group in groups):
        return {}
    chosen: Filters = {**filters, "purposes": list(FINAL), "statuses": list(LOST)}
    kept = ledger.groups((*_KEYS, "run", "attempt"), **chosen)
    kept = [group for group in kept if group.device_seconds_kept]
    ended = ended_attempts(ledger, sorted({group.key["run"] for group in kept}))
    saved: dict[tuple[Any, ...], tuple[float, float]] = {}
    for group in kept:
        *keys, run, attempt = group.key.values()
        if (group.key["purpose"], run, attempt) in ended:
            dollars, seconds = saved.get(tuple(keys), (0.0, 0.0))
            saved[tuple(keys)] = dollars + group.dollars_kept, seconds + group.device_seconds_kept
    return saved


def _cut(group: Group) -> bool:
    return group.key["purpose"] in FINAL and group.key["status"] in LOST


def _count(
    bill: Bill,
    group: Group,
    saved: tuple[float, float],
    prices: dict[tuple[str, float, str], Price],
) -> None:
    """Put a group's hours and dollars where they belong; `saved`: of `_saved`, if it was cut."""
    purpose, status, project, user, device, price, source = group.key.values()
    rate = bill.terms.rate(device)
    hours = group.device_seconds / 3600
    final = purpose in FINAL
    kept_dollars, kept = saved[0], saved[1] / 3600
    if final and status == "done":
        kept_dollars, kept = group.dollars_kept, group.device_seconds_kept / 3600
    if rate is None:
        dollars, kept_full = group.dollars, kept_dollars
    else:
        each = bill.terms.inputs[rate].value
        dollars, kept_full = hours * each, kept * each
    bill.rows += group.rows
    bill.open_rows += group.rows if status == "running" else 0
    bill.headline.add(kept_dollars, kept)
    bill.metered.add(dollars, hours, group.rows)
    bill.owned += kept_full - kept_dollars
    rest, left = dollars - kept_full, hours - kept
    step = _step(purpose, status, final)
    bill.steps[step].add(rest, left, 0 if final and status == "done" else group.rows)
    bill.cells.setdefault((purpose, status), Amount()).add(dollars, hours, group.rows)
    for key, found in ((project, bill.projects), (user, bill.users)):
        share = found.setdefault(key, Share())
        share.headline.add(kept_dollars, kept)
        share.full.add(dollars, hours, group.rows)
        if step in ("lost", "failed"):
            share.lost.add(rest, left)
        elif step == "idle":
            share.idle.add(rest, left)
    known = prices.get((device, price, source))
    if known is None:
        known = prices[device, price, source] = Price(device, price, source)
        known.low, known.high = price_range(price, source)
    known.rows += group.rows
    known.hours += hours
    known.headline_hours += kept
    bill.shared_hours += group.device_seconds_shared / 3600
    bill.energy.joules += group.joules
    bill.energy.low += group.joules_low
    bill.energy.high += group.joules_high
    if purpose != "idle":
        bill.gpu_hours += group.gpu_seconds / 3600
        bill.gpu_hours_busy += group.gpu_seconds_busy / 3600


def _step(purpose: str, status: str, final: bool) -> str:
    """Where the hours go that are not in the headline; a reservation stays idle however it ended,
    and what answers people is always ended by a signal"""
    if purpose == "idle" or (purpose in ("serving", "chat") and status == "interrupted"):
        return purpose
    if status in LOST:
        return "failed"
    if final:
        return "running" if status == "running" else "lost"
    return purpose if purpose in STEPS else "other"


def _energy_sources(bill: Bill, ledger: Ledger, filters: Filters) -> None:
    energy = bill.energy
    if bill.rows <= EXACT:
        for group in ledger.groups(("energy_source",), **filters):
            source = group.key["energy_source"]
            kind = source.partition(":")[0].strip() or "not recorded"
            sums = energy.kinds.get(kind, (0.0, 0.0, 0.0))
            more = group.joules, group.joules_low, group.joules_high
            energy.kinds[kind] = (sums[0] + more[0], sums[1] + more[1], sums[2] + more[2])
            if group.joules:
                energy.sources[source] = group.rows
                energy.hours += group.device_seconds / 3600
        _amended_energy(bill, ledger, filters)
        return
    energy.sampled = True
    energy.sources = ledger.energy_sources(SAMPLE, **filters)


def _amended_energy(bill: Bill, ledger: Ledger, filters: Filters) -> None:
    """Of rows whose seconds were amended the energy is known for the recorded ones alone."""
    ids = {one.entry for one in ledger.amendments() if one.field == "seconds"}
    chosen: Filters = {**filters, "ids": sorted(ids)}
    for row in ledger.query(**chosen) if ids else ():
        if row.joules and row.seconds != row.seconds_recorded:
            bill.energy.amended += 1
            unknown = max(0.0, 1 - row.seconds_recorded / row.seconds) if row.seconds else 0.0
            bill.energy.hours -= unknown * row.seconds_billable * row.count / 3600
