"""GPU-hours of published runs from shape, tokens and hardware, each predicted without itself.

Claim: over the catalog's runs, each left out of what its prediction leans on, the median error is
at most 15 % and half the naive baseline's (the class's median utilisation), the 90th percentile at
most 40 %, and P10 to P90 holds 65 to 95 %. Layouts are the planner's own choice. DeepSeek-V3's
180K hours per trillion tokens come out within 15 % from its layout and the clean step alone.
The width for strangers, `practice.stranger`, is the least in steps of 0.05 at which P10 to P90
holds 85 % of the runs whose whole organisation is left out. Printed beside: the same with whole
organisations left out, three simpler ways, and runs that are not in the catalog (`more_runs.csv`,
to which nothing is fitted; the plain median's share, 0.2, was chosen with its figures in sight), of
organisations that are in it and of others apart; and all of these once more as a plan of a network
that nobody has published is asked, by the usual date, precision and length of sequence.

`--write` recomputes `catalog/practice_runs.csv`, which the planner leans on; without it, a stale
file is an error. Rows whose own figures contradict each other are printed (`catalog.checks`).

    python benchmarks/plan_runs.py [--write] [--more benchmarks/more_runs.csv]
"""

import argparse
import csv
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import exp, expm1, log, log2, sqrt
from pathlib import Path
from statistics import median

from benthic.cost.catalog.checks import impossible
from benthic.cost.catalog.load import Catalog, CostError, Gpu, load
from benthic.cost.network.read_shape import from_row
from benthic.cost.network.shape import Shape
from benthic.cost.planner.choose import clean_run
from benthic.cost.planner.practice import (
    FILE,
    TENTH,
    Practice,
    Traits,
    chip,
    is_sparse,
    published_runs,
    real_hours,
    solve,
)
from benthic.cost.planner.usual import usual_practice
from benthic.cost.step.calibrate import figures
from benthic.cost.step.goodput import usual_goodput
from benthic.cost.step.layout import Precision, parse
from benthic.cost.step.speed import step_time

MORE = Path(__file__).with_name("more_runs.csv")
V3_LAYOUT = "pp16 ep64 dp128 zero1 acc120 fp8"  # V3 section 3.1; batch 15360
V3_HOURS = 180e3  # a trillion tokens, V3 table 1
STRANGERS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35)


def excluded(row: Mapping[str, str]) -> str:
    """Why a row's hours cannot follow from tokens, or nothing."""
    if not row["tokens_t"]:
        return "RL, no tokens" if "RL" in row["scope"] else "tokens are not stated"
    if not row["gpu_hours"]:
        return "hours are not stated"
    return ""


def traits(catalog: Catalog, run: Mapping[str, str], widths: Mapping[str, str]) -> Traits:
    shape, gpu = from_row(widths), catalog.gpu(run.get("gpu_exact") or run["gpu"])
    seq, tokens = int(widths["seq_len"]), float(run["tokens_t"]) * 1e12
    precision: Precision = "bf16" if gpu.has_bf16 else "fp16"
    if run["precision"] == "fp8" and gpu.fp8_flops:
        precision = "fp8"
    clean = clean_run(
        shape,
        gpu,
        tokens,
        seq,
        catalog,
        gpus=int(run["n_gpu"] or 0),
        batch=int(widths["global_batch_tokens"] or 0),
        precision=precision,
    )
    year, month = run["date"].split("-")[:2]
    unknown = "precision is not stated" in run.get("flag", "") + run.get("note", "")
    return Traits(
        run=run["model"],
        org=run["org"],
        **vars(chip(gpu)),
        date=int(year) + (int(month) - 0.5) / 12,
        active=clean.active,
        experts=is_sparse(shape),
        fp16=run["precision"] == "fp16" and not unknown,
        seq=seq,
        ideal_hours=clean.ideal_hours,
        clean_hours=clean.hours,
        hours=float(run["gpu_hours"]),
    )


