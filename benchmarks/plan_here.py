"""Metered training on this machine against the planner, calibrated on one shape, on two others.

Claim: calibrated on any of three networks, the planner's tokens a second of the other two are
within 15 % of what the ledger holds for them. Each is trained by Benthic's own pretraining step in
a block of `benthic.meter`, in turns, on one thread; a figure is the median over REPEATS. The
"GPU" is this processor: its peak is a measured product, its bandwidth a measured copy.
Calibration scales every rate and start-up alike by the one step, nothing else is fitted.

Ways: a rule of thumb, six FLOPs a token and active parameter; the planner's constants, taking the
optimizer for AdamW; the same with the optimizer that trains, Muon unless `--adamw`, which is what
a user of `benthic plan` gets, and whose errors decide the exit code; then constants of software
that keeps scores in memory, as Benthic does here, with a measured kernel's start; and rates of
products and element-wise work measured at the sizes of these networks.

    taskset -c 0 python benchmarks/plan_here.py [--repeats 5] [--seconds 4] [--adamw]
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from machine import heading, spread
from torch.nn import functional as F

import benthic
from benthic.config import PretrainConfig
from benthic.cost.catalog.load import Gpu
from benthic.cost.ledger.ledger import Ledger, ledger_path
from benthic.cost.network.flops import parameters
from benthic.cost.network.shape import shape_of
from benthic.cost.step.calibrate import Constants, load_constants
from benthic.cost.step.layout import Layout, parse
from benthic.cost.step.speed import step_time
from benthic.data.loader import Mixture
from benthic.data.tasks.running_total import RunningTotals
from benthic.data.text import load_corpus
from benthic.model.config import ModelConfig
from benthic.model.transformer import LanguageModel, initialise
from benthic.train.optimizer import Optimizer
from benthic.train.parallel import Ranks
from benthic.train.pretrain import pretrain_step

REACH = 0.15
SEQ, ROWS, PARTS = 256, 16, 2
LAYOUT = parse(f"mb{ROWS // PARTS} acc{PARTS} recompute-none fp32")  # the trainer keeps everything
TRAINING = PretrainConfig(steps=10**6, rows=ROWS, micro_batches=PARTS)
VOCAB = 4096


def llama(hidden: int, layers: int) -> ModelConfig:
    return ModelConfig(
        model_type="llama",
        vocab_size=VOCAB,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        max_position_embeddings=SEQ,
        initializer_range=0.02,
    )


SHAPES = {
    "llama 256 x 6": llama(256, 6),
    "llama 384 x 8": llama(384, 8),
    "v3 256 x 6, 2 of 8": ModelConfig(
        vocab_size=VOCAB,
        hidden_size=256,
        intermediate_size=1024,
        moe_intermediate_size=512,
        num_hidden_layers=6,
        first_k_dense_replace=1,
        num_attention_heads=4,
        q_lora_rank=None,
        kv_lora_rank=128,
        qk_nope_head_dim=48,
        qk_rope_head_dim=16,
        v_head_dim=64,
        n_routed_experts=8,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        max_position_embeddings=SEQ,
        initializer_range=0.02,
    ),
}


@dataclass(frozen=True)
class Way:
    """How a step is predicted; `thumb`: by nothing but the active parameters."""

    name: str
    constants: Constants
    layout: Layout
    thumb: bool = False


def quickest(work: Callable[[], object], times: int = 15) -> float:
    """Seconds of the fastest of `times` calls: what the machine can do, whoever else computes."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def this_processor() -> Gpu:
    """Peak of one large product and bandwidth of one large copy, on this one thread."""
    n, size = 1024, 1 << 24
    a, x, y = torch.randn(n, n), torch.randn(size), torch.empty(size)
    peak = 2 * n**3 / quickest(lambda: a @ a)
    bandwidth = 8 * size / quickest(lambda: y.copy_(x))
    return Gpu(
        name="this processor, one thread",
        bf16_flops=2 * peak,  # the planner takes half of it for fp32
        fp8_flops=None,
        fp16_flops=2 * peak,
        memory=8e9,
        visible=8e9,
        bandwidth=bandwidth,
        scale_up=None,
        scale_out=None,
        server_watts=30,
        per_node=1,
        release="",
    )


