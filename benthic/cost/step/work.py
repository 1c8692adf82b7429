"""What one GPU of a layout does in a training step, in seconds by class of operation.

A product of (m, k) and (k, n) takes 2 m n k / (peak x share) + bytes / (bandwidth x share): the
additive roofline, so thin products are slow without a constant of their own. Work bound by memory
takes its bytes; each kernel adds a tail. A phase of a layer (forward, backward) cannot end before
the host has launched its kernels: (gpu^p + host^p)^(1/p). Communication that hides behind work
slows that work by the processors that it takes. A pipeline takes the sum of its stages once and the
slowest stage for every further micro-batch (1F1B), of whose bubble better schedules leave a share.
"""

from functools import lru_cache
from heapq import heapreplace
from math import ceil

from benthic.cost.catalog.load import CostError, Gpu
from benthic.cost.network.flops import cache_width, causal_pairs, parameters, windowed_pairs
from benthic.cost.network.shape import Shape
from benthic.cost.step import comm
from benthic.cost.step.calibrate import FILE, Constants, shipped
from benthic.cost.step.layout import Layout, stages
from benthic.cost.step.muon import muon

CLASSES = {
    "matmul": "projections and dense feed-forward",
    "experts": "grouped products of the experts",
    "attention": "scores and weighted values",
    "memory": "norms, activations, residuals, casts",
    "head": "embedding, output head and loss",
    "launch": "the host's launches and kernels' tails",
    "optimizer": "the optimizer's step",
    "tensor": "exposed all-reduces of tensor parallelism",
    "expert": "exposed all-to-all of the experts",
    "context": "exposed exchange of keys and values",
    "pipeline": "exposed hand-over between stages",
    "data": "exposed gathering of gradients and weights",
    "bubble": "pipeline stages that wait",
    "imbalance": "uneven experts and stages",
}


@lru_cache(maxsize=64)
def _parameters(shape: Shape) -> dict[str, int]:
    return parameters(shape)


def reach(gpu: Gpu) -> tuple[float, float, float]:
    """Large products' share of the GPU's peak over that of the A100, with its low and high end; 1
    for one of no vendor, whose peak somebody measured. CostError where no row is of it."""
    if not gpu.vendor:
        return 1.0, 1.0, 1.0
    found = shipped().get(f"reach.{gpu.name.lower()}")
    if found is None:
        name = f"reach.{gpu.name.lower()}"
        raise CostError(f"{FILE.name} has no row {name}: give it that of the nearest generation")
    return found.value, found.low, found.high


def reach_fp8(gpu: Gpu) -> float:
    """The same in fp8, over that of Hopper, on which `fp8_matmul` was measured. CostError."""
    return reach(gpu)[0] / shipped()["reach.h800-sxm"].value if gpu.vendor else 1.0


Parts = dict[str, float]
Memo = dict[tuple[object, ...], tuple[Parts, Parts, Parts]]


