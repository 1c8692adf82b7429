"""Two ranks against one: the same recipe under torchrun and alone, the loss step by step.

Claim: within 1e-5 over 200 steps. The schedule is the laptop recipe's own, cut after 200 steps.

    python benchmarks/two_ranks.py [STEPS]
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import heading

from benthic.train import metrics


def losses(out: Path, ranks: int, steps: int) -> list[float]:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    command = [sys.executable, *launcher, "-m", "benthic", "run", "laptop"]
    command += ["--out", str(out), "--name", f"ranks{ranks}"]
    for setting in (f"pretrain.steps={steps}", "reason.steps=0", "evaluate.problems=100"):
        command += ["--set", setting]
    environment = {**os.environ, "BENTHIC_LEDGER": str(out / "ledger.sqlite")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    rows = metrics.read(out / f"ranks{ranks}" / "metrics.jsonl")
    return [row["loss"] for row in rows if row["stage"] == "pretrain"]


def main() -> None:
    heading()
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as scratch:
        one, two = (losses(Path(scratch), ranks, steps) for ranks in (1, 2))
    gaps = [abs(a - b) for a, b in zip(one, two, strict=True)]
    print(f"loss from {one[0]:.4f} to {one[-1]:.4f} in {len(one)} steps")
    for upto in (10, 50, 100, len(gaps)):
        print(f"largest difference in the first {upto:3} steps: {max(gaps[:upto]):.1e}")
    print(f"two ranks against one: {max(gaps):.1e} (reach: 1e-5 over 200 steps)")


if __name__ == "__main__":
    main()
