"""The share of a run's hours that train: failures, checkpoints, restarts and stragglers.

With M = MTBF of one GPU / GPUs, C seconds a checkpoint and R a restart, and a checkpoint every tau:
goodput = 1 - C / tau - tau / (2 M) - R / M, and the best tau is sqrt(2 C M) (Young, Daly).
Failures are taken to be independent and at a constant rate; where they come faster than a
checkpoint and a restart take, first-order terms no longer add up, and that is an error. A job
waits for its slowest GPU: with steps that differ by a share s from GPU to GPU, normally and
independently, that is 1 + s sqrt(2 ln GPUs) of the mean, the leading term of the expected maximum.
"""

from dataclasses import dataclass
from math import log, sqrt

from benthic.cost.catalog.load import Catalog, CostError

FAILURES = ("gpu_mtbf", "checkpoint_seconds", "restart_seconds", "straggle")


@dataclass(frozen=True)
class Goodput:
    """Shares of the time; `useful` is what is left of 1 after the losses."""

    useful: float
    checkpoints: float
    lost_work: float
    restarts: float
    stragglers: float
    interval: float
    """seconds between checkpoints"""
    job_mtbf: float
    """seconds between failures of the job"""


def usual_goodput(catalog: Catalog, gpus: int) -> Goodput:
    """Goodput of `gpus` GPUs with the catalog's failures, checkpoints, restarts and stragglers."""
    mtbf, checkpoint, restart, straggle = (catalog.figure(key).si for key in FAILURES)
    return goodput(gpus, mtbf, checkpoint=checkpoint, restart=restart, straggle=straggle)


def goodput(
    gpus: int,
    gpu_mtbf: float,
    *,
    checkpoint: float,
    restart: float,
    straggle: float = 0.0,
) -> Goodput:
    """Goodput of `gpus` GPUs of which each fails once in `gpu_mtbf` seconds.

    `checkpoint` and `restart` are seconds that training stands still, `straggle` the relative
    deviation of one GPU's step. Checkpoints come at the best interval. Raises CostError where
    nothing would be left.
    """
    for name, value in (("GPUs", gpus), ("the MTBF of a GPU", gpu_mtbf)):
        if not value > 0:
            raise CostError(f"{name} is {value!r}: give a number above zero")
    for name, value in (("checkpoint", checkpoint), ("restart", restart), ("straggle", straggle)):
        if not value >= 0:
            raise CostError(f"{name} is {value!r}: give zero or more")
    mtbf = gpu_mtbf / gpus
    tau = best_interval(checkpoint, mtbf)
    saving = checkpoint / tau if tau > 0 else 0.0
    lost, restarting = tau / (2 * mtbf), restart / mtbf
    up = 1 - saving - lost - restarting
    if up <= 0:
        raise CostError(
            f"{gpus} GPUs fail every {mtbf:.0f} s, sooner than checkpoints of {checkpoint:g} s and "
            f"restarts of {restart:g} s allow: shorten both or use fewer GPUs"
        )
    useful = up / (1 + straggle * sqrt(2 * log(gpus)))
    return Goodput(useful, saving, lost, restarting, up - useful, tau, mtbf)


def best_interval(checkpoint: float, mtbf: float) -> float:
    """Seconds between checkpoints that lose least, sqrt(2 C M)."""
    return sqrt(2 * checkpoint * mtbf)
