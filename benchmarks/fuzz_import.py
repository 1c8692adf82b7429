"""Thousands of damaged checkpoints, imported one by one; counts of what came of them, by damage.

Claim: each is refused in one sentence that names the file, or read as a model of finite weights;
there is no other exception, no crash, no hang, and nothing is written outside. The generator is
`tests/model/test_import_fuzz.py`'s; an exception ends the run and names the seed.

    python benchmarks/fuzz_import.py [--seeds 50] [--first 0]
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from machine import heading

from benthic.model import memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=50, help="cases of each kind and checkpoint")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.model import test_import_fuzz as fuzz

    heading("safetensors")
    torch.set_num_threads(1)  # the shapes are too small to share
    memory._free_memory = lambda: fuzz.MEMORY
    counts: dict[str, Counter[str]] = {}
    slowest, total, began = 0.0, 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        sound = fuzz.originals(Path(place))
        for number, files in enumerate(sound):
            seeds = range(given.first, given.first + given.seeds)
            cuts = fuzz.header_cuts(files, step=8)
            todo = [("header cut", cut, 0, False, False) for cut in cuts]
            for name, damage, seed, late, may_be_read in todo + fuzz.cases(files, seeds):
                root = Path(place, "case")
                root.mkdir(exist_ok=True)
                start = time.perf_counter()
                try:
                    outcome = fuzz.run(root, files, damage, seed, late=late)
                    assert may_be_read or outcome == "refused", "read"
                except BaseException:
                    print(f"checkpoint {number}, {name}, seed {seed}: neither refused nor sound")
                    raise
                slowest = max(slowest, time.perf_counter() - start)
                counts.setdefault(name, Counter())[outcome] += 1
                total += 1
    for name in sorted(counts):
        print(f"{name:28} refused {counts[name]['refused']:5}   read {counts[name]['read']:5}")
    read = sum(counter["read"] for counter in counts.values())
    print(
        f"{total} cases: {total - read} refused, {read} read as finite weights, 0 of any other "
        f"kind; the slowest {slowest:.2f} s, all {time.perf_counter() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
