"""From shape, layout and hardware to the time of a training step, with a range.

`benthic.cost.step.work` does the counting, `catalog/speed_constants.csv` holds what machines reach.
Left out: input loading, evaluation, checkpoints and failures (`benthic.cost.step.goodput`), and the
gap between a clean step and a real run's months (`benthic.cost.planner.practice`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import sqrt

from benthic.cost.catalog.load import CostError, Gpu
from benthic.cost.network.flops import forward_parts
from benthic.cost.network.shape import Shape
from benthic.cost.step.calibrate import Constants, ends, load_constants
from benthic.cost.step.layout import Layout
from benthic.cost.step.work import CLASSES, Memo, Work, reach

__all__ = ["CLASSES", "Span", "Step", "forward_flops_per_token", "seconds", "step_time"]


@dataclass(frozen=True)
class Span:
    """A value with the range that its constants leave it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Step:
    """Seconds of one optimizer step on `gpus` GPUs, by the classes of CLASSES."""

    parts: dict[str, Span]
    total: Span
    tokens: int
    gpus: int
    mfu: Span
    """FLOPs that the model needs, causal pairs counted once, over the bf16 peak"""


def step_time(
    shape: Shape, layout: Layout, gpu: Gpu, seq: int, constants: Constants | None = None
) -> Step:
    """The time of one step of `layout.batch` sequences of `seq` tokens.

    Ranges move each constant, and what the GPU reaches of its peak, to either end of its own, one
    at a time, and add the changes up in quadrature. `constants` default to those of fused software.
    Raises CostError for a precision that the GPU lacks, or a sequence that is not positive.
    """
    chosen = constants or load_constants()
    middle = seconds(shape, layout, gpu, seq, chosen)
    total = sum(middle.values())
    less = dict.fromkeys([*middle, "total"], 0.0)
    more = dict(less)
    for changed in (*ends(chosen), *_reached(chosen, gpu)):
        moved = seconds(shape, layout, gpu, seq, changed)
        moved["total"] = sum(moved.values())
        for part, was in [*middle.items(), ("total", total)]:
            change = moved[part] - was
            (more if change > 0 else less)[part] += change * change
    spans = {
        part: Span(value, max(0.0, value - sqrt(less[part])), value + sqrt(more[part]))
        for part, value in [*middle.items(), ("total", total)]
    }
    whole = spans.pop("total")
    tokens = layout.batch * seq
    needed = 3 * forward_flops_per_token(shape, seq) * tokens / (gpu.peak * layout.gpus)
    mfu = Span(needed / whole.value, needed / whole.high, needed / whole.low)
    return Step(parts=spans, total=whole, tokens=tokens, gpus=layout.gpus, mfu=mfu)


def _reached(constants: Constants, gpu: Gpu) -> Iterator[Constants]:
    """The constants of a GPU whose products reach as little, or as much, as its row allows."""
    value, *both = reach(gpu)
    for end in both:
        if end != value:
            yield replace(constants, matmul=constants.matmul * end / value)


def forward_flops_per_token(shape: Shape, seq: int) -> float:
    """FLOPs of a forward, causal pairs once, prediction blocks included."""
    return sum(forward_parts(shape, context=seq).values())


def seconds(
    shape: Shape,
    layout: Layout,
    gpu: Gpu,
    seq: int,
    constants: Constants,
    memo: Memo | None = None,
) -> dict[str, float]:
    """Seconds by class of CLASSES; their sum is the step's. `memo`, empty at first, is for a search
    over layouts with all else the same."""
    if seq < 1:
        raise CostError(f"the sequence is {seq} tokens long: give a positive number")
    return Work(shape, layout, gpu, seq, constants, memo).step()
