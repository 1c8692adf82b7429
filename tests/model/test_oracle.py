"""Logits against transformers, which shares no line with this code: DeepSeek V2, V3, Llama, Qwen.

Each model goes through a folder on disk, so that export and config.json are part of what is held
against the oracle. The bound is a share of the logits' spread (largest minus smallest).
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from benthic.config import load
from benthic.hub.config import Fp8Format
from benthic.model.checkpoint import import_hub
from benthic.model.config import ModelConfig, RopeScaling
from benthic.model.export import export_hub
from benthic.model.transformer import LanguageModel

transformers = pytest.importorskip(
    "transformers", reason="the oracle is transformers: install the extra 'dev'"
)

BOUND = 2e-5
# Wide enough that logits differ by their standard deviation, some 0.8, and not so wide that the two
# programs' rounding, which grows with the weights, hides what is looked for.
STD = 0.1

YARN = RopeScaling(
    rope_type="yarn",
    factor=4.0,
    original_max_position_embeddings=32,
    mscale=1.0,
    mscale_all_dim=1.0,
)
LONG = {"rope_theta": 10000.0, "max_position_embeddings": 256, "qk_rope_head_dim": 16}
V3: dict[str, dict[str, Any]] = {
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
    "tied head": {"tie_word_embeddings": True},
    "Moonlight's eps": {"rms_norm_eps": 1e-5},
    "YaRN": {**LONG, "rope_scaling": YARN},
    "YaRN, mscales apart": {**LONG, "rope_scaling": replace(YARN, mscale=0.5)},
    "YaRN, no mscale": {**LONG, "rope_scaling": replace(YARN, mscale=0, mscale_all_dim=0)},
    "YaRN, Kimi's betas": {**LONG, "rope_scaling": replace(YARN, beta_fast=1.0, factor=32.0)},
    "YaRN, own factor": {**LONG, "rope_scaling": replace(YARN, attention_factor=1.3)},
    "YaRN, ramp not truncated": {**LONG, "rope_scaling": replace(YARN, truncate=False)},
    "linear scaling": {**LONG, "rope_scaling": RopeScaling(rope_type="linear", factor=2.0)},
}
V2_BASE = {
    "model_type": "deepseek_v2",
    "topk_method": "greedy",
    "norm_topk_prob": False,
    "num_nextn_predict_layers": 0,
}
V2: dict[str, dict[str, Any]] = {
    "V2-Lite": {**LONG, "rope_scaling": replace(YARN, mscale=0.707, mscale_all_dim=0.707)},
    "V2": {
        "q_lora_rank": 24,
        "topk_method": "group_limited_greedy",
        "n_group": 4,
        "topk_group": 3,
        "num_experts_per_tok": 3,
        "n_shared_experts": 2,
        "routed_scaling_factor": 16.0,
    },
    "V2, one group kept": {"topk_method": "group_limited_greedy", "n_group": 2, "topk_group": 1},
    "V2, groups of one": {"topk_method": "group_limited_greedy", "n_group": 8, "topk_group": 3},
    "V2, tied": {"tie_word_embeddings": True, "first_k_dense_replace": 0},
}
DENSE_BASE = {
    "vocab_size": 264,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = RopeScaling(rope_type="llama3", factor=8.0, original_max_position_embeddings=32)
DENSE: dict[str, dict[str, Any]] = {
    "Llama 2": {"model_type": "llama"},
    "Llama 3": {"model_type": "llama", "num_key_value_heads": 2, "rope_theta": 500000.0},
    "Llama 3.1": {"model_type": "llama", "num_key_value_heads": 1, "rope_scaling": LLAMA3},
    "Llama 3.2": {
        "model_type": "llama",
        "head_dim": 24,
        "rope_scaling": LLAMA3,
        "tie_word_embeddings": True,
    },
    "Llama with biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "Qwen2": {"model_type": "qwen2", "num_key_value_heads": 2, "rope_theta": 1e6},
    "Qwen2, tied": {"model_type": "qwen2", "num_key_value_heads": 1, "tie_word_embeddings": True},
    "Qwen2.5 with YaRN": {
        "model_type": "qwen2",
        "rope_scaling": replace(YARN, mscale=0, mscale_all_dim=0),
        "num_key_value_heads": 2,
    },
    "Qwen3": {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 32},
    "Qwen3 with biases": {"model_type": "qwen3", "head_dim": 8, "attention_bias": True},
}
CONFIGS: dict[str, Callable[[], ModelConfig]] = {
    **{name: lambda c=c: replace(load("laptop").model, **c) for name, c in V3.items()},
    **{
        name: lambda c=c: replace(load("laptop").model, **{**V2_BASE, **c})
        for name, c in V2.items()
    },
    **{name: lambda c=c: ModelConfig(**DENSE_BASE, **c) for name, c in DENSE.items()},
}


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def tokens_of(config: ModelConfig, length: int = 120) -> Tensor:
    shape = (2, min(length, config.max_position_embeddings))
    return torch.randint(0, config.vocab_size, shape, generator=torch.Generator().manual_seed(7))


def load_hub(folder: Path, **options: Any) -> tuple[Any, dict[str, Any]]:
    options = {"dtype": torch.float32, "attn_implementation": "eager", **options}
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, **options
    )


def share_of_spread(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference over the oracle's spread."""
    spread = theirs.max() - theirs.min()
    assert spread > 1.0
    return ((ours - theirs).abs().max() / spread).item()


