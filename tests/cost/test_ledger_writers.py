"""The ledger among processes: migrated while others look on, written by several, killed."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from benthic.cost.ledger import processes
from benthic.cost.ledger import schema as ledger_schema
from benthic.cost.ledger.entries import Entry, Span, Usage
from benthic.cost.ledger.ledger import Ledger, LedgerError
from benthic.cost.ledger.schema import MIGRATIONS, SCHEMA, prepare

FIRST = """
CREATE TABLE entries (
id TEXT PRIMARY KEY, run TEXT NOT NULL, attempt TEXT NOT NULL, stage TEXT NOT NULL,
purpose TEXT NOT NULL, device TEXT NOT NULL, count INTEGER NOT NULL,
price_per_hour REAL NOT NULL, price_source TEXT NOT NULL, energy_source TEXT NOT NULL,
started REAL NOT NULL, heartbeat REAL NOT NULL, ended REAL,
seconds REAL NOT NULL, seconds_productive REAL,
tokens INTEGER NOT NULL, flops REAL NOT NULL, joules REAL NOT NULL,
status TEXT NOT NULL, pid INTEGER NOT NULL, host TEXT NOT NULL);
CREATE INDEX entries_of_run ON entries (run, started);
CREATE TRIGGER closed_is_final BEFORE UPDATE ON entries WHEN OLD.ended IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'a closed row is final'); END;
CREATE TRIGGER nothing_is_deleted BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'a row is never deleted'); END;
PRAGMA user_version = 1;
PRAGMA journal_mode = WAL;
"""  # the file that the first version wrote
OLD_INSERT = f"INSERT INTO entries VALUES ({', '.join('?' * 21)})"
OLD_UPDATE = (
    "UPDATE entries SET seconds = 7, seconds_productive = 7, tokens = 7, flops = 7, joules = 7, "
    "heartbeat = 1700000007, ended = 1700000007, status = 'done' WHERE id = ? AND ended IS NULL"
)
DYING = """
import os, signal, sqlite3, sys
from pathlib import Path
from benthic.cost.ledger.schema import prepare
class Mortal:
    def __init__(self, path):
        self.inner, self.left = sqlite3.connect(path, isolation_level=None), int(sys.argv[2])
    def execute(self, *given):
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        return self.inner.execute(*given)
    def __getattr__(self, name):
        return getattr(self.inner, name)
