"""Rows that nobody will close: their writer is gone, so they end at their last heartbeat.

What no checkpoint had marked as productive is lost. Ends that wait beside the ledger are taken in
first, since those rows know better how they ended. Functions of an open ledger's connection; what
SQLite says of it is put into words by the caller.
"""

import socket
import sqlite3
import time

from benthic.cost.ledger.processes import is_gone

DAY = 86_400.0
_ORPHANED = (
    "ended = heartbeat, status = 'interrupted', "
    "seconds_productive = COALESCE(seconds_productive, 0), "
    "note = CASE WHEN :note = '' OR note = '' THEN note || :note ELSE note || '; ' || :note END"
)


def close_orphans(connection: sqlite3.Connection, run: str) -> int:
    """Close the open rows of `run`, whose writers are dead; return how many."""
    return connection.execute(
        f"UPDATE entries SET {_ORPHANED} WHERE run = :run AND ended IS NULL",
        {"run": run, "note": ""},
    ).rowcount


def close_stale(connection: sqlite3.Connection, now: float | None, after: float) -> int:
    """Close open rows whose writer is gone; return how many."""
    now = time.time() if now is None else now
    here, closed = socket.gethostname(), 0
    rows = connection.execute(
        "SELECT id, pid, host, process, heartbeat FROM entries WHERE ended IS NULL"
    ).fetchall()
    for entry_id, pid, host, process, heartbeat in rows:
        gone = is_gone(pid, process, heartbeat) if host == here else None
        if gone:
            note = f"its process {pid} is gone"
        elif gone is None and now - heartbeat > after:
            note = f"no heartbeat from {host or 'its host'} for {(now - heartbeat) / 3600:.0f} h"
        else:
            continue
        closed += connection.execute(  # a heartbeat meanwhile shows that it lives
            f"UPDATE entries SET {_ORPHANED} "
            "WHERE id = :id AND ended IS NULL AND heartbeat = :heartbeat",
            {"id": entry_id, "heartbeat": heartbeat, "note": note},
        ).rowcount
    return closed
