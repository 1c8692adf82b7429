"""What metering costs: seconds at the start of a command, and the share of a training step.

Start: a command that does nothing, metered and plain, in turns; less the interpreter alone is what
metering itself adds to a Python tool. Step: products of matrices in turns with and without a meter,
as a command of its own (`benthic meter`) and inside the process (`benthic.meter`); the ratio of two
neighbours, its median over PAIRS. On a busy machine that ratio scatters by more than metering
costs, so the processor time that the meter itself takes is printed, too, as a share of one core.

    python benchmarks/meter_overhead.py [PAIRS] [SECONDS]

Exit code 0 needs a start within 0.3 s and a share within 0.5 %.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from statistics import median

from machine import heading, spread

METER = """
import sys
from benthic.cost.metering.metered import run
sys.exit(run(sys.argv[1:], quiet=True))
"""
STEPS = """
import sys, time, torch
torch.set_num_threads(1)
a, took, end = torch.ones(384, 384), [], time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    began = time.perf_counter()
    for _ in range(20):
        a @ a
    took.append(time.perf_counter() - began)
print(sorted(took)[len(took) // 2])
"""
INSIDE = """
import json, os, sys, time, torch, benthic
torch.set_num_threads(1)
a = torch.ones(384, 384)
def steps(seconds):
    took, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        for _ in range(20):
            a @ a
        took.append(time.perf_counter() - began)
    return sorted(took)[len(took) // 2]
pairs, seconds = int(sys.argv[1]), float(sys.argv[2])
found = []
for _ in range(pairs):
    plain = steps(seconds)
    with benthic.meter("steps"):
        found.append(steps(seconds) / plain)
print(json.dumps(found))
"""
START, SHARE = 0.3, 0.005


def timed(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def start(pairs: int) -> float:
    """Seconds that metering adds before and after a command."""
    kinds = {
        "plain": ["true"],
        "interpreter": [sys.executable, "-c", "pass"],
        "metered": [sys.executable, "-c", METER, "true"],
    }
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(pairs):
        for kind, command in kinds.items():
            found[kind].append(timed(command))
    for kind, seconds in found.items():
        print(f"start, {kind:12} {spread(seconds, ' s')}")
    added = [metered - plain for metered, plain in zip(found["metered"], found["plain"])]
    print(f"start, added        {spread(added, ' s')}, at most {START:g} s wanted")
    return median(added)


def command_steps(pairs: int, seconds: float) -> float:
    """The meter's own share of one core while it only watches; prints the ratio of steps."""
    work = [sys.executable, "-c", STEPS, f"{seconds}"]
    ratios = []
    for _ in range(pairs):
        plain = float(subprocess.check_output(work))
        ratios.append(float(subprocess.check_output([sys.executable, "-c", METER, *work])) / plain)
    print(f"step, command       {spread(ratios)} of the plain one")
    shares = []
    for wait in (1, 1 + 4 * seconds):  # the difference is what it takes while the work runs
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", METER, "sleep", f"{wait}"], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        shares.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    share = (shares[1] - shares[0]) / (4 * seconds)
    print(f"share of one core   {share:.3%}, at most {SHARE:.1%} wanted")
    return share


def main() -> int:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 10.0
    heading()
    print(f"# load {os.getloadavg()[0]:.1f}, {pairs} pairs of {seconds:g} s, heartbeat 5 s")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BENTHIC_LEDGER"] = f"{folder}/ledger.sqlite"
        added = start(max(pairs, 10))
        share = command_steps(pairs, seconds)
        inside = subprocess.check_output([sys.executable, "-c", INSIDE, f"{pairs}", f"{seconds}"])
    print(f"step, in the process {spread(json.loads(inside))} of the plain one")
    return 0 if added <= START and share <= SHARE else 1


if __name__ == "__main__":
    sys.exit(main())
