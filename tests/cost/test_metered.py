"""`benthic meter`: a command runs as if it were not metered, and is billed whatever happens to it.

Commands are run by a process of its own, as the verb does; what is asked of the environment, NVML
and the command's text is tested in this process.
"""

import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from math import isnan, nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic.cost.bill.bill import draw_up
from benthic.cost.ledger.entries import Span, Usage
from benthic.cost.ledger.ledger import Ledger, LedgerError
from benthic.cost.ledger.pending import End, leave
from benthic.cost.limits import Limits
from benthic.cost.metering import child as child_room
from benthic.cost.metering import gpus as gpus_room
from benthic.cost.metering import heart as heart_room
from benthic.cost.metering.child import Child, NotRun, program
from benthic.cost.metering.descendants import Tree, below
from benthic.cost.metering.gpus import find
from benthic.cost.metering.heart import Gauge, Heart
from benthic.cost.metering.held import Holding, gpus_held, hold, is_first, machines
from benthic.cost.metering.masking import LONGEST, mask_text, masked
from benthic.cost.metering.metered import name_of
from tests.billed import eventually, row, rows

METER = """
import json, sys
from benthic.cost.metering.metered import run
sys.exit(run(sys.argv[2:], **json.loads(sys.argv[1])))
"""
SLEEPER = "import time; print('up', flush=True); time.sleep(60)"
TELLER = """
import signal, sys, time
got = []
def tell(number, _):
    got.append(number)
signal.signal(signal.SIG{0}, tell)
print('up', flush=True)
deadline = time.monotonic() + 20
while not got and time.monotonic() < deadline: time.sleep(0.01)
time.sleep(0.3)
print(len(got), flush=True)
sys.exit(5)
"""


def argv(*command: str, **flags: Any) -> list[str]:
    return [sys.executable, "-c", METER, json.dumps(flags), *command]


