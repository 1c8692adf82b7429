"""What a plan knows before anything is drawn: layout, step, goodput, and hours of real runs.

`basis` takes a question whose number of GPUs is settled, `fixed` says how many would do where that
number does not hold the network, and `held` takes more until it does, or fewer until they share a
step. What real runs lose against clean ones is `usual`'s to say.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, log2

from benthic.cost.catalog.load import Catalog, CostError, Gpu
from benthic.cost.network.flops import parameters
from benthic.cost.network.shape import Shape
from benthic.cost.planner.choose import Choice, TooFewSequences, fastest, usual_batch
from benthic.cost.planner.practice import Practice
from benthic.cost.planner.published_batch import published_batch
from benthic.cost.planner.usual import USUAL_SEQ, most_alike, usual_practice
from benthic.cost.planner.words import plural
from benthic.cost.step.calibrate import Constants, load_constants
from benthic.cost.step.goodput import Goodput, usual_goodput
from benthic.cost.step.layout import Layout, Optimizer, Precision, fault, nearest
from benthic.cost.step.memory import DoesNotFit, Fit, fits, memory, nearest_fit, usable
from benthic.cost.step.speed import Step, forward_flops_per_token, seconds, step_time
from benthic.cost.step.work import reach, reach_fp8

MEASURED = 1.1  # P90 over P50 of a run whose rate was measured: an assumption
MOST_GPUS = 1 << 18
RELEASED = (
    "released in fp8, so taken to be trained in it, as DeepSeek-V3 was; others, like Kimi K2, were "
    "trained in bf16 (--precision bf16)"
)
_FEW_STEPS = 100
# Bytes a parameter of moments and the master copy, sharded over all GPUs; Muon's at least.
_STATE: dict[Optimizer, float] = {"adamw": 12.0, "muon": 8.0}


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
    usual: Precision | None = None
    """what such a network is trained in, where `precision` is another choice; None: `precision`"""
    optimizer: Optimizer = "adamw"
    layout: Layout | None = None
    batch: float | None = None
    """tokens a step"""
    rent: float | None = None
    """US dollars a GPU-hour; None: the catalog's"""
    date: str | None = None
    """of the catalog's price"""
    pace: float | None = None
    """tokens a second and GPU that somebody measured, with this network on this GPU"""
    said: tuple[str, ...] = ()
    """what was assumed of the network already"""


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What a plan knows before anything is drawn; hours are GPU-hours of the whole run."""

    gpu: Gpu
    gpus: int
    tokens: float
    batch: int
    """tokens a step that the layout was to have; those that it has are the step's"""
    choice: Choice
    step: Step
    good: Goodput
    hours: Practice
    flops: float
    notes: tuple[str, ...]


def basis(question: Question, catalog: Catalog, gpus: int) -> Basis:
    """The run of `question.tokens` on so many GPUs; DoesNotFit where no layout of it fits."""
    gpu = catalog.gpu(question.gpu)
    shape, notes = question.shape, list[str]()
    seq, tokens = question.seq or USUAL_SEQ, question.tokens or 1e12
    constants = load_constants()
    batch, about, choice = _batched(question, catalog, gpu, gpus)
    step = step_time(shape, choice.layout, gpu, seq, constants)
    if tokens < 0.999 * step.tokens:
        raise CostError(
            f"{plural(round(tokens), 'token')} are less than one step of {step.tokens:,}: give "
            "more, or fewer --batch-tokens"
        )
    whole = abs(step.tokens / batch - 1) < 0.01
    if question.batch is None or not whole:
        rounded = "" if whole else ", rounded to what the layout divides"
        notes.append(f"{step.tokens / 1e6:.3g}M tokens a step, {about}{rounded} (--batch-tokens)")
    steps = steps_of(tokens, step)
    if steps < _FEW_STEPS:
        notes.append(f"{plural(steps, 'step')} only: --batch-tokens sets more")
    if not shape.learned_positions and 0 < shape.max_positions < seq:
        notes.append(
            f"sequences of {plural(seq, 'token')}, more than the {shape.max_positions:,} that "
            f"{shape.name}'s config has positions for"
        )
    good = usual_goodput(catalog, gpus)
    flops = 3 * forward_flops_per_token(shape, seq) * tokens
    clean = step.total.value * step.gpus * steps / good.useful / 3600
    precision = question.usual or question.precision
    hours = usual_practice(shape, gpu, precision).of(clean)
    like = most_alike(gpu).name
    if like != gpu.name:
        notes.append(f"no run on {gpu.name} is published: what real runs add is that of {like}")
    if question.pace is not None:
        middle = tokens / question.pace / good.useful / 3600
        off = hours.p50 / middle - 1
        notes.append(
            f"calibrated by your {_rate(question.pace)} tokens/s a GPU, {abs(off):.0%} "
            f"{'above' if off >= 0 else 'below'} the {_rate(question.pace / (1 + off))} planned "
            f"from published runs: {middle / clean:.2f} times the hours of the clean step"
        )
        most = _products(gpu, question.precision, constants) * tokens / flops
        if question.pace > most:
            notes.append(
                f"{_rate(question.pace)} tokens/s a GPU is more than the {_rate(most)} that large "
                "products alone reach: check the unit, the GPU and --seq"
            )
        hours = Practice(middle / MEASURED, middle, middle * MEASURED, middle / clean, [])
    return Basis(
        gpu=gpu,
        gpus=gpus,
        tokens=tokens,
        batch=batch,
        choice=choice,
        step=step,
        good=good,
        hours=hours,
        flops=flops,
        notes=tuple(notes),
    )


