"""Step times of dense GPTs on A100s, layout given, against `benthic.cost.step.speed`.

Claim: fitted on a part of the rows, the model meets the rows left out with a median error of 10 %
and a 90th percentile of 25 %, on random halves and where a whole kind of layout is left out. Twelve
constants are fitted at once to all rows that are seen, in log space, robustly, towards priors; none
belongs to a single row. `--write` puts the fit on all rows into the shipped constants, with the
range over the fits that leave a kind out.

The file has the columns gpus, global_batch, micro_batch, hidden_size, attention_heads, layers,
sequence_length, tensor_parallel, data_parallel, pipeline_parallel, step_ms. Two facts are read off
the data: rows on one node do not recompute activations (they would need products at 300 TFLOP/s),
rows on many do; and times on one node are linear in micro-batches to the microsecond, which is a
simulator's sum of measured kernels, not a clock. Only rows beyond one node are measured as a whole.

    python benchmarks/plan_vtrain.py STEPS.csv [--quick] [--write]
"""

import argparse
import csv
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import exp, expm1, log, sqrt
from pathlib import Path
from statistics import median

from benthic.cost.catalog.load import Gpu, load
from benthic.cost.network.shape import Shape
from benthic.cost.planner.practice import solve
from benthic.cost.step.calibrate import FILE, Constants, load_constants
from benthic.cost.step.layout import Layout
from benthic.cost.step.speed import seconds

VOCABULARY = 50257  # GPT-2's, which no row states
PRIORS = {  # constant: prior, deviation of its logarithm
    "matmul": (0.80, 0.05),
    "memory": (0.80, 0.10),
    "misaligned": (0.35, 0.5),
    "launch": (30e-6, 1.0),
    "kernel": (10e-6, 1.0),
    "blend": (4.0, 0.5),
    "scale_up": (0.75, 0.10),
    "scale_out": (0.70, 0.15),
    "startup": (10e-6, 0.7),
    "collective": (1.0, 1.0),
    "optimizer_bytes": (20.0, 0.3),
    "step": (2e-3, 1.0),
}
OWN = {"launch": "unfused.launch", "optimizer_bytes": "unfused.optimizer_bytes"}
WIDTH = 0.08  # of the error's logarithm, beyond which a row counts less


@dataclass(frozen=True)
class Row:
    shape: Shape
    layout: Layout
    seq: int
    gpus: int
    seconds: float


def read(path: Path) -> list[Row]:
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        for cells in csv.DictReader(file):
            step = float(cells.pop("step_ms")) / 1e3
            of = {name: int(value) for name, value in cells.items()}
            hidden, heads = of["hidden_size"], of["attention_heads"]
            shape = Shape(
                name="gpt",
                layers=of["layers"],
                hidden=hidden,
                vocab=VOCABULARY,
                heads=heads,
                kv_heads=heads,
                head_dim=hidden // heads,
                ffn=4 * hidden,
                gated=False,
                tied=True,
                learned_positions=True,
                max_positions=of["sequence_length"],
                norm_vectors=2,
            )
            data, micro = of["data_parallel"], of["micro_batch"]
            layout = Layout(
                data=data,
                tensor=of["tensor_parallel"],
                pipeline=of["pipeline_parallel"],
                micro_batch=micro,
                micro_batches=of["global_batch"] // micro // data,
                recompute="full" if of["gpus"] > 8 else "none",
                sequence_parallel=False,
                precision="fp16",
            )
            rows.append(Row(shape, layout, of["sequence_length"], of["gpus"], step))
    return rows


def errors(rows: Sequence[Row], gpu: Gpu, constants: Constants) -> list[float]:
    """Logarithms of predicted over measured."""
    return [
        log(sum(seconds(row.shape, row.layout, gpu, row.seq, constants).values()) / row.seconds)
        for row in rows
    ]


def fit(rows: Sequence[Row], gpu: Gpu, rounds: int = 25) -> Constants:
    """Levenberg-Marquardt on logarithms of constants, errors weighed by a soft absolute value."""
    names = list(PRIORS)
    start = [log(prior) for prior, _ in PRIORS.values()]
    stiff = [1 / deviation**2 for _, deviation in PRIORS.values()]
    unfused = load_constants("unfused")

    def constants(x: Sequence[float]) -> Constants:
        return replace(unfused, **{name: exp(value) for name, value in zip(names, x, strict=True)})

    def cost(x: Sequence[float], off: Sequence[float]) -> float:
        prior = sum(s * (a - b) ** 2 for s, a, b in zip(stiff, x, start, strict=True)) / 2
        return sum(sqrt(1 + (e / WIDTH) ** 2) - 1 for e in off) + prior

    x, damping = list(start), 1e-2
    off = errors(rows, gpu, constants(x))
    now = cost(x, off)
    for _ in range(rounds):
        slopes = []
        for i in range(len(x)):
            moved = [value + 1e-4 * (i == j) for j, value in enumerate(x)]
            there = errors(rows, gpu, constants(moved))
            slopes.append([(b - a) / 1e-4 for a, b in zip(off, there, strict=True)])
        weights = [1 / sqrt(1 + (e / WIDTH) ** 2) / WIDTH**2 for e in off]
        matrix = [
            [
                sum(w * a * b for w, a, b in zip(weights, one, other, strict=True))
                for other in slopes
            ]
            for one in slopes
        ]
        right = [
            -sum(w * a * e for w, a, e in zip(weights, one, off, strict=True)) - s * (v - b)
            for one, s, v, b in zip(slopes, stiff, x, start, strict=True)
        ]
        for i in range(len(x)):
            matrix[i][i] += stiff[i]
        gained = 0.0
        for _ in range(8):
            damped = [
                [v * (1 + damping * (i == j)) for j, v in enumerate(row)]
                for i, row in enumerate(matrix)
            ]
            step = [max(-0.7, min(0.7, d)) for d in solve(damped, right)]
            tried = [a + b for a, b in zip(x, step, strict=True)]
            there = errors(rows, gpu, constants(tried))
            then = cost(tried, there)
            if then < now:
                gained, x, off, now = now - then, tried, there, then
                damping = max(damping / 3, 1e-6)
                break
            damping *= 4
        if gained < 1e-3:
            break
    return constants(x)


