"""What a training run will take: from network, GPUs and tokens to days, GPU-hours, energy, money.

The way: choose a layout (`choose`), time its step (`speed`), take away what failures and
checkpoints cost (`goodput`) and what real runs lose against clean steps (`practice`), multiply by
prices (`catalog`). P10, P50 and P90 come from one Monte Carlo over all of these. Solved the other
way: tokens for a budget or for days, GPUs for a date, or the largest network a budget trains well.

Left out, and said so in every plan: research, failed runs, data and people, which cost several
times the final run (`benthic cost deepseek` shows how many).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, exp, inf, log, sqrt

from benthic.cost.calibrate import Constants, load_constants
from benthic.cost.catalog import Catalog, CostError, Figure, Gpu
from benthic.cost.choose import Choice, fastest, usual_batch
from benthic.cost.flops import parameters
from benthic.cost.goodput import Goodput, goodput
from benthic.cost.layout import Layout, Precision
from benthic.cost.memory import fits
from benthic.cost.practice import TENTH, Practice, Traits, real_hours, usual_date
from benthic.cost.shape import Shape
from benthic.cost.speed import Step, forward_flops_per_token, seconds, step_time
from benthic.cost.spread import Spread, spread

DRAWS = 2000
DAYS = 30.0  # that a run may take where nobody says how long or how many GPUs
TOKENS_PER_PARAMETER = 20.0  # Hoffmann et al. 2022 (arXiv:2203.15556)
MEASURED = 1.1  # P90 over P50 of a run whose rate was measured: an assumption
FAILURES = ("gpu_mtbf", "checkpoint_seconds", "restart_seconds")
POWER = ("avg_power_fraction", "pue")
TARIFF = "electricity_price"


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked; None is for the planner to choose or to solve."""

    shape: Shape
    gpu: str
    gpus: int | None = None
    tokens: float | None = None
    days: float | None = None
    budget: float | None = None
    """US dollars of rent"""
    seq: int | None = None
    precision: Precision = "bf16"
    layout: Layout | None = None
    batch: float | None = None
    """tokens a step"""
    rent: float | None = None
    """US dollars a GPU-hour; None: the catalog's"""
    date: str | None = None
    """of the catalog's price"""
    pace: float | None = None
    """tokens a second and GPU that somebody measured, with this network on this GPU"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An answer; every Spread is P10, P50, P90 of the same draws."""

    question: Question
    gpu: Gpu
    gpus: int
    tokens: float
    seq: int
    batch: int
    """sequences a step"""
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
    """of the dense bf16 peak, over the run"""
    assumptions: tuple[str, ...] = ()
    solved: str = ""
    """what was asked for and found: tokens, gpus, or nothing"""

    @property
    def layout(self) -> Layout:
        return self.choice.layout


def plan(question: Question, catalog: Catalog) -> Plan:
    """Answer the question; CostError with the remedy where it has no answer."""
    gpu = catalog.gpu(question.gpu)
    notes: list[str] = []
    seq = question.seq or _sequence(question.shape, notes)
    rent = _rent(question, catalog, gpu)
    if question.tokens is not None and question.gpus is not None:
        return _answer(question, catalog, gpu, question.gpus, question.tokens, seq, rent, notes)
    if question.tokens is not None:
        return _gpus_for(question, catalog, gpu, question.tokens, seq, rent, notes)
    return _tokens_for(question, catalog, gpu, seq, rent, notes)


def _sequence(shape: Shape, notes: list[str]) -> int:
    seq = min(4096, shape.max_positions or 4096)
    notes.append(f"sequences of {seq:,} tokens, as most pretraining has; --seq sets others")
    return seq


def _rent(question: Question, catalog: Catalog, gpu: Gpu) -> Figure:
    if question.rent is None:
        return catalog.rent(gpu.name, question.date)
    price = question.rent
    return Figure(f"rent.{gpu.name.lower()}", price, price, price, "USD/h", "yours", "", "own")


