"""Families' shapes against transformers' own networks: every parameter, and what autograd keeps."""

from typing import Any

import pytest
import torch

from benthic.cost.network.activations import activation_bytes
from benthic.cost.network.flops import parameters
from benthic.cost.network.read_shape import from_config

transformers = pytest.importorskip("transformers")

WIDTHS = {
    **{"vocab_size": 96, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 5},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0},
    **{"bos_token_id": 0, "eos_token_id": 1},
}
OLD = {key: value for key, value in WIDTHS.items() if key != "num_key_value_heads"}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("mistral", WIDTHS | {"head_dim": 8, "sliding_window": 8}),
    ("mixtral", WIDTHS | LOCAL),
    (
        "qwen2_moe",
        WIDTHS | EXPERTS | {"shared_expert_intermediate_size": 24, "decoder_sparse_step": 2},
    ),
    (
        "qwen3_moe",
        WIDTHS | EXPERTS | {"head_dim": 8, "decoder_sparse_step": 2, "attention_bias": True},
    ),
    ("qwen2", WIDTHS | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}),
    ("qwen3", WIDTHS | {"head_dim": 8, "attention_bias": True}),
    (
        "llama4_text",
        WIDTHS | LOCAL | {"head_dim": 8, "intermediate_size_mlp": 40, "moe_layers": None},
    ),
    ("phi3", WIDTHS),
    ("gemma", WIDTHS | {"head_dim": 8}),
    ("gemma2", WIDTHS | {"head_dim": 8, "sliding_window": 8}),
    ("gemma3_text", WIDTHS | {"head_dim": 8, "num_hidden_layers": 8, "sliding_window": 8}),
    ("olmo", WIDTHS | {"attention_bias": True}),
    ("olmo2", WIDTHS),
    ("olmo3", WIDTHS | {"sliding_window": 8}),
    ("olmoe", WIDTHS | EXPERTS),
    ("granite", WIDTHS | {"attention_bias": True, "mlp_bias": True}),
    ("gpt_oss", WIDTHS | LOCAL | {"head_dim": 8, "sliding_window": 8}),
    ("starcoder2", WIDTHS | {"use_bias": False}),
    ("gpt2", {"vocab_size": 96, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 32}),
    ("gpt_neox", OLD | {"attention_bias": False}),
    ("opt", OLD | {"ffn_dim": 40, "word_embed_proj_dim": 64, "max_position_embeddings": 32}),
    ("bloom", {"vocab_size": 96, "hidden_size": 64, "n_layer": 3, "n_head": 4}),
    ("falcon", OLD | {"multi_query": True}),
    ("falcon", OLD | {"num_kv_heads": 2, "new_decoder_architecture": True, "bias": True}),
    ("falcon", OLD | {"multi_query": False, "parallel_attn": False, "bias": True}),
]


def config_of(kind: str, widths: dict[str, Any]) -> Any:
    return transformers.AutoConfig.for_model(kind, **widths)


@pytest.mark.parametrize(("kind", "widths"), CASES)
def test_every_parameter(kind: str, widths: dict[str, Any]) -> None:
    config = config_of(kind, widths)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    found = sum(parameter.numel() for parameter in model.parameters())
    assert parameters(from_config(config.to_dict()))["total"] == found


INDEXER = {"index_head_dim": 8, "index_n_heads": 2, "index_topk": 16}
LATENTS = {
    **{"q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 12},
    **{"v_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    **{"moe_intermediate_size": 8, "first_k_dense_replace": 2, "n_group": 1, "topk_group": 1},
}


def test_v32_without_its_indexer() -> None:
    """Every parameter but the indexer's, whose number the sentence says, in billions."""
    config = config_of("deepseek_v32", WIDTHS | LATENTS | INDEXER)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    named = list(model.named_parameters()) + list(model.named_buffers())
    rest = sum(p.numel() for n, p in named if "indexer" not in n and "inv_freq" not in n)
    made = from_config(config.to_dict())
    assert parameters(made)["total"] == rest
    chosen = sum(p.numel() for n, p in named if "indexer" in n and "inv_freq" not in n)
    assert f"{chosen / 1e9:.2g}B parameters" in made.left_out[0]


SIGHT = {
    **{"hidden_size": 32, "out_hidden_size": 64, "depth": 2, "num_heads": 2},
    **{"intermediate_size": 48},
}


@pytest.mark.parametrize(
    ("kind", "text", "sight"),
    [
        ("qwen2_5_vl", WIDTHS, SIGHT | {"fullatt_block_indexes": [1]}),
        ("qwen3_vl", WIDTHS | {"head_dim": 8}, SIGHT | {"deepstack_visual_indexes": [1]}),
        (
            "qwen3_vl_moe",
            WIDTHS | EXPERTS | {"head_dim": 8},
            SIGHT | {"deepstack_visual_indexes": [1]},
        ),
    ],
)
def test_the_text_part_of_what_sees(kind: str, text: dict[str, Any], sight: dict[str, Any]) -> None:
    config = config_of(kind, {"text_config": text, "vision_config": sight})
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config)
    model.tie_weights()
    found = sum(p.numel() for n, p in model.named_parameters() if "visual" not in n)
    made = from_config(config.to_dict())
    assert parameters(made)["total"] == found
    assert made.name == kind and "towers" in made.left_out[0]


@pytest.mark.parametrize(
    ("kind", "more"),
    [("mistral", {}), ("qwen3_moe", EXPERTS | {"head_dim": 16}), ("mixtral", LOCAL)],
)
def test_what_autograd_keeps_of_a_layer(kind: str, more: dict[str, Any]) -> None:
    """Storages, each once, weights not; a layer is what one layer more keeps."""
    rows, context, kept = 2, 64, []
    for layers in (2, 3):
        config = config_of(kind, WIDTHS | more | {"num_hidden_layers": layers})
        config.sliding_window = None
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
        model = model.to(torch.bfloat16)
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        storages: dict[int, int] = {}
        alive: list[torch.Tensor] = []

        def pack(
            tensor: torch.Tensor,
            weights: set[int] = weights,
            storages: dict[int, int] = storages,
            alive: list[torch.Tensor] = alive,
        ) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                storages[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
            return tensor

        tokens = torch.randint(0, 96, (rows, context), generator=torch.Generator().manual_seed(0))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(tokens, labels=tokens, use_cache=False)
        kept.append(sum(storages.values()) / rows / context)
    shape = from_config(config.to_dict())
    predicted = activation_bytes(shape, context=context, recompute="none", fused=False)
    layer = predicted["sparse" if shape.experts else "dense"]
    assert sum(layer.values()) == pytest.approx(
        kept[1] - kept[0], rel=0.04
    )  # indices and norms' scales weigh at these widths