def kernel_seconds() -> float:
    """What an operation on four numbers takes, which here the host and the device are one for."""
    x, count = torch.zeros(4, requires_grad=True), 1000
    return quickest(lambda: [x + 1 for _ in range(count)]) / count


def product_rate() -> float:
    """FLOP/s of a projection's three products at the sizes of these networks, harmonic mean."""
    rates = []
    rows = ROWS // PARTS * SEQ
    for n, k in ((256, 256), (1024, 256), (384, 384), (1536, 384)):
        x, w, g = torch.randn(rows, k), torch.randn(n, k), torch.randn(rows, n)
        took = quickest(lambda x=x, w=w: x @ w.T)  # type: ignore[misc]
        took += quickest(lambda g=g, w=w: g @ w) + quickest(lambda g=g, x=x: g.T @ x)  # type: ignore[misc]
        rates.append(took / (6 * rows * n * k))
    return len(rates) / sum(rates)


def element_rate() -> float:
    """Bytes/s of a norm, a residual and a gated activation, forward and backward, by the bytes that
    the planner counts: 2 read and written words each forward (the gate 3), twice that backward."""
    rows, hidden = ROWS // PARTS * SEQ, 256
    x = torch.randn(rows, hidden, requires_grad=True)
    weight = torch.ones(hidden, requires_grad=True)
    wide = [torch.randn(rows, 4 * hidden, requires_grad=True) for _ in range(2)]

    def norm_and_residual() -> None:
        (x + F.rms_norm(x, (hidden,), weight)).backward(torch.ones_like(x))

    def gate() -> None:
        (F.silu(wide[0]) * wide[1]).backward(torch.ones_like(wide[0]))

    # stream_bytes is of two norms and two residuals in 16 bits; 6 bytes an element of the gate
    half = load_constants("unfused").stream_bytes / 2
    moved = 2 * 3 * rows * hidden * (half + 6 * 4)
    return moved / (quickest(norm_and_residual) + quickest(gate))


class Trained:
    """One network, its optimizer and the step that it is at."""

    def __init__(self, name: str, config: ModelConfig, mixture: Mixture, *, muon: bool) -> None:
        self.name, self.shape, self.mixture = name, shape_of(config), mixture
        self.model = LanguageModel(config)
        initialise(self.model, torch.Generator().manual_seed(0))
        self.optimizer = Optimizer(self.model, weight_decay=0.0, muon=muon)
        self.done = 0

    def step(self) -> None:
        pretrain_step(self.model, self.optimizer, self.mixture, TRAINING, self.done, Ranks())
        self.done += 1

    def metered(self, seconds: float) -> None:
        """Steps for at least so long, two or more, on the ledger."""
        with benthic.meter(self.name, purpose="ablation", price=0, watts=30) as m:
            end, steps = time.monotonic() + seconds, 0
            while steps < 2 or time.monotonic() < end:
                self.step()
                m.add(tokens=ROWS * SEQ)
                steps += 1

    def predicted(self, way: Way, constants: Constants, gpu: Gpu) -> float:
        """Seconds of a step."""
        if way.thumb:
            rate = constants.matmul * gpu.bf16_flops / 2
            return 6 * parameters(self.shape)["active"] * ROWS * SEQ / rate
        return step_time(self.shape, way.layout, gpu, SEQ, constants).total.value


def rates(by: str) -> dict[str, list[float]]:
    """Tokens a second of each of the ledger's rows; `by`: seconds or cpu_seconds."""
    found: dict[str, list[float]] = {name: [] for name in SHAPES}
    with Ledger(ledger_path()) as ledger:
        for row in ledger.query():
            found[row.name].append(row.tokens / getattr(row, by))
    return found


def slower(constants: Constants, factor: float) -> Constants:
    """The constants of a machine whose every step takes `factor` times as long."""
    rates = ("matmul", "fp8_matmul", "flash", "memory", "scale_up", "scale_out")
    changed = {name: getattr(constants, name) / factor for name in rates}
    for name in ("launch", "kernel", "startup", "step"):
        changed[name] = getattr(constants, name) * factor
    return replace(constants, **changed)


