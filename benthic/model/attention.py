"""Multi-head latent attention (DeepSeek-V2 section 2.1, V3 section 2.1.1).

Keys and values of all heads are rebuilt from one latent of width L a token, plus one rotated key of
width R that the heads share. Two paths compute the same function:
- expanded (`forward`): keys and values are rebuilt, attention runs per head; training and prefill;
- absorbed (`decode`): the key up-projection moves into the query and the value up-projection behind
  the weighted sum, so attention runs on the cached latents themselves (V2 appendix C).
`attention_reference` is the slow twin of both. Weights may be kept in FP8. Left out: FP8 caches.

Shapes: B batch, T position, S cached position, D hidden, H heads, L latent, R rope, N nope, V
value.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benthic.model.config import ModelConfig, RopeScaling
from benthic.model.fp8 import weight_of
from benthic.model.rope import PLAIN, rotate, rotate_reference

SHORT = 256  # positions up to which plain products beat the fused kernel on a CPU


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension; a weight in fp32 may stand beside bf16."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, self.weight.dtype)
        weight = self.weight.to(wide)
        return F.rms_norm(x.to(wide), weight.shape, weight, self.eps).to(x.dtype)


class LatentAttention(nn.Module):
    """MLA with the Hub's parameter names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        heads, eps = config.num_attention_heads, config.latent_norm_eps
        self.heads = heads
        self.nope, self.rope = config.qk_nope_head_dim, config.qk_rope_head_dim
        self.value, self.latent = config.v_head_dim, config.kv_lora_rank
        self.scale = config.softmax_scale
        width, q_width = config.hidden_size, heads * config.qk_head_dim
        self.q_lora_rank = config.q_lora_rank
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(width, q_width, bias=False)
        else:
            self.q_a_proj = nn.Linear(width, config.q_lora_rank, bias=False)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, eps)
            self.q_b_proj = nn.Linear(config.q_lora_rank, q_width, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(width, self.latent + self.rope, bias=False)
        self.kv_a_layernorm = RMSNorm(self.latent, eps)
        self.kv_b_proj = nn.Linear(self.latent, heads * (self.nope + self.value), bias=False)
        self.o_proj = nn.Linear(heads * self.value, width, bias=False)

    def queries(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """[..., D] to the unrotated part [..., H, N] and the rotated one [..., H, R]."""
        if self.q_lora_rank is None:
            q = self.q_proj(x)
        else:
            q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        q = q.view(*x.shape[:-1], self.heads, self.nope + self.rope)
        return q[..., : self.nope], rotate(q[..., self.nope :], cos, sin)

    def entries(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[..., D] to what is cached, [..., L + R]: normed latent and rotated key."""
        latent, key = self.kv_a_proj_with_mqa(x).split([self.latent, self.rope], dim=-1)
        return torch.cat([self.kv_a_layernorm(latent), rotate(key, cos, sin)], dim=-1)

    def forward(
        self, x_BTD: Tensor, cos_TR: Tensor, sin_TR: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Expanded path. `mask` is additive, broadcast to [B, H, T, T]; none means causal.

        Returns the output [B, T, D] and the cache entries [B, T, L + R].
        """
        B, T, _ = x_BTD.shape
        q_nope, q_rope = self.queries(x_BTD, cos_TR[:, None], sin_TR[:, None])
        entries = self.entries(x_BTD, cos_TR, sin_TR)
        latent, key = entries.split([self.latent, self.rope], dim=-1)
        kv = self.kv_b_proj(latent).view(B, T, self.heads, self.nope + self.value)
        k_rope = key[:, :, None].expand(B, T, self.heads, self.rope)
        q = torch.cat([q_nope, q_rope], dim=-1)
        k = torch.cat([kv[..., : self.nope], k_rope], dim=-1)
        out = attend(q, k, kv[..., self.nope :], mask, self.scale)
        return self.o_proj(out.reshape(B, T, -1)), entries

    def decode(
        self, x_BD: Tensor, cos_BR: Tensor, sin_BR: Tensor, cache_BSC: Tensor, mask_BS: Tensor
    ) -> Tensor:
        """Absorbed path, one token a row; `cache_BSC` already holds that token's own entry.

        C = L + R. `mask_BS` is additive: 0 where a cached position is seen, -inf elsewhere.
        """
        q_nope, q_rope = self.queries(x_BD, cos_BR[:, None], sin_BR[:, None])
        up = weight_of(self.kv_b_proj, x_BD.dtype)
        w_HML = up.view(self.heads, self.nope + self.value, self.latent)
        q_latent = torch.bmm(q_nope.transpose(0, 1), w_HML[:, : self.nope]).transpose(0, 1)
        q_BHC = torch.cat([q_latent, q_rope], dim=-1)
        score_BHS = torch.baddbmm(
            mask_BS[:, None], q_BHC, cache_BSC.transpose(1, 2), alpha=self.scale
        )
        mixed_BHL = torch.bmm(score_BHS.softmax(dim=-1), cache_BSC[..., : self.latent])
        out_HBV = torch.bmm(mixed_BHL.transpose(0, 1), w_HML[:, self.nope :].transpose(1, 2))
        return self.o_proj(out_HBV.transpose(0, 1).reshape(x_BD.shape[0], -1))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Softmax attention, [B, T, H, *] in and out, by whichever way is faster."""
    short = q.shape[1] <= SHORT and q.device.type == "cpu"
    return (attend_short if short else attend_long)(q, k, v, mask, scale)


def attend_short(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """The same by plain products; memory grows as T * T."""
    B, T, H, _ = q.shape
    if mask is None:
        mask = q.new_full((T, T), -torch.inf).triu_(1)
    q, k, v = (x.transpose(1, 2).reshape(B * H, T, -1) for x in (q, k, v))
    seen = mask.to(q.dtype).expand(B, H, T, T).reshape(B * H, T, T)
    share = torch.baddbmm(seen, q, k.transpose(1, 2), alpha=scale).softmax(dim=-1)
    return torch.bmm(share, v).view(B, H, T, -1).transpose(1, 2)


def attend_long(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """The same by PyTorch's fused kernel."""
    # Values as wide as the keys: other widths leave the fused CPU kernel: slower.
    spare = max(0, q.shape[-1] - v.shape[-1])
    q, k, padded = (x.transpose(1, 2) for x in (q, k, F.pad(v, (0, spare))))
    if mask is not None:
        mask = mask.to(q.dtype)
    out = F.scaled_dot_product_attention(
        q, k, padded, attn_mask=mask, is_causal=mask is None, scale=scale
    )
    return out[..., : v.shape[-1]].transpose(1, 2)


def attention_reference(
    module: LatentAttention, x_BTD: Tensor, theta: float, scaling: RopeScaling = PLAIN
) -> Tensor:
    """The equations of V3 section 2.1.1 read aloud: one row, one head, one position at a time."""
    m, out = module, torch.zeros_like(x_BTD)
    w = weight_of(m.kv_b_proj, x_BTD.dtype).view(m.heads, m.nope + m.value, m.latent)
    for b in range(x_BTD.shape[0]):
        entries = [m.kv_a_proj_with_mqa(x) for x in x_BTD[b]]
        latents = [m.kv_a_layernorm(e[: m.latent]) for e in entries]
        keys = [rotate_reference(e[m.latent :], t, theta, scaling) for t, e in enumerate(entries)]
        for t, x in enumerate(x_BTD[b]):
            if m.q_lora_rank is None:
                q = m.q_proj(x).view(m.heads, -1)
            else:
                q = m.q_b_proj(m.q_a_layernorm(m.q_a_proj(x))).view(m.heads, -1)
            heads = []
            for h in range(m.heads):
                q_rope = rotate_reference(q[h, m.nope :], t, theta, scaling)
                scores = [
                    (q[h, : m.nope] @ (w[h, : m.nope] @ latents[s]) + q_rope @ keys[s]) * m.scale
                    for s in range(t + 1)
                ]
                share = torch.stack(scores).softmax(dim=0)
                heads.append(sum(share[s] * (w[h, m.nope :] @ latents[s]) for s in range(t + 1)))
            out[b, t] = m.o_proj(torch.cat(heads))
    return out
