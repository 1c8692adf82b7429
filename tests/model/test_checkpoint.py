"""The Hub's layout: every tensor under its name, in its shape, none more and none less."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benthic.cost.flops import parameters
from benthic.hub.config import from_hub, to_hub
from benthic.model.checkpoint import hub_tensors
from benthic.model.config import ModelConfig
from benthic.model.export import export_hub
from benthic.model.transformer import LanguageModel

CHANGES: list[dict[str, Any]] = [
    {},
    {"q_lora_rank": 12, "n_shared_experts": 2},
    {"first_k_dense_replace": 0, "num_nextn_predict_layers": 0},
    {"first_k_dense_replace": 3},
]


def expected_shapes(c: ModelConfig) -> dict[str, tuple[int, ...]]:
    """DeepSeek-V3's names and shapes, written out."""
    D, H = c.hidden_size, c.num_attention_heads
    out: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (c.vocab_size, D),
        "model.norm.weight": (D,),
        "lm_head.weight": (c.vocab_size, D),
    }

    def swiglu(at: str, inner: int) -> None:
        out[f"{at}.gate_proj.weight"] = out[f"{at}.up_proj.weight"] = (inner, D)
        out[f"{at}.down_proj.weight"] = (D, inner)

    for i in range(c.num_hidden_layers + c.num_nextn_predict_layers):
        at = f"model.layers.{i}"
        out[f"{at}.input_layernorm.weight"] = out[f"{at}.post_attention_layernorm.weight"] = (D,)
        if c.q_lora_rank is None:
            out[f"{at}.self_attn.q_proj.weight"] = (H * c.qk_head_dim, D)
        else:
            out[f"{at}.self_attn.q_a_proj.weight"] = (c.q_lora_rank, D)
            out[f"{at}.self_attn.q_a_layernorm.weight"] = (c.q_lora_rank,)
            out[f"{at}.self_attn.q_b_proj.weight"] = (H * c.qk_head_dim, c.q_lora_rank)
        entry = c.kv_lora_rank + c.qk_rope_head_dim
        out[f"{at}.self_attn.kv_a_proj_with_mqa.weight"] = (entry, D)
        out[f"{at}.self_attn.kv_a_layernorm.weight"] = (c.kv_lora_rank,)
        up = H * (c.qk_nope_head_dim + c.v_head_dim)
        out[f"{at}.self_attn.kv_b_proj.weight"] = (up, c.kv_lora_rank)
        out[f"{at}.self_attn.o_proj.weight"] = (D, H * c.v_head_dim)
        if i < c.first_k_dense_replace:
            swiglu(f"{at}.mlp", c.intermediate_size)
        else:
            out[f"{at}.mlp.gate.weight"] = (c.n_routed_experts, D)
            out[f"{at}.mlp.gate.e_score_correction_bias"] = (c.n_routed_experts,)
            swiglu(f"{at}.mlp.shared_experts", c.n_shared_experts * c.moe_intermediate_size)
            for e in range(c.n_routed_experts):
                swiglu(f"{at}.mlp.experts.{e}", c.moe_intermediate_size)
        if i == c.num_hidden_layers:
            out[f"{at}.enorm.weight"] = out[f"{at}.hnorm.weight"] = (D,)
            out[f"{at}.shared_head.norm.weight"] = (D,)
            out[f"{at}.eh_proj.weight"] = (D, 2 * D)
            out[f"{at}.embed_tokens.weight"] = (c.vocab_size, D)
            out[f"{at}.shared_head.head.weight"] = (c.vocab_size, D)
    return out


@pytest.mark.parametrize("change", CHANGES)
def test_names_and_shapes(tiny: ModelConfig, change: dict[str, Any]) -> None:
    config = replace(tiny, **change)
    tensors = hub_tensors(LanguageModel(config))
    assert {n: tuple(t.shape) for n, t in tensors.items()} == expected_shapes(config)


@pytest.mark.parametrize("change", CHANGES)
def test_elements_are_the_counted_ones(tiny: ModelConfig, change: dict[str, Any]) -> None:
    """The file doubles embedding and head for the prediction block, as DeepSeek's does."""
    config = replace(tiny, **change)
    elements = sum(t.numel() for t in hub_tensors(LanguageModel(config)).values())
    doubled = config.num_nextn_predict_layers * 2 * config.vocab_size * config.hidden_size
    assert elements == parameters(config)["total_with_mtp"] + doubled


def test_experts_are_taken_apart(model: LanguageModel) -> None:
    tensors, stack = hub_tensors(model), model.state_dict()
    both = stack["model.layers.1.mlp.experts.gate_up_proj"][5]
    at = "model.layers.1.mlp.experts.5"
    assert torch.equal(tensors[f"{at}.gate_proj.weight"], both[:16])
    assert torch.equal(tensors[f"{at}.up_proj.weight"], both[16:])
    down = stack["model.layers.1.mlp.experts.down_proj"][5]
    assert torch.equal(tensors[f"{at}.down_proj.weight"], down)


def test_config_keys_read_back(tiny: ModelConfig) -> None:
    assert from_hub(to_hub(tiny)) == tiny


def test_exported_folder_holds_what_it_says(model: LanguageModel, tmp_path: Path) -> None:
    export_hub(model, tmp_path / "hub")
    keys = json.loads((tmp_path / "hub" / "config.json").read_text())
    written = load_file(tmp_path / "hub" / "model.safetensors")
    assert keys["model_type"] == "deepseek_v3" and keys["dtype"] == "float32"
    assert written.keys() == hub_tensors(model).keys()
    assert all(torch.equal(t, written[n]) for n, t in hub_tensors(model).items())


def test_transformers_writes_the_same_file(
    tiny: ModelConfig, seeded: Callable[..., LanguageModel], tmp_path: Path
) -> None:
    """Their own export of what they loaded: the same names, shapes and numbers."""
    transformers = pytest.importorskip(
        "transformers", reason="the oracle is transformers' DeepSeek-V3: install the extra 'dev'"
    )
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    config = replace(tiny, num_nextn_predict_layers=0)
    model = seeded(config)
    export_hub(model, tmp_path / "ours")
    oracle = transformers.DeepseekV3ForCausalLM.from_pretrained(tmp_path / "ours")
    oracle.save_pretrained(tmp_path / "theirs")
    theirs, ours = load_file(tmp_path / "theirs" / "model.safetensors"), hub_tensors(model)
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[n], ours[n]) for n in ours)
