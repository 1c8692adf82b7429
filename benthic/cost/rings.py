"""The published case in words: rings, ratio, bridges, purposes, what the press mixed, checks.

One story for terminal and page (`page.py`). A tilde marks what hangs on an assumption: a share
that nobody outside the company knows and that somebody had to choose.
"""

from collections.abc import Iterable, Mapping

from benthic.cost import published
from benthic.cost.page import (
    Drawing,
    Number,
    Page,
    Points,
    Prose,
    Section,
    Table,
    bars,
    boxes,
    circles,
    digits,
    money,
    rate,
    share,
    whole,
)
from benthic.cost.published import Case
from benthic.cost.spread import Spread
from benthic.svg import Bar, waterfall

Figures = Mapping[str, float]
Spreads = Mapping[str, Spread]

POOLS = {"a100": "A100", "h20": "H20", "h800": "H800", "h100": "H100"}
CHECKS = {
    "hours": ("H800-hours of the final run", "run.hours"),
    "pretrain": ("its pretraining at the rent", "run.pretrain_cost"),
    "days": ("days of it on the 2,048 H800", "run.days"),
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


def story(case: Case, *, why: bool = False, drawn: bool = False) -> Page:
    """The whole answer; with `why`, formulas and sources too; `drawn` for a page with drawings."""
    f, spread = published.solve(case), published.spreads(case)
    sections = [
        _rings(f, spread, drawn),
        _ratio(case, f, drawn),
        _bridges(f, drawn),
        _programme(case, f, spread, drawn),
        _purposes(case, f, drawn),
        _blind(case, f, drawn),
        _press(case, f),
        _left_out(case, f),
        _checks(case, f),
    ]
    if why:
        sections.append(_why(case, f, spread, drawn))
    years = digits(case.inputs["fleet.years"].value)
    return Page(
        title="What DeepSeek-V3 cost",
        verdict=(
            f"{money(f['headline.cost'])} rents the hours of DeepSeek-V3's final run; "
            f"{money(f['fleet.cost'])} owns and runs, for {years} years, the fleet that it used "
            f"{share(f['ratio.run_share'])} of. Both are true, of different things."
        ),
        about=(
            f"Every figure follows from {case.name}. A tilde marks what hangs on an assumption; "
            f"P10 to P90 holds four of five of {published.DRAWS:,} draws from the inputs' ranges."
        ),
        numbers=[
            Number(label=label, value=money(f[key]), note=note)
            for label, key, note in _four(case, f)
        ],
        sections=sections,
    )


def _four(case: Case, f: Figures) -> list[tuple[str, str, str]]:
    rent = case.inputs["price.rent"].value
    return [
        (
            "Headline: the final run, rented",
            "headline.cost",
            f"{digits(f['run.hours'] / 1e6)}M H800-hours at {money(rent)}",
        ),
        (
            "The same run at its owner's cost",
            "own.cost",
            f"at {rate(f['h800.rate'])} an hour of the H800s; {money(f['own.average'])} at the "
            f"fleet's average of ${f['fleet.rate']:.4f}",
        ),
        (
            "The whole programme",
            "programme.cost",
            f"research, failed runs, data, RL and people: ~{digits(f['programme.multiple'], 2)} "
            "times the headline",
        ),
        (
            f"The whole fleet, {digits(case.inputs['fleet.years'].value)} years",
            "fleet.cost",
            f"{money(f['fleet.capex'])} bought and {money(f['fleet.opex'])} to run, "
            f"{whole(f['fleet.count'])} GPUs",
        ),
    ]


def _between(found: Spread) -> str:
    low, high = money(found.p10), money(found.p90)
    if low.endswith("M") and high.endswith("M"):
        return f"{digits(found.p10 / 1e6, 3)} - {digits(found.p90 / 1e6, 3)}M"
    return f"{low} - {high}"


def _rings(f: Figures, spread: Spreads, drawn: bool) -> Section:
    rows = []
    parts = (
        ("0 headline", "headline.cost", "all of it V3's"),
        ("1 owner's cost", "own.cost", "all of it V3's"),
        (
            "2 programme",
            "programme.cost",
            f"~{share(f['programme.v3'] / f['programme.cost'])} V3's, "
            f"{share(f['programme.r1'] / f['programme.cost'])} R1's, "
            f"~{share(f['programme.others'] / f['programme.cost'])} of other models",
        ),
        (
            "3 fleet",
            "fleet.cost",
            f"{share(f['v3.sure'])} the final run, ~{share(f['v3.likely'])} with V3's research, "
            f"~{share(f['v3.served'])} with serving V3 and R1; the rest is not V3's",
        ),
    )
    for name, key, whose in parts:
        rows.append((name, money(f[key]), _between(spread[key]), money(spread[key].p50), whose))
    table = Table(
        columns=("ring", "cost", "P10 - P90", "P50", "V3's part"),
        right=("cost", "P10 - P90", "P50"),
        rows=rows,
        note=(
            "The cost is the published or central one. The spread leans upwards where a price can "
            "only be higher (rents, people's pay) and the fleet's leans down: its 30,000 H20 were "
            "orders, and fewer may have come."
        ),
    )
    if not drawn:
        return Section(title="Four rings", blocks=[table])
    names = ("fleet.cost", "programme.cost", "headline.cost", "own.cost")
    labels = ("the fleet", "the programme", "the run, rented", "the run, owned")
    picture = circles(
        "Four rings, by area",
        "Concentric circles whose areas are the four amounts.",
        [(label, f[key], money(f[key])) for label, key in zip(labels, names, strict=True)],
    )
    draw = Drawing(
        title="One dollar, one area",
        drawing=picture,
        caption=(
            "The circles' areas are the amounts. The two in the middle are the same run: rented, "
            "as the headline has it, and at its owner's cost."
        ),
        plain=True,
    )
    return Section(title="Four rings", blocks=[table, draw])


def _ratio(case: Case, f: Figures, drawn: bool) -> Section:
    rent = case.inputs["price.rent"].value
    text = (
        f"{money(f['fleet.cost'])} / {money(f['headline.cost'])} = {whole(f['ratio.all'])} = "
        f"{whole(f['ratio.hours'])} (hours) x {f['ratio.price']:.3f} (price). The headline's price "
        f"an hour is not too low: {money(rent)} of rent is above the owner's "
        f"{rate(f['h800.rate'])} for an H800 and {rate(f['fleet.rate'])} for the fleet's average. "
        f"The gap is hours: the fleet has {whole(f['fleet.hours'] / 1e6)} million, the final run "
        f"used {digits(f['run.hours'] / 1e6)} million."
    )
    busy = (
        f"An owner's hour costs {rate(f['h800.rate'])} of the calendar; ~{rate(f['own.busy_rate'])}"
        f" if some job holds ~{share(case.inputs['use.occupancy'].value)} of them. Owning an H800 "
        f"and renting it at {money(rent)} break even at {share(f['own.break_even'])} occupancy."
    )
    blocks: list[Table | Prose | Points | Drawing] = [Prose(text=text), Prose(text=busy)]
    if drawn:
        pairs = [
            (
                f"fleet: {whole(f['fleet.hours'] / 1e6)}M hours x {rate(f['fleet.rate'])}",
                f["fleet.hours"],
                f["fleet.rate"],
            ),
            (
                f"run: {digits(f['run.hours'] / 1e6)}M hours x {money(rent)}",
                f["run.hours"],
                rent,
            ),
        ]
        picture = boxes("Hours times price", "Two rectangles, hours wide and dollars high.", pairs)
        caption = (
            "Width is GPU-hours, height is dollars an hour, area is money, all to one scale. The "
            "headline is the line at the left edge: higher than the fleet, and "
            f"{whole(f['ratio.hours'])} times as narrow."
        )
        blocks.append(Drawing(title="Hours times price", drawing=picture, caption=caption))
    return Section(title="Why 461 times", blocks=blocks) if round(f["ratio.all"]) == 461 else (
        Section(title=f"Why {whole(f['ratio.all'])} times", blocks=blocks)
    )


Step = tuple[str, float, bool]


def _first_steps(f: Figures) -> list[Step]:
    return [
        ("headline", f["headline.cost"], True),
        ("owner's cost, not rent", f["own.change"], False),
        ("research and ablations ~", f["programme.research"], False),
        ("failed runs ~", f["programme.failed"], False),
        ("RL, of R1", f["programme.rl"], False),
        ("data, of R1's tuning", f["programme.data"], False),
        ("people ~", f["programme.staff"], False),
        ("programme", f["programme.cost"], True),
    ]


def _second_steps(f: Figures) -> list[Step]:
    return [
        ("programme", f["programme.cost"], True),
        ("people: not in the fleet's sum", -f["programme.staff"], False),
        ("serving V3 and R1 ~", f["use_of.serving"], False),
        ("other models, research ~", f["use_of.other"], False),
        ("trading ~", f["use_of.trading"], False),
        ("outside science ~", f["use_of.science"], False),
        ("down ~", f["use_of.down"], False),
        ("idle ~", f["use_of.idle"], False),
        ("fleet", f["fleet.cost"], True),
    ]


def _bridges(f: Figures, drawn: bool) -> Section:
    blocks: list[Table | Prose | Points | Drawing] = []
    both = (
        ("From the headline to the programme", _first_steps(f)),
        ("From the programme to the fleet", _second_steps(f)),
    )
    for title, steps in both:
        if drawn:
            marks = [
                Bar(label=n, note=money(a) if t else _signed(a), amount=a, total=t)
                for n, a, t in steps
            ]
            words = f"{title}: " + "; ".join(f"{n} {money(a)}" for n, a, _ in steps)
            caption = "Each bar starts where the one above it ends; a tilde marks an assumption."
            blocks.append(
                Drawing(title=title, drawing=waterfall(title, words, marks), caption=caption)
            )
            continue
        rows, level = [], 0.0
        for name, amount, total in steps:
            level = amount if total else level + amount
            rows.append((name, "" if total else _signed(amount), money(level)))
        columns = ("step", "change", "comes to")
        blocks.append(
            Table(title=title, columns=columns, right=columns[1:], rows=rows, total=True)
        )
    return Section(title="From ring to ring", blocks=blocks)


def _signed(amount: float) -> str:
    return f"+{money(amount)}" if amount >= 0 else money(amount)


def _programme(case: Case, f: Figures, spread: Spreads, drawn: bool) -> Section:
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
        f"With all its ranges to one side, {money(least['programme.cost'])} to "
        f"{money(most['programme.cost'])}, or {money(most['programme.rented'])} at the rent: "
        f"{whole(least['programme.multiple'])} to {whole(most['programme.rented_multiple'])} times."
    )
    data = (
        "Data is R1's 5,000 hours of making it; what crawling, filtering and buying the text of "
        "pretraining cost was never disclosed and is not in here."
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
        rows = [(names[s.key], money(s.at_low), money(s.at_high)) for s in moved[:5]]
        blocks.append(Table(columns=columns, right=columns[1:], rows=rows))
    return Section(title="How sure the programme is", blocks=blocks)


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


def _purposes(case: Case, f: Figures, drawn: bool) -> Section:
    days = case.inputs["serving.days"].value
    known = (
        ("V3's final run", "use_of.run", "disclosed hours"),
        ("V3's programme, R1 in it", "use_of.programme", "~ hours / share of the final run"),
        ("serving V3 and R1", "use_of.serving", f"~ the disclosed day, {whole(days)} times"),
        ("other models, research", "use_of.other", "~ what is left of the busy hours"),
        ("trading", "use_of.trading", "~ chosen; nobody outside knows"),
        ("outside science", "use_of.science", "~ of the A100s' busy hours"),
        ("down", "use_of.down", "~ chosen"),
        ("idle", "use_of.idle", "~ what occupancy leaves"),
    )
    total = f["fleet.cost"]
    assumed = [e for e in case.inputs.values() if e.confidence == "assumption"]
    prose = (
        f"Only the first line is a disclosed figure: {share(f['v3.sure'])} of the fleet's money. "
        "Idle and down time stay on lines of their own and are spread over nothing. The "
        f"assumptions, all in {case.name}: {', '.join(entry.key for entry in assumed)}."
    )
    rows = [(n, money(f[k]), share(f[k] / total), basis) for n, k, basis in known]
    rows.append(("the fleet", money(total), "100 %", ""))
    table = Table(
        columns=("purpose", "cost", "share", "from"), right=("cost", "share"), rows=rows, total=True
    )
    keys = Table(
        title="V3's final run, by four keys of sharing the fleet's money",
        columns=("key", "cost", "share"),
        right=("cost", "share"),
        rows=[
            (name, money(f[key]), share(f[key] / total))
            for name, key in (
                ("its hours at their pool's rate (used here)", "own.cost"),
                ("its hours at the fleet's average", "key.average"),
                ("the arithmetic its GPUs could do in them", "key.flops"),
                ("its 2,048 GPUs reserved for all the years", "key.peak"),
            )
        ],
        note="No key makes the fleet V3's: even the dearest leaves "
        f"{share(1 - f['key.peak'] / total)} of it to other purposes.",
    )
    blocks: list[Table | Prose | Points | Drawing] = [Prose(text=prose)]
    if drawn:
        marks = [
            (n, f"{money(f[k])}, {share(f[k] / total)}", [(0.0, f[k], _role(k))])
            for n, k, _ in known
        ]
        caption = "Strong: disclosed. Pale: hangs on an assumption. Grey: nobody's."
        picture = bars("The fleet's money by purpose", caption, marks)
        blocks.append(
            Drawing(title="The fleet's money by purpose", drawing=picture, caption=caption)
        )
    return Section(title="Whose money it is", blocks=[*blocks, table, keys])


def _role(key: str) -> str:
    if key == "use_of.run":
        return "total"
    return "nobody" if key in ("use_of.down", "use_of.idle") else "guess"


def _blind(case: Case, f: Figures, drawn: bool) -> Section:
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
    prose = (
        f"Hosting, energy and maintenance of {digits(f['blind.kw'] / 1000, 3)} MW of servers, at "
        f"prices of the literature, come to {money(f['blind.opex'])} where the table has "
        f"{money(f['fleet.opex'])}: P10 {money(found.p10)}, P50 {money(found.p50)}, P90 "
        f"{money(found.p90)}; {money(low)} to {money(high)} with all five inputs of the site to "
        "one side. It was computed blind and is never fitted; the table lies inside, at the dear "
        "end for sites in China."
    )
    blocks: list[Table | Prose | Points | Drawing] = [Prose(text=prose), table]
    if drawn:
        line = (found.p50 * 0.998, found.p50 * 1.002, "total")
        mark = (f["fleet.opex"] * 0.998, f["fleet.opex"] * 1.002, "total")
        spans = [(low, high, "pale"), (found.p10, found.p90, "guess"), line]
        rows_drawn = [
            ("from below: corners, P10 - P90, P50", f"{money(low)} - {money(high)}", spans),
            ("the table", money(f["fleet.opex"]), [mark]),
        ]
        caption = "Two answers to one question, from different sources, on one scale from zero."
        picture = bars("Running cost, two ways", caption, rows_drawn)
        blocks.append(Drawing(title="Running cost, two ways", drawing=picture, caption=caption))
    return Section(title="The running cost, checked from below", blocks=blocks)


def share_change(value: float) -> str:
    return f"{100 * value:+.1f} %".replace("-0.0", "+0.0")


def _off(f: Figures, pool: str) -> str:
    return share_change(f[f"blind.{pool}"] / f[f"{pool}.opex"] - 1)


def _press(case: Case, f: Figures) -> Section:
    v = case.values()
    years = digits(v["fleet.years"])
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
            f"{money(f['hopper.per_year'])} without A100s: the critic's 640 and 545 million.",
        ),
        (
            "$1.3B and $715M",
            "as first printed left the H100s out: the sum of the other three columns is "
            f"{money(f['first.capex'])} and {money(f['first.opex'])} (columns are rounded). The "
            f"H100s add {money(f['h100.capex'])} and {money(f['h100.opex'])}. The same total added "
            f"up prices of single GPUs, to ${whole(f['first.chips'])} and "
            f"${whole(f['first.servers'])}, which mean nothing.",
        ),
        (
            "over $500M on GPUs",
            f"fits the GPUs alone, without servers and without H20s: "
            f"{money(f['chips.without_h20'])}.",
        ),
        (
            "50,000 Hoppers",
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
            f"cost 1 billion CNY, {money(f['fireflyer.usd'])}, "
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
            f"together, which closes. Rent then is ${f['serving.in_cost']:.2f} for a million "
            f"tokens read and ${f['serving.out_cost']:.2f} written.",
        ),
    )
    return Section(title="What the press left out or mixed", blocks=[Points(items=items)])


