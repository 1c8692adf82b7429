"""The ledger: a SQLite file with one row for every metered span, whatever became of it.

A row is begun before the work and updated by its own writer only; once closed it is final, which a
trigger enforces, and is put right by amendments beside it. What a killed process left open is
closed by the next one that holds the run's lock, or by whoever reads, at the last heartbeat. The
file is `$BENTHIC_LEDGER`, else in the user's data directory; older files are migrated forward.

Write-ahead log with synchronous = NORMAL: several processes of one machine write at once, a killed
process loses nothing it wrote, a heartbeat waits for no disk; a power cut may lose the last second.
The log needs shared memory, so machines that share a network disk each want a ledger of their own.
"""

import getpass
import os
import socket
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Self, Unpack

from benthic.cost.ledger import records, stale
from benthic.cost.ledger.entries import (
    COLUMNS,
    USAGE_COLUMNS,
    Amendment,
    Billed,
    Budget,
    Entry,
    Filters,
    Group,
    Scope,
    Span,
    Status,
    Usage,
    check_price,
    clean,
    external_id,
    read_as,
)
from benthic.cost.ledger.pending import take_in
from benthic.cost.ledger.processes import identity
from benthic.cost.ledger.purposes import PURPOSES, Purpose, purpose_named
from benthic.cost.ledger.schema import (
    ELSEWHERE,
    LedgerError,
    connect,
    in_words,
    prepare,
    transaction,
)
from benthic.cost.ledger.sums import Sums, select_rows

__all__ = ["PURPOSES", "Amendment", "Billed", "Budget", "Entry", "Filters", "Group", "Ledger"]
__all__ += ["LedgerError", "Purpose", "Span", "Status", "Usage"]
__all__ += ["external_id", "ledger_path", "purpose_named"]

_USAGE = ", ".join(f"{name} = :{name}" for name in USAGE_COLUMNS)
_NAMES = ", ".join(COLUMNS)
_VALUES = ", ".join(f":{name}" for name in COLUMNS)


def ledger_path() -> Path:
    """The user's ledger: `$BENTHIC_LEDGER`, else `ledger.sqlite` in the user's data directory."""
    from platformdirs import user_data_dir

    return Path(os.environ.get("BENTHIC_LEDGER") or Path(user_data_dir("benthic"), "ledger.sqlite"))


