"""`benthic cost report`: the bill in a terminal, as JSON, as a page, as Markdown for a model card.

The card is for strangers, so it names no user, project, run or path; the rest names all of them.
Times are UTC. The JSON has figures as they are, unrounded: what adds up does so as floats do.
"""

import json as json_format
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benthic.cost.bill.bill import Amount, Bill, Share, draw_up, moment
from benthic.cost.bill.page import step_name, story
from benthic.cost.bill.spread import weigh
from benthic.cost.bill.terms import ALL, load
from benthic.cost.bill.words import short
from benthic.cost.catalog.load import CostError
from benthic.cost.ledger.ledger import Ledger, ledger_path
from benthic.cost.page import Page, Points, Prose, Table, print_page, say, write_page, write_text
from benthic.svg import visible

ASSUMED = "What is assumed"
CARD = (
    *("From headline to all of it", "By purpose and outcome", "Energy", "How sure it is"),
    ASSUMED,
)
MOST_DEVICES = 8  # told as names that a rate may have
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&])")


def show(
    *,
    since: str | None = None,
    until: str | None = None,
    project: str | None = None,
    purpose: str | None = None,
    user: str | None = None,
    inputs: Path | None = None,
    json: bool = False,
    html: Path | None = None,
    markdown: Path | None = None,
    ledger: Path | None = None,
    now: float | None = None,
) -> int:
    """Print the bill of a ledger's rows, and write what else is asked for; returns the exit code.

    `inputs` is a file of terms (see `terms`). Raises CostError, LedgerError, ValueError.
    """
    now = datetime.now(UTC).timestamp() if now is None else now
    terms = load(inputs)
    first, last = moment(since, now), moment(until, now)
    if first is not None and last is not None and first >= last:
        raise CostError(f"since {since} is not before until {until}: swap them or widen the span.")
    with Ledger(ledger or ledger_path()) as opened:
        opened.close_stale()
        bill = draw_up(
            opened, terms, since=first, until=last, project=project, purpose=purpose, user=user
        )
    weigh(bill)
    if html:  # files first: whoever reads what is printed may leave before its end
        write_page(page_of(bill, drawn=True), html)
    if markdown:
        write_card(bill, markdown)
    if json:
        print(json_format.dumps(to_dict(bill), indent=1))
    else:
        print_page(page_of(bill))
    for path in filter(None, (html, markdown)):
        if not json:
            say(f"Written: {path}")
    return 0


def page_of(bill: Bill, *, drawn: bool = False) -> Page:
    """The bill's story, and what of the file of terms came to nothing."""
    page, idle = story(bill, drawn=drawn), _idle_rates(bill)
    if not idle:
        return page
    told = Points(items=[_unused(bill, idle)])
    sections = [
        replace(section, blocks=[*section.blocks, told]) if section.title == ASSUMED else section
        for section in page.sections
    ]
    return replace(page, sections=sections)


def _unused(bill: Bill, idle: Sequence[str]) -> tuple[str, str]:
    """What rates of `idle` came to, and the remedy; of `ALL` there is none but to know it."""
    held = ", ".join(dict.fromkeys(short(price.device, 40) for price in bill.prices[:MOST_DEVICES]))
    named = [f"'{short(name, 40)}'" for name in idle if name != ALL]
    one = len(named) == 1
    text = (
        f"of {', '.join(named)} in {bill.terms.file} {'matches' if one else 'match'} no row here "
        f"and {'counts' if one else 'count'} nothing: write a device as its rows do, like {held}, "
        f"or '{ALL}'."
    )
    every = f"of '{ALL}' in {bill.terms.file} counts nothing: each device here has its own rate."
    parts = [text] * bool(named) + [every] * (ALL in idle)
    return "unused rate" if len(idle) == 1 else "unused rates", " ".join(parts)


def _idle_rates(bill: Bill) -> list[str]:
    return bill.terms.idle_rates(price.device for price in bill.prices) if bill.rows else []


