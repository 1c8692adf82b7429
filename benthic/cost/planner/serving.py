"""The cheapest replica that decodes, each user getting so many tokens a second: a floor.

A step of a replica is a sum of what one GPU does one after another: scores over its caches in 16
bits, the products of the other weights, those of the experts, each the longer of its bytes and its
FLOPs at REACHED of bandwidth or peak; and the communication that does not hide. Attention is split
over some GPUs, by heads (a latent lies on each of them), and copied on the others, by sequences, as
DeepSeek serves (V3 section 3.4.2); experts lie over all GPUs, and every copy of a token crosses the
links to its expert; other layers lie over all GPUs, or with attention where there are experts. All
splits are tried. The prediction block guesses one token where that pays.

Left out: prefill, queues, uneven experts, start-ups of collectives, idle hours. DeepSeek's service
decoded 14,800 tokens/s on a node of eight H800 at 4,989 tokens of context (2025-03-01, a day's
mean); this floor has about twice that without guesses.
"""

from dataclasses import dataclass
from math import ceil, inf

from benthic.cost.catalog.load import Gpu
from benthic.cost.network.flops import cache_bytes, decode_parts, parameters
from benthic.cost.network.shape import Shape
from benthic.cost.step import comm
from benthic.cost.step.calibrate import load_constants
from benthic.cost.step.layout import Precision
from benthic.cost.step.memory import serving_memory, usable

SPEED = 20.0  # tokens a second that a user gets: DeepSeek's service gave 20 to 22 (2025-03-01)
CONTEXT = 4989  # tokens a sequence has in the cache: the mean of the same service
SERVICE = 14_800 / 8  # tokens a second and GPU of the same service
ACCEPTED = 0.85  # of second tokens: V3 section 5.4.3, 85 to 90 %
REACHED = 0.7  # FlashMLA on H800: 660 of 989 TFLOP/s, 3,000 of 3,350 GB/s
MOST = 512  # GPUs of a replica
_MOST_BATCH = 1 << 20


@dataclass(frozen=True)
class Served:
    """`gpus` serve `batch` sequences at once; `gpus` is 0 where no replica
    gives the speed."""

    gpus: int
    batch: int
    guesses: bool
    """whether the prediction block guesses tokens"""
    pace: float
    """tokens a second and GPU"""

    def price(self, rent: float) -> float:
        """US dollars a million tokens at so many an hour and GPU."""
        return rent / 3600 / self.pace * 1e6 if self.pace else inf


def cheapest(
    shape: Shape, gpu: Gpu, precision: Precision, context: int, speed: float = SPEED
) -> Served:
    """The replica of up to MOST GPUs with the most tokens a second and GPU, each sequence getting
    `speed`; `precision` is of weights and products, caches are in 16 bits."""
    best = Served(0, 0, False, 0.0)
    for guesses in (False, True)[: 1 + (shape.mtp > 0)]:
        gpus = 1
        while gpus <= MOST:
            for tensor in {1, 2, 4, 8, gpus}:
                if tensor <= min(gpus, shape.heads):
                    replica = _Replica(shape, gpu, precision, context, gpus, tensor, guesses)
                    batch = replica.most(speed)
                    pace = batch * replica.speed(batch) / gpus if batch else 0.0
                    if pace > best.pace:
                        best = Served(gpus, batch, guesses, pace)
            gpus *= 2
    return best


