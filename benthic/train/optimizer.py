"""Muon for matrices, AdamW for the rest, in one optimizer with a flat state.

Muon (Jordan et al. 2024) replaces a matrix's momentum by the nearest orthogonal matrix, found by
Newton-Schulz steps. Matrices of one shape, stacked experts included, are done in one batch. The
update is scaled to the root mean square 0.2 that AdamW's has (Moonlight, arXiv:2502.16982), so both
share a learning rate. Embedding, head, norms and routers take AdamW.

Two things differ from what is usual. An expert's gate and up are stored as one [2F, D] and go
through Newton-Schulz as one matrix, where Moonlight takes each projection alone: the stack then
needs no copy, and the update's RMS is the same. Weight decay reaches every parameter, norms, biases
and embeddings too, which others spare: V3 section 4.2 names none to spare.
"""

import math
from collections import defaultdict

import torch
from torch import Tensor, nn

_BETA1, _BETA2, _EPS = 0.9, 0.95, 1e-8  # V3 section 4.2; eps is PyTorch's
_MOMENTUM = 0.95  # Jordan et al. 2024
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic coefficients, Jordan et al. 2024
_STEPS = 5
_UPDATE_RMS = 0.2  # Moonlight section 2.2


def is_matrix(name: str) -> bool:
    """Whether Muon takes the parameter: every projection, by the Hub's names."""
    return name.endswith(("_proj.weight", "_proj", "with_mqa.weight"))


class Optimizer:
    """State per parameter: `momentum` (Muon), or `mean` and `square` (AdamW); and `steps`.

    Without `muon`, AdamW takes the matrices too.
    """

    def __init__(self, model: nn.Module, *, weight_decay: float, muon: bool = True) -> None:
        self.parameters = dict(model.named_parameters())
        self.weight_decay = weight_decay
        self.steps = 0
        self.state: dict[str, Tensor] = {}
        self._batches: dict[tuple[int, int], list[str]] = defaultdict(list)
        self._plain: list[str] = []
        for name, p in self.parameters.items():
            if muon and is_matrix(name):
                self._batches[p.shape[-2], p.shape[-1]].append(name)
                self.state[f"{name}.momentum"] = torch.zeros_like(p)
            else:
                self._plain.append(name)
                self.state[f"{name}.mean"] = torch.zeros_like(p)
                self.state[f"{name}.square"] = torch.zeros_like(p)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.state)

    def load_state_dict(self, tensors: dict[str, Tensor], steps: int) -> None:
        for name, tensor in self.state.items():
            tensor.copy_(tensors[name])
        self.steps = steps

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One update from the parameters' gradients; `lr` for both kinds."""
        self.steps += 1
        for names in self._batches.values():
            self._muon(names, lr)
        self._adamw(lr)

    def _muon(self, names: list[str], lr: float) -> None:
        rows, columns = self.parameters[names[0]].shape[-2:]
        momenta = [self.state[f"{n}.momentum"] for n in names]
        grads = [_gradient(self.parameters[n]) for n in names]
        torch._foreach_mul_(momenta, _MOMENTUM)
        torch._foreach_add_(momenta, grads)
        ahead = torch._foreach_add(grads, momenta, alpha=_MOMENTUM)  # Nesterov
        flat = torch.cat([u.reshape(-1, rows, columns) for u in ahead])
        scaled = orthogonalise(flat) * (_UPDATE_RMS * math.sqrt(max(rows, columns)))
        sizes = [u.numel() // (rows * columns) for u in ahead]
        for n, update in zip(names, scaled.split(sizes), strict=True):
            p = self.parameters[n]
            p.mul_(1 - lr * self.weight_decay).add_(update.view_as(p), alpha=-lr)

    def _adamw(self, lr: float) -> None:
        params: list[Tensor] = [self.parameters[n] for n in self._plain]
        grads = [_gradient(self.parameters[n]) for n in self._plain]
        means = [self.state[f"{n}.mean"] for n in self._plain]
        squares = [self.state[f"{n}.square"] for n in self._plain]
        torch._foreach_lerp_(means, grads, 1 - _BETA1)
        torch._foreach_mul_(squares, _BETA2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - _BETA2)
        scale = torch._foreach_sqrt(squares)
        torch._foreach_div_(scale, math.sqrt(1 - _BETA2**self.steps))
        torch._foreach_add_(scale, _EPS)
        torch._foreach_mul_(params, 1 - lr * self.weight_decay)
        torch._foreach_addcdiv_(params, means, scale, -lr / (1 - _BETA1**self.steps))


def orthogonalise(x_NRC: Tensor) -> Tensor:
    """Five Newton-Schulz steps on each matrix of a batch: singular values to about one."""
    a, b, c = _NEWTON_SCHULZ
    tall = x_NRC.shape[1] > x_NRC.shape[2]
    x = x_NRC.transpose(1, 2) if tall else x_NRC
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(_STEPS):
        xx = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(xx, xx, xx, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x


def _gradient(p: nn.Parameter) -> Tensor:
    """An expert that no token chose has none: zeros."""
    return torch.zeros_like(p) if p.grad is None else p.grad