def to_dict(bill: Bill) -> dict[str, Any]:
    """For JSON: US dollars, device-hours, kWh, times in ISO 8601 UTC, inputs with sources."""
    factors, energy = bill.factors, bill.energy
    return {
        "ledger": bill.ledger,
        "filters": dict(bill.filters),
        "rows": bill.rows,
        "rows_open": bill.open_rows,
        "started": _iso(bill.started) if bill.rows else None,
        "ended": _iso(bill.ended) if bill.rows else None,
        "headline": {"dollars": bill.headline.dollars, "device_hours": bill.headline.hours},
        "full": bill.full,
        "metered": _numbers(bill.metered),
        "ratio": bill.ratio,
        "factors": dict(zip(("hours", "price", "other"), factors)) if factors else None,
        "left_out": {
            "device_hours": bill.metered.hours - bill.headline.hours,
            "dollars": bill.full - bill.headline.dollars,
        },
        "waterfall": [
            {
                "step": key,
                "label": step_name(key),
                "dollars": amount,
                "device_hours": _hours(bill, key),
            }
            for key, amount in bill.waterfall
        ],
        "purposes": [
            {"purpose": purpose, "status": status} | _numbers(amount)
            for (purpose, status), amount in sorted(bill.cells.items())
        ],
        "projects": _shares(bill.projects, "project"),
        "users": _shares(bill.users, "user"),
        "runs": [
            {"run": run.run, "tokens": run.tokens} | _numbers(run.amount) for run in bill.runs
        ],
        "run_count": bill.run_count,
        "plans": [
            {
                "run": held.run,
                "quantity": held.quantity,
                "planned": asdict(held.planned),
                "metered": held.metered,
                "verdict": held.verdict,
            }
            for held in bill.plans
        ],
        "idle": _numbers(bill.steps["idle"])
        | {"gpu_hours_known": bill.gpu_hours, "gpu_hours_busy": bill.gpu_hours_busy},
        "energy": {
            "kwh": energy.joules / 3.6e6,
            "low": energy.low / 3.6e6,
            "high": energy.high / 3.6e6,
            "device_hours_known": None if energy.sampled else energy.hours,
            "rows_of_amended_seconds": None if energy.sampled else energy.amended,
            "by_source": {
                kind: {"kwh": sums[0] / 3.6e6, "low": sums[1] / 3.6e6, "high": sums[2] / 3.6e6}
                for kind, sums in energy.kinds.items()
            },
            "sources": energy.sources,
            "sources_of_newest_rows_only": energy.sampled,
        },
        "prices": [asdict(price) for price in bill.prices],
        "rates_unused": _idle_rates(bill),
        "inputs": {key: asdict(entry) for key, entry in bill.inputs.items()},
        "spread": {key: asdict(found) for key, found in bill.spread.items()},
        "swings": [asdict(swing) for swing in bill.swings],
    }


def _iso(unix: float) -> str | None:
    try:
        return datetime.fromtimestamp(unix, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None


def _numbers(amount: Amount) -> dict[str, Any]:
    return {"dollars": amount.dollars, "device_hours": amount.hours, "rows": amount.rows}


def _hours(bill: Bill, step: str) -> float | None:
    amount = {"headline": bill.headline, **bill.steps}.get(step)
    return amount.hours if amount else None


def _shares(found: dict[str, Share], what: str) -> list[dict[str, Any]]:
    ordered = sorted(found.items(), key=lambda item: (-item[1].full.dollars, item[0]))
    return [
        {what: name}
        | _numbers(share.full)
        | {
            "headline": share.headline.dollars,
            "lost": share.lost.dollars,
            "idle": share.idle.dollars,
        }
        for name, share in ordered
    ]


def card(bill: Bill) -> str:
    """The bill as Markdown for a model card; names no user, project, run or path."""
    page = story(replace(bill, filters={}))  # which are names, too
    lines = ["## Cost", "", plain(page.verdict), ""]
    for number in page.numbers:
        lines.append(f"- **{plain(number.label)}**: {plain(number.value)}, {plain(number.note)}")
    lines.append("")
    for title in CARD:
        for section in page.sections:
            if section.title == title:
                lines += [f"### {title}", "", *_blocks(section.blocks)]
    return "\n".join(lines).rstrip() + "\n"


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(visible(text).split()))


def write_card(bill: Bill, target: Path) -> None:
    """Write the Markdown, whole or not at all. Raises `CostError` where that cannot be done."""
    write_text(card(bill), target)


def _blocks(blocks: Sequence[Any]) -> list[str]:
    lines: list[str] = []
    for block in blocks:
        if isinstance(block, Prose):
            lines += [plain(block.text), ""]
        elif isinstance(block, Points):
            lines += [f"- **{plain(name)}**: {plain(text)}" for name, text in block.items]
            lines.append("")
        elif isinstance(block, Table):
            sides = ["---:" if name in block.right else "---" for name in block.columns]
            rows = [block.columns, *block.rows]
            told = [f"| {' | '.join(plain(cell) for cell in row)} |" for row in rows]
            lines += [told[0], f"| {' | '.join(sides)} |", *told[1:], ""]
            lines += [plain(block.note), ""] if block.note else []
    return lines
