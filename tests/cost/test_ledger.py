"""The ledger: rows that survive, rows that are final, and sentences for what goes wrong."""

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benthic.cost.ledger.ledger import Ledger, LedgerError, Span, Usage, ledger_path

WRITER = """
import sys
from pathlib import Path
from benthic.cost.ledger.ledger import Ledger, Span, Usage
with Ledger(Path(sys.argv[1])) as ledger:
    for i in range(40):
        span = Span(run=sys.argv[2], attempt="a", stage=sys.argv[3], purpose="data", device="cpu",
                    price_per_hour=0.0, price_source="none")
        entry = ledger.begin(span, energy_source="rapl")
        ledger.beat(entry, Usage(tokens=i))
        ledger.finish(entry, Usage(tokens=i + 1), "done")
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "deep" / "ledger.sqlite", timeout=0.1) as opened:
        yield opened


def span(run: Path, stage: str = "pretrain", attempt: str = "a") -> Span:
    return Span(
        run=str(run),
        attempt=attempt,
        stage=stage,
        purpose="pretrain",
        device="cpu",
        price_per_hour=0.05,
        price_source="a guess",
    )


def test_a_row_lives_and_closes(ledger: Ledger, tmp_path: Path) -> None:
    before = time.time()
    entry_id = ledger.begin(span(tmp_path), energy_source="rapl")
    (row,) = ledger.entries(tmp_path)
    assert row.status == "running" and row.ended is None and row.seconds_productive is None
    assert row.pid == os.getpid() and before <= row.started <= time.time()
    ledger.beat(entry_id, Usage(seconds=1.5, tokens=10, flops=3e24, joules=2.0))
    (row,) = ledger.entries(tmp_path)
    assert (row.seconds, row.tokens, row.flops, row.joules) == (1.5, 10, 3e24, 2.0)
    ledger.finish(entry_id, Usage(seconds=2.5, seconds_productive=2.0, tokens=20), "failed")
    (row,) = ledger.entries(tmp_path)
    assert row.status == "failed" and row.ended is not None and row.ended >= row.started
    assert (row.seconds, row.seconds_productive, row.tokens) == (2.5, 2.0, 20)


def test_a_run_is_its_absolute_path(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ledger.begin(span(Path("runs/one")), energy_source="rapl")
    (row,) = ledger.entries(tmp_path / "runs" / "one")
    assert row.run == str(tmp_path / "runs" / "one")
    assert ledger.entries(tmp_path / "runs" / "two") == []


def test_closed_rows_are_final(ledger: Ledger, tmp_path: Path) -> None:
    entry_id = ledger.begin(span(tmp_path), energy_source="rapl")
    ledger.finish(entry_id, Usage(seconds=1.0), "done")
    before = ledger.entries(tmp_path)
    with pytest.raises(LedgerError, match="no open row"):
        ledger.beat(entry_id, Usage(seconds=9.0))
    with pytest.raises(LedgerError, match="no open row"):
        ledger.finish(entry_id, Usage(seconds=9.0), "failed")
    with sqlite3.connect(ledger.path) as other:
        for statement in ("UPDATE entries SET seconds = 0", "DELETE FROM entries"):
            with pytest.raises(sqlite3.IntegrityError):
                other.execute(statement)
    other.close()
    assert ledger.entries(tmp_path) == before


def test_orphans_close_at_their_last_heartbeat(ledger: Ledger, tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    dead = ledger.begin(span(mine, "dead"), energy_source="rapl")
    saved = ledger.begin(span(mine, "saved"), energy_source="rapl")
    ended = ledger.begin(span(mine, "ended"), energy_source="rapl")
    ledger.begin(span(other), energy_source="rapl")
    ledger.beat(dead, Usage(seconds=7.0, tokens=3))
    ledger.beat(saved, Usage(seconds=8.0, seconds_productive=5.0))
    ledger.finish(ended, Usage(seconds=1.0, seconds_productive=1.0), "done")
    stamps = {row.stage: row.heartbeat for row in ledger.entries(mine)}
    assert ledger.close_orphans(mine) == 2
    assert ledger.close_orphans(mine) == 0
    rows = {row.stage: row for row in ledger.entries(mine)}
    assert rows["dead"].status == rows["saved"].status == "interrupted"
    assert rows["dead"].ended == stamps["dead"]
    assert (rows["dead"].seconds, rows["dead"].seconds_productive) == (7.0, 0.0)
    assert (rows["saved"].seconds, rows["saved"].seconds_productive) == (8.0, 5.0)
    assert rows["ended"].status == "done"
    assert [row.status for row in ledger.entries(other)] == ["running"]


def test_two_processes_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(tmp_path), name])
        for name in ("first", "second")
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    with Ledger(path) as ledger:
        rows = ledger.entries(tmp_path)
    assert len(rows) == len({row.id for row in rows}) == 80
    for name in ("first", "second"):
        assert [row.tokens for row in rows if row.stage == name] == list(range(1, 41))


def test_openers_at_once_make_one_ledger(tmp_path: Path) -> None:
    failures: list[LedgerError] = []
    together = threading.Barrier(4)

    def begin(number: int) -> None:
        for turn in range(8):
            together.wait()
            try:
                with Ledger(tmp_path / f"{turn}.sqlite") as opened:
                    opened.begin(span(tmp_path, str(number)), energy_source="rapl")
            except LedgerError as error:
                failures.append(error)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for turn in range(8):
        with Ledger(tmp_path / f"{turn}.sqlite") as opened:
            assert len(opened.entries(tmp_path)) == 4


def test_the_log_is_switched_on_when_the_lock_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger(path).close()
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("PRAGMA journal_mode = DELETE")
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.1, other.rollback)
    release.start()
    with Ledger(path) as opened:
        assert opened._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    release.join()
    other.close()


def test_a_newer_schema_says_upgrade(ledger: Ledger) -> None:
    with sqlite3.connect(ledger.path) as other:
        other.execute("PRAGMA user_version = 3")
    other.close()
    with pytest.raises(LedgerError, match=r"ledger\.sqlite has schema 3 .* upgrade Benthic"):
        Ledger(ledger.path)


def test_a_corrupt_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"no database at all, " * 100)
    with pytest.raises(LedgerError, match=r"ledger\.sqlite is not a SQLite file: move it away"):
        Ledger(path)


def test_a_damaged_page_says_so(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger(path).close()
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + b"\xff" * (len(whole) - 100))
    with pytest.raises(LedgerError, match=r"ledger\.sqlite is damaged: restore a copy"):
        Ledger(path).entries(tmp_path)


def test_a_foreign_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "photos.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE photos (name TEXT)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="belongs to another program"):
        Ledger(path)
    assert path.read_bytes() == before


def test_a_lock_says_who_to_wait_for(ledger: Ledger, tmp_path: Path) -> None:
    other = sqlite3.connect(ledger.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError, match=r"ledger\.sqlite is locked by another process"):
        ledger.begin(span(tmp_path), energy_source="rapl")
    other.close()
    ledger.begin(span(tmp_path), energy_source="rapl")


def test_read_only_says_so(ledger: Ledger, tmp_path: Path) -> None:
    ledger._connection.execute("PRAGMA query_only = 1")  # file modes do not stop the root user
    with pytest.raises(LedgerError, match=r"ledger\.sqlite cannot be written: make file"):
        ledger.begin(span(tmp_path), energy_source="rapl")


@pytest.mark.skipif(os.geteuid() == 0, reason="file modes do not stop the root user")
def test_a_folder_that_is_read_only_says_so(ledger: Ledger) -> None:
    ledger.close()
    ledger.path.chmod(0o400)
    ledger.path.parent.chmod(0o500)
    with pytest.raises(LedgerError, match="make file and folder writable"):
        Ledger(ledger.path).begin(span(ledger.path), energy_source="rapl")


def test_a_full_disk_says_so(ledger: Ledger, tmp_path: Path) -> None:
    pages = ledger._connection.execute("PRAGMA page_count").fetchone()[0]
    ledger._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(LedgerError, match="does not fit on its disk: free some space"):
        for _ in range(1000):
            ledger.begin(span(tmp_path), energy_source="rapl")


def test_a_path_that_cannot_be_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match=r"folder of the ledger .* cannot be made"):
        Ledger(tmp_path / "file" / "ledger.sqlite")
    with pytest.raises(LedgerError, match="is a folder: name a file in it"):
        Ledger(tmp_path)


def test_the_path_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTHIC_LEDGER", "/some/where.sqlite")
    assert ledger_path() == Path("/some/where.sqlite")
    monkeypatch.delenv("BENTHIC_LEDGER")
    assert ledger_path().name == "ledger.sqlite" and "benthic" in str(ledger_path())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"purpose": "fun"}, "purpose is 'fun': choose one of final, rl"),
        ({"count": 0}, "count is 0"),
        ({"price_per_hour": float("nan")}, "price_per_hour is nan"),
        ({"price_per_hour": -1.0}, "price_per_hour is -1.0"),
        ({"price_per_hour": float("inf")}, "price_per_hour is inf"),
    ],
)
def test_a_span_is_checked(tmp_path: Path, change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Span(**vars(span(tmp_path)) | change)


def test_a_heartbeat_is_cheap(ledger: Ledger, tmp_path: Path) -> None:
    entry_id = ledger.begin(span(tmp_path), energy_source="rapl")
    spent = []
    for i in range(101):
        start = time.perf_counter()
        ledger.beat(entry_id, Usage(seconds=float(i)))
        spent.append(time.perf_counter() - start)
    assert sorted(spent)[50] < 1e-3


def test_a_row_says_who_what_and_where(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    known = replace(span(tmp_path / "one"), project="p", name="n", source="meter", command="train")
    first = ledger.begin(known, energy_source="rapl")
    ledger.finish(first, Usage(gpus=8, gpu_busy=0.5), "failed", exit_code=-9, note="it forked away")
    second = ledger.begin(replace(known, user="bob", name="", note="kept"), energy_source="rapl")
    ledger.finish(second, Usage(), "done")
    rows = {row.id: row for row in ledger.entries(tmp_path / "one")}
    assert (rows[first].user, rows[second].user) == ("ada", "bob")
    assert (rows[first].label, rows[second].label) == ("n", "one")
    assert (rows[first].exit_code, rows[second].exit_code) == (-9, None)
    assert (rows[first].note, rows[second].note) == ("it forked away", "kept")
    assert (rows[first].gpus, rows[first].gpu_busy, rows[first].command) == (8, 0.5, "train")


def test_a_row_under_a_meter_names_it(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outer = ledger.begin(span(tmp_path / "outer"), energy_source="rapl")
    monkeypatch.setenv("BENTHIC_METER", outer)
    inner = ledger.begin(span(tmp_path / "inner"), energy_source="rapl")
    assert ledger.find(inner).parent == outer
    ledger.finish(outer, Usage(), "done")  # what outlives a meter does not run inside it
    assert ledger.find(ledger.begin(span(tmp_path / "late"), energy_source="rapl")).parent is None
    monkeypatch.setenv("BENTHIC_METER", "a row of another ledger")
    assert ledger.find(ledger.begin(span(tmp_path / "far"), energy_source="rapl")).parent is None


def test_a_row_is_found_by_the_start_of_its_id(ledger: Ledger, tmp_path: Path) -> None:
    entry_id = ledger.begin(span(tmp_path), energy_source="rapl")
    ledger.begin(span(tmp_path), energy_source="rapl")
    assert ledger.find(entry_id[:30]).id == entry_id
    with pytest.raises(LedgerError, match="several rows whose id starts with ''"):
        ledger.find("")
    with pytest.raises(LedgerError, match="no row whose id starts with '%'"):
        ledger.find("%")


def test_a_clock_set_back_moves_no_heartbeat_before_the_start(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry_id = ledger.begin(span(tmp_path), energy_source="rapl")
    started = ledger.find(entry_id).started
    monkeypatch.setattr("benthic.cost.ledger.ledger.time.time", lambda: started - 3600)
    ledger.beat(entry_id, Usage(seconds=5.0))
    assert ledger.find(entry_id).heartbeat == started
    ledger.finish(entry_id, Usage(seconds=6.0), "done")
    row = ledger.find(entry_id)
    assert row.ended == started and row.seconds == 6.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seconds": float("nan")}, "seconds is nan: give seconds, 0 to"),
        ({"seconds": -1.0}, "seconds is -1.0"),
        ({"flops": float("inf")}, "flops is inf"),
        ({"tokens": 2**63}, "tokens is 9223372036854775808"),
        ({"gpu_busy": 1.5}, "gpu_busy is 1.5: give a share, 0 to 1"),
        ({"joules": "many"}, "joules is many: give joules"),
    ],
)
def test_usage_is_checked(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Usage(**change)


def test_an_absurd_price_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"price_per_hour is 2000000\.0: give US dollars an hour"):
        ledger.begin(replace(span(tmp_path), price_per_hour=2e6), energy_source="rapl")
    assert ledger.entries(tmp_path) == []


def test_bytes_that_are_no_text_are_kept_as_escapes(ledger: Ledger, tmp_path: Path) -> None:
    odd = replace(span(tmp_path), command="train \udcff", name="nul\0 'quote'; DROP TABLE entries")
    row = ledger.find(ledger.begin(odd, energy_source="rapl"))
    assert row.command == r"train \udcff" and row.name == odd.name
