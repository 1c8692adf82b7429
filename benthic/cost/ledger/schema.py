"""The ledger's tables, one migration a version, and what to say when SQLite refuses.

A new file takes the same steps as an old one, so both end alike. All missing steps run in one
transaction that waits for other writers and asks for the version again, so of several openers one
migrates, and one that is killed leaves the file as it was. Never backward: a newer file is refused.
An older Benthic that has the file open while it is migrated can go on writing: every column that it
does not know has a default. Triggers keep what was recorded, also from other programs.
"""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benthic.cost.ledger.entries import KEYS

APPLICATION = 0x62746C67  # "btlg", the mark of a ledger since schema 2
_FIRST = (  # its columns, by which a file of schema 1 is known
    *("id", "run", "attempt", "stage", "purpose", "device", "count", "price_per_hour"),
    *("price_source", "energy_source", "started", "heartbeat", "ended", "seconds"),
    *("seconds_productive", "tokens", "flops", "joules", "status", "pid", "host"),
)
_BEGAN = (  # what a row is born with; the rest changes until it is closed
    *("id", "run", "attempt", "started", "external", "parent", "source", "pid", "host", "process"),
)
_MEASURES = (
    *("started", "heartbeat", "count", "seconds", "seconds_productive", "tokens", "flops"),
    *("joules", "joules_low", "joules_high", "gpus", "gpu_busy"),
)


def _final(table: str) -> tuple[str, ...]:
    """Triggers by which the rows of `table` stay, each under a number of its own."""
    return (
        f"""CREATE TRIGGER {table}_stay BEFORE UPDATE ON {table}
        BEGIN SELECT RAISE(ABORT, 'a row is never rewritten'); END""",
        f"""CREATE TRIGGER {table}_are_kept BEFORE DELETE ON {table}
        BEGIN SELECT RAISE(ABORT, 'a row is never deleted'); END""",
        f"""CREATE TRIGGER {table}_are_not_replaced BEFORE INSERT ON {table}
        WHEN EXISTS (SELECT 1 FROM {table} WHERE id = NEW.id)
        BEGIN SELECT RAISE(ABORT, 'a row is never replaced'); END""",
    )


MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE entries (
        id TEXT PRIMARY KEY, run TEXT NOT NULL, attempt TEXT NOT NULL, stage TEXT NOT NULL,
        purpose TEXT NOT NULL, device TEXT NOT NULL, count INTEGER NOT NULL,
        price_per_hour REAL NOT NULL, price_source TEXT NOT NULL, energy_source TEXT NOT NULL,
        started REAL NOT NULL, heartbeat REAL NOT NULL, ended REAL,
        seconds REAL NOT NULL, seconds_productive REAL,
        tokens INTEGER NOT NULL, flops REAL NOT NULL, joules REAL NOT NULL,
        status TEXT NOT NULL, pid INTEGER NOT NULL, host TEXT NOT NULL)""",
        "CREATE INDEX entries_of_run ON entries (run, started)",
        """CREATE TRIGGER closed_is_final BEFORE UPDATE ON entries WHEN OLD.ended IS NOT NULL
        BEGIN SELECT RAISE(ABORT, 'a closed row is final'); END""",
        """CREATE TRIGGER nothing_is_deleted BEFORE DELETE ON entries
        BEGIN SELECT RAISE(ABORT, 'a row is never deleted'); END""",
    ),
    (
        "ALTER TABLE entries ADD COLUMN project TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE entries ADD COLUMN user TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE entries ADD COLUMN name TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE entries ADD COLUMN source TEXT NOT NULL DEFAULT 'benthic'",
        "ALTER TABLE entries ADD COLUMN external TEXT",
        "ALTER TABLE entries ADD COLUMN parent TEXT",
        "ALTER TABLE entries ADD COLUMN command TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE entries ADD COLUMN note TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE entries ADD COLUMN joules_low REAL",
        "ALTER TABLE entries ADD COLUMN joules_high REAL",
        "ALTER TABLE entries ADD COLUMN gpus REAL NOT NULL DEFAULT 0",
        "ALTER TABLE entries ADD COLUMN gpu_busy REAL",
        "ALTER TABLE entries ADD COLUMN cpu_seconds REAL",
        "ALTER TABLE entries ADD COLUMN peak_bytes INTEGER",
        "ALTER TABLE entries ADD COLUMN exit_code INTEGER",
        "ALTER TABLE entries ADD COLUMN process TEXT NOT NULL DEFAULT ''",
        """ALTER TABLE entries ADD COLUMN month TEXT
        GENERATED ALWAYS AS (strftime('%Y-%m', started, 'unixepoch')) VIRTUAL""",
        "CREATE UNIQUE INDEX entries_external ON entries (external) WHERE external IS NOT NULL",
        "CREATE INDEX entries_started ON entries (started)",
        "CREATE INDEX entries_open ON entries (heartbeat) WHERE ended IS NULL",
        # Only rows that no longer change, so a heartbeat never touches it.
        f"""CREATE INDEX entries_closed ON entries ({", ".join((*KEYS, *_MEASURES))})
        WHERE ended IS NOT NULL""",
        """CREATE INDEX entries_inside ON entries (parent, started, heartbeat, count, seconds,
        joules, joules_low, joules_high) WHERE parent IS NOT NULL""",
        f"""CREATE TRIGGER what_began_stays BEFORE UPDATE OF {", ".join(_BEGAN)} ON entries
        BEGIN SELECT RAISE(ABORT, 'what a row began with stays'); END""",
        """CREATE TRIGGER nothing_is_replaced BEFORE INSERT ON entries
        WHEN EXISTS (SELECT 1 FROM entries WHERE id = NEW.id)
        OR EXISTS (SELECT 1 FROM entries WHERE external = NEW.external)
        BEGIN SELECT RAISE(ABORT, 'a row with this id or external key is there already'); END""",
        """CREATE TABLE amendments (
        id INTEGER PRIMARY KEY AUTOINCREMENT, entry TEXT NOT NULL REFERENCES entries (id),
        field TEXT NOT NULL, value NOT NULL, reason TEXT NOT NULL, author TEXT NOT NULL,
        at REAL NOT NULL)""",
        "CREATE INDEX amendments_of_entry ON amendments (entry, field, id)",
        """CREATE TABLE budgets (
        id INTEGER PRIMARY KEY AUTOINCREMENT, scope TEXT NOT NULL, key TEXT NOT NULL,
        dollars REAL, hard INTEGER NOT NULL, at REAL NOT NULL)""",
        """CREATE TABLE plans (
        id INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, at REAL NOT NULL,
        document TEXT NOT NULL)""",
        "CREATE INDEX plans_of_run ON plans (run, id)",
        *_final("amendments"),
        *_final("budgets"),
        *_final("plans"),
        f"PRAGMA application_id = {APPLICATION}",
    ),
)
SCHEMA = len(MIGRATIONS)
_CACHE = 65_536  # KiB at most: rows of an import fall all over the indexes
ELSEWHERE = "or set BENTHIC_LEDGER to another file"
_CAUSES = {
    sqlite3.SQLITE_BUSY: "is locked by another process: wait for it or end it, then try again",
    sqlite3.SQLITE_READONLY: f"cannot be written: make file and folder writable, {ELSEWHERE}",
    sqlite3.SQLITE_CANTOPEN: f"cannot be opened: make file and folder writable, {ELSEWHERE}",
    sqlite3.SQLITE_IOERR: f"meets an error of its disk: free some space, check it, {ELSEWHERE}",
    sqlite3.SQLITE_FULL: f"does not fit on its disk: free some space, {ELSEWHERE}",
    sqlite3.SQLITE_CORRUPT: f"is damaged: restore a copy, move it away, {ELSEWHERE}",
    sqlite3.SQLITE_NOTADB: f"is not a SQLite file: move it away, {ELSEWHERE}",
}


class LedgerError(Exception):
    """The ledger cannot be read or written; the text names the file and the remedy."""


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """Raise what SQLite says about the ledger at `path` as a LedgerError."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except UnicodeDecodeError as error:  # of a name in a damaged file
        raise LedgerError(f"the ledger {path} {_CAUSES[sqlite3.SQLITE_CORRUPT]}") from error
    except sqlite3.Error as error:
        full = getattr(error, "sqlite_errorcode", 0)
        if full == sqlite3.SQLITE_CONSTRAINT_TRIGGER:
            raise LedgerError(f"the ledger {path} keeps what it holds: {error}") from error
        code = full & 0xFF  # the low byte is the primary code
        cause = _CAUSES.get(code, f"failed ({error}): check file and disk, {ELSEWHERE}")
        raise LedgerError(f"the ledger {path} {cause}") from error


