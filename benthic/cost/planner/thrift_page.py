"""The waterfall of ideas as an answer: training and serving apart, then how to check each."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isinf

from benthic.cost.catalog.load import Catalog
from benthic.cost.network.flops import parameters
from benthic.cost.network.shape import Shape
from benthic.cost.page import Number, Page, Points, Prose, Section, Table, digits, money
from benthic.cost.planner.basis import RELEASED
from benthic.cost.planner.plan_page import stale
from benthic.cost.planner.serving import ACCEPTED, REACHED, SERVICE
from benthic.cost.planner.sources import sources
from benthic.cost.planner.thrift import FP8, IDEAS, MTP, Stage
from benthic.cost.planner.words import count, dollars


@dataclass(frozen=True)
class Story:
    """What was asked and found; `size` is the plain network's parameters."""

    shape: Shape
    stages: Sequence[Stage]
    by: str
    size: float
    context: int
    speed: float


def page(story: Story, catalog: Catalog, *, why: bool = False) -> Page:
    """The stages for a terminal."""
    stages, shape = story.stages, story.shape
    first, last = stages[0], stages[-1]
    gpu = last.plan.gpu
    lacks = [idea for idea in IDEAS if idea not in {stage.idea for stage in stages}]
    about = (
        f"On {gpu.name} at ${last.plan.price:.2f} an hour, the plan's median. Each line adds "
        "one idea to the line above; what it saves is against that line, a minus is what it adds."
        f"{stale(last.plan)}"
    )
    if lacks:
        about += f" Not in it: {', '.join(lacks)}"
        about += f" ({gpu.name} has no fp8)." if FP8 in lacks and not gpu.fp8_flops else "."
    trains = first.dollars / last.dollars
    return Page(
        title=f"Thrift: {shape.name}",
        verdict=_verdict(story, trains),
        about=about,
        numbers=(
            Number(label="training", value=_times(trains), note="cheaper"),
            Number(label="decoding", value=_times(first.price / last.price), note="cheaper"),
        )
        if _serves(first) and _serves(last)
        else (Number(label="training", value=_times(trains), note="cheaper"),),
        sections=[
            section
            for section in (
                _training(stages),
                _serving(story),
                _price_of(stages),
                _checks(stages),
                _assumed(story),
                *([sources([stage.plan for stage in stages], catalog)] if why else []),
            )
            if section.blocks
        ],
    )


def _serves(stage: Stage) -> bool:
    return not isinf(stage.price)


def _times(ratio: float) -> str:
    return f"{digits(ratio, 2)}x"


def _verdict(story: Story, trains: float) -> str:
    first, last = story.stages[0], story.stages[-1]
    tokens = count(last.plan.tokens)
    cost = f"{story.shape.name} trains on {tokens} tokens for {dollars(last.dollars)}"
    if len(story.stages) == 1:
        served = f" and decodes a million for {_cents(last.price)}" if _serves(last) else ""
        return f"{cost}{served}; it is the plain model of its class, with none of the ideas in it."
    text = (
        f"{cost}, a plain dense model of its class for {dollars(first.dollars)}: {_way(trains)}. "
    )
    if not _serves(last):
        return f"{text}No replica of it decodes {story.speed:g} tokens a second for every user."
    text += f"Decoding a million tokens costs {_cents(last.price)} at least"
    if not _serves(first):
        return f"{text}; no replica of the plain one gives {story.speed:g} tokens a second."
    return f"{text}, against {_cents(first.price)}: {_way(first.price / last.price)}."


def _way(ratio: float) -> str:
    """How many times the plain model's cost is the network's."""
    times = digits(max(ratio, 1 / ratio), 2)
    if times == "1.0":
        return "as much"
    return f"{times} times" if ratio > 1 else f"it costs {times} times"


