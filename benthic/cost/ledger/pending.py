"""The end of a row that its ledger did not take, kept in a file beside it until it can be written.

A ledger may be locked, full or away in the moment in which work ends. Its last figures and its
outcome then wait in `<ledger>.pending/<id>.json`, and whoever closes stale rows next takes them in
first: as the end of the row, or, where that was closed meanwhile, as amendments of it. A file goes
once the ledger has what it says. One that cannot be read, or whose row is not there, stays.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benthic.cost.ledger.entries import STATUSES, Status, Usage
from benthic.cost.ledger.schema import LedgerError

if TYPE_CHECKING:
    from benthic.cost.ledger.ledger import Ledger


@dataclass(frozen=True, kw_only=True)
class End:
    """How a row ended."""

    id: str
    usage: Usage
    status: Status
    exit_code: int | None = None
    note: str | None = None
    at: float
    """unix time"""

    def __post_init__(self) -> None:
        if self.status not in STATUSES[1:]:
            raise ValueError(f"status is '{self.status}': choose {', '.join(STATUSES[1:])}")


def folder_of(ledger: Path) -> Path:
    return ledger.with_name(f"{ledger.name}.pending")


def leave(ledger: Path, end: End) -> Path:
    """Keep it beside the ledger, whole or not at all. Raises OSError."""
    target = folder_of(ledger) / f"{end.id}.json"
    partial = target.with_suffix(".partial")
    target.parent.mkdir(exist_ok=True)
    try:
        partial.write_text(json.dumps(asdict(end)), encoding="utf-8")
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def take_in(ledger: "Ledger") -> None:
    """Write what waits beside the ledger. What it still does not take goes on waiting."""
    folder = folder_of(ledger.path)
    for file, end in _ends(folder):
        with suppress(LedgerError):
            row = next(iter(ledger.query(ids=[end.id])), None)
            if row is None:
                continue
            if row.ended is None:
                ledger.finish(
                    end.id,
                    end.usage,
                    end.status,
                    exit_code=end.exit_code,
                    note=end.note,
                    at=end.at,
                )
            elif row.seconds_recorded != end.usage.seconds:  # it was taken for dead meanwhile
                kept = end.usage.seconds_productive
                changes = [("seconds", end.usage.seconds), ("status", end.status)]
                changes += [] if kept is None else [("seconds_productive", kept)]
                ledger.amend_all(
                    [end.id],
                    changes,
                    reason="its end was not in the ledger when it was closed",
                )
            file.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _ends(folder: Path) -> Iterator[tuple[Path, End]]:
    for file in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        with suppress(OSError, ValueError, TypeError, KeyError):
            values = json.loads(file.read_text("utf-8"))
            yield file, End(**values | {"usage": Usage(**values["usage"])})