@dataclass(frozen=True)
class Asked:
    """A run as a plan of it asks: by shape, GPU and precision; `own` is the run as it was."""

    own: Traits
    shape: Shape
    gpu: Gpu
    precision: Precision

    def planned(self, others: Sequence[Traits]) -> Practice:
        practice = usual_practice(
            self.shape, self.gpu, self.precision, date=self.own.date, published=others
        )
        return practice.of(self.own.clean_hours)


def asked(catalog: Catalog, row: Mapping[str, str], widths: Mapping[str, str]) -> Asked:
    gpu = catalog.gpu(row.get("gpu_exact") or row["gpu"])
    precision: Precision = "fp8" if row["precision"] == "fp8" else "bf16"
    return Asked(traits(catalog, row, widths), from_row(widths), gpu, precision)


def as_plans(name: str, runs: Sequence[Asked], by: str = "") -> None:
    """Prints how far plans are from runs; `by`: what is left out."""
    found = [
        run.planned(
            [o for o in published_runs() if not by or getattr(o, by) != getattr(run.own, by)]
        )
        for run in runs
    ]
    off = [log(one.p50 / run.own.hours) for run, one in zip(runs, found, strict=True)]
    line(f"  {name}", off)
    print(f"    P10 to P90 holds {coverage([run.own for run in runs], found):.0%}")


def class_median(run: Traits, others: Sequence[Traits]) -> float:
    """The naive baseline: hours at the median utilisation of the same generation of chips."""
    alike = [o for o in others if (o.peak > 6e14) == (run.peak > 6e14)]
    return run.ideal_hours / median(o.ideal_hours / o.hours for o in alike or others)


def finer_median(run: Traits, others: Sequence[Traits]) -> float:
    """The same, networks with experts apart."""
    alike = [o for o in others if o.experts == run.experts]
    return class_median(run, alike or others)


def clean_median(run: Traits, others: Sequence[Traits]) -> float:
    """The clean step times the median of what the others took over theirs."""
    return run.clean_hours * median(o.hours / o.clean_hours for o in others)


def ridge(run: Traits, others: Sequence[Traits]) -> float:
    """Clean hours times regularised factors: chip, era, fp16, experts, length of sequences."""

    def row(of: Traits) -> list[float]:
        early = min(1.0, max(0.0, 2023.5 - of.date))
        chip, length = log2(of.peak / 312e12), log2(of.seq / 2048)
        return [1.0, chip, early, float(of.fp16), float(of.experts), length]

    rows, wanted = [row(o) for o in others], [log(o.hours / o.clean_hours) for o in others]
    size = len(rows[0])
    matrix = [[sum(r[i] * r[j] for r in rows) / 0.04 for j in range(size)] for i in range(size)]
    for i in range(size):
        matrix[i][i] += 1 / (4.0 if i == 0 else 0.09)
    right = [sum(r[i] * w for r, w in zip(rows, wanted, strict=True)) / 0.04 for i in range(size)]
    factors = solve(matrix, right)
    return run.clean_hours * exp(sum(a * b for a, b in zip(row(run), factors, strict=True)))


def planner(run: Traits, others: Sequence[Traits]) -> float:
    return real_hours(run, others).p50


def left_out(
    runs: Sequence[Traits], way: Callable[[Traits, Sequence[Traits]], float], by: str
) -> list[float]:
    """log(predicted / disclosed) of each run from those that differ in `by`."""
    return [
        log(way(run, [o for o in runs if getattr(o, by) != getattr(run, by)]) / run.hours)
        for run in runs
    ]


def line(name: str, off: Iterable[float]) -> tuple[float, float]:
    sizes = sorted(abs(expm1(e)) for e in off)
    at = 0.9 * (len(sizes) - 1)
    low = int(at)
    high = sizes[min(low + 1, len(sizes) - 1)]
    p90 = sizes[low] + (at - low) * (high - sizes[low])
    print(f"{name:54} median {median(sizes):6.1%}  p90 {p90:6.1%}  ({len(sizes)} runs)")
    return median(sizes), p90


