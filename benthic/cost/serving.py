"""The cheapest replica that decodes, each user getting so many tokens a second: a floor.

A step of a replica is a sum of what one GPU does one after another: scores over its caches in 16
bits, the products of the other weights, those of the experts, each the longer of its bytes and its
FLOPs at REACHED of bandwidth or peak; and the communication that does not hide. Latents are served
as DeepSeek does (V3 section 3.4.2): each GPU has sequences and a copy of all but the experts, which
are spread, and every copy of a token goes to its expert over the links. Heads of keys and values,
and dense layers, are split over the GPUs (two all-reduces a layer). The prediction block guesses
one token where that pays.

Left out: prefill, queues, uneven experts, start-ups of collectives, idle hours. DeepSeek's service
decoded 14,800 tokens/s on a node of eight H800 at 4,989 tokens of context (2025-03-01, a day's
mean); this floor has about twice that without guesses.
"""

from dataclasses import dataclass
from math import ceil, inf

from benthic.cost import comm
from benthic.cost.calibrate import load_constants
from benthic.cost.catalog import Gpu
from benthic.cost.flops import cache_bytes, decode_parts, parameters
from benthic.cost.layout import Precision
from benthic.cost.memory import serving_memory, usable
from benthic.cost.shape import Shape

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
    """The replica of up to MOST GPUs with the most tokens a second and GPU where every sequence gets
    `speed`; `precision` is of weights and products, caches are in 16 bits."""
    best = Served(0, 0, False, 0.0)
    for guesses in (False, True)[: 1 + (shape.mtp > 0)]:
        gpus = 1
        while gpus <= MOST:
            replica = _Replica(shape, gpu, precision, context, gpus, guesses)
            batch = replica.most(speed)
            if batch:
                found = Served(gpus, batch, guesses, batch * replica.speed(batch) / gpus)
                best = max(best, found, key=lambda one: one.pace)
            gpus *= 2
    return best


class _Replica:
    """One copy of the network on `gpus` GPUs."""

    def __init__(
        self, shape: Shape, gpu: Gpu, precision: Precision, context: int, gpus: int, guesses: bool
    ) -> None:
        constants = load_constants()
        self.shape, self.gpu, self.context, self.gpus = shape, gpu, context, gpus
        self.tokens = 1 + guesses  # that a sequence brings to a step
        self.gain = 1 + ACCEPTED * guesses
        self.size = 1.0 if precision == "fp8" else 2.0  # bytes of a weight
        self.fast = (gpu.fp8_flops if precision == "fp8" else None) or gpu.peak
        self.flops, self.counts = decode_parts(shape, context=context), parameters(shape)
        self.sequence = cache_bytes(shape, context=context)
        self.hidden = constants.expert_hidden, constants.tensor_hidden
        self.group = comm.Group(gpus, min(gpus, gpu.per_node))
        self.links = comm.links(
            gpu,
            up_share=constants.scale_up,
            out_share=constants.scale_out,
            startup=0.0,
            pcie=constants.pcie,
            network=constants.network,
        )
        counts, block = self.counts, self.counts["mtp"] if guesses else 0
        others = counts["total"] - counts["experts"] - counts["attention"] + block
        copied, split = 0, counts["experts"]
        if shape.latent:
            copied += counts["attention"]
        else:
            split += counts["attention"]
        if shape.latent and shape.experts:
            copied += others
        else:
            split += others
        self.held = self.size * (copied + split / gpus)
        self.read = self.size * (copied + (split - counts["experts"]) / gpus)
        if not shape.tied:  # of the embedding, rows are looked up
            spread = 1 if shape.latent and shape.experts else gpus
            self.read -= self.size * counts["embedding"] / spread

    def fits(self, batch: int) -> bool:
        held = serving_memory(
            self.shape, self.held * self.gpus, self.context, batch, gpus=self.gpus
        )
        return held.total <= usable(self.gpu)

    def most(self, speed: float) -> int:
        """The largest batch that fits and gives `speed`; more is cheaper, as weights are shared."""
        low, high = 0, _MOST_BATCH
        while low < high:
            middle = (low + high + 1) // 2
            if self.fits(middle) and self.speed(middle) >= speed:
                low = middle
            else:
                high = middle - 1
        return low

    def speed(self, batch: int) -> float:
        """Tokens a second of each sequence."""
        drafting = 1 + (self.tokens > 1) / self.shape.layers  # the block runs once a step
        return self.gain / (self.step(batch) * drafting)

    def step(self, batch: int) -> float:
        shape, counts, flops = self.shape, self.counts, self.flops
        rows = batch * self.tokens
        if shape.latent:
            cached = self.sequence * ceil(batch / self.gpus)
        else:
            cached = self.sequence * batch / min(self.gpus, shape.kv_heads)
        scores = flops["attention_scores"]
        others = sum(flops.values()) - scores - flops["experts"]
        work = self._longer(cached, rows * scores, self.gpu.peak)
        work += self._longer(self.read, rows * others, self.fast)
        if shape.experts:
            met = 1 - (1 - shape.experts_per_token / shape.experts) ** rows
            weights = self.size * counts["experts"] * met / self.gpus
            work += self._longer(weights, rows * flops["experts"], self.fast)
        return work + self._exposed(rows, work)

    def _longer(self, moved: float, flops: float, peak: float) -> float:
        """Seconds of bytes of one GPU, or of FLOPs of all."""
        return max(moved / self.gpu.bandwidth, flops / self.gpus / peak) / REACHED

    def _exposed(self, rows: int, work: float) -> float:
        """Communication of a step that no work hides."""
        shape, experts_hidden, tensor_hidden = self.shape, *self.hidden
        copies = shape.experts_per_token
        there = sum(
            comm.all_to_all(
                rows / self.gpus, copies, copies, size * shape.hidden, self.group, self.links
            )
            for size in (self.size, 2.0)  # dispatch, combine
        )
        times = (0 if shape.latent else shape.layers) + shape.mlp_layers
        if shape.latent and shape.experts:
            times = 0  # all but the experts works on sequences of its own
        summed = comm.all_reduce(2.0 * rows * shape.hidden, self.group, self.links)
        return _left(shape.moe_layers * there, experts_hidden, work) + _left(
            times * summed, tensor_hidden, work
        )


def _left(time: float, hidden: float, work: float) -> float:
    return time - min(hidden * time, work)
