"""Rows and budgets: `benthic cost list`, `show` and `budget`.

Times are UTC, dollars are as they count: amended, and what ran inside taken off. A row is named by
the start of its id, as the list shows it. Control characters of names are made visible.
"""

import json as json_format
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benthic.cost.bill.bill import moment, purpose_name
from benthic.cost.bill.words import (
    Write,
    dollars,
    hours,
    kwh,
    row_word,
    run_label,
    short,
)
from benthic.cost.catalog.load import CostError
from benthic.cost.ledger.entries import (
    SCOPES,
    STATUSES,
    Billed,
    Budget,
    Scope,
)
from benthic.cost.ledger.ledger import Ledger, ledger_path
from benthic.cost.ledger.purposes import purpose_named
from benthic.cost.network.units import money
from benthic.cost.page import say, share, terminal
from benthic.svg import visible

SHOWN = 20
ID = 8  # characters of an id in a list
NAME = 8  # of a name, however narrow the terminal
MONTH = 30 * 86_400.0  # the pace of a budget is that of the last so many seconds
_DAY = 86_400.0
_NOTHING = re.compile(r"\$?\s*0+(?:\.0*)?\s*(?:usd|\$)?", re.I)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A budget and where it stands."""

    budget: Budget
    spent: float
    a_day: float
    """dollars, over the last 30 days or since the first row if that is less"""

    @property
    def left(self) -> float:
        return max(0.0, (self.budget.dollars or 0.0) - self.spent)

    @property
    def days(self) -> float | None:
        """How long it lasts at that pace; none where nothing was spent of late."""
        return self.left / self.a_day if self.a_day else None


def show_list(
    *,
    since: str | None = None,
    until: str | None = None,
    project: str | None = None,
    purpose: str | None = None,
    user: str | None = None,
    status: str | None = None,
    limit: int = SHOWN,
    json: bool = False,
    ledger: Path | None = None,
) -> int:
    """Print rows, the newest first; returns the exit code. Raises CostError, LedgerError."""
    if limit < 1:
        raise CostError(f"the limit is {limit}: give 1 or more rows.")
    if status is not None and status not in STATUSES:
        raise CostError(f"status is '{short(status, 40)}': choose one of {', '.join(STATUSES)}.")
    now = time.time()
    with Ledger(ledger or ledger_path()) as opened:
        opened.close_stale()
        found = opened.query(
            limit=limit + 1,
            since=moment(since, now),
            until=moment(until, now),
            project=project,
            purpose=purpose,
            user=user,
            status=status,
        )
        rows = list(found)
    shown = rows[:limit]
    if json:
        print(json_format.dumps([to_dict(row) for row in shown], indent=1))
    elif not shown:
        say("No such row. Bill a command with 'benthic meter -- COMMAND'.")
    else:
        _print_rows(shown)
        if len(rows) > limit:
            say(f"The newest {limit:,}; --limit shows more, --since and the like choose.")
    return 0


def show_one(prefix: str, *, json: bool = False, ledger: Path | None = None) -> int:
    """Print all of one row, with its amendments. Raises LedgerError."""
    with Ledger(ledger or ledger_path()) as opened:
        row = opened.find(prefix)
        amendments = opened.amendments(row.id)
        outer = next(opened.query(ids=[row.parent]), None) if row.parent else None
    if json:
        found = to_dict(row) | {"amendments": [asdict(amendment) for amendment in amendments]}
        print(json_format.dumps(found, indent=1))
        return 0
    _print_pairs(row, f"{outer.id[:ID]} {row_label(outer)}" if outer else row.parent or "")
    for amendment in amendments:
        reason, author = (visible(text) for text in (amendment.reason, amendment.author))
        say(f"{stamp(amendment.at)}  {amendment.field} = {amendment.value} by {author}: {reason}")
    return 0


def budget(
    key: str | None = None,
    amount: str | None = None,
    *,
    hard: bool = False,
    project: bool = False,
    json: bool = False,
    ledger: Path | None = None,
) -> int:
    """Set a budget for a purpose, or a project, or lift it with "none"; print all that hold.

    A budget of 0 lets nothing be spent. Raises CostError, LedgerError, ValueError.
    """
    with Ledger(ledger or ledger_path()) as opened:
        if key is not None:
            scope: Scope = "project" if project else "purpose"
            if amount is None:
                raise CostError(f"the budget of '{short(key, 40)}' has no amount: give dollars.")
            lifted = amount.strip().lower() == "none"
            # A budget of nothing is one; everywhere else an amount of nothing is a slip.
            nothing = _NOTHING.fullmatch(amount.strip()) is not None
            limit = None if lifted else 0.0 if nothing else money(amount)
            opened.budget_set(scope, key if project else purpose_named(key), limit, hard=hard)
        standings = [standing(opened, found) for found in opened.budgets()]
    if json:
        print(json_format.dumps([_standing_dict(found) for found in standings], indent=1))
    elif not standings:
        say("No budget. Set one with 'benthic cost budget ablation 500', in US dollars.")
    else:
        _print_budgets(standings)
    return 0


def standing(ledger: Ledger, found: Budget, now: float | None = None) -> Standing:
    """What is spent of a budget, and how fast."""
    now = time.time() if now is None else now
    spent = ledger.spent(found.scope, found.key)
    purpose, project = (found.key if found.scope == scope else None for scope in SCOPES)
    recent = ledger.groups((), purpose=purpose, project=project, since=now - MONTH)
    if not recent or not recent[0].dollars:
        return Standing(budget=found, spent=spent, a_day=0.0)
    days = min(MONTH, max(now - recent[0].started, _DAY)) / _DAY
    return Standing(budget=found, spent=spent, a_day=recent[0].dollars / days)


def to_dict(row: Billed) -> dict[str, Any]:
    """A row for JSON, with what it counts."""
    return asdict(row) | {
        "seconds_billable": row.seconds_billable,
        "seconds_kept": row.seconds_kept,
        "dollars": row.dollars,
        "dollars_kept": row.dollars_kept,
    }


def stamp(unix: float) -> str:
    """Date and time in UTC."""
    try:
        return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return f"unix {unix:g}"


def told(field: str, value: Any) -> str:
    """A field's value as people read it."""
    return (
        purpose_name(value)
        if field == "purpose"
        else "(none)"
        if value in (None, "")
        else str(value)
    )