def _top(f: Figures) -> float:
    return f["programme.top_bill"] / f["fleet.per_year"]


def _left_out(case: Case, f: Figures) -> Section:
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
    table = Table(
        columns=("four-year line", "cost"), right=("cost",), rows=rows, total=True, note=note
    )
    return Section(title="What the published sum leaves out itself", blocks=[table])


def _checks(case: Case, f: Figures) -> Section:
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


def _why(case: Case, f: Figures, spread: Spreads, folded: bool) -> Section:
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
    told = Points(
        items=[
            (
                row[0],
                f"{row[1]} {row[3]}{f' ({row[2]})' if row[2] else ''}, {row[4]}, {row[5]}: "
                f"{row[6]}{f'; {row[7]}' if row[7] else ''}",
            )
            for row in sources
        ]
    )
    formula = Points(items=[(key, f"{value} = {text}") for key, value, _, text in lines])
    return Section(title="Where every figure is from", blocks=[formula, told])


def _origin(entry: published.Figure) -> Iterable[str]:
    return entry.unit, entry.confidence, entry.date, entry.source, entry.note


def _given(value: float) -> str:
    return f"{value:,.10g}"


def _ends(low: float, high: float) -> str:
    return f"{_given(low)} - {_given(high)}" if low < high else ""


def _amount(value: float, unit: str) -> str:
    return f"{digits(value, 5)} {unit.removesuffix(' change')}"


def _span(found: Spread) -> str:
    low, high = digits(found.p10), digits(found.p90)
    return f"{low} - {high}" if low != high else ""
