"""`benthic cost amend`: put one row right, or all that filters choose.

Each row gets amendments of its own, all rows or none; what was recorded stays beside them. A row
amended to done keeps all of its seconds, one amended from done none, unless seconds_productive says
otherwise (see `ledger.records`): so a run that was resumed, or whose outcome was not recorded,
counts as it was.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from benthic.cost.bill.bill import moment
from benthic.cost.bill.rows import ID, row_label, told
from benthic.cost.bill.words import dollars, row_word, short
from benthic.cost.catalog.load import CostError
from benthic.cost.ledger.entries import AMENDABLE, Billed, Filters
from benthic.cost.ledger.ledger import Ledger, ledger_path
from benthic.cost.page import say


def amend(
    prefix: str,
    changes: Sequence[str],
    *,
    reason: str,
    author: str = "",
    since: str | None = None,
    until: str | None = None,
    project: str | None = None,
    purpose: str | None = None,
    user: str | None = None,
    status: str | None = None,
    source: str | None = None,
    name: str | None = None,
    ledger: Path | None = None,
) -> int:
    """Amend the row whose id starts with `prefix`, or, where that is empty, all that pass.

    Each change is FIELD=VALUE; filters go by what rows say now. Returns the exit code; raises
    CostError, LedgerError, ValueError.
    """
    pairs = [_change(change) for change in changes]
    if not pairs:
        raise CostError(f"nothing to amend: give --set FIELD=VALUE, of {', '.join(AMENDABLE)}.")
    now = time.time()
    filters: Filters = {
        "since": moment(since, now),
        "until": moment(until, now),
        "project": project,
        "purpose": purpose,
        "user": user,
        "status": status,
        "source": source,
        "name": name,
    }
    chosen = any(value is not None for value in filters.values())
    if bool(prefix) == chosen:
        raise CostError(
            "both an ID and filters are given: give one of them."
            if prefix
            else "no row is chosen: give the start of an ID, or --project, --source and the like."
        )
    with Ledger(ledger or ledger_path()) as opened:
        opened.close_stale()
        before = [opened.find(prefix)] if prefix else list(opened.query(**filters))
        if not before:
            raise CostError("no row passes these filters: 'benthic cost list' shows what there is.")
        ids = [row.id for row in before]
        opened.amend_all(ids, pairs, reason=reason, author=author)
        after = list(opened.query(ids=ids))
    _tell(before, after, [field for field, _ in pairs])
    return 0


def _tell(before: list[Billed], after: list[Billed], fields: Sequence[str]) -> None:
    """What is now otherwise; of one row also what follows from what was amended."""
    was, counts = (sum(row.dollars for row in rows) for rows in (before, after))
    write = dollars(max(was, counts))
    if len(before) > 1:
        said = ", ".join(f"{field} {told(field, getattr(after[0], field))}" for field in fields)
        say(
            f"{len(before):,} {row_word(len(before))}: {said}; together they count "
            f"{write(counts)}, before {write(was)}."
        )
        return
    (old,), (new,) = before, after
    for field in dict.fromkeys((*fields, "seconds_productive")):
        then, now = (told(field, getattr(row, field)) for row in (old, new))
        if field in fields or then != now:
            say(f"{field}: {then} -> {now}")
    say(f"{old.id[:ID]} {row_label(old)} counts {write(counts)}, before {write(was)}.")


def _change(text: str) -> tuple[str, str]:
    field, equals, value = text.partition("=")
    if not equals:
        raise CostError(f"the change is '{short(text, 60)}': write FIELD=VALUE, like project=reef.")
    return field.strip(), value.strip()
