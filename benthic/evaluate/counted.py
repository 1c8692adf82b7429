"""A sampler that counts what passes through it, for the bill.

Evaluation asks a model in many places; wrapped once, all of it is metered in tokens and FLOPs
without any of them knowing.
"""

from collections.abc import Sequence

from benthic.engine.engine import Samples
from benthic.engine.sampler import SamplingParams
from benthic.reason.sampler import Sampler


class Counted:
    """Fulfils `Sampler`; `tokens` (prompts included) and `flops` add up over the calls."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.tokens = 0
        self.flops = 0

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        keys: Sequence[int] | None = None,
    ) -> Samples:
        samples = self.sampler.sample(prompts, params, keys)
        self.tokens += int(samples.lengths.sum())
        self.flops += samples.flops
        return samples
