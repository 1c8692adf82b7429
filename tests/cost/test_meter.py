"""The meter: what it bills when work ends well, is stopped, fails, or is killed."""

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benthic.cost.ledger.ledger import Entry, Ledger, LedgerError, Span
from benthic.cost.metering.heart import Heart, beating
from benthic.cost.metering.held import hold
from tests.cost.test_rapl import powercap as zones

VICTIM = """
import sys, time
from pathlib import Path
from benthic.cost.ledger.ledger import Span
from benthic.cost.metering.heart import beating
from benthic.cost.metering.held import hold
span = Span(run=sys.argv[2], attempt="a", stage="pretrain", purpose="pretrain", device="cpu",
            price_per_hour=0.05, price_source="a guess")
with beating(Path(sys.argv[1]), span, hold(device="cpu", watts=10.0), interval=0.05) as meter:
    meter.add(tokens=100, flops=10**20)
    meter.productive()
    print("up", flush=True)
    time.sleep(60)
"""


class Spiked(Exception):
    interrupted = True


@contextmanager
def metered(folder: Path, *, count: int = 1, powercap: Path | None = None) -> Iterator[Heart]:
    span = Span(
        run=str(folder),
        attempt="a",
        stage="pretrain",
        purpose="pretrain",
        device="cpu",
        count=count,
        price_per_hour=0.05,
        price_source="a guess",
    )
    held = hold(device="cpu", count=count, watts=10.0)
    path, none = folder / "ledger.sqlite", folder / "no counters"
    with beating(path, span, held, interval=0.05, powercap=powercap or none) as heart:
        yield heart


def billed(folder: Path) -> Entry:
    with Ledger(folder / "ledger.sqlite") as ledger:
        (row,) = ledger.entries(folder)
    return row


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited 10 s in vain"
        time.sleep(0.005)


def test_a_good_end(tmp_path: Path) -> None:
    with metered(tmp_path, count=2) as meter:
        meter.add(tokens=3, flops=10**20)
        meter.add(tokens=4)
        time.sleep(0.02)
    row = billed(tmp_path)
    assert row.status == "done" and row.ended is not None
    assert row.seconds == row.seconds_productive and 0.02 <= row.seconds < 5
    assert (row.tokens, row.flops) == (7, 1e20)
    assert row.joules == pytest.approx(2 * 10 * row.seconds)
    assert row.energy_source == "estimate: 10 W a device, given"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt, "interrupted"),
        (SystemExit(1), "interrupted"),
        (Spiked, "interrupted"),
        (RuntimeError, "failed"),
    ],
)
def test_a_bad_end(tmp_path: Path, error: BaseException | type[BaseException], status: str) -> None:
    with (
        pytest.raises((KeyboardInterrupt, SystemExit, Spiked, RuntimeError)),
        metered(tmp_path) as meter,
    ):
        time.sleep(0.02)
        meter.productive()
        time.sleep(0.02)
        raise error
    row = billed(tmp_path)
    assert row.status == status and row.seconds_productive is not None
    assert 0.02 <= row.seconds_productive <= row.seconds - 0.02


def test_nothing_saved_is_nothing_productive(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), metered(tmp_path):
        raise RuntimeError
    assert not billed(tmp_path).seconds_productive


def test_heartbeats_write_on_the_way(tmp_path: Path) -> None:
    with metered(tmp_path) as meter:
        meter.add(tokens=5, flops=7)
        eventually(lambda: billed(tmp_path).tokens == 5)
        row = billed(tmp_path)
        assert row.status == "running" and row.ended is None and row.seconds_productive is None
        assert row.seconds > 0 and row.joules == pytest.approx(10 * row.seconds)
        meter.productive()
        eventually(lambda: billed(tmp_path).seconds_productive is not None)
        later = billed(tmp_path)
        assert later.heartbeat > row.heartbeat and later.seconds > row.seconds


def test_adding_from_threads_loses_nothing(tmp_path: Path) -> None:
    with metered(tmp_path) as meter:

        def add() -> None:
            for _ in range(5000):
                meter.add(tokens=1, flops=2)

        threads = [threading.Thread(target=add) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    row = billed(tmp_path)
    assert (row.tokens, row.flops) == (20_000, 40_000)


def test_a_clock_that_jumps_moves_no_bill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with metered(tmp_path):
        monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 0 <= billed(tmp_path).seconds < 5


def test_a_killed_process_is_billed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(path), str(tmp_path)], stdout=subprocess.PIPE
    )
    assert victim.stdout is not None and victim.stdout.readline() == b"up\n"
    eventually(lambda: billed(tmp_path).seconds > 0.3)
    os.kill(victim.pid, signal.SIGKILL)
    killed = time.time()
    victim.wait()
    victim.stdout.close()
    row = billed(tmp_path)
    assert row.status == "running" and row.pid == victim.pid
    assert killed - row.heartbeat < 0.05 + 0.5  # the interval, and patience with a busy machine
    with Ledger(path) as ledger:
        assert ledger.close_orphans(tmp_path) == 1
    row = billed(tmp_path)
    assert row.status == "interrupted" and row.ended == row.heartbeat
    assert row.seconds == pytest.approx(row.ended - row.started, abs=0.2)
    assert row.seconds_productive is not None and 0 <= row.seconds_productive < row.seconds
    assert (row.tokens, row.flops) == (100, 1e20)


def test_no_ledger_no_start(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"no database at all, " * 100)
    with pytest.raises(LedgerError), metered(tmp_path):
        pytest.fail("the block ran unmetered")


def test_a_ledger_lost_on_the_way(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The work goes on with one warning, and the end bills what was kept in memory."""
    path = tmp_path / "ledger.sqlite"
    with metered(tmp_path) as meter:
        meter.add(tokens=1)
        with pytest.MonkeyPatch.context() as patch:

            def fail(*_: object) -> None:
                failures.append(1)
                raise LedgerError(f"the ledger {path} does not fit on its disk")

            failures: list[int] = []
            patch.setattr(Ledger, "beat", fail)
            eventually(lambda: len(failures) > 3)
        meter.add(tokens=1)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "does not fit" in caplog.text
    assert billed(tmp_path).status == "done" and billed(tmp_path).tokens == 2


def test_a_ledger_lost_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with metered(tmp_path) as meter:
        meter.add(tokens=123)
        other = sqlite3.connect(tmp_path / "ledger.sqlite")
        other.execute("PRAGMA user_version = 99")
        other.commit()
        other.close()
    assert "not in the ledger, row" in caplog.text and ": done after" in caplog.text


def test_a_meter_reads_rapl(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = zones(tmp_path / "powercap", rapl_0=("package-0", 0))
    counter = root / "intel-rapl:0" / "energy_uj"
    with metered(tmp_path, powercap=root):
        counter.write_text("3000000")
        eventually(lambda: billed(tmp_path).joules == 3.0)
        counter.unlink()
        time.sleep(0.05)
    row = billed(tmp_path)
    assert row.energy_source == "rapl" and row.joules == 3.0
    assert caplog.text.count("counted no further") == 1