def connect(path: Path, timeout: float, *, read_only: bool) -> sqlite3.Connection:
    """Open the file; for reading alone also in a folder where SQLite can put no log."""
    if not read_only:
        return sqlite3.connect(path, timeout=timeout, isolation_level=None)
    log = path.with_name(f"{path.name}-wal")
    alone = not (log.exists() and log.stat().st_size) and not os.access(path.parent, os.W_OK)
    uri = f"{path.absolute().as_uri()}?{'immutable=1' if alone else 'mode=ro'}"
    return sqlite3.connect(uri, uri=True, timeout=timeout, isolation_level=None)


def prepare(
    connection: sqlite3.Connection, path: Path, timeout: float, *, read_only: bool = False
) -> None:
    """Bring the file to this schema, and switch on its log; LedgerError if it is none of ours."""
    if _version(connection) < SCHEMA:
        if read_only and _is_ours(connection, _version(connection)):
            raise LedgerError(
                f"the ledger {path} is older than this Benthic and cannot be written: "
                f"copy it to a folder of yours, {ELSEWHERE}"
            )
        _migrate(connection, path)
    version = _version(connection)
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'entries'").fetchone():
        raise _foreign(path)
    if version > SCHEMA:
        raise LedgerError(
            f"the ledger {path} has schema {version} and this Benthic knows {SCHEMA}: "
            f"upgrade Benthic, {ELSEWHERE}"
        )
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
        raise _foreign(path)
    if not read_only:
        _use_log(connection, timeout)
        connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA cache_size = -{_CACHE}")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; waits for other writers at the start, so it never has to give up later."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    with transaction(connection):
        version = _version(connection)
        if version < SCHEMA and not _is_ours(connection, version):
            raise _foreign(path)
        for number in range(version, SCHEMA):
            for statement in MIGRATIONS[number]:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number + 1}")


def _is_ours(connection: sqlite3.Connection, version: int) -> bool:
    if version == 0:
        return not connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    columns = connection.execute("SELECT name FROM pragma_table_info('entries')").fetchall()
    return version > 0 and tuple(name for (name,) in columns[: len(_FIRST)]) == _FIRST


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _foreign(path: Path) -> LedgerError:
    return LedgerError(
        f"the file {path} belongs to another program, it holds other tables: "
        f"move it away, {ELSEWHERE}"
    )


def _use_log(connection: sqlite3.Connection, timeout: float) -> None:
    """SQLite may refuse this switch at once, however long its own wait, so wait here."""
    deadline = time.monotonic() + timeout
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return  # a disk without shared memory keeps the rollback journal: slower, safe
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
