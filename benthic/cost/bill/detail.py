"""The bill's smaller sections: plans, idle time, energy, how sure it is, prices and assumptions.

Each function makes one section of `page.story` from a bill that is drawn up and weighed; one with
nothing to say has no blocks, and the page leaves it out. Amounts of steps are those of the
waterfall, already rounded, so that a step has one figure wherever it stands.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benthic.cost.bill.bill import Bill, Price, rounded
from benthic.cost.bill.terms import ALL, ASSUMED
from benthic.cost.bill.words import (
    Write,
    between,
    dollars,
    ends,
    hours,
    is_measured,
    kwh,
    places,
    row_word,
    short,
)
from benthic.cost.page import Drawing, Points, Prose, Section, Table, bars, digits, share

Blocks = list[Table | Prose | Points | Drawing]
PRICES = 6  # prices told
_APART = 0.03  # of a figure, from which on its P50 is not seen as the same
UNKNOWN = ("not recorded", "not known")  # what rows without an energy say of its source
_DATE = re.compile(r"\b\d{4}-\d{2}(?:-\d{2})?\b", re.ASCII)


def plans(bill: Bill) -> Section:
    rows = []
    for held in bill.plans:
        paid, planned = held.quantity == "dollars", held.planned
        show = dollars(planned.p90) if paid else hours
        metered = dollars(held.metered) if paid else hours
        rows.append(
            (
                f"{short(held.name, 22)}, {'dollars' if paid else 'hours'}",
                f"{show(planned.p10)} - {show(planned.p90)}",
                show(planned.p50),
                metered(held.metered),
                held.verdict,
            )
        )
    columns = ("run", "P10 - P90", "plan", "metered", "verdict")
    note = "Hours of devices, and dollars at the ledger's price; of all attempts at the run."
    table = Table(
        columns=columns, right=columns[1:4], rows=rows, note=note, phone="1.2fr 1.6fr .8fr .8fr"
    )
    return Section(title="Plan against metered", blocks=[table] if rows else [])


def idle(bill: Bill, write: Write) -> Section:
    idle, items = bill.steps["idle"], []
    cost = bill.shown(places(bill.full)).get("idle", 0.0)
    reserved = (
        f"{write(cost)}, {hours(idle.hours)} device-hours: what reservations had left when "
        "the work inside them was taken off. It is a step of its own and part of no run's price."
        if idle.hours
        else "none in the ledger: meter a reservation with --purpose idle, and work inside it is "
        "taken off."
    )
    items.append(("reserved, unused", reserved))
    if bill.gpu_hours:
        busy = bill.gpu_hours_busy / bill.gpu_hours
        cost = (bill.gpu_hours - bill.gpu_hours_busy) * _mean(bill)
        items.append(
            (
                "held, not busy",
                f"{share(1 - busy)} of the {hours(bill.gpu_hours)} GPU-hours whose load was "
                f"measured, about {write(cost)} at the mean price. It stays in the price of the "
                "work that held them.",
            )
        )
    return Section(title="Idle", blocks=[Points(items=items)])


def _mean(bill: Bill) -> float:
    return bill.metered.dollars / bill.metered.hours if bill.metered.hours else 0.0


def energy(bill: Bill) -> Section:
    energy = bill.energy
    if not energy.joules:
        return Section(title="", blocks=[])
    rows = [
        (kind, kwh(joules), between(low, high, _unspanned(kind)))
        for kind, (joules, low, high) in sorted(energy.kinds.items(), key=lambda k: -k[1][0])
        if joules
    ]
    part = energy_part(bill)
    name = f"known for {part}" if part else "all of it"
    rows.append((name, kwh(energy.joules), between(energy.low, energy.high, "")))
    if energy.sampled:
        told = sorted(_kinds(energy.sources).items(), key=lambda item: -item[1])
        note = "Sources, by the newest rows: " + ", ".join(f"{k} {n:,}" for k, n in told) + "."
    else:
        note = "Its price is part of the rent, not added to it."
    if energy.amended:
        note += (
            f" {energy.amended:,} {row_word(energy.amended)} with amended seconds: the energy is "
            "that of the seconds recorded."
        )
    columns = ("source", "energy", "least - most")
    table = Table(columns=columns, right=columns[1:], rows=rows, total=True, note=note)
    return Section(title="Energy", blocks=[table])


def energy_part(bill: Bill) -> str:
    """What the energy is known for, where that is not all."""
    energy, whole = bill.energy, hours(bill.metered.hours)
    if not energy.sampled:
        known = hours(max(0.0, energy.hours))
        return f"{known} of {whole} device-hours" if known != whole else ""
    kinds = _kinds(energy.sources)
    looked, blind = sum(kinds.values()), sum(kinds.get(kind, 0) for kind in UNKNOWN)
    return f"{looked - blind:,} of the newest {looked:,} rows" if blind else ""


def _unspanned(kind: str) -> str:
    return "measured" if is_measured(kind) else "no range given"


def _kinds(sources: Mapping[str, int]) -> dict[str, int]:
    kinds: dict[str, int] = {}
    for source, number in sources.items():
        kind = source.partition(":")[0].strip() or "not recorded"
        kinds[kind] = kinds.get(kind, 0) + number
    return kinds


def sure(bill: Bill, write: Write, drawn: bool) -> Section:
    shows: dict[str, tuple[str, Write]] = {
        "headline": ("headline", write),
        "full": ("everything", write),
        "ratio": ("times", lambda value: digits(value, 3)),
        "energy": (
            "energy, where known" if energy_part(bill) else "energy",
            lambda value: kwh(3.6e6 * value),
        ),
    }
    rows = [
        (name, show(found.p10), show(found.p50), show(found.p90))
        for key, (name, show) in shows.items()
        for found in filter(None, (bill.spread.get(key),))
        if found.p10 < found.p90
    ]
    title = "How sure it is"
    if not rows:
        text = "Neither the ledger nor a file of terms gives a range, so there is none to tell."
        return Section(title=title, blocks=[Prose(text=text)])
    columns = ("", "P10", "P50", "P90")
    note = "Four of five draws from the inputs' ranges lie between P10 and P90."
    note += _skewed(bill)
    blocks: Blocks = [Table(columns=columns, right=columns[1:], rows=rows, note=note)]
    swings = bill.swings[:8]
    if drawn and swings:
        bars_drawn = []
        for swing in swings:
            low, high = sorted((swing.at_low, swing.at_high))
            spans = [(low, bill.full, "less"), (bill.full, high, "step")]
            bars_drawn.append((_input(swing.key), f"{write(low)} - {write(high)}", spans))
        caption = (
            "Each input alone from its low to its high end, the others at their values; the "
            f"colours meet at {write(bill.full)}."
        )
        name = "What moves the full cost"
        blocks.append(Drawing(title=name, drawing=bars(name, caption, bars_drawn), caption=caption))
    elif swings:
        names = ("what moves it", "at its low", "at its high")
        told = [(_input(s.key), write(s.at_low), write(s.at_high)) for s in swings]
        blocks.append(Table(columns=names, right=names[1:], rows=told))
    return Section(title=title, blocks=blocks)


def _skewed(bill: Bill) -> str:
    """Why the median of a sum is not the sum of the values, where that is to be seen."""
    figures = {"headline": bill.headline.dollars, "full": bill.full}
    apart = {key: bill.spread[key].p50 - figure for key, figure in figures.items()}
    seen = [key for key, figure in figures.items() if abs(apart[key]) > _APART * figure]
    if not seen:
        return ""
    names = " and ".join("everything" if key == "full" else key for key in seen)
    far, near = ("above", "below") if apart[seen[0]] > 0 else ("below", "above")
    return (
        f" P50 of {names} lies {far} the bill's own figure since ranges reach further {far} their "
        f"values than {near} them, and several such add up."
    )


def _input(key: str) -> str:
    group, _, rest = key.partition(".")
    words = {"rates": "an hour of", "price": "price of", "costs": ""}
    return short(f"{words.get(group, group)} {rest.replace('.', ', ')}".strip(), 40)


def prices(bill: Bill, write: Write, drawn: bool) -> Section:
    rows = []
    found = _undated(bill.prices)
    amounts = rounded((alike.dollars for alike in found), places(bill.full))
    shown = list(zip(found, amounts, strict=True))[:PRICES]
    for alike, amount in shown:
        low, high = alike.price.low, alike.price.high
        spanned = f" ({low:g} to {high:g})" if low < high else ""
        rows.append(
            (
                short(alike.price.device, 24),
                f"${alike.price.price:g}{spanned}",
                hours(alike.hours),
                write(amount),
                short(alike.source or "not given", 160),
            )
        )
    more = len(found) - len(shown)
    columns = ("device", "$/h", "hours", "dollars", "source of the price")
    table = Table(
        columns=columns,
        right=columns[1:4],
        rows=rows,
        note=f"And {more:,} more, each with fewer dollars." if more > 0 else "",
        phone="1.4fr 1fr .8fr 1fr",
    )
    blocks: Blocks = [table]
    if bill.terms.inputs:
        blocks.append(_given(bill, drawn))
    return Section(title="Prices and sources", blocks=blocks)


@dataclass
class _Alike:
    """Prices of one device that differ in nothing but the dates in their sources."""

    price: Price
    dates: set[str]
    hours: float = 0.0
    dollars: float = 0.0

    @property
    def source(self) -> str:
        first, last = min(self.dates, default=""), max(self.dates, default="")
        if first == last:
            return self.price.source
        return _DATE.sub(f"{first} to {last}", self.price.source, count=1)


def _undated(found: Sequence[Price]) -> list[_Alike]:
    """The dearest first. Sources with several dates, or people's own words, are left as they are"""
    alike: dict[tuple[str, float, float, float, str], _Alike] = {}
    for price in found:
        dates = _DATE.findall(price.source) if price.source.startswith("catalog: ") else []
        dates = dates if len(dates) == 1 else []
        kind = _DATE.sub("", price.source) if dates else price.source
        key = price.device, price.price, price.low, price.high, kind
        group = alike.setdefault(key, _Alike(price, set()))
        group.dates |= set(dates)
        group.hours += price.hours
        group.dollars += price.hours * price.price
    return sorted(alike.values(), key=lambda group: -group.dollars)


