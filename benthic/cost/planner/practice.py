"""From a clean step to a real run: what published runs took, over what their chips could.

log(hours / hours at full peak) is a Gaussian process. Its mean has four fitted factors: a constant,
software before mid-2023, training in fp16, and doublings of the sequence beyond 2048. The last two
stand for who trained and when (fp16: early and new to it; 8,192: Meta and AI2), not for what the
step takes, so a plan asks with the usual of both and its own choice moves the clean step alone. The
covariance falls with the distance in active parameters, in the chip's peak and in kind, so that a
run leans on published ones that are like it. Of the clean step's own slowness a fixed share carries
over, all of it beyond e times the hours at full peak: among published runs teams differ more than
layouts do, but where a step is slower than any of theirs nobody makes up for it. One part in five
of the prediction is the plain median of the chips' generation, since thirty runs are few to learn
from. Nothing of this is a step: networks and chips that are nearly alike take nearly the same.

What a plan asks of it is in `usual`. Priors and widths are `practice.*` in `speed_constants.csv`;
the runs are `catalog/practice_runs.csv`, which `benchmarks/plan_runs.py` writes and leaves out one
by one. The gap holds what disclosed hours hold: stalls, restarts, evaluation, detours, longer
contexts.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from math import exp, log, log2, log10, sqrt
from pathlib import Path
from statistics import median
from typing import Any

from benthic.cost.catalog.load import CostError, Gpu
from benthic.cost.network.flops import parameters
from benthic.cost.network.shape import Shape
from benthic.cost.step.calibrate import figures

FILE = Path(__file__).parents[1] / "catalog" / "practice_runs.csv"
_SMALL = 41e9  # bytes: chips of 40 GB and less
_POD = 64  # devices that a fast network joins, from which on they are a pod
_SPARSE = 0.99  # a network is dense where a token meets so much of it
_HOPPER = 6e14  # FLOP/s: chips above it are of Hopper's generation and later
TENTH = 1.2816  # deviations from the middle to P10 and P90


@dataclass(frozen=True, kw_only=True)
class Chip:
    """What a GPU is like."""

    gpu: str
    peak: float
    """FLOP/s in bf16"""
    small: bool
    """40 GB or less"""
    pod: bool
    """of a pod (TPU)"""


@dataclass(frozen=True, kw_only=True)
class Traits(Chip):
    """What a run is like. Hours are GPU-hours."""

    run: str
    org: str
    date: float
    """years, as 2024.5"""
    active: float
    """parameters that a token meets"""
    experts: bool
    """and that others do not: see `is_sparse`"""
    fp16: bool
    seq: int
    ideal_hours: float
    """needed FLOPs at full peak"""
    clean_hours: float
    """at the predicted step, with goodput"""
    hours: float = 0.0
    """disclosed; 0: unknown"""


@dataclass(frozen=True)
class Practice:
    """GPU-hours that such a run takes; `leans_on` the published runs nearest to it, with their
    likeness from 0 to 1."""

    p10: float
    p50: float
    p90: float
    factor: float
    """p50 over clean hours: what to multiply another layout's clean hours by"""
    leans_on: list[tuple[str, float]]

    def of(self, clean: float) -> "Practice":
        """The same practice where clean steps take `clean` hours."""
        ratio = clean * self.factor / self.p50
        return replace(self, p10=self.p10 * ratio, p50=self.p50 * ratio, p90=self.p90 * ratio)


def chip(gpu: Gpu) -> Chip:
    small, pod = gpu.memory < _SMALL, gpu.per_node > _POD
    return Chip(gpu=gpu.name, peak=gpu.peak, small=small, pod=pod)


def is_sparse(shape: Shape) -> bool:
    """Whether a token meets only a part of the parameters."""
    counted = parameters(shape)
    return counted["active"] < _SPARSE * counted["total"]


def real_hours(traits: Traits, published: Sequence[Traits] | None = None) -> Practice:
    """GPU-hours with P10 and P90, from `published` runs (the shipped ones).

    Raises CostError where hours are not positive or no run is left to lean on.
    """
    runs = published_runs() if published is None else published
    if not runs:
        raise CostError("no published run is left to lean on: give one at least")
    if not (traits.clean_hours > 0 and traits.ideal_hours > 0):
        raise CostError(f"{traits.run} has no hours at full peak: give its tokens and GPU")
    middle, deviation = _predict(traits, runs)
    scale = traits.ideal_hours * exp(middle)
    stranger = figures("practice.")["stranger"]
    wide = exp(TENTH * sqrt(deviation**2 + stranger**2))
    near = sorted(((_likeness(traits, run), run.run) for run in runs), reverse=True)[:3]
    leans = [(name, like) for like, name in near]
    return Practice(scale / wide, scale, scale * wide, scale / traits.clean_hours, leans)


