"""One optimizer step, for every training stage: forward, backward, sum, clip, update, balance.

A stage brings a function from a part's number to a `Part`; its loss is already divided by what the
whole batch counts, so the sum over parts and ranks is the batch's loss whatever the split.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benthic.model.moe import balance_bias
from benthic.model.transformer import LanguageModel
from benthic.train.optimizer import Optimizer
from benthic.train.parallel import Ranks


class TrainingError(RuntimeError):
    """Training cannot go on; the message is one sentence with the remedy."""


@dataclass
class Part:
    """One micro-batch after its forward pass.

    `loss` scalar; `load` int64 [M, E], tokens each expert of each router took; `sums` float64 [S],
    further figures that add up over parts.
    """

    loss: Tensor
    load: Tensor
    sums: Tensor


@dataclass(frozen=True)
class StepResult:
    """`loss` and `sums` of the whole batch; `load` [M, E]; gradient norm before clipping."""

    loss: float
    grad_norm: float
    load: Tensor
    sums: list[float]


def train_step(
    model: LanguageModel,
    optimizer: Optimizer,
    part: Callable[[int], Part],
    parts: int,
    *,
    lr: float,
    clip: float,
    bias_rate: float,
    ranks: Ranks,
    twin: LanguageModel | None = None,
) -> StepResult:
    """Run this rank's parts, then the update, which is the same on every rank.

    The parts' losses are functions of `twin`, if one is given: a copy of the model in another
    precision, whose gradients are the model's.

    Raises TrainingError if the loss or the gradient is not finite; the weights are then unchanged.
    """
    parameters = list(model.parameters())
    functions_of = list((twin or model).parameters())

    def differentiate(number: int) -> tuple[list[Tensor], list[Tensor]]:
        done = part(number)
        gradients = torch.autograd.grad(
            done.loss, functions_of, allow_unused=True, materialize_grads=True
        )
        return [g.to(p.dtype).contiguous() for g, p in zip(gradients, parameters, strict=True)], [
            done.loss.detach().double()[None],
            done.load,
            done.sums,
        ]

    results = ranks.each(differentiate, parts)
    gradients, total = next(results)
    for more, figures in results:
        torch._foreach_add_(gradients, more)
        torch._foreach_add_(total, figures)
        del more  # or it would live through the next part
    ranks.sum([*gradients, *total])
    for p, gradient in zip(parameters, gradients, strict=True):
        p.grad = gradient
    loss, load, sums = total
    norm = torch.nn.utils.clip_grad_norm_(parameters, clip)
    if not (torch.isfinite(loss).all() and torch.isfinite(norm)):
        raise TrainingError(
            f"the loss ({loss.item():g}) or its gradient (norm {norm.item():g}) is not finite: "
            "lower learning_rate or clip and start again with --fresh"
        )
    optimizer.step(lr)
    for p in parameters:
        p.grad = None
    if bias_rate:
        for router, counts in zip(model.routers, load, strict=True):
            if router.e_score_correction_bias is not None:
                balance_bias(router.e_score_correction_bias, counts, bias_rate)
    return StepResult(loss.item(), norm.item(), load, sums.tolist())


def expert_load(ids: list[Tensor], experts: int) -> Tensor:
    """How many times each expert was taken, int64 [M, E], from each router's ids of any shape."""
    if not ids:
        return torch.zeros(0, experts, dtype=torch.int64)
    return torch.stack([torch.bincount(i.flatten(), minlength=experts) for i in ids])