prepare(Mortal(sys.argv[1]), Path(sys.argv[1]), 5.0)
"""


SPAN = Span(
    run="/runs/x",
    attempt="a",
    stage="train",
    purpose="data",
    device="cpu",
    price_per_hour=1.0,
    price_source="a guess",
)


def old(path: Path, rows: int = 30) -> Path:
    """A ledger of the first version, its last row open."""
    with sqlite3.connect(path) as made:
        made.executescript(FIRST)
        made.executemany(OLD_INSERT, [old_row(n, n == rows - 1) for n in range(rows)])
    made.close()
    return path


def old_row(number: int, running: bool) -> tuple[Any, ...]:
    at = 1.7e9
    times = (at, at + 5, None if running else at + 5, 5.0, 4.0)
    status = "running" if running else "done"
    return (
        *(f"old-{number}", "/runs/old", "a", "train", "pretrain", "cpu", 1, 0.36, "a guess"),
        *("rapl", *times, 10, 1e9, 50.0, status, 1, "nowhere"),
    )


def tables(path: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(path) as opened:
        found = opened.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
    opened.close()
    return found


def test_an_old_ledger_is_carried_forward(tmp_path: Path) -> None:
    path = old(tmp_path / "old.sqlite")
    Ledger(tmp_path / "new.sqlite").close()
    with Ledger(path) as ledger:
        rows = ledger.entries(Path("/runs/old"))
        assert len(rows) == 30 and rows[-1].id == "old-29" and rows[-1].ended is None
        assert (rows[0].project, rows[0].source, rows[0].parent) == ("", "benthic", None)
        (group,) = ledger.groups(("purpose", "source"))
        assert (group.rows, group.seconds, group.seconds_kept) == (30, 150.0, 29 * 4 + 4)
        assert group.dollars == pytest.approx(150 * 0.36 / 3600)
        ledger.finish("old-29", Usage(seconds=9.0), "done")
    assert [name for name, _ in tables(path)] == [n for n, _ in tables(tmp_path / "new.sqlite")]
    with sqlite3.connect(path) as other, pytest.raises(sqlite3.IntegrityError, match="final"):
        other.execute("UPDATE entries SET seconds = 0")
    other.close()


def test_an_older_program_goes_on_writing(tmp_path: Path) -> None:
    """It holds the file open while it is migrated, and knows nothing of the new columns."""
    path = old(tmp_path / "old.sqlite")
    before = sqlite3.connect(path, isolation_level=None)
    before.execute("SELECT COUNT(*) FROM entries").fetchone()
    with Ledger(path) as ledger:
        before.execute(OLD_UPDATE, ("old-29",))
        columns = [name for (_, name, *_) in before.execute("PRAGMA table_info(entries)")][:21]
        statement = OLD_INSERT.replace("entries", f"entries ({', '.join(columns)})")
        before.execute(statement, old_row(30, True))
        before.execute(OLD_UPDATE, ("old-30",))
        assert [row.seconds for row in ledger.entries(Path("/runs/old"))][-2:] == [7.0, 7.0]
        assert ledger.groups()[0].rows == 31
    before.close()


class Failing:
    """A connection whose statement of that number fails."""

    def __init__(self, path: Path, number: int) -> None:
        self._inner, self._left = sqlite3.connect(path, isolation_level=None), number

    def execute(self, *given: Any) -> sqlite3.Cursor:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return self._inner.execute(*given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = old(tmp_path / "old.sqlite")
    before = tables(path)
    for number in range(3, len(MIGRATIONS[1]) + 4):  # after the version is read and the lock held
        connection: Any = Failing(path, number)
        with pytest.raises(KeyboardInterrupt):
            prepare(connection, path, 5.0)
        connection._inner.rollback()  # the one that failed was ROLLBACK itself
        connection.close()
        assert tables(path) == before
    with Ledger(path) as ledger:
        assert len(ledger.entries(Path("/runs/old"))) == 30


@pytest.mark.parametrize("statements", [4, 12, 30, len(MIGRATIONS[1]) + 4])
def test_a_migration_that_is_killed_is_done_by_the_next(tmp_path: Path, statements: int) -> None:
    path = old(tmp_path / "old.sqlite")
    before = tables(path)
    killed = subprocess.run([sys.executable, "-c", DYING, str(path), str(statements)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert tables(path) == before
    with Ledger(path) as ledger:
        assert len(ledger.entries(Path("/runs/old"))) == 30
        assert ledger._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_of_several_openers_one_migrates(tmp_path: Path) -> None:
    failures: list[BaseException] = []
    together = threading.Barrier(4)
    paths = [old(tmp_path / f"{turn}.sqlite") for turn in range(6)]

    def migrate() -> None:
        for path in paths:
            together.wait()
            try:
                with Ledger(path) as ledger:
                    assert len(ledger.entries(Path("/runs/old"))) == 30
            except (LedgerError, AssertionError) as error:
                failures.append(error)

    threads = [threading.Thread(target=migrate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    Ledger(tmp_path / "new.sqlite").close()
    for path in paths:
        assert len(tables(path)) == len(tables(tmp_path / "new.sqlite"))


def test_a_migration_waits_for_a_writer_and_says_for_whom(tmp_path: Path) -> None:
    path = old(tmp_path / "old.sqlite")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError, match=r"old\.sqlite is locked by another process"):
        Ledger(path, timeout=0.05)
    other.close()
    Ledger(path).close()


def test_a_full_disk_stops_a_migration_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = old(tmp_path / "old.sqlite")
    before = tables(path)
    pages = len(path.read_bytes()) // 4096 + 3
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        prepare(connection, path, 5.0)
    connection.close()
    assert tables(path) == before


def test_one_migration_for_every_version() -> None:
    assert len(MIGRATIONS) == SCHEMA == 2
    assert len(ledger_schema._FIRST) == 21


# Rows whose writer is gone.


def begun(ledger: Ledger, **changes: Any) -> str:
    """An open row as another process might have left it."""
    entry_id = ledger.begin(SPAN, energy_source="rapl")
    row = vars(ledger.entries(Path("/runs/x"))[0]) | {"id": entry_id, **changes}
    del row["parent"]
    with sqlite3.connect(ledger.path) as other:
        other.execute("DROP TRIGGER what_began_stays")
        other.execute(
            f"UPDATE entries SET {', '.join(f'{name} = :{name}' for name in row)} WHERE id = :id",
            row,
        )
    other.close()
    return entry_id


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


HERE = processes.identity(os.getpid())
LINUX = pytest.mark.skipif(not HERE, reason="only Linux tells a process's start")
NOW = time.time()
BOOT, SPACE, START = HERE.split("/") if HERE else ("", "", "")


@pytest.mark.parametrize(
    ("change", "closed"),
    [
        pytest.param({}, False, id="alive"),
        pytest.param({"process": ""}, False, id="alive, of an older version"),
        pytest.param({"pid": "dead"}, True, id="dead"),
        pytest.param({"pid": "dead", "process": ""}, True, id="dead, of an older version"),
        pytest.param({"process": f"{BOOT}/{SPACE}/1"}, True, id="id used again", marks=LINUX),
        pytest.param({"process": f"{BOOT}/pid:[1]/{START}"}, False, id="container", marks=LINUX),
        pytest.param({"process": "x/pid:[1]/1"}, False, id="another boot, just now", marks=LINUX),
        pytest.param(
            {"process": "x/pid:[1]/1", "started": 0.0, "heartbeat": 1.0},
            True,
            id="before this boot",
            marks=LINUX,
        ),
        pytest.param({"host": "elsewhere", "pid": "dead"}, False, id="another host"),
        pytest.param(
            {"host": "elsewhere", "started": NOW - 1e6, "heartbeat": NOW - 23 * 3600},
            False,
            id="another host, 23 h",
        ),
        pytest.param(
            {"host": "elsewhere", "started": NOW - 1e6, "heartbeat": NOW - 25 * 3600},
            True,
            id="another host, 25 h",
        ),
        pytest.param(
            {"started": NOW - 1e6, "heartbeat": NOW - 25 * 3600}, False, id="alive, suspended"
        ),
        pytest.param(
            {"host": "elsewhere", "started": NOW + 1e6, "heartbeat": NOW + 1e6},
            False,
            id="a clock ahead",
        ),
    ],
)
def test_rows_whose_writer_is_gone(tmp_path: Path, change: dict[str, Any], closed: bool) -> None:
    if change.get("pid"):
        change = change | {"pid": dead_process()}
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        entry_id = begun(ledger, seconds=5.0, note="mine", **change)
        before = ledger.find(entry_id)
        assert ledger.close_stale(now=NOW) == closed
        row = ledger.find(entry_id)
        assert (row.status, row.ended) == (
            ("interrupted", before.heartbeat) if closed else ("running", None)
        )
        assert row.seconds == 5.0 and row.seconds_productive == (0.0 if closed else None)
        if closed:
            words = "no heartbeat from elsewhere for 25 h" if "host" in change else "is gone"
            assert row.note.startswith("mine; ") and words in row.note
        assert ledger.close_stale(now=NOW) == 0


@LINUX
def test_a_dead_child_that_nobody_waited_for_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    identity, deadline = processes.identity(process.pid), time.monotonic() + 10
    while not processes.is_gone(process.pid, identity, time.time()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert processes.is_gone(process.pid, "", time.time())
    assert process.wait() == 0


def test_a_heartbeat_in_the_last_moment_saves_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        entry_id = begun(ledger, started=1.0, heartbeat=1.0)

        def mistaken(*_: object) -> bool:
            with Ledger(ledger.path) as other:
                other.beat(entry_id, Usage(seconds=6.0))
            return True

        monkeypatch.setattr("benthic.cost.ledger.stale.is_gone", mistaken)
        assert ledger.close_stale() == 0
        assert ledger.find(entry_id).status == "running"


# Writers that are killed.


def run_benchmark(*given: str) -> "subprocess.CompletedProcess[str]":
    script = Path(__file__).parents[2] / "benchmarks" / "ledger_writers.py"
    return subprocess.run(
        [sys.executable, str(script), *given], capture_output=True, text=True, check=False
    )


def test_writers_killed_at_random_lose_nothing_and_repeat_nothing() -> None:
    done = run_benchmark("--writers", "3", "--rows", "200", "--kills", "6")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "600 due, 600 found, 600 different" in done.stdout
    assert "lost 0, twice 0, told and not so 0, integrity ok" in done.stdout


def test_an_import_that_is_killed_is_whole_or_absent(tmp_path: Path) -> None:
    script = """
