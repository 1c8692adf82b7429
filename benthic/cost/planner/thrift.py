"""`benthic thrift`: what each idea of a network saves, in training and in serving, step by step.

It begins at the plain model of the same class, dense with full attention in 16 bits without look-
ahead (`benthic.cost.network.twins`), and puts the network's ideas in one after another: latents or
grouped queries, experts, FP8 where it was released so and the GPU has it, prediction blocks. Each
step is planned anew, layout included, so what an idea costs (an all-to-all, uneven experts, casts)
is in its hours; real runs' losses are those of the whole network, for every step alike. The order
matters: an idea that comes later finds less left to save. Serving is
`benthic.cost.planner.serving`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benthic.cost.catalog.load import Catalog, CostError, Gpu, load
from benthic.cost.network import units
from benthic.cost.network.flops import cache_bytes, decode_parts, forward_parts, parameters
from benthic.cost.network.read_shape import shape as read
from benthic.cost.network.shape import Shape
from benthic.cost.network.twins import Class, as_dense, class_size, dense_twin
from benthic.cost.planner.basis import Question
from benthic.cost.planner.plan import POWER, TARIFF, Plan, plan
from benthic.cost.planner.serving import CONTEXT, SPEED, Served, cheapest
from benthic.cost.step.calibrate import refuse
from benthic.cost.step.layout import Precision
from benthic.cost.step.memory import DoesNotFit
from benthic.cost.step.speed import forward_flops_per_token

DAYS = 60.0  # that the planned run may take where nobody says how many GPUs
PLAIN, LATENTS, GROUPS, EXPERTS, FP8, MTP = (
    *("dense, full attention", "latent attention", "grouped queries"),
    *("sparse experts", "FP8", "multi-token prediction"),
)
IDEAS = (LATENTS, EXPERTS, FP8, MTP)  # DeepSeek-V3's


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A network on the way from the plain one to the given one."""

    idea: str
    shape: Shape
    precision: Precision
    flops: float
    """of training, a token"""
    plan: Plan
    hours: float
    dollars: float
    overhead: str
    """what the idea costs"""
    served: Served
    cache: float
    """bytes a sequence holds"""
    weights: float
    """bytes of the whole network, prediction blocks included"""
    price: float
    """US dollars for a million tokens decoded; infinity where no replica is quick enough"""
    check: str
    """a small run that shows the idea on one's own machine"""


def stages_of(
    shape: Shape, by: Class, *, fp8: bool, plain: Precision = "bf16"
) -> list[tuple[str, Shape, Precision]]:
    """The networks from plain to given, with their precision; an idea that the network lacks is no
    step. `fp8`: whether it was released so; `plain`: what products are in otherwise."""
    bare, named = replace(shape, mtp=0), f"{PLAIN}, {plain}"
    found: list[tuple[str, Shape, Precision]] = [(named, dense_twin(bare, by=by), plain)]
    if shape.attention != "mha":
        name = LATENTS if shape.latent else GROUPS
        found.append((name, as_dense(bare, by=by), plain))
    if shape.experts:
        found.append((EXPERTS, bare, plain))
    last: Precision = "fp8" if fp8 else plain
    if fp8:
        found.append((FP8, bare, last))
    if shape.mtp:
        found.append((MTP, shape, last))
    return found