def metered(
    *command: str, env: dict[str, str] | None = None, **flags: Any
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv(*command, **flags),
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", code)


def alive(pid: int) -> bool:
    return any(process.pid == pid for process in below(1)) or Path(f"/proc/{pid}").exists()


def machine(**given: Any) -> Holding:
    return hold(device="cpu", price=1.0, environ={}, **given)


# The command runs as if it were not metered.


def test_streams_and_arguments_pass_untouched(private_ledger: Path) -> None:
    code = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()[::-1]); print(sys.argv[1:])"
    done = subprocess.run(
        argv(*python(code), "a b", "", "--", "-x", quiet=True, purpose="data", project="p"),
        input=b"\x00\xff\n",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"\n\xff\x00['a b', '', '--', '-x']\n"
    found = row(private_ledger)
    assert (found.status, found.exit_code, found.source) == ("done", 0, "meter")
    assert (found.purpose, found.project) == ("data", "p")
    assert found.seconds == found.seconds_productive and 0 < found.seconds < 20
    assert found.price_per_hour > 0 and found.price_source.startswith("assumption")
    assert found.joules_low is not None and found.joules_high is not None
    assert 0 < found.joules_low < found.joules < found.joules_high


@pytest.mark.parametrize(
    ("script", "code", "status"),
    [
        ("exit 7", 7, "failed"),
        ("kill -SEGV $$", 139, "failed"),
        ("kill -TERM $$", 143, "interrupted"),
        ("kill -KILL $$", 137, "interrupted"),
    ],
)
def test_its_end_is_passed_through(
    private_ledger: Path, script: str, code: int, status: str
) -> None:
    done = metered("sh", "-c", script)
    found = row(private_ledger)
    assert (done.returncode, found.exit_code, found.status) == (code, code, status)
    assert found.seconds_productive is None and found.seconds_kept == 0
    assert (
        f"benthic: {status} after" in done.stderr and "an assumption: give --price" in done.stderr
    )


def test_a_signal_to_the_meter_reaches_the_command_once(private_ledger: Path) -> None:
    for name in ("TERM", "INT", "USR1"):
        code = TELLER.format(name)
        process = subprocess.Popen(argv(*python(code)), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        process.send_signal(getattr(signal, f"SIG{name}"))
        assert process.stdout.read() == "1\n"
        assert process.wait(20) == 5
        process.stdout.close()
    assert [found.status for found in rows(private_ledger)] == [
        *("failed", "interrupted", "interrupted"),  # the newest first; USR1 asks nobody to end
    ]


def test_the_terminals_keys_reach_the_command_once(private_ledger: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        command = argv(*python(TELLER.format("INT")))
        os.execv(command[0], command)
    said = b""
    while b"up" not in said:
        said += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    while b"benthic: " not in said:
        said += os.read(terminal, 1000)
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert re.search(rb"(\^C|\n)1\r\nbenthic: ", said) and os.waitstatus_to_exitcode(status) == 5
    assert row(private_ledger).status == "interrupted"


def test_only_what_a_process_sent_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    coming = [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGCHLD, True)]
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(child_room, "_next_signal", lambda _: coming.pop(0))
    monkeypatch.setattr(child_room, "send", lambda pid, number: sent.append((pid, number)))
    monkeypatch.setattr(Child, "_reap", lambda _: None if coming else 0x0300)
    child = Child(99, set())
    assert child.wait() == 3 and sent == [(99, signal.SIGTERM)]
    assert child.signals == [signal.SIGINT, signal.SIGTERM]


def test_a_command_that_cannot_be_run(tmp_path: Path, private_ledger: Path) -> None:
    plain, headless = tmp_path / "plain", tmp_path / "headless"
    plain.write_text("echo no\n")
    headless.write_text("echo no\n")
    headless.chmod(0o755)
    for command, code, words in [
        ([], 2, "no command is given"),
        ([""], 2, "no command is given"),
        (["no-such-program"], 127, "'no-such-program' is not found: it is not in PATH"),
        ([str(tmp_path / "none")], 127, "there is no such file"),
        ([str(tmp_path)], 126, "is a folder"),
        ([str(plain)], 126, "may not be executed: chmod"),
    ]:
        with pytest.raises(NotRun, match=words) as refusal:
            program(command, os.environ)
        assert refusal.value.code == code
    assert metered("no-such-program").returncode == 127
    assert not private_ledger.exists()  # nothing ran, nothing is billed
    done = metered(str(headless))
    assert done.returncode == 126 and "is no program: begin it with a line like" in done.stderr
    assert (row(private_ledger).status, row(private_ledger).exit_code) == ("failed", 126)


@pytest.mark.parametrize("options", [[], ["--purpose", "data", "--quiet", "--price=2"]])
def test_a_command_without_its_dashes(private_ledger: Path, options: list[str]) -> None:
    code = "import sys; from benthic.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "meter", *options, "echo", "hi there", "--epochs", "3"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2 and done.stderr == (
        "benthic: 'echo' is no option of the meter: write -- before the command, as in: "
        f"{' '.join(['benthic meter', *options])} -- echo 'hi there' --epochs 3\n"
    )


def test_a_folder_that_is_gone(private_ledger: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = METER.replace("import json", f"import os; os.rmdir({str(gone)!r})\nimport json")
    done = subprocess.run(
        [sys.executable, "-c", code, "{}", "echo", "ran"],
        cwd=gone,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (125, "") and done.stderr.startswith(
        "benthic: the current folder has been deleted: change to one that exists"
    )


def test_arguments_that_are_too_long(private_ledger: Path) -> None:
    code = METER.replace("sys.argv[2:]", "['true', *['x' * 100_000] * 60]")
    done = subprocess.run(
        [sys.executable, "-c", code, "{}"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 126 and "longer than the system allows" in done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"price": -1}, "price is -1"),
        ({"price": "\u20ac2"}, "price is '\u20ac2': give US dollars an hour of one device"),
        ({"count": "2"}, "count is 2: give devices"),
        ({"price": 1e9}, "give US dollars an hour of one device, 0 to 1e"),
        ({"count": 0}, "count is 0: give devices, 1 to"),
        ({"watts": -5}, "watts is -5"),
        ({"heartbeat": 0}, "heartbeat is 0: give seconds between two"),
        ({"purpose": "ablaton"}, "purpose is 'ablaton': did you mean ablation?"),
        ({"device": "h1000"}, "no GPU is called 'h1000': did you mean"),
    ],
)
def test_a_flag_that_cannot_be(private_ledger: Path, flags: dict[str, Any], words: str) -> None:
    done = metered("echo", "ran", **flags)
    assert (done.returncode, done.stdout) == (125, "") and words in done.stderr
    assert done.stderr.count("\n") == 1 and not private_ledger.exists()


def test_numbers_that_are_none() -> None:
    for name in ("price", "watts"):
        with pytest.raises(ValueError, match=f"{name} is nan"):
            hold(device="cpu", environ={}, **{name: nan})


def test_a_ledger_that_cannot_be_written(private_ledger: Path) -> None:
    with Ledger(private_ledger):
        pass
    newer = sqlite3.connect(private_ledger)
    newer.execute("PRAGMA user_version = 99")
    newer.commit()
    newer.close()
    for flags, code, words in [
        ({}, 125, "upgrade Benthic, or set BENTHIC_LEDGER to another file; with --anyway"),
        ({"anyway": True}, 0, "the command runs unbilled"),
    ]:
        done = metered("echo", "ran", **flags)
        assert done.returncode == code and words in done.stderr
        assert done.stdout == ("ran\n" if flags else "")
    private_ledger.write_bytes(b"no database at all, " * 100)
    assert "is not a SQLite file" in metered("true").stderr
    elsewhere = {"BENTHIC_LEDGER": str(private_ledger / "below" / "ledger")}
    assert metered("true", env=elsewhere).returncode == 125


# What becomes of the bill when something is killed, forks away, or goes wrong on the way.


def test_a_killed_meter_is_billed_and_takes_the_command_along(private_ledger: Path) -> None:
    process = subprocess.Popen(
        argv(*python(SLEEPER), heartbeat=0.1), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    eventually(lambda: row(private_ledger).seconds > 0.5)
    (sleeper,) = below(process.pid)
    process.kill()
    killed = time.time()
    process.wait()
    assert process.stdout.read() == ""  # until the command, too, has closed it
    assert time.time() - killed < 20  # it did not sleep its minute out
    process.stdout.close()
    eventually(lambda: not alive(sleeper.pid))
    found = row(private_ledger)
    assert found.status == "running" and killed - found.heartbeat < 0.1 + 0.5
    assert metered("true").returncode == 0  # the next one closes what it finds
    newest, found = rows(private_ledger)
    assert newest.status == "done" and found.status == "interrupted"
    assert found.ended == found.heartbeat and "is gone" in found.note
    assert found.seconds == pytest.approx(found.ended - found.started, abs=0.3)


def test_a_resumed_command_keeps_what_its_earlier_tries_saved(
    private_ledger: Path, tmp_path: Path
) -> None:
    again = {"name": "big", "purpose": "final"}
    assert metered(*python("raise SystemExit(1)"), **again).returncode == 1
    assert metered(*python("raise SystemExit(1)"), **again, resumed=True).returncode == 1
    assert metered(*python("pass"), **again | {"purpose": "data"}).returncode == 0
    with Ledger(private_ledger) as ledger:
        assert draw_up(ledger).headline.dollars == 0
    done = metered(*python("pass"), **again, resumed=True)
    assert done.returncode == 0 and "no earlier try" not in done.stderr
    with Ledger(private_ledger) as ledger:
        third, data, second, first = ledger.query()
        bill = draw_up(ledger)
    assert first.attempt == second.attempt == third.attempt != data.attempt
    assert first.seconds_kept == first.seconds and first.status == "failed"
    kept = sum(found.dollars for found in (first, second, third))
    assert bill.headline.dollars == pytest.approx(kept)
    alone = metered(*python("pass"), name="other", resumed=True)
    assert "no earlier try of " in alone.stderr and "other is in the ledger" in alone.stderr


def test_a_resumed_command_leaves_what_was_amended(private_ledger: Path) -> None:
    metered(*python("raise SystemExit(1)"), name="big", purpose="final")
    with Ledger(private_ledger) as ledger:
        ledger.amend(row(private_ledger).id, "seconds_productive", 0, reason="nothing saved")
    metered(*python("pass"), name="big", purpose="final", resumed=True)
    last, first = rows(private_ledger)
    assert first.seconds_kept == 0 and first.attempt == last.attempt


def test_what_outlives_the_command_is_named(private_ledger: Path) -> None:
    done = metered("sh", "-c", "sleep 30 >/dev/null 2>&1 & echo $!")
    outliving = int(done.stdout)
    try:
        assert f"1 process outlives the command (sleep {outliving}): billed until" in done.stderr
        found = row(private_ledger)
        assert found.status == "done" and found.seconds < 20 and alive(outliving)
        assert (
            found.note
            == f"1 process outlives the command (sleep {outliving}), billed until "
            + ("the command's end")
        )
    finally:
        os.kill(outliving, signal.SIGKILL)


def test_waiting_for_what_forks_away(private_ledger: Path) -> None:
    """The daemon leaves its session and parents behind; its time and its processor count."""
    burn = "import time\nwhile time.process_time() < 0.6: pass"
    code = f"""
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-S", "-c", {burn!r}])
    os._exit(0)
"""
    done = metered(*python(code), wait=True)
    found = row(private_ledger)
    assert done.returncode == 0 and "waiting for the rest" in done.stderr
    assert found.cpu_seconds is not None and found.cpu_seconds > 0.6 and found.seconds > 0.6


def test_processors_and_memory_of_the_whole_tree(private_ledger: Path) -> None:
    """Two children with 40 MB each at once, one of which is not waited for."""
    child = "b = bytearray(40 << 20); s = sum(range(4_000_000)); import time; time.sleep(0.6)"
    code = f"""
import subprocess, sys, time
children = [subprocess.Popen([sys.executable, "-S", "-c", {child!r}]) for _ in range(2)]
children[0].wait()
time.sleep(0.3)
"""
    metered(*python(code), heartbeat=0.1)
    found = row(private_ledger)
    assert found.peak_bytes is not None and 80e6 < found.peak_bytes < 200e6
    assert found.cpu_seconds is not None and 0.1 < found.cpu_seconds < 10


def test_budgets_refuse_warn_and_stop(private_ledger: Path) -> None:
    with Ledger(private_ledger) as ledger:
        ledger.budget_set("purpose", "ablation", 0.0, hard=True)
        ledger.budget_set("project", "soft", 0.0)
        ledger.budget_set("project", "short", 100.0)
    done = metered("echo", "ran", purpose="ablation")
    assert (done.returncode, done.stdout) == (3, "") and rows(private_ledger) == []
    assert "the budget of purpose ablation, $0, is spent ($0): raise it" in done.stderr
    done = metered("echo", "ran", project="soft")
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert "the budget of project soft, $0, is spent ($0)" in done.stderr
    assert metered("echo", "ran", project="soft", budget_stop=True).returncode == 3
    done = metered(
        *python(SLEEPER), project="short", price=1e6, heartbeat=0.05, budget_stop=True
    )  # 278 dollars a second
    assert done.returncode == 3 and "the command is asked to end" in done.stderr
    found = rows(private_ledger)[0]
    assert (found.status, found.exit_code) == ("interrupted", 143)
    assert 100 <= found.dollars < 100 + 278 * 5 and found.note.startswith("stopped: the budget")
    done = metered(*python("import time; time.sleep(0.4)"), project="near", price=1e6, quiet=True)
    assert done.stderr == ""


def test_work_that_meters_itself_is_stopped_all_the_same(private_ledger: Path) -> None:
    """Under another project's name, so that the outer row's own dollars are next to nothing."""
    with Ledger(private_ledger) as ledger:
        ledger.budget_set("project", "short", 100.0)
    code = """
import time, benthic
with benthic.meter("x", project="long", heartbeat=0.05): time.sleep(60)
"""
    soon = "import benthic.cost.limits as limits; limits._ANEW = 0.3\n" + METER
    flags = {"project": "short", "price": 4e5, "heartbeat": 0.05, "budget_stop": True}
    done = subprocess.run(
        [sys.executable, "-c", soon, json.dumps(flags), sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 3 and "the command is asked to end" in done.stderr


def test_a_spent_budget_is_passed_by_on_demand_only(private_ledger: Path) -> None:
    with Ledger(private_ledger) as ledger:
        ledger.budget_set("purpose", "ablation", 0.0, hard=True)
    assert "--anyway starts it" in metered("true", purpose="ablation").stderr
    done = metered("echo", "ran", purpose="ablation", anyway=True)
    assert (done.returncode, done.stdout) == (0, "ran\n") and "is spent" in done.stderr
    assert metered("true", purpose="ablation", anyway=True, budget_stop=True).returncode == 3
    assert row(private_ledger).purpose == "ablation"


def test_budgets_are_spoken_of_once(private_ledger: Path) -> None:
    with Ledger(private_ledger) as ledger:
        ledger.budget_set("project", "p", 10.0)
        limits = Limits(ledger, replace(span(), project="p"), stop=False)
        assert limits and not limits.refusal() and limits.warnings(0.0) == []
        limits._asked -= 3600  # as if an hour ago
        assert limits.warnings(8.5) == ["of the budget of project p, $10, 85% are spent"]
        assert limits.warnings(8.6) == []
        assert limits.warnings(12.0) == ["the budget of project p, $10, is spent ($12)"]
        assert limits.warnings(13.0) == [] and limits.stops(ledger, 13.0) == ""
        stopping = Limits(ledger, replace(span(), project="p"), stop=True)
        assert stopping.stops(ledger, 0.0) == ""
        stopping._asked -= 3600
        stopping._next = time.monotonic() + 60
        assert stopping.stops(ledger, 12.0) == "the budget of project p, $10, is spent ($12)"
        assert not Limits(ledger, replace(span(), project="q"), stop=True)


def test_the_time_of_day_moves_no_bill(
    private_ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heart = Heart(private_ledger, Gauge(machine(), with_self=True), interval=0.05)
    with Ledger(private_ledger) as ledger:
        heart.begin(ledger, span())
    heart.start()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.sleep(0.3)
    heart.end("done", exit_code=0)
    found = row(private_ledger)
    assert 0.3 <= found.seconds < 10 and found.ended is not None and found.ended >= found.started


def test_a_ledger_lost_on_the_way(private_ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence; the work goes on; the end is written once the ledger is back."""
    said: list[str] = []
    failures: list[int] = []
    heart = Heart(private_ledger, Gauge(machine(), with_self=True), interval=0.05, say=said.append)
    with Ledger(private_ledger) as ledger:
        heart.begin(ledger, span())

    def fail(*_: object) -> None:
        failures.append(1)
        raise LedgerError("the ledger does not fit on its disk")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "beat", fail)
        heart.start()
        heart.add(tokens=2, flops=1e30)
        eventually(lambda: len(failures) > 2)
    heart.end("failed", exit_code=1, note="why")
    assert said == [
        "the work goes on, its bill is kept in memory: the ledger does not fit on its disk"
    ]
    found = row(private_ledger)
    assert (found.status, found.tokens, found.flops, found.note) == ("failed", 2, 1e30, "why")


def test_a_ledger_lost_at_the_end(private_ledger: Path) -> None:
    said: list[str] = []
    heart = Heart(private_ledger, Gauge(machine(), with_self=True), interval=5, say=said.append)
    with Ledger(private_ledger) as ledger:
        heart.begin(ledger, span())
        ledger.close_orphans(Path(span().run))
    heart.end("done")
    assert len(said) == 1 and f"row {heart.id}: done after" in said[0] and "has no open" in said[0]
    with Ledger(private_ledger) as ledger:
        ledger.close_stale()
        found = ledger.find(heart.id)
    assert found.status == "done" and found.seconds_kept == found.seconds > found.seconds_recorded


def test_a_ledger_locked_at_the_end(private_ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting is no part of the bill, and the outcome comes in with the next who asks."""
    monkeypatch.setattr(Ledger.__init__, "__kwdefaults__", {"timeout": 0.4})
    said: list[str] = []
    heart = Heart(private_ledger, Gauge(machine(), with_self=True), interval=0.05, say=said.append)
    with Ledger(private_ledger) as ledger:
        heart.begin(ledger, span())
    heart.start()
    other = sqlite3.connect(private_ledger, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    seconds = heart.seconds
    usage = heart.end("done", exit_code=0, note="why")
    over = time.time()
    assert usage is not None and seconds <= usage.seconds < seconds + 0.3 < heart.seconds
    (file,) = private_ledger.with_name(f"{private_ledger.name}.pending").iterdir()
    assert str(file) in said[-1] and "is locked by another process" in said[-1]
    assert row(private_ledger).status == "running"
    other.execute("ROLLBACK")
    other.close()
    with Ledger(private_ledger) as ledger:
        assert ledger.close_stale() == 0
    found = row(private_ledger)
    assert (found.status, found.exit_code, found.note) == ("done", 0, "why")
    assert found.seconds == found.seconds_kept == usage.seconds
    assert found.ended is not None and found.ended < over and not file.parent.exists()


def test_a_gpu_that_was_found_is_billed_though_nobody_rents_it() -> None:
    found = hold(device="RTX-3090", named=False, environ={})
    assert found.device == "RTX-3090" and found.price_assumed
    assert any("the catalog has no rent for RTX-3090" in text for text in found.warnings)
    with pytest.raises(ValueError, match="or give a price"):
        hold(device="RTX-3090", environ={})


def test_a_late_end_says_nothing_of_what_it_does_not_know(private_ledger: Path) -> None:
    """A row taken for dead meanwhile: whether its work was kept stays for others to say."""
    with Ledger(private_ledger) as ledger:
        heart = Heart(private_ledger, Gauge(machine(), with_self=True), interval=5)
        heart.begin(ledger, span())
        end = End(id=heart.id, usage=Usage(seconds=7.0), status="failed", at=time.time())
        leave(private_ledger, end)
        ledger.finish(heart.id, Usage(seconds=5.0), "interrupted")
        ledger.close_stale()
        found = ledger.find(heart.id)
    assert (found.seconds, found.status) == (7.0, "failed")
    assert "seconds_productive" not in found.amended


@pytest.mark.parametrize("text", ["{", "[]", '{"id": "x", "usage": {}, "status": "running"}'])
def test_what_waits_and_cannot_be_read_stays(text: str, private_ledger: Path) -> None:
    folder = private_ledger.with_name(f"{private_ledger.name}.pending")
    folder.mkdir(parents=True)
    (folder / "a.json").write_text(text)
    with Ledger(private_ledger) as ledger:
        assert ledger.close_stale() == 0
    assert (folder / "a.json").exists()


def test_counts_that_are_none_are_left_out(private_ledger: Path) -> None:
    said: list[str] = []
    heart = Heart(private_ledger, Gauge(machine(), with_self=True), interval=5, say=said.append)
    with Ledger(private_ledger) as ledger:
        heart.begin(ledger, span())
    for wrong in (-1, nan, "many", None, 2**70):
        heart.add(tokens=wrong)  # type: ignore[arg-type]
    heart.add(flops=nan)
    heart.add(tokens=3)
    heart.end("done")
    assert len(said) == 1 and row(private_ledger).tokens == 3


def span() -> Span:
    return Span(
        run="here",
        attempt="a",
        stage="block",
        purpose="other",
        device="cpu",
        price_per_hour=1.0,
        price_source="given",
    )


# One bill: ranks and nested work.


def test_of_several_ranks_the_first_bills(private_ledger: Path) -> None:
    done = metered("sh", "-c", "echo $RANK; kill -TERM $$", env={"RANK": "1", "WORLD_SIZE": "2"})
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, "1\n", "")
    assert not private_ledger.exists()
    world = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
    assert metered("true", env=world).returncode == 0
    assert row(private_ledger).count == 2  # machines, where the processor is the device
    assert metered("true", env=world, device="h100").returncode == 0
    assert rows(private_ledger)[0].count == 4


@pytest.mark.parametrize(
    ("environ", "first", "gpus", "hosts"),
    [
        ({}, True, 8, 1),
        ({"RANK": "0", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}, True, 16, 2),
        ({"RANK": "0", "WORLD_SIZE": "4"}, True, 4, 1),
        ({"RANK": "0", "WORLD_SIZE": "32", "LOCAL_WORLD_SIZE": "16"}, True, 16, 2),
        ({"RANK": "9", "SLURM_PROCID": "0"}, False, 8, 1),
        ({"RANK": "0", "SLURM_PROCID": "1"}, True, 8, 1),
        ({"LOCAL_RANK": "2"}, False, 8, 1),
        ({"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"}, False, 4, 1),
        ({"SLURM_PROCID": "0", "SLURM_GPUS_ON_NODE": "4", "SLURM_NNODES": "3"}, True, 12, 3),
        ({"SLURM_GPUS": "6", "SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_NUM_NODES": "2"}, True, 6, 2),
        (
            {"SLURM_GPUS": "6", "SLURM_GPUS_ON_NODE": "4", "SLURM_STEP_NUM_NODES": "1"},
            *(True, 4, 1),
        ),
        ({"RANK": "no", "WORLD_SIZE": "-1", "SLURM_GPUS": "a100:4"}, True, 8, 1),
    ],
)
def test_launchers(environ: dict[str, str], first: bool, gpus: int, hosts: int) -> None:
    eight = gpus_room.Gpus(["NVIDIA H100 80GB HBM3"] * 8, 8)
    assert is_first(environ) is first
    assert gpus_held(eight, environ) == gpus and machines(environ) == hosts


@pytest.mark.parametrize(
    ("device", "read"), [("", True), ("h100", True), ("b200", False), ("my own", True)]
)
def test_counters_are_those_of_the_device(
    monkeypatch: pytest.MonkeyPatch, device: str, read: bool
) -> None:
    """On a machine with H100s; a name of one's own may be theirs."""
    seen = gpus_room.Gpus(["NVIDIA H100 80GB HBM3"], 8)
    monkeypatch.setattr("benthic.cost.metering.held.find", lambda _: seen)
    assert (hold(device=device, price=1.0, environ={}).gpus is seen) is read


def test_without_the_systems_own_list_of_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS, whose Python 3.11 has no waitid and which has no /proc."""
    monkeypatch.delattr(os, "waitid")
    monkeypatch.setattr(child_room, "below", lambda _: [])
    assert child_room.Child(pid=0, mask=set()).outliving() == []


def test_a_rank_that_sees_one_gpu_bills_for_all() -> None:
    seen = gpus_room.Gpus(["NVIDIA H100 80GB HBM3"], 8)
    assert gpus_held(seen, {"RANK": "0", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}) == 16
    assert gpus_held(seen, {}) == 1


def test_a_run_inside_a_metered_shell_is_billed_once(private_ledger: Path, tmp_path: Path) -> None:
    inner = argv("sleep", "0.5", quiet=True)
    code = f"import os, subprocess; os.chdir('/'); subprocess.run({inner!r}, check=True)"
    done = subprocess.run(
        argv(*python(code), quiet=True),
        env=os.environ | {"BENTHIC_LEDGER": private_ledger.name},  # the command changes its folder
        cwd=private_ledger.parent,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    nested, outer = rows(private_ledger)
    assert nested.parent == outer.id and outer.parent is None
    assert outer.seconds_nested == pytest.approx(nested.seconds)
    total = outer.seconds_billable + nested.seconds_billable
    assert total == pytest.approx(outer.seconds)


# What is held: GPUs through a stub of NVML, prices, watts.


class Nvml:
    """As much of NVML as is used; energy in millijoules since the driver was loaded."""

    def __init__(self, names: list[str], *, energy: bool = True, rates: bool = True) -> None:
        self.names, self.energy, self.rates = names, energy, rates
        self.used = [1_000_000 * (i + 1) for i in range(len(names))]
        self.busy = [0] * len(names)

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetHandleByUUID(self, name: str) -> int:
        return int(name.rpartition("-")[2])

    def nvmlDeviceGetName(self, handle: int) -> bytes | str:
        return self.names[handle].encode() if handle % 2 else self.names[handle]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        if not self.energy:
            raise RuntimeError("Not Supported")
        return self.used[handle]

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:
        if not self.rates:
            raise RuntimeError("Not Supported")
        return SimpleNamespace(gpu=self.busy[handle], memory=0)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Nvml]:
    def install(count: int, name: str = "NVIDIA H100 80GB HBM3", **more: bool) -> Nvml:
        stub = Nvml([name] * count, **more)
        monkeypatch.setitem(sys.modules, "pynvml", stub)
        return stub

    return install


def test_visible_gpus(nvml: Callable[..., Nvml]) -> None:
    nvml(8)
    for visible, count in [
        (None, 8),
        ("0,3", 2),
        ("", 0),
        ("-1", 0),
        ("2,-1,5", 1),
        ("9", 0),
        ("GPU-aa-3,MIG-bb-4", 2),
    ]:
        environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        found = find(environ, Path("/none"), Path("/none"))
        assert (len(found.names) if found else 0) == count
        held = hold(environ=environ)
        assert held.is_gpu is bool(count) and held.count == (count or 1)


def test_gpus_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    none = tmp_path / "none"
    assert find({}, none, none) is None
    for bus in range(2):
        (tmp_path / f"0000:0{bus}").mkdir()
        (tmp_path / f"0000:0{bus}" / "information").write_text(
            f"Model: \t\t NVIDIA {'AB'[bus]}100\nIRQ: 1\n"
        )
    found = find({}, tmp_path)
    assert found is not None and found.names == ["NVIDIA A100", "NVIDIA B100"]
    assert found.busy is None and not found.metered
    found = find({"CUDA_VISIBLE_DEVICES": "1"}, tmp_path)
    assert found is not None and (found.names, found.installed) == (["NVIDIA B100"], 2)
    assert found.unread_for.endswith("pip install nvidia-ml-py")
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    found = find({}, none, tmp_path)
    assert found is not None and found.names == ["NVIDIA GPU"] * 2
    monkeypatch.setattr("benthic.cost.metering.held.find", lambda _: found)
    assert found.unread_for in hold(environ={}).warnings
    assert found.unread_for not in hold(device="cpu", environ={}).warnings


def test_gpus_are_read(nvml: Callable[..., Nvml], tmp_path: Path) -> None:
    stub = nvml(2)
    held = hold(environ={})
    assert held.device == "H100-SXM" and held.count == 2
    assert held.price > 1 and held.price_source.startswith("catalog: rent.h100-sxm (")
    gauge = Gauge(held, with_self=True, powercap=tmp_path)
    assert gauge.energy_source == "nvml"
    gauge._start -= 10
    held.gpus._at -= 10  # type: ignore[union-attr]
    stub.busy, stub.used = [100, 50], [1_005_000, 2_007_000]
    usage = gauge.read(tokens=0, flops=0.0, productive=None)
    assert usage.joules == pytest.approx(12.0) and usage.joules_low is None
    assert usage.gpus == 2 and usage.gpu_busy == pytest.approx(0.75)
    stub.used = [1_006_000, 7_000]  # the second was reset
    assert gauge.read(tokens=0, flops=0.0, productive=None).joules == pytest.approx(13.0)


def test_a_counter_that_does_not_answer_once_loses_nothing(
    nvml: Callable[..., Nvml], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stub = nvml(1)
    gauge = Gauge(hold(environ={}, watts=100.0), with_self=True, powercap=tmp_path)
    gpus = gauge._gpus
    assert gpus is not None
    stub.energy, stub.busy = False, [100]
    gpus._counted -= 10
    usage = gauge.read(tokens=0, flops=0.0, productive=None)
    assert usage.joules == pytest.approx(1000.0, rel=0.1) and "an estimate" in gauge.gap
    gauge.look()
    assert caplog.text.count("cannot be read") == 1
    stub.energy, stub.used = True, [1_500_000]
    gpus._at -= 10
    usage = gauge.read(tokens=0, flops=0.0, productive=None)
    assert usage.joules == 500.0 and usage.joules_low is None and gauge.gap == ""
    assert usage.gpu_busy == pytest.approx(1.0, rel=0.01)


def test_a_counter_that_stays_dead_is_stood_in_for_by_an_estimate(
    nvml: Callable[..., Nvml], private_ledger: Path, tmp_path: Path
) -> None:
    stub = nvml(2)
    gauge = Gauge(hold(environ={}), with_self=True, powercap=tmp_path)
    heart = Heart(private_ledger, gauge, interval=5)
    with Ledger(private_ledger) as ledger:
        heart.begin(ledger, replace(span(), note="mine"))
    stub.used = [1_003_000, 2_004_000]
    gauge.look()
    stub.energy = False  # fell off the bus
    assert gauge._gpus is not None
    gauge._gpus._counted -= 100
    heart.end("done", note="also")
    found = row(private_ledger)
    assert found.joules == pytest.approx(7 + 2 * 956.25 * 100, rel=0.01)
    assert found.joules_low == pytest.approx(7 + 2 * 548.25 * 100, rel=0.01)
    assert found.joules_high == pytest.approx(7 + 2 * 1083.75 * 100, rel=0.01)
    assert found.note.startswith("mine; also; energy of the last 100 s is an estimate, since NVML")
    assert "a H100-SXM with its share of the server" in found.note


def test_counters_are_read_however_long_the_heartbeat(
    private_ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package's counter turns twice, which two readings alone could not tell."""
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    for name, text in [("name", "package-0"), ("max_energy_range_uj", "9000000")]:
        (zone / name).write_text(text)
    counter = zone / "energy_uj"
    counter.write_text("0")
    monkeypatch.setattr(heart_room, "_FIRST", 3600.0)
    monkeypatch.setattr(heart_room, "_LOOK", 0.02)
    gauge = Gauge(machine(), with_self=True, powercap=tmp_path)
    heart = Heart(private_ledger, gauge, interval=3600)
    with Ledger(private_ledger) as ledger:
        heart.begin(ledger, span())
    heart.start()
    for total in range(3_000_000, 24_000_001, 3_000_000):
        fresh = tmp_path / "fresh"
        fresh.write_text(str(total % 9_000_000))
        fresh.replace(counter)  # a reader sees the old figure or the new one
        eventually(lambda total=total: gauge._rapl._total == total)  # type: ignore[misc]
    heart.end("done")
    assert row(private_ledger).joules == 24.0


def test_gpus_of_other_machines_are_estimated_from_those_here(
    nvml: Callable[..., Nvml], tmp_path: Path
) -> None:
    stub = nvml(2)
    held = hold(environ={"RANK": "0", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "2"})
    gauge = Gauge(held, with_self=True, powercap=tmp_path)
    stub.used = [1_001_000, 2_001_000]
    assert gauge.read(tokens=0, flops=0.0, productive=None).joules == pytest.approx(8.0)
    assert gauge.energy_source.startswith("estimate: nvml of 2 GPUs") and held.count == 8


def test_gpus_without_counters_are_estimated(nvml: Callable[..., Nvml], tmp_path: Path) -> None:
    nvml(2, energy=False, rates=False)
    gauge = Gauge(hold(environ={}), with_self=True, powercap=tmp_path)
    usage = gauge.read(tokens=0, flops=0.0, productive=None)
    assert usage.gpu_busy is None
    assert usage.joules == pytest.approx(2 * 1275 * 0.75 * usage.seconds)
    assert usage.joules_low == pytest.approx(2 * 1275 * 0.43 * usage.seconds)
    assert usage.joules_high == pytest.approx(2 * 1275 * 0.85 * usage.seconds)
    assert gauge.energy_source.startswith("estimate: 956 W (548 to 1084) a H100-SXM")


def test_prices_are_never_silently_nothing(nvml: Callable[..., Nvml]) -> None:
    nvml(1, name="NVIDIA Riddle 9000")
    held = hold(environ={})
    assert held.price == 0.1 and held.price_assumed
    assert held.price_source.endswith("the catalog has no rent for NVIDIA Riddle 9000")
    assert "no rent for NVIDIA Riddle 9000, so it is billed at $0.1/h" in held.warnings[0]
    assert held.watts == (30.0, 300.0, 1500.0)
    held = hold(price=0.0, watts=70.0, device="riddle", count=3, environ={})
    assert (held.price, held.price_source, held.count, held.warnings) == (0.0, "given", 3, ())
    assert held.joules(10.0, 99.0) == (2100.0, 2100.0, 2100.0)
    assert hold(device="cpu", environ={}).gpus is None
    with pytest.raises(ValueError, match=r"no rent is known for H20: .*; or give a price"):
        hold(device="h20", environ={})


@pytest.mark.parametrize(
    ("driver", "device"),
    [
        ("NVIDIA H100 80GB HBM3", "H100-SXM"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100-SXM4-80GB"),
        ("NVIDIA RTX A6000 48GB", "RTX-A6000"),
        ("NVIDIA Riddle 9000 80GB", "NVIDIA Riddle 9000 80GB"),
    ],
)
def test_a_drivers_name_is_the_catalogs(
    nvml: Callable[..., Nvml], driver: str, device: str
) -> None:
    nvml(1, name=driver)
    assert hold(environ={}).device == device


def test_two_kinds_of_gpu_are_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(["NVIDIA H100 80GB HBM3", "NVIDIA L4"]))
    assert "several kinds of GPU are visible" in hold(environ={}).warnings[0]


def test_a_processor_is_estimated_from_its_work() -> None:
    held = machine()
    idle, busy = held.joules(10.0, 0.0), held.joules(10.0, 10.0)
    assert idle[0] < idle[1] < idle[2] and busy[1] == pytest.approx(idle[1] + 50.0)


def test_a_tree_counts_only_what_is_new() -> None:
    subprocess.run(python("sum(range(5_000_000))"), check=True)
    tree = Tree(with_self=True)
    tree.look(last=True)
    assert tree.cpu_seconds < 0.05 and 1e6 < tree.peak < 1e11
    subprocess.run(python("sum(range(5_000_000))"), check=True)
    tree.look(last=True)
    assert 0.03 < tree.cpu_seconds < 10


# The command as it is kept.


@pytest.mark.parametrize(
    ("command", "kept"),
    [
        (["python", "train.py", "--lr", "3e-4"], "python train.py --lr 3e-4"),
        (["t", "--token=s3cr3t", "x"], "t '--token=***' x"),
        (["t", "--hf-token", "s3cr3t", "x"], "t --hf-token *** x"),
        (["t", "--api_key", "s3cr3t"], "t --api_key ***"),
        (["t", "--apiKey=s3cr3t"], "t '--apiKey=***'"),
        (["t", "--password", "1234"], "t --password ***"),
        (["env", "WANDB_API_KEY=s3cr3t", "t"], "env 'WANDB_API_KEY=***' t"),
        (["t", "+logger.api_key=s3cr3t"], "t '+logger.api_key=***'"),
        (["sh", "-c", "HF_TOKEN=s3cr3t t"], "sh -c 'HF_TOKEN=*** t'"),
        (
            ["sh", "-c", "export A_SECRET='s3cr3t'; t"],
            "sh -c 'export A_SECRET='\"'\"'***'\"'\"'; t'",
        ),
        (["sh", "-c", "t --token s3cr3t --x 1"], "sh -c 't --token *** --x 1'"),
        (["git", "clone", "https://me:s3cr3t@h/r"], "git clone 'https://me:***@h/r'"),
        (["git", "clone", "https://s3cr3tok@h/r"], "git clone 'https://***@h/r'"),
        (["git", "clone", "ssh://git@h/r"], "git clone ssh://git@h/r"),
        (["curl", "-u", "me:s3cr3t", "h"], "curl -u 'me:***' h"),
        (
            ["curl", "-H", "Authorization: Bearer s3cr3t99", "h"],
            "curl -H 'Authorization: *** ***' h",
        ),
        (["curl", "https://h/f?a=1&sig=s3cr3t&b=2"], "curl 'https://h/f?a=1&sig=***&b=2'"),
        (["t", "hf_abcdefghijklmnopqrst"], "t '***'"),
        (["t", "--tokenizer", "gpt2", "--max-tokens", "512"], None),
        (["t", "--max_tokens=512", "--sort-key", "name"], None),
        (["t", "--num-key-value-heads=8", "--token", "512"], None),
        (["t", "--author", "me", "--keys=a,b", "--pad-id", "0"], None),
    ],
)
def test_secrets_are_masked(command: list[str], kept: str | None) -> None:
    kept = " ".join(command) if kept is None else kept
    found = masked(command)
    assert "s3cr3t" not in found
    assert found.replace("'***'", "***") == kept.replace("'***'", "***")


@given(
    secret=st.from_regex(r"[A-Za-z][A-Za-z0-9_]{7,20}", fullmatch=True),
    name=st.sampled_from(
        ["TOKEN", "HF_TOKEN", "DB_PASSWORD", "AWS_SECRET_ACCESS_KEY", "MY_SECRET"]
    ),
    before=st.text(max_size=20),
    after=st.text(max_size=20),
)
@settings(max_examples=100)
def test_no_named_secret_is_kept(secret: str, name: str, before: str, after: str) -> None:
    secret = f"Zq{secret}qZ"  # found nowhere else
    for command in ([f"{name}={secret}"], ["x", f"--{name.lower()}", secret]):
        assert secret not in masked([before, *command, after])
    assert secret not in mask_text(f"export {name}={secret}; run")


def test_a_long_command_is_cut() -> None:
    """And at once, whatever is in it: it stands before the start of the command."""
    began = time.process_time()
    for word in ("file", "x" * 100_000, "a-" * 50_000, "--token a" * 10_000, "u:" * 50_000):
        kept = masked(["t", *[word] * 60, *["file"] * 5000])
        assert len(kept) < LONGEST + 40 and kept.endswith(" characters)")
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["python", "a/train.py", "b.py"], "train.py"),
        (["torchrun", "--nproc", "8", "train.py"], "train.py"),
        (["python", "-m", "pkg.train", "x"], "pkg.train"),
        (["/usr/bin/make", "all"], "make"),
    ],
)
def test_names(command: list[str], name: str) -> None:
    assert name_of(command) == name


def test_nothing_is_nan(private_ledger: Path) -> None:
    metered("true")
    found = row(private_ledger)
    assert not any(isinstance(v, float) and isnan(v) for v in vars(found).values())
