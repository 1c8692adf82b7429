"""Rotary position embedding on interleaved pairs, as DeepSeek's weights expect it.

Pair i of a vector at position t turns by the angle t * theta^(-2i/R) (RoFormer, arXiv:2104.09864).
The result is written evens first, then odds: the same permutation for queries and keys leaves their
products unchanged. Left out: YaRN, which V3 switches on only when the context is extended.
"""

import torch
from torch import Tensor


def rope_tables(length: int, rope_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine, fp32 [length, rope_dim / 2]; angles are computed in fp64."""
    frequency = theta ** (-torch.arange(0, rope_dim, 2, dtype=torch.float64) / rope_dim)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the last dimension R of `x`; `cos`, `sin` broadcast against [..., R / 2]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.cat([even * cos - odd * sin, odd * cos + even * sin], dim=-1)


def rotate_reference(x: Tensor, position: int, theta: float) -> Tensor:
    """The same for one position by complex multiplication, order kept as `rotate` writes it."""
    rope_dim = x.shape[-1]
    pairs = torch.view_as_complex(x.double().reshape(*x.shape[:-1], rope_dim // 2, 2))
    exponent = -torch.arange(0, rope_dim, 2, dtype=torch.float64) / rope_dim
    turned = pairs * torch.polar(torch.ones_like(exponent), position * theta**exponent)
    return torch.cat([turned.real, turned.imag], dim=-1).to(x.dtype)