def errors(way: Way, trained: list[Trained], gpu: Gpu, took: dict[str, float]) -> list[float]:
    """Prints and returns the six; `took`: metered seconds of a step by name."""
    print(f"\n{way.name}")
    off = []
    for base in trained:
        factor = took[base.name] / base.predicted(way, way.constants, gpu)
        fit = slower(way.constants, factor)
        print(f"  calibrated on {base.name:20} factor {factor:.3f}")
        for other in trained:
            if other is base:
                continue
            predicted = ROWS * SEQ / other.predicted(way, fit, gpu)
            metered = ROWS * SEQ / took[other.name]
            off.append(predicted / metered - 1)
            print(
                f"    {other.name:20} predicted {predicted:7,.0f} tokens/s, metered {metered:7,.0f}"
                f"  {off[-1]:+6.1%}"
            )
    print(f"  largest {max(map(abs, off)):.1%}, median {median(map(abs, off)):.1%}")
    return off


def ways(gpu: Gpu, *, muon: bool) -> list[Way]:
    """From the rule of thumb on, each with what the one before has.

    Of measured rates only ratios count, since the calibration scales them all.
    """
    peak, kernel = gpu.bf16_flops / 2, kernel_seconds()
    here = replace(load_constants("unfused"), launch=0.0, kernel=kernel)
    measured = replace(
        here, matmul=product_rate() / peak, grouped=1.0, memory=element_rate() / gpu.bandwidth
    )
    print(
        f"measured: product {peak / 1e9:.1f} GFLOP/s, copy {gpu.bandwidth / 1e9:.1f} GB/s, kernel "
        f"{kernel * 1e6:.1f} us; at these sizes: products {measured.matmul:.2f} of that, "
        f"element-wise work {measured.memory:.2f}"
    )
    shipped = load_constants()
    trained = replace(LAYOUT, optimizer="muon" if muon else "adamw")
    return [
        Way("0. rule of thumb: 6 FLOPs a token and active parameter", shipped, LAYOUT, thumb=True),
        *([Way("1. the planner, were it AdamW", shipped, LAYOUT)] if muon else []),
        Way("2. the planner", shipped, trained),
        Way("3. and scores in memory, a kernel's start as measured", here, trained),
        Way("4. and rates measured at these sizes", measured, trained),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each metered block")
    parser.add_argument("--adamw", action="store_true", help="AdamW for the matrices, too")
    args = parser.parse_args()
    heading()
    torch.set_num_threads(1)
    print(
        f"# one thread, cores {sorted(os.sched_getaffinity(0))}, load {os.getloadavg()[0]:.1f}; "
        f"{'AdamW' if args.adamw else 'Muon'}; {ROWS} rows of {SEQ} tokens, {LAYOUT.describe()!r}"
    )
    gpu = this_processor()
    ahead = ways(gpu, muon=not args.adamw)
    mixture = Mixture(
        corpus=load_corpus([Path(benthic.__file__).parent]),
        task=RunningTotals(),
        length=SEQ,
        text_share=0.25,
        worked_share=0.15,
        seed=0,
    )
    trained = [
        Trained(name, config, mixture, muon=not args.adamw) for name, config in SHAPES.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BENTHIC_LEDGER"] = str(Path(folder) / "ledger.sqlite")
        os.environ.pop("BENTHIC_METER", None)
        for one in trained:
            one.step()  # warm-up, on no bill
        for _ in range(args.repeats):
            for one in trained:
                one.metered(args.seconds)
        wall, busy = rates("seconds"), rates("cpu_seconds")
    for one in trained:
        step = ROWS * SEQ / median(wall[one.name])
        print(
            f"{one.name:20} {spread(wall[one.name])} tokens/s, {step:.2f} s a step; "
            f"{median(busy[one.name]):,.0f} by processor time; {len(wall[one.name])} bills"
        )
    took = {name: ROWS * SEQ / median(found) for name, found in wall.items()}
    off = {way.name[0]: errors(way, trained, gpu, took) for way in ahead}
    sys.exit(max(map(abs, off["2"])) > REACH)


if __name__ == "__main__":
    main()
