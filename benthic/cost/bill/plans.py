"""Plans of runs held against what was metered of them, in device-hours and dollars.

A plan is a document that a planner left in the ledger; one of another program is passed over.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benthic.cost.ledger.entries import Filters, label
from benthic.cost.ledger.ledger import Ledger
from benthic.cost.spread import Spread


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


def held(ledger: Ledger, purposes: Sequence[str], filters: Filters) -> Iterator[Held]:
    """Plans of runs that have rows of `purposes` among those that pass `filters`."""
    plans = {run: found for run, found in ledger.plans().items() if isinstance(found, dict)}
    if not plans:
        return
    hours, dollars = dict.fromkeys(plans, 0.0), dict.fromkeys(plans, 0.0)
    rows, running = dict.fromkeys(plans, 0), dict.fromkeys(plans, False)
    chosen: Filters = {**filters, "runs": list(plans)}
    for group in ledger.groups(("run", "purpose", "status"), **chosen):
        run, purpose, status = group.key.values()
        if purpose in purposes:
            hours[run] += group.device_seconds / 3600
            dollars[run] += group.dollars
            rows[run] += group.rows
            running[run] |= status == "running"
    for run, document in plans.items():
        for quantity, metered in (("gpu_hours", hours[run]), ("dollars", dollars[run])):
            planned = _planned(document.get(quantity))
            if planned and rows[run]:
                yield Held(
                    run=run,
                    name=label("", run),
                    quantity=quantity,
                    planned=planned,
                    metered=metered,
                    running=running[run],
                )


def _planned(found: Any) -> Spread | None:
    names = ("p10", "p50", "p90")
    if not isinstance(found, dict) or not all(isinstance(found.get(n), int | float) for n in names):
        return None
    return Spread(*(float(found[name]) for name in names))
