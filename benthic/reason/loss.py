"""GRPO without its two biases (Dr. GRPO, arXiv:2503.20783), with DAPO's token mean and clip.

A = R - mean of the group, not divided by the deviation; groups without spread say nothing and are
dropped; loss = -sum over tokens of min(r A, clip(r) A) / tokens of the whole batch, with r the
policy's probability over the sampler's. No KL term.
"""

import torch
from torch import Tensor


def advantages(rewards_PG: Tensor) -> tuple[Tensor, Tensor]:
    """Group-centred advantages [P, G] and which groups have spread, bool [P]."""
    centred = rewards_PG - rewards_PG.mean(dim=1, keepdim=True)
    kept = rewards_PG.amax(dim=1) > rewards_PG.amin(dim=1)
    return centred * kept[:, None], kept


def clipped_objective(ratio_BT: Tensor, advantage_B: Tensor, low: float, high: float) -> Tensor:
    """min(r A, clip(r, 1 - low, 1 + high) A) for each token, [B, T]; to be maximised."""
    a = advantage_B[:, None]
    return torch.minimum(ratio_BT * a, ratio_BT.clamp(1 - low, 1 + high) * a)
