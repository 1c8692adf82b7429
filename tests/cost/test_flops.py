"""Counts against the published DeepSeek-V3 figures, its relatives, and sums done by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benthic.cost.network.flops import (
    cache_elements_per_token,
    causal_pairs,
    decode_flops,
    forward_flops,
    parameters,
    training_flops,
)
from benthic.model.config import ModelConfig

V3 = ModelConfig()
MOONLIGHT = ModelConfig(
    vocab_size=163840,
    hidden_size=2048,
    intermediate_size=11264,
    moe_intermediate_size=1408,
    num_hidden_layers=27,
    first_k_dense_replace=1,
    num_attention_heads=16,
    q_lora_rank=None,
    n_routed_experts=64,
    n_shared_experts=2,
    num_experts_per_tok=6,
    n_group=1,
    topk_group=1,
    num_nextn_predict_layers=0,
)
KIMI_K2 = ModelConfig(
    vocab_size=163840,
    num_attention_heads=64,
    first_k_dense_replace=1,
    n_routed_experts=384,
    n_group=1,
    topk_group=1,
)
TINY = ModelConfig(
    vocab_size=11,
    hidden_size=4,
    intermediate_size=5,
    moe_intermediate_size=8,
    num_hidden_layers=3,
    first_k_dense_replace=1,
    num_attention_heads=2,
    q_lora_rank=6,
    kv_lora_rank=7,
    qk_nope_head_dim=3,
    qk_rope_head_dim=2,
    v_head_dim=9,
    n_routed_experts=4,
    n_shared_experts=1,
    num_experts_per_tok=2,
    n_group=1,
    topk_group=1,
)
# One token, one layer, multiply-adds: q_a, q_b, kv_a, kv_b, o.
TINY_ATTENTION = 4 * 6 + 6 * 2 * 5 + 4 * (7 + 2) + 7 * 2 * (3 + 9) + 2 * 9 * 4
TINY_SPARSE = 4 * 4 + (2 + 1) * 3 * 4 * 8
TINY_TOKEN = 3 * TINY_ATTENTION + 3 * 4 * 5 + 2 * TINY_SPARSE + 4 * 11


def test_v3_parameters() -> None:
    counts = parameters(V3)
    assert counts["total"] == 671_026_419_200
    assert counts["active"] == 37_552_297_472
    assert counts["mtp"] == 11_610_068_224
    assert counts["total_with_mtp"] == counts["total"] + counts["mtp"]
    assert counts["embedding"] == counts["head"] == 926_679_040
    assert counts["attention"] == 61 * 187_107_328
    assert counts["dense_mlp"] == 3 * 396_361_728
    assert counts["experts"] == 58 * 256 * 44_040_192


@pytest.mark.parametrize(
    ("config", "total", "active"),
    [
        (MOONLIGHT, 15_960_110_208, 2_914_776_192),
        (KIMI_K2, 1_026_408_232_448, 32_861_500_928),
    ],
)
def test_relatives(config: ModelConfig, total: int, active: int) -> None:
    counts = parameters(config)
    assert (counts["total"], counts["active"]) == (total, active)


def test_parts_add_up() -> None:
    counts = parameters(MOONLIGHT)
    whole = ("mtp", "total", "total_with_mtp", "active")
    assert sum(n for part, n in counts.items() if part not in whole) == counts["total"]
    assert counts["mtp"] == 0


def test_v3_training_flops() -> None:
    """250.5 GFLOP a token at 4096, head included, as ISCA'25 reports 250; MTP adds some ten."""
    pairs = causal_pairs(4096)
    per_token = training_flops(V3, tokens=4096, pairs=pairs) / 4096
    assert per_token == pytest.approx(250.5e9, abs=0.05e9)
    with_mtp = training_flops(V3, tokens=4096, pairs=pairs, mtp=True) / 4096
    assert with_mtp - per_token == pytest.approx(10.2e9, abs=0.05e9)  # 9.7 matrices, 0.5 attention


def test_tiny_forward_by_hand() -> None:
    pairs = 1 + 2 + 3
    attention = 3 * pairs * 2 * (5 + 9)
    assert forward_flops(TINY, tokens=3, pairs=pairs) == 2 * (3 * TINY_TOKEN + attention)
    mtp = 3 * (2 * 4 * 4 + TINY_ATTENTION + TINY_SPARSE + 4 * 11) + pairs * 2 * (5 + 9)
    expected = 2 * (3 * TINY_TOKEN + attention + mtp)
    assert forward_flops(TINY, tokens=3, pairs=pairs, mtp=True) == expected


def test_tiny_decode_by_hand() -> None:
    contexts = [0, 4, 9]
    absorbed = TINY_TOKEN - 3 * 7 * 2 * (3 + 9) + 3 * 2 * (3 * 7 + 7 * 9)
    scores_and_values = sum(3 * 2 * (context + 1) * (7 + 2 + 7) for context in contexts)
    pairs = sum(context + 1 for context in contexts)
    expected = 2 * (3 * absorbed + scores_and_values)
    assert decode_flops(TINY, tokens=3, pairs=pairs) == expected


def test_cache_elements() -> None:
    assert cache_elements_per_token(V3) == 35_136
    assert cache_elements_per_token(TINY) == 3 * (7 + 2)


def test_mtp_without_a_block_says_so() -> None:
    with pytest.raises(ValueError, match="num_nextn_predict_layers is 0"):
        forward_flops(MOONLIGHT, tokens=1, pairs=1, mtp=True)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_pairs_do_not_depend_on_chunks(first: int, second: int, cached: int) -> None:
    whole = causal_pairs(first + second, cached=cached)
    assert whole == sum(cached + t + 1 for t in range(first + second))
    assert whole == causal_pairs(first, cached=cached) + causal_pairs(second, cached=cached + first)
