"""What a training run will take: from network, GPUs and tokens to days, GPU-hours, energy, money.

The way: choose a layout (`choose`), time its step (`speed`), take away what failures and
checkpoints cost (`goodput`) and what real runs lose against clean steps (`practice`), multiply by
prices (`catalog`). P10, P50 and P90 come from one Monte Carlo over all of these, half of the draws
of each on either side of its value. The money's median is hours times rent where the rent's range
is even, and lies to the side to which that is wide: a page says both, and by how much they differ.
Solved the other way: tokens for a budget or for days, GPUs for a date. `sizes` asks how large.

Left out, and said so in every plan: research, failed runs, data and people, which cost several
times the final run (`benthic cost deepseek` shows how many).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date as Day
from math import floor, inf
from statistics import NormalDist

from benthic.cost.catalog import figures
from benthic.cost.catalog.load import Catalog, CostError, Figure, Gpu
from benthic.cost.page import money
from benthic.cost.planner.basis import (
    MOST_GPUS,
    Basis,
    Question,
    basis,
    check,
    fixed,
    held,
    nodes,
    steps_of,
)
from benthic.cost.planner.choose import Choice
from benthic.cost.planner.fewer import Fewer, fewer
from benthic.cost.planner.practice import TENTH, Practice
from benthic.cost.planner.words import given_days, plural, time
from benthic.cost.spread import Spread, spread
from benthic.cost.step.goodput import Goodput
from benthic.cost.step.layout import Layout
from benthic.cost.step.speed import Step, forward_flops_per_token

DRAWS = 2000
_TOKENS = 1e12  # of a trial, whose hours and dollars are then scaled
DAYS = 30.0  # that a run may take where nobody says how long or how many GPUs
LONGEST = 3650.0  # days of MOST_GPUS; beyond, a budget is a slip
STALE = 180  # days, beyond which a price is said to be old
USUAL_MOST = 1 << 16  # GPUs where nobody says: no published run took more
REACHED = 0.35  # of the peak: where the search for GPUs or sizes begins
POWER = ("avg_power_fraction", "pue")
TARIFF = "electricity_price"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An answer; every Spread is P10, P50, P90 of the same draws."""

    question: Question
    gpu: Gpu
    gpus: int
    tokens: float
    seq: int
    choice: Choice
    step: Step
    good: Goodput
    practice: Practice
    rent: Figure
    days: Spread
    gpu_hours: Spread
    dollars: Spread
    megawatt_hours: Spread
    energy_dollars: Spread
    pace: Spread
    """tokens a second and GPU over the run, failures included"""
    mfu: Spread
    """of the dense 16-bit peak, over the run"""
    odds: dict[str, float] = field(default_factory=dict)
    """share of the draws that stay within the budget, within the days, where they were given"""
    assumptions: tuple[str, ...] = ()
    solved: str = ""
    """what was not given and found: tokens, gpus, or nothing"""
    fewer: Fewer | None = None
    """of the GPUs that were named, where those finish earlier or cheaper than all"""

    @property
    def layout(self) -> Layout:
        return self.choice.layout

    @property
    def price(self) -> float:
        """US dollars a GPU-hour of the median run: above the rent's value where its range is."""
        return self.dollars.p50 / self.gpu_hours.p50

    @property
    def rent_age(self) -> int:
        """Days from the rent's date to the one that was asked for, or to today; 0: it has none."""
        today, asked = Day.today(), self.question.date
        if not self.rent.date:
            return 0
        until = min(today, figures.days(asked)[1]) if asked else today
        return max(0, (until - figures.days(self.rent.date)[1]).days)

    @property
    def late(self) -> bool:
        """Whether no number of GPUs that was tried is done in the days, by the median."""
        most = self.question.days
        return self.solved == "gpus" and most is not None and self.days.p50 > most

    @property
    def over(self) -> float:
        """What P90 takes over the budget or the days, of whichever it exceeds more; 0: neither was
        given."""
        limits = ((self.dollars, self.question.budget), (self.days, self.question.days))
        return max((found.p90 / most for found, most in limits if most is not None), default=0.0)

    @property
    def clean_hours(self) -> float:
        """GPU-hours of clean steps, without failures."""
        return self.step.total.value * self.step.gpus * self.steps / 3600

    @property
    def steps(self) -> int:
        """Whole ones."""
        return steps_of(self.tokens, self.step)


