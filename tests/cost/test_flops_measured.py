"""Counts from the shape alone against PyTorch's counter on a real forward.

The counter knows plain and batched matrix products but not grouped ones, so the experts run as
their loop; and it knows attention only as products, so the plain kernel is asked for. That kernel
fills the whole square of T * T pairs, which the formula is given here instead of the causal half.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benthic.config import load
from benthic.cost.network.flops import (
    cache_elements_per_token,
    decode_flops,
    forward_flops,
    parameters,
    training_flops,
)
from benthic.model.config import ModelConfig
from benthic.model.moe import Router
from benthic.model.transformer import LanguageModel

B, T = 5, 12  # 5 tokens take more experts than there are, so decoding runs the loop too

# Values as wide as the keys (8 + 8): narrower ones are padded to that, which the kernel pays for
# and the formula leaves out.
CHANGES: dict[str, dict[str, Any]] = {
    "plain": {"v_head_dim": 16},
    "query latent": {"v_head_dim": 16, "q_lora_rank": 12},
    "two shared experts": {"v_head_dim": 16, "n_shared_experts": 2, "num_experts_per_tok": 3},
    "all sparse": {"v_head_dim": 16, "first_k_dense_replace": 0},
    "all dense": {"v_head_dim": 16, "first_k_dense_replace": 3},
    "longer keys": {"v_head_dim": 24, "qk_nope_head_dim": 16},
}
shapes = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
Build = Callable[..., LanguageModel]


@pytest.fixture(autouse=True)
def loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benthic.model.moe._grouped_mm_runs", lambda x: False)


def measured(work: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return counter.get_total_flops()


@shapes
def test_forward(tiny: ModelConfig, seeded: Build, change: dict[str, Any]) -> None:
    config = replace(tiny, **change)
    model, tokens = seeded(config), torch.zeros(B, T, dtype=torch.int64)
    spent = measured(lambda: model.lm_head(model(tokens)))
    assert spent == forward_flops(config, tokens=B * T, pairs=B * T * T)


@shapes
def test_forward_with_look_ahead(tiny: ModelConfig, seeded: Build, change: dict[str, Any]) -> None:
    config = replace(tiny, **change)
    model, tokens = seeded(config), torch.zeros(B, T, dtype=torch.int64)

    def work() -> None:
        hidden = model(tokens)
        model.lm_head(hidden)
        model.lm_head(model.look_ahead(hidden, tokens))

    assert measured(work) == forward_flops(config, tokens=B * T, pairs=B * T * T, mtp=True)


def test_training_is_three_forwards(tiny: ModelConfig, seeded: Build) -> None:
    """Backward included, where each product has two."""
    config = replace(tiny, v_head_dim=16)
    model = seeded(config)
    tokens = torch.randint(0, 264, (B, T), generator=torch.Generator().manual_seed(0))
    spent = measured(lambda: model.lm_head(model(tokens)).sum().backward())
    assert spent == training_flops(config, tokens=B * T, pairs=B * T * T)


@shapes
def test_decode(tiny: ModelConfig, seeded: Build, change: dict[str, Any]) -> None:
    """Every row stands at the last place of a cache of T, so it meets T pairs."""
    config = replace(tiny, **change)
    model = seeded(config)
    cache = torch.zeros(3, B, T, config.kv_lora_rank + config.qk_rope_head_dim)
    at, token = torch.full((B,), T - 1), torch.zeros(B, dtype=torch.int64)
    with torch.no_grad():
        spent = measured(lambda: model.decode(token, at, cache, torch.zeros(B, T)))
    assert spent == decode_flops(config, tokens=B, pairs=B * T)
    assert cache[:, 0, 0].numel() == cache_elements_per_token(config)


@pytest.mark.parametrize("change", [*CHANGES.values(), {"num_nextn_predict_layers": 0}])
def test_parameters(tiny: ModelConfig, change: dict[str, Any]) -> None:
    """Weights and the routers' biases, which are no parameters to PyTorch."""
    config = replace(tiny, **change)
    model = LanguageModel(config)
    biases = [m.e_score_correction_bias for m in model.modules() if isinstance(m, Router)]
    elements = sum(p.numel() for p in [*model.parameters(), *biases])
    assert elements == parameters(config)["total_with_mtp"]


def test_parameters_of_the_laptop_recipe() -> None:
    config = load("laptop").model
    assert len(LanguageModel(config).routers) == config.num_moe_layers + 1
    elements = sum(t.numel() for t in LanguageModel(config).state_dict().values())
    assert elements == parameters(config)["total_with_mtp"]
