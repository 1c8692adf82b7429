"""P10, P50 and P90: seeded, about the values, and the widest input first."""

import math
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic.cost.catalog.load import CostError
from benthic.cost.spread import draws, monte_carlo, quantile, spread, tornado


def triangle(low: float, value: float, high: float) -> SimpleNamespace:
    return SimpleNamespace(low=low, value=value, high=high)


@pytest.mark.parametrize(("low", "value", "high"), [(0, 1, 4), (2, 2, 3), (-1, 5, 5)])
def test_half_of_the_draws_lie_on_either_side(low: float, value: float, high: float) -> None:
    """Each half is a triangle: a tenth of all lies in its far 1/sqrt(5)."""
    found = monte_carlo({"x": triangle(low, value, high)}, lambda v: {"y": v["x"]}, count=20_000)
    wanted = (low + (value - low) / math.sqrt(5), value, high - (high - value) / math.sqrt(5))
    for place, expected in zip(("p10", "p50", "p90"), wanted, strict=True):
        assert getattr(found["y"], place) == pytest.approx(expected, abs=0.02 * (high - low))
    assert [quantile(share, low, value, high) for share in (0, 0.5, 1)] == [low, value, high]


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    inputs = {"a": triangle(0, 1, 2), "b": triangle(3, 3, 3)}
    first = list(draws(inputs, 5, seed=1))
    assert first == list(draws(inputs, 5, seed=1))
    assert first != list(draws(inputs, 5, seed=2))
    assert all(values["b"] == 3 for values in first)
    assert first[0]["a"] == pytest.approx(1.43188, abs=1e-5)  # on any machine


def test_a_further_input_leaves_the_draws_of_the_others_alone() -> None:
    alone = [v["a"] for v in draws({"a": triangle(0, 1, 2)}, 9)]
    both = [v["a"] for v in draws({"b": triangle(0, 1, 2), "a": triangle(0, 1, 2)}, 9)]
    assert alone == both


def test_inputs_are_drawn_independently() -> None:
    inputs = {"a": triangle(0, 0.5, 1), "b": triangle(0, 0.5, 1)}
    pairs = [(v["a"] - 0.5, v["b"] - 0.5) for v in draws(inputs, 5000)]
    spreads = math.prod(math.sqrt(sum(p[i] ** 2 for p in pairs)) for i in (0, 1))
    assert abs(sum(a * b for a, b in pairs)) / spreads < 0.05


def test_spread_of_known_samples() -> None:
    found = spread([float(i) for i in range(11)])
    assert (found.p10, found.p50, found.p90) == (1, 5, 9)
    assert spread([7.0]).p50 == 7


@settings(max_examples=40)
@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=50))
def test_spread_is_in_order_and_inside(samples: list[float]) -> None:
    found = spread(samples)
    slack = 1e-6 * (1 + max(map(abs, samples)))
    assert min(samples) - slack <= found.p10 <= found.p50 + slack
    assert found.p50 <= found.p90 + slack <= max(samples) + 2 * slack


def test_tornado_sorts_by_effect_and_leaves_out_what_has_none() -> None:
    inputs = {
        "small": triangle(0, 1, 2),
        "big": triangle(1, 2, 5),
        "certain": triangle(3, 3, 3),
        "idle": triangle(0, 1, 9),
    }
    swings = tornado(inputs, lambda v: {"y": v["small"] - 10 * v["big"] + v["certain"]}, "y")
    assert [s.key for s in swings] == ["big", "small"]
    assert (swings[0].at_low, swings[0].at_high, swings[0].width) == (-6, -46, 40)


def test_ends_out_of_order_are_refused() -> None:
    with pytest.raises(CostError, match=r"'x' has low 2, value 1, high 3; put them in that order"):
        monte_carlo({"x": triangle(2, 1, 3)}, lambda v: v, count=1)