def waterfall(
    shape: Shape,
    gpu: Gpu,
    catalog: Catalog,
    *,
    tokens: float,
    fp8: bool = False,
    gpus: int | None = None,
    seq: int | None = None,
    context: int = CONTEXT,
    speed: float = SPEED,
    by: Class = "quality",
    rent: float | None = None,
    date: str | None = None,
) -> list[Stage]:
    """Every stage, planned and priced; `fp8`: whether the network was released so. CostError where
    none fits the GPUs."""
    plain: Precision = "bf16" if gpu.has_bf16 else "fp16"
    steps = stages_of(shape, by, fp8=fp8 and bool(gpu.fp8_flops), plain=plain)
    question = Question(
        shape=steps[-1][1],
        gpu=gpu.name,
        gpus=gpus,
        tokens=tokens,
        days=DAYS if gpus is None else None,
        seq=seq,
        precision=steps[-1][2],
        rent=rent,
        date=date,
    )
    last = plan(question, catalog)
    question = replace(question, seq=last.seq, days=None, batch=float(last.step.tokens))
    stages: list[Stage] = []
    for i, (idea, network, precision) in enumerate(steps):
        one = last
        if i < len(steps) - 1:
            one = _planned(replace(question, shape=network, precision=precision), last, catalog)
        hours = clean_hours(one) * last.practice.factor
        served = cheapest(network, gpu, precision, context, speed)
        size = 1 if precision == "fp8" else 2
        stages.append(
            Stage(
                idea=idea,
                shape=network,
                precision=precision,
                flops=3 * forward_flops_per_token(network, last.seq),
                plan=one,
                hours=hours,
                dollars=hours * last.price,
                overhead=_overhead(idea, stages[-1].plan, one, served, shape) if stages else "",
                served=served,
                cache=cache_bytes(network, context=context),
                weights=size * parameters(network)["total_with_mtp"],
                price=served.price(last.price),
                check=_CHECKS.get(idea, _CHECKS[PLAIN]),
            )
        )
    return stages


def clean_hours(one: Plan) -> float:
    """GPU-hours of clean steps, failures in."""
    return one.clean_hours / one.good.useful


def _planned(question: Question, last: Plan, catalog: Catalog) -> Plan:
    """On the same GPUs, or on as many more as it takes to hold it."""
    gpus = last.gpus
    while True:
        try:
            return plan(replace(question, gpus=gpus), catalog)
        except DoesNotFit:
            if gpus >= 64 * last.gpus:
                raise
            gpus *= 2


def _overhead(idea: str, before: Plan, one: Plan, served: Served, given: Shape) -> str:
    """What the idea costs, against the line before it; `given` is the network that was asked of."""
    shape, old = one.question.shape, before.question.shape
    if idea == EXPERTS:
        held = parameters(shape)["total"] / parameters(old)["total"]
        talk, uneven = _share(one, "expert"), _share(one, "imbalance")
        return (
            f"all-to-all {talk:.0%} and uneven loads {uneven:.0%} of the training step; "
            f"{held:.2g} times the parameters to hold"
        )
    if idea == LATENTS:
        trained = [_attention(plan) for plan in (before, one)]
        scores = [
            decode_parts(network, context=CONTEXT)["attention_scores"] for network in (old, shape)
        ]
        return (
            f"heads of {shape.head_dim} and more products: attention has {trained[1]:.0%} of "
            f"training's FLOPs, {trained[0]:.0%} before; a decoded token's scores take "
            f"{scores[1] / scores[0]:.2g} times the FLOPs"
        )
    if idea == GROUPS:
        share, own = shape.heads / shape.kv_heads, given.heads / given.kv_heads
        twin = f" in the dense network, {own:.3g} in {given.name}" if share != own else ""
        return f"{share:.3g} heads share keys{twin}: fewer to choose from"
    if idea == FP8:
        casts = [_share(plan, "memory") for plan in (before, one)]
        rest = _share(one, "attention") + _share(one, "head")
        return (
            f"casts and scales: element-wise work is {casts[1]:.0%} of the training step, "
            f"{casts[0]:.0%} before; scores and head, {rest:.0%}, stay in 16 bits"
        )
    if idea == MTP:
        parts = forward_parts(shape, context=one.seq)
        share, block = parts["mtp"] / sum(parts.values()), parameters(shape)["mtp"]
        pays = "" if served.guesses else "; its guesses do not pay at this speed and batch"
        return (
            f"one more block and head: {share:.1%} of training's FLOPs, {block / 1e9:.3g}B "
            f"parameters{pays}"
        )
    return ""


def _share(plan: Plan, part: str) -> float:
    """Of the training step."""
    return plan.step.parts[part].value / plan.step.total.value


