"""How long `benthic cost report` takes on a ledger of a million rows, start of Python included.

The ledger is made in a temporary folder: two years of 60 people in 24 projects, 12,000 runs of some
83 rows, four devices at prices that change by the month, outcomes and purposes as teams have them,
one row in fifty inside another, one in two hundred amended. Then the command runs as a user would
run it, five times for each of its outputs, the file cached by the system. In a second ledger, small
unless its size is given, every row is a run of its own, as imports leave them, with plans for a
hundred of those. The limit is 3 s.

    python benchmarks/ledger_report.py [ROWS] [RUNS] [ROWS THAT ARE RUNS]
"""

import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import median

from machine import heading, spread

from benthic.cost.ledger.entries import Entry, external_id
from benthic.cost.ledger.ledger import Ledger, Purpose, Status

LIMIT = 3.0
PLANS = 100
REPEATS = 5
STARTED, SPAN = 1.70e9, 2 * 365 * 86400.0
DEVICES = (("H100-SXM", 2.4), ("A100-SXM-80GB", 1.4), ("L40S", 0.9), ("CPU", 0.1))
PURPOSES: tuple[tuple[Purpose, int], ...] = (
    *(("pretrain", 6), ("context", 1), ("post-train", 4), ("rl", 4), ("ablation", 40)),
    *(("evaluation", 20), ("data", 10), ("serving", 3), ("chat", 4), ("idle", 5), ("other", 3)),
)
STATUSES: tuple[tuple[Status, int], ...] = (("done", 80), ("failed", 8), ("interrupted", 12))
COMMAND = (
    "from pathlib import Path; from benthic.cost.bill.report import show; import sys; "
    "sys.exit(show(ledger=Path({ledger!r}), {output}))"
)


def rows(count: int, runs: int, random: random.Random, alone: bool) -> Iterator[Entry]:
    """Rows in the order they were written; those of a run share what a run has.

    `alone`: each under a name of its own, so that a ledger has as many runs as rows.
    """
    purposes, weights = zip(*PURPOSES, strict=True)
    statuses, chances = zip(*STATUSES, strict=True)
    each = -(-count // runs)
    for i in range(count):
        if i % each == 0:
            run = i // each
            user, purpose = random.randrange(60), random.choices(purposes, weights)[0]
            project = (user + random.randrange(3)) % 24
            device, price = random.choices(DEVICES, (6, 3, 1, 2))[0]
            began = STARTED + SPAN * run / runs
            month = time.strftime("%Y-%m", time.gmtime(began))
            price *= 1 + 0.01 * int(month[-2:])
            parent = external_id(f"row-{i}")
        started = began + 3600 * (i % each)
        seconds = random.expovariate(1 / 3000)
        status = random.choices(statuses, chances)[0]
        low = 0.9 if device == "CPU" else 1.0
        yield Entry(
            run=f"/home/user{user}/runs/{purpose}-{i if alone else run}",
            attempt="first",
            stage=purpose,
            purpose=purpose,
            device=device,
            count=8,
            price_per_hour=price,
            price_source=f"catalog: rent of {device} at {month}, {0.7 * price:g} to {2 * price:g}",
            project=f"project-{project}",
            user=f"user{user}",
            external=f"row-{i}",
            parent=parent if i % each and random.random() < 0.02 else None,
            seconds=seconds,
            seconds_productive=seconds * 0.97,
            tokens=1000 * i,
            flops=1e15 * seconds,
            joules=700 * 8 * seconds,
            joules_low=700 * 8 * seconds * low,
            joules_high=700 * 8 * seconds,
            gpus=8.0,
            gpu_busy=0.6,
            energy_source="nvml" if low == 1 else "estimate: 100 W, a server under load",
            started=started,
            heartbeat=started + seconds,
            ended=started + seconds,
            status=status,
        )


def build(path: Path, count: int, runs: int, alone: bool = False) -> None:
    chance = random.Random(0)
    with Ledger(path) as ledger:
        made = rows(count, runs, chance, alone)
        while chunk := list(islice(made, 50_000)):
            ledger.add(chunk)
        for row in islice(rows(count, runs, random.Random(0), alone), PLANS if alone else 0):
            hours = {"p10": 1.0, "p50": 2.0, "p90": 3.0}
            ledger.plan_set(row.run, {"gpu_hours": hours, "dollars": hours})
        for i in chance.sample(range(count), count // 200):
            ledger.amend(external_id(f"row-{i}"), "project", "project-0", reason="wrong flag")


def processor() -> float:
    """Seconds that finished children have had of a core, which a busy machine does not change."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(count: int, runs: int, alone: bool) -> float:
    """Build a ledger, print how long each output takes, and return the slowest median."""
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder) / "ledger.sqlite"
        began = time.perf_counter()
        build(ledger, count, runs, alone)
        size = ledger.stat().st_size / 1e6
        took = time.perf_counter() - began
        named = count if alone else runs
        print(f"{count:,} rows in {named:,} runs, {size:,.0f} MB, made in {took:.0f} s")
        page = str(Path(folder) / "bill.html")
        for output in ("", "json=True", f"html=Path({page!r})", "project='project-3'"):
            program = COMMAND.format(ledger=str(ledger), output=output)
            seconds, busy = [], []
            for _ in range(REPEATS + 1):
                began, used = time.perf_counter(), processor()
                subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
                seconds.append(time.perf_counter() - began)
                busy.append(processor() - used)
            name = output.partition("=")[0] or "text"
            print(f"{name}: {spread(seconds[1:], ' s')}, of a core {spread(busy[1:], ' s')}")
            worst = max(worst, median(seconds[1:]))
    return worst


def main(count: int, runs: int, alone: int) -> int:
    heading("rich", "jinja2")
    failed = 0
    for size, apart in ((count, False), (alone, True)):
        worst = measure(size, max(1, runs * size // count), apart)
        failed += worst > LIMIT
        print(f"{'FAIL' if worst > LIMIT else 'PASS'}: {worst:.2f} s, the limit is {LIMIT:g} s")
    return min(failed, 1)


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:4]]
    sys.exit(main(*(given + [1_000_000, 12_000, 20_000][len(given) :])))
