"""The one place that counts: parameters, FLOPs, cache and traffic of a Shape or a ModelConfig.

A FLOP is half a multiply-add of a matrix product. Element-wise work (norms, softmax, rotary, SiLU,
top-k, the optimizer) and the embedding look-up are left out, and so is recomputation: the figure is
what the model needs, not what a kernel happens to spend. Attention counts only pairs of a query and
a key it may see, so a kernel that fills the whole square does more.

Every count is linear in two numbers: tokens, and query-key pairs. `causal_pairs` gives the second:
  n sequences of T in training    tokens = n * T, pairs = n * causal_pairs(T)
  n prompts of P, prefill         tokens = n * P, pairs = n * causal_pairs(P)
  n completions of C after them   tokens = n * C, pairs = n * causal_pairs(C, cached=P)
  one step of a mixed batch       tokens = len(batch), pairs = sum(cached + 1 for each)
Sliding windows are heeded where a context is given instead. What backward keeps is
`benthic.cost.network.activations`.
"""

from dataclasses import dataclass
from functools import lru_cache

from benthic.cost.network.shape import Shape, shape_of
from benthic.model.config import ModelConfig


def parameters(config: ModelConfig | Shape) -> dict[str, int]:
    """Numbers of parameters by part, elements; the keys up to `norms` add up to `total`.

    `attention` holds its norms and biases; `router` holds `e_score_correction_bias`; a tied head
    counts under `embedding` alone, and so does a table of positions;
    `norms` are those of the blocks and the last one. `active` is what one token meets in the main
    model, embedding and head included. `mtp` is the multi-token-prediction block without the
    embedding and head it shares with the main model; `total` excludes it, `total_with_mtp` not.
    """
    shape = shape_of(config)
    matrices, norm = _matrices(shape), shape.norm_vectors * shape.hidden
    hidden, sparse = shape.hidden, shape.moe_layers
    attention = matrices.attention + shape.attention_vectors + shape.kv_rank + shape.q_rank
    dense = matrices.mlp + shape.mlp_vectors
    expert = matrices.expert + shape.expert_vectors
    router = matrices.router + shape.router_vectors
    positions = shape.max_positions * hidden if shape.learned_positions else 0
    parts = {
        "embedding": shape.vocab * hidden + positions,
        "head": 0 if shape.tied else shape.vocab * hidden,
        "attention": shape.layers * attention,
        "dense_mlp": shape.mlp_layers * dense,
        "experts": sparse * shape.experts * expert,
        "shared_experts": sparse * shape.shared_experts * expert,
        "router": sparse * router,
        "norms": (shape.norms_per_layer * shape.layers + 1) * norm + shape.vectors,
    }
    total = sum(parts.values())
    joint = 2 * hidden * hidden + 3 * norm  # eh_proj; enorm, hnorm, shared_head.norm
    every = shape.experts + shape.shared_experts
    feed = router + every * expert if shape.experts else dense
    mtp = shape.mtp * (joint + attention + feed + shape.norms_per_layer * norm)
    return parts | {
        "mtp": mtp,
        "total": total,
        "total_with_mtp": total + mtp,
        "active": total - sparse * (shape.experts - shape.experts_per_token) * expert,
    }


def causal_pairs(length: int, *, cached: int = 0) -> int:
    """Query-key pairs of `length` new tokens that each see `cached` positions and, causally, each
    other: the sum over t < length of cached + t + 1."""
    return length * cached + length * (length + 1) // 2


def windowed_pairs(length: int, window: int) -> int:
    """The same from an empty cache, where a token sees the last `window` positions, its own
    included; 0: all of them."""
    if not window or length <= window:
        return causal_pairs(length)
    return causal_pairs(window) + (length - window) * window


def forward_flops(
    config: ModelConfig | Shape, *, tokens: int, pairs: int, mtp: bool = False
) -> int:
    """FLOPs of one forward in the expanded path: `tokens` positions and `pairs` query-key pairs.

    The head is counted at every token. `mtp` adds eh_proj, the block and the head once more, at
    every token; `ValueError` where the config has no such block. Cached latents, if `pairs` holds
    any, are not expanded again: a path that does so each time spends more.
    """
    shape = shape_of(config)
    if mtp and not shape.mtp:
        raise ValueError(
            "num_nextn_predict_layers is 0, so there is no multi-token prediction to count: "
            "set it to 1 or leave mtp out"
        )
    return sum(_parts(shape, tokens, pairs, pairs, mtp=mtp).values())


def training_flops(
    config: ModelConfig | Shape, *, tokens: int, pairs: int, mtp: bool = False
) -> int:
    """FLOPs of forward and backward, three times the forward: each product has two gradients."""
    return 3 * forward_flops(config, tokens=tokens, pairs=pairs, mtp=mtp)