def steps_of(tokens: float, step: Step) -> int:
    """Steps of a run, the last one whole."""
    return max(1, ceil(tokens / step.tokens - 1e-3))


def _batched(question: Question, catalog: Catalog, gpu: Gpu, gpus: int) -> tuple[int, str, Choice]:
    """Tokens a step, whose they are, and the layout for them: the question's own, what the very
    network was published with where a layout shares that, or the usual ones."""
    usual = usual_batch(question.shape, gpus)
    if question.batch is not None:
        batch = round(question.batch)
        return batch, f"for the {batch:,} that you gave", _laid_out(question, gpu, gpus, batch)
    if question.layout is not None and question.layout.micro_batches > 1:
        choice = _laid_out(question, gpu, gpus, usual)
        return choice.layout.batch * (question.seq or USUAL_SEQ), "of your layout", choice
    run = published_batch(question.shape, catalog)
    if run is None:
        return usual, "usual at this size", _laid_out(question, gpu, gpus, usual)
    try:
        choice = _laid_out(question, gpu, gpus, run.tokens)
        return run.tokens, f"as {run.run} was published with", choice
    except CostError:
        about = f"usual at this size, since no layout here holds the {run.tokens:,} of {run.run}"
        return usual, about, _laid_out(question, gpu, gpus, usual)


def _laid_out(question: Question, gpu: Gpu, gpus: int, batch: int) -> Choice:
    """The layout that the question names, or the fastest."""
    if question.layout is not None:
        return _given(question.layout, question, gpu, gpus, batch, load_constants())
    seq = question.seq or USUAL_SEQ
    return _fastest(question.shape, gpu, gpus, seq, batch, question.precision, question.optimizer)


@lru_cache(maxsize=256)
def _fastest(
    shape: Shape,
    gpu: Gpu,
    gpus: int,
    seq: int,
    batch: int,
    precision: Precision,
    optimizer: Optimizer = "adamw",
) -> Choice:
    return fastest(shape, gpu, gpus, seq, batch=batch, precision=precision, optimizer=optimizer)


def _products(gpu: Gpu, precision: Precision, constants: Constants) -> float:
    """FLOP/s that large products reach."""
    if precision == "fp8":
        return constants.fp8_matmul * (gpu.fp8_flops or 0.0) * reach_fp8(gpu)
    return constants.matmul * gpu.peak * reach(gpu)[0]


def _rate(pace: float) -> str:
    return f"{pace:,.0f}" if pace >= 100 else f"{pace:.3g}"


def _given(
    layout: Layout, question: Question, gpu: Gpu, gpus: int, batch: int, constants: Constants
) -> Choice:
    """The layout that the question names, with as many micro-batches as make up the batch."""
    shape, seq = question.shape, question.seq or USUAL_SEQ
    if layout.gpus != gpus:
        closest = nearest(layout, shape, gpus, gpu.per_node).describe()
        text = (
            f"the layout {layout.describe()!r} takes {layout.gpus:,} GPUs and {gpus:,} are asked "
            f"for: the nearest layout that does is {closest!r}"
        )
        if not fault(layout, shape, layout.gpus, gpu.per_node):
            text += f", or set --count {layout.gpus}"
        raise CostError(text)
    layout.check(shape, gpus, gpu.per_node)
    if layout.micro_batches == 1:
        least = layout.data * layout.micro_batch
        rounds = round(batch / seq / least)
        if question.batch is not None and rounds < 1:
            raise CostError(
                f"the layout {layout.describe()!r} takes {plural(least, 'sequence')} of {seq:,} "
                f"tokens a step at least, {least * seq:,} in all, and --batch-tokens is "
                f"{batch:,}: raise it, or lower dp or mb"
            )
        layout = replace(layout, micro_batches=max(1, rounds))
    held = fits(shape, layout, gpu, seq)
    took = sum(seconds(shape, layout, gpu, seq, constants).values())
    return Choice(layout, took, held, 1, 0)


