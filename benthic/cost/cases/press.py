"""What was printed about DeepSeek's money, held against what follows from the case's file.

The blind bottom-up of the running cost, what the press left out or mixed, what the published sum
leaves out itself, computed against printed, and where every figure is from.
"""

from collections.abc import Mapping

from benthic.cost.cases import published
from benthic.cost.cases.published import Case
from benthic.cost.catalog.load import Figure
from benthic.cost.catalog.origins import origin
from benthic.cost.page import (
    Drawing,
    Origins,
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
from benthic.cost.spread import Spread

Figures = Mapping[str, float]
Spreads = Mapping[str, Spread]

POOLS = {"a100": "A100", "h20": "H20", "h800": "H800", "h100": "H100"}
CHECKS = {
    "hours": ("H800-hours of the final run", "run.hours"),
    "pretrain": ("its pretraining at the rent", "run.pretrain_cost"),
    "days": ("days of it on its H800s", "run.days"),
    "headline": ("headline", "headline.cost"),
    "r1": ("R1, on top of V3", "r1.cost"),
    "first_capex": ("bought, as first printed", "first.capex"),
    "first_opex": ("running it, as first printed", "first.opex"),
    "capex": ("bought, repaired", "fleet.capex"),
    "opex": ("running it, repaired", "fleet.opex"),
    "fleet": ("the fleet", "fleet.cost"),
    "per_year": ("the fleet, a year", "fleet.per_year"),
    "hopper_capex": ("bought, without A100s", "hopper.capex"),
    "hopper_per_year": ("a year, without A100s", "hopper.per_year"),
    "hoppers": ("Hoppers", "hopper.count"),
    "gpu_spend": ("GPUs alone, without H20s", "chips.without_h20"),
    "serving_day": ("a day of serving", "serving.day"),
    "income": ("its income at list price", "serving.income"),
}


def blind(case: Case, f: Figures, drawn: bool) -> Section:
    low, high = published.blind_range(case)
    found = published.blind_spread(case)
    rows = [
        (name, money(f[f"{pool}.opex"]), money(f[f"blind.{pool}"]), _off(f, pool))
        for pool, name in POOLS.items()
    ]
    rows.append(
        ("together", money(f["fleet.opex"]), money(f["blind.opex"]), share_change(f["blind.off"]))
    )
    table = Table(
        columns=("pool", "the table", "from below", "off"),
        right=("the table", "from below", "off"),
        rows=rows,
        total=True,
    )
    place = "inside" if found.p10 <= f["fleet.opex"] <= found.p90 else "outside"
    prose = (
        f"Hosting, energy and maintenance of {digits(f['blind.kw'] / 1000, 3)} MW of servers, at "
        f"prices of the literature, come to {money(f['blind.opex'])} where the table has "
        f"{money(f['fleet.opex'])}: P10 {money(found.p10)}, P50 {money(found.p50)}, P90 "
        f"{money(found.p90)}; {money(low)} to {money(high)} with all five inputs of the site to "
        f"one side. It is computed blind and never fitted; the table lies {place} of P10 to P90. "
        "Sites in China are said to be cheaper than these prices."
    )
    blocks: list[Table | Prose | Points | Drawing] = [Prose(text=prose), table]
    if drawn:
        line = (found.p50 * 0.998, found.p50 * 1.002, "total")
        mark = (f["fleet.opex"] * 0.998, f["fleet.opex"] * 1.002, "total")
        spans = [(low, high, "pale"), (found.p10, found.p90, "guess"), line]
        rows_drawn = [
            ("from below", f"{money(low)} - {money(high)}", spans),
            ("the table", money(f["fleet.opex"]), [mark]),
        ]
        caption = (
            "One scale from zero. Pale: all inputs of the site to one side; darker: P10 to P90; "
            "the strokes: P50, and the table."
        )
        picture = bars("Running cost, two ways", caption, rows_drawn)
        blocks.append(Drawing(title="Running cost, two ways", drawing=picture, caption=caption))
    return Section(title="The running cost, checked from below", blocks=blocks)


def share_change(value: float) -> str:
    return f"{100 * value:+.1f}%".replace("-0.0", "+0.0")


def _off(f: Figures, pool: str) -> str:
    return share_change(f[f"blind.{pool}"] / f[f"{pool}.opex"] - 1)


def mixed(case: Case, f: Figures) -> Section:
    v = case.values()
    years = f"{v['fleet.years']:g}"
    items = (
        (
            money(v["printed.headline"]),
            "is the final run's hours at a rent. Its authors say that research and ablations are "
            "not in it; people, data, failed runs and machines are not either.",
        ),
        (
            money(f["fleet.capex"]),
            f"bought {whole(f['fleet.count'])} GPUs with their servers, {whole(v['a100.count'])} "
            f"A100s of an older cluster among them ({money(f['a100.capex'])}). Without those, "
            f"{money(f['hopper.capex'])}.",
        ),
        (
            money(f["fleet.opex"]),
            f"runs them for {years} years; it is neither a year's bill nor money spent already. "
            f"With what was bought it is {money(f['fleet.per_year'])} a year, "
            f"{money(f['hopper.per_year'])} without A100s: the critic's "
            f"{money(v['printed.per_year'])} and {money(v['printed.hopper_per_year'])}.",
        ),
        (
            f"{money(v['printed.first_capex'])}, {money(v['printed.first_opex'])}",
            "as first printed left the H100s out: the sum of the other three columns is "
            f"{money(f['first.capex'])} and {money(f['first.opex'])} (columns are rounded). The "
            f"H100s add {money(f['h100.capex'])} and {money(f['h100.opex'])}. The same total added "
            f"up prices of single GPUs, to ${whole(f['first.chips'])} and "
            f"${whole(f['first.servers'])}, which mean nothing.",
        ),
        (
            f"over {money(v['printed.gpu_spend'])}",
            f"on GPUs fits the GPUs alone, without servers and without H20s: "
            f"{money(f['chips.without_h20'])}.",
        ),
        (
            f"{whole(v['printed.hoppers'])} Hoppers",
            f"are {whole(v['h20.count'])} H20s for the most part, ordered rather than installed, "
            f"each with {share(v['h20.tflops'] / v['h100.tflops'])} of an H100's arithmetic: "
            f"together as much as {whole(f['hopper.h100s'])} H100s.",
        ),
        (
            f"{money(v['programme.top_pay'])} a year",
            f"is a highest offer. Paid to all {whole(v['programme.people'])}, it would be "
            f"{money(f['programme.top_bill'])} a year, {share(_top(f))} of the fleet's yearly "
            f"cost; {money(v['programme.pay'])} with all charges is used here.",
        ),
        (
            "A100s, by their owner",
            f"cost {v['fireflyer.cny'] / 1e9:g} billion CNY, {money(f['fireflyer.usd'])}, "
            f"{share(f['fireflyer.below'])} below the table's column.",
        ),
        (
            f"R1 for {money(v['printed.r1'])}",
            f"is {whole(f['r1.hours'])} hours on top of V3's, {share(f['r1.share'])} more; it has "
            "no meaning without V3 under it.",
        ),
        (
            f"serving, {share(f['serving.margin'])} profit",
            f"is income at R1's list prices over rent: ${whole(f['serving.day'])} a day for "
            f"{digits(v['serving.nodes'], 5)} nodes of eight. The tokens and speeds disclosed need "
            f"{digits(f['serving.prefill_nodes'], 3)} nodes to read and "
            f"{digits(f['serving.decode_nodes'])} to write, {digits(f['serving.derived_nodes'])} "
            f"together, {share_change(f['check.nodes'])} off. Rent then is "
            f"${f['serving.in_cost']:.2f} for a million tokens read and "
            f"${f['serving.out_cost']:.2f} written.",
        ),
    )
    return Section(title="What the press left out or mixed", blocks=[Points(items=items)])


def _top(f: Figures) -> float:
    return f["programme.top_bill"] / f["fleet.per_year"]


def left_out(case: Case, f: Figures) -> Section:
    capital = case.inputs["finance.cost_of_capital"].value
    rows = [
        ("the published sum", money(f["fleet.cost"])),
        (f"+ capital at {share(capital)} a year", money(f["finance.capital"])),
        ("+ the network between servers", money(f["finance.fabric"])),
        ("+ people", money(f["finance.staff"])),
        ("= with all of it", money(f["finance.everything"])),
    ]
    note = (
        f"Bought at once, the machines are {money(f['finance.straight'])} a year spread evenly, "
        f"{money(f['finance.annual'])} with capital, {money(f['finance.annual_resold'])} where "
        f"{share(case.inputs['finance.residual'].value)} is got back at the end."
    )
    table = Table(columns=("line", "cost"), right=("cost",), rows=rows, total=True, note=note)
    return Section(title="What the published sum leaves out itself", blocks=[table])


def checks(case: Case, f: Figures) -> Section:
    rows = []
    for name, (label, key) in CHECKS.items():
        printed = case.inputs[f"printed.{name}"]
        dollars = printed.unit.startswith("USD")
        write = _exact if dollars else lambda x: digits(x) if x < 1000 else whole(x)
        bound = "> " if name == "gpu_spend" else ""
        rows.append(
            (label, write(f[key]), bound + write(printed.value), share_change(f[f"check.{name}"]))
        )
    nodes = digits(f["serving.derived_nodes"]), digits(case.inputs["serving.nodes"].value, 5)
    rows.append(("nodes that serve", *nodes, share_change(f["check.nodes"])))
    note = (
        f"V3 by its own numbers: {digits(f['v3.flops'] / 1e9)} GFLOP to train on a token, which at "
        f"the disclosed hours is {share(f['v3.mfu'])} of an H800's bf16 peak; "
        f"{whole(f['v3.cache'])} bytes of cache a token."
    )
    table = Table(
        columns=("what", "computed", "printed", "off"),
        right=("computed", "printed", "off"),
        rows=rows,
        note=note,
    )
    return Section(title="Computed here, and as printed", blocks=[table])


def _exact(amount: float) -> str:
    return f"${amount:,.0f}" if amount < 1e6 else money(amount)


def why(case: Case, f: Figures, spread: Spreads, folded: bool) -> Section:
    lines = [
        (line.key, _amount(f[line.key], line.unit), _span(spread[line.key]), line.text)
        for line in published.formulas()
    ]
    sources = [
        (entry.key, _given(entry.value), _ends(entry.low, entry.high), *_origin(entry))
        for entry in case.inputs.values()
    ]
    figures = Table(
        title=f"All {len(lines)} figures, with their formulas",
        columns=("figure", "value", "P10 - P90", "formula"),
        right=("value", "P10 - P90"),
        rows=lines,
        folded=folded,
    )
    inputs = Table(
        title=f"All {len(sources)} inputs, with their sources",
        columns=("input", "value", "low - high", "unit", "confidence", "date", "source", "note"),
        right=("value", "low - high"),
        rows=sources,
        folded=folded,
    )
    if folded:
        return Section(title="Where every figure is from", blocks=[inputs, figures])
    told = Origins(title=inputs.title, items=[origin(entry) for entry in case.inputs.values()])
    formula = Points(items=[(key, f"{value} = {text}") for key, value, _, text in lines])
    return Section(title="Where every figure is from", blocks=[formula, told])


def _origin(entry: Figure) -> tuple[str, ...]:
    return entry.unit, entry.confidence, entry.date, entry.source, entry.note


def _given(value: float) -> str:
    return f"{value:,.12g}"


def _ends(low: float, high: float) -> str:
    return f"{_given(low)} - {_given(high)}" if low < high else ""


def _amount(value: float, unit: str) -> str:
    return f"{digits(value, 5)} {unit.removesuffix(' change')}"


def _span(found: Spread) -> str:
    low, high = digits(found.p10), digits(found.p90)
    return f"{low} - {high}" if low != high else ""
