"""Logits against transformers' DeepSeek-V3, an implementation that shares no line with this one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benthic.config import load
from benthic.model.config import ModelConfig
from benthic.model.export import export_hub
from benthic.model.transformer import LanguageModel

transformers = pytest.importorskip(
    "transformers", reason="the oracle is transformers' DeepSeek-V3: install the extra 'dev'"
)

CHANGES: dict[str, dict[str, Any]] = {
    "the laptop recipe": {},
    "query latent": {"q_lora_rank": 24},
    "groups": {"n_group": 4, "topk_group": 2, "num_experts_per_tok": 3},
    "groups, one kept": {"n_group": 2, "topk_group": 1, "n_routed_experts": 12},
    "weights not normed": {"norm_topk_prob": False},
    "routed sum scaled": {"routed_scaling_factor": 2.5},
    "three shared experts": {"n_shared_experts": 3},
    "one expert a token": {"num_experts_per_tok": 1},
    "all sparse": {"first_k_dense_replace": 0},
    "all dense": {"first_k_dense_replace": 3},
    "no look-ahead": {"num_nextn_predict_layers": 0},
    "narrow values": {"v_head_dim": 8},
    "wide values": {"v_head_dim": 40},
    "wide rotary part": {"qk_rope_head_dim": 32, "rope_theta": 10000.0},
}
# Wide enough that logits differ by their standard deviation, some 0.8, and not so wide that the two
# programs' rounding, which grows with the weights, hides what is looked for.
STD = 0.1


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def tokens_of(config: ModelConfig) -> Tensor:
    return torch.randint(0, config.vocab_size, (2, 40), generator=torch.Generator().manual_seed(7))


def load_hub(folder: Path) -> tuple[Any, dict[str, Any]]:
    return transformers.DeepseekV3ForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_logits_agree(
    change: dict[str, Any], seeded: Callable[..., LanguageModel], tmp_path: Path
) -> None:
    config = replace(load("laptop").model, **change)
    model, tokens = seeded(config, std=STD), tokens_of(config)
    export_hub(model, tmp_path)
    oracle, _ = load_hub(tmp_path)
    with torch.no_grad():
        ours, theirs = model.lm_head(model(tokens)), oracle(tokens).logits
    assert theirs.std() > 0.5
    assert (ours - theirs).abs().max() <= 1e-5


def test_only_the_prediction_block_stays_unread(
    tiny: ModelConfig, seeded: Callable[..., LanguageModel], tmp_path: Path
) -> None:
    export_hub(seeded(tiny), tmp_path)
    _, info = load_hub(tmp_path)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    assert all(key.startswith("model.layers.3.") for key in info["unexpected_keys"])


def test_prediction_block_agrees(
    tiny: ModelConfig, seeded: Callable[..., LanguageModel], tmp_path: Path
) -> None:
    """Their block for speculative decoding, loaded from the same folder, positions kept."""
    layers = pytest.importorskip("transformers.modeling_layers")
    if not hasattr(layers, "MtpModel"):
        pytest.skip("this transformers reads no prediction blocks")
    model, tokens = seeded(tiny, std=STD), tokens_of(tiny)
    export_hub(model, tmp_path)
    oracle, _ = load_hub(tmp_path)
    # Their pattern names the layer of the one released shape.
    oracle._keys_to_ignore_on_load_unexpected = [r"model\.layers\.3.*"]
    ahead = layers.MtpModel.from_pretrained(oracle).layers[0]
    causal = torch.full((39, 39), -torch.inf).triu(1)[None, None]
    with torch.no_grad():
        hidden = model(tokens)[:, :-1]
        ours = model.look_ahead(hidden, tokens[:, 1:])
        places = torch.arange(39)[None]
        theirs = ahead(
            oracle.model.embed_tokens(tokens[:, 1:]),
            hidden,
            position_embeddings=oracle.model.rotary_emb(hidden, places),
            attention_mask=causal,
            position_ids=places,
            past_key_values=None,
        )
    assert theirs.std() > 0.5
    assert (ours - theirs).abs().max() <= 1e-5