class _Replica:
    """One copy of the network on `gpus` GPUs, its attention split over `tensor` of them."""

    def __init__(
        self,
        shape: Shape,
        gpu: Gpu,
        precision: Precision,
        context: int,
        gpus: int,
        tensor: int,
        guesses: bool,
    ) -> None:
        constants = load_constants()
        self.shape, self.gpu, self.gpus, self.tensor = shape, gpu, gpus, tensor
        self.tokens = 1 + guesses  # that a sequence brings to a step
        self.gain = 1 + ACCEPTED * guesses
        self.size = 1.0 if precision == "fp8" else 2.0  # bytes of a weight
        self.fast = (gpu.fp8_flops if precision == "fp8" else None) or gpu.peak
        flops, counts = decode_parts(shape, context=context), parameters(shape)
        self.scores, self.routed = flops["attention_scores"], flops["experts"]
        self.others = sum(flops.values()) - self.scores - self.routed
        heads = 1 if shape.latent else min(tensor, shape.kv_heads)
        self.sequence = cache_bytes(shape, context=context) / heads
        self.hidden = constants.expert_hidden, constants.tensor_hidden
        self.links = comm.links(
            gpu,
            up_share=constants.scale_up,
            out_share=constants.scale_out,
            startup=0.0,
            pcie=constants.pcie,
            network=constants.network,
        )
        self.experts = self.size * counts["experts"] / gpus
        fed = tensor if shape.experts else gpus  # that share what is neither attention nor experts
        rest = counts["total"] - counts["experts"] - counts["attention"]
        rest += counts["mtp"] if guesses else 0
        read = rest if shape.tied else rest - counts["embedding"]  # of it, rows are looked up
        held = counts["attention"] / tensor + rest / fed
        self.held = self.size * held + self.experts
        self.read = self.size * (counts["attention"] / tensor + read / fed)
        self.room = usable(gpu) - self.held

    def fits(self, batch: int) -> bool:
        beside = serving_memory(self.shape, 1.0, 1, batch, gpus=self.gpus).other
        return self._cached(batch) + beside <= self.room

    def most(self, speed: float) -> int:
        """The largest batch that fits and gives `speed`; more is cheaper, as weights are shared."""
        if not self.fits(1) or self.speed(1) < speed:
            return 0
        low, high = 1, _MOST_BATCH
        while low < high:
            middle = (low + high + 1) // 2
            if self.speed(middle) >= speed and self.fits(middle):
                low = middle
            else:
                high = middle - 1
        return low

    def speed(self, batch: int) -> float:
        """Tokens a second of each sequence."""
        drafting = 1 + (self.tokens > 1) / self.shape.layers  # the block runs once a step
        return self.gain / (self.step(batch) * drafting)

    def step(self, batch: int) -> float:
        rows = batch * self.tokens
        work = self._longer(self._cached(batch), rows * self.scores, self.gpu.peak)
        work += self._longer(self.read, rows * self.others, self.fast)
        if self.shape.experts:
            met = 1 - (1 - self.shape.experts_per_token / self.shape.experts) ** rows
            work += self._longer(self.experts * met, rows * self.routed, self.fast)
        return work + self._exposed(rows, work)

    def _cached(self, batch: int) -> float:
        """Bytes of one GPU: of the sequences of its group, its heads, or all of a latent."""
        return self.sequence * ceil(batch * self.tensor / self.gpus)

    def _longer(self, moved: float, flops: float, peak: float) -> float:
        """Seconds of bytes of one GPU, or of FLOPs of all."""
        return max(moved / self.gpu.bandwidth, flops / self.gpus / peak) / REACHED

    def _exposed(self, rows: int, work: float) -> float:
        """Communication of a step that no work hides."""
        shape, gpus, tensor = self.shape, self.gpus, self.tensor
        copies, wide = shape.experts_per_token, shape.hidden
        every, few = self._group(gpus), self._group(tensor)
        summed = shape.layers * self._sum(rows * tensor / gpus, few)
        if shape.experts:
            summed += shape.mlp_layers * self._sum(rows * tensor / gpus, few)
            there = sum(
                comm.all_to_all(rows / gpus, copies, copies, size * wide, every, self.links)
                for size in (self.size, 2.0)  # dispatch, combine
            )
        else:
            summed += shape.layers * self._sum(rows, every)
            there = 0.0
        experts_hidden, tensor_hidden = self.hidden
        return _left(shape.moe_layers * there, experts_hidden, work) + _left(
            summed, tensor_hidden, work
        )

    def _group(self, size: int) -> comm.Group:
        return comm.Group(size, min(size, self.gpu.per_node))

    def _sum(self, rows: float, group: comm.Group) -> float:
        return comm.all_reduce(2.0 * rows * self.shape.hidden, group, self.links)


def _left(time: float, hidden: float, work: float) -> float:
    return time - min(hidden * time, work)
