"""A plan as an answer: what it takes, how sure that is, why this layout, and what is not in it.

Several plans beside each other are `plan_tables`."""

from dataclasses import asdict
from typing import Any

from benthic.cost.catalog.load import Catalog
from benthic.cost.network.flops import parameters
from benthic.cost.page import (
    Page,
    Points,
    Prose,
    Section,
    Table,
    digits,
    money,
    share,
)
from benthic.cost.planner import plain
from benthic.cost.planner.basis import Question
from benthic.cost.planner.disclosed import disclosed
from benthic.cost.planner.plan import STALE, Plan
from benthic.cost.planner.sources import PROGRAMMES, lines, sources
from benthic.cost.planner.words import (
    count,
    dollars,
    energy,
    given_days,
    pace,
    plural,
    price,
    seconds_of,
    time,
)
from benthic.cost.spread import Spread
from benthic.cost.step.memory import usable
from benthic.cost.step.speed import CLASSES

_ENOUGH = 0.8  # goodput, below which the verdict says so


def story(plan: Plan, catalog: Catalog, *, why: bool = False) -> Page:
    """The plan for a terminal or a page."""
    name = plan.question.shape.name
    work = f"{name} on {count(plan.tokens)} tokens takes {plan.gpus:,} {plan.gpu.name}"
    if plan.solved == "tokens":
        work = f"{means(plan.question)} {name} on {count(plan.tokens)} tokens with "
        work += f"{plan.gpus:,} {plan.gpu.name}"
    verdict = (
        f"{late(plan)}{work}: {time(plan.days.p50)}, {count(plan.gpu_hours.p50)} GPU-hours, "
        f"{dollars(plan.dollars.p50)} by the median run{_odds(plan)}.{_sure(plan)}{_lost(plan)}"
        f"{stale(plan)}"
    )
    sections = [_figures(plan), _layout(plan), _hours(plan, catalog), left_out(plan, catalog)]
    if why:
        sections.append(sources([plan], catalog))
    return Page(
        title=f"Plan: {name}",
        verdict=verdict,
        about=_about(plan),
        numbers=(),
        sections=sections,
    )


def late(plan: Plan) -> str:
    """Where no number of GPUs meets the days."""
    if not plan.late:
        return ""
    days = given_days(plan.question.days or 0.0)
    return f"No number of GPUs that was tried is done in {days}. "


def stale(plan: Plan) -> str:
    """Where the rent is old at the date that was asked for."""
    if plan.rent_age <= STALE:
        return ""
    asked = plan.question.date
    return (
        f" The price, {price(plan.rent.value)} an hour, is of {plan.rent.date}, "
        f"{plan.rent_age:,} days {f'before {asked}' if asked else 'ago'}, and nothing newer is "
        "known: --rent sets another."
    )


def means(question: Question) -> str:
    """What there is to spend, up to the verb: $50,000 trains; 30 days train."""
    if question.budget is None:
        return f"{given_days(question.days or 0.0)} train"
    within = f" within {given_days(question.days)}" if question.days else ""
    return f"{money(question.budget)}{within} trains"


def _odds(plan: Plan) -> str:
    """How likely the limits hold that the question set beside the tokens."""
    if plan.solved == "tokens":
        return ""
    limits = {
        "budget": money(plan.question.budget or 0.0),
        "days": given_days(plan.question.days or 0.0),
    }
    said = [f"{share(odds)} within {limits[name]}" for name, odds in plan.odds.items()]
    return f"; {' and '.join(said)}" if said else ""


def _sure(plan: Plan) -> str:
    """Where tokens were solved for by the median run: the odds, P90, and what is safe."""
    if plan.solved != "tokens":
        return ""
    odds = min(plan.odds.values())
    p90 = [dollars(plan.dollars.p90)] * (plan.question.budget is not None)
    p90 += [time(plan.days.p90)] * (plan.question.days is not None)
    return (
        f" It stays inside in {share(odds)} of such runs, and P90 is {' and '.join(p90)}: with "
        f"nine chances in ten it is {count(plan.tokens / plan.over)} tokens."
    )


def _lost(plan: Plan) -> str:
    """Where failures take a large share of the hours."""
    useful = plan.good.useful
    if useful >= _ENOUGH:
        return ""
    return (
        f" Failures and checkpoints of {plan.gpus:,} GPUs leave only {share(useful)} of the hours "
        "to training."
    )


