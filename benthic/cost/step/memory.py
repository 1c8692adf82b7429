"""Bytes on the fullest GPU of a training run, and of serving: what fits, and what nearly does.

Training keeps, per parameter, weights in the layout's precision, gradients added up in fp32, and
AdamW's two moments (Muon's one) with an fp32 master copy; ZeRO stage 1 shards the last over the
data ranks, 2 the gradients too, 3 all (arXiv:1910.02054). Experts lie over `expert` ranks, and are
sharded over the data ranks left. Activations are `activation_bytes` of every micro-batch in flight:
p - i at stage i of a 1F1B pipeline, more with interleaved parts (arXiv:2104.04473). Experts are
taken to be loaded evenly. In fp8, matrices are held in both orientations that Hopper's products
want, so as much as bf16; what the feed-forward layers keep takes a byte (V3 section 3.3.3), the
stream and attention two. What one device really peaks at in PyTorch is `benthic.cost.step.eager`.
Left out: optimizers with smaller state, gradients in bf16, pipelines that hold weights twice
(DualPipe).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import get_args

from benthic.cost.catalog.load import CostError, Gpu
from benthic.cost.network.activations import Recompute
from benthic.cost.network.flops import cache_bytes, parameters
from benthic.cost.network.shape import Shape
from benthic.cost.step.layout import Layout, candidates, check_machines, check_sizes, distance
from benthic.cost.step.muon import muon
from benthic.cost.step.stage import Stage, activations, buffers, counted, in_flight, pipeline_of

# The CUDA context, cuBLAS's workspaces, NCCL's channels: an assumption, 0.6 to 2 GB in practice.
CONTEXT = 1.0e9
# Holes of the caching allocator, a share of what comes and goes: an assumption, 0.02 to 0.1.
FRAGMENTATION = 0.05
_MOMENTS = 8.0  # bytes a parameter of AdamW's two, in fp32
_LONGEST = 10**8  # tokens of a sequence; beyond is a slip of the keyboard
_MOST_GPUS = 1 << 20
_NODE = 8  # GPUs that are rented together, also where more share a link


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU. `other`: gathered weights, communication, context, fragmentation."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    other: float
    stage: int = 0  # of the pipeline, the fullest one

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations + self.other


@dataclass(frozen=True)
class Fit:
    """The nearest layout that fits, with one sentence; or none, and how many GPUs are missing."""

    layout: Layout | None
    memory: Memory
    missing: int
    sentence: str


@dataclass(frozen=True)
class Serving:
    """Bytes of one GPU that serves. `other`: context, and activations of one step."""

    weights: float
    cache: float
    other: float

    @property
    def total(self) -> float:
        return self.weights + self.cache + self.other

    def fits(self, gpu: Gpu) -> bool:
        return self.total <= usable(gpu)


def usable(gpu: Gpu) -> float:
    """Bytes of the GPU's memory that a program can see."""
    return gpu.visible


class DoesNotFit(CostError):
    """The memory of so many GPUs does not hold the network; more of them may."""


def memory(shape: Shape, layout: Layout, seq: int) -> Memory:
    """Bytes per GPU, of the pipeline's fullest stage, in training on sequences of `seq` tokens.

    The layout must divide (`Layout.check`); here only its sizes are looked at, and its
    `micro_batches` bound what is in flight: one alone fills no pipeline. Raises CostError for
    sizes or lengths that cannot be.
    """
    check_sizes(layout)
    _check(shape, layout, seq)
    held = enumerate(pipeline_of(shape, layout))
    return max((_rank(shape, layout, seq, i, stage) for i, stage in held), key=lambda m: m.total)