def table(runs: Sequence[Traits], found: Sequence[Practice]) -> None:
    print(f"{'run':24}{'disclosed':>12}{'predicted':>12}{'error':>8}{'P10':>12}{'P90':>12}  MFU")
    for run, one in zip(runs, found, strict=True):
        inside = " " if one.p10 <= run.hours <= one.p90 else "*"
        print(
            f"{run.run[:23]:24}{run.hours:12,.0f}{one.p50:12,.0f}{one.p50 / run.hours - 1:+8.0%}"
            f"{one.p10:12,.0f}{one.p90:12,.0f}{inside} {run.ideal_hours / run.hours:.3f} "
            f"clean {run.ideal_hours / run.clean_hours:.3f}"
        )


def coverage(runs: Sequence[Traits], found: Sequence[Practice]) -> float:
    return sum(o.p10 <= r.hours <= o.p90 for r, o in zip(runs, found, strict=True)) / len(runs)


def widened(one: Practice, stranger: float) -> Practice:
    """The prediction with another deviation of organisations that no published run is from."""
    was = (log(one.p90 / one.p50) / TENTH) ** 2 - figures("practice.")["stranger"] ** 2
    wide = exp(TENTH * sqrt(was + stranger**2))
    return replace(one, p10=one.p50 / wide, p90=one.p50 * wide)


def store(runs: Sequence[Traits], write: bool) -> None:
    names = [field.name for field in fields(Traits)]
    lines = [",".join(names)]
    lines += [",".join(_text(getattr(run, name)) for name in names) for run in runs]
    text = "\n".join(lines) + "\n"
    if write:
        FILE.write_text(text, encoding="utf-8")
    elif not FILE.is_file() or FILE.read_text(encoding="utf-8") != text:
        sys.exit(f"{FILE} is stale: run this again with --write")


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def v3(catalog: Catalog, widths: Mapping[str, str]) -> None:
    shape, layout, gpu = from_row(widths), parse(V3_LAYOUT), catalog.gpu("H800")
    step = step_time(shape, layout, gpu, 4096)
    useful = usual_goodput(catalog, layout.gpus).useful
    scale = layout.gpus / 3600 * 1e12 / step.tokens / useful
    value, low, high = (x * scale for x in (step.total.value, step.total.low, step.total.high))
    print(
        f"\nDeepSeek-V3, {V3_LAYOUT}: {step.total.value:.1f} s a step, goodput {useful:.3f}, "
        f"{value / 1e3:.0f}K H800-hours per T tokens ({low / 1e3:.0f}K to {high / 1e3:.0f}K); "
        f"disclosed 180K: {value / V3_HOURS - 1:+.1%}"
    )
    parts = sorted(step.parts.items(), key=lambda item: -item[1].value)
    print("  " + ", ".join(f"{n} {s.value / step.total.value:.0%}" for n, s in parts if s.value))


def more(catalog: Catalog, path: Path) -> None:
    """Runs that are not in the catalog, the layouts again the planner's own."""
    plans = list[Asked]()
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    doubt(catalog, rows)
    for row in rows:
        reason = excluded(row) or ("" if row["usable"] == "yes" else "marked unusable")
        try:
            if not reason:
                plans.append(asked(catalog, row, row))
        except CostError as error:
            reason = str(error)
        if reason:
            print(f"  left out: {row['model']}: {reason}")
    runs = [plan.own for plan in plans]
    table(runs, [real_hours(run) for run in runs])
    known = {run.org for run in published_runs()}
    outside("all", runs)
    outside("organisations in the catalog", [run for run in runs if run.org in known])
    outside("organisations not in the catalog", [run for run in runs if run.org not in known])
    print("\nasked as plans are")
    as_plans("all", plans)
    as_plans("organisations in the catalog", [plan for plan in plans if plan.own.org in known])
    as_plans("organisations not in it", [plan for plan in plans if plan.own.org not in known])


