"""One transformer block: norm, attention, residual; norm, SwiGLU, residual.

    h = x + Attention(Norm(x)),  y = h + MLP(Norm(h))

Attention is of latents (MLA) or grouped (GQA), the MLP dense or sparse (MoE), as the config says.
Whole sequences return what a cache keeps of them; `decode` writes one token's entry and reads it.
"""

from torch import Tensor, nn

from benthic.model.attention import LatentAttention, RMSNorm
from benthic.model.config import ModelConfig
from benthic.model.grouped import GroupedAttention
from benthic.model.moe import DenseMLP, Routing, SparseMLP


class Block(nn.Module):
    def __init__(self, config: ModelConfig, *, sparse: bool) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = RMSNorm(width, eps)
        self.self_attn = LatentAttention(config) if config.latent else GroupedAttention(config)
        self.post_attention_layernorm = RMSNorm(width, eps)
        self.mlp = (
            SparseMLP(config)
            if sparse
            else DenseMLP(width, config.intermediate_size, bias=config.mlp_bias)
        )

    def forward(
        self,
        x_BTD: Tensor,
        cos_TR: Tensor,
        sin_TR: Tensor,
        mask: Tensor | None,
        routing: Routing | None,
    ) -> tuple[Tensor, Tensor]:
        """Whole sequences: the new stream [B, T, D] and the cache entries [B, T, C]."""
        mixed, entries = self.self_attn(self.input_layernorm(x_BTD), cos_TR, sin_TR, mask)
        x_BTD = x_BTD + mixed
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD), routing), entries

    def decode(
        self,
        x_BD: Tensor,
        cos_BR: Tensor,
        sin_BR: Tensor,
        cache_BSC: Tensor,
        at_B: Tensor,
        mask_BS: Tensor,
        routing: Routing | None,
    ) -> Tensor:
        """One token a row: write its cache entry at `at_B`, then attend over the cache."""
        normed = self.input_layernorm(x_BD)
        entry = self.self_attn.entries(normed, cos_BR, sin_BR)
        cache_BSC.scatter_(1, at_B[:, None, None].expand(-1, 1, entry.shape[1]), entry[:, None])
        x_BD = x_BD + self.self_attn.decode(normed, cos_BR, sin_BR, cache_BSC, mask_BS)
        return x_BD + self.mlp(self.post_attention_layernorm(x_BD), routing)
