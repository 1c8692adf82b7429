"""SIGKILL at random moments: of the meter, and of the command; what is then in the ledger.

All victims run at once and write one ledger, each a sleeper under a meter of its own with the
default heartbeat. Half of them lose the meter, half the command, at a moment drawn from a seed. A
lost meter must be billed to within one heartbeat of its death once the next command has closed its
row, and its command must be gone; a lost command is billed to its death by its meter.

    python benchmarks/meter_kills.py [KILLS] [SEED]
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import heading, spread

from benthic.cost.ledger.ledger import Ledger
from benthic.cost.metering.descendants import below

HEARTBEAT, LONGEST = 5.0, 20.0
SLACK = 0.5  # seconds in which a busy machine writes a row, or delivers a signal
METER = (
    "import sys; from benthic.cost.metering.metered import run; "
    "sys.exit(run(sys.argv[2:], name=sys.argv[1], quiet=True))"
)
SLEEPER = "import time; print('up', flush=True); time.sleep(600)"


def main() -> int:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    heading()
    draw = random.Random(seed)
    victims, deaths, children = [], {}, {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BENTHIC_LEDGER"] = f"{folder}/ledger.sqlite"
        for number in range(2 * kills):
            kind = "meter" if number % 2 else "command"
            command = [sys.executable, "-c", METER, f"{kind}-{number}"]
            process = subprocess.Popen(
                [*command, sys.executable, "-S", "-c", SLEEPER], stdout=subprocess.PIPE
            )
            assert process.stdout is not None and process.stdout.readline() == b"up\n"
            (child,) = below(process.pid)
            children[f"{kind}-{number}"] = child.pid
            victims.append((time.monotonic() + draw.uniform(0, LONGEST), kind, number, process))
        for moment, kind, number, process in sorted(victims, key=lambda victim: victim[0]):
            time.sleep(max(0.0, moment - time.monotonic()))
            name = f"{kind}-{number}"
            os.kill(process.pid if kind == "meter" else children[name], 9)
            deaths[name] = time.time()
        for *_, process in victims:
            process.wait()
        time.sleep(SLACK)
        living = {process.pid for process in below(1)}
        left = [name for name, pid in children.items() if pid in living]
        with Ledger(Path(os.environ["BENTHIC_LEDGER"])) as ledger:
            closed = ledger.close_stale()
            found = {row.name: row for row in ledger.query()}
    missed: dict[str, list[float]] = {"meter": [], "command": []}
    for name, death in deaths.items():
        missed[name.partition("-")[0]].append(death - found[name].started - found[name].seconds)
    for kind, gaps in missed.items():
        print(f"{kind:8} killed {len(gaps)} times, not billed: {spread(gaps, ' s')}")
    print(f"closed by the next command: {closed}; commands left running: {len(left)}")
    good = closed == kills and not left and len(found) == 2 * kills
    good &= {row.status for row in found.values()} == {"interrupted"}
    good &= all(-SLACK < gap < HEARTBEAT + SLACK for gap in missed["meter"])
    good &= all(abs(gap) < SLACK for gap in missed["command"])
    print("good" if good else "NOT GOOD")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
