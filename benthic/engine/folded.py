"""Decoding of small models with weights folded for it: few large products instead of many small ones.

A small model's step costs what dispatching its operations costs. Here norms' weights fold into the
matrix behind them, the key up-projection into the query's, the value up-projection into the output's
(the absorbed path of V2 appendix C, carried through), rotation into a product with each row's turned
twin, and all experts run as one matrix whose outputs the router weighs, most of them by zero. The slow
twin is `LanguageModel.decode`. Products are folded in fp64 and rounded once.

Shapes: B rows, S cached position, D hidden, C = L + R cache entry, H heads, E experts, F expert width.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from benthic.model.attention import LatentAttention
from benthic.model.block import Block
from benthic.model.moe import DenseMLP, Router, Routing, SparseMLP
from benthic.model.transformer import LanguageModel

LIMIT = 4_000_000  # parameters; beyond, memory traffic decides, and running all experts would add to it


def pays(model: LanguageModel) -> bool:
    """Whether the model is small enough for folding to be faster."""
    return sum(p.numel() for p in model.parameters()) <= LIMIT


@dataclass(frozen=True)
class _Attention:
    """`entry` [2C, D] and `query` [2HC, D or query latent]: straight rows, then turned rows."""

    entry: Tensor
    query_down: Tensor | None
    query: Tensor
    latent_weight: Tensor
    out: Tensor


@dataclass(frozen=True)
class _Feed:
    """`up` [E + 2 W, D]: router rows, then gates, then ups of width W; `down` [D, W]."""

    router: Router | None
    experts: int
    up: Tensor
    down: Tensor


class Folded:
    """A snapshot of a model's weights, good for `decode` until the weights change."""

    def __init__(self, model: LanguageModel) -> None:
        c = model.config
        self.eps = c.rms_norm_eps
        self.heads, self.latent = c.num_attention_heads, c.kv_lora_rank
        self.size = c.kv_lora_rank + c.qk_rope_head_dim
        self.embedding = model.model.embed_tokens.weight
        flat = model.cos.new_ones(model.cos.shape[0], self.latent)
        self.cos = torch.cat([flat, model.cos, model.cos], dim=1)
        self.sin = torch.cat([flat * 0, model.sin, model.sin], dim=1)
        self.layers = [(_fold_attention(b), _fold_feed(b)) for b in model.blocks]
        self.head = _under(model.lm_head.weight, model.model.norm.weight).t().contiguous()

    def decode(
        self,
        tokens_B: Tensor,
        at_B: Tensor,
        cache: Tensor,
        mask_BS: Tensor,
        routing: Routing | None = None,
    ) -> Tensor:
        """As `LanguageModel.decode`; the cache is read as far as the mask reaches."""
        x = F.embedding(tokens_B, self.embedding)
        cos, sin = self.cos[at_B][:, None], self.sin[at_B][:, None]
        rows, mask = torch.arange(len(tokens_B), device=x.device), mask_BS[:, None]
        cache = cache[:, :, : mask_BS.shape[1]]
        for (attention, feed), cache_BSC in zip(self.layers, cache, strict=True):
            x = self._attend(attention, x, cos, sin, cache_BSC, rows, at_B, mask)
            x = self._feed(feed, x, routing)
        return self._unit(x).double() @ self.head

    def _unit(self, x: Tensor) -> Tensor:
        """x over its length; the weight behind it holds the norm's weight and sqrt(width)."""
        square = (x * x).sum(dim=-1, keepdim=True)
        return x * square.add_(self.eps * x.shape[-1]).rsqrt_()

    def _attend(
        self,
        w: _Attention,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache_BSC: Tensor,
        rows: Tensor,
        at_B: Tensor,
        mask: Tensor,
    ) -> Tensor:
        B, L = x.shape[0], self.latent
        normed = self._unit(x)
        if w.query_down is None:
            both = F.linear(normed, w.query).view(B, 2, self.heads + 1, self.size)
            turned = torch.addcmul(both[:, 0] * cos, both[:, 1], sin)
            query, entry = turned[:, :-1], turned[:, -1]
        else:
            low = F.linear(normed, w.query_down)
            both = F.linear(self._unit(low), w.query).view(B, 2, self.heads, self.size)
            query = torch.addcmul(both[:, 0] * cos, both[:, 1], sin)
            own = F.linear(normed, w.entry).view(B, 2, 1, self.size)
            entry = torch.addcmul(own[:, 0] * cos, own[:, 1], sin)[:, 0]
        entry[:, :L] = self._unit(entry[:, :L]).mul_(w.latent_weight)
        cache_BSC[rows, at_B] = entry
        share = torch.baddbmm(mask, query, cache_BSC.transpose(1, 2)).softmax(dim=-1)
        mixed = torch.bmm(share, cache_BSC[..., :L])
        return torch.addmm(x, mixed.view(B, -1), w.out)

    def _feed(self, w: _Feed, x: Tensor, routing: Routing | None) -> Tensor:
        normed = self._unit(x)
        inner = F.linear(normed, w.up)
        if w.router is None:
            gate, up = inner.chunk(2, dim=-1)
            return torch.addmm(x, F.silu(gate).mul_(up), w.down)
        E = w.experts
        gate, up = inner[:, E:].chunk(2, dim=-1)
        scores = inner[:, :E].sigmoid()
        ids = w.router.select(scores)
        if routing is not None:
            routing.ids.append(ids)
        weight = torch.zeros_like(scores).scatter_(1, ids, w.router.weigh(scores, ids))
        act = F.silu(gate).mul_(up)
        width = w.router.config.moe_intermediate_size
        act[:, : E * width].unflatten(1, (E, width)).mul_(weight[..., None])  # shared ones stay
        return torch.addmm(x, act, w.down)


