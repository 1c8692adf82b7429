"""A network as its costs see it: widths and counts, whatever program or file it comes from.

`benthic.cost.read_shape` makes one from a ModelConfig, a config.json, a recipe or plain numbers,
and `benthic.cost.flops` counts from it. Here too are the twins that a saving is measured against:
the same network with full attention, without experts, or without both. A Shape knows nothing of
machines, precision or batch; encoder-decoders, state spaces and towers for images have no Shape.
"""

from dataclasses import dataclass
from typing import Literal


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

    def __post_init__(self) -> None:
        if not self.value_dim:
            object.__setattr__(self, "value_dim", self.head_dim)
        if not self.experts:
            object.__setattr__(self, "dense_layers", self.layers)

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