def drawn() -> st.SearchStrategy[ModelConfig]:
    """Small shapes of every family, each switch on and off."""
    scalings = st.sampled_from(
        [RopeScaling(), YARN, replace(YARN, mscale=0, mscale_all_dim=0), LLAMA3]
    )
    common = {
        "vocab_size": st.sampled_from([97, 264]),
        "hidden_size": st.sampled_from([32, 64]),
        "intermediate_size": st.sampled_from([48, 100]),
        "num_hidden_layers": st.integers(1, 3),
        "rope_theta": st.sampled_from([100.0, 10000.0, 1e6]),
        "rope_scaling": scalings,
        "rms_norm_eps": st.sampled_from([1e-6, 1e-5]),
        "tie_word_embeddings": st.booleans(),
        "max_position_embeddings": st.just(256),
    }
    latent = {
        **common,
        "moe_intermediate_size": st.sampled_from([16, 20]),
        "num_attention_heads": st.sampled_from([2, 4]),
        "q_lora_rank": st.sampled_from([0, 12, 24]),
        "kv_lora_rank": st.sampled_from([16, 24]),
        "qk_nope_head_dim": st.sampled_from([8, 12]),
        "qk_rope_head_dim": st.sampled_from([4, 8, 16]),
        "v_head_dim": st.sampled_from([8, 16, 20]),
        "first_k_dense_replace": st.integers(0, 1),
        "n_routed_experts": st.just(12),
        "n_shared_experts": st.integers(1, 2),
        "num_experts_per_tok": st.integers(1, 3),
        "routed_scaling_factor": st.sampled_from([1.0, 2.5]),
    }
    groups = st.sampled_from([(1, 1), (2, 1), (3, 2), (6, 4)])

    def with_groups(values: dict[str, Any], pair: tuple[int, int]) -> ModelConfig:
        return ModelConfig(**values, n_group=pair[0], topk_group=pair[1])

    v3 = st.builds(
        with_groups,
        st.fixed_dictionaries(
            {
                **latent,
                "norm_topk_prob": st.booleans(),
                "num_nextn_predict_layers": st.integers(0, 1),
            }
        ),
        groups,
    )
    methods = st.sampled_from(["greedy", "group_limited_greedy"])
    v2 = st.builds(
        lambda values, pair, method: with_groups(
            {**values, **V2_BASE, "topk_method": method}, pair
        ),
        st.fixed_dictionaries(latent),
        groups,
        methods,
    )
    dense = st.builds(
        ModelConfig,
        model_type=st.sampled_from(["llama", "qwen2", "qwen3"]),
        num_attention_heads=st.just(4),
        num_key_value_heads=st.sampled_from([1, 2, 4]),
        head_dim=st.sampled_from([0, 8, 24]),
        attention_bias=st.booleans(),
        **common,
    )
    return st.one_of(v3, v2, dense)


