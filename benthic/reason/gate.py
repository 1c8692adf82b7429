"""Go or no-go before reinforcement: RL selects and sharpens what pretraining planted.

Where worked answers are not yet clearly better than direct ones, or hardly ever sampled, reward has
nothing to amplify, and measured runs gained nothing.
"""

from dataclasses import asdict, dataclass
from typing import Any

from benthic.config import ReasonConfig


@dataclass(frozen=True)
class Gate:
    """Figures at temperature 1; accuracies are 0 where no such answer was sampled."""

    passed: bool
    worked_accuracy: float
    direct_accuracy: float
    worked_share: float
    samples: int
    forced: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def judge(sampled: dict[str, Any], config: ReasonConfig, *, forced: bool) -> Gate:
    """Apply the two thresholds to the `sampled` part of an evaluation."""
    worked, direct = sampled["worked_accuracy"] or 0.0, sampled["direct_accuracy"] or 0.0
    share = sampled["think_share"]
    passed = worked - direct >= config.gate_gap and share >= config.gate_share
    count = sampled["worked_count"] + sampled["direct_count"]
    return Gate(passed, worked, direct, share, count, forced)
