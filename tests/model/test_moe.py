"""Sparse layers: fast experts against the loop, selection, balance, replay."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from benthic.model.config import ModelConfig
from benthic.model.moe import (
    Experts,
    Router,
    Routing,
    SparseMLP,
    balance_bias,
    experts_reference,
    select_reference,
    sequence_balance,
)
from benthic.model.transformer import LanguageModel


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def experts_of(config: ModelConfig, seed: int = 0) -> Experts:
    module = Experts(config)
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(0.0, 0.3, generator=generator(seed))
    return module


def routes(N: int, K: int, E: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, distinct expert ids a token, combine weights."""
    g = generator(seed)
    ids = torch.rand(N, E, generator=g).topk(K).indices
    return torch.randn(N, 32, generator=g), ids, torch.rand(N, K, generator=g)


def gradients(
    run: Callable[[Tensor, Tensor, Tensor], Tensor],
    module: Experts,
    x: Tensor,
    ids: Tensor,
    w: Tensor,
) -> list[Tensor]:
    """Output and the gradients of tokens, combine weights and experts for one cotangent."""
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    out = run(x, ids, w)
    cotangent = torch.randn(out.shape, generator=generator(9))
    return [out, *torch.autograd.grad(out, [x, w, *module.parameters()], cotangent)]


@given(N=st.integers(1, 40), K=st.integers(1, 4), seed=st.integers(0, 1000))
def test_grouped_experts_are_the_loop(tiny: ModelConfig, N: int, K: int, seed: int) -> None:
    """Forward and every gradient, also where experts get no token."""
    module, (x, ids, w) = experts_of(tiny), routes(N, K, 8, seed)
    fast = gradients(module, module, x, ids, w)
    slow = gradients(lambda *a: experts_reference(module, *a), module, x, ids, w)
    for ours, expected in zip(fast, slow, strict=True):
        torch.testing.assert_close(ours, expected, atol=2e-5, rtol=2e-5)


