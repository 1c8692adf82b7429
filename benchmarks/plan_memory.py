"""Peak memory of training steps: predicted from the shape alone against PyTorch's allocator.

Claim: within 10 % on every row, by `benthic.cost.step.eager`, which a plan on one device prints as
"plain PyTorch". A row is a second step, forward, backward and optimizer, of a network that
`transformers` or Benthic builds from a config; the shape comes from the same config, and no figure
of a measurement enters the prediction. Measured are the bytes that PyTorch's CPU allocator
hands out, from the profiler's record of every allocation, on top of what is alive when the step
starts. The last column is the growth of the process's greatest resident set, a check from outside:
it counts pages, libraries' own buffers and the heap's holes too. "planner" is the error of the
memory by which a plan chooses its layout (`benthic.cost.step.memory`) on the same rows, without the
CUDA context that a CPU lacks. No claim is made of it here, as it is of another program: in bf16 it
has fp32 master weights, moments and gradients, where these steps have bf16 alone; its kernels are
fused; gradients and all activations are there at once, as where parts add up; and it has no
optimizer's temporaries. Rows under "not looked at" were
never run while the prediction was written.

    python benchmarks/plan_memory.py [NAME ...]     rows whose name holds one of the words
"""

import multiprocessing
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

SEEN, FRESH = "developed against", "not looked at"


@dataclass(frozen=True)
class Case:
    """One network and one batch; `model` is transformers' model_type, or "benthic"."""

    name: str
    model: str
    batch: int
    seq: int
    config: dict[str, Any]
    group: str = SEEN
    precision: str = "fp32"
    attention: str = "sdpa"
    optimizer: str = "adamw"
    dropout: bool = False
    parts: int = 1
    foreach: bool = False


def widths(layers: int, hidden: int, ffn: int, vocab: int, heads: int, shared: int) -> dict:
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "vocab_size": vocab,
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "max_position_embeddings": 2048,
    }


