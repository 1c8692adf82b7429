"""The layout that a run should take: of those that divide and fit, the one with the fastest step.

Every candidate of `benthic.cost.step.layout` is looked at, at the batch that the run wants; of
those, the first that fits is taken, fastest first. What is computed again in the backward takes
time and saves memory, so more of it is timed only where less does not fit. Batch sizes that nobody
has chosen follow the model's size.
"""

from dataclasses import dataclass, replace
from heapq import heappop, heappush
from math import inf, log2
from typing import get_args

from benthic.cost.catalog.load import Catalog, CostError, Gpu
from benthic.cost.network.activations import Recompute
from benthic.cost.network.flops import parameters
from benthic.cost.network.shape import Shape
from benthic.cost.planner.words import plural
from benthic.cost.step.calibrate import load_constants
from benthic.cost.step.goodput import usual_goodput
from benthic.cost.step.layout import Layout, Optimizer, Precision, candidates
from benthic.cost.step.memory import DoesNotFit, Memory, memory, usable
from benthic.cost.step.speed import forward_flops_per_token, seconds
from benthic.cost.step.work import Memo

USUAL_DAYS = 40  # an assumption: published runs took 10 to 90
MOST_GPUS = 16384
_MORE: tuple[Recompute, ...] = get_args(Recompute)  # none, selective, full


class TooFewSequences(CostError):
    """A step of so many sequences cannot be shared by so many GPUs; fewer may share it."""


@dataclass(frozen=True)
class Choice:
    """`layout` takes `seconds` a step of `layout.batch` sequences, and `memory` a GPU."""

    layout: Layout
    seconds: float
    memory: Memory
    tried: int
    faster_but_too_large: int


def fastest(
    shape: Shape,
    gpu: Gpu,
    gpus: int,
    seq: int,
    *,
    batch: int = 0,
    precision: Precision = "bf16",
    optimizer: Optimizer = "adamw",
) -> Choice:
    """The fastest layout on `gpus` GPUs for steps of about `batch` tokens (0: `usual_batch`).

    Raises TooFewSequences where no layout shares the batch, DoesNotFit where none fits.
    """
    constants, memo = load_constants(), Memo()
    sequences = max(1, (batch or usual_batch(shape, gpus)) // seq)
    least, tried, found = inf, 0, 0
    waiting: list[tuple[float, int, float, Layout]] = []

    def time(layout: Layout) -> None:
        nonlocal found
        found += 1
        step = sum(seconds(shape, layout, gpu, seq, constants, memo).values())
        heappush(waiting, (step / layout.batch, found, step, layout))

    for one in candidates(
        shape, gpus, gpu.per_node, seq=seq, precision=precision, optimizer=optimizer
    ):
        least = min(least, one.data * one.micro_batch)
        micro = sequences / (one.data * one.micro_batch)
        if micro < 1:
            continue
        tried += 1
        if one.recompute == _MORE[0]:  # to compute again takes longer and saves memory
            time(replace(one, micro_batches=round(micro)))
    if not tried:
        raise TooFewSequences(
            f"steps of {plural(sequences, 'sequence')} of {plural(seq, 'token')} are too few for "
            f"{plural(gpus, 'GPU')}: use fewer (--count), or {least * seq:,} tokens a step "
            "(--batch-tokens)"
        )
    too_large = 0
    while waiting:
        _, _, step, layout = heappop(waiting)
        held = memory(shape, layout, seq)
        if held.total <= usable(gpu):
            return Choice(layout, step, held, tried, too_large)
        too_large += 1
        if layout.recompute != _MORE[-1]:
            more = _MORE[_MORE.index(layout.recompute) + 1]
            time(replace(layout, recompute=more))
    raise DoesNotFit(
        f"{shape.name} fits {gpus:,} {gpu.name} in no layout with {plural(sequences, 'sequence')} "
        "a step: use more GPUs or GPUs with more memory"
    )


def usual_batch(shape: Shape, gpus: int) -> int:
    """Tokens a step where nobody says: 4M at 7B active parameters, with their 0.4th power, but
    8,192 a GPU at least; a power of two from 512K to 16M. An assumption: published runs scatter by
    a factor of four."""
    wanted = max(8192 * gpus, 2**22 * (parameters(shape)["active"] / 7e9) ** 0.4)
    return int(2 ** round(log2(min(2**24, max(2**19, wanted)))))


@dataclass(frozen=True)
class CleanRun:
    """A run as the model of a step has it, before what real runs add. Hours are GPU-hours."""

    choice: Choice
    gpus: int
    active: float
    """parameters that a token meets"""
    goodput: float
    ideal_hours: float
    """needed FLOPs at full peak"""
    hours: float
    """steps at the predicted time, over goodput"""


def clean_run(
    shape: Shape,
    gpu: Gpu,
    tokens: float,
    seq: int,
    catalog: Catalog,
    *,
    gpus: int = 0,
    most: int = MOST_GPUS,
    batch: int = 0,
    precision: Precision = "bf16",
) -> CleanRun:
    """Hours of `tokens` on the fastest layout, with the catalog's failures; `gpus` 0: as many as
    finish in USUAL_DAYS, `most` of them, doubled until the model fits. Raises CostError as
    `fastest` does."""
    if not tokens > 0:
        raise CostError(f"a run of {tokens!r} tokens costs nothing: give a number above zero")
    ideal = 3 * forward_flops_per_token(shape, seq) * tokens / gpu.peak / 3600
    count = gpus or min(most, usual_gpus(ideal))
    while True:
        try:
            chosen = fastest(shape, gpu, count, seq, batch=batch, precision=precision)
            break
        except DoesNotFit:
            if gpus or count >= MOST_GPUS:
                raise
            count *= 2
    useful = usual_goodput(catalog, count).useful
    hours = chosen.seconds * tokens / (chosen.layout.batch * seq) * count / 3600 / useful
    return CleanRun(chosen, count, parameters(shape)["active"], useful, ideal, hours)


def usual_gpus(ideal_hours: float) -> int:
    """GPUs that finish in USUAL_DAYS at 35 % of the peak, a power of two from 8 to MOST_GPUS."""
    wanted = max(8.0, ideal_hours / 0.35 / 24 / USUAL_DAYS)
    return int(min(MOST_GPUS, 2 ** round(log2(wanted))))
