"""A plan as an answer: what it takes, how sure that is, why this layout, and what is not in it."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benthic.cost.catalog import Catalog
from benthic.cost.flops import parameters
from benthic.cost.memory import usable
from benthic.cost.page import Number, Page, Points, Prose, Section, Table, digits, money, share
from benthic.cost.plan import FAILURES, POWER, TARIFF, Plan, Size
from benthic.cost.speed import CLASSES
from benthic.cost.spread import Spread

_NOT_IN = (
    "Research, failed runs, data and people: development took 5.6 times the final run's compute "
    "for Olmo 3, 1.5 for the OLMo series, 3 to 10 at larger laboratories. 'benthic cost deepseek' "
    "shows what that makes of a headline."
)


def count(number: float) -> str:
    """671B, 14.8T, 512: three digits and a scale."""
    for scale, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * scale:
            return digits(number / scale, 3) + letter
    return digits(number, 3)


def story(plan: Plan, catalog: Catalog, *, why: bool = False) -> Page:
    """The plan for a terminal or a page."""
    days, dollars = plan.days.p50, plan.dollars.p50
    name = plan.question.shape.name
    work = f"{name} on {count(plan.tokens)} tokens takes {plan.gpus:,} {plan.gpu.name}"
    if plan.solved == "tokens":
        ends = money(plan.question.budget) if plan.question.budget else _span(plan.question.days)
        work = f"{ends} trains {name} on {count(plan.tokens)} tokens with {plan.gpus:,} "
        work += plan.gpu.name
    verdict = f"{work}: {_time(days)}, {count(plan.gpu_hours.p50)} GPU-hours, {money(dollars)}."
    sections = [_figures(plan), _layout(plan), _hours(plan), _more(plan)]
    if why:
        sections.append(_sources(plan, catalog))
    return Page(
        title=f"Plan: {name}",
        verdict=verdict,
        about=_about(plan),
        numbers=(
            Number(label="time", value=_time(days), note=_range(plan.days, _time)),
            Number(label="rent", value=money(dollars), note=_range(plan.dollars, money)),
        ),
        sections=sections,
    )


def _about(plan: Plan) -> str:
    counts = parameters(plan.question.shape)
    sparse = f", {count(counts['active'])} active" if counts["active"] < counts["total"] else ""
    return (
        f"{count(counts['total'])} parameters{sparse}; "
        f"{plan.layout.precision}, sequences of {plan.seq:,}. "
        "P10 to P90 holds four of five runs like this one."
    )


def _figures(plan: Plan) -> Section:
    rows = [
        _row("time", plan.days, _time),
        _row("GPU-hours", plan.gpu_hours, count),
        _row("rent", plan.dollars, money),
        _row("energy", plan.megawatt_hours, _energy),
        _row("its price (in the rent)", plan.energy_dollars, money),
        _row("tokens/s a GPU", plan.pace, lambda value: f"{value:,.0f}"),
        _row("MFU", plan.mfu, lambda value: f"{value:.0%}"),
    ]
    rent = plan.rent
    dated = f" of {rent.date}" if rent.date else ""
    return Section(
        title="What it takes",
        blocks=[
            Table(
                columns=("", "P10", "P50", "P90"),
                rows=rows,
                right=("P10", "P50", "P90"),
                note=f"Rent: ${rent.value:.2f} a GPU-hour{dated} (${rent.low:.2f} to "
                f"${rent.high:.2f}). MFU is of the dense bf16 peak, causal attention counted once.",
            )
        ],
    )


def _layout(plan: Plan) -> Section:
    choice, held = plan.choice, plan.choice.memory
    if choice.tried == 1:
        text = f"{plan.layout.describe()}, as you gave it."
    else:
        text = f"{plan.layout.describe()}: the fastest of {choice.tried:,} that divide"
        over = choice.faster_but_too_large
        text += f"; {over:,} faster ones do not fit the memory." if over else ", and it fits."
    parts = {
        "weights": held.weights,
        "gradients": held.gradients,
        "optimizer": held.optimizer,
        "activations": held.activations,
        "other": held.other,
    }
    listed = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in parts.items())
    memory = (
        f"{held.total / 1e9:.0f} of {usable(plan.gpu) / 1e9:.0f} GB on the fullest GPU: {listed}."
    )
    return Section(
        title="Layout",
        blocks=[Points(items=[("over the GPUs", text), ("memory", memory)])],
    )


def _hours(plan: Plan) -> Section:
    """Where the hours go: the clean step by class, then what comes on top."""
    step, clean = plan.step, plan.step.total.value
    parts = sorted(
        ((part.value, name) for name, part in step.parts.items() if part.value > 0.004 * clean),
        reverse=True,
    )
    rows = [
        (
            CLASSES[name],
            f"{seconds:.2f} s" if clean < 100 else f"{seconds:,.0f} s",
            share(seconds / clean),
        )
        for seconds, name in parts
    ]
    rest = clean - sum(seconds for seconds, _ in parts)
    if rest > 0.001 * clean:
        rows.append(("the rest", f"{rest:.2f} s", share(rest / clean)))
    rows.append(("a clean step", f"{clean:.2f} s", f"MFU {step.mfu.value:.0%}"))
    hours = clean * step.gpus / step.tokens * plan.tokens / 3600
    useful = plan.good.useful
    leans = ", ".join(name for name, _ in plan.practice.leans_on)
    text = (
        f"{count(hours)} GPU-hours of clean steps; {count(hours / useful)} with failures every "
        f"{_time(plan.good.job_mtbf / 86400)}, checkpoints every "
        f"{_time(plan.good.interval / 86400)} and restarts (goodput {useful:.1%}); "
        f"{count(plan.practice.p50)} by what real runs took, the most alike {leans}."
    )
    return Section(
        title="Where the hours go",
        blocks=[
            Table(
                columns=(f"{step.tokens / 1e6:,.1f}M tokens a step", "time", "share"),
                rows=rows,
                right=("time", "share"),
                total=True,
            ),
            Prose(text=text),
        ],
    )


def _more(plan: Plan) -> Section:
    items = [("assumed", note) for note in plan.assumptions]
    items.append(("not in it", _NOT_IN))
    return Section(title="Assumed, and left out", blocks=[Points(items=items)])


def _sources(plan: Plan, catalog: Catalog) -> Section:
    gpu = plan.gpu.name.lower()
    keys = [
        f"{gpu}.{part}"
        for part in (
            "bf16_flops",
            "fp8_flops",
            "memory",
            "bandwidth",
            "scale_up",
            "scale_out",
            "server_watts",
        )
    ]
    keys = [key for key in (*keys, *FAILURES, *POWER, TARIFF) if catalog.get(key)]
    lines = catalog.why(keys)
    rent = plan.rent
    lines.append(f"{rent.key} = {rent.value:g} {rent.unit}: {rent.source}. {rent.note}")
    items = [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]
    return Section(title="Sources", blocks=[Points(items=items)])


def compared(plans: Sequence[Plan]) -> Page:
    """The same question on several GPUs, cheapest first."""
    first = min(plans, key=lambda p: p.dollars.p50)
    rows = [
        (
            p.gpu.name,
            f"{p.gpus:,}",
            _time(p.days.p50),
            count(p.gpu_hours.p50),
            money(p.dollars.p50),
            f"{money(p.dollars.p10)} - {money(p.dollars.p90)}",
            f"{p.mfu.p50:.0%}",
            f"${p.rent.value:.2f}",
        )
        for p in sorted(plans, key=lambda p: p.dollars.p50)
    ]
    name = first.question.shape.name
    right = ("GPUs", "time", "GPU-hours", "rent", "P10 - P90", "MFU", "$/h")
    return Page(
        title=f"Plan: {name}",
        verdict=f"{name} on {count(first.tokens)} tokens is cheapest on {first.gpu.name}: "
        f"{money(first.dollars.p50)}, {_time(first.days.p50)} on {first.gpus:,}.",
        about="Medians, and four of five runs between P10 and P90; each in the layout that is "
        "fastest there.",
        numbers=(),
        sections=[
            Section(
                title="The same run elsewhere",
                blocks=[Table(columns=("GPU", *right), rows=rows, right=right)],
            )
        ],
    )


def largest(found: Sequence[Size]) -> Page:
    """Networks that a budget trains."""
    one = found[0].plan
    ends = money(one.question.budget) if one.question.budget else _span(one.question.days)
    rows = [
        (
            count(size.parameters),
            f"{size.ratio:g}",
            count(size.plan.tokens),
            f"{size.plan.gpus:,}",
            _time(size.plan.days.p50),
            money(size.plan.dollars.p50),
            size.about,
        )
        for size in found
    ]
    right = ("parameters", "tokens each", "tokens", "GPUs", "time", "rent")
    return Page(
        title="Plan: how large a model",
        verdict=f"{ends} trains {count(found[0].parameters)} parameters on "
        f"{count(found[0].plan.tokens)} tokens with {one.gpu.name}, or fewer for longer.",
        about="Dense networks of usual proportions; by the median run. Name a config or a preset "
        "for a network of your own.",
        numbers=(),
        sections=[
            Section(
                title="How large, how long",
                blocks=[Table(columns=(*right, "good for"), rows=rows, right=right)],
            ),
            _more(one),
        ],
    )


def to_dict(plan: Plan) -> dict[str, Any]:
    """Plain data: SI units, US dollars, shares of one."""
    spreads = {
        name: asdict(getattr(plan, name))
        for name in (
            *("days", "gpu_hours", "dollars", "megawatt_hours", "energy_dollars", "pace", "mfu"),
        )
    }
    held = plan.choice.memory
    return {
        "network": asdict(plan.question.shape),
        "parameters": parameters(plan.question.shape),
        "gpu": plan.gpu.name,
        "gpus": plan.gpus,
        "tokens": plan.tokens,
        "sequence": plan.seq,
        "solved": plan.solved or None,
        "layout": plan.layout.describe(),
        "layouts_tried": plan.choice.tried,
        "memory": asdict(held) | {"total": held.total, "usable": usable(plan.gpu)},
        "step": {
            "seconds": asdict(plan.step.total),
            "parts": {name: asdict(part) for name, part in plan.step.parts.items()},
            "tokens": plan.step.tokens,
            "mfu": asdict(plan.step.mfu),
        },
        "goodput": asdict(plan.good),
        "leans_on": [name for name, _ in plan.practice.leans_on],
        "rent": asdict(plan.rent),
        "assumptions": list(plan.assumptions),
        **spreads,
    }


def _row(name: str, found: Spread, text: Any) -> tuple[str, str, str, str]:
    return name, text(found.p10), text(found.p50), text(found.p90)


def _range(found: Spread, text: Any) -> str:
    return f"{text(found.p10)} to {text(found.p90)}"


def _time(days: float) -> str:
    """Days, or hours, minutes and seconds where those say more."""
    if days >= 730:
        return f"{days / 365:.1f} years"
    if days >= 2:
        return f"{digits(days, 2 if days < 10 else 3)} days" if days < 100 else f"{days:,.0f} days"
    hours = 24 * days
    if hours >= 2:
        return f"{hours:.0f} h" if hours >= 10 else f"{hours:.1f} h"
    minutes = 60 * hours
    return f"{minutes:.0f} min" if minutes >= 2 else f"{60 * minutes:.0f} s"


def _span(days: float | None) -> str:
    return f"{days:g} days" if days else ""


def _energy(megawatt_hours: float) -> str:
    if megawatt_hours >= 1000:
        return f"{digits(megawatt_hours / 1000, 3)} GWh"
    if megawatt_hours >= 1:
        return f"{digits(megawatt_hours, 3)} MWh"
    return f"{digits(1000 * megawatt_hours, 3)} kWh"