def doubt(catalog: Catalog, rows: Sequence[Mapping[str, str]]) -> None:
    """Prints which rows cannot be true, and why."""
    found = [(row["model"], reason) for row in rows for reason in impossible(row, catalog)]
    for name, reason in found:
        print(f"cannot be: {name}: {reason}")
    print(f"{len(rows)} rows checked against themselves, {len(found)} reasons to doubt one")


def outside(name: str, runs: Sequence[Traits]) -> None:
    """Predictions from the shipped runs, by each way."""
    shipped = list(published_runs())
    found = [real_hours(run) for run in runs]
    print(f"\n{name}")
    line("  naive, chips' generation", [log(class_median(r, shipped) / r.hours) for r in runs])
    line("  naive, experts apart", [log(finer_median(r, shipped) / r.hours) for r in runs])
    line("  clean step x median", [log(clean_median(r, shipped) / r.hours) for r in runs])
    line("  ridge", [log(ridge(r, shipped) / r.hours) for r in runs])
    line("  planner", [log(o.p50 / r.hours) for r, o in zip(runs, found, strict=True)])
    print(f"  P10 to P90 holds {coverage(runs, found):.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="recompute practice_runs.csv")
    parser.add_argument("--more", type=Path, default=None, help="runs not in the catalog")
    args = parser.parse_args()
    print(
        f"# {' '.join(sys.argv)}; Python {sys.version.split()[0]}; no figure depends on a machine"
    )
    catalog = load()
    widths = {row["model"]: row for row in catalog.table("run_shapes")}
    plans = list[Asked]()
    for row in catalog.table("runs"):
        reason = excluded(row)
        if reason:
            print(f"left out: {row['model']}: {reason}")
            continue
        plans.append(asked(catalog, row, widths[row["model"]]))
        if row.get("flag"):
            print(f"flagged: {row['model']}: {row['flag']}")
    doubt(catalog, catalog.table("runs"))
    runs = [plan.own for plan in plans]
    store(runs, args.write)
    found = [real_hours(run, [o for o in runs if o.run != run.run]) for run in runs]
    print()
    table(runs, found)
    for by, name in (("run", "each run left out"), ("org", "each organisation left out")):
        print(f"\n{name}")
        naive = line(
            "  naive: median utilisation of the chips' generation", left_out(runs, class_median, by)
        )[0]
        line("  naive: the same, experts apart", left_out(runs, finer_median, by))
        line("  clean step x median of the others", left_out(runs, clean_median, by))
        line("  clean step x ridge on five factors", left_out(runs, ridge, by))
        own = line("  planner: factors and likeness", left_out(runs, planner, by))[0]
        print(f"  planner over naive: {own / naive:.2f} of the median error")
    strange = [real_hours(run, [o for o in runs if o.org != run.org]) for run in runs]
    print(
        f"P10 to P90 holds {coverage(runs, found):.0%} of the runs left out, "
        f"{coverage(runs, strange):.0%} where their organisation is left out too"
    )
    print("  by the deviation of a stranger, practice.stranger:")
    for width in STRANGERS:
        held = (coverage(runs, [widened(o, width) for o in them]) for them in (found, strange))
        print("  {:.2f}: {:.0%}, {:.0%}".format(width, *held))
    print("\nasked as plans are: of the usual run, on the published GPU most alike")
    as_plans("each run left out", plans, "run")
    as_plans("each organisation left out", plans, "org")
    v3(catalog, widths["DeepSeek-V3"])
    if args.more:
        print(f"\n{args.more.name}, to which nothing was fitted")
        more(catalog, args.more)


if __name__ == "__main__":
    main()
