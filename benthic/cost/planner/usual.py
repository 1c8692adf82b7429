"""What a plan asks of practice: the network's usual run on the published GPU most like the user's.

Published runs say how far real ones are from clean steps (`practice`), of networks and chips as
they were trained. So that is asked once, of the planner's own layout on as many GPUs as are usual,
in the network's usual precision and sequences of 4,096 tokens. What the user chooses moves hours as
it moves clean ones: GPU, count, layout, batch, sequence, failure rates, figures of one's own. A GPU
that is worse in everything is then never planned faster than the published one beside it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import date as Day
from functools import lru_cache

from benthic.cost.catalog.load import Catalog, CostError, Gpu, load
from benthic.cost.network.shape import Shape
from benthic.cost.planner.choose import clean_run
from benthic.cost.planner.practice import (
    Practice,
    Traits,
    chip,
    is_sparse,
    likeness_of_chips,
    published_runs,
    real_hours,
)
from benthic.cost.step.layout import Precision
from benthic.cost.step.memory import DoesNotFit

USUAL_SEQ = 4096  # most published runs' since 2023, and a plan's where nobody says
_TOKENS = 1e13  # of the usual run, as recent ones have
_GPUS = 2048  # at most, where the model fits: those that the largest usual batch gives 8,192 tokens


def usual_practice(
    shape: Shape,
    gpu: Gpu,
    precision: Precision,
    *,
    date: float | None = None,
    published: Sequence[Traits] | None = None,
) -> Practice:
    """How far real runs of such a network are from clean ones, for `Practice.of` any clean hours.

    `date` is a year, as 2024.5 (today); `published` are the runs to lean on (the shipped ones).
    Raises CostError where no layout of the usual run fits.
    """
    when = Day.today().year + Day.today().month / 12 if date is None else date
    return real_hours(replace(usual_run(shape, most_alike(gpu), precision), date=when), published)


@lru_cache(maxsize=64)
def usual_run(shape: Shape, gpu: Gpu, precision: Precision) -> Traits:
    """The run that practice is asked about; a GPU without fp8 takes bf16, one without bf16 fp16."""
    longest = (shape.learned_positions and shape.max_positions) or USUAL_SEQ
    seq = min(USUAL_SEQ, longest)
    near: Precision = "bf16" if gpu.has_bf16 else "fp16"
    if precision == "fp8" and gpu.fp8_flops:
        near = "fp8"
    try:
        clean = clean_run(shape, gpu, _TOKENS, seq, _shipped(), most=_GPUS, precision=near)
    except DoesNotFit:
        raise CostError(
            f"{shape.name} is larger than anything that was trained, so nothing tells how far real "
            "runs of it would be from clean steps: take fewer parameters"
        ) from None
    return Traits(
        **vars(chip(gpu)),
        run=shape.name,
        org="",
        date=0.0,
        active=clean.active,
        experts=is_sparse(shape),
        fp16=False,
        seq=USUAL_SEQ,
        ideal_hours=clean.ideal_hours,
        clean_hours=clean.hours,
    )


def most_alike(gpu: Gpu) -> Gpu:
    """The GPU itself if runs on it are published, else the published one that is most like it; of
    several the one with most runs."""
    runs, own = published_runs(), chip(gpu)
    counts = Counter(run.gpu for run in runs)
    nearest = max(runs, key=lambda run: (likeness_of_chips(own, run), counts[run.gpu]))
    return _shipped().gpu(gpu.name if gpu.name in counts else nearest.gpu)


@lru_cache(maxsize=1)
def _shipped() -> Catalog:
    return load()