def plan(question: Question, catalog: Catalog) -> Plan:
    """Answer the question; CostError with the remedy where it has no answer."""
    gpu = catalog.gpu(question.gpu)
    rent = rent_of(question, catalog, gpu)
    notes = list[str]()
    if question.seq is None:
        seq = min(4096, question.shape.max_positions or 4096)
        notes.append(
            f"sequences of {plural(seq, 'token')}, as most pretraining has; --seq sets others"
        )
        question = replace(question, seq=seq)
    check(question, catalog)
    if question.tokens is None:
        return _tokens_for(question, catalog, gpu, rent, notes)
    if question.gpus is None and question.layout is None:
        return _gpus_for(question, catalog, gpu, rent, notes)
    known = fixed(question, catalog)
    one = _answer(question, known, catalog, rent, notes)
    return replace(one, fewer=fewer(question, known, catalog))


def rent_of(question: Question, catalog: Catalog, gpu: Gpu) -> Figure:
    """US dollars a GPU-hour: the question's own, or the catalog's of its date, which is no later
    than today."""
    date, today = question.date, Day.today()
    if date and figures.days(date)[0] > today:
        raise CostError(f"--date is {date}, of which no price is known yet: give one up to {today}")
    if question.rent is None:
        try:
            found = catalog.rent(gpu.name, date)
        except CostError as error:
            raise CostError(f"{error}, or give --rent") from None
        if found.low <= 0:
            raise CostError(
                f"{found.key} is {found.low:g} {found.unit} ({found.source}), and nothing is had "
                "for no money: give a rent above zero; what machines of one's own cost an hour is "
                "'benthic cost fleet'"
            )
        return found
    price = question.rent
    return Figure(f"rent.{gpu.name.lower()}", price, price, price, "USD/h", "yours", "", "own")


def _answer(
    question: Question,
    known: Basis,
    catalog: Catalog,
    rent: Figure,
    notes: Sequence[str],
    solved: str = "",
) -> Plan:
    gpu, gpus, tokens = known.gpu, known.gpus, known.tokens
    load, pue, tariff = (catalog.figure(key) for key in (*POWER, TARIFF))
    columns = _columns(known, rent, load, pue, tariff)
    limits = {"budget": ("dollars", question.budget), "days": ("days", question.days)}
    return Plan(
        question=question,
        gpu=gpu,
        gpus=gpus,
        tokens=tokens,
        seq=question.seq or 4096,
        choice=known.choice,
        step=known.step,
        good=known.good,
        practice=known.hours,
        rent=rent,
        odds={
            name: sum(value <= most for value in columns[column]) / DRAWS
            for name, (column, most) in limits.items()
            if most is not None
        },
        assumptions=(*notes, *known.notes),
        solved=solved,
        fewer=None,
        **{key: spread(column) for key, column in columns.items()},
    )


def median_dollars(known: Basis, rent: Figure) -> float:
    """The P50 of the rent, as `plan` has it: the median over draws of hours and prices."""
    hours = (_hours(known.hours, at) for at in _order("hours"))
    return spread([h * price for h, price in zip(hours, _drawn(rent), strict=True)]).p50


def _columns(
    known: Basis, rent: Figure, load: Figure, pue: Figure, tariff: Figure
) -> dict[str, list[float]]:
    """DRAWS values of each of a plan's spreads."""
    hours = [_hours(known.hours, at) for at in _order("hours")]
    prices, loads, overheads, tariffs = (_drawn(one) for one in (rent, load, pue, tariff))
    watts = known.gpu.server_watts
    energy = [h * watts * a * b / 1e6 for h, a, b in zip(hours, loads, overheads, strict=True)]
    return {
        "gpu_hours": hours,
        "days": [h / known.gpus / 24 for h in hours],
        "dollars": [h * price for h, price in zip(hours, prices, strict=True)],
        "megawatt_hours": energy,
        "energy_dollars": [1e3 * e * price for e, price in zip(energy, tariffs, strict=True)],
        "pace": [known.tokens / h / 3600 for h in hours],
        "mfu": [known.flops / (3600 * h) / known.gpu.peak for h in hours],
    }


def _order(name: str) -> list[float]:
    """DRAWS numbers, one in every part of 0 to 1, in an order of the name's own."""
    places = [(i + 0.5) / DRAWS for i in range(DRAWS)]
    random.Random(name).shuffle(places)
    return places


def _hours(hours: Practice, at: float) -> float:
    """Log-normal through P10, P50 and P90, each side with its own width."""
    deviate = NormalDist().inv_cdf(at)
    side = hours.p90 if deviate > 0 else hours.p10
    return hours.p50 * (side / hours.p50) ** (abs(deviate) / TENTH)


