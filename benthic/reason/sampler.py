"""Where rollouts come from: anything that turns prompts into `Samples`.

The engine in this process fulfils it; another inference server can, if it returns token ids (never
text to be tokenised again), its own log-probabilities at temperature 1 and the expert ids it used.
"""

from collections.abc import Sequence
from typing import Protocol

from benthic.engine.engine import Samples
from benthic.engine.sampler import SamplingParams


class Sampler(Protocol):
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        keys: Sequence[int] | None = None,
    ) -> Samples:
        """Complete every prompt; the draws of row b depend on `params.seed` and `keys[b]` alone."""
        ...