LATENT = {
    "q_lora_rank": 192,
    "kv_lora_rank": 128,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
ROUTED = {"n_routed_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 256}
PLAIN = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
GPT2 = {"n_embd": 512, "n_layer": 8, "n_head": 8, "vocab_size": 16384, "n_positions": 1024}

CASES = [
    Case("llama-activations", "llama", 4, 512, widths(6, 512, 1376, 8192, 8, 4)),
    Case("llama-parts", "llama", 1, 256, widths(6, 512, 1376, 8192, 8, 4), parts=3, foreach=True),
    Case("llama-parameters", "llama", 1, 64, widths(6, 512, 1376, 8192, 8, 4)),
    Case(
        "llama-bf16-eager",
        "llama",
        2,
        512,
        widths(6, 512, 1376, 8192, 8, 4),
        precision="bf16",
        attention="eager",
    ),
    Case("qwen2-logits", "qwen2", 2, 256, widths(6, 512, 1376, 49152, 8, 2)),
    Case("gpt2", "gpt2", 2, 512, GPT2 | PLAIN),
    Case("gpt2-dropout", "gpt2", 2, 256, GPT2, dropout=True),
    Case(
        "mixtral",
        "mixtral",
        2,
        256,
        widths(4, 512, 1024, 8192, 8, 4) | {"num_local_experts": 12, "num_experts_per_tok": 2},
    ),
    Case(
        "qwen3-moe-bf16",
        "qwen3_moe",
        4,
        256,
        widths(6, 512, 1024, 8192, 8, 4)
        | {"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 256}
        | {"head_dim": 64},
        precision="bf16",
    ),
    Case(
        "deepseek-v3",
        "deepseek_v3",
        2,
        256,
        widths(5, 512, 1376, 8192, 8, 8) | LATENT | ROUTED | {"n_shared_experts": 1},
    ),
    Case(
        "benthic-dense",
        "benthic",
        4,
        512,
        {"model_type": "llama"} | widths(6, 512, 1376, 8192, 8, 4),
    ),
    Case(
        "benthic-moe-mtp",
        "benthic",
        2,
        256,
        widths(5, 512, 1376, 8192, 8, 0)
        | LATENT
        | ROUTED
        | {"n_shared_experts": 1, "num_nextn_predict_layers": 1},
    ),
    Case(
        "benthic-moe-muon",
        "benthic",
        1,
        128,
        widths(5, 512, 1376, 8192, 8, 0)
        | LATENT
        | ROUTED
        | {"n_shared_experts": 1, "num_nextn_predict_layers": 1},
        optimizer="muon",
    ),
    Case(
        "benthic-parts",
        "benthic",
        1,
        320,
        {"model_type": "llama"} | widths(6, 512, 1376, 8192, 8, 4),
        parts=3,
    ),
    Case("mistral", "mistral", 2, 384, widths(12, 768, 2048, 16384, 12, 4), FRESH),
    Case(
        "olmoe-bf16",
        "olmoe",
        3,
        320,
        widths(7, 640, 320, 12000, 10, 10) | {"num_experts": 16, "num_experts_per_tok": 3},
        FRESH,
        precision="bf16",
    ),
    Case(
        "deepseek-v3-narrow-eager",
        "deepseek_v3",
        3,
        200,
        widths(9, 320, 900, 5000, 5, 5)
        | LATENT
        | {"q_lora_rank": None, "n_shared_experts": 2, "n_routed_experts": 24}
        | {"num_experts_per_tok": 6, "moe_intermediate_size": 120},
        FRESH,
        attention="eager",
    ),
    Case(
        "benthic-qwen3-tied",
        "benthic",
        5,
        300,
        {"model_type": "qwen3", "tie_word_embeddings": True, "head_dim": 48}
        | widths(9, 384, 1200, 20000, 8, 2),
        FRESH,
    ),
]


def main() -> None:
    from machine import heading

    heading("transformers")
    words = sys.argv[1:]
    print(f"{'row':26} {'params':>7} {'tokens':>6} {'measured':>9} {'predicted':>9}", end="")
    print(f" {'error':>7} {'planner':>8}  {'at':9} {'pages':>8}")
    errors = []
    for group in (SEEN, FRESH):
        print(f"-- {group}")
        for case in CASES:
            if case.group == group and (not words or any(w in case.name for w in words)):
                errors.append((case.precision, *row(case)))
    worst = max(abs(error) for _, error, _ in errors)
    print(f"greatest error {worst:.2%}: {'within' if worst <= 0.1 else 'BEYOND'} 10 %")
    for precision in ("fp32", "bf16"):
        off = [abs(planner) for found, _, planner in errors if found == precision]
        if off:
            print(
                f"the planner's own in {precision}: median {statistics.median(off):.0%}, greatest "
                f"{max(off):.0%} of {len(off)} rows"
            )


def row(case: Case) -> tuple[float, float]:
    """Relative errors of the eager prediction and of the planner's own."""
    from benthic.cost.step.eager import single_device

    with multiprocessing.get_context("spawn").Pool(1) as pool:  # pages of one row are not another's
        measured, grown, params = pool.apply(measure, (case,))
    shape = shape_of_case(case)
    peak = single_device(
        shape,
        case.batch,
        case.seq,
        precision=case.precision,  # type: ignore[arg-type]
        optimizer=case.optimizer,  # type: ignore[arg-type]
        implementation="benthic" if case.model == "benthic" else "transformers",
        attention=case.attention,  # type: ignore[arg-type]
        dropout=case.dropout,
        parts=case.parts,
        foreach=case.foreach,
    )
    error, planner = peak.total / measured - 1, planned(case, shape) / measured - 1
    print(
        f"{case.name:26} {params / 1e6:6.1f}M {case.batch * case.seq:6} {measured / 1e6:6.1f} MB "
        f"{peak.total / 1e6:6.1f} MB {error:+7.2%} {planner:+8.1%}  {peak.moment:9} "
        f"{grown / 1e6:5.0f} MB",
        flush=True,
    )
    return error, planner


def planned(case: Case, shape: Any) -> float:
    """Bytes by which a plan chooses, of the network that is built: transformers has no MTP."""
    from benthic.cost.step.layout import Layout
    from benthic.cost.step.memory import CONTEXT, memory

    layout = Layout(
        micro_batch=case.batch,
        micro_batches=case.parts,
        recompute="none",
        precision=case.precision,  # type: ignore[arg-type]
        optimizer=case.optimizer,  # type: ignore[arg-type]
    )
    built = shape if case.model == "benthic" else replace(shape, mtp=0)
    return memory(built, layout, case.seq).total - CONTEXT


def shape_of_case(case: Case) -> Any:
    """The shape, from the config that the network is built from."""
    from benthic.cost.network.read_shape import from_config
    from benthic.cost.network.shape import shape_of

    made = config_of(case)
    return shape_of(made) if case.model == "benthic" else from_config(made.to_dict(), case.name)


def config_of(case: Case) -> Any:
    if case.model == "benthic":
        from benthic.model.config import ModelConfig

        return ModelConfig(**case.config)
    from transformers import AutoConfig, logging

    logging.set_verbosity_error()
    return AutoConfig.for_model(case.model, **case.config)


def measure(case: Case) -> tuple[float, float, int]:
    """Peak bytes in PyTorch's allocator, growth of the resident set, and parameters."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    config_of(case)  # imports what it needs
    before = greatest_resident()
    step, alive, params = (benthic if case.model == "benthic" else hub)(case)
    step()  # makes the optimizer's state
    static = sum(t.numel() * t.element_size() for t in alive())
    step()
    grown = greatest_resident() - before
    return static + passing(step), grown, params


def greatest_resident() -> float:
    """Bytes; not getrusage's figure, which a process takes over from the one that starts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((1024.0 * int(line.split()[1]) for line in lines if line[:6] == "VmHWM:"), 0.0)


def hub(case: Case) -> tuple[Callable[[], None], Callable[[], Iterator[Any]], int]:
    import torch
    from transformers import AutoModelForCausalLM

    made = config_of(case)
    model = AutoModelForCausalLM.from_config(
        made,
        attn_implementation=case.attention,
        dtype=torch.bfloat16 if case.precision == "bf16" else torch.float32,
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=case.foreach)
    ids = torch.randint(0, made.vocab_size, (case.batch, case.seq))

    def step() -> None:
        for _ in range(case.parts):
            model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def alive() -> Iterator[Any]:
        yield from model.parameters()
        yield from model.buffers()
        yield ids
        for state in optimizer.state.values():
            yield from state.values()

    return step, alive, sum(p.numel() for p in model.parameters())


def benthic(case: Case) -> tuple[Callable[[], None], Callable[[], Iterator[Any]], int]:
    import torch

    from benthic.config import PretrainConfig
    from benthic.model.transformer import LanguageModel, initialise
    from benthic.train.optimizer import Optimizer
    from benthic.train.parallel import Ranks
    from benthic.train.pretrain import Batch, _part
    from benthic.train.step import train_step

    made = config_of(case)
    model = LanguageModel(made)
    initialise(model, torch.Generator().manual_seed(0))
    optimizer = Optimizer(model, weight_decay=0.0, muon=case.optimizer == "muon")
    rows, length = case.batch, case.seq
    batch = Batch(
        tokens=torch.randint(0, made.vocab_size, (rows, length + 1)),
        documents=torch.zeros(rows, length + 1, dtype=torch.int64),
        targets=torch.ones(rows, length, dtype=torch.bool),
        ahead=torch.ones(rows, length - 1, dtype=torch.bool),
        is_text=torch.ones(rows, dtype=torch.bool),
    )
    counts = torch.tensor([rows * length, rows * (length - 1)], dtype=torch.float64)

    def step() -> None:
        train_step(
            model,
            optimizer,
            lambda _: _part(model, batch, counts, 0.3, PretrainConfig(micro_batches=1)),
            case.parts,
            lr=1e-3,
            clip=1.0,
            bias_rate=0.001,
            ranks=Ranks(),
        )

    def alive() -> Iterator[Any]:
        yield from model.parameters()
        yield from model.buffers()
        yield from optimizer.state.values()
        yield from (batch.tokens, batch.documents)

    return step, alive, sum(p.numel() for p in model.parameters())


def passing(step: Callable[[], None]) -> float:
    """Greatest sum of allocations less releases during `step`."""
    from torch._C._profiler import _EventType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    sizes: list[tuple[int, int]] = []
    waiting = list(profiler.profiler.kineto_results.experimental_event_tree())
    while waiting:
        node = waiting.pop()
        waiting += node.children
        if node.tag == _EventType.Allocation:
            sizes.append((node.start_time_ns, node.extra_fields.alloc_size))
    now = top = 0
    for _, size in sorted(sizes, key=lambda s: s[0]):
        now += size
        top = max(top, now)
    return float(top)


if __name__ == "__main__":
    main()
