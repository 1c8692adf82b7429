"""Logits to tokens, from random numbers that belong to the request and not to the batch.

A token is drawn by inverting the cumulative distribution at a uniform number, which comes from a
counter-based generator keyed by the seed and the request: whoever shares the batch changes nothing.
Temperature shapes the distribution and, for talking, top-p (arXiv:1904.09751) cuts its tail; a
rollout leaves it whole, since the trainer's importance ratio is of the whole distribution. Left
out: top-k, penalties.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """temperature 0 is greedy; `seed` keys the draws; `ignore_eos` goes on to the last token.

    `top_p`: the likeliest tokens are drawn from, as many as reach that share; 1: all.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 64
    seed: int = 0
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 100:
            raise ValueError(f"temperature is {self.temperature}: give a number from 0 to 100")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}: give a number above 0 and up to 1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}: give a whole number from 0 to 2**63 - 1")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}: it must be at least 1")


def uniforms(seed: int, keys: list[int], count: int) -> NDArray[np.float64]:
    """[len(keys), count] numbers in [0, 1): a row depends on seed and key alone."""
    draws = [np.random.Generator(np.random.Philox(key=[seed, key])).random(count) for key in keys]
    return np.stack(draws)


def choose(
    logits_BV: Tensor, uniform_B: Tensor, temperature: float, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The next token int64 [B] and its log-probability at temperature 1, fp32 [B].

    Logits are promoted to fp32 at least, as by the trainer: in bf16 a log-probability near -10 is
    off by up to 0.03, and the importance ratio by as much. The draw itself is in fp64.
    """
    promoted = torch.promote_types(logits_BV.dtype, torch.float32)
    log_p = logits_BV.to(promoted).log_softmax(dim=-1)
    if temperature == 0:
        value, token = log_p.max(dim=-1)
        return token, value.float()
    shape = log_p if temperature == 1 else (log_p / temperature)
    p_BV = shape.double().softmax(dim=-1)
    cdf = (p_BV if top_p == 1 else nucleus(p_BV, top_p)).cumsum(dim=-1)
    token = torch.searchsorted(cdf, (uniform_B * cdf[:, -1])[:, None], right=True)
    token = token.clamp_(max=logits_BV.shape[1] - 1)
    return token[:, 0], log_p.gather(1, token)[:, 0].float()


def nucleus(p_BV: Tensor, top_p: float) -> Tensor:
    """Probabilities [B, V] without the tail: zero where likelier tokens already reach `top_p`."""
    sorted_BV, order = p_BV.sort(dim=-1, descending=True, stable=True)
    likelier = sorted_BV.cumsum(dim=-1) - sorted_BV
    return torch.zeros_like(p_BV).scatter_(-1, order, sorted_BV.where(likelier < top_p, 0.0))