def _drawn(figure: Figure) -> list[float]:
    """Half of the draws on either side of the value, densest there, none beyond low and high."""
    scale = figure.si / figure.value if figure.value else 1.0
    low, value, high = figure.low * scale, figure.si, figure.high * scale
    return [
        low + (value - low) * (2 * at) ** 0.5
        if at < 0.5
        else high - (high - value) * (2 - 2 * at) ** 0.5
        for at in _order(figure.key.partition(".")[0])
    ]


def _gpus_for(
    question: Question, catalog: Catalog, gpu: Gpu, rent: Figure, notes: list[str]
) -> Plan:
    """The fewest whole nodes that are done in the days, by P50."""
    days = question.days or DAYS
    most = MOST_GPUS if question.days else USUAL_MOST
    tokens = question.tokens or 0.0
    flops = 3 * forward_flops_per_token(question.shape, question.seq or 4096) * tokens
    gpus = min(nodes(flops / (REACHED * gpu.peak * days * 86400), gpu), most)
    tried: dict[int, Basis] = {}
    for _ in range(12):
        known = held(question, catalog, gpus)
        tried[known.gpus] = known
        if known.gpus < gpus:  # more do not share the step
            break
        gpus = min(nodes(known.hours.p50 / 24 / days, gpu), most)
        if any(one <= gpus <= found.gpus for one, found in tried.items()) or gpus in tried:
            break
    in_time = [one for one in tried.values() if one.hours.p50 / one.gpus <= days * 24]
    if in_time:
        chosen = min(in_time, key=lambda one: one.gpus)
    else:
        chosen = min(tried.values(), key=lambda one: one.hours.p50 / one.gpus)
    if question.days is None:
        aim = f"finish in {DAYS:.0f} days" if in_time else f"come nearest to {DAYS:.0f} days"
        notes.append(f"as many GPUs as {aim}, at most {most:,} (--count, --days)")
    return _answer(question, chosen, catalog, rent, notes, "gpus")


def _tokens_for(
    question: Question, catalog: Catalog, gpu: Gpu, rent: Figure, notes: list[str]
) -> Plan:
    """Tokens that the budget, or the days on so many GPUs, buy at P50: all goes with tokens."""
    gpus, _ = means(question, gpu, rent, notes)
    asked = replace(question, tokens=_TOKENS)
    if question.gpus is None and question.layout is None:
        known = held(asked, catalog, gpus)
        if known.gpus != gpus:
            notes[-1] = f"{known.gpus:,} GPUs, as many as it takes to hold it (--count)"
            gpus = known.gpus
    else:
        known = fixed(asked, catalog)
    one = _answer(asked, known, catalog, rent, ())
    most = min(
        (question.budget or inf) / one.dollars.p50,
        (question.days or inf) / one.days.p50,
    )
    step = known.step
    steps = floor(most * steps_of(_TOKENS, step) + 1e-6)
    if steps < 1:
        raise CostError(
            f"that buys {_TOKENS * most:,.0f} tokens, less than one step of {step.tokens:,} of "
            f"{question.shape.name}: raise --budget or --days, or name a smaller network"
        )
    asked = replace(question, tokens=float(steps * step.tokens))
    return _answer(question, basis(asked, catalog, gpus), catalog, rent, notes, "tokens")


def means(question: Question, gpu: Gpu, rent: Figure, notes: list[str]) -> tuple[int, float]:
    """GPUs, and about the GPU-hours that budget and days allow."""
    if question.budget is None and question.days is None:
        raise CostError("the plan lacks an end: give --tokens, or --budget, or --days with --count")
    gpus = question.gpus
    if gpus is None and question.layout is not None:
        gpus = question.layout.gpus
    hours = question.budget / rent.value if question.budget is not None else inf
    if gpus is None:
        if question.budget is None:
            raise CostError("--days alone buys no tokens: give --count or --budget too")
        days = question.days or DAYS
        gpus = min(nodes(hours / (days * 24), gpu), MOST_GPUS)
        took = min(hours / 24 / gpus, question.days or inf)
        if took > LONGEST:
            raise CostError(
                f"{money(question.budget)} buy {hours:,.3g} GPU-hours of {gpu.name}, {time(took)} "
                f"of {gpus:,}, and a plan takes {time(LONGEST)} at most: lower --budget, or give "
                "--days or --count"
            )
        most = ", the most that a plan takes" if gpus == MOST_GPUS else ""
        notes.append(f"{gpus:,} GPUs{most}, for {given_days(took)} at most (--count)")
    if question.days is not None:
        hours = min(hours, question.days * 24 * gpus)
    return gpus, hours
