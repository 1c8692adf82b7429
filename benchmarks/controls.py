"""What must fail: the controls of the claim that reinforcement selects what pretraining planted.

Claim: each control gains less than 3 points of greedy accuracy, against 80 or more for the
recipe. On the same budget: no worked documents; 5 % worked documents; a random reward (forked
from the main run's base); the compute of reinforcement spent on more pretraining. The gate
refuses the first two, so they are forced.

    python benchmarks/controls.py [--out FOLDER] [--seeds 0 1 2] [--only 'random reward']
"""

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from machine import heading

from benthic.config import load
from benthic.console import Console
from benthic.cost.bill.receipt import Receipt
from benthic.folder import RunFolder
from benthic.run import receipt_of
from benthic.run import run as run_recipe
from benthic.train.parallel import connect

MORE = "more pretraining"
CONTROLS = {
    "random reward": ["reason.reward=random"],
    "no worked documents": ["data.worked_share=0"],
    "5 % worked documents": ["data.worked_share=0.05"],
}


@dataclass(frozen=True)
class Change:
    """Greedy accuracy before and after on the same n problems."""

    before: float
    after: float
    n: int

    def __str__(self) -> str:
        gain = self.after - self.before
        # Wald's interval; the shares are taken as independent, which makes it wider.
        spread = 1.959964 * math.sqrt(
            (self.before * (1 - self.before) + self.after * (1 - self.after)) / self.n
        )
        return (
            f"{self.before:6.1%} -> {self.after:6.1%}  gain {100 * gain:+5.1f} points "
            f"(95 %: {100 * (gain - spread):+.1f} to {100 * (gain + spread):+.1f})"
        )


def finish(out: Path, name: str, settings: list[str], base: Path | None = None) -> RunFolder:
    recipe = load("laptop", settings)
    folder = RunFolder((out / name).absolute())
    run_recipe(
        recipe,
        folder,
        connect(recipe.device, recipe.pretrain.micro_batches),
        Console(quiet=True),
        force_rl=True,
        base=RunFolder(base.absolute()) if base else None,
    )
    return folder


def change(folder: RunFolder, before: RunFolder | None = None) -> Change:
    first = (before or folder).results()["before"]
    results = folder.results()
    last = results.get("after", results["before"])
    return Change(first["greedy_accuracy"], last["greedy_accuracy"], last["problems"])


def flops(receipt: Receipt | None, purpose: str) -> float:
    assert receipt is not None
    return sum(line.flops for line in receipt.lines if line.purpose == purpose)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("runs/controls"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    labels = [*CONTROLS, MORE]
    parser.add_argument("--only", nargs="+", choices=labels, default=labels)
    options = parser.parse_args()
    heading()
    worst = 0.0
    for seed in options.seeds:
        own = [f"seed={seed}"]
        main_run = finish(options.out, f"main-{seed}", own)
        print(f"seed {seed}: {'recipe as shipped':24} {change(main_run)}", flush=True)
        for label in options.only:
            name = f"{label.replace(' ', '-').replace('%', 'percent')}-{seed}"
            if label == MORE:
                receipt = receipt_of(main_run)
                steps = main_run.recipe().pretrain.steps
                more = math.ceil(steps * flops(receipt, "rl") / flops(receipt, "pretrain"))
                settings = [f"pretrain.steps={steps + more}", "reason.steps=0"]
                done = change(finish(options.out, name, own + settings), before=main_run)
                label = f"{label}, {more} steps"
            else:
                base = main_run.path if label == "random reward" else None
                done = change(finish(options.out, name, own + CONTROLS[label], base))
            worst = max(worst, done.after - done.before)
            print(f"seed {seed}: {label:24} {done}", flush=True)
    print(f"largest gain of a control: {100 * worst:+.1f} points (reach: below 3)")
    sys.exit(worst >= 0.03)


if __name__ == "__main__":
    main()
