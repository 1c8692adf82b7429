"""Ten SIGKILLs in one short run; the weights must be bit-equal to the undisturbed run's.

The laptop recipe is shortened to about 20 seconds on two cores. Each kill waits until the new
process has itself trained past a checkpoint in the wanted stage, then for a random moment drawn
from a seed; a kill amid a write falls as soon as a `.partial-` folder is seen, one in start-up at
random after the launch. What a kill hit is read off the disk after the death: "writing" if a
partial folder of that process is left, else the stage of the last row it wrote, else "start-up".
After each kill the same command is given again. Exit code 0 needs all ten kills, at least three in
reinforcement and one amid a write, and equal weights (and optimizer state).

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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from machine import heading

from benthic.cost.bill.receipt import build_receipt
from benthic.cost.ledger.ledger import Ledger
from benthic.folder import RunFolder
from benthic.train import metrics
from benthic.train.checkpoint import TENSORS, path_of, steps_of

EVERY = {"pretrain": 5, "rl": 2}  # steps between checkpoints
SHORT = [
    "pretrain.steps=80",
    "pretrain.rows=32",
    f"pretrain.checkpoint_every={EVERY['pretrain']}",
    "reason.steps=32",
    "reason.prompts=8",
    f"reason.checkpoint_every={EVERY['rl']}",
    "reason.gate_gap=-1",
    "reason.gate_share=0",
    "evaluate.problems=100",
    "evaluate.unseen=0",
    "evaluate.text_bytes=4096",
]
PLAN = ["pretrain", "writing", "pretrain", "pretrain", "start-up", *["rl"] * 5]
IN_RL, IN_WRITE = 3, 1


@dataclass(frozen=True)
class Life:
    """One process of the run, and what stood on disk before it."""

    process: subprocess.Popen[bytes]
    folder: RunFolder
    began: int  # nanoseconds, on the clock of the files
    saved: dict[str, int]  # each stage's last checkpoint

    def rows(self) -> list[str]:
        """The stages of the metrics rows that this process wrote.

        Resuming rewrites the file without the rows past the checkpoint. So until the file is
        touched no row is this process's, and afterwards those past the checkpoint are.
        """
        log = self.folder.metrics
        if not log.exists() or log.stat().st_mtime_ns <= self.began:
            return []
        return [r["stage"] for r in metrics.read(log) if r["step"] > self.saved[r["stage"]]]

    def writing(self) -> bool:
        """Whether this process has a checkpoint half written."""
        for partial in self.folder.checkpoints.glob(".partial-*"):
            with suppress(FileNotFoundError):  # it was whole and renamed in between
                if partial.stat().st_mtime_ns > self.began:
                    return True
        return False

    def hit(self) -> str:
        """Where the dead process stood."""
        return "writing" if self.writing() else ["start-up", *self.rows()][-1]


def start(out: Path, name: str, ledger: Path) -> Life:
    folder, began = RunFolder(out / name), time.time_ns()
    saved = {stage: max(steps_of(folder.checkpoints, stage), default=0) for stage in EVERY}
    command = [sys.executable, "-m", "benthic", "run", "laptop", "--out", str(out), "--name", name]
    for setting in SHORT:
        command += ["--set", setting]
    quiet = subprocess.DEVNULL
    environment = {**os.environ, "BENTHIC_LEDGER": str(ledger)}
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet, env=environment)
    return Life(process, folder, began, saved)


def kill(life: Life, wanted: str, chance: random.Random) -> str:
    """Kill where wanted, or as near as it goes; returns what was hit, 'ended' if too late."""
    if wanted == "writing":
        while life.process.poll() is None and not life.writing():
            time.sleep(0.0005)
    elif wanted == "start-up":
        time.sleep(chance.uniform(0.2, 2.0))
    else:
        # The row after a checkpoint's says that it was saved: each life brings the run forward.
        while life.process.poll() is None and life.rows().count(wanted) <= EVERY[wanted]:
            time.sleep(0.02)
        time.sleep(chance.uniform(0.05, 0.5))
    life.process.send_signal(signal.SIGKILL)
    return life.hit() if life.process.wait() == -signal.SIGKILL else "ended"


def kill_often(out: Path, ledger: Path, chance: random.Random) -> list[str]:
    """Carry out the plan; a write that was missed is tried again, instead of the next kill."""
    plan, hits = PLAN, list[str]()
    while len(hits) < len(PLAN):
        wanted = plan[0]
        life = start(out, "killed", ledger)
        hit = kill(life, wanted, chance)
        if hit == "ended":
            print(f"the run ended, exit code {life.process.returncode}, before a kill in {wanted}")
            break
        hits.append(hit)
        after = (time.time_ns() - life.began) / 1e9
        stood = ", ".join(f"{stage} {step}" for stage, step in life.saved.items())
        print(
            f"kill {len(hits):2}: wanted {wanted}, hit {hit}, {after:.2f} s after a start from "
            f"{stood}; it wrote {len(life.rows())} rows",
            flush=True,
        )
        missed = wanted == "writing" and hit != "writing"
        plan = plan[:1] + plan[2:] if missed else plan[1:]
    return hits


def digest(folder: RunFolder) -> str:
    last = path_of(folder.checkpoints, "rl", steps_of(folder.checkpoints, "rl")[-1])
    return hashlib.sha256((last / TENSORS).read_bytes()).hexdigest()


def main() -> None:
    heading()
    chance = random.Random(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    with tempfile.TemporaryDirectory() as scratch:
        out, ledger = Path(scratch), Path(scratch) / "ledger.sqlite"
        began = time.time()
        calm = start(out, "calm", ledger)
        assert calm.process.wait() == 0
        print(f"undisturbed: {time.time() - began:.1f} s", flush=True)
        hits = kill_often(out, ledger, chance)
        last = start(out, "killed", ledger)
        assert last.process.wait() == 0
        equal = digest(calm.folder) == digest(last.folder)
        with Ledger(ledger) as book:
            rows = list(book.query(run=str(last.folder.path)))
        receipt = build_receipt(rows[::-1], last.folder.manifest()["attempt"])
        lost = {label: float(amount.seconds) for label, amount in receipt.bridge}
        in_rl, in_write = hits.count("rl"), hits.count("writing")
        print(f"kills: {len(hits)} (reach: {len(PLAN)})")
        print(f"in RL {in_rl} (reach: {IN_RL}), amid a write {in_write} (reach: {IN_WRITE})")
        print("bill, seconds: " + ", ".join(f"{k} {v:.1f}" for k, v in lost.items() if v))
        print(f"final weights bit-equal: {equal} (reach: True)")
        enough = len(hits) == len(PLAN) and in_rl >= IN_RL and in_write >= IN_WRITE
        sys.exit(not (equal and enough))


if __name__ == "__main__":
    main()