def _about(plan: Plan) -> str:
    counts = parameters(plan.question.shape)
    sparse = f", {count(counts['active'])} active" if counts["active"] < counts["total"] else ""
    return (
        f"{count(counts['total'])} parameters{sparse}; "
        f"{plan.layout.precision}, sequences of {plural(plan.seq, 'token')}. "
        "P10 to P90 holds four of five runs like this one."
    )


def _figures(plan: Plan) -> Section:
    rows = [
        _row("time", plan.days, time),
        _row("GPU-hours", plan.gpu_hours, count),
        _row("rent", plan.dollars, dollars),
        _row("energy", plan.megawatt_hours, energy),
        _row("electricity, part of the rent", plan.energy_dollars, dollars),
        _row("tokens/s a GPU", plan.pace, pace),
        _row("MFU", plan.mfu, share),
    ]
    peak = "bf16" if plan.gpu.has_bf16 else "fp16"
    return Section(
        title="What it takes",
        blocks=[
            Table(
                columns=("", "P10", "P50", "P90"),
                rows=rows,
                right=("P10", "P50", "P90"),
                note=f"{_priced(plan)} MFU is of the dense {peak} peak, causal attention counted "
                "once.",
            )
        ],
    )


def _priced(plan: Plan) -> str:
    """The price with its range, times the hours, and how far the median of the rent is from that:
    where the range lies to one side, so does the money."""
    rent, hours = plan.rent, plan.gpu_hours.p50
    dated = f" of {rent.date}" if rent.date else ""
    ends = f" ({price(rent.low)} to {price(rent.high)})" if rent.low < rent.high else ""
    text = (
        f"Rent: {price(rent.value)} a GPU-hour{dated}{ends}; {count(hours)} hours x "
        f"{price(rent.value)} = {dollars(hours * rent.value)}"
    )
    off = plan.dollars.p50 / (hours * rent.value) - 1
    if abs(off) < 0.005:
        return f"{text}."
    return (
        f"{text}, and the median rent is {share(abs(off))} {'above' if off > 0 else 'below'} that, "
        f"{price(plan.price)} an hour, as the range of the price lies."
    )


def _layout(plan: Plan) -> Section:
    choice, held = plan.choice, plan.choice.memory
    if choice.tried == 1:
        text = f"{plan.layout.describe()}, as you gave it."
    else:
        text = f"{plan.layout.describe()}: the fastest of {choice.tried:,} that divide"
        over = choice.faster_but_too_large
        faster = "1 faster one does" if over == 1 else f"{over:,} faster ones do"
        text += f"; {faster} not fit the memory." if over else ", and it fits."
    parts = {
        "weights": held.weights,
        "gradients": held.gradients,
        "optimizer": held.optimizer,
        "activations": held.activations,
        "other": held.other,
    }
    listed = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in parts.items())
    memory = (
        f"{held.total / 1e9:.0f} of {usable(plan.gpu) / 1e9:.0f} GB of 1e9 bytes on the fullest "
        f"GPU: what a program can have of the {plan.gpu.memory / 1e9:.0f} that it is sold with. "
        f"{listed[:1].upper()}{listed[1:]}."
    )
    return Section(
        title="Layout",
        blocks=[
            Points(
                items=[
                    ("over the GPUs", text),
                    *_fewer(plan),
                    ("memory", memory),
                    *plain.said(plan),
                ]
            )
        ],
    )


def _fewer(plan: Plan) -> list[tuple[str, str]]:
    """Where not all GPUs are best."""
    found = plan.fewer
    if found is None:
        return []
    text = (
        f"{found.gpus:,} of your {plan.gpus:,} divide in more ways and finish in "
        f"{time(found.days)} and {count(found.gpu_hours)} GPU-hours, the rest idle "
        f"(--count {found.gpus})"
    )
    return [("with fewer", text)]


