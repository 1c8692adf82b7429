"""`with benthic.meter(...)`: what a block of a script is billed, how it ends, and what nests."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import benthic
from benthic.cost.ledger.ledger import Ledger, LedgerError, Span
from benthic.cost.limits import OverBudget
from benthic.cost.metering.beside import beside
from benthic.cost.metering.descendants import largest_self
from benthic.cost.metering.gpus import Gpus
from benthic.cost.metering.held import hold, processor
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


def test_blocks_of_threads_are_inside_the_one_that_started_them(private_ledger: Path) -> None:
    """However they overlap, and in whatever order they end."""
    first = threading.Event()
    second = threading.Event()
    first_over = threading.Event()

    def one() -> None:
        with benthic.meter("t1", device="cpu"):
            first.set()
            second.wait(20)
        first_over.set()

    def two() -> None:
        first.wait(20)
        with benthic.meter("t2", device="cpu"):
            second.set()
            first_over.wait(20)
            with benthic.meter("below t2", device="cpu"):
                time.sleep(0.05)

    with benthic.meter("outer", device="cpu", price=3600.0, purpose="data") as outer:
        threads = [threading.Thread(target=one), threading.Thread(target=two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert os.environ["BENTHIC_METER"] == outer.id
        with benthic.meter("later"):
            time.sleep(0.05)
    assert "BENTHIC_METER" not in os.environ
    found = {found.name: found for found in rows(private_ledger)}
    parents = {name: found[name].parent for name in found}
    assert parents["t1"] == parents["t2"] == parents["later"] == found["outer"].id
    assert parents["below t2"] == found["t2"].id and found["later"].price_per_hour == 3600.0
    billed = sum(each.seconds_billable for each in found.values())
    assert billed == pytest.approx(found["outer"].seconds)


def test_a_meter_is_good_for_one_use(private_ledger: Path) -> None:
    with benthic.meter("once", device="cpu") as m:
        pass
    with pytest.raises(RuntimeError, match="'once' has billed before: make a new one"), m:
        pytest.fail("the block ran")


def test_two_on_one_machine_are_pointed_out(
    private_ledger: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with benthic.meter("one", device="cpu"), benthic.meter("inside"):
        pass
    assert "both bill" not in caplog.text
    other = {"attempt": "a", "stage": "command", "price_per_hour": 1.0, "price_source": "given"}
    with Ledger(private_ledger) as ledger:
        ledger.begin(
            Span(run="/x/other", purpose="data", device=processor(), **other), energy_source="none"
        )
    with benthic.meter("two", device="cpu"):
        pass
    assert "other (row " in caplog.text and "both bill what they hold" in caplog.text


def test_a_meter_that_was_killed_is_none_beside(private_ledger: Path) -> None:
    code = "import os, benthic; benthic.meter('dead', device='cpu').begin(); os._exit(1)"
    subprocess.run([sys.executable, "-c", code], check=False)
    with Ledger(private_ledger) as ledger:
        (dead,) = ledger.open_rows()
        assert beside(ledger, dead, hold(device="cpu", environ={})) == ""


OUTER: dict[str, Any] = {
    **{"purpose": "final", "project": "reef", "device": "h100", "count": 2, "price": 100.0},
    "heartbeat": 0.05,
}


def test_what_is_not_given_is_the_outer_rows(private_ledger: Path) -> None:
    """So that the outer one's dollars stay in its purpose and project, at its price."""
    with benthic.meter("outer", **OUTER), benthic.meter("inner"):
        with benthic.meter("third", purpose="other", project="own", price=3.0):
            pass
        with benthic.meter("fourth", count=1):
            pass
    fourth, third, inner, outer = rows(private_ledger)
    for name in ("purpose", "project", "device", "count", "price_per_hour", "price_source", "user"):
        assert getattr(inner, name) == getattr(outer, name)
    assert (third.purpose, third.project, third.price_per_hour) == ("other", "own", 3.0)
    assert (third.device, third.count, third.price_source) == ("H100-SXM", 2, "given")
    assert (fourth.purpose, fourth.count, fourth.price_per_hour) == ("pretrain", 1, 100.0)
    assert sum(found.dollars for found in (inner, outer)) > 0.9 * inner.dollars


