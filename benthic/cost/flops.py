"""Exact counts from a ModelConfig: parameters, FLOPs of a forward pass, elements of the cache.

A FLOP is half a multiply-add of a matrix product. Element-wise work (norms, softmax, rotary, SiLU,
top-k, the optimizer) and the embedding look-up are left out, and so is recomputation: the figure is
what the model needs, not what a kernel happens to spend. Attention counts only pairs of a query and
a key it may see, so a kernel that fills the whole square does more than is counted here.

Every count is linear in two numbers: tokens, and query-key pairs. `causal_pairs` gives the second:
  n sequences of T in training    tokens = n * T, pairs = n * causal_pairs(T)
  n prompts of P, prefill         tokens = n * P, pairs = n * causal_pairs(P)
  n completions of C after them   tokens = n * C, pairs = n * causal_pairs(C, cached=P)
  one step of a mixed batch       tokens = len(batch), pairs = sum(cached + 1 for each)
"""

from benthic.model.config import ModelConfig


def parameters(config: ModelConfig) -> dict[str, int]:
    """Numbers of parameters by part, elements; the keys up to `norms` add up to `total`.

    `attention` holds its norms and biases; `router` holds `e_score_correction_bias`; a tied head
    counts under `embedding` alone;
    `norms` are those of the blocks and the last one. `active` is what one token meets in the main
    model, embedding and head included. `mtp` is the multi-token-prediction block without the
    embedding and head it shares with the main model; `total` excludes it, `total_with_mtp` not.
    """
    hidden, sparse = config.hidden_size, config.num_moe_layers
    attention = _attention_matrices(config) + _attention_vectors(config)
    router = config.n_routed_experts * (hidden + (config.topk_method == "noaux_tc"))
    dense = 3 * hidden * config.intermediate_size
    dense += config.mlp_bias * (2 * config.intermediate_size + hidden)
    parts = {
        "embedding": config.vocab_size * hidden,
        "head": 0 if config.tie_word_embeddings else config.vocab_size * hidden,
        "attention": config.num_hidden_layers * attention,
        "dense_mlp": config.first_k_dense_replace * dense,
        "experts": sparse * config.n_routed_experts * _expert(config),
        "shared_experts": sparse * config.n_shared_experts * _expert(config),
        "router": sparse * router,
        "norms": (2 * config.num_hidden_layers + 1) * hidden,
    }
    total = sum(parts.values())
    idle = sparse * (config.n_routed_experts - config.num_experts_per_tok) * _expert(config)
    experts = (config.n_routed_experts + config.n_shared_experts) * _expert(config)
    joint = 2 * hidden * hidden + 3 * hidden  # eh_proj; enorm, hnorm, shared_head.norm
    block = attention + router + experts + 2 * hidden
    mtp = config.num_nextn_predict_layers * (joint + block)
    return parts | {
        "mtp": mtp,
        "total": total,
        "total_with_mtp": total + mtp,
        "active": total - idle,
    }


def causal_pairs(length: int, *, cached: int = 0) -> int:
    """Query-key pairs of `length` new tokens that each see `cached` positions and, causally, each
    other: the sum over t < length of cached + t + 1."""
    return length * cached + length * (length + 1) // 2


def forward_flops(config: ModelConfig, *, tokens: int, pairs: int, mtp: bool = False) -> int:
    """FLOPs of one forward in the expanded path: `tokens` positions and `pairs` query-key pairs.

    The head is counted at every token. `mtp` adds eh_proj, the block and the head once more, at
    every token; `ValueError` where the config has no such block. Cached latents, if `pairs` holds
    any, are not expanded again: a path that does so each time spends more.
    """
    value = config.v_head_dim if config.latent else config.head_dim
    per_pair = config.num_attention_heads * (config.qk_head_dim + value)
    return _flops(config, tokens, pairs, per_pair, mtp)


def training_flops(config: ModelConfig, *, tokens: int, pairs: int, mtp: bool = False) -> int:
    """FLOPs of forward and backward, three times the forward: each product has two gradients."""
    return 3 * forward_flops(config, tokens=tokens, pairs=pairs, mtp=mtp)


def decode_flops(config: ModelConfig, *, tokens: int, pairs: int) -> int:
    """FLOPs of the absorbed path: queries meet the cached latents themselves (V2 appendix C).

    Per head, q_nope goes up to the latent (nope * L) and the weighted latents come down to values
    (L * v). Together that is kv_b_proj once a token, as in the expanded path; only a pair costs
    more: scores over L + R, values over L. Grouped-query attention decodes as it prefills.
    """
    if not config.latent:
        return forward_flops(config, tokens=tokens, pairs=pairs)
    latent, rope = config.kv_lora_rank, config.qk_rope_head_dim
    per_pair = config.num_attention_heads * (latent + rope + latent)
    return _flops(config, tokens, pairs, per_pair, mtp=False)


def cache_elements_per_token(config: ModelConfig) -> int:
    """Elements that one token leaves in the main model's cache: layers * (L + R), or both heads."""
    return config.num_hidden_layers * config.cache_width


def _flops(config: ModelConfig, tokens: int, pairs: int, per_pair: int, mtp: bool) -> int:
    if mtp and not config.num_nextn_predict_layers:
        raise ValueError(
            "num_nextn_predict_layers is 0, so there is no multi-token prediction to count: "
            "set it to 1 or leave mtp out"
        )
    hidden = config.hidden_size
    head = config.vocab_size * hidden
    attention = _attention_matrices(config)
    chosen = config.num_experts_per_tok + config.n_shared_experts
    sparse = config.n_routed_experts * hidden + chosen * _expert(config)
    dense = 3 * hidden * config.intermediate_size
    per_token = config.num_hidden_layers * attention + head
    per_token += config.first_k_dense_replace * dense + config.num_moe_layers * sparse
    if mtp:
        per_token += 2 * hidden * hidden + attention + sparse + head
    layers = config.num_hidden_layers + mtp
    return 2 * (tokens * per_token + pairs * layers * per_pair)


def _attention_matrices(config: ModelConfig) -> int:
    if not config.latent:
        heads = 2 * config.num_attention_heads + 2 * config.num_key_value_heads
        return heads * config.head_dim * config.hidden_size
    hidden, heads, latent = config.hidden_size, config.num_attention_heads, config.kv_lora_rank
    queries = heads * config.qk_head_dim
    rank = config.q_lora_rank
    query = hidden * queries if rank is None else rank * (hidden + queries)
    down = hidden * (latent + config.qk_rope_head_dim)
    up = latent * heads * (config.qk_nope_head_dim + config.v_head_dim)
    return query + down + up + heads * config.v_head_dim * hidden


def _attention_vectors(config: ModelConfig) -> int:
    if config.latent:
        return config.kv_lora_rank + (config.q_lora_rank or 0)
    heads = config.num_attention_heads + 2 * config.num_key_value_heads
    biases = config.qkv_bias * heads * config.head_dim + config.attention_bias * config.hidden_size
    return biases + config.qk_norm * 2 * config.head_dim


def _expert(config: ModelConfig) -> int:
    return 3 * config.hidden_size * config.moe_intermediate_size
