"""How sure the cost of the whole programme is: its range, on both bases, and what moves it most.

The programme is all compute that led to the final run, and its people. Its size is known through
the final run's share, measured at other laboratories only; so the least and the most stand beside
P10 to P90, and each is told at the owner's rate and at rent.
"""

from collections.abc import Callable

from benthic.cost.cases import published
from benthic.cost.cases.press import Figures, Spreads
from benthic.cost.cases.published import Case
from benthic.cost.page import (
    Drawing,
    Points,
    Prose,
    Section,
    Table,
    bars,
    digits,
    money,
    share,
    whole,
)


def programme(case: Case, f: Figures, spread: Spreads, drawn: bool) -> Section:
    """The section; `drawn` for a page with drawings."""
    least, most = published.programme_range(case)
    final = case.inputs["programme.final_share"]
    found = spread["programme.multiple"]
    prose = (
        f"The headline says of itself that it leaves research and ablations out. Where the final "
        f"run is {share(final.value)} of all compute (measured for Olmo 3; {share(final.low)} to "
        f"{share(final.high)} at other laboratories), the programme took "
        f"{digits(f['programme.hours'] / 1e6, 3)}M H800-hours, {share(f['programme.of_pool'])} of "
        f"the H800s' hours, so it fits. With people it comes to {money(f['programme.cost'])}, "
        f"{digits(f['programme.multiple'], 3)} times the headline: P10 "
        f"{digits(found.p10, 3)}, P50 {digits(found.p50, 3)}, P90 {digits(found.p90, 3)} times. "
        "With the final run's share, people and pay all to one side, "
        f"{whole(least['programme.multiple'])} to "
        f"{whole(most['programme.rented_multiple'])} times: "
        f"{_ends('programme.cost', least, most, money)} at the owner's cost, "
        f"{_ends('programme.multiple', least, most)} times; "
        f"{_ends('programme.rented', least, most, money)} at the rent, "
        f"{_ends('programme.rented_multiple', least, most)} times."
    )
    data = (
        f"Data is R1's {whole(case.inputs['r1.data_hours'].value)} hours of making it; what "
        "crawling, filtering and buying the text of pretraining cost was never disclosed, "
        "and is not in here."
    )
    blocks: list[Table | Prose | Points | Drawing] = [Prose(text=prose), Prose(text=data)]
    moved = published.swings(case, "programme.cost")[:7]
    names = {swing.key: _input_name(swing.key) for swing in moved}
    if drawn:
        base = f["programme.cost"]
        rows = []
        for s in moved:
            low, high = sorted((s.at_low, s.at_high))
            ends = f"{digits(low / 1e6, 3)} - {digits(high / 1e6, 3)}M"
            rows.append((names[s.key], ends, [(low, base, "less"), (base, high, "step")]))
        caption = (
            f"Each input alone from its low to its high end, the rest at their values; the colours "
            f"meet at {money(base)}."
        )
        picture = bars("What moves the programme's cost", caption, rows)
        blocks.append(
            Drawing(title="What moves the programme's cost", drawing=picture, caption=caption)
        )
    else:
        columns = ("what moves it", "at its low", "at its high")
        told = [(names[s.key], money(s.at_low), money(s.at_high)) for s in moved[:5]]
        blocks.append(Table(columns=columns, right=columns[1:], rows=told))
    return Section(title="How sure the programme is", blocks=blocks)


def _ends(
    key: str, least: Figures, most: Figures, text: Callable[[float], str] = lambda n: digits(n, 2)
) -> str:
    return f"{text(least[key])} to {text(most[key])}"


_INPUTS = {
    "programme.final_share": "the final run's share of compute",
    "programme.pay": "a person-year",
    "programme.people": "people",
    "h800.upkeep": "an H800's upkeep",
    "h800.chip": "an H800's price",
    "server.hopper": "its server's price",
}


def _input_name(key: str) -> str:
    return _INPUTS.get(key, key)
