"""Plans beside each other: the same run on several GPUs, and the networks that a budget trains."""

from collections.abc import Sequence

from benthic.cost.catalog.load import Catalog
from benthic.cost.page import Drawing, Page, Points, Prose, Section, Table, digits, share
from benthic.cost.planner.basis import Question
from benthic.cost.planner.plan import Plan
from benthic.cost.planner.plan_page import late, left_out, means, stale
from benthic.cost.planner.sizes import Size
from benthic.cost.planner.sources import sources
from benthic.cost.planner.words import count, dollars, price, span, time

_YEAR = 365  # days, beyond which a price is not of the market that newer ones are of


def compared(
    plans: Sequence[Plan],
    catalog: Catalog,
    failed: Sequence[tuple[str, str]] = (),
    *,
    why: bool = False,
) -> Page:
    """The same question on several GPUs, the best first and what comes too late last; `failed` are
    those without an answer."""
    solved = plans[0].solved == "tokens"
    ranked = sorted(plans, key=lambda p: (p.late, -p.tokens if solved else p.dollars.p50))
    rows = [
        (
            p.gpu.name,
            p.layout.precision,
            f"{p.gpus:,}",
            count(p.tokens),
            time(p.days.p50),
            count(p.gpu_hours.p50),
            dollars(p.dollars.p50) + "*" * (p.rent_age > _YEAR),
            span(p.dollars, dollars),
        )
        for p in ranked
    ]
    first = ranked[0]
    name = first.question.shape.name
    verdict = f"{late(first)}{name} on {count(first.tokens)} tokens is cheapest on "
    verdict += f"{first.gpu.name}: "
    if solved:
        verdict = f"{means(first.question)} {name} longest on {first.gpu.name}: "
        verdict += f"{count(first.tokens)} tokens, "
    verdict += f"{dollars(first.dollars.p50)}, {time(first.days.p50)} on {first.gpus:,}."
    right = ("GPUs", "tokens", "time", "GPU-hours", "rent")
    rents = ", ".join(
        f"{p.gpu.name} {price(p.rent.value)} ({p.rent.date or 'yours'})" for p in ranked
    )
    old = [p.gpu.name for p in ranked if p.rent_age > _YEAR]
    if old:
        verdict += f" Over a year old (*) is the price of {', '.join(old)}: --prices sets your own."
    blocks: list[Table | Prose | Points | Drawing] = [
        Table(
            columns=("GPU", "", *right, "P10 to P90"),
            rows=rows,
            right=right,
            note=f"Rent a GPU-hour: {rents}.",
        )
    ]
    if failed:
        blocks.append(Points(items=failed))
    return Page(
        title=f"Plan: {name}",
        verdict=verdict,
        about="Medians, and four of five runs between P10 and P90; each in the layout that is "
        "fastest there.",
        numbers=(),
        sections=[
            Section(title="The same run elsewhere", blocks=blocks),
            left_out(first, catalog),
            *([sources(ranked, catalog)] if why else []),
        ],
    )


def largest(found: Sequence[Size], asked: Question, catalog: Catalog, *, why: bool = False) -> Page:
    """Networks that a budget trains."""
    first = found[0]
    rows = [
        (
            count(size.parameters),
            digits(size.ratio, 3),
            count(size.plan.tokens),
            time(size.plan.days.p50),
            dollars(size.plan.dollars.p50),
            dollars(size.plan.dollars.p90),
            size.about,
        )
        for size in found
    ]
    right = ("parameters", "tokens each", "tokens", "time", "rent", "P90")
    more = ", or fewer for longer" if len(found) > 1 else ""
    return Page(
        title="Plan: how large a model",
        verdict=f"{means(asked)} {count(first.parameters)} parameters on "
        f"{count(first.plan.tokens)} tokens with {first.plan.gpus:,} {first.plan.gpu.name} in "
        f"{time(first.plan.days.p50)}{more}. "
        f"{_sure(first, asked)}{stale(first.plan)}",
        about="Dense networks of usual proportions; by the median run. Name a config or a preset "
        "for a network of your own.",
        numbers=(),
        sections=[
            Section(
                title="How large, how long",
                blocks=[Table(columns=(*right, "good for"), rows=rows, right=right)],
            ),
            left_out(first.plan, catalog),
            *([sources([size.plan for size in found], catalog)] if why else []),
        ],
    )


def _sure(size: Size, asked: Question) -> str:
    """The odds of the median run; what binds where it is the memory; and what is safe: hours go
    with the square of the size where tokens go with it."""
    text = f"That stays inside in {share(min(size.plan.odds.values()))} of such runs"
    if size.full:
        text += f", and no larger one fits {size.plan.gpus:,} GPUs"
    most = size.plan.over ** (1.0 if asked.tokens is not None else 0.5)
    if most <= 1:
        return f"{text}."
    safe = count(size.parameters / most)
    return f"{text}; with nine chances in ten it is about {safe} parameters."