@dataclass(frozen=True, kw_only=True)
class _Basis:
    """What a plan knows before anything is drawn; hours are GPU-hours of the whole run."""

    choice: Choice
    step: Step
    good: Goodput
    hours: Practice
    flops: float
    notes: tuple[str, ...]


def _basis(
    question: Question, catalog: Catalog, gpu: Gpu, gpus: int, tokens: float, seq: int
) -> _Basis:
    shape, notes = question.shape, list[str]()
    batch = round(question.batch or usual_batch(shape, gpus))
    if question.batch is None:
        notes.append(f"{batch / 1e6:.2g}M tokens a step, usual at this size (--batch-tokens)")
    constants = load_constants()
    choice = _choose(question, gpu, gpus, seq, batch, constants)
    step = step_time(shape, choice.layout, gpu, seq, constants)
    mtbf, checkpoint, restart = (catalog.figure(key).si for key in FAILURES)
    good = goodput(gpus, mtbf, checkpoint=checkpoint, restart=restart)
    flops = 3 * forward_flops_per_token(shape, seq) * tokens
    clean = step.total.value * step.gpus / step.tokens * tokens / good.useful / 3600
    if question.pace is not None:
        hours = _measured(question.pace, tokens, good, clean, notes)
    else:
        hours = real_hours(
            Traits(
                run=shape.name,
                org="",
                date=usual_date(gpu),
                active=parameters(shape)["active"],
                peak=gpu.peak,
                small=gpu.memory < 41e9,
                pod=gpu.name.startswith("TPU"),
                experts=shape.experts > 0,
                fp16=choice.layout.precision == "fp16",
                seq=seq,
                ideal_hours=flops / gpu.peak / 3600,
                clean_hours=clean,
            )
        )
    return _Basis(choice=choice, step=step, good=good, hours=hours, flops=flops, notes=tuple(notes))


def _answer(
    question: Question,
    catalog: Catalog,
    gpu: Gpu,
    gpus: int,
    tokens: float,
    seq: int,
    rent: Figure,
    notes: Sequence[str],
    solved: str = "",
) -> Plan:
    basis = _basis(question, catalog, gpu, gpus, tokens, seq)
    load, pue, tariff = (catalog.figure(key) for key in (*POWER, TARIFF))
    columns: dict[str, list[float]] = {}
    dice = random.Random(0)
    for _ in range(DRAWS):
        hours = _drawn_hours(dice, basis.hours)
        energy = hours * gpu.server_watts * _drawn(dice, load) * _drawn(dice, pue) / 1e6
        for key, value in (
            ("gpu_hours", hours),
            ("days", hours / gpus / 24),
            ("dollars", hours * _drawn(dice, rent)),
            ("megawatt_hours", energy),
            ("energy_dollars", energy * 1e3 * _drawn(dice, tariff)),
            ("pace", tokens / hours / 3600),
            ("mfu", basis.flops / (3600 * hours) / gpu.peak),
        ):
            columns.setdefault(key, []).append(value)
    return Plan(
        question=question,
        gpu=gpu,
        gpus=gpus,
        tokens=tokens,
        seq=seq,
        batch=basis.choice.layout.batch,
        choice=basis.choice,
        step=basis.step,
        good=basis.good,
        practice=basis.hours,
        rent=rent,
        assumptions=(*notes, *basis.notes),
        solved=solved,
        **{key: spread(column) for key, column in columns.items()},
    )


