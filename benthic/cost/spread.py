"""How sure a figure is: P10, P50 and P90 by Monte Carlo, and which input moves it most.

Half of an input's draws lie on either side of its value, densest there and none beyond low and
high, so the median of a sum stays near the sum of the values. Inputs are drawn independently of
each other: a sum of many comes out narrower than its corners, and than the truth where inputs move
together. Each has a stream of its own, seeded by its name: adding one leaves the others alone.
Standard library only.
"""

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Protocol

from benthic.cost.catalog.load import CostError

Values = Mapping[str, float]
Model = Callable[[dict[str, float]], Values]


class Range(Protocol):
    """What is known of one input; a catalog's figure is one."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


@dataclass(frozen=True)
class Spread:
    """One draw in ten lies below `p10`, half below `p50`, nine in ten below `p90`."""

    p10: float
    p50: float
    p90: float


@dataclass(frozen=True)
class Swing:
    """What one input does to one output, all others at their values."""

    key: str
    at_low: float
    at_high: float

    @property
    def width(self) -> float:
        return abs(self.at_high - self.at_low)


def draws(inputs: Mapping[str, Range], count: int, seed: int = 0) -> Iterable[dict[str, float]]:
    """Yield `count` sets of values, the same for the same seed on every machine."""
    for key, entry in inputs.items():
        if not entry.low <= entry.value <= entry.high:
            raise CostError(
                f"'{key}' has low {entry.low:g}, value {entry.value:g}, high {entry.high:g}; "
                "put them in that order."
            )
    fixed = {key: entry.value for key, entry in inputs.items() if entry.low == entry.high}
    free = [
        (key, random.Random(f"{seed} {key}").random, (entry.low, entry.value, entry.high))
        for key, entry in inputs.items()
        if entry.low < entry.high
    ]
    for _ in range(count):
        yield fixed | {key: quantile(share(), *ends) for key, share, ends in free}


def quantile(share: float, low: float, value: float, high: float) -> float:
    """The number below which `share` (0 to 1) of an input's draws lie; a half below `value`."""
    if share < 0.5:
        return low + (value - low) * sqrt(2 * share)
    return high - (high - value) * sqrt(2 - 2 * share)


def spread(samples: Iterable[float]) -> Spread:
    """P10, P50 and P90 of samples, between neighbours linearly; of at least one sample."""
    ordered = sorted(samples)

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        below = int(place)
        step = ordered[min(below + 1, len(ordered) - 1)] - ordered[below]
        return ordered[below] + (place - below) * step  # exact where all samples are alike

    return Spread(at(0.1), at(0.5), at(0.9))


def monte_carlo(
    inputs: Mapping[str, Range], model: Model, *, count: int = 2000, seed: int = 0
) -> dict[str, Spread]:
    """The spread of every output of `model`, which takes values by input key."""
    columns: dict[str, list[float]] = {}
    for values in draws(inputs, count, seed):
        for key, value in model(values).items():
            columns.setdefault(key, []).append(value)
    return {key: spread(column) for key, column in columns.items()}


def tornado(inputs: Mapping[str, Range], model: Model, output: str) -> list[Swing]:
    """Each input alone at its low and at its high; the widest first, those without effect left out.

    `output` is a key of what `model` returns.
    """
    values = {key: entry.value for key, entry in inputs.items()}
    swings = [
        Swing(
            key,
            model(values | {key: entry.low})[output],
            model(values | {key: entry.high})[output],
        )
        for key, entry in inputs.items()
        if entry.low < entry.high
    ]
    return sorted((s for s in swings if s.width), key=lambda swing: -swing.width)
