"""Whether fewer GPUs than there are finish earlier: 9,984 of 10,000 divide in more ways.

Looked at are counts of up to a twentieth fewer, in whole nodes, whose number has a larger power of
two than the one that was named: degrees of parallelism are mostly powers of two, those of experts
above all. The batch stays the same.
"""

from dataclasses import dataclass, replace

from benthic.cost.catalog.load import Catalog, CostError, Gpu
from benthic.cost.planner.basis import Basis, Question, basis

LEAST = 0.95  # of the GPUs that there are
_MOST_TRIED = 4
_EARLIER, _CHEAPER, _AS_SOON = 0.99, 0.96, 1.01


@dataclass(frozen=True)
class Fewer:
    """So many GPUs, and days and GPU-hours of the median run on them."""

    gpus: int
    days: float
    gpu_hours: float


def fewer(question: Question, known: Basis, catalog: Catalog) -> Fewer | None:
    """The count that finishes first, where it is earlier than on all GPUs, or as soon and cheaper;
    None where all are best, and where the layout is given."""
    if question.layout is not None or question.pace is not None:
        return None
    asked = replace(question, batch=known.batch)
    tried = []
    for count in counts(known.gpus, known.gpu):
        try:
            tried.append(basis(asked, catalog, count))
        except CostError:
            continue
    if not tried:
        return None
    best = min(tried, key=_days)
    days, hours = _days(best) / _days(known), best.hours.p50 / known.hours.p50
    if not (days < _EARLIER or (days < _AS_SOON and hours < _CHEAPER)):
        return None
    return Fewer(best.gpus, _days(best), best.hours.p50)


def counts(gpus: int, gpu: Gpu) -> list[int]:
    """What may do better than `gpus`, the largest powers of two first."""
    node = min(gpu.per_node, 8)
    found = []
    power = 1 << gpus.bit_length()
    while power > max(gpus & -gpus, node // 2):
        count = gpus // power * power
        if LEAST * gpus <= count < gpus and count % node == 0 and count not in found:
            found.append(count)
        power //= 2
    return found[:_MOST_TRIED]


def _days(known: Basis) -> float:
    return known.hours.p50 / known.gpus / 24