def check(question: Question, catalog: Catalog) -> None:
    """CostError for figures that contradict the network or the GPU."""
    shape, seq, gpu = question.shape, question.seq or USUAL_SEQ, catalog.gpu(question.gpu)
    if shape.learned_positions and seq > shape.max_positions > 0:
        raise CostError(
            f"{shape.name} has {shape.max_positions:,} learned positions and sequences of {seq:,} "
            f"tokens are asked for: set --seq {shape.max_positions} or less"
        )
    if question.batch is not None and question.batch < seq:
        raise CostError(
            f"a step of {question.batch:,.0f} tokens does not hold a sequence of {seq:,}: raise "
            "--batch-tokens or lower --seq"
        )
    peak = (gpu.fp8_flops or gpu.peak) if question.precision == "fp8" else gpu.peak
    most = peak / (3 * forward_flops_per_token(shape, seq))
    if question.pace is not None and question.pace > most:
        raise CostError(
            f"--pace is {_rate(question.pace)} tokens/s a GPU, and {gpu.name} at its peak reaches "
            f"no more than {_rate(most)} with this network: divide by the number of GPUs"
        )


def fixed(question: Question, catalog: Catalog) -> Basis:
    """On the GPUs that the question names; where none fits, how many would do."""
    gpu, gpus = catalog.gpu(question.gpu), question.gpus
    layout, seq = question.layout, question.seq or USUAL_SEQ
    if gpus is None:
        gpus = layout.gpus if layout else 1
    try:
        return basis(question, catalog, gpus)
    except CostError as error:
        near = _near(question, gpu, gpus, seq)
        if near is None or (layout is None and near.layout):  # a batch too small, no memory
            raise
        if near.layout:
            raise CostError(f"{error}; {near.sentence}") from None
        remedy = ": set --count, or take" if near.missing else " (--seq), or take"
        raise DoesNotFit(f"{near.sentence}{remedy} a GPU with more memory") from None


def _near(question: Question, gpu: Gpu, gpus: int, seq: int) -> Fit | None:
    """The nearest layout that fits; None where the given one fits or cannot be looked at."""
    layout = question.layout
    if layout is None:
        layout = Layout(data=gpus, precision=question.precision, optimizer=question.optimizer)
    try:
        if question.layout is not None:
            layout.check(question.shape, gpus, gpu.per_node)
            if memory(question.shape, layout, seq).total <= usable(gpu):
                return None
        return nearest_fit(question.shape, gpus, gpu, seq, layout=layout)
    except CostError:
        return None


def held(question: Question, catalog: Catalog, gpus: int) -> Basis:
    """On so many GPUs, on as many more as it takes to hold the network, or on as many fewer as
    share its step."""
    gpu = catalog.gpu(question.gpu)
    if question.layout is not None:
        return basis(question, catalog, gpus)
    tried = set[int]()
    least = _STATE[question.optimizer] * parameters(question.shape)["total_with_mtp"] / usable(gpu)
    gpus = max(gpus, nodes(least, gpu))
    while gpus <= MOST_GPUS and gpus not in tried:
        tried.add(gpus)
        try:
            return basis(question, catalog, gpus)
        except DoesNotFit:
            gpus = nodes(2 * gpus, gpu)
        except TooFewSequences:
            gpus = nodes(gpus / 2, gpu)
    raise CostError(
        f"no number of {gpu.name} up to {MOST_GPUS:,} holds {question.shape.name} and shares the "
        "batch: take a GPU with more memory, raise --batch-tokens, or lower --seq"
    )


def nodes(gpus: float, gpu: Gpu) -> int:
    """Whole nodes, their number a power of two or three quarters of one, so that layouts divide."""
    size = min(gpu.per_node, 8)
    if gpus <= 1:
        return 1
    if gpus <= size:
        return 1 << ceil(log2(gpus))
    power = 1 << ceil(log2(gpus / size))
    return size * (3 * power // 4 if gpus <= size * 3 * power / 4 and power >= 4 else power)
