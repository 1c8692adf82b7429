"""What one stage of a pipeline holds: parameters by how they are sharded, activations, buffers.

Bytes and elements of one GPU, before ZeRO. A stage's activations are `activation_bytes` of each
micro-batch in flight; besides, one layer at work computes again what it did not keep, and one head
at a time holds its logits. Buffers hold what waits for the network.
"""

from dataclasses import dataclass
from functools import lru_cache

from benthic.cost.network.activations import Recompute, activation_bytes
from benthic.cost.network.flops import cache_width, parameters
from benthic.cost.network.shape import Shape
from benthic.cost.step.layout import Layout, stages

_BUCKET = 2 * 40e6 * 4  # two of Megatron's buckets of 40M gradients, in fp32


@dataclass(frozen=True)
class Stage:
    """What one stage of a pipeline holds."""

    dense: int = 0
    sparse: int = 0
    mtp: int = 0
    embedding: bool = False
    head: bool = False


@dataclass(frozen=True)
class Counts:
    """Parameters by how they are sharded: over expert ranks or not."""

    others: float
    experts: float


def counted(shape: Shape, stage: Stage, layout: Layout) -> Counts:
    """Parameters of a stage on one GPU, before ZeRO."""
    parts = _parameters(shape)
    layers = stage.dense + stage.sparse
    ends = stage.embedding * parts["embedding"]
    if stage.head:
        ends += parts["head"] or parts["embedding"] * (not stage.embedding)
    split = layers * parts["attention"] + stage.dense * parts["dense_mlp"] + ends
    split += stage.sparse * parts["shared_experts"] + stage.mtp * parts["mtp_split"]
    whole = layers * parts["norms"] + stage.sparse * parts["router"] + stage.mtp * parts["router"]
    experts = (stage.sparse + stage.mtp) * parts["experts"]
    tensor = layout.tensor
    return Counts(split / tensor + whole, experts / tensor / layout.expert)


@lru_cache(maxsize=64)
def _parameters(shape: Shape) -> dict[str, float]:
    """Of one layer by part; embedding, head; `mtp_split`: of a prediction block but for experts."""
    parts = parameters(shape)
    sparse, dense = max(1, shape.moe_layers), max(1, shape.mlp_layers)
    per = {
        "embedding": float(parts["embedding"]),
        "head": float(parts["head"]),
        "attention": parts["attention"] / shape.layers,
        "dense_mlp": parts["dense_mlp"] / dense,
        "experts": parts["experts"] / sparse,
        "shared_experts": parts["shared_experts"] / sparse,
        "router": parts["router"] / sparse,
        "norms": parts["norms"] / shape.layers,
    }
    block = parts["mtp"] / shape.mtp if shape.mtp else 0.0
    return per | {"mtp_split": block - per["experts"] - per["router"] if block else 0.0}


