"""A bill in words: the headline beside the full cost, the steps between, who used it, how sure.

One story for terminal and page (`page.py`). Dollars are written to the cent below a million, finer
below a dollar; of a column that adds up, each line is rounded so that it still does.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import time

from benthic import __version__
from benthic.cost.bill import detail as bill_detail
from benthic.cost.bill.bill import (
    Amount,
    Bill,
    Run,
    Share,
    purpose_name,
    rounded,
)
from benthic.cost.bill.headline import FINAL, LOST
from benthic.cost.bill.words import (
    Write,
    blank,
    day,
    dollars,
    hours,
    part_of,
    places,
    row_word,
    short,
    signed,
)
from benthic.cost.page import (
    Drawing,
    Number,
    Page,
    Points,
    Prose,
    Section,
    Table,
    bars,
    digits,
    rate,
)

Blocks = list[Table | Prose | Points | Drawing]

STEPS = {
    "headline": "headline: final runs, kept",
    "owned": "an owner's rate, not rent",
    "lost": "final runs: work not kept",
    "failed": "failed and interrupted",
    "running": "final runs, still running",
    "ablation": "ablations",
    "evaluation": "evaluations",
    "data": "data work",
    "other": "other work",
    "serving": "serving",
    "chat": "chat",
    "idle": "idle: paid for, unused",
    "people": "people",
}
_START = (
    "Bill a command with 'benthic meter -- COMMAND', or read what was with 'benthic cost import'."
)
_MOST = 10  # names told of projects and users


def story(bill: Bill, *, drawn: bool = False) -> Page:
    """The whole bill; `drawn` for a page with drawings and folded lists."""
    write = dollars(bill.full)
    project = bill.filters.get("project")
    sections: list[Section] = []
    if bill.rows:
        sections = [
            _steps(bill, write, drawn),
            _ratio(bill, write),
            _purposes(bill, write),
            _who(bill, write),
            bill_detail.plans(bill),
            bill_detail.idle(bill, write),
            bill_detail.energy(bill),
            bill_detail.sure(bill, write, drawn),
            bill_detail.prices(bill, write, drawn),
            bill_detail.assumed(bill),
        ]
    return Page(
        title=f"The bill of {short(project, 40)}" if project else "The bill",
        span=f"{day(bill.started)} to {day(bill.ended)}" if bill.rows else "",
        verdict=_verdict(bill, write),
        about=f"{_about(bill)}{_issued(bill) if drawn else ''}",
        numbers=_numbers(bill, write) if bill.rows else (),
        sections=[section for section in sections if section.blocks],
    )


def _issued(bill: Bill) -> str:
    """When, by what and from where: a page is read long after, by others."""
    return f" Drawn up {day(time())} by Benthic {__version__} from {Path(bill.ledger).name}."


def step_name(key: str) -> str:
    """What a step of the waterfall is called."""
    return STEPS.get(key, key.removeprefix("costs."))


def _verdict(bill: Bill, write: Write) -> str:
    head, full = write(bill.headline.dollars), write(bill.full)
    if not bill.rows:
        return f"The ledger holds no row{_kept_out(bill)}. {_START}"
    if not bill.full:
        return (
            f"{hours(bill.metered.hours)} device-hours, {hours(bill.headline.hours)} of them in "
            "final runs and kept; no hour has a price, so all of it counts $0."
        )
    if not bill.headline.hours:
        return f"{full} was spent, and no final run has ended well: the headline is {head}."
    if len(bill.waterfall) == 1:
        return f"{full} is the headline and all of it: the ledger holds final runs and no more."
    if not bill.factors:
        why = "next to nothing beside it" if bill.headline.dollars else "for they had no price"
        return f"{full} was spent; the final runs that ended well count {head}, {why}."
    times = digits(bill.full / bill.headline.dollars, 3)
    return (
        f"{head} is the headline, the final runs at their price; {full} is all that it took, "
        f"{times} times as much."
    )


def _kept_out(bill: Bill) -> str:
    asked = _asked(bill)
    times = [f" {name} {asked.pop(name)}" for name in ("since", "until") if name in asked]
    words = ", ".join(f"{name} {value}" for name, value in asked.items())
    return f"{' of ' if words else ''}{words}{''.join(times)}"


def _asked(bill: Bill) -> dict[str, str]:
    asked = {name: value for name, value in bill.filters.items() if name not in ("since", "until")}
    words = {name: str(value) for name, value in asked.items()}
    for name in ("since", "until"):
        value = bill.filters.get(name)
        if isinstance(value, float):
            shown = datetime.fromtimestamp(value, UTC)
            words[name] = shown.strftime("%Y-%m-%d" if value % 86400 == 0 else "%Y-%m-%d %H:%M")
    return words


def _about(bill: Bill) -> str:
    if not bill.rows:
        return f"From {bill.ledger}."
    words = [f"{name} {value}" for name, value in _asked(bill).items()]
    text = f"{bill.rows:,} {row_word(bill.rows)} of the ledger"
    text += f" ({', '.join(words)})" if words else ""
    text += f", {day(bill.started)} to {day(bill.ended)}, by UTC."
    if bill.open_rows:
        text += f" {bill.open_rows:,} still {'run' if bill.open_rows > 1 else 'runs'}, counted to"
        text += " the last heartbeat."
    return text


def _numbers(bill: Bill, write: Write) -> list[Number]:
    head, metered, failed = bill.headline, bill.metered, bill.steps["failed"]
    idle, shown = bill.steps["idle"], bill.shown(places(bill.full))
    extra = bill.people + sum(bill.costs.values())
    more = f", and {write(extra)} of people and other costs" if extra else ""
    return [
        Number(
            label="Headline: final runs",
            value=write(head.dollars),
            note=f"{hours(head.hours)} device-hours{_each(head)}",
        ),
        Number(
            label="Everything",
            value=write(bill.full),
            note=f"{hours(metered.hours)} device-hours{_each(metered)}{more}",
        ),
        Number(
            label="Failed and interrupted",
            value=write(shown.get("failed", 0.0)),
            note=f"{hours(failed.hours)} device-hours in {failed.rows:,} {row_word(failed.rows)}",
        ),
        Number(
            label="Idle",
            value=write(shown.get("idle", 0.0)),
            note=f"{hours(idle.hours)} device-hours reserved and not used",
        ),
    ]


def _each(amount: Amount) -> str:
    return f" at {rate(amount.dollars / amount.hours)}" if amount.hours else ""


def _steps(bill: Bill, write: Write, drawn: bool) -> Section:
    full = bill.full
    steps = [(key, step_name(key), amount) for key, amount in bill.shown(places(full)).items()]
    title = "From headline to all of it"
    spent = {"headline": bill.headline, **bill.steps}
    rows = []
    for key, name, amount in steps:
        step = spent.get(key)
        change = write(amount) if key == "headline" else signed(amount, write)
        rows.append((name, hours(step.hours) if step else "", change, part_of(amount, full)))
    end = sum(amount for _, _, amount in steps)
    rows.append(("everything", hours(bill.metered.hours), write(end), "100%" if full else ""))
    columns = ("step", "device-hours", "dollars", "share")
    table = Table(columns=columns, right=columns[1:], rows=rows, total=True)
    if not drawn or not full:
        return Section(title=title, blocks=[table])
    level, spans = 0.0, []
    for key, name, amount in steps:
        role = {"headline": "total", "idle": "nobody"}.get(key, "less" if amount < 0 else "step")
        note = write(amount) if key == "headline" else signed(amount, write)
        spans.append((name, note, [(level, level + amount, role)]))
        level += amount
    spans.append(("everything", write(level), [(0.0, level, "total")]))
    words = "; ".join(f"{name} {note}" for name, note, _ in spans)
    picture = Drawing(
        title="Each bar starts where the one above it ends",
        drawing=bars(title, words, spans),
        caption="Idle is grey: it stays a step of its own and is spread over no work.",
    )
    return Section(title=title, blocks=[picture, table])


def _ratio(bill: Bill, write: Write) -> Section:
    """The gap as hours left out times their price, and the factors of the ratio."""
    factors, ratio = bill.factors, bill.ratio
    if factors is None or ratio is None or len(bill.waterfall) == 1:
        return Section(title="", blocks=[])
    head, metered, extra = bill.headline, bill.metered, bill.full - bill.metered.dollars
    times = digits(ratio, 3)
    rest = f" x {factors[2]:.3f} (people, other costs)" if extra else ""
    text = (
        f"{write(bill.full)} / {write(head.dollars)} = {times} = {digits(factors[0], 3)} (hours) "
        f"x {factors[1]:.3f} (price){rest}."
    )
    left = metered.hours - head.hours
    parts = [
        ("the headline", head.hours, head.dollars),
        ("its hours at the owner's rate", head.hours, bill.owned),
        ("hours left out", left, metered.dollars - head.dollars - bill.owned),
        ("people, other costs", 0.0, extra),
    ]
    amounts = rounded((dollars for *_, dollars in parts), places(bill.full))
    rows = [
        (name, hours(span) if span else "", _rate(dollars, span), write(amount))
        for (name, span, dollars), amount in zip(parts, amounts, strict=True)
        if dollars or name == "hours left out"
    ]
    rows.append(("everything", hours(metered.hours), "", write(sum(amounts))))
    columns = ("", "device-hours", "$/h", "dollars")
    table = Table(columns=columns, right=columns[1:], rows=rows, total=True)
    return Section(title=f"Why {times} times", blocks=[Prose(text=text), table])


def _rate(amount: float, span: float) -> str:
    if not span:
        return ""
    each = amount / span
    return f"{'-' if each < 0 else ''}{rate(abs(each))}"


def _purposes(bill: Bill, write: Write) -> Section:
    purposes = sorted(
        {purpose for purpose, _ in bill.cells},
        key=lambda p: -sum(a.dollars for (q, _), a in bill.cells.items() if q == p),
    )
    some = blank(write)
    totals = [sum(a.dollars for (q, _), a in bill.cells.items() if q == p) for p in purposes]
    amounts = rounded(totals, places(bill.full))
    columns = ["purpose", "rows", "ended well", "cut off", "running", "dollars"]
    rows = []
    for purpose, amount in zip(purposes, amounts, strict=True):
        cells = {status: a for (p, status), a in bill.cells.items() if p == purpose}
        done, running = (cells.get(s, Amount()).dollars for s in ("done", "running"))
        lost = sum(cells.get(s, Amount()).dollars for s in LOST)
        number = f"{sum(a.rows for a in cells.values()):,}"
        rows.append(
            [purpose_name(purpose), number, some(done), some(lost), some(running), write(amount)]
        )
    rows.append(["metered", f"{bill.rows:,}", "", "", "", write(sum(amounts))])
    if not bill.open_rows:
        for row in (columns, *rows):
            del row[4]
    cut = any(a.dollars for (p, s), a in bill.cells.items() if p in FINAL and s in LOST)
    note = (
        "What a final run kept when it was cut off is in the headline if the same attempt at it "
        "ended well later."
    )
    table = Table(
        columns=columns, right=columns[1:], rows=rows, total=True, note=note if cut else ""
    )
    return Section(title="By purpose and outcome", blocks=[table])


def _who(bill: Bill, write: Write) -> Section:
    blocks: Blocks = []
    for title, found in (("projects", bill.projects), ("users", bill.users)):
        if len(found) > 1 or any(found):
            blocks.append(_shares(title, found, bill, write))
    if bill.run_count > 1:
        blocks.append(_runs(bill, write))
    return Section(title="Who and what used it", blocks=blocks)


def _shares(title: str, found: Mapping[str, Share], bill: Bill, write: Write) -> Table:
    ordered = sorted(found.items(), key=lambda item: (-item[1].full.dollars, item[0]))
    shown = ordered[:_MOST]
    rest = Share()
    for _, part in ordered[_MOST:]:
        for name in ("headline", "full", "lost", "idle"):
            other = getattr(part, name)
            getattr(rest, name).add(other.dollars, other.hours, other.rows)
    if len(ordered) > _MOST:
        shown = [*shown, (f"{len(ordered) - _MOST:,} others", rest)]
    full = rounded((part.full.dollars for _, part in shown), places(bill.full))
    cells = blank(write)
    rows = [
        (
            short(name or "(none)", 24),
            cells(part.headline.dollars),
            cells(part.lost.dollars),
            cells(part.idle.dollars),
            write(amount),
        )
        for (name, part), amount in zip(shown, full, strict=True)
    ]
    columns = (title[:-1], "headline", "lost", "idle", "all of it")
    return Table(
        title=title.capitalize(),
        columns=columns,
        right=columns[1:],
        rows=rows,
        note="The headline is at the ledger's price, the rest at the owner's."
        if bill.owned
        else "",
    )


def _runs(bill: Bill, write: Write) -> Table:
    amounts = [run.amount.dollars for run in bill.runs]
    if bill.run_count == len(amounts):  # a reader may add them up
        amounts = rounded(amounts, places(bill.full))
    rows = [
        (
            short(_run_name(run, bill.runs), 36),
            f"{run.amount.rows:,}",
            hours(run.amount.hours),
            write(amount),
            part_of(run.amount.dollars, bill.metered.dollars),
        )
        for run, amount in zip(bill.runs, amounts, strict=True)
    ]
    columns = ("run", "rows", "hours", "dollars", "share")
    note = f"{len(rows)} of {bill.run_count:,} runs." if bill.run_count > len(rows) else ""
    return Table(title="Largest runs", columns=columns, right=columns[1:], rows=rows, note=note)


def _run_name(run: Run, runs: Sequence[Run]) -> str:
    """The last part of its folder, or two where another run's is called the same."""
    twins = sum(other.name == run.name for other in runs)
    if twins == 1 or run.name == run.run:
        return run.name
    return "/".join(run.run.rsplit("/", 2)[-2:])