def test_few_tokens_take_the_gathered_path(
    tiny: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, (x, ids, w) = experts_of(tiny), routes(4, 2, 8, 0)
    monkeypatch.setattr("benthic.model.moe.F.grouped_mm", None)
    with torch.no_grad():
        torch.testing.assert_close(
            module(x, ids, w), experts_reference(module, x, ids, w), atol=1e-5, rtol=1e-5
        )


def test_one_expert_a_token_on_the_gathered_path(tiny: ModelConfig) -> None:
    module, (x, ids, w) = experts_of(tiny), routes(5, 1, 8, 1)
    with torch.no_grad():
        torch.testing.assert_close(
            module._few(x, ids, w), experts_reference(module, x, ids, w), atol=1e-5, rtol=1e-5
        )


def test_double_precision_runs_as_a_loop(tiny: ModelConfig) -> None:
    """grouped_mm does not take it; the slow path must be taken, not an error raised."""
    module, (x, ids, w) = experts_of(tiny).double(), routes(20, 2, 8, 0)
    out = module(x.double(), ids, w.double())
    assert torch.equal(out, experts_reference(module, x.double(), ids, w.double()))


def test_an_expert_without_tokens_has_zero_gradient(tiny: ModelConfig) -> None:
    module, (x, ids, w) = experts_of(tiny), routes(30, 2, 5, 3)
    for p in module.parameters():
        poison = torch.full_like(p, torch.nan)  # what unwritten memory might hold
        del poison
    module(x, ids, w).square().sum().backward()
    for p in module.parameters():
        assert p.grad is not None
        assert p.grad[:5].abs().amax(dim=(1, 2)).gt(0).all()
        assert (p.grad[5:] == 0).all()


@st.composite
def selections(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    groups, size = draw(st.sampled_from([1, 2, 4])), draw(st.integers(2, 5))
    kept = draw(st.integers(1, groups))
    chosen = draw(st.integers(1, kept * size))
    shape = {
        "n_routed_experts": groups * size,
        "n_group": groups,
        "topk_group": kept,
        "num_experts_per_tok": chosen,
    }
    return shape, draw(st.integers(0, 2**31))


V2 = {
    "model_type": "deepseek_v2",
    "topk_method": "group_limited_greedy",
    "norm_topk_prob": False,
    "num_nextn_predict_layers": 0,
}


@given(case=selections(), shift=st.sampled_from([-3.0, -1.0, 0.0]))
def test_selection_is_group_limited(
    tiny: ModelConfig, case: tuple[dict[str, Any], int], shift: float
) -> None:
    """Also where all biased scores are negative, so that a group masked with 0 would win."""
    shape, seed = case
    config, g = replace(tiny, **shape), generator(seed)
    router = Router(config)
    scores = torch.rand(6, config.n_routed_experts, generator=g)
    assert router.e_score_correction_bias is not None
    router.e_score_correction_bias.normal_(shift, 0.5, generator=g)
    ids = router.select(scores).tolist()
    assert all(len(set(row)) == len(row) for row in ids)
    assert [set(row) for row in ids] == select_reference(router, scores)


@given(case=selections())
def test_selection_of_v2_goes_by_each_groups_best(
    tiny: ModelConfig, case: tuple[dict[str, Any], int]
) -> None:
    shape, seed = case
    config = replace(tiny, **V2, **shape)
    router = Router(config)
    assert router.e_score_correction_bias is None
    scores = torch.rand(6, config.n_routed_experts, generator=generator(seed)).softmax(-1)
    ids = router.select(scores).tolist()
    assert [set(row) for row in ids] == select_reference(router, scores)


def test_a_group_of_v2_counts_by_its_best_one(tiny: ModelConfig) -> None:
    """One great expert among poor ones wins over two good ones."""
    changes = {"n_routed_experts": 8, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 1}
    scores = torch.tensor([[0.3, 0.1, 0.05, 0.05, 0.2, 0.2, 0.05, 0.05]])
    assert Router(replace(tiny, **V2, **changes)).select(scores).item() == 0


def test_a_group_counts_by_its_best_two(tiny: ModelConfig) -> None:
    """One great expert among poor ones loses to two good ones."""
    config = replace(tiny, n_routed_experts=8, n_group=2, topk_group=1, num_experts_per_tok=1)
    scores = torch.tensor([[0.9, 0.1, 0.1, 0.1, 0.6, 0.6, 0.5, 0.1]])
    assert Router(config).select(scores).item() in (4, 5)


def test_bias_selects_and_never_weighs(tiny: ModelConfig) -> None:
    config = replace(tiny, routed_scaling_factor=2.5)
    router = Router(config)
    scores = torch.tensor([[0.9, 0.8, 0.1, 0.3, 0.2, 0.2, 0.2, 0.2]])
    router.e_score_correction_bias[2:4] = 5.0
    ids = router.select(scores)
    assert set(ids[0].tolist()) == {2, 3}
    weight = dict(zip(ids[0].tolist(), router.weigh(scores, ids)[0].tolist(), strict=True))
    assert weight[2] == pytest.approx(2.5 * 0.1 / 0.4) and weight[3] == pytest.approx(
        2.5 * 0.3 / 0.4
    )


def test_weights_stay_scores_where_not_normed(tiny: ModelConfig) -> None:
    router = Router(replace(tiny, norm_topk_prob=False, routed_scaling_factor=3.0))
    weight = router.weigh(torch.tensor([[0.5, 0.25, 0.0]]), torch.tensor([[1, 0]]))
    assert weight.tolist() == [[0.75, 1.5]]


@given(load=st.lists(st.integers(0, 100), min_size=2, max_size=16), rate=st.floats(1e-4, 0.1))
def test_bias_moves_a_fixed_amount_against_the_load(load: list[int], rate: float) -> None:
    """Each by its own sign: the sum of the biases is free to move, nothing is centred."""
    bias, mean = torch.zeros(len(load)), sum(load) / len(load)
    balance_bias(bias, torch.tensor(load), rate)
    signs = [(tokens < mean) - (tokens > mean) for tokens in load]
    torch.testing.assert_close(bias, torch.tensor([rate * sign for sign in signs]))


def test_bias_evens_a_skewed_load(tiny: ModelConfig) -> None:
    router, g = Router(tiny), generator(0)
    with torch.no_grad():
        router.weight.normal_(0.0, 0.1, generator=g)

    def load() -> Tensor:
        x = torch.randn(512, 32, generator=g) + 1  # a common part favours some experts
        with torch.no_grad():
            ids = router.select(router(x))
        return torch.bincount(ids.flatten(), minlength=8)

    before = load()
    for _ in range(200):
        balance_bias(router.e_score_correction_bias, load(), 0.005)
    after = load()
    assert before.max() > 2 * before.float().mean()
    assert after.max() < 1.25 * after.float().mean()


def test_sequence_balance_is_the_printed_sum() -> None:
    """V3 eq. 17-20 by loops, alpha left out; no gradient through f."""
    B, T, E, K = 3, 7, 6, 2
    scores = torch.rand(B, T, E, generator=generator(0)).requires_grad_()
    losses = []
    for b in range(B):
        loss = torch.zeros(())
        for i in range(E):
            taken = sum(i in scores[b, t].topk(K).indices.tolist() for t in range(T))
            f = E / (K * T) * taken
            share = [scores[b, t, i] / sum(scores[b, t, j] for j in range(E)) for t in range(T)]
            loss = loss + f * sum(share) / T
        losses.append(loss)
    expected = sum(losses) / B
    ours = sequence_balance(scores, K)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, scores)[0] for loss in (ours, expected)), atol=1e-6, rtol=1e-4
    )


def test_sequence_balance_is_one_when_even() -> None:
    even = torch.eye(4)[None] * 0.5 + 0.25
    assert sequence_balance(even, 1).item() == pytest.approx(1.0)


def test_replay_takes_the_ids_given(model: LanguageModel) -> None:
    tokens = torch.arange(12).view(2, 6)
    given_ids = torch.rand(2, 6, 2, 8, generator=generator(1)).topk(2).indices
    routing = Routing(replay=given_ids)
    with torch.no_grad():
        replayed, free = model(tokens, routing=routing), model(tokens)
    assert torch.equal(routing.chosen(), given_ids)
    assert not torch.allclose(replayed, free, atol=1e-3)


def test_replay_of_its_own_choice_changes_nothing(model: LanguageModel) -> None:
    tokens, own = torch.arange(12).view(2, 6), Routing()
    with torch.no_grad():
        free = model(tokens, routing=own)
        replayed = model(tokens, routing=Routing(replay=own.chosen()))
    assert torch.equal(free, replayed)


def test_router_learns_under_replay(tiny: ModelConfig) -> None:
    """Ids are fixed, weights are not: they come from the router's fresh scores."""
    module = SparseMLP(tiny)
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(0.0, 0.3, generator=generator(2))
    x = torch.randn(1, 5, 32, generator=generator(3))
    ids = torch.tensor([0, 1]).expand(1, 5, 1, 2)
    module(x, Routing(replay=ids)).square().sum().backward()
    grad = module.gate.weight.grad
    assert grad is not None
    assert (grad[:2].abs().sum(dim=1) > 0).all() and (grad[2:] == 0).all()
