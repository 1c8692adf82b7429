"""Grouped-query attention of the dense families: Llama, Qwen2, Qwen3 (GQA: arXiv:2305.13245).

H query heads share fewer heads of keys and values, which are cached as they are. Qwen2 has biases
on queries, keys and values, Qwen3 norms each head's query and key before it is rotated. The
interface is `LatentAttention`'s, so blocks and engine know no difference. `grouped_reference` is
the slow twin of both paths. Left out: sliding windows.

Shapes: B batch, T position, S cached position, D hidden, H query heads, G key-value heads, W width
of a head, C = 2 * G * W cache entry.
"""

import torch
from torch import Tensor, nn

from benthic.model.attention import RMSNorm, attend
from benthic.model.config import ModelConfig, RopeScaling
from benthic.model.rope import PLAIN, rotate_halves, rotate_reference


class GroupedAttention(nn.Module):
    """GQA with the Hub's parameter names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.width, self.scale = config.head_dim, config.softmax_scale
        width, inner = config.hidden_size, self.heads * self.width
        shared = self.groups * self.width
        self.q_proj = nn.Linear(width, inner, bias=config.qkv_bias)
        self.k_proj = nn.Linear(width, shared, bias=config.qkv_bias)
        self.v_proj = nn.Linear(width, shared, bias=config.qkv_bias)
        self.o_proj = nn.Linear(inner, width, bias=config.attention_bias)
        if config.qk_norm:
            self.q_norm = RMSNorm(self.width, config.rms_norm_eps)
            self.k_norm = RMSNorm(self.width, config.rms_norm_eps)
        self.qk_norm = config.qk_norm

    def queries(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[..., D] to rotated queries [..., H, W]."""
        q = self.q_proj(x).view(*x.shape[:-1], self.heads, self.width)
        return rotate_halves(self.q_norm(q) if self.qk_norm else q, cos, sin)

    def entries(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[..., D] to what is cached, [..., C]: rotated keys, then values."""
        k = self.k_proj(x).view(*x.shape[:-1], self.groups, self.width)
        k = self.k_norm(k) if self.qk_norm else k
        k = rotate_halves(k, cos[..., None, :], sin[..., None, :])
        return torch.cat([k.flatten(-2), self.v_proj(x)], dim=-1)

    def forward(
        self, x_BTD: Tensor, cos_TR: Tensor, sin_TR: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Whole sequences. `mask` is additive, broadcast to [B, H, T, T]; none means causal.

        Returns the output [B, T, D] and the cache entries [B, T, C].
        """
        B, T, _ = x_BTD.shape
        q = self.queries(x_BTD, cos_TR[:, None], sin_TR[:, None])
        entries = self.entries(x_BTD, cos_TR, sin_TR)
        k, v = entries.view(B, T, 2, self.groups, self.width).unbind(2)
        times = self.heads // self.groups
        k, v = (x.repeat_interleave(times, dim=2) if times > 1 else x for x in (k, v))
        out = attend(q, k, v, mask, self.scale)
        return self.o_proj(out.reshape(B, T, -1)), entries

    def decode(
        self, x_BD: Tensor, cos_BR: Tensor, sin_BR: Tensor, cache_BSC: Tensor, mask_BS: Tensor
    ) -> Tensor:
        """One token a row; `cache_BSC` already holds that token's own entry.

        `mask_BS` is additive: 0 where a cached position is seen, -inf elsewhere.
        """
        B = x_BD.shape[0]
        q = self.queries(x_BD, cos_BR[:, None], sin_BR[:, None])
        k, v = cache_BSC.view(B, -1, 2, self.groups, self.width).unbind(2)
        q_BGnW = q.view(B, self.groups, -1, self.width)
        score = torch.einsum("bgnw,bsgw->bgns", q_BGnW, k) * self.scale
        share = (score + mask_BS[:, None, None]).softmax(dim=-1)
        out = torch.einsum("bgns,bsgw->bgnw", share, v)
        return self.o_proj(out.reshape(B, -1))


def grouped_reference(
    module: GroupedAttention, x_BTD: Tensor, theta: float, scaling: RopeScaling = PLAIN
) -> Tensor:
    """One row, one head, one position at a time."""
    m, out = module, torch.zeros_like(x_BTD)
    for b in range(x_BTD.shape[0]):
        q, k, v = (p(x_BTD[b]).unflatten(-1, (-1, m.width)) for p in (m.q_proj, m.k_proj, m.v_proj))
        if m.qk_norm:
            q, k = m.q_norm(q), m.k_norm(k)
        for t in range(x_BTD.shape[1]):
            heads = []
            for h in range(m.heads):
                g = h // (m.heads // m.groups)
                turned = rotate_reference(q[t, h], t, theta, scaling, halves=True)
                scores = [
                    turned @ rotate_reference(k[s, g], s, theta, scaling, halves=True) * m.scale
                    for s in range(t + 1)
                ]
                share = torch.stack(scores).softmax(dim=0)
                heads.append(sum(share[s] * v[s, g] for s in range(t + 1)))
            out[b, t] = m.o_proj(torch.cat(heads))
    return out
