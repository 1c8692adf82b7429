"""The share of a run's hours that train: failures, checkpoints, restarts and stragglers.

With M = MTBF of one GPU / GPUs, C seconds a checkpoint and R a restart, and a checkpoint every tau:
goodput = 1 - C / tau - tau / (2 M) - R / M, and the best tau is sqrt(2 C M) (Young, Daly).
Failures are taken to be independent and at a constant rate; where they come faster than a
checkpoint and a restart take, first-order terms no longer add up, and that is an error.
"""

from dataclasses import dataclass
from math import log, sqrt

from benthic.cost.catalog.load import CostError


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


def goodput(
    gpus: int,
    gpu_mtbf: float,
    *,
    checkpoint: float = 30.0,
    restart: float = 300.0,
    interval: float | None = None,
    straggle: float = 0.0,
) -> Goodput:
    """Goodput of `gpus` GPUs of which each fails once in `gpu_mtbf` seconds.

    `checkpoint` and `restart` are seconds that training stands still; `interval` defaults to the
    best. `straggle` is the relative spread (standard deviation) of one GPU's step: the job waits
    for the slowest. Raises CostError where nothing would be left.
    """
    for name, value in (("GPUs", gpus), ("the MTBF of a GPU", gpu_mtbf)):
        if not value > 0:
            raise CostError(f"{name} is {value!r}: give a number above zero")
    for name, value in (("checkpoint", checkpoint), ("restart", restart), ("straggle", straggle)):
        if not value >= 0:
            raise CostError(f"{name} is {value!r}: give zero or more")
    mtbf = gpu_mtbf / gpus
    tau = best_interval(checkpoint, mtbf) if interval is None else interval
    if tau <= 0 and checkpoint > 0:
        raise CostError(f"the interval between checkpoints is {tau!r} s: give a number above zero")
    saving = checkpoint / tau if tau > 0 else 0.0
    lost, restarting = tau / (2 * mtbf), restart / mtbf
    up = 1 - saving - lost - restarting
    if up <= 0:
        raise CostError(
            f"{gpus} GPUs fail every {mtbf:.0f} s, sooner than checkpoints of {checkpoint:g} s and "
            f"restarts of {restart:g} s allow: shorten both or use fewer GPUs"
        )
    slower = slowest(gpus, straggle)
    useful = up / slower
    return Goodput(useful, saving, lost, restarting, up - useful, tau, mtbf)


def best_interval(checkpoint: float, mtbf: float) -> float:
    """Seconds between checkpoints that lose least, sqrt(2 C M)."""
    return sqrt(2 * checkpoint * mtbf)


def slowest(gpus: int, straggle: float) -> float:
    """Time of the slowest of `gpus` over the mean, each normal with deviation `straggle`: about
    1 + straggle * sqrt(2 ln n), the leading term of the expected maximum."""
    return 1 + straggle * sqrt(2 * log(gpus)) if gpus > 1 else 1.0