@lru_cache(maxsize=1)
def published_runs() -> tuple[Traits, ...]:
    """The shipped runs."""
    with FILE.open(newline="", encoding="utf-8") as file:
        return tuple(_read(row) for row in csv.DictReader(file))


def _read(row: dict[str, str]) -> Traits:
    kinds = {field.name: field.type for field in fields(Traits)}
    values: dict[str, Any] = {name: _cell(row[name], kind) for name, kind in kinds.items()}
    return Traits(**values)


def _cell(text: str, kind: object) -> str | int | float | bool:
    if kind is str:
        return text
    if kind is bool:
        return text == "1"
    return int(text) if kind is int else float(text)


def _factors(run: Traits) -> list[float]:
    early = min(1.0, max(0.0, 2023.5 - run.date))
    doublings = log2(min(8192, max(1024, run.seq)) / 2048)  # as far as published runs go
    return [1.0, early, float(run.fp16), doublings]


def _carried(run: Traits) -> float:
    """What the clean step adds to the logarithm."""
    prior = figures("practice.")
    slow = log(run.clean_hours / run.ideal_hours)
    return prior["carried"] * min(slow, 1.0) + max(0.0, slow - 1.0)


def likeness_of_chips(one: Chip, other: Chip) -> float:
    """From 0 to 1."""
    width = figures("practice.width_")
    distance = (log2(one.peak / other.peak) / width["peak"]) ** 2
    for name in ("small", "pod"):
        distance += ((getattr(one, name) != getattr(other, name)) / width["kind"]) ** 2
    return exp(-distance / 2)


def _likeness(one: Traits, other: Traits) -> float:
    width = figures("practice.width_")
    distance = (log10(one.active / other.active) / width["size"]) ** 2
    distance += ((one.experts != other.experts) / width["kind"]) ** 2
    return exp(-distance / 2) * likeness_of_chips(one, other)


def _covariance(one: Traits, other: Traits) -> float:
    prior = figures("practice.")
    variances = [4.0] + [prior["factor"] ** 2] * 3
    means = zip(_factors(one), variances, _factors(other), strict=True)
    return prior["likeness"] ** 2 * _likeness(one, other) + sum(a * v * b for a, v, b in means)


def _predict(traits: Traits, runs: Sequence[Traits]) -> tuple[float, float]:
    """Mean and deviation of log(hours / ideal_hours)."""
    noise = figures("practice.")["noise"] ** 2
    seen = [log(run.hours / run.ideal_hours) - _carried(run) for run in runs]
    middle = median(seen)
    matrix = [[_covariance(a, b) + noise * (a is b) for b in runs] for a in runs]
    here = [_covariance(traits, run) for run in runs]
    mean = middle + _dot(here, solve(matrix, [one - middle for one in seen]))
    variance = _covariance(traits, traits) - _dot(here, solve(matrix, here))
    plain = figures("practice.")["plain"]
    found = (1 - plain) * (mean + _carried(traits)) + plain * _usual(traits, runs)
    return found, sqrt(max(0.0, variance) + noise)


def _usual(traits: Traits, runs: Sequence[Traits]) -> float:
    """The median of the chips' generation, with what nobody makes up for on top."""
    alike = [run for run in runs if (run.peak > _HOPPER) == (traits.peak > _HOPPER)] or runs
    slow = log(traits.clean_hours / traits.ideal_hours)
    return median(log(run.hours / run.ideal_hours) for run in alike) + max(0.0, slow - 1.0)


def solve(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """x of matrix x = right, by elimination; `matrix` is symmetric and positive."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    size = len(rows)
    for i in range(size):
        pivot = rows[i]
        for row in rows[i + 1 :]:
            ratio = row[i] / pivot[i]
            if ratio:
                for j in range(i, size + 1):
                    row[j] -= ratio * pivot[j]
    x = [0.0] * size
    for i in reversed(range(size)):
        x[i] = (rows[i][size] - _dot(rows[i][i + 1 : size], x[i + 1 :])) / rows[i][i]
    return x


def _dot(one: Iterable[float], other: Iterable[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
