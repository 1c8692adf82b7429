"""The ledger: a SQLite file with one row for every metered span, whatever became of it.

A row is begun before the work and updated by its own writer only; once closed it is final, which a
trigger enforces. What a killed process left open is closed by the next one that holds the run's
lock, at the last heartbeat. The file is `$BENTHIC_LEDGER`, else in the user's data directory.

Write-ahead log with synchronous = NORMAL: several processes of one machine write at once, a killed
process loses nothing it wrote, a heartbeat waits for no disk; a power cut may lose the last second.
The log needs shared memory, so machines that share a network disk each want a ledger of their own.
"""

import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Literal, Self, get_args

Purpose = Literal["pretrain", "rl", "evaluation", "data", "chat"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
Status = Literal["running", "done", "interrupted", "failed"]

_SCHEMA = 1
_TABLES = (
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
    f"PRAGMA user_version = {_SCHEMA}",
)
_ELSEWHERE = "or set BENTHIC_LEDGER to another file"
_CAUSES = {
    sqlite3.SQLITE_BUSY: "is locked by another process: wait for it or end it, then try again",
    sqlite3.SQLITE_READONLY: f"cannot be written: make file and folder writable, {_ELSEWHERE}",
    sqlite3.SQLITE_CANTOPEN: f"cannot be opened: make file and folder writable, {_ELSEWHERE}",
    sqlite3.SQLITE_FULL: f"does not fit on its disk: free some space, {_ELSEWHERE}",
    sqlite3.SQLITE_CORRUPT: f"is damaged: restore a copy, move it away, {_ELSEWHERE}",
    sqlite3.SQLITE_NOTADB: f"is not a SQLite file: move it away, {_ELSEWHERE}",
}


class LedgerError(Exception):
    """The ledger cannot be read or written; the text names the file and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """What is metered, known before it starts."""

    run: str
    """the run's folder; stored as an absolute path"""
    attempt: str
    """names one fresh start of the run; resuming keeps it"""
    stage: str
    purpose: Purpose
    device: str
    count: int = 1
    """devices allocated"""
    price_per_hour: float
    """US dollars an hour, one device"""
    price_source: str

    def __post_init__(self) -> None:
        if self.purpose not in PURPOSES:
            raise ValueError(f"purpose is '{self.purpose}': choose one of {', '.join(PURPOSES)}")
        if self.count < 1:
            raise ValueError(f"count is {self.count}: a span uses at least 1 device")
        if not (isfinite(self.price_per_hour) and self.price_per_hour >= 0):
            raise ValueError(
                f"price_per_hour is {self.price_per_hour}: give US dollars an hour, 0 or more"
            )


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a span has used so far."""

    seconds: float = 0.0
    """allocated, from the start to the last heartbeat or the end"""
    seconds_productive: float | None = None
    """those of them whose work was kept: up to the last checkpoint, or the end; none: not known"""
    tokens: int = 0
    flops: float = 0.0
    joules: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Entry(Span, Usage):
    """One row; times are unix seconds."""

    id: str
    energy_source: str
    """"rapl", or "estimate: ..." with the watts and where they come from"""
    started: float
    heartbeat: float
    ended: float | None = None
    status: Status = "running"
    pid: int
    host: str


_COLUMNS = tuple(field.name for field in fields(Entry))
_USAGE = ", ".join(f"{field.name} = :{field.name}" for field in fields(Usage))


def ledger_path() -> Path:
    """The user's ledger: `$BENTHIC_LEDGER`, else `ledger.sqlite` in the user's data directory."""
    from platformdirs import user_data_dir

    return Path(os.environ.get("BENTHIC_LEDGER") or Path(user_data_dir("benthic"), "ledger.sqlite"))


class Ledger:
    """An open ledger; belongs to the thread that opened it. Every method may raise LedgerError."""

    def __init__(self, path: Path, *, timeout: float = 5.0) -> None:
        """Open `path`, created where missing; wait `timeout` seconds for other writers."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(
                f"the folder of the ledger {path} cannot be made ({error.strerror}): "
                f"make it, {_ELSEWHERE}"
            ) from error
        with self._in_words():
            self._connection = sqlite3.connect(path, timeout=timeout, isolation_level=None)
        try:
            with self._in_words():
                self._prepare(timeout)
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def begin(self, span: Span, *, energy_source: str) -> str:
        """Write the row of a span that starts now, and return its id."""
        now = time.time()
        entry = Entry(
            **vars(span) | {"run": _absolute(span.run)},
            id=str(uuid.uuid4()),
            energy_source=energy_source,
            started=now,
            heartbeat=now,
            pid=os.getpid(),
            host=socket.gethostname(),
        )
        values = ", ".join(f":{name}" for name in _COLUMNS)
        with self._in_words():
            self._connection.execute(
                f"INSERT INTO entries ({', '.join(_COLUMNS)}) VALUES ({values})", vars(entry)
            )
        return entry.id

    def beat(self, entry_id: str, usage: Usage) -> None:
        """Update the open row: alive now, and what it has used."""
        self._write(entry_id, usage, "heartbeat = :now")

    def finish(self, entry_id: str, usage: Usage, status: Status) -> None:
        """Close the open row for good with its last figures."""
        self._write(entry_id, usage, "heartbeat = :now, ended = :now, status = :status", status)

    def close_orphans(self, run: Path) -> int:
        """Close the open rows of `run` as interrupted at their last heartbeat; return how many.

        For a caller that holds the run's lock: whoever wrote those rows is dead. What no checkpoint
        had marked as productive is lost.
        """
        with self._in_words():
            cursor = self._connection.execute(
                "UPDATE entries SET ended = heartbeat, status = 'interrupted', "
                "seconds_productive = COALESCE(seconds_productive, 0) "
                "WHERE run = ? AND ended IS NULL",
                (_absolute(run),),
            )
        return cursor.rowcount

    def entries(self, run: Path) -> list[Entry]:
        """All rows of `run`, in the order they started."""
        with self._in_words():
            rows = self._connection.execute(
                f"SELECT {', '.join(_COLUMNS)} FROM entries WHERE run = ? ORDER BY started, rowid",
                (_absolute(run),),
            ).fetchall()
        return [Entry(**dict(zip(_COLUMNS, row, strict=True))) for row in rows]

    def _write(self, entry_id: str, usage: Usage, change: str, status: str = "running") -> None:
        values = vars(usage) | {"id": entry_id, "now": time.time(), "status": status}
        with self._in_words():
            cursor = self._connection.execute(
                f"UPDATE entries SET {_USAGE}, {change} WHERE id = :id AND ended IS NULL", values
            )
        if not cursor.rowcount:
            raise LedgerError(
                f"the ledger {self.path} has no open row {entry_id}, it was closed or the file "
                "replaced meanwhile: let one process at a time hold a run"
            )

    def _prepare(self, timeout: float) -> None:
        if self._version() == 0:
            self._create()
        if self._version() > _SCHEMA:
            raise LedgerError(
                f"the ledger {self.path} has schema {self._version()} and this Benthic knows "
                f"{_SCHEMA}: upgrade Benthic, {_ELSEWHERE}"
            )
        self._use_log(timeout)
        self._connection.execute("PRAGMA synchronous = NORMAL")

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    def _create(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")  # a second creator waits here
        try:
            if self._version() == 0:
                if self._connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                    raise LedgerError(
                        f"the file {self.path} belongs to another program, it holds other tables: "
                        f"move it away, {_ELSEWHERE}"
                    )
                for statement in _TABLES:
                    self._connection.execute(statement)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _use_log(self, timeout: float) -> None:
        """SQLite may refuse this switch at once, however long its own wait, so wait here."""
        deadline = time.monotonic() + timeout
        while self._connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return  # a disk without shared memory keeps the rollback journal: slower, safe
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:
            raise
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary code
            cause = _CAUSES.get(code, f"failed ({error}): check file and disk, {_ELSEWHERE}")
            raise LedgerError(f"the ledger {self.path} {cause}") from error


def _absolute(run: str | Path) -> str:
    return str(Path(run).resolve())
