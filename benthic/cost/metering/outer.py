"""The row that work runs inside, and what the work takes from it where nothing else was said.

A meter writes its row's id to BENTHIC_METER, which everything below it sees. What is metered there
takes its dollars off that row, so they have to stay what they were: of the same purpose, project
and user, on the same devices at the same price (`held.hold`), for all that was not given. Purpose
idle is the exception: a reservation is there for work of other purposes.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from benthic.cost.ledger.entries import Billed, Purpose, clean
from benthic.cost.ledger.ledger import Ledger


def outer_row(ledger: Path, environ: Mapping[str, str] = os.environ) -> Billed | None:
    """The row that BENTHIC_METER names, if it is open and in this ledger. LedgerError."""
    name = environ.get("BENTHIC_METER", "")
    if not name:
        return None
    with Ledger(ledger) as opened:
        opened.close_stale()
        return next((row for row in opened.query(ids=[clean(name)]) if row.ended is None), None)


def purpose_inside(outer: Billed | None) -> Purpose:
    """What work is for of which nobody said it."""
    return outer.purpose if outer and outer.purpose != "idle" else "other"
