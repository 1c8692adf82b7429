"""Group-centred advantages and the clipped objective."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benthic.reason.loss import advantages, clipped_objective

groups = st.integers(2, 9).flatmap(
    lambda size: st.lists(
        st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=size, max_size=size),
        min_size=1,
        max_size=6,
    )
)


@given(rewards=groups)
def test_advantages_sum_to_zero_in_each_group(rewards: list[list[float]]) -> None:
    centred, _ = advantages(torch.tensor(rewards))
    assert centred.sum(dim=1).abs().max() <= 1e-5


@given(rewards=groups)
def test_advantages_are_differences_not_divided_by_the_deviation(
    rewards: list[list[float]],
) -> None:
    centred, kept = advantages(torch.tensor(rewards))
    for row, ours, spread in zip(rewards, centred, kept, strict=True):
        expected = [r - sum(row) / len(row) if spread else 0.0 for r in row]
        assert ours.tolist() == pytest.approx(expected, abs=1e-6)


@given(rewards=groups)
def test_groups_without_spread_are_dropped(rewards: list[list[float]]) -> None:
    """Exactly those, and to exactly zero, whatever a mean rounds to."""
    centred, kept = advantages(torch.tensor(rewards))
    assert kept.tolist() == [len(set(row)) > 1 for row in rewards]
    assert (centred[~kept] == 0).all()


def test_a_mean_that_rounds_is_no_advantage() -> None:
    """The mean of seven times 0.1 is not 0.1 in fp32."""
    centred, kept = advantages(torch.full((1, 7), 0.1))
    assert not kept.any() and (centred == 0).all()


CASES = [  # ratio, advantage, objective, gradient in the ratio
    (1.0, 1.0, 1.0, 1.0),
    (1.2, 1.0, 1.2, 1.0),
    (1.5, 1.0, 1.28, 0.0),  # good enough already: no push beyond
    (0.5, 1.0, 0.5, 1.0),  # good and made unlikely: never clipped
    (1.0, -2.0, -2.0, -2.0),
    (0.9, -2.0, -1.8, -2.0),
    (0.5, -2.0, -1.6, 0.0),  # bad and already rare
    (1.5, -2.0, -3.0, -2.0),  # bad and made likely: never clipped
    (7.0, 0.0, 0.0, 0.0),
]


@pytest.mark.parametrize(("ratio", "advantage", "objective", "slope"), CASES)
def test_clipped_objective(ratio: float, advantage: float, objective: float, slope: float) -> None:
    """Bounds 0.8 and 1.28."""
    r = torch.tensor([[ratio]], requires_grad=True)
    ours = clipped_objective(r, torch.tensor([advantage]), 0.2, 0.28)
    ours.sum().backward()
    assert ours.item() == pytest.approx(objective)
    assert r.grad is not None
    assert r.grad.item() == pytest.approx(slope)


@given(ratio=st.floats(0, 10), advantage=st.floats(-3, 3))
def test_objective_is_never_above_the_unclipped_one(ratio: float, advantage: float) -> None:
    ours = clipped_objective(torch.tensor([[ratio]]), torch.tensor([advantage]), 0.2, 0.28)
    assert ours.item() <= ratio * advantage + 1e-5