def check(model: LanguageModel, folder: Path) -> None:
    export_hub(model, folder)
    oracle, info = load_hub(folder)
    ahead = f"model.layers.{model.config.num_hidden_layers}."
    assert not info["missing_keys"] and not info["mismatched_keys"]
    assert all(key.startswith(ahead) for key in info["unexpected_keys"])
    tokens = tokens_of(model.config)
    with torch.no_grad():
        ours, theirs = model.lm_head(model(tokens)), oracle(tokens).logits
    assert share_of_spread(ours, theirs) <= BOUND


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_logits_agree(
    config: Callable[[], ModelConfig], seeded: Callable[..., LanguageModel], tmp_path: Path
) -> None:
    check(seeded(config(), std=STD), tmp_path)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(config=drawn(), seed=st.integers(0, 1000))
def test_logits_agree_on_any_shape(
    config: ModelConfig,
    seed: int,
    seeded: Callable[..., LanguageModel],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    # Wider than above: these models are narrower, and a logit's spread should still be of order 1.
    check(seeded(config, seed=seed, std=0.2), tmp_path_factory.mktemp("hub"))


def test_positions_beyond_4096(seeded: Callable[..., LanguageModel], tmp_path: Path) -> None:
    """V3's own YaRN, at the end of a longer text than it was trained on."""
    scaling = replace(YARN, factor=40.0, original_max_position_embeddings=4096)
    changes = {**LONG, "max_position_embeddings": 8192, "rope_scaling": scaling}
    config = replace(load("laptop").model, num_hidden_layers=2, **changes)
    model = seeded(config, std=STD)
    export_hub(model, tmp_path)
    oracle, _ = load_hub(tmp_path, attn_implementation="sdpa")
    tokens = tokens_of(config, 5000)[:1]
    with torch.no_grad():
        ours, theirs = model.lm_head(model(tokens)), oracle(tokens).logits
    assert share_of_spread(ours[:, 4096:], theirs[:, 4096:]) <= BOUND


def test_weights_kept_in_fp8_agree(seeded: Callable[..., LanguageModel], tmp_path: Path) -> None:
    """A model that keeps its file's FP8 weights against the oracle on the same file, widened."""
    config = replace(load("laptop").model, **V3["groups"], hidden_size=256)
    export_hub(seeded(config, std=STD), tmp_path / "fp8", precision="fp8", fp8=Fp8Format())
    kept = import_hub(tmp_path / "fp8", dtype=torch.float32, keep_fp8=True)
    export_hub(import_hub(tmp_path / "fp8", dtype=torch.float32), tmp_path / "fp32")
    oracle, _ = load_hub(tmp_path / "fp32")
    tokens = tokens_of(config)
    with torch.no_grad():
        ours, theirs = kept.lm_head(kept(tokens)), oracle(tokens).logits
    assert share_of_spread(ours, theirs) <= BOUND


@pytest.mark.parametrize("name", ["the laptop recipe", "groups", "YaRN", "query latent"])
def test_prediction_block_agrees(
    name: str, seeded: Callable[..., LanguageModel], tmp_path: Path
) -> None:
    """Their block for speculative decoding, loaded from the same folder, positions kept."""
    layers = pytest.importorskip("transformers.modeling_layers")
    if not hasattr(layers, "MtpModel"):
        pytest.skip("this transformers reads no prediction blocks")
    config = CONFIGS[name]()
    model, tokens = seeded(config, std=STD), tokens_of(config, 40)
    export_hub(model, tmp_path)
    oracle, _ = load_hub(tmp_path)
    # Their pattern names the layer of the one released shape.
    oracle._keys_to_ignore_on_load_unexpected = [r"model\.layers\.3.*"]
    ahead = layers.MtpModel.from_pretrained(oracle).layers[0]
    causal = torch.full((39, 39), -torch.inf).triu(1)[None, None]
    with torch.no_grad():
        hidden = model(tokens)[:, :-1]
        ours = model.lm_head(model.look_ahead(hidden, tokens[:, 1:]))
        places = torch.arange(39)[None]
        theirs = oracle.lm_head(
            ahead(
                oracle.model.embed_tokens(tokens[:, 1:]),
                hidden,
                position_embeddings=oracle.model.rotary_emb(hidden, places),
                attention_mask=causal,
                position_ids=places,
                past_key_values=None,
            )
        )
    assert share_of_spread(ours, theirs) <= BOUND
