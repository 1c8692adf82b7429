"""Plans of runs: kept by `benthic cost plan`, and held against what was metered of the runs.

A plan is a document of a planner, in the ledger; one of another program is passed over.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from benthic.cost.bill.words import dollars, hours, run_label, short
from benthic.cost.catalog.load import CostError
from benthic.cost.ledger.entries import MAX_DOLLARS, Filters
from benthic.cost.ledger.ledger import Ledger, ledger_path
from benthic.cost.page import say
from benthic.cost.spread import Spread
from benthic.svg import visible

_NEWEST = 1_000  # runs among which a name's nearest are sought
_LONGEST = 200  # characters of a name that are compared


@dataclass(frozen=True, kw_only=True)
class Held:
    """A plan against what was metered of the run."""

    run: str
    name: str
    quantity: str
    planned: Spread
    metered: float
    running: bool

    @property
    def verdict(self) -> str:
        if self.metered > self.planned.p90:
            return "above the plan"
        if self.metered < self.planned.p10:
            return "still running" if self.running else "below the plan"
        return "as planned"


def keep(run: str, file: Path, *, ledger: Path | None = None) -> int:
    """Keep what `benthic plan --json` printed, `file` or "-" for standard input, as a run's plan.

    The report holds gpu_hours and dollars of it against what is metered of that run, whose folder
    `run` is; the newest plan counts. Raises CostError, LedgerError.
    """
    name = "standard input" if str(file) == "-" else short(str(file), 80)
    document = _document(_read(file, name), name)
    with Ledger(ledger or ledger_path()) as opened:
        opened.plan_set(run, document)
        metered = bool(opened.groups((), run=run))
        near = [] if metered else _nearest(opened, run)
    gpu_hours, amount = document["gpu_hours"], document["dollars"]
    say(
        f"{short(run, 80)}: planned {hours(gpu_hours['p50'])} GPU-hours, {hours(gpu_hours['p10'])} "
        f"to {hours(gpu_hours['p90'])}, and {dollars(amount['p50'])(amount['p50'])}."
    )
    if not metered:
        say(
            "The ledger has no row of that run yet; 'benthic cost report' compares when it has, "
            "and 'benthic cost list' with 'show ID' tells how a run is called."
        )
        for other in near:
            say(f"It has rows of {short(other, 160)}")
    return 0


def held(ledger: Ledger, purposes: Sequence[str], filters: Filters) -> Iterator[Held]:
    """Plans of runs that have rows of `purposes` among those that pass `filters`."""
    plans = {run: found for run, found in ledger.plans().items() if isinstance(found, dict)}
    if not plans:
        return
    spans, amounts = dict.fromkeys(plans, 0.0), dict.fromkeys(plans, 0.0)
    rows, running = dict.fromkeys(plans, 0), dict.fromkeys(plans, False)
    chosen: Filters = {**filters, "runs": list(plans)}
    for group in ledger.groups(("run", "purpose", "status"), **chosen):
        run, purpose, status = group.key.values()
        if purpose in purposes:
            spans[run] += group.device_seconds / 3600
            amounts[run] += group.dollars
            rows[run] += group.rows
            running[run] |= status == "running"
    for run, document in plans.items():
        for quantity, metered in (("gpu_hours", spans[run]), ("dollars", amounts[run])):
            planned = _planned(document.get(quantity))
            if planned and rows[run]:
                yield Held(
                    run=run,
                    name=run_label(run),
                    quantity=quantity,
                    planned=planned,
                    metered=metered,
                    running=running[run],
                )


def _nearest(ledger: Ledger, run: str) -> list[str]:
    """At most three of the newest runs, those called most like it."""
    found = sorted(ledger.groups(("run",)), key=lambda group: -group.started)
    names = [group.key["run"][:_LONGEST] for group in found[:_NEWEST]]
    for word in (run, str(Path(run).absolute())):
        near = get_close_matches(word[:_LONGEST], names, n=3)
        if near:
            return near
    return []


def _read(file: Path, name: str) -> Any:
    if str(file) == "-" and sys.stdin is None:
        raise CostError("standard input is closed: name a file, or pipe a plan in.")
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        found = json.loads(text)
        json.dumps(found, allow_nan=False)  # NaN, 1e999: Python reads them, JSON has none
    except OSError as error:
        why = visible(error.strerror or str(error))
        raise CostError(f"{name} cannot be read ({why}): name a file.") from None
    except (ValueError, RecursionError):
        raise CostError(f"{name} is no JSON: give what 'benthic plan ... --json' prints.") from None
    return found


def _document(document: Any, name: str) -> dict[str, Any]:
    """A plan with the spreads that a bill compares, all else of it kept."""
    if isinstance(document, list):
        raise CostError(
            f"{name} has {len(document):,} plans, a run has one: plan one network on one GPU, "
            "without --compare."
        )
    for quantity in ("gpu_hours", "dollars"):
        if _planned(document.get(quantity) if isinstance(document, dict) else None) is None:
            raise CostError(
                f"{name} has no {quantity} with p10, p50 and p90 in that order: give what "
                "'benthic plan ... --json' prints."
            )
    return dict(document)


def _planned(found: Any) -> Spread | None:
    """A spread that can be compared; none: it has other numbers, or a float has no room for them"""
    found = found if isinstance(found, dict) else {}
    numbers = [
        float(end)
        for end in (found.get("p10"), found.get("p50"), found.get("p90"))
        if isinstance(end, int | float) and 0 <= end <= MAX_DOLLARS
    ]
    return Spread(*numbers) if len(numbers) == 3 and numbers == sorted(numbers) else None
