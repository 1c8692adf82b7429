"""How large a dense network a budget, or so many days on so many GPUs, trains well.

The run's tokens are so many a parameter (`RATIOS`), or those that are given. Hours and rent, both
by the median run, grow with the square of the size at a fixed ratio, in proportion at fixed tokens;
Newton's steps on the logarithm of what is tighter, kept between what was seen to suffice and what
was not, find the size within 1 %, from below: no answer takes more than there is. Where the GPUs'
memory ends before the money, the answer is what they hold, and says so.
"""

from dataclasses import dataclass, replace
from math import exp, log, sqrt

from benthic.cost.catalog.load import Catalog, CostError, Figure
from benthic.cost.network.flops import parameters
from benthic.cost.network.widths import from_numbers
from benthic.cost.planner.basis import Basis, Question, basis
from benthic.cost.planner.plan import REACHED, Plan, means, median_dollars, plan, rent_of
from benthic.cost.planner.words import plural
from benthic.cost.step.memory import DoesNotFit

RATIOS = (
    (20.0, "best loss for the compute (Hoffmann et al. 2022)"),  # arXiv:2203.15556
    (100.0, "cheaper to serve, as Llama 2 70B (29) to Llama 3 70B (214)"),
    (500.0, "small and long-trained, as Qwen2.5's and SmolLM's"),
)
_SMALLEST, _LARGEST = 1e6, 1e13
_CLOSE = 0.005  # of the hours
_TRIALS = 14


@dataclass(frozen=True)
class Size:
    """A network that a budget trains, at so many tokens a parameter."""

    ratio: float
    about: str
    plan: Plan
    full: bool
    """whether the GPUs hold no larger one, and budget or days would do for more"""

    @property
    def parameters(self) -> int:
        return parameters(self.plan.question.shape)["total"]


def sizes(question: Question, catalog: Catalog) -> list[Size]:
    """The largest dense networks of usual proportions that the budget or the days train; CostError
    where there are none. The question's own shape is not looked at."""
    gpu = catalog.gpu(question.gpu)
    rent = rent_of(question, catalog, gpu)
    notes = list[str]()
    gpus, hours = means(question, gpu, rent, notes)
    question = replace(question, gpus=gpus, seq=question.seq or 4096, said=())
    tokens = question.tokens
    asked = ((None, "the tokens that you gave"),) if tokens is not None else RATIOS
    found = []
    for ratio, about in asked:
        shaped, full = _largest(question, catalog, rent, hours, ratio)
        if shaped:
            one = plan(shaped, catalog)
            one = replace(one, assumptions=(*notes, *one.assumptions))
            each = ratio or one.tokens / parameters(shaped.shape)["total"]
            more = f"; no larger one fits {plural(gpus, 'GPU')}" if full else ""
            found.append(Size(each, about + more, one, full))
    if not found:
        raise CostError(
            f"{hours:,.3g} GPU-hours of {gpu.name} train no network of {_SMALLEST / 1e6:.0f}M "
            "parameters or more: raise the budget or the days, or lower the tokens"
        )
    return found


def _largest(
    question: Question, catalog: Catalog, rent: Figure, hours: float, ratio: float | None
) -> tuple[Question | None, bool]:
    """The question with the largest network that budget and days train, about `hours`; and whether
    it is the memory that a larger one lacks."""
    low, high, full = log(_SMALLEST), log(_LARGEST), False
    best: Question | None = None
    flops = hours * 3600 * REACHED * catalog.gpu(question.gpu).peak
    guess = sqrt(flops / 6 / ratio) if ratio else flops / 6 / (question.tokens or 1.0)
    at = min(max(log(guess), low), high)
    for _ in range(_TRIALS):
        tried = _shaped(question, exp(at), ratio)
        known = _known(tried, catalog)
        if known is None:
            high, full = at, True
            following = max(at - 0.7, (low + at) / 2)
        else:
            over = _over(tried, known, rent)
            if over <= 0:
                best, low = tried, at
                if over >= -_CLOSE:
                    return best, False
            else:
                high, full = at, False
            following = at - (over + _CLOSE / 2) / (2 if ratio else 1)
        if not low < following < high:
            following = (low + high) / 2
        if high - low < _CLOSE / 2:
            break
        at = following
    return best, full and best is not None


def _shaped(question: Question, params: float, ratio: float | None) -> Question:
    shape, _ = from_numbers(params=params)
    tokens = ratio * parameters(shape)["total"] if ratio else question.tokens
    return replace(question, shape=shape, tokens=tokens)


def _over(question: Question, known: Basis, rent: Figure) -> float:
    """The logarithm of the median run over the tighter of budget and days."""
    taken = []
    if question.budget is not None:
        taken.append(median_dollars(known, rent) / question.budget)
    if question.days is not None:
        taken.append(known.hours.p50 / known.gpus / 24 / question.days)
    return log(max(taken))


def _known(question: Question, catalog: Catalog) -> Basis | None:
    """None where the network is too large for the GPUs."""
    try:
        return basis(question, catalog, question.gpus or 1)
    except DoesNotFit:
        return None
