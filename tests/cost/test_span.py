"""`with benthic.meter(...)`: what a block of a script is billed, how it ends, and what nests."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import benthic
from benthic.cost.ledger.ledger import Ledger, LedgerError
from benthic.cost.metering.descendants import largest_self
from tests.billed import eventually, row, rows

SCRIPT = """
import sys, time, benthic
m = benthic.meter("script", heartbeat=0.05, device="cpu")
m.begin()
time.sleep(0.2)
{0}
"""


def test_a_block_is_billed(private_ledger: Path, tmp_path: Path) -> None:
    with benthic.meter(
        *("my-run",),
        purpose="final",
        project="p",
        device="cpu",
        price=2.0,
        watts=30.0,
        run=tmp_path,
        heartbeat=0.05,
    ) as m:
        assert row(private_ledger).id == m.id and row(private_ledger).status == "running"
        m.add(tokens=5, flops=1e20)
        m.add(tokens=2)
        eventually(lambda: row(private_ledger).tokens == 7)
    found = row(private_ledger)
    assert m.id == "" and (found.status, found.source, found.name) == ("done", "python", "my-run")
    assert (found.purpose, found.project, found.run) == ("pretrain", "p", str(tmp_path))
    assert (found.tokens, found.flops) == (7, 1e20)
    assert found.dollars == pytest.approx(found.seconds * 2 / 3600)
    assert found.joules == pytest.approx(found.seconds * 30) and found.joules_low is None
    assert found.seconds_productive == found.seconds and found.price_source == "given"
    assert found.peak_bytes is not None and found.peak_bytes < 2 * largest_self()
    assert found.command.endswith("pytest") or "pytest" in found.command


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("x"), "failed"),
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(1), "interrupted"),
        (SystemExit(0), "done"),
    ],
)
def test_how_it_ends(private_ledger: Path, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), benthic.meter(device="cpu") as m:
        time.sleep(0.02)
        m.productive()
        time.sleep(0.02)
        raise error
    found = row(private_ledger)
    assert found.status == status and found.seconds_productive is not None
    if status != "done":
        assert 0.02 <= found.seconds_productive <= found.seconds - 0.02


def test_nothing_is_raised_once_it_runs(
    private_ledger: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise LedgerError("the ledger is full")

    with benthic.meter(device="cpu", heartbeat=0.05) as m:
        monkeypatch.setattr(Ledger, "beat", fail)
        monkeypatch.setattr(Ledger, "finish", fail)
        eventually(lambda: "kept in memory: the ledger is full" in caplog.text)
        m.add(tokens=-1)
        m.add(tokens="many")  # type: ignore[arg-type]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
    assert "the end of this bill is not in the ledger" in caplog.text and m.id == ""


def test_what_cannot_be_is_said_at_the_start(private_ledger: Path) -> None:
    with pytest.raises(ValueError, match="did you mean ablation"):
        benthic.meter(purpose="ablations")
    with pytest.raises(ValueError, match="heartbeat is 0"):
        benthic.meter(heartbeat=0)
    with pytest.raises(ValueError, match="price is -1"), benthic.meter(price=-1):
        pytest.fail("the block ran")
    private_ledger.write_bytes(b"no database at all, " * 100)
    with pytest.raises(LedgerError, match="not a SQLite file"), benthic.meter():
        pytest.fail("the block ran unbilled")
    assert "BENTHIC_METER" not in os.environ


def test_blocks_inside_are_billed_once(private_ledger: Path) -> None:
    """The inner one in this process, and a command in another below it."""
    code = "import benthic, time\nwith benthic.meter('third', device='cpu'): time.sleep(0.1)"
    with benthic.meter("outer", device="cpu") as outer:
        assert os.environ["BENTHIC_METER"] == outer.id
        with benthic.meter("inner", device="cpu") as inner:
            assert os.environ["BENTHIC_METER"] == inner.id
            subprocess.run([sys.executable, "-c", code], check=True)
        assert os.environ["BENTHIC_METER"] == outer.id
    assert "BENTHIC_METER" not in os.environ
    third, second, first = rows(private_ledger)
    assert (third.parent, second.parent, first.parent) == (second.id, first.id, None)
    billed = sum(found.seconds_billable for found in (first, second, third))
    assert billed == pytest.approx(first.seconds)


def test_of_several_ranks_the_first_bills(
    private_ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "1")
    with benthic.meter(device="h100") as m:
        m.add(tokens=1)
        m.productive()
        assert m.id == "" and "BENTHIC_METER" not in os.environ
    assert not private_ledger.exists()
    monkeypatch.setenv("RANK", "0")
    with benthic.meter(device="h100"):
        pass
    found = row(private_ledger)
    assert (found.count, found.gpus) == (4, 4.0) and found.price_source.startswith("catalog: rent")


def test_a_forked_copy_of_the_process_ends_no_bill(private_ledger: Path) -> None:
    with benthic.meter(device="cpu", heartbeat=0.05) as m:
        pid = os.fork()
        if pid == 0:
            m.end("failed")
            os._exit(0)
        os.waitpid(pid, 0)
        assert row(private_ledger).status == "running"
        eventually(lambda: row(private_ledger).seconds > 0.1)
    assert row(private_ledger).status == "done"


@pytest.mark.parametrize(
    ("last", "status"),
    [
        ("raise RuntimeError", "failed"),
        ("raise KeyboardInterrupt", "interrupted"),
        ("sys.exit(3)", "interrupted"),
        ("import os; os._exit(0)", "running"),
    ],
)
def test_an_end_of_the_process(private_ledger: Path, last: str, status: str) -> None:
    subprocess.run(
        [sys.executable, "-c", SCRIPT.format(last)], check=False, stderr=subprocess.DEVNULL
    )
    found = row(private_ledger)
    assert found.status == status and found.seconds >= 0.1
    with Ledger(private_ledger) as ledger:
        assert ledger.close_stale() == (status == "running")


def test_a_bill_ends_once_its_condition_fails(private_ledger: Path) -> None:
    goes_on = [True]
    m = benthic.meter(device="cpu", heartbeat=0.05, while_true=lambda: goes_on[0])
    m.begin()
    eventually(lambda: row(private_ledger).seconds > 0)
    assert row(private_ledger).status == "running"
    goes_on[0] = False
    eventually(lambda: row(private_ledger).status == "failed")
    m.end("done")  # comes too late
    assert row(private_ledger).status == "failed" and "BENTHIC_METER" not in os.environ


def test_importing_benthic_stays_cheap() -> None:
    code = (
        "import sys, benthic; a = set(sys.modules); benthic.meter; b = set(sys.modules)\n"
        "assert not {m for m in a if m.startswith('benthic.')}, a\n"
        "assert not {'torch', 'numpy', 'tyro', 'rich'} & b, b\n"
        "try: benthic.nothing\n"
        "except AttributeError as e: assert 'nothing' in str(e)\n"
        "else: sys.exit(1)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