def _under(matrix: Tensor, norm: Tensor) -> Tensor:
    """A matrix that takes in the weight of the norm before it, for `Folded._unit`, fp64."""
    return matrix.double() * norm.double() * math.sqrt(norm.numel())


def _turned(rows_R: Tensor) -> tuple[Tensor, Tensor]:
    """Interleaved rotary rows [..., R, D] as evens over odds, and their quarter turn."""
    even, odd = rows_R[..., 0::2, :], rows_R[..., 1::2, :]
    return torch.cat([even, odd], dim=-2), torch.cat([-odd, even], dim=-2)


def _fold_attention(block: Block) -> _Attention:
    a: LatentAttention = block.self_attn
    norm = block.input_layernorm.weight
    up_HML = a.kv_b_proj.weight.double().view(a.heads, a.nope + a.value, a.latent)
    entry_CD = _under(a.kv_a_proj_with_mqa.weight, norm)
    key, key_turned = _turned(entry_CD[a.latent :])
    entry = torch.stack(
        [
            torch.cat([entry_CD[: a.latent], key]),
            torch.cat([torch.zeros_like(entry_CD[: a.latent]), key_turned]),
        ]
    )
    if a.q_lora_rank is None:
        down, query_D = None, _under(a.q_proj.weight, norm)
    else:
        down = _under(a.q_a_proj.weight, norm).to(norm.dtype)
        query_D = _under(a.q_b_proj.weight, a.q_a_layernorm.weight)
    q_HQD = query_D.view(a.heads, a.nope + a.rope, -1) * a.scale
    latent_HLD = up_HML[:, : a.nope].transpose(1, 2) @ q_HQD[:, : a.nope]
    rope, rope_turned = _turned(q_HQD[:, a.nope :])
    query = torch.stack(
        [
            torch.cat([latent_HLD, rope], dim=1),
            torch.cat([torch.zeros_like(latent_HLD), rope_turned], dim=1),
        ]
    )
    if down is None:  # one product makes queries and entry
        query = torch.cat([query, entry[:, None]], dim=1)
    out_DHV = a.o_proj.weight.double().view(-1, a.heads, a.value)
    out_HLD = torch.einsum("dhv,hvl->hld", out_DHV, up_HML[:, a.nope :])
    return _Attention(
        entry.flatten(0, 1).to(norm.dtype),
        down,
        query.flatten(0, 2).to(norm.dtype),
        a.kv_a_layernorm.weight * math.sqrt(a.latent),
        out_HLD.flatten(0, 1).to(norm.dtype),
    )


def _fold_feed(block: Block) -> _Feed:
    norm, mlp = block.post_attention_layernorm.weight, block.mlp
    if isinstance(mlp, DenseMLP):
        up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        return _Feed(None, 0, _under(up, norm).to(norm.dtype), mlp.down_proj.weight.t().contiguous())
    assert isinstance(mlp, SparseMLP)
    gate, ups = mlp.experts.gate_up_proj.chunk(2, dim=1)
    shared = mlp.shared_experts
    rows = [mlp.gate.weight, gate.flatten(0, 1), shared.gate_proj.weight]
    rows += [ups.flatten(0, 1), shared.up_proj.weight]
    down = [mlp.experts.down_proj.transpose(1, 2).flatten(0, 1), shared.down_proj.weight.t()]
    up = _under(torch.cat(rows), norm).to(norm.dtype)
    return _Feed(mlp.gate, mlp.gate.weight.shape[0], up, torch.cat(down))