def _hours(plan: Plan, catalog: Catalog) -> Section:
    """Where the hours go: the clean step by class, then what comes on top."""
    step, clean = plan.step, plan.step.total.value
    parts = sorted(
        ((part.value, name) for name, part in step.parts.items() if part.value > 0.004 * clean),
        reverse=True,
    )
    rows = [
        (
            CLASSES[name],
            seconds_of(seconds, clean),
            share(seconds / clean),
        )
        for seconds, name in parts
    ]
    rest = clean - sum(seconds for seconds, _ in parts)
    if rest > 0.001 * clean:
        rows.append(("the rest", seconds_of(rest, clean), share(rest / clean)))
    rows.append(("a clean step", seconds_of(clean, clean), f"MFU {share(step.mfu.value)}"))
    hours, useful = plan.clean_hours, plan.good.useful
    near = [name for name, _ in plan.practice.leans_on]
    real = f"what real runs took, the most alike {', '.join(near)}" if near else "your measurement"
    steps, verb = plural(plan.steps, "clean step"), "takes" if plan.steps == 1 else "take"
    text = (
        f"{steps} {verb} {count(hours)} GPU-hours; "
        f"{count(hours / useful)} with failures every "
        f"{time(plan.good.job_mtbf / 86400)}, checkpoints every "
        f"{time(plan.good.interval / 86400)}, restarts and stragglers (goodput {useful:.1%}); "
        f"{count(plan.practice.p50)}, x {plan.practice.factor:.2f}, by {real}."
    )
    said = _disclosed(plan, catalog)
    return Section(
        title="Where the hours go",
        blocks=[
            Table(
                columns=(f"{step.tokens / 1e6:,.1f}M tokens a step", "time", "share"),
                rows=rows,
                right=("time", "share"),
                total=True,
                note=f"A clean step takes {seconds_of(step.total.low, clean)} to "
                f"{seconds_of(step.total.high, clean)}, as what machines reach has a range.",
            ),
            Prose(text=text),
            *([Points(items=said)] if said else []),
        ],
    )


def _disclosed(plan: Plan, catalog: Catalog) -> list[tuple[str, str]]:
    """What was disclosed of the same network on the same GPU."""
    items = []
    for run in disclosed(plan, catalog):
        off = round(100 * (plan.gpu_hours.p50 / run.hours - 1))
        other = "" if abs(run.tokens / plan.tokens - 1) < 0.01 else f", of {count(run.tokens)}"
        said = f"{run.run}{other} tokens in proportion" if other else run.run
        text = f"{count(run.hours)} ({said}); the planned P50 is {off:+d}%"
        items.append(("disclosed", text))
    return items


def left_out(plan: Plan, catalog: Catalog) -> Section:
    """What was assumed, and what a plan has not in it."""
    items = [("network", note) for note in plan.question.said]
    items += [("assumed", note) for note in plan.assumptions]
    usual, olmo, series = (catalog.figure(key) for key in PROGRAMMES)
    text = (
        "Research, failed runs, data and people: all compute was "
        f"{digits(olmo.value, 2)} times the final runs' for Olmo 3, {digits(series.value, 2)} for "
        f"the OLMo series before, {digits(usual.low, 2)} to {digits(usual.high, 2)} at larger "
        "laboratories. 'benthic cost deepseek' shows what that makes of a headline."
    )
    items.append(("not in it", text))
    return Section(title="Assumed, and left out", blocks=[Points(items=items)])


def to_dict(plan: Plan, catalog: Catalog, *, why: bool = False) -> dict[str, Any]:
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
        "odds": plan.odds,
        "layout": plan.layout.describe(),
        "layouts_tried": plan.choice.tried,
        "fewer": asdict(plan.fewer) if plan.fewer else None,
        "memory": asdict(held) | {"total": held.total, "usable": usable(plan.gpu)},
        "plain_pytorch": {name: asdict(peak) for name, peak in plain.plain(plan).items()},
        "step": {
            "seconds": asdict(plan.step.total),
            "parts": {name: asdict(part) for name, part in plan.step.parts.items()},
            "tokens": plan.step.tokens,
            "mfu": asdict(plan.step.mfu),
        },
        "goodput": asdict(plan.good),
        "practice": plan.practice.factor,
        "leans_on": [name for name, _ in plan.practice.leans_on],
        "disclosed": [asdict(run) for run in disclosed(plan, catalog)],
        "rent": asdict(plan.rent) | {"days_old": plan.rent_age},
        "assumptions": [*plan.question.said, *plan.assumptions],
        **spreads,
        **({"sources": lines([plan], catalog)} if why else {}),
    }


def _row(name: str, found: Spread, text: Any) -> tuple[str, str, str, str]:
    return name, text(found.p10), text(found.p50), text(found.p90)
