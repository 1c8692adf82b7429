"""A piece of work that goes on where an earlier one was cut off: both are one attempt at one run.

The headline counts what a cut-off row kept if its own attempt ended well (see `bill`). A block of
Python says at each checkpoint what it keeps; of a command nobody says it. So where one is started
as resumed, all that its earlier tries took counts as kept, by an amendment of each; where one of
them saved less, another amendment puts it right.
"""

from benthic.cost.ledger.entries import Billed, Span
from benthic.cost.ledger.ledger import Ledger


def last_attempt(ledger: Ledger, span: Span) -> str:
    """The run's last attempt at the same purpose, by the same kind of meter; empty: none."""
    return next((row.attempt for row in _alike(ledger, span)), "")


def keep_earlier(ledger: Ledger, span: Span) -> None:
    """Count as kept what the earlier tries of this attempt took, where nothing else was said."""
    for row in _alike(ledger, span):
        if row.attempt != span.attempt or row.status not in ("failed", "interrupted"):
            continue
        if not row.seconds_productive and "seconds_productive" not in row.amended:
            ledger.amend(
                row.id,
                "seconds_productive",
                row.seconds,
                reason="its work was resumed, and nobody said from when on",
            )


def _alike(ledger: Ledger, span: Span) -> list[Billed]:
    """Rows of the run for the same purpose, by the same kind of meter, the newest first."""
    found = ledger.query(run=span.run, purpose=span.purpose, source=span.source)
    return [row for row in found if row.ended is not None]
