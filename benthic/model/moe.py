"""DeepSeekMoE: scores, group-limited selection, shared and routed experts (V2 2.2, V3 2.1.2).

A bias that only selects, never weighs, keeps the load even without an auxiliary loss: after each
step it moves by a fixed amount against the load of the whole batch (`balance_bias`;
arXiv:2408.15664). The experts of a layer are stacked and run as grouped matrix products;
`experts_reference` is the loop. Left out: token dropping (V3 drops none), expert parallelism.

Shapes: N tokens, D hidden, E experts, K experts a token, F expert width, P = N * K pairs.
"""

import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benthic.model.config import ModelConfig

log = logging.getLogger(__name__)


@dataclass
class Routing:
    """What the routers of one forward chose; give `replay` to make them choose that.

    `replay` and `chosen()` are int64 [B, T, M, K]: M sparse layers in order, K expert ids each.
    """

    replay: Tensor | None = None
    balance_loss: bool = False
    ids: list[Tensor] = field(default_factory=list)
    balance: list[Tensor] = field(default_factory=list)

    def chosen(self) -> Tensor:
        return torch.stack(self.ids, dim=-2)


class DenseMLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, width: int, inner: int, *, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=bias)
        self.up_proj = nn.Linear(width, inner, bias=bias)
        self.down_proj = nn.Linear(inner, width, bias=bias)

    def forward(self, x: Tensor, routing: Routing | None = None) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Router(nn.Module):
    """Scores tokens against experts and selects; parameters are named as on the Hub.

    V3: sigmoid scores, and a bias that only selects. V2: softmax over all experts, no bias.
    """

    e_score_correction_bias: Tensor | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        biased = config.topk_method == "noaux_tc"
        bias = torch.zeros(config.n_routed_experts) if biased else None
        self.register_buffer("e_score_correction_bias", bias)

    def select(self, scores_NE: Tensor) -> Tensor:
        """Ids [N, K] by biased score: the best groups first, then the best experts in them.

        A group counts as the sum of its top two in V3, as its best expert in V2.
        """
        c = self.config
        biased = scores_NE.detach()
        if self.e_score_correction_bias is not None:
            biased = biased + self.e_score_correction_bias
        if c.n_group > 1:
            grouped = biased.view(-1, c.n_group, c.n_routed_experts // c.n_group)
            top = 2 if c.topk_method == "noaux_tc" else 1
            best = grouped.topk(top, dim=-1).values.sum(-1).topk(c.topk_group, dim=-1).indices
            # -inf, not 0: a biased score may be negative.
            shut = torch.ones_like(grouped[..., 0], dtype=torch.bool).scatter_(1, best, False)
            biased = grouped.masked_fill(shut[..., None], -torch.inf).view_as(biased)
        return biased.topk(c.num_experts_per_tok, dim=-1).indices

    def weigh(self, scores_NE: Tensor, ids_NK: Tensor) -> Tensor:
        """Combine weights [N, K] from the unbiased scores (V3 eq. 13)."""
        weight = scores_NE.gather(1, ids_NK)
        if self.config.norm_topk_prob:
            weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
        return weight * self.config.routed_scaling_factor

    def forward(self, x_ND: Tensor) -> Tensor:
        """Scores [N, E], in fp32 at least."""
        precise = torch.promote_types(x_ND.dtype, torch.float32)
        logits = F.linear(x_ND.to(precise), self.weight.to(precise))
        sigmoid = self.config.topk_method == "noaux_tc"
        return logits.sigmoid() if sigmoid else logits.softmax(dim=-1)


class Experts(nn.Module):
    """Routed experts, stacked: gate_up_proj [E, 2F, D], gate first; down_proj [E, D, F]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        E, F_, D = config.n_routed_experts, config.moe_intermediate_size, config.hidden_size
        self.gate_up_proj = nn.Parameter(torch.empty(E, 2 * F_, D))
        self.down_proj = nn.Parameter(torch.empty(E, D, F_))

    def forward(self, x_ND: Tensor, ids_NK: Tensor, weight_NK: Tensor) -> Tensor:
        """Weighted sum of each token's experts, [N, D]."""
        N, K = ids_NK.shape
        E = self.gate_up_proj.shape[0]
        if N * K <= E and not torch.is_grad_enabled():
            return self._few(x_ND, ids_NK, weight_NK)
        if not _grouped_mm_runs(x_ND):
            return experts_reference(self, x_ND, ids_NK, weight_NK)
        flat = ids_NK.reshape(-1)
        order = flat.argsort(stable=True)
        ends = torch.bincount(flat, minlength=E).cumsum(0).to(torch.int32)
        x_PD = _Spread.apply(x_ND, order, K)
        inner = F.grouped_mm(x_PD, self.gate_up_proj.transpose(1, 2), offs=ends)
        gate, up = inner.chunk(2, dim=-1)
        y_PD = F.grouped_mm(F.silu(gate) * up, self.down_proj.transpose(1, 2), offs=ends)
        return _Gather.apply(y_PD, order, weight_NK)

    def _few(self, x_ND: Tensor, ids_NK: Tensor, weight_NK: Tensor) -> Tensor:
        """The same for a handful of tokens in decoding: their experts' weights are gathered."""
        N, K = ids_NK.shape
        flat = ids_NK.reshape(-1)
        x_PD1 = x_ND.repeat_interleave(K, dim=0).unsqueeze(-1) if K > 1 else x_ND.unsqueeze(-1)
        gate, up = torch.bmm(self.gate_up_proj[flat], x_PD1).chunk(2, dim=1)
        y_PD = torch.bmm(self.down_proj[flat], F.silu(gate) * up)
        return torch.bmm(weight_NK[:, None], y_PD.view(N, K, -1)).squeeze(1)


class _Spread(torch.autograd.Function):
    """Rows of x, K times each, in expert order; backward is a gather, so deterministic."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, order: Tensor, K: int) -> Tensor:
        ctx.save_for_backward(order)
        ctx.K = K
        return x_ND.index_select(0, order // K)

    @staticmethod
    def backward(ctx: Any, grad_PD: Tensor) -> tuple[Tensor, None, None]:
        (order,) = ctx.saved_tensors
        back = torch.empty_like(order)
        back[order] = torch.arange(order.numel(), device=order.device)
        return grad_PD.index_select(0, back).view(-1, ctx.K, grad_PD.shape[1]).sum(1), None, None


class _Gather(torch.autograd.Function):
    """Expert outputs back in token order, weighted and summed over K; the adjoint of `_Spread`."""

    @staticmethod
    def forward(ctx: Any, y_PD: Tensor, order: Tensor, weight_NK: Tensor) -> Tensor:
        N, K = weight_NK.shape
        back = torch.empty_like(order)
        back[order] = torch.arange(order.numel(), device=order.device)
        y_NKD = y_PD.index_select(0, back).view(N, K, -1)
        ctx.save_for_backward(y_NKD, order, weight_NK)
        return torch.bmm(weight_NK[:, None], y_NKD).squeeze(1)

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, None, Tensor]:
        y_NKD, order, weight_NK = ctx.saved_tensors
        grad_weight = torch.bmm(y_NKD, grad_ND[:, :, None]).squeeze(-1)
        grad_NKD = weight_NK[:, :, None] * grad_ND[:, None]
        return grad_NKD.view(-1, grad_ND.shape[1]).index_select(0, order), None, grad_weight


class SparseMLP(nn.Module):
    """Shared experts plus the routed experts that the router picks (V3 eq. 12)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.gate = Router(config)
        self.experts = Experts(config)
        self.shared_experts = DenseMLP(
            config.hidden_size, config.n_shared_experts * config.moe_intermediate_size
        )

    def forward(self, x: Tensor, routing: Routing | None = None) -> Tensor:
        """[..., D] to [..., D]; reports its choice to `routing`, or takes it from there."""
        x_ND = x.reshape(-1, x.shape[-1])
        scores = self.gate(x_ND)
        if routing is not None and routing.replay is not None:
            ids = routing.replay[..., len(routing.ids), :].reshape(x_ND.shape[0], -1)
        else:
            ids = self.gate.select(scores)
        if routing is not None:
            routing.ids.append(ids.view(*x.shape[:-1], -1))
            if routing.balance_loss:
                routing.balance.append(
                    sequence_balance(scores.view(*x.shape[:-1], -1), ids.shape[1])
                )
        weight = self.gate.weigh(scores, ids).to(x.dtype)
        return self.shared_experts(x) + self.experts(x_ND, ids, weight).view_as(x)


def sequence_balance(scores_BTE: Tensor, K: int) -> Tensor:
    """V3 eq. 17-20 without alpha, averaged over sequences: sum over experts of f * P.

    f counts the top K of the unbiased scores and carries no gradient.
    """
    B, T, E = scores_BTE.shape
    top = scores_BTE.detach().topk(K, dim=-1).indices
    f_BE = F.one_hot(top.reshape(B, -1), E).sum(1) * (E / (K * T))
    p_BE = (scores_BTE / scores_BTE.sum(-1, keepdim=True)).mean(1)
    return (f_BE * p_BE).sum(-1).mean()


@torch.no_grad()
def balance_bias(bias_E: Tensor, load_E: Tensor, rate: float) -> None:
    """b += rate * sign(mean load - load), in place; `load_E` counts the whole batch."""
    load = load_E.to(bias_E.dtype)
    bias_E += rate * torch.sign(load.mean() - load)


def experts_reference(module: Experts, x_ND: Tensor, ids_NK: Tensor, weight_NK: Tensor) -> Tensor:
    """The routed experts as a loop; runs everywhere."""
    out = torch.zeros_like(x_ND)
    for e in range(module.gate_up_proj.shape[0]):
        token, slot = (ids_NK == e).nonzero(as_tuple=True)
        gate, up = F.linear(x_ND[token], module.gate_up_proj[e]).chunk(2, dim=-1)
        y = F.linear(F.silu(gate) * up, module.down_proj[e])
        out = out.index_add(0, token, y * weight_NK[token, slot, None])
    return out


def select_reference(router: Router, scores_NE: Tensor) -> list[set[int]]:
    """Each token's experts by sorting lists: V3's sum of two (2.1.2), V2's best one (2.2.1)."""
    c, out = router.config, []
    bias = router.e_score_correction_bias
    biases = [0.0] * c.n_routed_experts if bias is None else bias.tolist()
    best_of = 2 if c.topk_method == "noaux_tc" else 1
    size = c.n_routed_experts // c.n_group
    for scores in scores_NE.tolist():
        biased = [s + b for s, b in zip(scores, biases, strict=True)]
        groups = [sorted(biased[g * size : (g + 1) * size])[-best_of:] for g in range(c.n_group)]
        kept = sorted(range(c.n_group), key=lambda g: -sum(groups[g]))[: c.topk_group]
        reachable = [e for e in range(c.n_routed_experts) if e // size in kept]
        out.append(set(sorted(reachable, key=lambda e: -biased[e])[: c.num_experts_per_tok]))
    return out


_told: set[str] = set()


def _grouped_mm_runs(x: Tensor) -> bool:
    """CPU takes every dtype but fp64 since torch 2.11; CUDA's kernel takes bf16 only."""
    on_cpu = x.device.type == "cpu" and x.dtype != torch.float64
    runs = on_cpu or x.dtype == torch.bfloat16
    if not runs and str(x.dtype) not in _told:
        _told.add(str(x.dtype))
        # fp64 is asked for by name; a GPU in fp32 may be a surprise.
        level = logging.INFO if x.dtype == torch.float64 else logging.WARNING
        log.log(level, "experts run as a loop: no grouped_mm for %s on %s", x.dtype, x.device)
    return runs
