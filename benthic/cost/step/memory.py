"""Bytes on the fullest GPU of a training run, and of serving: what fits, and what nearly does.

Training keeps, per parameter, weights in the layout's precision, gradients added up in fp32 (or in
bf16), and the optimizer's state with an fp32 master copy; ZeRO stage 1 shards the last over the
data ranks, 2 the gradients too, 3 all (arXiv:1910.02054). Experts lie over `expert` ranks, and are
sharded over the data ranks left. Activations are `activation_bytes` of every micro-batch in flight:
p - i at stage i of a 1F1B pipeline, more with interleaved parts (arXiv:2104.04473), p + 1 over two
stages with DualPipe, which holds weights and gradients twice (V3 section 3.2.1). Experts are taken
to be loaded evenly. In fp8, matrices are held in both orientations that Hopper's products want, so
as much as bf16; what the feed-forward layers keep takes a byte (V3 section 3.3.3), the stream and
attention two. What one device really peaks at in PyTorch is `benthic.cost.step.eager`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

from benthic.cost.catalog.load import CostError, Gpu
from benthic.cost.network.flops import cache_bytes
from benthic.cost.network.shape import Shape
from benthic.cost.step.layout import (
    Layout,
    Recompute,
    candidates,
    check_machines,
    check_sizes,
    distance,
)
from benthic.cost.step.stage import Stage, activations, buffers, counted, in_flight, pipeline_of

Optimizer = Literal["adamw", "adamw-bf16", "adamw-8bit", "muon"]
Gradients = Literal["fp32", "bf16"]
Schedule = Literal["1f1b", "dualpipe"]

# HBM is sold in GB and counts in GiB: of 80, 141 or 192 "GB" a program sees 79.1, 139.8, 190 GiB.
VISIBLE = 1.06
# The CUDA context, cuBLAS's workspaces, NCCL's channels: an assumption, 0.6 to 2 GB in practice.
CONTEXT = 1.0e9
# Holes of the caching allocator, a share of what comes and goes: an assumption, 0.02 to 0.1.
FRAGMENTATION = 0.05
_MOMENTS = {"adamw": 8.0, "adamw-bf16": 4.0, "adamw-8bit": 2 + 2 * 4 / 256, "muon": 4.0}
_LONGEST = 10**8  # tokens of a sequence; beyond is a slip of the keyboard
_MOST_GPUS = 1 << 20


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
    return VISIBLE * gpu.memory


def memory(
    shape: Shape,
    layout: Layout,
    seq: int,
    *,
    optimizer: Optimizer = "adamw",
    gradients: Gradients = "fp32",
    schedule: Schedule = "1f1b",
) -> Memory:
    """Bytes per GPU, of the pipeline's fullest stage, in training on sequences of `seq` tokens.

    The layout must divide (`Layout.check`); here only its sizes are looked at, and its
    `micro_batches` bound what is in flight: one alone fills no pipeline. `optimizer`: AdamW
    with two fp32 moments, with bf16 ones as DeepSeek-V3 has them, or in 8 bits with a scale each
    256; Muon has one fp32 momentum for matrices, AdamW's two for the rest. Raises CostError for
    sizes or lengths that cannot be.
    """
    check_sizes(layout)
    _check(shape, layout, seq, optimizer, gradients, schedule)
    held = pipeline_of(shape, layout)
    if schedule == "1f1b":
        ranks = [(i, [(stage, in_flight(layout, i))], stage.head) for i, stage in enumerate(held)]
    else:  # rank i holds stage i and its mirror; p + 1 micro-batches lie on the two together
        flying = min(layout.micro_batches, layout.pipeline + 1) / 2
        pairs = [(i, held[i], held[-1 - i]) for i in range(layout.pipeline // 2)]
        ranks = [(i, [(a, flying), (b, flying)], a.head or b.head) for i, a, b in pairs]
    every = [
        _rank(shape, layout, seq, i, parts, head, optimizer, gradients) for i, parts, head in ranks
    ]
    return max(every, key=lambda m: m.total)


def fits(
    shape: Shape,
    layout: Layout,
    gpu: Gpu,
    seq: int,
    *,
    optimizer: Optimizer = "adamw",
    gradients: Gradients = "fp32",
    schedule: Schedule = "1f1b",
) -> Memory:
    """`memory`, if it fits; else CostError saying what takes most and how much is too much."""
    held = memory(shape, layout, seq, optimizer=optimizer, gradients=gradients, schedule=schedule)
    if held.total > usable(gpu):
        name = max(
            ("weights", "gradients", "optimizer", "activations"), key=lambda n: getattr(held, n)
        )
        raise CostError(
            f"layout {layout.describe()!r} takes {_gb(held.total)} a GPU, {name} alone "
            f"{_gb(getattr(held, name))}, and {gpu.name} has {_gb(usable(gpu))}: {_REMEDY[name]}"
        )
    return held


_REMEDY = {
    "weights": "use more tensor, expert or pipeline parallelism, or zero3",
    "gradients": "use zero2 or more pipeline parallelism",
    "optimizer": "use zero1, or an optimizer with smaller state",
    "activations": "use a smaller micro-batch, recompute-full, or more tensor parallelism",
}


def nearest_fit(
    shape: Shape,
    gpus: int,
    gpu: Gpu,
    seq: int,
    *,
    layout: Layout | None = None,
    optimizer: Optimizer = "adamw",
    gradients: Gradients = "fp32",
    schedule: Schedule = "1f1b",
) -> Fit:
    """The layout on `gpus` GPUs that fits and lies nearest to `layout`, or to plain ZeRO-1.

    Where none does, `missing` says how many GPUs more would do, found by doubling and bisection
    over whole nodes (so a little more than the least, where sizes divide badly).
    """
    check_machines(gpus, gpu.per_node)
    wanted = layout or Layout(data=gpus, zero=1 if gpus > 1 else 0)
    precision = wanted.precision

    def held(tried: Layout) -> Memory:
        return memory(
            shape, tried, seq, optimizer=optimizer, gradients=gradients, schedule=schedule
        )

    def room(count: int) -> Memory | None:
        lean = _lean(shape, count, gpu.per_node, seq, wanted, schedule)
        return min((held(one) for one in lean), key=lambda m: m.total, default=None)

    tried = list(_variants(wanted)) if layout and layout.gpus == gpus else []
    tried += candidates(shape, gpus, gpu.per_node, seq=seq, precision=precision)
    tried = [t for t in tried if _runs(t, seq, schedule)]
    best: tuple[float, Layout, Memory] | None = None
    for one in tried:
        away = distance(wanted, one)
        if best is None or away < best[0]:
            needs = held(one)
            if needs.total <= usable(gpu):
                best = away, one, needs
    if best:
        return Fit(
            best[1],
            best[2],
            0,
            f"{best[1].describe()!r} fits: {_gb(best[2].total)} of {_gb(usable(gpu))} a GPU",
        )
    least = min((held(one) for one in tried), key=lambda m: m.total, default=None)
    if least is None:
        raise CostError(
            f"no layout of {shape.name} on {gpus} GPUs runs {schedule} at {seq} tokens: "
            "use a number of GPUs with more divisors"
        )
    enough = _enough(gpus, gpu, room)
    short = f"{shape.name} does not fit {gpus} {gpu.name} in training with {optimizer}"
    short += f": the leanest layout takes {_gb(least.total)} of {_gb(usable(gpu))} a GPU"
    if enough is None:
        return Fit(
            None, least, 0, f"{short}, and no number of GPUs would do: shorten the {seq} tokens"
        )
    return Fit(None, least, enough - gpus, f"{short}; {enough} GPUs would do, {enough - gpus} more")


def serving_memory(
    shape: Shape,
    weights_bytes: float,
    context: int,
    batch: int,
    *,
    gpus: int = 1,
    bytes_per: float = 2.0,
) -> Serving:
    """Bytes per GPU of one replica on `gpus` GPUs that holds `batch` sequences of `context` tokens.

    `weights_bytes` is of the whole model, as its files are. Heads of keys and values are split over
    the GPUs as far as they go; latents, which all heads share, lie with whole sequences instead, as
    DeepSeek serves them. `bytes_per` is of a cached element. Raises CostError for what cannot be.
    """
    check_machines(gpus, 1)
    _whole("the context", context, _LONGEST)
    _whole("the batch", batch, 10**9)
    if not 0 < weights_bytes < 1e18 or not 0 < bytes_per <= 8:
        raise CostError(
            f"weights of {weights_bytes!r} bytes with {bytes_per!r} bytes a cached element cannot "
            "be: give bytes of the whole model, and 1 (fp8), 2 (bf16) or 4 (fp32)"
        )
    sequence = cache_bytes(shape, context=context, bytes_per=bytes_per)
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
    parts: list[tuple[Stage, float]],
    head: bool,
    optimizer: Optimizer,
    gradients: Gradients,
) -> Memory:
    counts = [counted(shape, stage, layout) for stage, _ in parts]
    data = layout.data * layout.context
    shared = data // layout.expert or 1
    here = [(c.split + c.whole, c.experts) for c in counts]
    wide = layout.precision == "fp32"
    weight, gradient = (4.0, 4.0) if wide else (2.0, 4.0 if gradients == "fp32" else 2.0)

    def held(bytes_per: float, stage: int, copies: int = 1) -> float:
        over, each = (data, shared) if layout.zero >= stage else (1, 1)
        return sum(bytes_per * (a / over + b / each) for a, b in here) / copies

    # DualPipe's two copies of a stage are one more data rank to an optimizer that is sharded.
    copies = len(parts) if layout.zero else 1
    state = held(_MOMENTS[optimizer] + (0.0 if wide else 4.0), 1, copies)
    if optimizer == "muon":
        over = data if layout.zero else 1
        state += 4.0 * sum(c.plain + c.whole for c in counts) / over / copies
    tokens = layout.micro_batch * seq / layout.context
    kept, working = activations(shape, layout, tokens, parts, head)
    moving = working + buffers(shape, layout, tokens, weight)
    return Memory(
        weights=held(weight, 3),
        gradients=held(gradient, 2),
        optimizer=state,
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


def _lean(
    shape: Shape, gpus: int, per_node: int, seq: int, like: Layout, schedule: Schedule
) -> Iterator[Layout]:
    for one in candidates(shape, gpus, per_node, seq=seq, precision=like.precision):
        most = 0 if one.data * one.context == 1 else 1 if one.pipeline > 1 else 3
        lean = one.recompute == "full" and one.micro_batch == 1 and one.zero == most
        if lean and _runs(one, seq, schedule):
            yield one


def _enough(gpus: int, gpu: Gpu, room: Callable[[int], Memory | None]) -> int | None:
    """The least number of GPUs, in whole nodes, that bisection finds to hold it."""

    def holds(count: int) -> bool:
        least = room(count)
        return least is not None and least.total <= usable(gpu)

    low, high = gpus, 2 * max(gpus, gpu.per_node)
    while not holds(high):
        low, high = high, 2 * high
        if high > _MOST_GPUS:
            return None
    node = gpu.per_node
    below, above = low // node, -(-high // node)
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if holds(middle * node) else (middle, above)
    return above * node


def _runs(layout: Layout, seq: int, schedule: Schedule) -> bool:
    return seq % layout.context == 0 and (schedule == "1f1b" or _mirrors(layout))


def _mirrors(layout: Layout) -> bool:
    return layout.pipeline % 2 == 0 and layout.interleave == 1


def _check(
    shape: Shape, layout: Layout, seq: int, optimizer: str, gradients: str, schedule: str
) -> None:
    for name, value, choices in (
        ("optimizer", optimizer, get_args(Optimizer)),
        ("gradients", gradients, get_args(Gradients)),
        ("schedule", schedule, get_args(Schedule)),
    ):
        if value not in choices:
            raise CostError(f"{name} is {value!r}: choose from {', '.join(choices)}")
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
    if schedule == "dualpipe" and not _mirrors(layout):
        raise CostError(
            f"dualpipe mirrors stages, and pipeline = {layout.pipeline} with interleave = "
            f"{layout.interleave} has no mirror: use an even pipeline without interleave"
        )


def _whole(name: str, value: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise CostError(f"{name} is {value!r} tokens or rows: it must be a whole number to {most}")


def _gb(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size < 1e13 else f"{size / 1e12:,.0f} TB"
