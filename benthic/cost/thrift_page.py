"""The waterfall of ideas as an answer: training and serving apart, then how to check each."""

from collections.abc import Sequence

from benthic.cost.catalog import Catalog
from benthic.cost.flops import parameters
from benthic.cost.page import Number, Page, Points, Prose, Section, Table, digits, money
from benthic.cost.plan_page import count
from benthic.cost.shape import Shape
from benthic.cost.thrift import ACCEPTED, REACHED, SPEED, Stage


def story(
    shape: Shape,
    stages: Sequence[Stage],
    by: str,
    size: float,
    context: int,
    catalog: Catalog,
    *,
    why: bool = False,
) -> Page:
    """The stages for a terminal; `size` is the plain network's parameters."""
    first, last = stages[0], stages[-1]
    trains, serves = first.dollars / last.dollars, first.price / last.price
    tokens, gpu = last.plan.tokens, last.plan.gpu.name
    verdict = (
        f"{shape.name} trains on {count(tokens)} tokens for {money(last.dollars)}, a plain dense "
        f"model of its class for {money(first.dollars)}: {digits(trains, 2)} times. Decoding a "
        f"million tokens costs {money(last.price)} against {money(first.price)}: "
        f"{digits(serves, 2)} times."
    )
    sections = [
        _training(stages),
        _serving(stages, context),
        _price_of(stages),
        _checks(stages),
        _assumed(stages, by, size, why, catalog),
    ]
    return Page(
        title=f"Thrift: {shape.name}",
        verdict=verdict,
        about=f"On {gpu} at ${last.plan.rent.value:.2f} an hour. Each line adds one idea to the "
        "line above; what it saves is against that line.",
        numbers=(
            Number(label="training", value=f"{digits(trains, 2)}x", note="cheaper"),
            Number(label="decoding", value=f"{digits(serves, 2)}x", note="cheaper"),
        ),
        sections=sections,
    )


def _training(stages: Sequence[Stage]) -> Section:
    rows = []
    for before, stage in zip([None, *stages[:-1]], stages, strict=True):
        counts = parameters(stage.shape)
        sparse = counts["active"] < counts["total"]
        network = f"{count(counts['total'])}" + (f"/{count(counts['active'])}" if sparse else "")
        rows.append(
            (
                stage.idea,
                network,
                f"{stage.flops / 1e9:,.0f}" if stage.flops >= 1e9 else f"{stage.flops / 1e9:.2g}",
                count(stage.hours),
                money(stage.dollars),
                _saved(before.dollars, stage.dollars) if before else "",
            )
        )
    right = ("parameters", "GFLOP/token", "GPU-hours", "rent", "saves")
    return Section(
        title="Training",
        blocks=[Table(columns=("", *right), rows=rows, right=right)],
    )


def _serving(stages: Sequence[Stage], context: int) -> Section:
    rows = []
    for before, stage in zip([None, *stages[:-1]], stages, strict=True):
        rows.append(
            (
                stage.idea,
                _bytes(stage.weights),
                _bytes(stage.cache),
                f"{stage.replica:,}" if stage.replica else "none",
                f"{stage.batch:,}" if stage.replica else "",
                money(stage.price) if stage.replica else "",
                _saved(before.price, stage.price) if before and before.replica else "",
            )
        )
    right = ("weights", "cache", "GPUs", "batch", "a million", "saves")
    return Section(
        title="Serving: decoding",
        blocks=[
            Table(
                columns=("", *right),
                rows=rows,
                right=right,
                note=f"Cache of one sequence of {context:,} tokens. The cheapest replica that "
                f"gives each user {SPEED:.0f} tokens a second, at {REACHED:.0%} of bandwidth or "
                "peak: a floor, without prefill, queues and communication.",
            )
        ],
    )


def _price_of(stages: Sequence[Stage]) -> Section:
    items = [(stage.idea, stage.overhead) for stage in stages if stage.overhead]
    return Section(title="What each costs", blocks=[Points(items=items)])


def _checks(stages: Sequence[Stage]) -> Section:
    items = [(stage.idea, stage.check) for stage in stages if stage.check]
    text = (
        "Minutes on two cores each; compare bits per byte, time and size in the runs' pages. They "
        "show direction at 0.4M parameters, not the figures above. FP8 is storage here: compare "
        "the answers."
    )
    return Section(title="Check it yourself", blocks=[Points(items=items), Prose(text=text)])


def _assumed(stages: Sequence[Stage], by: str, size: float, why: bool, catalog: Catalog) -> Section:
    last = stages[-1]
    kind = "sqrt(total x active), a rule of thumb" if by == "quality" else "of equal total"
    items = [
        ("the plain model", f"{count(size)} parameters: {kind} (--by)"),
        (
            "real runs",
            f"every line with {last.plan.practice.p50 / _clean_hours(last):.2f} times the clean "
            "hours, as planned for the whole network",
        ),
    ]
    if last.shape.mtp:
        items.append(("look-ahead", f"{ACCEPTED:.0%} of second tokens accepted (V3 5.4.3)"))
    items += [("planned", note) for note in last.plan.assumptions]
    if why:
        rent = last.plan.rent
        items.append((rent.key, f"{rent.value:g} {rent.unit}: {rent.source}"))
        items += [
            (line.partition(" ")[0], line.partition(" ")[2])
            for line in catalog.why(
                f"{last.plan.gpu.name.lower()}.{part}"
                for part in ("bf16_flops", "bandwidth", "memory")
            )
        ]
    return Section(title="Assumed", blocks=[Points(items=items)])


def _clean_hours(stage: Stage) -> float:
    one = stage.plan
    seconds = one.step.total.value * one.gpus / one.step.tokens * one.tokens
    return seconds / one.good.useful / 3600


def _saved(before: float, after: float) -> str:
    change = 1 - after / before
    return f"{change:.0%}" if abs(change) >= 0.005 else "0%"


def _bytes(size: float) -> str:
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= scale:
            return f"{digits(size / scale, 3)} {unit}"
    return f"{size:,.0f} B"
