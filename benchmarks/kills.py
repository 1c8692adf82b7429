"""Ten SIGKILLs in one short run; the weights must be bit-equal to the undisturbed run's.

The laptop recipe is shortened to about 20 seconds. Kills fall at random moments drawn from a
seed: at least three in reinforcement and one inside the writing of a checkpoint (the process is
killed while a `.partial-` folder is there). After each kill the same command is given again.

    python benchmarks/kills.py [SEED]
"""

import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import heading

from benthic.cost.ledger import Ledger
from benthic.cost.receipt import build_receipt
from benthic.folder import RunFolder
from benthic.train.checkpoint import TENSORS, path_of, steps_of

SHORT = [
    "pretrain.steps=90",
    "pretrain.rows=32",
    "pretrain.checkpoint_every=5",
    "reason.steps=24",
    "reason.prompts=8",
    "reason.checkpoint_every=2",
    "reason.gate_gap=-1",
    "reason.gate_share=0",
    "evaluate.problems=100",
    "evaluate.unseen=0",
    "evaluate.text_bytes=4096",
]
KILLS, IN_RL = 10, 3


def start(out: Path, name: str, ledger: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benthic", "run", "laptop", "--out", str(out), "--name", name]
    for setting in SHORT:
        command += ["--set", setting]
    quiet = subprocess.DEVNULL
    environment = {**os.environ, "BENTHIC_LEDGER": str(ledger)}
    return subprocess.Popen(command, stdout=quiet, stderr=quiet, env=environment)


def digest(folder: Path) -> str:
    last = steps_of(folder / "checkpoints", "rl")[-1]
    return hashlib.sha256(
        (path_of(folder / "checkpoints", "rl", last) / TENSORS).read_bytes()
    ).hexdigest()


def stage_of(folder: Path) -> str:
    """Where the run stands: the latest stage with a metrics row, or 'writing' amid a checkpoint."""
    if list((folder / "checkpoints").glob(".partial-*")):
        return "writing"
    lines = (folder / "metrics.jsonl").read_text() if (folder / "metrics.jsonl").exists() else ""
    return "rl" if '"rl"' in lines else "pretrain" if lines else "data"


def kill_when(process: subprocess.Popen[bytes], folder: Path, wanted: str, wait: float) -> str:
    """Wait for the stage, then `wait` seconds (none for 'writing'), and kill; 'ended' if late."""
    while process.poll() is None:
        now = stage_of(folder)
        if now == wanted:
            if wanted != "writing":
                time.sleep(wait)
            break
        time.sleep(0.0005 if wanted == "writing" else 0.02)
    if process.poll() is not None:
        return "ended"
    now = stage_of(folder)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return now


def main() -> None:
    heading()
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        out, ledger = Path(scratch), Path(scratch) / "ledger.sqlite"
        began = time.time()
        assert start(out, "calm", ledger).wait() == 0
        print(f"undisturbed: {time.time() - began:.1f} s")
        plan = ["writing", *["pretrain"] * (KILLS - 1 - IN_RL - 1), *["rl"] * (IN_RL + 1)]
        seen: list[str] = []
        while len(seen) < KILLS:
            process = start(out, "killed", ledger)
            where = kill_when(process, out / "killed", plan[len(seen)], chance.uniform(0.05, 1.2))
            if where == "ended":
                break
            seen.append(where)
            print(f"kill {len(seen):2}: {where}", flush=True)
        assert start(out, "killed", ledger).wait() == 0
        equal = digest(out / "calm") == digest(out / "killed")
        folder = RunFolder(out / "killed")
        with Ledger(ledger) as book:
            receipt = build_receipt(book.entries(folder.path), folder.manifest()["attempt"])
        lost = {label: float(amount.seconds) for label, amount in receipt.bridge}
        print(f"kills: {len(seen)}, in RL {seen.count('rl')}, amid a write {seen.count('writing')}")
        print("bill, seconds: " + ", ".join(f"{k} {v:.1f}" for k, v in lost.items() if v))
        print(f"final weights bit-equal: {equal} (reach: True)")
        sys.exit(not (equal and len(seen) == KILLS and seen.count("rl") >= IN_RL))


if __name__ == "__main__":
    main()
