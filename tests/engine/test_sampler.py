"""Drawing a token: exact shares, edges of the uniform, draws that belong to the request."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from benthic.engine.sampler import SamplingParams, choose, uniforms
from benthic.model.transformer import LanguageModel, token_log_probs

logits = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40)
JUST_UNDER_ONE = math.nextafter(1.0, 0.0)


def drawn(row: list[float], uniform: Tensor, temperature: float = 1.0) -> Tensor:
    return choose(torch.tensor(row).expand(len(uniform), -1), uniform, temperature)[0]


@given(row=logits, temperature=st.sampled_from([0.3, 1.0, 2.5]))
def test_shares_are_the_distribution(row: list[float], temperature: float) -> None:
    """An even grid of uniforms falls on a token as often as its probability says, to within one."""
    N = 4000
    grid = (torch.arange(N, dtype=torch.float64) + 0.5) / N
    counts = torch.bincount(drawn(row, grid, temperature), minlength=len(row))
    expected = (torch.tensor(row).double() / temperature).softmax(0) * N
    assert (counts - expected).abs().max() <= 1 + 1e-2


@given(row=logits, seed=st.integers(0, 1000))
def test_token_rises_with_the_uniform(row: list[float], seed: int) -> None:
    points = torch.rand(50, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    tokens = drawn(row, points.sort().values)
    assert (tokens.diff() >= 0).all()


@given(row=logits, uniform=st.floats(0, 1, exclude_max=True))
def test_temperature_zero_is_the_greatest(row: list[float], uniform: float) -> None:
    (token,) = drawn(row, torch.tensor([uniform], dtype=torch.float64), 0).tolist()
    assert row[token] >= max(row) - 1e-5  # nearer ones may round to the same log-probability


@given(
    row=st.lists(st.floats(-30, 30, width=32) | st.just(-math.inf), min_size=1, max_size=20),
    uniform=st.floats(0, 1, exclude_max=True) | st.sampled_from([0.0, JUST_UNDER_ONE]),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 100.0]),
)
def test_impossible_tokens_are_never_drawn(
    row: list[float], uniform: float, temperature: float
) -> None:
    """Not at either end of the uniform, and never an index out of range."""
    assume(max(row) > -math.inf)
    (token,) = drawn(row, torch.tensor([uniform], dtype=torch.float64), temperature).tolist()
    assert 0 <= token < len(row) and row[token] > -math.inf


@given(row=logits, top_p=st.floats(0.01, 1), temperature=st.sampled_from([0.5, 1.0]))
def test_top_p_draws_from_the_fewest_tokens_that_reach_it(
    row: list[float], top_p: float, temperature: float
) -> None:
    """As a loop over the sorted tokens has it, and in their old shares."""
    N = 2000
    grid = (torch.arange(N, dtype=torch.float64) + 0.5) / N
    scaled = torch.tensor([row]).log_softmax(-1) / temperature
    p = scaled.double().softmax(-1)[0]
    kept, reached = set[int](), 0.0
    for token in sorted(range(len(row)), key=lambda i: -p[i].item()):
        if abs(reached - top_p) < 1e-9:
            assume(False)  # whether it is reached is a matter of rounding
        if reached >= top_p:
            break
        kept.add(token)
        reached += p[token].item()
    tokens, log_p = choose(torch.tensor(row).expand(N, -1), grid, temperature, top_p)
    counts = torch.bincount(tokens, minlength=len(row))
    inside = torch.tensor([i in kept for i in range(len(row))])
    expected = p.where(inside, 0.0) / reached * N
    assert (counts - expected).abs().max() <= 1 + 1e-2 and not counts[~inside].any()
    torch.testing.assert_close(log_p, torch.tensor(row).log_softmax(0)[tokens])


@given(row=logits, uniform=st.floats(0, 1, exclude_max=True), temperature=st.floats(0, 5))
def test_log_probability_is_at_temperature_one(
    row: list[float], uniform: float, temperature: float
) -> None:
    points = torch.tensor([uniform], dtype=torch.float64)
    token, log_p = choose(torch.tensor([row]), points, temperature)
    expected = torch.tensor(row).log_softmax(0)[token]
    torch.testing.assert_close(log_p, expected)


def test_engine_and_trainer_take_log_probabilities_of_bf16_logits_in_fp32() -> None:
    """Both within 1e-5 of fp64, so the importance ratio on policy is one."""
    logits_BV = torch.randn(64, 512, generator=torch.Generator().manual_seed(0)).mul(4).bfloat16()
    points = torch.rand(64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    token, sampled = choose(logits_BV, points, 1.0)
    head = cast(LanguageModel, SimpleNamespace(lm_head=nn.Identity()))
    trained = token_log_probs(head, logits_BV[:, None], token[:, None])[:, 0]
    exact = logits_BV.double().log_softmax(-1).gather(1, token[:, None])[:, 0]
    assert sampled.dtype == trained.dtype == torch.float32
    assert (sampled - exact).abs().max() <= 1e-5
    assert (trained - exact).abs().max() <= 1e-5
    assert ((trained - sampled).exp() - 1).abs().max() <= 1e-5


@given(
    seed=st.integers(0, 2**32),
    keys=st.lists(st.integers(0, 2**40), min_size=1, max_size=8),
    count=st.integers(1, 20),
)
def test_a_row_of_uniforms_belongs_to_its_key(seed: int, keys: list[int], count: int) -> None:
    rows = uniforms(seed, keys, count)
    assert rows.shape == (len(keys), count) and (rows >= 0).all() and (rows < 1).all()
    for key, row in zip(keys, rows, strict=True):
        assert np.array_equal(uniforms(seed, [key], count + 5)[0, :count], row)


def test_other_seeds_and_keys_give_other_uniforms() -> None:
    keys = [0, 1, 2, 3, 4, 999, 2**40]
    rows = np.concatenate([uniforms(seed, keys, 4) for seed in (0, 1, 2**31)])
    assert len(np.unique(rows)) == rows.size


@pytest.mark.parametrize(
    "bad",
    [
        lambda: SamplingParams(temperature=-1),
        lambda: SamplingParams(temperature=math.nan),
        lambda: SamplingParams(max_new_tokens=0),
    ],
)
def test_senseless_settings_are_refused(bad: Callable[[], SamplingParams]) -> None:
    with pytest.raises(ValueError, match="is"):
        bad()


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="seed is"):
        SamplingParams(seed=seed)
