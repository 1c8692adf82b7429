"""What the headline holds: the rows of final runs that were kept.

Final are PRETRAIN, CONTEXT, POST-TRAIN and RL. The productive seconds of such a row count where it
ended well, or where it was cut off and its run ended well after all in the same attempt: one begun
anew threw away what came before. The bill, the receipt of a run and the FOCUS file all ask here.
"""

from collections.abc import Collection, Iterable

from benthic.cost.ledger.entries import Billed
from benthic.cost.ledger.ledger import Ledger

FINAL = ("pretrain", "context", "post-train", "rl")
LOST = ("failed", "interrupted")

Attempt = tuple[str, str, str]  # purpose, run, attempt


def counts(row: Billed, ended: Collection[Attempt]) -> bool:
    """Whether what the row kept is in the headline; `ended`: attempts that ended well."""
    cut_off = row.status in LOST and _attempt(row) in ended
    return row.purpose in FINAL and (row.status == "done" or cut_off)


def ended_among(rows: Iterable[Billed]) -> set[Attempt]:
    """Attempts at final work that ended well, among all rows of their runs."""
    return {_attempt(row) for row in rows if row.purpose in FINAL and row.status == "done"}


def ended_attempts(ledger: Ledger, runs: list[str] | None = None) -> set[Attempt]:
    """The same of a ledger, whatever a report leaves out; `runs`: of these alone."""
    keys = ("purpose", "run", "attempt")
    found = ledger.groups(keys, purposes=list(FINAL), statuses=["done"], runs=runs)
    return {(g.key["purpose"], g.key["run"], g.key["attempt"]) for g in found}


def _attempt(row: Billed) -> Attempt:
    return row.purpose, row.run, row.attempt
