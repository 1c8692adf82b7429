"""The networks that a saving is measured against: with full attention, without experts, plain.

`as_mha` changes attention alone, `as_dense` the experts alone; `dense_twin` is what a plain dense
model of the same class would be. Its class is that of the same total, of the same active
parameters, or of `quality`: sqrt(total * active), the rule of thumb for which dense model a sparse
one equals. It was said of Mixtral and has no theory behind it; laws that were fitted (Clark et
al., 2202.01169; Ludziejewski et al., 2502.05172) depend on tokens and granularity.
"""

from dataclasses import replace
from math import sqrt
from typing import Literal

from benthic.cost.network.flops import parameters
from benthic.cost.network.shape import Shape

Class = Literal["total", "active", "quality"]


def class_size(shape: Shape, by: Class) -> float:
    """Parameters of the dense network of the same class."""
    counts = parameters(shape)
    if by == "quality":
        return sqrt(counts["total"] * counts["active"])
    return float(counts[by])


def as_mha(shape: Shape) -> Shape:
    """The same network whose heads have keys and values of their own, as wide as its values: the
    part of a latent's head that carries the position is needed by latents alone (V2 section
    2.1.3). Parameters change by attention's."""
    if shape.attention == "mha":
        return shape
    width = shape.value_dim if shape.latent else shape.head_dim
    return replace(
        shape,
        name=f"{shape.name} with full attention",
        kv_heads=shape.heads,
        head_dim=width,
        q_rank=0,
        kv_rank=0,
        rope_dim=0,
        attention_vectors=0,
        head_norms=False,
    )


def as_dense(shape: Shape, *, by: Class = "total") -> Shape:
    """A dense network of the same class and kind of attention, prediction blocks included.

    Depth and width grow together: hidden over layers, heads over hidden and the feed-forward over
    hidden are the shape's own, the last in full where it has a dense layer (else 8/3, 4 without a
    gate); latents keep their ranks. The feed-forward then takes up what is left to the class.
    """
    if not shape.experts:
        return shape
    return _fitted(replace(shape, name=f"{shape.name}, dense"), class_size(shape, by))


def dense_twin(shape: Shape, *, by: Class = "total") -> Shape:
    """The plain network of the same class: dense, full attention in heads that fill hidden, no
    prediction blocks."""
    width = shape.value_dim if shape.latent else shape.head_dim
    plain = replace(as_mha(shape), name=f"{shape.name}, plain", mtp=0, window=0, windowed_layers=0)
    size = class_size(shape, by)
    heads = _even(shape.hidden / width, 8)
    plain = replace(plain, heads=heads, kv_heads=heads)
    return _fitted(plain, size) if shape.experts else _filled(plain, size)


def _fitted(shape: Shape, size: float) -> Shape:
    """Dense, scaled to `size` parameters; their number grows with the width's cube."""
    low, high = 1, 1 << 11
    while low < high:
        middle = (low + high) // 2
        if parameters(_scaled(shape, middle))["total"] < size:
            low = middle + 1
        else:
            high = middle
    pair = (_scaled(shape, max(low - 1, 1)), _scaled(shape, low))
    near = min(pair, key=lambda made: abs(parameters(made)["total"] - size))
    return _filled(near, size)


def _scaled(shape: Shape, blocks: int) -> Shape:
    """Dense, hidden as wide as so many heads or parts of heads."""
    step = min(shape.value_dim, shape.hidden)
    hidden = blocks * step
    ratio = hidden / shape.hidden
    layers = _even(shape.layers * ratio, 4)
    heads = _even(shape.heads * ratio, 8)
    if shape.kv_heads == shape.heads:
        groups = heads
    else:
        groups = max(min(shape.kv_heads, heads), 1)
        heads = max(round(heads / groups), 1) * groups
    usual = 8 / 3 if shape.gated else 4.0
    wide = shape.ffn / shape.hidden if shape.ffn and shape.dense_layers else usual
    return replace(
        shape,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=groups,
        ffn=_even(wide * hidden, 64),
        experts=0,
        experts_per_token=0,
        shared_experts=0,
        expert_ffn=0,
        expert_vectors=0,
        router_vectors=0,
        windowed_layers=round(shape.windowed_layers / shape.layers * layers),
        vectors=0,
    )


def _filled(shape: Shape, size: float) -> Shape:
    """The same, its feed-forward as wide as brings it to `size`."""
    per_width = shape.layers * (2 + shape.gated) * shape.hidden
    counts = parameters(shape)
    rest = counts["total"] - counts["dense_mlp"] + shape.layers * shape.mlp_vectors
    return replace(shape, ffn=_even((size - rest) / per_width, 64))


def _even(width: float, step: int) -> int:
    """Rounded, and where it is large to a multiple that parallelism divides."""
    return max(round(width / step) * step if width >= 4 * step else round(width), 1)
