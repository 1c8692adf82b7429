"""The schedule of a run as a table: rates and the weight of the MTP loss at the steps they turn."""

from dataclasses import replace

import pytest

from benthic.config import PretrainConfig, ReasonConfig
from benthic.train.schedule import bias_rate, learning_rate, mtp_weight

# Ten steps of warm-up, constant to step 70, linear decay to zero at step 100; gamma off from 95.
CONFIG = PretrainConfig(
    steps=100,
    learning_rate=0.02,
    warmup_steps=10,
    decay_share=0.3,
    bias_rate=0.001,
    bias_off_share=0.05,
    mtp_weight=0.3,
    mtp_weight_late=0.1,
)


@pytest.mark.parametrize(
    ("step", "rate", "gamma", "weight"),
    [
        (0, 0.002, 0.001, 0.3),  # first step: a tenth, not zero
        (9, 0.02, 0.001, 0.3),  # end of the warm-up
        (10, 0.02, 0.001, 0.3),
        (69, 0.02, 0.001, 0.3),
        (70, 0.02, 0.001, 0.1),  # first step of the decay, still whole
        (85, 0.01, 0.001, 0.1),
        (94, 0.004, 0.001, 0.1),
        (95, 0.02 * 5 / 30, 0.0, 0.1),
        (99, 0.02 / 30, 0.0, 0.1),  # last step
    ],
)
def test_pretraining(step: int, rate: float, gamma: float, weight: float) -> None:
    assert learning_rate(step, CONFIG) == pytest.approx(rate)
    assert bias_rate(step, CONFIG) == gamma
    assert mtp_weight(step, CONFIG) == weight


@pytest.mark.parametrize(("step", "rate"), [(0, 1.0), (4, 1.0), (5, 1.0), (7, 0.6), (9, 0.2)])
def test_reinforcement_follows_the_same_rate(step: int, rate: float) -> None:
    config = ReasonConfig(steps=10, learning_rate=1.0, warmup_steps=0, decay_share=0.5)
    assert learning_rate(step, config) == pytest.approx(rate)


def test_shares_of_nothing_turn_nothing_off() -> None:
    still = replace(CONFIG, warmup_steps=0, decay_share=0.0, bias_off_share=0.0)
    for step in (0, 50, 99):
        assert learning_rate(step, still) == 0.02
        assert (bias_rate(step, still), mtp_weight(step, still)) == (0.001, 0.3)
