"""`benthic cost import`: read another tool's record, add what is new, say what was assumed."""

import json
from pathlib import Path
from typing import Any

from benthic.cost.catalog.load import CostError
from benthic.cost.imports import read
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
        added, skipped = open_ledger.add(found.entries)
    seconds = sum(entry.seconds * entry.count for entry in found.entries)
    dollars = sum(e.seconds * e.count * e.price_per_hour / 3600 for e in found.entries)
    if as_json:
        facts: dict[str, Any] = {
            "added": added,
            "there_already": skipped,
            "device_hours": seconds / 3600,
        }
        facts |= {"dollars": dollars, "left_out": found.left_out, "assumed": found.assumed}
        print(json.dumps(facts, indent=1))
        return 0
    print(
        visible(
            f"{path.name}: {added} rows added, {skipped} there already; "
            f"{seconds / 3600:,.1f} device-hours, {money(dollars)} in all."
        )
    )
    for title, sentences in (("assumed", found.assumed), ("left out", found.left_out)):
        for sentence in sentences:
            print(visible(f"  {title}: {sentence}"))
    return 0