def fits(shape: Shape, layout: Layout, gpu: Gpu, seq: int) -> Memory:
    """`memory`, if it fits; else DoesNotFit saying what takes most and how much is too much."""
    held = memory(shape, layout, seq)
    if held.total > usable(gpu):
        name = max(
            ("weights", "gradients", "optimizer", "activations"), key=lambda n: getattr(held, n)
        )
        raise DoesNotFit(
            f"layout {layout.describe()!r} takes {_gb(held.total)} a GPU, {name} alone "
            f"{_gb(getattr(held, name))}, and {gpu.name} has {_gb(usable(gpu))}: {_REMEDY[name]}"
        )
    return held


_REMEDY = {
    "weights": "use more tensor, expert or pipeline parallelism, or zero3",
    "gradients": "use zero2 or more pipeline parallelism",
    "optimizer": "use zero1, or more tensor, expert or pipeline parallelism",
    "activations": "use a smaller micro-batch, recompute-full, or more tensor parallelism",
}


def nearest_fit(
    shape: Shape,
    gpus: int,
    gpu: Gpu,
    seq: int,
    *,
    layout: Layout | None = None,
) -> Fit:
    """The layout on `gpus` GPUs that fits and lies nearest to `layout`, or to plain ZeRO-1.

    Where none does, `missing` says how many GPUs more would do, in whole nodes from one on.
    """
    check_machines(gpus, gpu.per_node)
    wanted = layout or Layout(data=gpus, zero=1 if gpus > 1 else 0)

    def room(count: int) -> Memory | None:
        lean = _lean(wanted, shape, count, gpu.per_node, seq)
        held = (memory(shape, one, seq) for one in lean)
        return min(held, key=lambda m: m.total, default=None)

    tried = list(_variants(wanted)) if layout and layout.gpus == gpus else []
    tried += _like(wanted, shape, gpus, gpu.per_node, seq)
    best: tuple[float, Layout, Memory] | None = None
    for one in tried:
        away = distance(wanted, one)
        if best is None or away < best[0]:
            needs = memory(shape, one, seq)
            if needs.total <= usable(gpu):
                best = away, one, needs
    if best:
        return Fit(
            best[1],
            best[2],
            0,
            f"{best[1].describe()!r} fits: {_gb(best[2].total)} of {_gb(usable(gpu))} a GPU",
        )
    least = min((memory(shape, one, seq) for one in tried), key=lambda m: m.total)
    enough = _enough(gpus, gpu, room)
    name = {"adamw": "AdamW", "muon": "Muon"}[wanted.optimizer]
    short = f"{shape.name} does not fit {gpus:,} {gpu.name} in training with {name}"
    short += f": the leanest layout takes {_gb(least.total)} of {_gb(usable(gpu))} a GPU"
    if enough is None:
        return Fit(
            None, least, 0, f"{short}, and no number of GPUs would do: shorten the {seq:,} tokens"
        )
    more = enough - gpus
    return Fit(None, least, more, f"{short}; {enough:,} GPUs would do, {more:,} more")


