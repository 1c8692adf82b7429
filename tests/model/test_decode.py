"""Token by token with a cache against whole sequences: 512 tokens, rows of unequal length."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from benthic.model.config import ModelConfig, RopeScaling
from benthic.model.fp8 import quantise_model
from benthic.model.transformer import LanguageModel

BOUND = 2e-5  # of the logits' spread
YARN = RopeScaling(
    rope_type="yarn",
    factor=8.0,
    original_max_position_embeddings=64,
    mscale=1.0,
    mscale_all_dim=1.0,
)
V2 = {
    "model_type": "deepseek_v2",
    "topk_method": "group_limited_greedy",
    "norm_topk_prob": False,
    "num_nextn_predict_layers": 0,
    "n_group": 4,
    "topk_group": 2,
}
SHAPES: dict[str, dict[str, Any]] = {
    "V3": {"n_group": 4, "topk_group": 2, "q_lora_rank": 12, "rope_scaling": YARN},
    "V3 without a query latent": {},
    "V2": {**V2, "rope_scaling": YARN},
    "Llama": {"model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 2},
    "Qwen2": {"model_type": "qwen2", "num_attention_heads": 4, "num_key_value_heads": 1},
    "Qwen3": {"model_type": "qwen3", "num_attention_heads": 4, "head_dim": 12},
}
LENGTHS = (512, 380, 97)


def check(model: LanguageModel) -> None:
    config, longest = model.config, max(LENGTHS)
    B = len(LENGTHS)
    tokens = torch.randint(0, config.vocab_size, (B, longest), generator=_generator())
    expanded = model.lm_head(model(tokens))
    cache = torch.zeros(config.num_hidden_layers, B, longest, config.cache_width)
    # Rows are fed in step; a row's token at step t stands at t minus the row's late start.
    late = torch.tensor([longest - n for n in LENGTHS])
    worst = torch.zeros(())
    for t in range(longest):
        rows = (late <= t).nonzero().flatten()
        at = t - late[rows]
        seen = torch.arange(longest)[None] <= at[:, None]
        mask = torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf)
        part = cache[:, rows]
        logits = model.decode(tokens[rows, at], at, part, mask)
        cache[:, rows] = part
        worst = torch.maximum(worst, (logits - expanded[rows, at]).abs().max())
    spread = expanded.max() - expanded.min()
    assert spread > 1.0
    assert worst / spread <= BOUND


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("change", SHAPES.values(), ids=SHAPES)
@torch.inference_mode()
def test_decoding_is_the_whole_sequence(
    change: dict[str, Any], tiny: ModelConfig, seeded: Callable[..., LanguageModel]
) -> None:
    changes = {"num_hidden_layers": 2, "max_position_embeddings": 512, "rope_theta": 1e4, **change}
    check(seeded(replace(tiny, **changes), std=0.15))


@torch.inference_mode()
def test_decoding_with_weights_kept_in_fp8(
    tiny: ModelConfig, seeded: Callable[..., LanguageModel]
) -> None:
    changes = {"num_hidden_layers": 2, "max_position_embeddings": 512, "rope_theta": 1e4}
    model = seeded(replace(tiny, **changes), std=0.15)
    quantise_model(model, block=(16, 16))
    check(model)
