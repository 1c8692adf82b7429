"""Rows that a ledger has by another key: the same work as another export tells it.

A key is made of what a file says, so the same run has another one where the file writes its start
another way (a unix time instead of a date, another zone), or, with wandb, where one of two exports
leaves the ID out. Such rows are known by what both say, and are not added again.
"""

from collections.abc import Collection, Iterable
from typing import TypeVar

from benthic.cost.imports.table import UNNAMED
from benthic.cost.ledger.entries import Billed, Entry
from benthic.cost.ledger.ledger import Ledger

Row = TypeVar("Row", bound=Entry)


def written_otherwise(
    ledger: Ledger, entries: list[Entry], known: Collection[str]
) -> dict[str, Billed]:
    """By key, entries that are there by tool, run, start to the millisecond and device.

    One without a name also by its length and count. A row in `known`, which a run of this file has
    made before, excuses none, and each of the others one.
    """
    if not entries:
        return {}
    starts = [entry.started for entry in entries]
    found = ledger.query(since=min(starts) - 1, until=max(starts) + 1, source=entries[0].source)
    there = {_told(row): row for row in found if row.id not in known}
    excused: dict[str, Billed] = {}
    for entry in entries:
        if twin := there.pop(_told(entry), None):
            excused[entry.external or ""] = twin
    return excused


def _told(row: Entry) -> tuple[object, ...]:
    tool, _, run = row.run.partition(":")
    told = (tool, round(row.started, 3), row.device)
    if run.startswith(UNNAMED):
        return (*told, round(row.seconds, 3), row.count)
    return (*told, run)


def without_id(ledger: Ledger, entries: list[Entry], known: Collection[str]) -> dict[str, Billed]:
    """By key, runs of wandb that are there by name and start, where one of both had no ID.

    One row of the ledger excuses one run, that of equal seconds first; a row in `known`, which a
    run of this file has made before, excuses none.
    """
    ours = _by_name([entry for entry in entries if entry.source == "import:wandb"])
    if not ours:
        return {}
    starts = [start for _, start in ours]
    found = ledger.query(since=min(starts), until=max(starts) + 1)
    theirs = _by_name(
        [row for row in found if row.source == "import:wandb" and row.id not in known]
    )
    excused: dict[str, Billed] = {}
    for key in ours.keys() & theirs.keys():
        rows = theirs[key]
        bare = [place for place, row in enumerate(rows) if _is_bare(row)]
        pairs = sorted(
            (abs(entry.seconds - rows[other].seconds), place, other)
            for place, entry in enumerate(ours[key])
            for other in (range(len(rows)) if _is_bare(entry) else bare)
        )
        taken: set[int] = set()
        for _, place, other in pairs:
            external = ours[key][place].external or ""
            if external not in excused and other not in taken:
                excused[external] = rows[other]
                taken.add(other)
    return excused


def _by_name(rows: Iterable[Row]) -> dict[tuple[str, int], list[Row]]:
    found: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        found.setdefault((row.name, int(row.started)), []).append(row)
    return found


def _is_bare(row: Entry) -> bool:
    return row.run == f"wandb:{row.name}"