def _training(stages: Sequence[Stage]) -> Section:
    rows = []
    for before, stage in zip([None, *stages[:-1]], stages, strict=True):
        counts = parameters(stage.shape)
        sparse = counts["active"] < counts["total"]
        rows.append(
            (
                stage.idea,
                count(counts["total"]) + (f"/{count(counts['active'])}" if sparse else ""),
                digits(stage.flops / 1e9, 3),
                count(stage.hours),
                dollars(stage.dollars),
                _saved(before.dollars, stage.dollars) if before else "",
            )
        )
    right = ("parameters", "GFLOP/token", "GPU-hours", "rent", "saves")
    gpus = {stage.plan.gpus for stage in stages}
    many = f"{min(gpus):,}" if len(gpus) == 1 else f"{min(gpus):,} to {max(gpus):,}"
    return Section(
        title="Training",
        blocks=[
            Table(
                columns=("", *right),
                rows=rows,
                right=right,
                note=f"On {many} {stages[0].plan.gpu.name}, each line in the layout that is "
                "fastest for it.",
            )
        ],
    )


def _serving(story: Story) -> Section:
    rows = []
    for before, stage in zip([None, *story.stages[:-1]], story.stages, strict=True):
        served, both = stage.served, before and _serves(before) and _serves(stage)
        rows.append(
            (
                stage.idea,
                _bytes(stage.weights),
                _bytes(stage.cache),
                f"{served.gpus:,}" if served.gpus else "none",
                f"{served.batch:,}" if served.gpus else "",
                f"{served.pace:,.0f}" if served.pace >= 10 else f"{served.pace:.2g}",
                _cents(stage.price) if served.gpus else "",
                _saved(before.price, stage.price) if before and both else "",
            )
        )
    right = ("weights", "cache", "GPUs", "batch", "per GPU", "a million", "saves")
    return Section(
        title="Serving: decoding",
        blocks=[
            Table(
                columns=("", *right),
                rows=rows,
                right=right,
                note=f"Cache of one sequence of {story.context:,} tokens; tokens a second and GPU. "
                f"The cheapest replica that gives each user {story.speed:g} tokens a second, at "
                f"{REACHED:.0%} of bandwidth or peak: a floor, without prefill, queues and idle "
                "hours.",
            )
        ],
    )


def _price_of(stages: Sequence[Stage]) -> Section:
    items = [(stage.idea, stage.overhead) for stage in stages if stage.overhead]
    return Section(title="What each costs", blocks=[Points(items=items)] if items else [])


def _checks(stages: Sequence[Stage]) -> Section:
    items = [(stage.idea, stage.check) for stage in stages if stage.check]
    text = (
        "Minutes on two cores each; compare bits per byte, time and size in the runs' pages. They "
        "show direction at 0.4M parameters, not the figures above."
    )
    if any(stage.idea == FP8 for stage in stages):
        text += " FP8 is storage here: compare the answers."
    return Section(title="Check it yourself", blocks=[Points(items=items), Prose(text=text)])


def _assumed(story: Story) -> Section:
    last = story.stages[-1]
    gpu = last.plan.gpu
    items = []
    if len(story.stages) > 1:
        kind = "of equal total"
        if story.by == "quality":
            kind = "sqrt(total x active), a rule of thumb"
        kind = f"{kind} (--by)" if story.shape.experts else "as many as the network has"
        items.append(("the plain model", f"{count(story.size)} parameters: {kind}"))
    items.append(
        (
            "real runs",
            f"every line with {last.plan.practice.factor:.2f} times the "
            "clean hours, as planned for the whole network",
        )
    )
    if FP8 in {stage.idea for stage in story.stages}:
        items.append((FP8, RELEASED))
    if last.idea == MTP:
        items.append(("look-ahead", f"{ACCEPTED:.0%} of second tokens accepted (V3 5.4.3)"))
    if story.shape.name in ("deepseek-v3", "deepseek-r1") and gpu.name in ("H800-SXM", "H100-SXM"):
        items.append(
            (
                "a check",
                f"DeepSeek's own service decoded {SERVICE:,.0f} tokens/s a GPU over a day "
                f"(2025-03-01); this floor has {last.served.pace / SERVICE:.2g} times that",
            )
        )
    items += [("network", note) for note in story.shape.left_out]
    items += [("planned", note) for note in last.plan.assumptions]
    return Section(title="Assumed", blocks=[Points(items=items)])


def _saved(before: float, after: float) -> str:
    change = round(100 * (1 - after / before))
    return f"{change}%"


def _cents(price: float) -> str:
    """A price of a million tokens, with two digits where it is small."""
    return money(price) if price >= 0.1 else f"${price:.2g}"


def _bytes(size: float) -> str:
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= scale:
            return f"{digits(size / scale, 3)} {unit}"
    return f"{size:,.0f} B"
