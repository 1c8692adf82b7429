"""Shapes of decoders with experts on the Hub, from their config.json; the rules are those of
`families`, whose dense ones are here too, under the name that a file gives in `model_type`.
"""

from collections.abc import Mapping
from math import ceil
from typing import Any

from benthic.cost.catalog.load import CostError
from benthic.cost.network.config_keys import Keys
from benthic.cost.network.families import DENSE, Reader, biased, grouped, olmo2
from benthic.cost.network.shape import Shape


def from_family(keys: Mapping[str, Any], name: str) -> Shape:
    """The shape that a config.json of one of FAMILIES says; CostError names a key that is amiss."""
    reading = Keys(keys)
    reading.refuse("is_encoder_decoder", False)
    return Shape(name=name, **FAMILIES[reading.family](reading))


def _deepseek(keys: Keys) -> dict[str, Any]:
    """DeepSeekMoE 16B: heads of their own, dense layers first, shared experts."""
    own = grouped(keys)
    experts = keys.number("n_routed_experts", default=0)
    bias = keys.flag("attention_bias", False)
    own["attention_vectors"] = biased(own, bias, bias)
    if not experts:
        return own
    keys.refuse("moe_layer_freq", 1)
    return own | {
        "experts": experts,
        "experts_per_token": keys.number("num_experts_per_tok"),
        "shared_experts": keys.number("n_shared_experts", default=0),
        "expert_ffn": keys.number("moe_intermediate_size"),
        "dense_layers": keys.number("first_k_dense_replace", default=0),
    }


def _deepseek_v32(keys: Keys) -> dict[str, Any]:
    """V3's shape; what chooses a token's positions is left out, and so is that it does."""
    keys.refuse("attention_bias", False)
    own = _deepseek(keys)
    rope, rank = keys.number("qk_rope_head_dim"), keys.number("q_lora_rank")
    width, heads = keys.number("index_head_dim"), keys.number("index_n_heads")
    indexer = rank * width * heads + own["hidden"] * (width + heads) + 2 * width
    return own | {
        "kv_heads": own["heads"],
        "head_dim": keys.number("qk_nope_head_dim") + rope,
        "value_dim": keys.number("v_head_dim"),
        "q_rank": rank,
        "kv_rank": keys.number("kv_lora_rank"),
        "rope_dim": rope,
        "mtp": keys.number("num_nextn_predict_layers", default=0),
        "router_vectors": own.get("experts", 0),
        "left_out": (
            f"attention is counted over all positions: the indexer that chooses "
            f"{keys.number('index_topk'):,} of them, {indexer * own['layers'] / 1e9:.2g}B "
            "parameters, and what it saves are not",
        ),
    }


def _llama4(keys: Keys) -> dict[str, Any]:
    """Every n-th layer has experts, each with a shared one; three of four layers see chunks, which
    count as windows as wide: more, where a sequence is longer than a chunk."""
    own = grouped(keys)
    layers, every = own["layers"], keys.number("interleave_moe_layer_step", default=1)
    whole = layers // max(keys.number("no_rope_layer_interval", default=4), 1)
    chunk, inside = keys.windows(layers, layers - whole, "attention_chunk_size")
    keys.refuse("moe_layers", [*range(every - 1, layers, max(every, 1))])
    bias = keys.flag("attention_bias", False)
    return own | {
        "expert_ffn": own["ffn"],
        "ffn": keys.number("intermediate_size_mlp"),
        "experts": keys.number("num_local_experts"),
        "experts_per_token": keys.number("num_experts_per_tok", default=1),
        "shared_experts": 1,
        "moe_every": every,
        "window": chunk,
        "windowed_layers": inside,
        "attention_vectors": biased(own, bias, bias),
    }


def _mixtral(keys: Keys) -> dict[str, Any]:
    own = grouped(keys, windowed=True)
    return own | {
        "experts": keys.number("num_local_experts", default=8),
        "experts_per_token": keys.number("num_experts_per_tok", default=2),
        "expert_ffn": own["ffn"],
    }


def _sparse_qwen(keys: Keys, own: dict[str, Any]) -> dict[str, Any]:
    """Experts in every `decoder_sparse_step`-th layer, but in those of `mlp_only_layers`."""
    keys.refuse("mlp_only_layers", [])
    return own | {
        "experts": keys.number("num_experts", "num_local_experts"),
        "experts_per_token": keys.number("num_experts_per_tok"),
        "expert_ffn": keys.number("moe_intermediate_size"),
        "moe_every": keys.number("decoder_sparse_step", default=1),
    }


def _qwen2_moe(keys: Keys) -> dict[str, Any]:
    own = _sparse_qwen(keys, grouped(keys))
    keys.refuse("use_sliding_window", False)
    shared = keys.number("shared_expert_intermediate_size", default=0)
    width = max(own["expert_ffn"], 1)
    if shared % width:
        raise CostError(
            f"shared_expert_intermediate_size = {shared} is no multiple of moe_intermediate_size = "
            f"{width}, which is not known here: give --params and --layers instead"
        )
    return own | {
        "window": 0,
        "windowed_layers": 0,
        "shared_experts": shared // width,
        "attention_vectors": biased(own, True, False),
        "router_vectors": own["hidden"] if shared else 0,  # the shared expert's own gate
    }


def _qwen3_moe(keys: Keys) -> dict[str, Any]:
    own = _sparse_qwen(keys, grouped(keys))
    keys.refuse("use_sliding_window", False)
    bias = keys.flag("attention_bias", False)
    return own | {
        "window": 0,
        "windowed_layers": 0,
        "attention_vectors": biased(own, bias, bias) + 2 * own["head_dim"],
        "head_norms": True,
    }


def _olmoe(keys: Keys) -> dict[str, Any]:
    own = olmo2(keys)
    return own | {
        "experts": keys.number("num_experts", "num_local_experts"),
        "experts_per_token": keys.number("num_experts_per_tok"),
        "expert_ffn": own["ffn"],
    }


def _gpt_oss(keys: Keys) -> dict[str, Any]:
    """A sink for each head, biases everywhere; every other layer has a window."""
    own = grouped(keys)
    bias = keys.flag("attention_bias", True)
    window, inside = keys.windows(own["layers"], ceil(own["layers"] / 2))
    experts = keys.number("num_local_experts")
    return own | {
        "window": window,
        "windowed_layers": inside,
        "attention_vectors": biased(own, bias, bias) + own["heads"],
        "experts": experts,
        "experts_per_token": keys.number("num_experts_per_tok", "experts_per_token"),
        "expert_ffn": own["ffn"],
        "expert_vectors": 2 * own["ffn"] + own["hidden"],
        "router_vectors": experts,
    }


FAMILIES: dict[str, Reader] = DENSE | {
    "mixtral": _mixtral,
    "deepseek": _deepseek,
    "deepseek_v32": _deepseek_v32,
    "llama4_text": _llama4,
    "qwen2_moe": _qwen2_moe,
    "qwen3_moe": _qwen3_moe,
    "qwen3_vl_moe_text": _qwen3_moe,
    "olmoe": _olmoe,
    "gpt_oss": _gpt_oss,
}