class Ledger:
    """An open ledger; belongs to the thread that opened it. Every method may raise LedgerError."""

    def __init__(self, path: Path, *, timeout: float = 5.0) -> None:
        """Open `path`, created where missing; wait `timeout` seconds for other writers.

        A file that this user may not write is opened for reading.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.read_only = path.is_file() and not os.access(path, os.W_OK)
        except OSError as error:
            raise LedgerError(
                f"the folder of the ledger {path} cannot be made ({error.strerror}): "
                f"make it, {ELSEWHERE}"
            ) from error
        if path.is_dir():
            raise LedgerError(f"the ledger {path} is a folder: name a file in it")
        with self._in_words():
            self._connection = connect(path, timeout, read_only=self.read_only)
        try:
            with self._in_words():
                prepare(self._connection, path, timeout, read_only=self.read_only)
        except BaseException:
            self._connection.close()
            raise
        self._sums = Sums(self._connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def begin(self, span: Span, *, energy_source: str) -> str:
        """Write the row of a span that starts now, and return its id."""
        check_price(span.price_per_hour)
        now, pid = time.time(), os.getpid()
        given = vars(span) | {
            "run": _absolute(span.run),
            "user": span.user or _user(),
            "parent": span.parent or self._outer(),
        }
        entry = Entry(
            **given,
            id=str(uuid.uuid4()),
            energy_source=energy_source,
            started=now,
            heartbeat=now,
            pid=pid,
            host=socket.gethostname(),
            process=identity(pid),
        )
        with self._in_words():
            self._connection.execute(
                f"INSERT INTO entries ({_NAMES}) VALUES ({_VALUES})", _stored(entry)
            )
        return entry.id

    def beat(self, entry_id: str, usage: Usage) -> None:
        """Update the open row: alive now, and what it has used."""
        self._write(entry_id, usage, "")

    def finish(
        self,
        entry_id: str,
        usage: Usage,
        status: Status,
        *,
        exit_code: int | None = None,
        note: str | None = None,
        at: float | None = None,
    ) -> None:
        """Close the open row for good with its last figures; a `note` replaces the row's own.

        `at`: the unix time of the end; now if not given.
        """
        change = (
            ", ended = MAX(started, :now), status = :status, exit_code = :exit_code, "
            "note = COALESCE(:note, note)"
        )
        more = {"status": status, "exit_code": exit_code, "now": time.time() if at is None else at}
        self._write(entry_id, usage, change, **more, note=None if note is None else clean(note))

    def close_orphans(self, run: Path) -> int:
        """Close the open rows of `run` as interrupted at their last heartbeat; return how many.

        For a caller that holds the run's lock: whoever wrote those rows is dead. What no checkpoint
        had marked as productive is lost.
        """
        take_in(self)
        with self._in_words():
            return stale.close_orphans(self._connection, _absolute(run))

    def close_stale(self, now: float | None = None, *, after: float = stale.DAY) -> int:
        """Close open rows whose writer is gone, at their last heartbeat; return how many.

        On this host the process is looked up, with its start time, for ids are used again. Of
        another host, or another container's process, nothing is known from here but the heartbeat:
        those are left until it is `after` seconds old, for a laptop that slept or a disk that was
        away a night is no dead process, and a row closed too early could never be finished. The
        row's note says which it was.
        """
        if self.read_only:
            return 0
        take_in(self)
        with self._in_words():
            return stale.close_stale(self._connection, now, after)

    def entries(self, run: Path) -> list[Entry]:
        """All rows of `run` as they were recorded, in the order they started."""
        with self._in_words():
            rows = self._connection.execute(
                f"SELECT {_NAMES} FROM entries WHERE run = ? ORDER BY started, rowid",
                (_absolute(run),),
            ).fetchall()
        return [read_as(Entry, dict(zip(COLUMNS, row, strict=True))) for row in rows]

    def open_rows(self) -> list[Entry]:
        """All rows that are not closed, as they were recorded."""
        with self._in_words():
            rows = self._connection.execute(
                f"SELECT {_NAMES} FROM entries WHERE ended IS NULL ORDER BY started"
            ).fetchall()
        return [read_as(Entry, dict(zip(COLUMNS, row, strict=True))) for row in rows]

    def query(self, *, limit: int | None = None, **filters: Unpack[Filters]) -> Iterator[Billed]:
        """Rows as they count, the newest first, one by one; `since` and `until` are unix times."""
        with self._in_words():
            yield from select_rows(self._connection, filters, limit)

    @contextmanager
    def one_moment(self, filters: Filters | None = None) -> Iterator[None]:
        """What is read inside is of one moment; nothing can be written meanwhile.

        Several sums over the same `filters` then cost little more than one.
        """
        with self._in_words(), self._sums.one_moment(filters):
            yield

    def groups(self, by: Sequence[str] = (), **filters: Unpack[Filters]) -> list[Group]:
        """Sums of rows as they count, over rows that agree in `by`; see `sums.BY`.

        A row belongs to the month, in UTC, in which it started. ValueError names a wrong key.
        """
        with self._in_words():
            return self._sums.groups(by, filters)

    def largest_runs(
        self, count: int, rates: Mapping[str, float], **filters: Unpack[Filters]
    ) -> tuple[list[Group], int]:
        """The dearest runs, dollars by device in `rates` where it is there, and how many runs."""
        with self._in_words():
            return self._sums.largest_runs(count, rates, filters)

    def spent(self, scope: Scope, key: str) -> float:
        """US dollars of all rows of a purpose or project, running ones to the last heartbeat."""
        filters: Filters = {"purpose": key} if scope == "purpose" else {"project": key}
        return sum(group.dollars for group in self.groups((), **filters))

    def energy_sources(self, newest: int, **filters: Unpack[Filters]) -> dict[str, int]:
        """What the `newest` rows, as recorded, say of their energy; rows by source."""
        with self._in_words():
            return self._sums.energy_sources(newest, filters)

    def find(self, prefix: str) -> Billed:
        """The one row whose id starts so; LedgerError where there is none, or several."""
        with self._in_words():
            ids = self._connection.execute(
                "SELECT id FROM entries WHERE id >= ? AND id < ? LIMIT 2",
                (clean(prefix), clean(prefix) + "\U0010ffff"),
            ).fetchall()
        if len(ids) != 1:
            raise LedgerError(
                f"the ledger {self.path} has {'several rows' if ids else 'no row'} whose id "
                f"starts with '{prefix}': give {'more of it' if ids else 'an id that it lists'}"
            )
        (row,) = self.query(ids=[ids[0][0]])
        return row

    def add(self, entries: Iterable[Entry]) -> tuple[int, int]:
        """Write rows of the past, all or none; return how many were added, and skipped as known.

        Each bears a key `external`, which the ledger holds once, and is closed; an empty id is made
        from the key by `external_id`. ValueError names a row that is otherwise.
        """
        rows = [_stored(_imported(entry)) for entry in entries]
        with self._in_words(), transaction(self._connection):
            added = self._connection.executemany(
                f"INSERT INTO entries ({_NAMES}) SELECT {_VALUES} "
                "WHERE NOT EXISTS (SELECT 1 FROM entries WHERE external = :external)",
                rows,
            ).rowcount
        return max(added, 0), len(rows) - max(added, 0)

    def amend(
        self, entry_id: str, field: str, value: str | int | float, *, reason: str, author: str = ""
    ) -> None:
        """Put a field of a row right by a row of its own; `author`: the process's user if empty.

        ValueError where field, value or reason cannot be; LedgerError where there is no such row.
        """
        self.amend_all([entry_id], [(field, value)], reason=reason, author=author)

    def amend_all(
        self,
        entry_ids: Iterable[str],
        changes: Iterable[tuple[str, str | int | float]],
        *,
        reason: str,
        author: str = "",
    ) -> None:
        """Put several fields of several rows right, all or none; raises as `amend` does."""
        with self._in_words():
            records.amend(
                self._connection, entry_ids, changes, reason=reason, author=author or _user()
            )

    def amendments(self, entry_id: str | None = None) -> list[Amendment]:
        """Of one row, or all; in the order they were made."""
        with self._in_words():
            return records.amendments(self._connection, entry_id)

    def budget_set(
        self, scope: Scope, key: str, dollars: float | None, *, hard: bool = False
    ) -> None:
        """Limit what a purpose or project may cost in all, from now on; none lifts the limit."""
        with self._in_words():
            records.budget_set(self._connection, scope, key, dollars, hard=hard)

    def budgets(self) -> list[Budget]:
        """Those that hold: the newest of each scope and key, unless lifted."""
        with self._in_words():
            return records.budgets(self._connection)

    def plan_set(self, run: str | Path, document: Mapping[str, Any]) -> None:
        """Keep the plan of a run, to hold against what is metered; the newest counts.

        `run`: its folder, or the name that an import gave it, like wandb:3fk2.
        """
        with self._in_words():
            records.plan_set(self._connection, run, document)

    def plans(self) -> dict[str, dict[str, Any]]:
        """The newest plan of every run that has one."""
        with self._in_words():
            return records.plans(self._connection)

    def _outer(self) -> str | None:
        """The row of the meter that this process runs under, if it is open and in this file."""
        with self._in_words():
            row = self._connection.execute(
                "SELECT id FROM entries WHERE id = ? AND ended IS NULL",
                (clean(os.environ.get("BENTHIC_METER", "")),),
            ).fetchone()
        return row[0] if row else None

    def _write(self, entry_id: str, usage: Usage, change: str, **values: Any) -> None:
        values = vars(usage) | {"id": entry_id, "now": time.time()} | values
        with self._in_words():
            cursor = self._connection.execute(
                f"UPDATE entries SET {_USAGE}, heartbeat = MAX(started, :now){change} "
                "WHERE id = :id AND ended IS NULL",
                values,
            )
        if not cursor.rowcount:
            raise LedgerError(
                f"the ledger {self.path} has no open row {entry_id}, it was closed or the file "
                "replaced meanwhile: let one process at a time hold a run"
            )

    def _in_words(self) -> AbstractContextManager[None]:
        return in_words(self.path)


def _imported(entry: Entry) -> Entry:
    if not entry.external:
        raise ValueError(f"the row of {entry.run} has no external key: give what names it for good")
    if entry.ended is None or entry.status == "running":
        raise ValueError(f"the row {entry.external} is not closed: give its end and its outcome")
    check_price(entry.price_per_hour)
    return entry


def _stored(entry: Entry) -> dict[str, Any]:
    values = {k: clean(v) if isinstance(v, str) else v for k, v in vars(entry).items()}
    if entry.external and not entry.id:
        values["id"] = external_id(entry.external)
    return values


def _absolute(run: str | Path) -> str:
    return clean(str(Path(run).resolve()))


def _user() -> str:
    """The user's name; where the system has none, as in some containers, the number."""
    try:
        return clean(getpass.getuser())
    except (KeyError, OSError):
        return str(os.getuid())