def row_label(row: Billed) -> str:
    """What people call it."""
    return row.name or run_label(row.run)


def _print_rows(rows: Sequence[Billed]) -> None:
    from rich.table import Table
    from rich.text import Text

    total = sum(row.dollars for row in rows)
    write = dollars(max(row.dollars for row in rows))
    columns = ("id", "started, UTC", "name", "purpose", "status", "hours", "dollars")
    cells = [
        (
            row.id[:ID],
            stamp(row.started)[2:],
            visible(row_label(row)),
            f"{purpose_name(row.purpose)}{'*' if row.amended else ''}",
            row.status,
            hours(row.seconds_billable * row.count / 3600),
            write(row.dollars),
        )
        for row in rows
    ]
    width = terminal().width
    others = [i for i, name in enumerate(columns) if name != "name"]
    taken = sum(max(len(row[i]) for row in (columns, *cells)) for i in others) + len(others)
    room = max(NAME, width - taken)  # a narrow terminal breaks lines, and loses no money
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="dim")
    for name in columns:
        table.add_column(
            name,
            justify="right" if name in ("hours", "dollars") else "left",
            no_wrap=True,
            overflow="ellipsis",
            max_width=room if name == "name" else None,
        )
    for row in cells:
        table.add_row(*map(Text, row))
    terminal(max(width, taken + room)).print(table)
    amended = " * amended." if any(row.amended for row in rows) else ""
    say(f"{len(rows):,} {row_word(len(rows))}, {write(total)}; hours of devices.{amended}")


def _print_pairs(row: Billed, outer: str) -> None:
    from rich.table import Table
    from rich.text import Text

    write = dollars(row.dollars)
    ended = "still open" if row.ended is None else stamp(row.ended)
    busy = "" if row.gpu_busy is None else f", busy {share(row.gpu_busy)} of the time"
    low, high = row.joules_range
    spanned = f" ({kwh(low)} to {kwh(high)})" if low < high else ""
    energy = f"{kwh(row.joules_billable)}{spanned}, {row.energy_source}" if row.joules else ""
    if energy and row.seconds != row.seconds_recorded:
        energy += f"; of the {row.seconds_recorded:,.1f} s recorded, not of those amended"
    pairs = [
        ("id", row.id),
        ("name", row_label(row)),
        ("run", row.run),
        ("purpose", f"{purpose_name(row.purpose)}, stage {row.stage}"),
        ("project", row.project),
        ("user", row.user),
        ("status", row.status if row.exit_code is None else f"{row.status}, exit {row.exit_code}"),
        ("time", f"{stamp(row.started)} to {ended}, UTC"),
        ("seconds", f"{row.seconds:,.1f}, of which {row.seconds_billable:,.1f} count"),
        ("inside it", f"{row.seconds_nested:,.1f} s taken off" if row.seconds_nested else ""),
        ("ran inside", outer),
        ("kept", f"{row.seconds_kept:,.1f} s, {write(row.dollars_kept)}"),
        ("devices", f"{row.count:,} x {row.device}"),
        ("price", f"${row.price_per_hour:g} an hour and device: {row.price_source}"),
        ("dollars", write(row.dollars)),
        ("GPUs held", f"{row.gpus:g}{busy}" if row.gpus else ""),
        ("energy", energy),
        ("tokens", f"{row.tokens:,}" if row.tokens else ""),
        ("command", row.command),
        ("host", f"{row.host}, process {row.pid}" if row.host else ""),
        ("recorded by", row.source),
        ("note", row.note),
        ("amended", ", ".join(row.amended)),
    ]
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        if value:
            table.add_row(name, Text(visible(value)))
    terminal().print(table)


def _print_budgets(standings: Sequence[Standing]) -> None:
    from rich.table import Table
    from rich.text import Text

    write = dollars(max(max(s.budget.dollars or 0.0, s.spent) for s in standings))
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("budget", overflow="fold")
    for name in ("limit", "spent", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("forecast", "past it"):
        table.add_column(name, overflow="fold")
    for found in standings:
        table.add_row(
            Text(visible(f"{found.budget.scope} {told(found.budget.scope, found.budget.key)}")),
            write(found.budget.dollars or 0.0),
            write(found.spent),
            write(found.left),
            _forecast(found, write),
            "refused" if found.budget.hard else "a warning",
        )
    terminal().print(table)


def _forecast(found: Standing, write: Write) -> str:
    if not found.left:
        return "used up"
    if found.days is None:
        return "nothing spent of late"
    lasts = f"{found.days:,.0f} days" if found.days >= 2 else f"{24 * found.days:,.0f} h"
    return f"{lasts} at {write(found.a_day)} a day"


def _standing_dict(found: Standing) -> dict[str, Any]:
    return asdict(found.budget) | {
        "spent": found.spent,
        "left": found.left,
        "dollars_a_day": found.a_day,
        "days": found.days,
        "share": found.spent / found.budget.dollars if found.budget.dollars else None,
    }