def groups() -> Iterator[tuple[str, Callable[[Row], bool]]]:
    for hidden in (1024, 2048):
        yield f"hidden {hidden}", lambda r, v=hidden: r.shape.hidden == v
    yield "more than 8 GPUs", lambda r: r.gpus > 8
    for name, of, values in (
        ("tensor", lambda r: r.layout.tensor, (1, 2, 4, 8)),
        ("pipeline", lambda r: r.layout.pipeline, (1, 2, 4)),
        ("data", lambda r: r.layout.data, (1, 2, 4, 8)),
        ("micro-batch", lambda r: r.layout.micro_batch, (1, 2, 4, 8)),
        ("layers", lambda r: r.shape.layers, (12, 16, 20, 24)),
    ):
        for value in values:
            yield f"{name} {value}", lambda r, v=value, of=of: of(r) == v
    yield "pipeline above 4", lambda r: r.layout.pipeline > 4


def line(name: str, off: Sequence[float]) -> None:
    sizes = sorted(abs(expm1(e)) for e in off)
    print(
        f"{name:28} {len(sizes):4} rows  median {median(sizes):6.1%}  "
        f"p90 {quantile(sizes, 0.9):6.1%}  worst {sizes[-1]:5.0%}  bias {expm1(median(off)):+.1%}"
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def linear(rows: Sequence[Row]) -> tuple[int, int]:
    """Layouts on one node whose times at three batches or more lie on a line to 1e-6, and all."""
    found = defaultdict(list)
    for row in rows:
        if row.gpus <= 8:
            key = (row.shape, replace(row.layout, micro_batches=1))
            found[key].append((row.layout.micro_batches, row.seconds))
    several = [sorted(points) for points in found.values() if len(points) > 2]
    straight = 0
    for points in several:
        rises = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(points)]
        straight += max(rises) / min(rises) - 1 < 1e-6
    return straight, len(several)


def write(best: Constants, others: Sequence[Constants]) -> None:
    with FILE.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        names, cells = list(reader.fieldnames or ()), list(reader)
    for name in PRIORS:
        values = [getattr(one, name) for one in (best, *others)]
        for row in cells:
            if row["key"] == OWN.get(name, name):
                row |= {"value": f"{values[0]:.4g}", "low": f"{min(values):.4g}"}
                row["high"] = f"{max(values):.4g}"
    with FILE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("steps", type=Path)
    parser.add_argument("--quick", action="store_true", help="the random half and one kind only")
    parser.add_argument("--write", action="store_true", help="put the fit into the constants")
    args = parser.parse_args()
    print(
        f"# {' '.join(sys.argv)}; Python {sys.version.split()[0]}; no figure depends on a machine"
    )
    gpu, rows = load().gpu("A100-SXM4-80GB"), read(args.steps)
    straight, several = linear(rows)
    print(f"# on one node {straight} of {several} layouts are linear in micro-batches to 1e-6")
    shipped = errors(rows, gpu, load_constants("unfused"))
    line("shipped constants, all", shipped)
    beyond = [row.gpus > 8 for row in rows]
    line("  on one node", [e for e, far in zip(shipped, beyond, strict=True) if not far])
    line("  beyond one node", [e for e, far in zip(shipped, beyond, strict=True) if far])
    print("\nfitted without the rows that are tested")
    for seed in range(1 if args.quick else 5):
        shuffled = random.Random(seed).sample(rows, len(rows))
        half = len(rows) // 2
        line(f"random half, seed {seed}", errors(shuffled[half:], gpu, fit(shuffled[:half], gpu)))
    every, others = [], []
    for name, inside in groups():
        if args.quick and name != "tensor 4":
            continue
        constants = fit([row for row in rows if not inside(row)], gpu)
        others.append(constants)
        off = errors([row for row in rows if inside(row)], gpu, constants)
        every += off
        line(f"without {name}", off)
    line("all kinds left out", every)
    if not args.quick:
        best = fit(rows, gpu)
        print("\nconstant: fit on all rows (over the fits that leave a kind out)")
        for name in PRIORS:
            values = [getattr(one, name) for one in others]
            print(f"{name:16} {getattr(best, name):.4g} ({min(values):.4g} to {max(values):.4g})")
        line("all rows, in sample", errors(rows, gpu, best))
        if args.write:
            write(best, others)


if __name__ == "__main__":
    main()
