"""`benthic cost import`: read another tool's record, add what is new, say what was assumed."""

import json
from pathlib import Path
from typing import Any

from benthic.cost.catalog.load import CostError
from benthic.cost.imports import read
from benthic.cost.imports.intake import differences
from benthic.cost.ledger.entries import Entry, external_id
from benthic.cost.ledger.ledger import Ledger, ledger_path
from benthic.cost.page import money
from benthic.svg import visible


def bring(path: Path, *, ledger: Path | None = None, as_json: bool = False, **given: Any) -> int:
    """Add the file's rows to the ledger and return the exit code; `given` goes to `read`.

    Nothing is written before the whole file has been read, and a file read before adds nothing.
    """
    if not path.exists():
        raise CostError(f"{path} does not exist: name a file or folder that a tool has written")
    found = read(path, **given)
    with Ledger(ledger or ledger_path()) as open_ledger:
        entries, differing = _new(open_ledger, found.entries)
        added, skipped = open_ledger.add(entries)
        skipped += len(found.entries) - len(entries)
    left_out = [*found.left_out, *differing]
    seconds = sum(entry.seconds * entry.count for entry in found.entries)
    dollars = sum(e.seconds * e.count * e.price_per_hour / 3600 for e in found.entries)
    if as_json:
        facts: dict[str, Any] = {
            "added": added,
            "there_already": skipped,
            "device_hours": seconds / 3600,
        }
        facts |= {"dollars": dollars, "left_out": left_out, "assumed": found.assumed}
        print(json.dumps(facts, indent=1))
        return 0
    print(
        visible(
            f"{path.name}: {added} rows added, {skipped} there already; "
            f"{seconds / 3600:,.1f} device-hours, {money(dollars)} in all."
        )
    )
    for title, sentences in (("assumed", found.assumed), ("left out", left_out)):
        for sentence in sentences:
            print(visible(f"  {title}: {sentence}"))
    return 0


def _new(ledger: Ledger, entries: list[Entry]) -> tuple[list[Entry], list[str]]:
    """The rows without those that the ledger has by another key, and what it has otherwise."""
    ids = [external_id(entry.external or "") for entry in entries]
    known = {row.id: row for row in ledger.query(ids=ids)}
    rows, twins, other = [], [], []
    nameless = _wandb(ledger, [e for e, key in zip(entries, ids, strict=True) if key not in known])
    for entry, key in zip(entries, ids, strict=True):
        row = known.get(key)
        if row:
            found = [d for d in differences(row, entry) if d.split()[0] not in row.amended]
            other += [f"{key[:8]} {entry.name}: {', '.join(found)}"] if found else []
        elif entry.external in nameless:
            twins.append(entry.name)
            continue
        rows.append(entry)
    said = []
    if twins:
        said.append(
            f"{_some(twins)} are there by another export, one of both being without ID: show the "
            "column ID in the runs table if they are other runs."
        )
    if other:
        said.append(
            f"{_some(other)} say otherwise than the ledger, whose figures stay: put them right "
            "with 'benthic cost amend ID'."
        )
    return rows, said


def _wandb(ledger: Ledger, entries: list[Entry]) -> set[str | None]:
    """Keys of wandb's runs that are there by name and start, where one of both had no ID."""
    ours = {
        (e.name, int(e.started)): (e.external, e.run == f"wandb:{e.name}")
        for e in entries
        if e.source == "import:wandb"
    }
    if not ours:
        return set()
    starts = [start for _, start in ours]
    found = set()
    for row in ledger.query(since=min(starts), until=max(starts) + 1):
        external, bare = ours.get((row.name, int(row.started)), (None, False))
        if row.source == "import:wandb" and (bare or row.run == f"wandb:{row.name}"):
            found.add(external)
    return found


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return f"{len(names):,} ({'; '.join(names[:3])}{more})"