import os, signal, sys, threading, time
from pathlib import Path
from benthic.cost.ledger.ledger import Entry, Ledger
rows = [Entry(run="/r", attempt="a", stage="s", purpose="data", device="cpu", price_per_hour=1.0,
              price_source="none", energy_source="none", external=str(n), started=1.0,
              heartbeat=2.0, ended=2.0, seconds=1.0, status="done") for n in range(3000)]
with Ledger(Path(sys.argv[1])) as ledger:
    threading.Timer(float(sys.argv[2]), os.kill, (os.getpid(), signal.SIGKILL)).start()
    ledger.add(rows)
    time.sleep(10)
"""
    for turn, after in enumerate((0.005, 0.02, 0.05)):
        path = tmp_path / f"{turn}.sqlite"
        subprocess.run([sys.executable, "-c", script, str(path), str(after)], check=False)
        with Ledger(path) as ledger:
            assert sum(group.rows for group in ledger.groups()) in (0, 3000)


def test_readers_see_a_moment_while_rows_are_closed(tmp_path: Path) -> None:
    """A row that closes between the halves of a sum is in one of them, not in none or both."""
    path, count = tmp_path / "ledger.sqlite", 60
    with Ledger(path) as ledger:
        ids = [ledger.begin(SPAN, energy_source="rapl") for _ in range(count)]
        closing = threading.Thread(target=lambda: close_all(path, ids))
        closing.start()
        while closing.is_alive():
            assert sum(group.rows for group in ledger.groups(("status",))) == count
        closing.join()
        assert [(g.key["status"], g.rows) for g in ledger.groups(("status",))] == [("done", count)]


def close_all(path: Path, ids: list[str]) -> None:
    with Ledger(path) as other:
        for entry_id in ids:
            other.finish(entry_id, Usage(seconds=1.0), "done")


def test_entries_as_recorded_are_entries(tmp_path: Path) -> None:
    with Ledger(old(tmp_path / "old.sqlite")) as ledger:
        assert all(type(row) is Entry for row in ledger.entries(Path("/runs/old")))