def _choose(
    question: Question, gpu: Gpu, gpus: int, seq: int, batch: int, constants: Constants
) -> Choice:
    shape, layout = question.shape, question.layout
    if layout is None:
        return fastest(
            shape,
            gpu,
            gpus,
            seq,
            batch=batch,
            precision=question.precision,
            constants=constants,
        )
    if layout.gpus != gpus:
        raise CostError(
            f"the layout {layout.describe()!r} takes {layout.gpus:,} GPUs and {gpus:,} are asked "
            f"for: set --count {layout.gpus} or another dp"
        )
    layout.check(shape, gpus, gpu.per_node)
    if layout.micro_batches == 1:
        rounds = max(1, round(batch / seq / (layout.data * layout.micro_batch)))
        layout = replace(layout, micro_batches=rounds)
    held = fits(shape, layout, gpu, seq)
    took = sum(seconds(shape, layout, gpu, seq, constants).values())
    return Choice(layout, took, held, 1, 0)


def _measured(
    pace: float, tokens: float, good: Goodput, clean: float, notes: list[str]
) -> Practice:
    """Hours by the user's own rate, failures added, in place of what published runs took."""
    hours = tokens / pace / good.useful / 3600
    notes.append(
        f"calibrated by your {pace:,.0f} tokens/s a GPU: {hours / clean:.2f} times the hours of "
        "the clean step"
    )
    return Practice(hours / MEASURED, hours, hours * MEASURED, [("your measurement", 1.0)])


def _drawn_hours(dice: random.Random, hours: Practice) -> float:
    """Log-normal through P10, P50 and P90, each side with its own width."""
    deviate = dice.gauss(0.0, 1.0)
    side = hours.p90 if deviate > 0 else hours.p10
    return hours.p50 * (side / hours.p50) ** (abs(deviate) / TENTH)


def _drawn(dice: random.Random, figure: Figure) -> float:
    if figure.low == figure.high:
        return figure.si
    scale = figure.si / figure.value if figure.value else 1.0
    return scale * dice.triangular(figure.low, figure.high, figure.value)


def _gpus_for(
    question: Question,
    catalog: Catalog,
    gpu: Gpu,
    tokens: float,
    seq: int,
    rent: Figure,
    notes: list[str],
) -> Plan:
    """The fewest whole nodes that are done in the days, by P50."""
    if question.layout is not None:
        gpus = question.layout.gpus
        return _answer(question, catalog, gpu, gpus, tokens, seq, rent, notes, "gpus")
    days = question.days
    if days is None:
        days = DAYS
        notes.append(f"as many GPUs as finish in {DAYS:.0f} days; --count or --days sets it")
    flops = 3 * forward_flops_per_token(question.shape, seq) * tokens
    gpus = _nodes(flops / (0.35 * gpu.peak * days * 86400), gpu)
    done: dict[int, float] = {}
    for _ in range(12):
        try:
            basis = _basis(question, catalog, gpu, gpus, tokens, seq)
        except CostError:
            if gpus > 1 << 17:
                raise
            gpus *= 2  # too few to hold it
            continue
        done[gpus] = basis.hours.p50 / gpus / 24
        wanted = _nodes(gpus * done[gpus] / days, gpu)
        if wanted in done:
            break
        gpus = wanted
    in_time = [count for count, took in done.items() if took <= days]
    gpus = min(in_time) if in_time else min(done, key=lambda count: done[count])
    return _answer(question, catalog, gpu, gpus, tokens, seq, rent, notes, "gpus")