def pipeline_of(shape: Shape, layout: Layout) -> list[Stage]:
    last = layout.pipeline - 1
    if layout.interleave > 1:
        size = -(-shape.layers // (layout.pipeline * layout.interleave))
        owner = [i // size % layout.pipeline for i in range(shape.layers)]
    else:
        sizes = stages(shape, layout.pipeline)
        sizes[-1] -= min(shape.mtp, sizes[-1])
        owner = [stage for stage, blocks in enumerate(sizes) for _ in range(blocks)]
    sparse = [0] * layout.pipeline
    dense = [0] * layout.pipeline
    for i, stage in enumerate(owner[: shape.layers]):
        after = i - shape.dense_layers + 1
        with_experts = after > 0 and after % shape.moe_every == 0
        (sparse if with_experts else dense)[stage] += 1
    return [
        Stage(d, s, shape.mtp if i == last else 0, i == 0, i == last)
        for i, (d, s) in enumerate(zip(dense, sparse, strict=True))
    ]


def in_flight(layout: Layout, stage: int) -> float:
    """Micro-batches, in units of the whole stage, that wait for their backward (1F1B)."""
    p, parts = layout.pipeline, layout.interleave
    if parts == 1:
        return float(min(layout.micro_batches, p - stage))
    started = 2 * (p - stage - 1) + (parts - 1) * p + 1
    return min(layout.micro_batches * parts, started) / parts


def activations(
    shape: Shape, layout: Layout, tokens: float, stage: Stage, flying: float
) -> tuple[float, float]:
    """Bytes kept for backward of `flying` micro-batches, and those at work in one layer and in the
    head."""
    kept = _per_token(shape, layout, layout.recompute)
    whole = _per_token(shape, layout, "none")
    layers = stage.dense * kept["dense"] + stage.mtp * kept.get("mtp", 0.0)
    held = flying * tokens * (layers + stage.sparse * kept.get("sparse", 0.0))
    kinds = [k for k in ("dense", "sparse", "mtp") if getattr(stage, k)]
    again = max((whole[k] - kept[k] for k in kinds), default=0.0)
    stream = 1 if layout.sequence_parallel else layout.tensor
    wide = max(shape.ffn, (shape.experts_per_token + shape.shared_experts) * shape.expert_ffn)
    gradient = 2.0 * (2 * shape.hidden * stream + (1 + shape.gated) * wide) / layout.tensor
    # One head at a time runs forward and at once backward: fp32 logits, and a gradient in bf16.
    heads = stage.head * (1 + shape.mtp) * (kept["head"] + 2.0 * shape.vocab / layout.tensor)
    return held, tokens * (max(0.0, again) + gradient + heads)


@lru_cache(maxsize=4096)
def _kinds(
    shape: Shape, recompute: Recompute, wide: float, low: float
) -> dict[str, dict[str, float]]:
    """`activation_bytes` with `low` bytes an element in the feed-forward layers and in the copies
    of tokens that experts take and give back, `wide` elsewhere."""
    high = activation_bytes(shape, context=1, recompute=recompute, bytes_per=wide)
    less = activation_bytes(shape, context=1, recompute=recompute, bytes_per=low)
    feeds = ("mlp", "experts", "shared_experts", "dispatch")
    return {k: {p: (less if p in feeds else high)[k][p] for p in high[k]} for k in high}


def _per_token(shape: Shape, layout: Layout, recompute: Recompute) -> dict[str, float]:
    """Bytes a token by kind of layer, on one GPU."""
    wide = 4.0 if layout.precision == "fp32" else 2.0
    low = 1.0 if layout.precision == "fp8" else wide
    stream = layout.tensor if layout.sequence_parallel else 1
    return {
        kind: sum(
            size / (stream if part in ("stream", "dispatch") else layout.tensor)
            for part, size in parts.items()
        )
        for kind, parts in _kinds(shape, recompute, wide, low).items()
    }


def buffers(shape: Shape, layout: Layout, tokens: float, weight: float) -> float:
    """Bytes that wait for the network: gathered weights, buckets, sent and received tokens."""
    row = 2.0 * shape.hidden * tokens
    size = 0.0
    if layout.zero == 3:  # a layer in use and the next one, and gradients of one
        parts = _parameters(shape)
        layer = parts["attention"] + max(
            parts["dense_mlp"] if shape.mlp_layers else 0.0,
            parts["shared_experts"] + parts["experts"] / layout.expert if shape.experts else 0.0,
        )
        size += 3 * weight * max(layer, parts["embedding"] / 2) / layout.tensor
    elif layout.data * layout.context > 1:
        size += _BUCKET
    if layout.expert > 1:  # there and back
        size += 2 * shape.experts_per_token * row / layout.tensor
    if layout.pipeline > 1:  # in and out, of both directions
        size += 4 * row / (layout.tensor if layout.sequence_parallel else 1)
    if layout.tensor > 1:  # the whole stream, gathered before a product
        size += row
    if layout.context > 1:  # keys and values of the neighbour, and the ones on their way
        size += 2 * 2.0 * cache_width(shape) * tokens / layout.tensor
    return size