class Work:
    """One layout at work: every method gives seconds of one GPU. `memo` keeps what layers and ends
    take for the layouts of one search, which share network, GPU, sequence and constants."""

    def __init__(
        self,
        shape: Shape,
        layout: Layout,
        gpu: Gpu,
        seq: int,
        constants: Constants,
        memo: Memo | None = None,
    ) -> None:
        c = constants
        self.memo: Memo = {} if memo is None else memo
        self.shape, self.layout, self.seq, self.c = shape, layout, seq, c
        self.fp8 = layout.precision == "fp8"
        if self.fp8 and not gpu.fp8_flops:
            raise CostError(f"{gpu.name} has no fp8: plan with bf16")
        single = gpu.bf16_flops / 2 if gpu.has_bf16 else gpu.bf16_flops
        peak = {"fp16": gpu.fp16_flops, "fp32": single}
        self.peak = peak.get(layout.precision, gpu.bf16_flops)
        self.plain = c.matmul * self.peak * reach(gpu)[0]
        self.fast = self.plain
        if self.fp8:
            self.fast = c.fp8_matmul * (gpu.fp8_flops or 0) * reach_fp8(gpu)
        self.wide = 4 if layout.precision == "fp32" else 2  # bytes of an activation
        self.memory = gpu.bandwidth * c.memory
        self.rows = layout.micro_batch * seq / layout.context
        self.spread = layout.tensor if layout.sequence_parallel else 1
        self.links = comm.links(
            gpu,
            up_share=c.scale_up,
            out_share=c.scale_out,
            startup=c.startup,
            pcie=c.pcie,
            network=c.network,
        )
        self.groups = comm.groups(layout, gpu.per_node)

    def step(self) -> Parts:
        shape, layout, c = self.shape, self.layout, self.c
        layers, embedding, head = self._once()
        times = self._stages(
            sum(layers.values()) / (shape.layers + shape.mtp),
            sum(embedding.values()),
            (1 + shape.mtp) * sum(head.values()),
        )
        slowest, micro = max(times), layout.micro_batches
        parts = {part: micro / layout.pipeline * time for part, time in layers.items()}
        _add(parts, embedding, micro / layout.pipeline)
        _add(parts, head, micro / layout.pipeline * (1 + shape.mtp))
        parts["imbalance"] += micro * (slowest - sum(times) / layout.pipeline)
        parts["bubble"] = c.bubble * (sum(times) - slowest) / layout.interleave
        parts["pipeline"] = self._hand_over()
        _add(parts, self._update(slowest))
        return parts

    def _once(self) -> tuple[Parts, Parts, Parts]:
        """All layers, the embedding and one head, of a micro-batch: the same at any depth, number
        of replicas or ZeRO."""
        shape, layout = self.shape, self.layout
        key = (
            *(layout.tensor, layout.context, layout.expert, layout.micro_batch),
            *(layout.recompute, layout.sequence_parallel, layout.precision),
        )
        if key not in self.memo:
            layers = dict.fromkeys(CLASSES, 0.0)
            for count, sparse in ((shape.mlp_layers, False), (shape.moe_layers, True)):
                if count:
                    _add(layers, self._layer(sparse), count)
            if shape.mtp:
                _add(layers, self._layer(shape.experts > 0), shape.mtp)
                joint = 3 * self._product(shape.hidden / layout.tensor, 2 * shape.hidden)
                layers["matmul"] += shape.mtp * joint
            self.memo[key] = layers, self._embedding(), self._head()
        return self.memo[key]

    def _stages(self, block: float, first: float, last: float) -> list[float]:
        """Times of the stages, in no order: blocks evenly, or so that the slowest is least."""
        pipeline = self.layout.pipeline
        if pipeline == 1 or not self.c.balance:
            times = [count * block for count in stages(self.shape, pipeline)]
            times[0] += first
            times[-1] += last
            return times
        times = sorted([first, last, *[0.0] * (pipeline - 2)])
        for _ in range(self.shape.layers + self.shape.mtp):
            heapreplace(times, times[0] + block)
        return times

    def _product(self, n: float, k: float, rows: float = 0.0, *, count: float = 1.0) -> float:
        """`count` products of (rows, k) and (k, n), the operands at the layout's precision."""
        m = rows or self.rows
        size = 1 if self.fp8 else self.wide
        moved = self.wide * m * n + size * (k * n + m * k)
        return count * (2 * m * n * k / self.fast + moved / self.memory)

    def _layer(self, sparse: bool) -> dict[str, float]:
        """Forward, backward and recomputation of one layer and micro-batch."""
        shape, layout, c = self.shape, self.layout, self.c
        project, again = self._projections()
        attention, scores = self._attention()
        rows, hidden, tensor = self.rows, shape.hidden, layout.tensor
        words = self._words(sparse)
        forward = dict.fromkeys(CLASSES, 0.0)
        forward["matmul"], forward["attention"] = project, attention
        forward["memory"] = (words + scores) / self.memory
        kernels = c.kernels_forward
        width = shape.expert_ffn * shape.shared_experts if sparse else shape.ffn
        if width:
            forward["matmul"] += self._mlp(width / tensor, rows)
        if sparse:
            forward["matmul"] += self._product(shape.experts, hidden)
            forward["experts"] = self._experts()
            kernels += c.kernels_forward / 2
        backward = {part: 2 * time for part, time in forward.items()}
        if c.flash:
            backward["attention"] = 2.5 * attention  # the kernel computes the scores once more
        backward["memory"] += 6 * self._matrices(sparse) / self.memory  # gradients add up in fp32
        redone = dict.fromkeys(CLASSES, 0.0)
        redone_kernels = 0.0
        if layout.recompute == "full":
            redone, redone_kernels = forward, kernels
        elif layout.recompute == "selective" and c.flash:
            redone["matmul"], redone["memory"] = again, words / 2 / self.memory
        elif layout.recompute == "selective":
            redone["attention"], redone["memory"] = attention, scores / self.memory
        tensor_time, expert_time = self._tensor(), self._all_to_all() if sparse else 0.0
        passes = 3 if layout.recompute == "full" else 2
        host = 2 * c.collective if tensor > 1 else 0.0
        done = self._phase(forward, kernels, host)
        _add(backward, redone)
        _add(
            done,
            self._phase(
                backward, c.kernels_backward / c.kernels_forward * kernels + redone_kernels, host
            ),
        )
        self._exposed(done, "tensor", passes * tensor_time, c.tensor_hidden)
        self._exposed(done, "expert", passes * expert_time, c.expert_hidden)
        self._exposed(done, "context", passes * self._ring(), c.tensor_hidden)
        if sparse and layout.expert > 1:
            done["imbalance"] += (c.imbalance - 1) * done["experts"]
        return done

    def _phase(self, work: dict[str, float], kernels: float, host: float) -> dict[str, float]:
        """`work` with what the host and the kernels' tails add."""
        c, busy = self.c, sum(work.values())
        device = busy + kernels * c.kernel
        launches = (kernels + host) * c.launch
        longer = max(device, launches)
        both = longer * (1 + (min(device, launches) / longer) ** c.blend) ** (1 / c.blend)
        return work | {"launch": both - busy}

    def _exposed(self, done: dict[str, float], part: str, time: float, hidden: float) -> None:
        """Adds communication; its hidden share takes processors away from the work."""
        done[part] += time * (1 - hidden)
        done["matmul"] += time * hidden * self.c.processors

    def _projections(self) -> tuple[float, float]:
        """Attention's products, and of them the latents' up-projections."""
        shape, tensor = self.shape, self.layout.tensor
        queries = shape.heads * shape.head_dim / tensor
        values = shape.heads * shape.value_dim / tensor
        out = self._product(shape.hidden, values)
        if not shape.latent:
            kept = max(1.0, shape.kv_heads / tensor) * (shape.head_dim + shape.value_dim)
            return out + self._product(queries + kept, shape.hidden), 0.0
        up = self._product(
            shape.heads * (shape.head_dim - shape.rope_dim + shape.value_dim) / tensor,
            shape.kv_rank,
        )
        down = self._product(shape.kv_rank + shape.rope_dim + shape.q_rank, shape.hidden)
        if shape.q_rank:
            up += self._product(queries, shape.q_rank)
        else:
            down += self._product(queries, shape.hidden)
        return out + down + up, up

    def _attention(self) -> tuple[float, float]:
        """Seconds of scores and weighted values, and bytes that scores move where kernels are not
        fused: scale, mask, softmax and dropout read and write 11 bytes a score."""
        shape, c, seq = self.shape, self.c, self.seq
        heads = shape.heads / self.layout.tensor
        sequences = self.layout.micro_batch / self.layout.context
        if not c.flash:
            scores = sequences * heads * seq * seq
            flops = 2 * scores * (shape.head_dim + shape.value_dim)
            moved = self.wide * (2 * scores + 4 * self.rows * heads * shape.head_dim)
            return flops / self.plain + moved / self.memory, 11 * scores
        inside = shape.windowed_layers / shape.layers
        pairs = (1 - inside) * causal_pairs(seq) + inside * windowed_pairs(seq, shape.window)
        flops = 2 * sequences * heads * pairs * (shape.head_dim + shape.value_dim)
        return flops / (c.flash * self.peak), 0.0

    def _mlp(self, width: float, rows: float, count: float = 1.0) -> float:
        up = 2 * width if self.shape.gated else width
        hidden = self.shape.hidden
        return self._product(up, hidden, rows, count=count) + self._product(
            hidden, width, rows, count=count
        )

    def _experts(self) -> float:
        """The grouped products of the experts that a GPU holds, tokens spread evenly."""
        shape, layout = self.shape, self.layout
        here = shape.experts / layout.expert
        rows = self.rows * shape.experts_per_token / here
        return self._mlp(shape.expert_ffn / layout.tensor, rows, count=here) / self.c.grouped

    def _words(self, sparse: bool) -> float:
        """Bytes that a forward's element-wise work reads and writes.

        A token moves `stream_bytes` an element of the stream (two norms, two residuals), 4 of
        queries, keys, values and latents, and the activation's inputs and output; routing copies
        it in and out once an expert. Casting to fp8 reads 2 bytes and writes 1 of each input.
        """
        shape, tensor = self.shape, self.layout.tensor
        wide = self.wide / 2
        keys = shape.heads if shape.latent else max(shape.kv_heads, 1)
        width = shape.heads * (shape.head_dim + shape.value_dim)
        width += keys * (shape.head_dim + shape.value_dim)
        gate = 6 if shape.gated else 4
        active = shape.ffn
        split = 4.0 * width
        if sparse:
            active = shape.expert_ffn * (shape.experts_per_token + shape.shared_experts)
            split += 8 * shape.hidden * shape.experts_per_token
        split += gate * active
        stream = (
            self.c.stream_bytes * shape.hidden
            + 4 * (shape.q_rank + shape.kv_rank)
            + 12 * shape.experts
        )
        if self.fp8:
            split += 3 * (shape.heads * shape.value_dim + active)
            stream += 6 * shape.hidden
        return self.rows * wide * (stream / self.spread + split / tensor)

    def _matrices(self, sparse: bool) -> float:
        """Elements of a layer's matrices on this GPU."""
        shape, layout = self.shape, self.layout
        counts = _parameters(shape)
        attention = counts["attention"] / shape.layers
        if not sparse:
            return (attention + counts["dense_mlp"] / shape.mlp_layers) / layout.tensor
        routed = counts["experts"] / layout.expert + counts["shared_experts"]
        return (attention + routed / shape.moe_layers) / layout.tensor

    def _tensor(self) -> float:
        """Two all-reduces of the stream a pass (or as many gathers and scatters)."""
        size = self.wide * self.rows * self.shape.hidden
        return 2 * comm.all_reduce(size, self.groups["tensor"], self.links)

    def _all_to_all(self) -> float:
        """Dispatch and combine of one pass; fp8 is dispatched in one byte."""
        shape, group = self.shape, self.groups["expert"]
        rows = self.rows / self.spread
        copies, nodes = shape.experts_per_token, self.c.nodes_a_token
        return sum(
            comm.all_to_all(rows, copies, nodes, size * shape.hidden, group, self.links)
            for size in (1 if self.fp8 else self.wide, self.wide)
        )

    def _ring(self) -> float:
        """Keys and values of the other parts of the sequence."""
        layout = self.layout
        whole = self.wide * self.rows * layout.context * cache_width(self.shape) / layout.tensor
        return comm.all_gather(whole, self.groups["context"], self.links)

    def _embedding(self) -> dict[str, float]:
        moved = 30 * self.rows * self.shape.hidden / self.spread
        return {"head": max(moved / self.memory, 20 * self.c.launch)}

    def _head(self) -> dict[str, float]:
        """Output head and loss, forward and backward, in 16 bits; logits move `logit_bytes` each. A
        vocabulary that eight does not divide takes a slow kernel; shards are padded."""
        shape, layout, c = self.shape, self.layout, self.c
        vocab = shape.vocab / layout.tensor
        rate = self.plain
        if layout.tensor > 1:
            vocab = 128.0 * ceil(vocab / 128)
        elif shape.vocab % 8:
            rate *= c.misaligned
        hidden, rows = shape.hidden, self.rows
        moved = self.wide * (rows * vocab + rows * hidden + hidden * vocab)
        product = 2 * rows * hidden * vocab / rate + moved / self.memory
        return {"head": 3 * product + c.logit_bytes * rows * vocab / self.memory + 20 * c.launch}

    def _hand_over(self) -> float:
        """Activations forward and gradients back, once a micro-batch and part."""
        layout, c = self.layout, self.c
        size = self.wide * self.rows * self.shape.hidden / layout.tensor
        times = layout.micro_batches * layout.interleave + layout.pipeline - 1
        time = 2 * comm.send(size, self.groups["pipeline"], self.links)
        return times * time * (1 - c.pipeline_hidden)

    def _update(self, slowest: float) -> dict[str, float]:
        """The optimizer's step and what replicas exchange for it: once a step, but gradients of
        ZeRO-2 and weights of ZeRO-3 every micro-batch."""
        shape, layout, c = self.shape, self.layout, self.c
        counts = _parameters(shape)
        sharing = layout.tensor * layout.pipeline
        experts = counts["experts"] / sharing / layout.expert
        others = (counts["total_with_mtp"] - counts["experts"]) / sharing
        group = self.groups["data"]
        replicas = comm.Group(
            group.size // layout.expert, max(1, group.inside // self.groups["expert"].inside)
        )
        passes = 2.0  # a reduce-scatter and an all-gather
        available = 2 / 3 * slowest
        if layout.zero == 2:  # gradients that are kept sharded are scattered every micro-batch
            passes, available = layout.micro_batches + 1.0, available * layout.micro_batches
        elif layout.zero == 3:
            passes, available = 3.0 * layout.micro_batches, slowest * layout.micro_batches
        time = passes * (
            comm.all_gather(2 * others, group, self.links)
            + comm.all_gather(2 * experts, replicas, self.links)
        )
        hidden = min(c.data_hidden * time, available)
        shards = (group.size, replicas.size) if layout.zero else (1, 1)
        updated = others / shards[0] + experts / shards[1]
        products = 0.0
        if layout.optimizer == "muon":  # shards are whole matrices
            products = muon(shape).flops * updated / counts["total_with_mtp"] / self.plain
        return {
            "optimizer": c.optimizer_bytes * updated / self.memory + c.step + products,
            "data": time - hidden + hidden * c.processors,
        }


def _add(parts: dict[str, float], more: dict[str, float], times: float = 1.0) -> None:
    for part, time in more.items():
        parts[part] += times * time