def test_an_amended_outer_row_counts_as_amended(private_ledger: Path) -> None:
    with benthic.meter("outer", device="cpu") as outer:
        with Ledger(private_ledger) as ledger:
            ledger.amend(outer.id, "project", "reef", reason="forgotten")
            ledger.amend(outer.id, "user", "ana", reason="hers")
        with benthic.meter("inner"):
            pass
    inner = rows(private_ledger)[0]
    assert (inner.project, inner.user, inner.device) == ("reef", "ana", processor())


def test_a_device_that_was_given(private_ledger: Path) -> None:
    """The row's own is part of it; another, the processor too, is an addition at its own price."""
    with benthic.meter("outer", **OUTER):
        for device in ("H100-SXM", "cpu", "b200"):
            with benthic.meter("inner", device=device):
                time.sleep(0.05)
    other, on_processor, same, outer = rows(private_ledger)
    assert (same.count, same.price_per_hour, same.price_source) == (2, 100.0, "given")
    assert (on_processor.device, on_processor.gpus) == (processor(), 0.0)
    assert on_processor.price_source.startswith("assumption") and on_processor.count == 1
    assert (other.device, other.count, other.purpose) == ("B200-SXM", 1, "pretrain")
    assert other.price_source.startswith("catalog: rent.b200")
    held = outer.seconds * 2 * 100 / 3600
    assert same.dollars + outer.dollars == pytest.approx(held)
    with Ledger(private_ledger) as ledger:
        spent = ledger.spent("project", "reef")
    assert spent == pytest.approx(held + on_processor.dollars + other.dollars)


def test_a_reservation_gives_all_but_its_purpose(private_ledger: Path) -> None:
    with benthic.meter("held", **OUTER | {"purpose": "idle"}), benthic.meter("inner"):
        pass
    inner = rows(private_ledger)[0]
    assert (inner.purpose, inner.project, inner.price_per_hour) == ("other", "reef", 100.0)


def test_a_command_inside_takes_over_and_passes_on(private_ledger: Path) -> None:
    code = "import benthic\nwith benthic.meter('block'): pass"
    run = "import sys\nfrom benthic.cost.metering.metered import run\nsys.exit(run(sys.argv[1:]))"
    with benthic.meter("outer", **OUTER):
        subprocess.run([sys.executable, "-c", run, sys.executable, "-c", code], check=True)
    block, command, outer = rows(private_ledger)
    assert (block.parent, command.parent) == (command.id, outer.id)
    for found in (block, command):
        assert (found.purpose, found.project, found.price_per_hour) == ("pretrain", "reef", 100.0)
        assert (found.device, found.count, found.user) == ("H100-SXM", 2, outer.user)