def _given(bill: Bill, drawn: bool) -> Table | Points:
    """The figures of the file of terms."""
    entries = [
        (
            short(entry.key, 40),
            f"{entry.value:,.6g} {entry.unit}",
            "; ".join(
                filter(None, (ends(entry.low, entry.high), entry.source, entry.date, entry.note))
            ),
        )
        for entry in bill.terms.inputs.values()
    ]
    if not drawn:
        return Points(items=[(short(key, 28), f"{value}: {rest}") for key, value, rest in entries])
    return Table(
        title=f"From {bill.terms.file}",
        columns=("input", "value", "low - high, source"),
        right=("value",),
        rows=entries,
        phone="1.1fr 1fr",
    )


def assumed(bill: Bill) -> Section:
    items = [
        (
            "headline",
            "productive hours of rows of purpose pretrain, context, post-train and rl that ended "
            "well, and of cut-off ones whose run ended well after all in the same attempt, at the "
            "price of the row.",
        )
    ]
    if any(price.source.startswith("assumption") and price.price for price in bill.prices):
        low, high = ASSUMED
        items.append(
            (
                "assumed prices",
                f"have no source; they may be {low:g} to {high:g} times what stands here: put "
                "your own in.",
            )
        )
    free = [price for price in bill.prices if not price.price]
    owned = sum(p.headline_hours for p in free if bill.terms.rate(p.device))
    unpaid = sum(p.hours for p in free if not bill.terms.rate(p.device))
    if unpaid:
        items.append(
            ("without a price", f"{hours(unpaid)} device-hours count $0: amend price_per_hour.")
        )
    if owned:
        text = f"{hours(owned)} device-hours count $0 in the headline, and the owner's rate in all."
        items.append(("no ledger's price", text))
    if bill.shared_hours > 1e-3 * bill.metered.hours:
        items.append(
            (
                "side by side",
                f"work inside a row held its devices at once and asked for "
                f"{hours(bill.shared_hours)} device-hours more than the row had: each counts in "
                "proportion, so that together they count what the row held.",
            )
        )
    if bill.owned:
        items.append(
            (
                "owner's rate",
                "counts every hour but the headline's, which stays at the ledger's price; the "
                "difference is a step.",
            )
        )
    if any(bill.terms.rate(price.device) == f"rates.{ALL}" for price in bill.prices):
        text = "counts for every device without a rate of its own, processors that work alone, too."
        items.append((f"rate '{ALL}'", text))
    if bill.people or bill.costs:
        items.append(
            ("people, other costs", "are of the file as it stands, whatever rows were chosen.")
        )
    else:
        items.append(("not in it", "people and costs beside machines: give them with --inputs."))
    return Section(title="What is assumed", blocks=[Points(items=items)])
