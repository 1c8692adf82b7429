"""`benthic thrift`: what each of DeepSeek's ideas saves, in training and in serving, step by step.

It begins at the plain model of the same class, dense with full attention in bf16 without look-ahead
(`benthic.cost.twins`), and puts the ideas in one after another: latents, experts, FP8, prediction
blocks. Each step is planned anew, layout included, so what an idea costs (an all-to-all, uneven
experts, casts) is in its hours; real runs' losses are those of the whole network, for every step
alike. The order matters: an idea that comes later finds less left to save.

Serving is decoding alone, on the replica that is cheapest while each user gets `SPEED` tokens a
second: a step takes the longer of its bytes (weights that some token met, the caches) and its
FLOPs. Prefill, queueing and communication are left out, so its prices are floors.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from benthic.cost import units
from benthic.cost.basis import Question
from benthic.cost.catalog import Catalog, CostError, Gpu, load
from benthic.cost.flops import (
    cache_bytes,
    decode_parts,
    parameters,
    weight_bytes_read,
)
from benthic.cost.layout import Precision
from benthic.cost.memory import serving_memory, usable
from benthic.cost.plan import Plan, plan
from benthic.cost.read_shape import shape as read
from benthic.cost.shape import Shape
from benthic.cost.speed import forward_flops_per_token
from benthic.cost.twins import Class, as_dense, class_size, dense_twin

DAYS = 60.0  # that the planned run may take where nobody says how many GPUs
SPEED = 20.0  # tokens a second that a user gets: DeepSeek's service gave 20 to 22 (2025-03-01)
CONTEXT = 4989  # tokens a sequence has in the cache: the mean of the same service
ACCEPTED = 0.85  # of second tokens: V3 section 5.4.3, 85 to 90 %
REACHED = 0.7  # share of the memory's bandwidth and of the peak that decoding reaches: assumed
MOST = 512  # GPUs of a replica
_BATCHES = tuple(1 << i for i in range(17))


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
    replica: int
    """GPUs that serve one copy"""
    batch: int
    """sequences at once on a replica"""
    cache: float
    """bytes a sequence holds"""
    weights: float
    """bytes of the whole network"""
    price: float
    """US dollars for a million tokens decoded"""
    check: str
    """a small run that shows the idea on one's own machine"""


def stages_of(shape: Shape, by: Class) -> list[tuple[str, Shape, Precision]]:
    """The networks from plain to given; an idea that the network lacks is no step."""
    bare = replace(shape, mtp=0)
    plain = dense_twin(bare, by=by)
    found: list[tuple[str, Shape, Precision]] = [("dense, full attention, bf16", plain, "bf16")]
    if shape.attention != "mha":
        name = "latent attention" if shape.latent else "grouped queries"
        found.append((name, as_dense(bare, by=by), "bf16"))
    if shape.experts:
        found.append(("sparse experts", bare, "bf16"))
    found.append(("FP8", bare, "fp8"))
    if shape.mtp:
        found.append(("multi-token prediction", shape, "fp8"))
    return found


def waterfall(
    shape: Shape,
    gpu: Gpu,
    catalog: Catalog,
    *,
    tokens: float,
    gpus: int | None = None,
    seq: int | None = None,
    context: int | None = None,
    by: Class = "quality",
    rent: float | None = None,
    date: str | None = None,
) -> list[Stage]:
    """Every stage, planned and priced; CostError where none fits the GPUs."""
    steps = stages_of(shape, by)
    if not gpu.fp8_flops:
        steps = [step for step in steps if step[2] != "fp8"]
        if shape.mtp:
            steps.append(("multi-token prediction", shape, "bf16"))
    question = Question(
        shape=shape,
        gpu=gpu.name,
        gpus=gpus,
        tokens=tokens,
        days=DAYS,
        seq=seq,
        precision=steps[-1][2],
        rent=rent,
        date=date,
    )
    last = plan(question, catalog)
    lost = last.practice.p50 / _clean(last)
    stages: list[Stage] = []
    for idea, network, precision in steps:
        one = last
        if network is not shape or precision != steps[-1][2]:
            one = _planned(replace(question, shape=network, precision=precision), last, catalog)
        hours = _clean(one) * lost
        replica, batch, price = _served(
            network, gpu, precision, context or CONTEXT, last.rent.value
        )
        size = 1 if precision == "fp8" else 2
        stages.append(
            Stage(
                idea=idea,
                shape=network,
                precision=precision,
                flops=3 * forward_flops_per_token(network, last.seq),
                plan=one,
                hours=hours,
                dollars=hours * last.rent.value,
                overhead=_overhead(idea, one),
                replica=replica,
                batch=batch,
                cache=cache_bytes(network, context=context or CONTEXT),
                weights=size * parameters(network)["total_with_mtp"],
                price=price,
                check=_CHECKS.get(idea, ""),
            )
        )
    return stages


def _planned(question: Question, last: Plan, catalog: Catalog) -> Plan:
    """On the same GPUs, or on as many more as it takes to hold it."""
    gpus = last.gpus
    while True:
        try:
            return plan(replace(question, gpus=gpus), catalog)
        except CostError:
            if gpus >= 64 * last.gpus:
                raise
            gpus *= 2