def _attention(plan: Plan) -> float:
    """Attention's share of training's FLOPs."""
    parts = forward_parts(plan.question.shape, context=plan.seq)
    return (parts["attention_projections"] + parts["attention_scores"]) / sum(parts.values())


_CHECKS = {
    PLAIN: "benthic run laptop --name plain --set model.model_type=llama "
    "--set model.num_nextn_predict_layers=0 --set model.n_routed_experts=0",
    LATENTS: "benthic run laptop --name dense --set model.first_k_dense_replace=3 "
    "--set model.num_nextn_predict_layers=0",
    GROUPS: "benthic run laptop --name grouped --set model.model_type=llama "
    "--set model.num_key_value_heads=2 --set model.num_nextn_predict_layers=0 "
    "--set model.n_routed_experts=0",
    EXPERTS: "benthic run laptop --name sparse --set model.num_nextn_predict_layers=0",
    FP8: "benthic export runs/sparse --dtype fp8",
    MTP: "benthic run laptop",
}


def show(
    config: str,
    *,
    gpu: str,
    gpus: int | None,
    tokens: str,
    seq: int | None,
    context: int | None,
    speed: str,
    by: str,
    rent: str,
    date: str,
    prices: Sequence[Path],
    why: bool,
    as_json: bool,
) -> int:
    """Print the waterfall and return the exit code; CostError for what cannot be."""
    from benthic.cost import page
    from benthic.cost.planner import thrift_page
    from benthic.cost.planner.asking import check_gpus, check_seq, in_fp8, rent_of, tell_unread

    refuse(prices)
    catalog = load(prices)
    network = read(config)
    check_gpus(gpus)
    check_seq(seq)
    if context is not None and not 1 <= context <= 10**7:
        raise CostError(f"--context is {context}: give 1 to 10,000,000 tokens")
    pace = units.count(speed, "--speed", low=0.1, high=1e4, like="20") if speed else SPEED
    kind: Class = units.choice(by, "--by", ("quality", "total"))  # type: ignore[assignment]
    found = waterfall(
        network,
        catalog.gpu(gpu),
        catalog,
        tokens=units.count(tokens, "tokens") if tokens else _usual_tokens(network),
        fp8=in_fp8(config),
        gpus=gpus,
        seq=seq,
        context=context or CONTEXT,
        speed=pace,
        by=kind,
        rent=rent_of(rent),
        date=date or None,
    )
    if as_json:
        print(json.dumps([to_dict(stage) for stage in found], indent=1, allow_nan=False))
    else:
        size = class_size(replace(network, mtp=0), kind)
        story = thrift_page.Story(network, found, kind, size, context or CONTEXT, pace)
        page.print_page(thrift_page.page(story, catalog, why=why))
    tell_unread(catalog, (*POWER, TARIFF))  # its page has no energy
    return 0


def _usual_tokens(shape: Shape) -> float:
    """V3's for V3's size and above; otherwise 20 a parameter."""
    total = parameters(shape)["total"]
    return 14.8e12 if total > 100e9 else 20.0 * total


def to_dict(stage: Stage) -> dict[str, Any]:
    """Plain data: SI units, US dollars."""
    return {
        "idea": stage.idea,
        "network": asdict(stage.shape),
        "parameters": parameters(stage.shape),
        "precision": stage.precision,
        "training": {
            "flops_per_token": stage.flops,
            "gpus": stage.plan.gpus,
            "layout": stage.plan.layout.describe(),
            "gpu_hours": stage.hours,
            "dollars": stage.dollars,
            "costs": stage.overhead,
        },
        "serving": {
            "gpus_a_replica": stage.served.gpus or None,
            "batch": stage.served.batch,
            "guesses": stage.served.guesses,
            "tokens_per_second_per_gpu": stage.served.pace,
            "cache_bytes_per_sequence": stage.cache,
            "weight_bytes": stage.weights,
            "dollars_per_million_tokens": stage.price if stage.served.gpus else None,
        },
        "check": stage.check,
    }
