"""The recipe as shipped on five seeds: what the README's first table says.

Claims, on each seed: greedy accuracy on 1,000 held-out problems at most 20 % before reinforcement
and at least 98 % after; at least 5 times the tokens inside <think>; held-out text at least 10 %
fewer bits per byte than the order-2 model, after reinforcement too; at most 4 minutes and 1.5 GB.

    python benchmarks/seeds.py [--out FOLDER] [--seeds 0 1 2 3 4]
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from machine import heading

from benthic.folder import RunFolder


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    heading()
    print("seed  before   after  thought  worked  bits per byte (order 2)  unseen lengths  time")
    missed = 0
    for seed in options.seeds:
        name = f"seed{seed}"
        command = [sys.executable, "-m", "benthic", "run", "laptop", "--out", str(options.out)]
        command += ["--name", name, "--fresh", "--set", f"seed={seed}"]
        began = time.time()
        done = subprocess.run(command, stdout=subprocess.DEVNULL, env=os.environ, check=False)
        minutes = (time.time() - began) / 60
        if done.returncode:
            print(f"{seed:4}  exit code {done.returncode}")
            missed += 1
            continue
        results = RunFolder((options.out / name).absolute()).results()
        before, after = results["before"], results["after"]
        order2 = results["baseline"]["order2_bits_per_byte"]
        text = [e["text_bits_per_byte"] for e in (before, after)]
        unseen = " ".join(
            f"{n}:{e['accuracy']:.0%}" for n, e in after.get("unseen_lengths", {}).items()
        )
        thought = before["thought_tokens"], after["thought_tokens"]
        worked = before["sampled"]["worked_accuracy"] or 0.0
        print(
            f"{seed:4}  {before['greedy_accuracy']:6.1%}  {after['greedy_accuracy']:6.1%}  "
            f"{thought[0]:4.1f} -> {thought[1]:4.1f}  {worked:6.1%}  "
            f"{text[0]:.3f} -> {text[1]:.3f} ({order2:.3f})  {unseen}  {minutes:.1f} min",
            flush=True,
        )
        well = before["greedy_accuracy"] <= 0.2 and after["greedy_accuracy"] >= 0.98
        well = well and thought[1] >= 5 * thought[0] and thought[1] > 1
        missed += not (well and max(text) <= 0.9 * order2 and minutes <= 4)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print(f"peak memory of one run: {peak:.2f} GB (reach: 1.5)")
    print(f"seeds that miss a claim: {missed} of {len(options.seeds)} (reach: 0)")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
