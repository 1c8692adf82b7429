"""What a ledger keeps beside its rows: amendments, budgets and plans.

None of these is ever rewritten; of several the newest counts. Functions of an open connection;
what SQLite says of it is put into words by the caller.

A row that is amended to done keeps all of its seconds, and one amended from done to another status
none, each by an amendment of seconds_productive beside it, unless one is given with it.
"""

import json
import re
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from benthic.cost.ledger.entries import (
    Amendment,
    Budget,
    Scope,
    amended_value,
    clean,
)
from benthic.cost.ledger.purposes import purpose_named
from benthic.cost.ledger.schema import LedgerError, transaction

_OF_CLOSED = {"seconds", "status", "seconds_productive"}
_IMPORTED = re.compile(r"[a-z]+:(?!/)")  # wandb:3fk2


def amend(
    connection: sqlite3.Connection,
    entry_ids: Iterable[str],
    changes: Iterable[tuple[str, str | int | float]],
    *,
    reason: str,
    author: str,
) -> None:
    """Put fields of rows right, all or none; raises LedgerError, ValueError."""
    pairs = [(field, amended_value(field, value)) for field, value in changes]
    if not reason.strip():
        fields = ", ".join(field for field, _ in pairs)
        raise ValueError(f"the reason to amend {fields} is empty: say why in a few words")
    because = clean(reason), clean(author), time.time()
    with transaction(connection):
        for entry_id in map(clean, entry_ids):
            kept = _kept(connection, entry_id, dict(pairs))
            connection.executemany(
                "INSERT INTO amendments (entry, field, value, reason, author, at) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                [(entry_id, *pair, *because) for pair in [*pairs, *kept]],
            )


def _kept(
    connection: sqlite3.Connection, entry_id: str, changes: Mapping[str, str | int | float]
) -> list[tuple[str, float]]:
    """What an amended status says of the seconds that were kept; checks that the row may change."""
    row = connection.execute(
        "SELECT ended, seconds, COALESCE((SELECT value FROM amendments WHERE entry = e.id "
        "AND field = 'status' ORDER BY id DESC LIMIT 1), status) FROM entries AS e WHERE id = ?",
        (entry_id,),
    ).fetchone()
    if row is None:
        raise LedgerError(f"the ledger has no row {entry_id}: give a whole id")
    ended, seconds, before = row
    if ended is None and (still := _OF_CLOSED & changes.keys()):
        raise ValueError(
            f"the row {entry_id} still runs: amend {', '.join(sorted(still))} when it is closed"
        )
    now = changes.get("status", before)
    if now == before or "done" not in (now, before) or "seconds_productive" in changes:
        return []
    return [("seconds_productive", seconds if now == "done" else 0.0)]


def amendments(connection: sqlite3.Connection, entry_id: str | None) -> list[Amendment]:
    """Of one row, or all; in the order they were made."""
    names = ("entry", "field", "value", "reason", "author", "at")
    rows = connection.execute(
        f"SELECT {', '.join(names)} FROM amendments WHERE :id IS NULL OR entry = :id ORDER BY id",
        {"id": entry_id},
    )
    return [Amendment(**dict(zip(names, row, strict=True))) for row in rows]


def budget_set(
    connection: sqlite3.Connection, scope: Scope, key: str, dollars: float | None, *, hard: bool
) -> None:
    """Limit a purpose or project from now on; none lifts the limit. ValueError."""
    key = purpose_named(key) if scope == "purpose" else clean(key)
    budget = Budget(scope=scope, key=key, dollars=dollars, hard=hard, at=time.time())
    connection.execute(
        "INSERT INTO budgets (scope, key, dollars, hard, at) "
        "VALUES (:scope, :key, :dollars, :hard, :at)",
        vars(budget),
    )


def budgets(connection: sqlite3.Connection) -> list[Budget]:
    """Those that hold."""
    rows = connection.execute(
        "SELECT scope, key, dollars, hard, at FROM budgets WHERE dollars IS NOT NULL "
        "AND id IN (SELECT MAX(id) FROM budgets GROUP BY scope, key) ORDER BY scope, key"
    )
    return [
        Budget(scope=scope, key=key, dollars=dollars, hard=bool(hard), at=at)
        for scope, key, dollars, hard, at in rows
    ]


def plan_set(connection: sqlite3.Connection, run: str | Path, document: Mapping[str, Any]) -> None:
    """Keep the plan of a run. ValueError where it is no JSON."""
    connection.execute(
        "INSERT INTO plans (run, at, document) VALUES (?, ?, ?)",
        (run_named(run), time.time(), json.dumps(document, allow_nan=False)),
    )


def plans(connection: sqlite3.Connection) -> dict[str, dict[str, Any]]:
    """The newest plan of every run that has one; what another program wrote may be none."""
    rows = connection.execute(
        "SELECT run, document FROM plans "
        "WHERE id IN (SELECT MAX(id) FROM plans GROUP BY run) ORDER BY run"
    )
    found = {}
    for run, document in rows:
        with suppress(ValueError, RecursionError):
            found[run] = json.loads(document)
    return found


def run_named(run: str | Path) -> str:
    """A run as rows have it: its folder's whole path, or the name that an import gave it."""
    if isinstance(run, str) and _IMPORTED.match(run):
        return clean(run)
    return clean(str(Path(run).resolve()))
