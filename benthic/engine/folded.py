"""Decoding of small models with folded weights: few large products, not many small.

A small model's step costs what dispatching its operations costs. Here norms' weights fold into
the matrix behind them, the key up-projection into the query's, the value up-projection into the
output's (the absorbed path of V2 appendix C, carried through), rotation into a product with each
row's turned twin, and all experts run as one matrix whose outputs the router weighs, most of them
by zero. The slow twin is `LanguageModel.decode`. Products are folded in fp64 and rounded once.

Shapes: B rows, S cached position, D hidden, C = L + R cache entry, H heads, E experts, F expert
width.
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

_Index = tuple[slice, int] | tuple[Tensor, Tensor]
LIMIT = (
    4_000_000  # parameters; beyond, memory traffic decides, and running all experts would add to it
)


def pays(model: LanguageModel) -> bool:
    """Whether the model is small enough for folding to be faster, and of the kind folded here.

    That is latent attention and sigmoid scores, weights of one dtype, one eps in all norms.
    """
    c = model.config
    plain = c.latent and c.topk_method == "noaux_tc" and c.latent_norm_eps == c.rms_norm_eps
    uniform = len({p.dtype for p in model.parameters()}) == 1
    return plain and uniform and sum(p.numel() for p in model.parameters()) <= LIMIT


@dataclass(frozen=True)
class _Attention:
    """`entry` [C + R, D] and `query` [H * (C + R), D or query latent]: turned twins of R last.

    Without a query latent, one matrix `query` makes both: H + 1 in place of H, the entry's last.
    """

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
        self.cos = torch.cat([model.cos, model.cos], dim=1)
        self.sin = torch.cat([model.sin, model.sin], dim=1)
        self.layers = [(_fold_attention(b), _fold_feed(b)) for b in model.blocks]
        head = _under(model.lm_head.weight, model.model.norm.weight)
        self.head = head.t().contiguous().to(self.embedding.dtype)

    def decode(
        self,
        tokens_B: Tensor,
        at_B: Tensor,
        cache: Tensor,
        mask_BS: Tensor,
        routing: Routing | None = None,
    ) -> Tensor:
        """As `LanguageModel.decode`."""
        x = F.embedding(tokens_B, self.embedding)
        where: _Index
        mask: Tensor | None
        if len(at_B) == 1:  # all rows stand at one position, which sees the whole slice
            place = int(at_B)
            where, mask = (slice(None), place), None
            cos, sin = self.cos[place], self.sin[place]
        else:
            where, mask = (torch.arange(len(x), device=x.device), at_B), mask_BS[:, None]
            cos, sin = self.cos[at_B][:, None], self.sin[at_B][:, None]
        cache = cache[:, :, : mask_BS.shape[1]]
        for (attention, feed), cache_BSC in zip(self.layers, cache, strict=True):
            x = self._attend(attention, x, cos, sin, cache_BSC, where, mask)
            x = self._feed(feed, x, routing)
        return self._unit(x) @ self.head

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
        where: _Index,
        mask: Tensor | None,
    ) -> Tensor:
        H, L = self.heads, self.latent
        normed = self._unit(x)
        if w.query_down is None:
            both = self._rotated(F.linear(normed, w.query), H + 1, cos, sin)
            query, entry = both[:, :H], both[:, H]
        else:
            low = self._unit(F.linear(normed, w.query_down))
            query = self._rotated(F.linear(low, w.query), H, cos, sin)
            entry = self._rotated(F.linear(normed, w.entry), 1, cos, sin)[:, 0]
        latent = entry[:, :L]
        latent.copy_(self._unit(latent).mul_(w.latent_weight))
        cache_BSC[where] = entry
        keys = cache_BSC.transpose(1, 2)
        score = torch.bmm(query, keys) if mask is None else torch.baddbmm(mask, query, keys)
        mixed = torch.bmm(score.softmax(dim=-1), cache_BSC[..., :L])
        return torch.addmm(x, mixed.view(len(x), -1), w.out)

    def _rotated(self, rows: Tensor, count: int, cos: Tensor, sin: Tensor) -> Tensor:
        """[B, count * (C + R)], the turned twins last, to [B, count, C] with R rotated in place."""
        straight = count * self.size
        out = rows[:, :straight].unflatten(1, (count, self.size))
        turned = rows[:, straight:].unflatten(1, (count, cos.shape[-1]))
        out[..., self.latent :].mul_(cos).addcmul_(turned, sin)
        return out

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
    a = block.self_attn
    assert isinstance(a, LatentAttention)
    norm = block.input_layernorm.weight
    up_HML = a.kv_b_proj.weight.double().view(a.heads, a.nope + a.value, a.latent)
    entry_CD = _under(a.kv_a_proj_with_mqa.weight, norm)
    key, key_turned = _turned(entry_CD[a.latent :])
    entry, entry_turned = torch.cat([entry_CD[: a.latent], key])[None], key_turned[None]
    if a.q_lora_rank is None:
        down, query_D = None, _under(a.q_proj.weight, norm)
    else:
        down = _under(a.q_a_proj.weight, norm).to(norm.dtype)
        query_D = _under(a.q_b_proj.weight, a.q_a_layernorm.weight)
    q_HQD = query_D.view(a.heads, a.nope + a.rope, -1) * a.scale
    latent_HLD = up_HML[:, : a.nope].transpose(1, 2) @ q_HQD[:, : a.nope]
    rope, turned = _turned(q_HQD[:, a.nope :])
    query = torch.cat([latent_HLD, rope], dim=1)
    if down is None:
        query, turned = torch.cat([query, entry]), torch.cat([turned, entry_turned])
    out_DHV = a.o_proj.weight.double().view(-1, a.heads, a.value)
    out_HLD = torch.einsum("dhv,hvl->hld", out_DHV, up_HML[:, a.nope :])
    return _Attention(
        _stack(entry, entry_turned).to(norm.dtype),
        down,
        _stack(query, turned).to(norm.dtype),
        a.kv_a_layernorm.weight * math.sqrt(a.latent),
        out_HLD.flatten(0, 1).to(norm.dtype),
    )


def _stack(straight: Tensor, turned: Tensor) -> Tensor:
    return torch.cat([straight.flatten(0, 1), turned.flatten(0, 1)])


def _fold_feed(block: Block) -> _Feed:
    norm, mlp = block.post_attention_layernorm.weight, block.mlp
    if isinstance(mlp, DenseMLP):
        up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        return _Feed(
            None, 0, _under(up, norm).to(norm.dtype), mlp.down_proj.weight.t().contiguous()
        )
    assert isinstance(mlp, SparseMLP)
    gate, ups = mlp.experts.gate_up_proj.chunk(2, dim=1)
    shared = mlp.shared_experts
    rows = [mlp.gate.weight, gate.flatten(0, 1), shared.gate_proj.weight]
    rows += [ups.flatten(0, 1), shared.up_proj.weight]
    down = [mlp.experts.down_proj.transpose(1, 2).flatten(0, 1), shared.down_proj.weight.t()]
    up = _under(torch.cat(rows), norm).to(norm.dtype)
    return _Feed(mlp.gate, mlp.gate.weight.shape[0], up, torch.cat(down))
