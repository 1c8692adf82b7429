"""Rotary position embedding: interleaved pairs (DeepSeek), halves (Llama, Qwen), long contexts.

Pair i of a vector at position t turns by the angle t * f_i, f_i = theta^(-2i/R) (RoFormer,
arXiv:2104.09864); YaRN (arXiv:2309.00071) and Llama 3.1 divide the slow frequencies to reach
further. Frequencies and angles are fp32, as in the code that the released weights were trained and
are served with: at position 100,000 an fp64 angle would differ by some thousandths. Interleaved
pairs are written evens first, then odds: the same permutation for queries and keys leaves their
products unchanged.
"""

import math

import torch
from torch import Tensor

from benthic.model.config import RopeScaling

PLAIN = RopeScaling()


def rope_tables(
    length: int, rope_dim: int, theta: float, scaling: RopeScaling = PLAIN
) -> tuple[Tensor, Tensor]:
    """Cosine and sine, fp32 [length, rope_dim / 2], times `scaling.turn_factor`.

    In place: a million positions are half a gigabyte, and no more is taken on the way.
    """
    if torch.get_default_device().type == "meta":  # where arithmetic imports a compiler
        return torch.empty(length, rope_dim // 2), torch.empty(length, rope_dim // 2)
    angle = torch.arange(length).float()[:, None] * frequencies(rope_dim, theta, scaling)
    return angle.cos().mul_(scaling.turn_factor), angle.sin_().mul_(scaling.turn_factor)


def frequencies(rope_dim: int, theta: float, scaling: RopeScaling = PLAIN) -> Tensor:
    """Radians a position turns each pair by, fp32 [rope_dim / 2]."""
    slow = theta ** (torch.arange(0, rope_dim, 2).float() / rope_dim)
    if scaling.rope_type == "default":
        return 1.0 / slow
    if scaling.rope_type == "linear":
        return 1.0 / slow / scaling.factor
    trained = scaling.original_max_position_embeddings
    if scaling.rope_type == "yarn":
        first, last = (
            rope_dim * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(theta))
            for turns in (scaling.beta_fast, scaling.beta_slow)
        )
        if scaling.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, rope_dim - 1)
        last = last + 0.001 if last == first else last
        ramp = ((torch.arange(rope_dim // 2).float() - first) / (last - first)).clamp(0, 1)
        keep = 1 - ramp
        return 1.0 / (scaling.factor * slow) * (1 - keep) + 1.0 / slow * keep
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    plain = 1.0 / slow
    wavelength = 2 * math.pi / plain
    smooth = (trained / wavelength - low) / (high - low)
    between = (1 - smooth) * plain / scaling.factor + smooth * plain
    long = torch.where(wavelength > trained / low, plain / scaling.factor, plain)
    middle = (wavelength >= trained / high) & (wavelength <= trained / low)
    return torch.where(middle, between, long)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate interleaved pairs of the last dimension R; `cos`, `sin` broadcast to [..., R / 2]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.cat([even * cos - odd * sin, odd * cos + even * sin], dim=-1).to(x.dtype)


def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs (i, i + R / 2) of the last dimension R, as Llama's and Qwen's weights expect."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def rotate_reference(
    x: Tensor, position: int, theta: float, scaling: RopeScaling = PLAIN, *, halves: bool = False
) -> Tensor:
    """The same for one position, pair by pair, by complex multiplication in Python's floats."""
    rope_dim = x.shape[-1]
    out = x.double().clone()
    for i in range(rope_dim // 2):
        a, b = (i, i + rope_dim // 2) if halves else (2 * i, 2 * i + 1)
        angle = position * frequency_reference(i, rope_dim, theta, scaling)
        turn = scaling.turn_factor * complex(math.cos(angle), math.sin(angle))
        turned = torch.complex(x[..., a].double(), x[..., b].double()) * turn
        out[..., i], out[..., i + rope_dim // 2] = turned.real, turned.imag
    return out.to(x.dtype)


def frequency_reference(pair: int, rope_dim: int, theta: float, scaling: RopeScaling) -> float:
    """One pair's frequency, read off the papers' piecewise definitions."""
    plain = theta ** (-2 * pair / rope_dim)
    turns = scaling.original_max_position_embeddings * plain / (2 * math.pi)
    if scaling.rope_type == "default":
        return plain
    if scaling.rope_type == "linear":
        return plain / scaling.factor
    if scaling.rope_type == "llama3":
        if turns < scaling.low_freq_factor:
            return plain / scaling.factor
        if turns > scaling.high_freq_factor:
            return plain
        weight = turns - scaling.low_freq_factor
        weight /= scaling.high_freq_factor - scaling.low_freq_factor
        return weight * plain + (1 - weight) * plain / scaling.factor
    trained = scaling.original_max_position_embeddings

    def pair_turning(turns: float) -> float:
        """The pair, as a real number, that turns so often over the trained length."""
        return rope_dim / 2 * math.log(trained / (2 * math.pi * turns), theta)

    first, last = pair_turning(scaling.beta_fast), pair_turning(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    # Where all pairs lie on one side the ends cross, and what should be left alone is stretched, or
    # the other way round: so in every program that the released weights run in, so here.
    first, last = max(first, 0), min(last, rope_dim - 1)
    stretched = min(max((pair - first) / (last - first or 0.001), 0.0), 1.0)
    return (1 - stretched) * plain + stretched * plain / scaling.factor