def _nodes(gpus: float, gpu: Gpu) -> int:
    """Whole nodes, their number a power of two or three quarters of one, so that layouts divide."""
    size = min(gpu.per_node, 8)
    if gpus <= 1:
        return 1
    if gpus <= size:
        return 1 << ceil(log(gpus, 2))
    power = 1 << ceil(log(gpus / size, 2))
    return size * (3 * power // 4 if gpus <= size * 3 * power / 4 and power >= 4 else power)


def _tokens_for(
    question: Question, catalog: Catalog, gpu: Gpu, seq: int, rent: Figure, notes: list[str]
) -> Plan:
    """Tokens that the budget, or the days on so many GPUs, buy at P50."""
    gpus, hours = _means(question, gpu, rent, notes)
    tokens = _bought(question, catalog, gpu, gpus, seq, hours)
    return _answer(question, catalog, gpu, gpus, tokens, seq, rent, notes, "tokens")


def _means(question: Question, gpu: Gpu, rent: Figure, notes: list[str]) -> tuple[int, float]:
    """GPUs, and GPU-hours that budget and days allow."""
    if question.budget is None and question.days is None:
        raise CostError("the plan lacks an end: give --tokens, or --budget, or --days with --count")
    gpus = question.gpus
    if gpus is None and question.layout is not None:
        gpus = question.layout.gpus
    hours = question.budget / _median(rent) if question.budget is not None else inf
    if gpus is None:
        if question.budget is None:
            raise CostError("--days alone buys no tokens: give --count or --budget too")
        days = question.days or DAYS
        gpus = _nodes(hours / (days * 24), gpu)
        notes.append(f"{gpus:,} GPUs, which spend it in {days:.0f} days at most (--count)")
    if question.days is not None:
        hours = min(hours, question.days * 24 * gpus)
    return gpus, hours


def _bought(
    question: Question, catalog: Catalog, gpu: Gpu, gpus: int, seq: int, hours: float
) -> float:
    """Tokens of so many GPU-hours; the batch, and with it the pace, depends on them a little."""
    tokens = hours * 3600 * 0.35 * gpu.peak / (3 * forward_flops_per_token(question.shape, seq))
    for _ in range(3):
        tokens *= hours / _basis(question, catalog, gpu, gpus, tokens, seq).hours.p50
    return tokens


def _median(price: Figure) -> float:
    """Of the triangle that the price is drawn from."""
    low, mode, high = price.low, price.value, price.high
    if low == high:
        return mode
    below, above = mode - low, high - mode
    if below >= above:
        return low + sqrt((high - low) * below / 2)
    return high - sqrt((high - low) * above / 2)


@dataclass(frozen=True)
class Size:
    """A network that a budget trains, at so many tokens a parameter."""

    ratio: float
    about: str
    plan: Plan

    @property
    def parameters(self) -> int:
        return parameters(self.plan.question.shape)["total"]


def ratios() -> tuple[tuple[float, str], ...]:
    return (
        (TOKENS_PER_PARAMETER, "best loss for the compute (Hoffmann et al. 2022)"),
        (100.0, "cheaper to serve, as Llama 2 70B (29) to Llama 3 70B (214)"),
        (500.0, "small and long-trained, as Qwen2.5's and SmolLM's"),
    )


def _trains(question: Question, catalog: Catalog, ratio: float) -> bool:
    """Whether budget and days suffice for `ratio` tokens a parameter."""
    gpu = catalog.gpu(question.gpu)
    rent = _rent(question, catalog, gpu)
    seq = question.seq or 4096
    tokens = ratio * parameters(question.shape)["total"]
    gpus, hours = _means(question, gpu, rent, [])
    return _basis(question, catalog, gpu, gpus, tokens, seq).hours.p50 <= hours


def sizes(question: Question, catalog: Catalog) -> list[Size]:
    """The largest dense networks of usual proportions that the budget or the days train."""
    from benthic.cost.widths import from_numbers

    found = []
    for ratio, about in ratios():
        low, high = log(1e6), log(1e13)
        best: Question | None = None
        for _ in range(16):
            middle = exp((low + high) / 2)
            shape, _said = from_numbers(params=middle)
            tried = replace(question, shape=shape)
            try:
                enough = _trains(tried, catalog, ratio)
            except CostError:
                enough = False  # too large for the GPUs
            if enough:
                best, low = tried, log(middle)
            else:
                high = log(middle)
        if best:
            tokens = ratio * parameters(best.shape)["total"]
            found.append(Size(ratio, about, plan(replace(best, tokens=tokens, days=None), catalog)))
    if not found:
        raise CostError("the budget trains no network at all: raise it, or take a cheaper GPU")
    return found
