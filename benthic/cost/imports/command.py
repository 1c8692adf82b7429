"""`benthic cost import`: read another tool's record, add what is new, say what was assumed."""

import json
import sys
from pathlib import Path
from typing import Any

from benthic.cost.bill.words import dollars
from benthic.cost.catalog.load import CostError
from benthic.cost.imports import read
from benthic.cost.imports.intake import differences
from benthic.cost.imports.record import RecordError, counted
from benthic.cost.imports.twins import without_id, written_otherwise
from benthic.cost.ledger.entries import Entry, external_id
from benthic.cost.ledger.ledger import Ledger, ledger_path
from benthic.svg import visible


def bring(path: Path, *, ledger: Path | None = None, as_json: bool = False, **given: Any) -> int:
    """Add the file's rows to the ledger and return the exit code; `given` goes to `read`.

    Nothing is written before the whole file has been read, and a file read before adds nothing.
    Raises RecordError; of several records that cannot be read each has a line on standard error.
    """
    if not path.exists():
        raise CostError(f"{path} does not exist: name a file or folder that a tool has written")
    try:
        found = read(path, **given)
    except RecordError as error:
        if "\n" not in str(error):
            raise
        print(visible(f"benthic: {error}"), file=sys.stderr)  # a line each, not one sentence
        return 1
    with Ledger(ledger or ledger_path()) as open_ledger:
        entries, differing = _new(open_ledger, found.entries)
        there = {row.id for row in open_ledger.query(ids=[_id(entry) for entry in entries])}
        added, skipped = open_ledger.add(entries)
        skipped += len(found.entries) - len(entries)
    left_out = [*found.left_out, *differing]
    new = [entry for entry in entries if _id(entry) not in there]
    given_any = bool(found.given([]))
    flags = found.given(new) if new else []
    if given_any and skipped:
        flags.append(
            f"{counted(skipped)} there already {'keeps' if skipped == 1 else 'keep'} what "
            f"{'it has' if skipped == 1 else 'they have'}: change that with 'benthic cost amend "
            f"--source {found.entries[0].source} --set FIELD=VALUE --reason WHY', which other "
            "filters narrow."
        )
    seconds = sum(entry.seconds * entry.count for entry in found.entries)
    each = [e.seconds * e.count * e.price_per_hour / 3600 for e in found.entries]
    if as_json:
        facts: dict[str, Any] = {
            "added": added,
            "there_already": skipped,
            "device_hours": seconds / 3600,
        }
        facts |= {"dollars": sum(each), "left_out": left_out, "assumed": found.assumed}
        facts["given"] = flags
        print(json.dumps(facts, indent=1))
        return 0
    write = dollars(max(each, default=0.0))  # as `cost list` writes the same rows
    print(
        visible(
            f"{path.name}: {counted(added)} added, {skipped:,} there already. The file holds "
            f"{seconds / 3600:,.1f} device-hours, {write(sum(each))} by its own figures and the "
            "flags given."
        )
    )
    told = (("given", flags), ("assumed", found.assumed if new else []), ("left out", left_out))
    for title, sentences in told:
        for sentence in sentences:
            print(visible(f"  {title}: {sentence}"))
    return 0


def _new(ledger: Ledger, entries: list[Entry]) -> tuple[list[Entry], list[str]]:
    """The rows without those that the ledger has by another key, and what it has otherwise."""
    ids = [_id(entry) for entry in entries]
    known = {row.id: row for row in ledger.query(ids=ids)}
    rows, twins, other = [], [], []
    others = [e for e, key in zip(entries, ids, strict=True) if key not in known]
    excused = without_id(ledger, others, known.keys())
    left = [entry for entry in others if entry.external not in excused]
    written = written_otherwise(ledger, left, known.keys())
    again = []
    for entry, key in zip(entries, ids, strict=True):
        row = known.get(key)
        if row:
            found = [d for d in differences(row, entry) if d.split()[0] not in row.amended]
            other += [f"{key[:8]} {entry.name}: {', '.join(found)}"] if found else []
        elif twin := excused.get(entry.external or ""):
            found = differences(twin, entry)
            twins.append(f"{entry.name}: {', '.join(found)}" if found else entry.name)
            continue
        elif twin := written.get(entry.external or ""):
            found = differences(twin, entry)
            again.append(f"{entry.name}: {', '.join(found)}" if found else entry.name)
            continue
        rows.append(entry)
    said = []
    if again:
        said.append(
            f"{_some(again)} are there already, with their start written another way: give a run "
            "a name of its own if it is another."
        )
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


def _id(entry: Entry) -> str:
    return external_id(entry.external or "")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return f"{len(names):,} ({'; '.join(names[:3])}{more})"