def _clean(one: Plan) -> float:
    """GPU-hours of clean steps, failures in."""
    return one.step.total.value * one.gpus / one.step.tokens * one.tokens / one.good.useful / 3600


def _overhead(idea: str, one: Plan) -> str:
    parts, total = one.step.parts, one.step.total.value
    if idea == "sparse experts":
        talk = parts["expert"].value / total
        uneven = parts["imbalance"].value / total
        return f"all-to-all {talk:.0%} and uneven loads {uneven:.0%} of the step"
    if idea == "latent attention":
        return "wider heads and two more products a layer in training"
    if idea == "grouped queries":
        return "fewer keys to choose from"
    if idea == "FP8":
        return "casts and scales in blocks; head, attention and router stay in bf16"
    if idea == "multi-token prediction":
        return "one more block and head in training"
    return ""


def _served(
    shape: Shape, gpu: Gpu, precision: Precision, context: int, rent: float
) -> tuple[int, int, float]:
    """GPUs of the cheapest replica, its batch, and US dollars a million tokens; infinity where no
    replica of MOST GPUs gives SPEED."""
    best = (0, 0, float("inf"))
    size = 1.0 if precision == "fp8" else 2.0
    weights = size * parameters(shape)["total_with_mtp"]
    gpus = 1
    while gpus <= MOST:
        for batch in _BATCHES:
            if serving_memory(shape, weights, context, batch, gpus=gpus).total > usable(gpu):
                break
            step, tokens = _decoding(shape, gpu, precision, context, batch, gpus)
            if tokens / step < SPEED:
                break
            price = gpus * rent / 3600 / (batch * tokens / step) * 1e6
            if price < best[2]:
                best = (gpus, batch, price)
        gpus *= 2
    return best


def _decoding(
    shape: Shape, gpu: Gpu, precision: Precision, context: int, batch: int, gpus: int
) -> tuple[float, float]:
    """Seconds of a step, and the tokens that it gives each sequence."""
    size = 1.0 if precision == "fp8" else 2.0
    guesses = 1 + (shape.mtp > 0)
    read_bytes = weight_bytes_read(shape, batch=batch * guesses, bytes_per=size)
    read_bytes += batch * cache_bytes(shape, context=context)
    work = batch * guesses * sum(decode_parts(shape, context=context).values())
    peak = (gpu.fp8_flops if precision == "fp8" else None) or gpu.bf16_flops
    step = max(read_bytes / gpu.bandwidth, work / peak) / (REACHED * gpus)
    if not shape.mtp:
        return step, 1.0
    draft = 1 + 1 / shape.layers  # the block runs once a step
    return step * draft, 1 + ACCEPTED


_CHECKS = {
    "dense, full attention, bf16": "benthic run laptop --name plain --set model.model_type=llama "
    "--set model.num_nextn_predict_layers=0 --set model.n_routed_experts=0",
    "latent attention": "benthic run laptop --name dense --set model.first_k_dense_replace=3 "
    "--set model.num_nextn_predict_layers=0",
    "grouped queries": "benthic run laptop --name grouped --set model.model_type=llama "
    "--set model.num_key_value_heads=2 --set model.num_nextn_predict_layers=0 "
    "--set model.n_routed_experts=0",
    "sparse experts": "benthic run laptop --name sparse --set model.num_nextn_predict_layers=0",
    "FP8": "benthic export runs/sparse --dtype fp8",
    "multi-token prediction": "benthic run laptop",
}


def show(
    config: str,
    *,
    gpu: str,
    gpus: int | None,
    tokens: str,
    seq: int | None,
    context: int | None,
    by: Literal["quality", "total"],
    rent: str,
    date: str,
    prices: Sequence[Path],
    why: bool,
    as_json: bool,
) -> int:
    """Print the waterfall and return the exit code; CostError for what cannot be."""
    from benthic.cost import page, thrift_page
    from benthic.cost.asking import rent_of

    catalog = load(prices)
    network = read(config)
    if context is not None and not 1 <= context <= 10**7:
        raise CostError(f"--context is {context}: give 1 to 10,000,000 tokens")
    amount = units.count(tokens, "tokens") if tokens else _usual_tokens(network)
    found = waterfall(
        network,
        catalog.gpu(gpu),
        catalog,
        tokens=amount,
        gpus=gpus,
        seq=seq,
        context=context,
        by=by,
        rent=rent_of(rent),
        date=date or None,
    )
    if as_json:
        print(json.dumps([to_dict(stage) for stage in found], indent=1))
    else:
        size = class_size(replace(network, mtp=0), by)
        page.print_page(
            thrift_page.story(network, found, by, size, context or CONTEXT, catalog, why=why)
        )
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
            "gpus_a_replica": stage.replica,
            "batch": stage.batch,
            "cache_bytes_per_sequence": stage.cache,
            "weight_bytes": stage.weights,
            "dollars_per_million_tokens": stage.price,
        },
        "check": stage.check,
    }
