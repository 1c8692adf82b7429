"""A network as its costs see it: widths and counts, whatever program or file it comes from.

`benthic.cost.network.read_shape` makes one from a ModelConfig, a config.json, a recipe or plain
numbers, `benthic.cost.network.flops` counts from it, and `benthic.cost.network.twins` takes its
ideas away. A Shape knows nothing of machines, precision or batch; encoder-decoders, state spaces
and towers for images have no Shape.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from benthic.cost.catalog.load import CostError
from benthic.model.config import ModelConfig

_WIDEST = 1 << 24  # of any width or count; a larger one is a slip


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A decoder; widths are elements."""

    name: str
    layers: int
    """blocks, those of multi-token prediction not counted"""
    hidden: int
    vocab: int
    heads: int
    kv_heads: int
    head_dim: int
    """of queries and keys; latent attention: both of their parts"""
    value_dim: int = 0
    """of values; 0: head_dim"""
    ffn: int
    """of the dense layers"""
    gated: bool = True
    """SwiGLU, GeGLU: three matrices; else two"""
    q_rank: int = 0
    """latent attention: of the query latent; 0: none"""
    kv_rank: int = 0
    """latent attention: of the joint latent of keys and values; 0: attention is not latent"""
    rope_dim: int = 0
    """latent attention: the part of head_dim whose key all heads share"""
    experts: int = 0
    """routed ones, in a sparse layer"""
    experts_per_token: int = 0
    shared_experts: int = 0
    """as wide as routed ones, taken by every token"""
    expert_ffn: int = 0
    dense_layers: int = 0
    """leading layers without experts; all of them where there are no experts"""
    moe_every: int = 1
    """after those, every n-th layer has experts, the last of each n"""
    tied: bool = False
    """the output head is the embedding"""
    mtp: int = 0
    """multi-token-prediction blocks trained beside"""
    max_positions: int = 0
    """longest sequence; 0: unknown"""
    learned_positions: bool = False
    """positions are rows of a table"""
    window: int = 0
    """positions that a token sees in `windowed_layers`; 0: all, everywhere"""
    windowed_layers: int = 0
    head_norms: bool = False
    """queries and keys are normed before they are rotated"""
    attention_vectors: int = 0
    """biases, norms of heads and sinks, elements a layer; norms of latents are counted anyhow"""
    mlp_vectors: int = 0
    """biases, elements a dense layer"""
    expert_vectors: int = 0
    """biases, elements an expert"""
    router_vectors: int = 0
    """biases, elements a sparse layer"""
    norms_per_layer: int = 2
    norm_vectors: int = 1
    """of a norm: 2 for weight and bias, 0 for neither"""
    vectors: int = 0
    """elements that no other field holds, of the whole model"""
    left_out: tuple[str, ...] = ()
    """sentences on what of the network no field counts"""

    def __post_init__(self) -> None:
        if not self.value_dim:
            object.__setattr__(self, "value_dim", self.head_dim)
        if not self.experts:
            object.__setattr__(self, "dense_layers", self.layers)
        for name in ("layers", "hidden", "vocab", "heads", "kv_heads", "head_dim", "moe_every"):
            self._check(name, 1)
        for name in (
            *("value_dim", "ffn", "q_rank", "kv_rank", "rope_dim", "experts", "experts_per_token"),
            *("shared_experts", "expert_ffn", "dense_layers", "mtp", "max_positions", "window"),
        ):
            self._check(name, 0)
        for name, of, limit in (
            ("kv_heads", "heads", self.heads),
            ("experts_per_token", "experts", self.experts),
            ("dense_layers", "layers", self.layers),
            ("windowed_layers", "layers", self.layers),
        ):
            if getattr(self, name) > limit:
                raise CostError(
                    f"{self.name}: {name} = {getattr(self, name)} exceeds {of} = {limit}: lower it"
                )
        if self.experts and not (self.experts_per_token and self.expert_ffn):
            raise CostError(
                f"{self.name}: experts = {self.experts} need experts_per_token and expert_ffn of "
                "at least 1: give both, or no experts"
            )
        if self.mlp_layers and not self.ffn:
            raise CostError(
                f"{self.name}: ffn is 0 and {self.mlp_layers} layers are dense: give its width"
            )

    def _check(self, name: str, low: int) -> None:
        value = getattr(self, name)
        if not low <= value <= _WIDEST:
            raise CostError(
                f"{self.name}: {name} is {value}: it must be between {low} and {_WIDEST}"
            )

    @property
    def latent(self) -> bool:
        return self.kv_rank > 0

    @property
    def attention(self) -> Literal["mha", "gqa", "mqa", "mla"]:
        if self.latent:
            return "mla"
        if self.kv_heads == self.heads:
            return "mha"
        return "mqa" if self.kv_heads == 1 else "gqa"

    @property
    def moe_layers(self) -> int:
        """Sparse layers of the main model."""
        return (self.layers - self.dense_layers) // self.moe_every

    @property
    def mlp_layers(self) -> int:
        """Dense layers, wherever they stand."""
        return self.layers - self.moe_layers


def shape_of(config: ModelConfig | Shape) -> Shape:
    """The shape of a config, its counts exact to the element; a shape is its own."""
    return config if isinstance(config, Shape) else _of_config(config)


@lru_cache(maxsize=64)  # the engine asks at every step
def _of_config(config: ModelConfig) -> Shape:
    latent, heads = config.latent, config.num_attention_heads
    kv_heads = heads if latent else config.num_key_value_heads
    width = config.head_dim * (heads + 2 * kv_heads)
    vectors = config.qkv_bias * width + config.attention_bias * config.hidden_size
    vectors += config.qk_norm * 2 * config.head_dim
    return Shape(
        name=config.model_type,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        vocab=config.vocab_size,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=config.qk_head_dim,
        value_dim=config.v_head_dim if latent else config.head_dim,
        ffn=config.intermediate_size,
        q_rank=config.q_lora_rank or 0,
        kv_rank=config.kv_lora_rank,
        rope_dim=config.qk_rope_head_dim,
        experts=config.n_routed_experts,
        experts_per_token=config.num_experts_per_tok,
        shared_experts=config.n_shared_experts,
        expert_ffn=config.moe_intermediate_size,
        dense_layers=config.first_k_dense_replace,
        tied=config.tie_word_embeddings,
        mtp=config.num_nextn_predict_layers,
        max_positions=config.max_position_embeddings,
        head_norms=config.qk_norm,
        attention_vectors=0 if latent else vectors,
        mlp_vectors=config.mlp_bias * (2 * config.intermediate_size + config.hidden_size),
        router_vectors=config.n_routed_experts if config.topk_method == "noaux_tc" else 0,
    )