def serving_memory(
    shape: Shape,
    weights_bytes: float,
    context: int,
    batch: int,
    *,
    gpus: int = 1,
) -> Serving:
    """Bytes per GPU of one replica on `gpus` GPUs that holds `batch` sequences of `context` tokens.

    `weights_bytes` is of the whole model, as its files are. Heads of keys and values are split over
    the GPUs as far as they go; latents, which all heads share, lie with whole sequences instead, as
    DeepSeek serves them. Raises CostError for what cannot be.
    """
    check_machines(gpus, 1)
    _whole("the context", context, _LONGEST)
    _whole("the batch", batch, 10**9)
    if not 0 < weights_bytes < 1e18:
        raise CostError(
            f"weights of {weights_bytes!r} bytes cannot be: give bytes of the whole model"
        )
    sequence = cache_bytes(shape, context=context)
    if shape.latent:
        cache = sequence * -(-batch // gpus)
    else:
        cache = sequence * batch / min(gpus, shape.kv_heads)
    step = 2.0 * (2 * shape.hidden + 3 * max(shape.ffn, shape.expert_ffn)) + 4.0 * shape.vocab
    work = step * min(batch, 8192) / gpus
    return Serving(weights_bytes / gpus, cache, CONTEXT + work)


def _rank(
    shape: Shape,
    layout: Layout,
    seq: int,
    number: int,
    stage: Stage,
) -> Memory:
    counts = counted(shape, stage, layout)
    data = layout.data * layout.context
    shared = data // layout.expert or 1
    wide = layout.precision == "fp32"
    weight = 4.0 if wide else 2.0
    moments = _MOMENTS
    if layout.optimizer == "muon":  # one of matrices, which are alike on every stage
        moments -= _MOMENTS / 2 * muon(shape).elements / parameters(shape)["total_with_mtp"]

    def held(bytes_per: float, zero: int) -> float:
        over, each = (data, shared) if layout.zero >= zero else (1, 1)
        return bytes_per * (counts.others / over + counts.experts / each)

    tokens = layout.micro_batch * seq / layout.context
    kept, working = activations(shape, layout, tokens, stage, in_flight(layout, number))
    moving = working + buffers(shape, layout, tokens, weight)
    return Memory(
        weights=held(weight, 3),
        gradients=held(4.0, 2),
        optimizer=held(moments + (0.0 if wide else 4.0), 1),
        activations=kept + working,
        other=CONTEXT + moving - working + FRAGMENTATION * (kept + moving),
        stage=number,
    )


def _variants(layout: Layout) -> Iterator[Layout]:
    """The same sizes with other ZeRO stages, smaller micro-batches and more recomputation."""
    for zero in range(layout.zero, 4):
        for recompute in get_args(Recompute):
            size = layout.micro_batch
            while size:
                yield replace(layout, zero=zero, recompute=recompute, micro_batch=size)
                size //= 2


def _like(wanted: Layout, shape: Shape, gpus: int, per_node: int, seq: int) -> list[Layout]:
    """The candidates of such a precision and optimizer whose contexts divide the sequence."""
    found = candidates(
        shape, gpus, per_node, seq=seq, precision=wanted.precision, optimizer=wanted.optimizer
    )
    return [one for one in found if seq % one.context == 0]


def _lean(wanted: Layout, shape: Shape, gpus: int, per_node: int, seq: int) -> Iterator[Layout]:
    for one in _like(wanted, shape, gpus, per_node, seq):
        most = 0 if one.data * one.context == 1 else 1 if one.pipeline > 1 else 3
        if one.recompute == "full" and one.micro_batch == 1 and one.zero == most:
            yield one


def _enough(gpus: int, gpu: Gpu, room: Callable[[int], Memory | None]) -> int | None:
    """The least number of GPUs that holds it, one by one up to a node, then by bisection over whole
    nodes."""

    def holds(count: int) -> bool:
        least = room(count)
        return least is not None and least.total <= usable(gpu)

    node = min(gpu.per_node, _NODE)
    for count in range(gpus + 1, node):
        if holds(count):
            return count
    low, high = gpus, 2 * max(gpus, node)
    while not holds(high):
        low, high = high, 2 * high
        if high > _MOST_GPUS:
            return None
    below, above = low // node, -(-high // node)
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if holds(middle * node) else (middle, above)
    return above * node


def _check(shape: Shape, layout: Layout, seq: int) -> None:
    _whole("the sequence", seq, _LONGEST)
    if shape.learned_positions and shape.max_positions and seq > shape.max_positions:
        raise CostError(
            f"a sequence of {seq} tokens exceeds the {shape.max_positions} learned positions of "
            f"{shape.name}: shorten it"
        )
    if seq % layout.context:
        raise CostError(
            f"a sequence of {seq} tokens does not divide by context = {layout.context}: "
            f"use {max(1, seq // layout.context) * layout.context} tokens"
        )


def _whole(name: str, value: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise CostError(f"{name} is {value!r} tokens or rows: it must be a whole number to {most}")


def _gb(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size < 1e13 else f"{size / 1e12:,.0f} TB"