def test_an_outer_row_that_is_closed_gives_nothing(
    private_ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with benthic.meter("outer", **OUTER) as outer:
        name = outer.id
    for stale in (name, "none", "\udcff"):
        monkeypatch.setenv("BENTHIC_METER", stale)
        with benthic.meter("inner", device="cpu"):
            pass
        inner = rows(private_ledger)[0]
        assert (inner.purpose, inner.project, inner.parent) == ("other", "", None)


@pytest.mark.parametrize(
    ("environ", "seen", "count"),
    [
        ({}, 8, 16),
        ({"RANK": "0", "WORLD_SIZE": "4"}, 8, 4),
        ({"RANK": "0", "WORLD_SIZE": "64", "LOCAL_WORLD_SIZE": "8"}, 8, 16),
        ({"SLURM_GPUS_ON_NODE": "2"}, 2, 2),
        ({}, 3, 3),
    ],
)
def test_a_part_of_the_outer_rows_devices(
    private_ledger: Path,
    monkeypatch: pytest.MonkeyPatch,
    environ: dict[str, str],
    seen: int,
    count: int,
) -> None:
    """Of 16 on two machines a launcher, or what is hidden of the 8 here, leaves fewer."""
    with benthic.meter("outer", **OUTER | {"count": 16}):
        outer = row(private_ledger)
    gpus = Gpus(["NVIDIA H100 80GB HBM3"] * seen, 8)
    monkeypatch.setattr("benthic.cost.metering.held.find", lambda _: gpus)
    assert hold(outer=outer, environ=environ).count == count
    assert hold(outer=outer, environ=environ, count=5).count == 5


def test_a_spent_hard_budget_refuses(
    private_ledger: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Ledger(private_ledger) as ledger:
        ledger.budget_set("purpose", "ablation", 0.0, hard=True)
        ledger.budget_set("project", "reef", 0.0, hard=True)
        ledger.budget_set("project", "soft", 0.0)
    for given, words in [
        ({"purpose": "ablation"}, r"the budget of purpose ablation, \$0, is spent \(\$0\): raise"),
        ({"project": "reef"}, "the budget of project reef.*anyway=True starts it all the same"),
    ]:
        with pytest.raises(OverBudget, match=words), benthic.meter(device="cpu", **given):
            pytest.fail("the block ran")
    assert rows(private_ledger) == [] and "BENTHIC_METER" not in os.environ
    with benthic.meter(device="cpu", project="soft"):
        pass
    assert "the budget of project soft, $0, is spent" in caplog.text
    with benthic.meter(device="cpu", purpose="ablation", anyway=True):
        with benthic.meter("step"):  # what holds the devices goes on anyhow
            pass
        with pytest.raises(OverBudget), benthic.meter("step", project="reef"):
            pytest.fail("the block ran")
        with pytest.raises(OverBudget), benthic.meter("step", device="h100", count=8, price=9.0):
            pytest.fail("it would hold what the outer row does not")
    assert [found.purpose for found in rows(private_ledger)] == ["ablation", "ablation", "other"]


def test_a_resumed_run_goes_on_with_its_own_attempt(private_ledger: Path, tmp_path: Path) -> None:
    """Not with that of an evaluation in between; also where the folder's name has a colon."""
    given: dict[str, Any] = {"run": tmp_path / "sft:v1", "device": "cpu"}
    for more in ({"purpose": "final"}, {"purpose": "evaluation"}, {"purpose": "final"}):
        with benthic.meter(**given, **more, resumed=True):
            pass
    last, evaluation, first = rows(private_ledger)
    assert last.attempt == first.attempt != evaluation.attempt
    assert last.run == str(tmp_path / "sft:v1")


def test_a_path_that_cannot_be_looked_at_need_not_stop_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTHIC_LEDGER", str(tmp_path / ("x" * 300) / "ledger.sqlite"))
    monkeypatch.setenv("BENTHIC_METER", "a row")
    with pytest.raises(LedgerError, match="cannot be made"), benthic.meter(device="cpu"):
        pytest.fail("the block ran")
    with benthic.meter(device="cpu", anyway=True) as m:
        assert m.id == ""


def test_a_ledger_that_cannot_be_written_need_not_stop_the_work(
    private_ledger: Path, caplog: pytest.LogCaptureFixture
) -> None:
    private_ledger.write_bytes(b"no database at all, " * 100)
    with benthic.meter(device="cpu", anyway=True) as m:
        m.add(tokens=1)
        assert m.id == "" and "BENTHIC_METER" not in os.environ
    assert "the work runs unbilled" in caplog.text


def test_a_folder_that_is_gone(private_ledger: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = f"""
import os, benthic
os.rmdir({json.dumps(str(gone))})
try: benthic.meter("x")
except ValueError as error: print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=gone, capture_output=True, check=True)
    assert done.stdout.startswith(b"the current folder has been deleted: change to one that exists")


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


@pytest.mark.parametrize(("over", "status"), [(True, "failed"), (False, "interrupted")])
def test_a_process_that_ends_after_its_condition(
    private_ledger: Path, over: bool, status: str
) -> None:
    """What it stood for was over before, by an exception that the script has caught."""
    code = SCRIPT.replace("heartbeat=0.05", f"while_true=lambda: {not over}")
    subprocess.run([sys.executable, "-c", code.format("")], check=True)
    assert row(private_ledger).status == status


def test_a_condition_is_looked_at_each_second(
    private_ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benthic.cost.metering.heart._FIRST", 600.0)
    goes_on = [True]
    m = benthic.meter(device="cpu", heartbeat=600, while_true=lambda: goes_on[0])
    m.begin()
    goes_on[0] = False
    eventually(lambda: row(private_ledger).status == "failed")
    assert row(private_ledger).seconds < 4


def test_a_condition_that_raises_ends_no_bill(private_ledger: Path) -> None:
    def broken() -> bool:
        raise RuntimeError("the user's own")

    m = benthic.meter(device="cpu", heartbeat=0.05, while_true=broken)
    m.begin()
    eventually(lambda: row(private_ledger).seconds > 0.5)
    m.end("done")
    assert row(private_ledger).status == "done"


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