def decode_flops(config: ModelConfig | Shape, *, tokens: int, pairs: int) -> int:
    """FLOPs of the absorbed path: queries meet the cached latents themselves (V2 appendix C).

    Per head, q_nope goes up to the latent (nope * L) and the weighted latents come down to values
    (L * v). Together that is kv_b_proj once a token, as in the expanded path; only a pair costs
    more: scores over L + R, values over L. Grouped-query attention decodes as it prefills.
    """
    return sum(_parts(shape_of(config), tokens, pairs, pairs, absorbed=True).values())


def forward_parts(config: ModelConfig | Shape, *, context: int) -> dict[str, float]:
    """FLOPs a token of the forward over a causal sequence of `context` tokens, by part.

    `attention_projections` and `attention_scores` (scores and weighted values), `dense_mlp`,
    `experts`, `shared_experts`, `router`, `head`; `mtp`, the whole of it with its head, where the
    shape has such blocks.
    """
    shape = shape_of(config)
    inside = windowed_pairs(context, shape.window)
    parts = _parts(shape, context, causal_pairs(context), inside, mtp=shape.mtp > 0)
    return {part: count / context for part, count in parts.items()}


def decode_parts(config: ModelConfig | Shape, *, context: int) -> dict[str, int]:
    """FLOPs of decoding one token that sees `context` positions, its own included, by part; the
    absorbed path in latent attention, no prediction blocks."""
    shape = shape_of(config)
    inside = min(context, shape.window) if shape.window else context
    return _parts(shape, 1, context, inside, absorbed=True)


def cache_elements_per_token(config: ModelConfig | Shape) -> int:
    """Elements that one token leaves in the main model's cache: layers * (L + R), or both heads."""
    shape = shape_of(config)
    return shape.layers * cache_width(shape)


def cache_width(shape: Shape) -> int:
    """Elements of a token's keys and values in one layer: the latent and its rotated key, or both
    heads."""
    if shape.latent:
        return shape.kv_rank + shape.rope_dim
    return shape.kv_heads * (shape.head_dim + shape.value_dim)


def cache_bytes(config: ModelConfig | Shape, *, context: int, bytes_per: float = 2.0) -> float:
    """Bytes that a sequence of `context` tokens holds in the cache, which each decoding step reads
    as a whole; layers with windows hold one. `bytes_per` is of an element."""
    shape = shape_of(config)
    inside = min(context, shape.window) if shape.window else context
    full = (shape.layers - shape.windowed_layers) * context
    return bytes_per * cache_width(shape) * (full + shape.windowed_layers * inside)


@dataclass(frozen=True)
class _Matrices:
    """Elements of the matrices, and so multiply-adds a token: of a layer, of an expert."""

    attention: int
    mlp: int
    expert: int
    router: int


@lru_cache(maxsize=256)
def _matrices(shape: Shape) -> _Matrices:
    hidden, heads = shape.hidden, shape.heads
    queries, values = heads * shape.head_dim, heads * shape.value_dim
    if shape.latent:
        down = hidden * (shape.kv_rank + shape.rope_dim)
        up = shape.kv_rank * heads * (shape.head_dim - shape.rope_dim + shape.value_dim)
        if shape.q_rank:
            down, up = down + hidden * shape.q_rank, up + shape.q_rank * queries
        else:
            down += hidden * queries
    else:
        up = 0
        down = hidden * (queries + shape.kv_heads * (shape.head_dim + shape.value_dim))
    per_mlp = 2 + shape.gated
    return _Matrices(
        attention=down + up + values * hidden,
        mlp=per_mlp * hidden * shape.ffn,
        expert=per_mlp * hidden * shape.expert_ffn,
        router=shape.experts * hidden,
    )


def _parts(
    shape: Shape, tokens: int, pairs: int, inside: int, *, absorbed: bool = False, mtp: bool = False
) -> dict[str, int]:
    """FLOPs of a forward by part; `pairs` in layers that see everything, `inside` in those with
    windows."""
    matrices, sparse = _matrices(shape), shape.moe_layers
    if absorbed and shape.latent:
        per_pair = shape.heads * (shape.kv_rank + shape.rope_dim + shape.kv_rank)
    else:
        per_pair = shape.heads * (shape.head_dim + shape.value_dim)
    chosen, shared = shape.experts_per_token * matrices.expert, shape.shared_experts
    head = shape.vocab * shape.hidden
    full = shape.layers - shape.windowed_layers
    counts = {
        "attention_projections": tokens * shape.layers * matrices.attention,
        "attention_scores": (full * pairs + shape.windowed_layers * inside) * per_pair,
        "dense_mlp": tokens * shape.mlp_layers * matrices.mlp,
        "experts": tokens * sparse * chosen,
        "shared_experts": tokens * sparse * shared * matrices.expert,
        "router": tokens * sparse * matrices.router,
        "head": tokens * head,
    }
    if mtp:
        routed = matrices.router + chosen + shared * matrices.expert
        feed = routed if shape.experts else matrices.mlp
        block = 2 * shape.hidden * shape.hidden + matrices.attention + feed + head
        counts["mtp"] = shape.mtp * (tokens * block + pairs * per_pair)
    return {part: 2 * count for part, count in counts.items()}
