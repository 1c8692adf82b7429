"""Cold start of `benthic plan`: fresh processes, from the interpreter's start to the answer's end.

Claim: under 0.7 s in the median, and torch is not imported. The layout search is part of it: the
question is the one of the documentation, 671B parameters on 2,048 GPUs. Beside it the same process
with nothing asked (`benthic --help`), and Python alone, so that one sees where the time goes. On a
machine with other work, seconds of the processor say more than those of the clock: both are shown.

    python benchmarks/plan_start.py [PROCESSES]     9 of each if not given
"""

import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

LIMIT = 0.7  # seconds
ASKED = "plan deepseek-v3 --gpu h800 --count 2048 --tokens 14.8T"
QUESTIONS = {
    f"benthic {ASKED}": ASKED.split(),
    "benthic plan --budget 50000": ["plan", "--budget", "50000"],
    "benthic thrift deepseek-v3": ["thrift", "deepseek-v3"],
    "benthic --help": ["--help"],
}
ENTER = "from benthic.cli import main; main()"
LOADED = (
    "import sys\n"
    "from benthic.cli import main\n"
    "try: main()\n"
    "except SystemExit: pass\n"
    "found = [name for name in ('torch', 'numpy') if name in sys.modules]\n"
    "print(len(sys.modules), *found, file=sys.stderr)"
)


def timed(code: str, words: Sequence[str]) -> tuple[float, float]:
    """Seconds of the clock and of the processor that a fresh process takes."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", code, *words], check=True, stdout=subprocess.DEVNULL, env=_alone()
    )
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _alone() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def loaded(words: Sequence[str]) -> str:
    """How many modules an answer loads, and which of the heavy ones."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *words], check=True, capture_output=True, text=True
    )
    return done.stderr.strip().splitlines()[-1]


def main() -> int:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"Python {platform.python_version()}, {platform.machine()}, {cores} cores; ", end="")
    print(f"{times} fresh processes each, after one that is not counted; seconds\n")
    print(f"{'':<62}{'median':>8}{'least':>8}{'most':>8}{'processor':>11}")
    good = True
    for name, (code, words) in {
        **{name: (ENTER, words) for name, words in QUESTIONS.items()},
        "python -c pass": ("pass", []),
    }.items():
        timed(code, words)
        walls, busy = zip(*(timed(code, words) for _ in range(times)), strict=True)
        middle = statistics.median(walls)
        print(f"{name:<62}{middle:8.3f}{min(walls):8.3f}{max(walls):8.3f}", end="")
        print(f"{statistics.median(busy):11.3f}")
        if words[:1] == ["plan"] and words[1] == "deepseek-v3":
            good = middle < LIMIT
    count, *heavy = loaded(ASKED.split()).split()
    print(f"\nmodules loaded: {count}; of torch and numpy: {', '.join(heavy) or 'none'}")
    print(f"median below {LIMIT} s: {'yes' if good else 'NO'}")
    return 0 if good and not heavy else 1


if __name__ == "__main__":
    sys.exit(main())
