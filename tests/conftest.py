"""Fixtures that several folders share: a small shape, lively weights, a private ledger."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from benthic.model.config import ModelConfig
from benthic.model.transformer import LanguageModel


def pytest_configure(config: pytest.Config) -> None:
    """No deadline for an example: a busy machine is no error.

    Examples are drawn anew at each run; where CI is set, the same ones for the same code, so that
    a change is judged by what it changes.
    """
    settings.register_profile("benthic", deadline=None, derandomize=bool(os.environ.get("CI")))
    settings.load_profile("benthic")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Shapes are too small to share; on a busy machine threads wait for each other for minutes."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def private_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test writes to the user's ledger."""
    path = tmp_path / "ledger.sqlite"
    monkeypatch.setenv("BENTHIC_LEDGER", str(path))
    return path


@pytest.fixture(scope="session")
def tiny() -> ModelConfig:
    """One dense and two sparse blocks and the prediction block, 32 wide."""
    return ModelConfig(
        vocab_size=264,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=3,
        first_k_dense_replace=1,
        num_attention_heads=2,
        q_lora_rank=None,
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=8,
        v_head_dim=8,
        n_routed_experts=8,
        n_shared_experts=1,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        routed_scaling_factor=1.0,
        num_nextn_predict_layers=1,
        max_position_embeddings=128,
        rope_theta=100.0,
        initializer_range=0.08,
        bos_token_id=256,
        eos_token_id=257,
    )


@pytest.fixture(scope="session")
def seeded() -> Callable[..., LanguageModel]:
    """`seeded(config, seed=0, std=0.25)`: weights at random, wide enough that logits have spread.

    Norms scatter about one and router biases about zero, so that leaving one out shows.
    """

    def build(config: ModelConfig, *, seed: int = 0, std: float = 0.25) -> LanguageModel:
        model = LanguageModel(config)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in model.parameters():
                if p.ndim == 1:
                    p.normal_(1.0, 0.2, generator=generator)
                else:
                    p.normal_(0.0, std, generator=generator)
            for router in model.routers:
                if router.e_score_correction_bias is not None:
                    router.e_score_correction_bias.normal_(0.0, 0.3, generator=generator)
        return model

    return build


@pytest.fixture
def model(tiny: ModelConfig, seeded: Callable[..., LanguageModel]) -> LanguageModel:
    """A fresh tiny model, free to be trained."""
    return seeded(tiny)
