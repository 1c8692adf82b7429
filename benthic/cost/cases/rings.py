"""The published case in words: four rings, their ratio, the bridges between, and whose money it is.

One story for terminal and page (`page.py`). A tilde marks what hangs on an assumption: a share
that nobody outside the company knows and that somebody had to choose.
"""

from benthic.cost.cases import press, published
from benthic.cost.cases.press import Figures, Spreads
from benthic.cost.cases.programme import programme
from benthic.cost.cases.published import Case
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
from benthic.cost.spread import Spread
from benthic.svg import Bar, waterfall


def story(case: Case, *, why: bool = False, drawn: bool = False) -> Page:
    """The whole answer; with `why`, formulas and sources too; `drawn` for a page with drawings."""
    f, spread = published.solve(case), published.spreads(case)
    sections = [
        _rings(case, f, spread, drawn),
        _ratio(case, f, drawn),
        _bridges(f, drawn),
        programme(case, f, spread, drawn),
        _purposes(case, f, drawn),
        press.blind(case, f, drawn),
        press.mixed(case, f),
        press.left_out(case, f),
        press.checks(case, f),
    ]
    if why:
        sections.append(press.why(case, f, spread, drawn))
    years = f"{case.inputs['fleet.years'].value:g}"
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
            f"The whole fleet, {case.inputs['fleet.years'].value:g} years",
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


def _rings(case: Case, f: Figures, spread: Spreads, drawn: bool) -> Section:
    rent, rows = case.inputs["price.rent"].value, []
    parts = (
        (
            "0 headline",
            "headline.cost",
            f"all of it: {whole(f['run.hours'])} H800-hours of the final run, rented at "
            f"{money(rent)}",
        ),
        (
            "1 owned run",
            "own.cost",
            f"all of it: the same hours at the H800s' own {rate(f['h800.rate'])} "
            f"({money(f['own.average'])} at the fleet's average of ${f['fleet.rate']:.4f})",
        ),
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
    h20 = case.inputs["h20.count"]
    right = ("fixed inputs", "moved: P10 - P90", "moved: P50")
    table = Table(
        columns=("ring", *right, "V3's part"),
        right=right,
        rows=rows,
        note=(
            f"Fixed inputs are the published or central ones, and {money(f['fleet.cost'])} is what "
            "they give. Moved is what comes out if the inputs move within their ranges, and lies "
            f"to the side where these are longer: the fleet's {whole(h20.value)} H20 were orders, "
            f"and {whole(h20.value - h20.low)} fewer are allowed."
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
        look="rings",
    )
    return Section(title="Four rings", blocks=[table, draw])


def _ratio(case: Case, f: Figures, drawn: bool) -> Section:
    rent = case.inputs["price.rent"].value
    dear = rent > max(f["h800.rate"], f["fleet.rate"])
    price = (
        f"The headline's price an hour is not too low: {money(rent)} of rent is above the owner's"
        if dear
        else f"The headline's {money(rent)} an hour compares with an owner's"
    )
    text = (
        f"{money(f['fleet.cost'])} / {money(f['headline.cost'])} = {whole(f['ratio.all'])} = "
        f"{whole(f['ratio.hours'])} (hours) x {f['ratio.price']:.3f} (price). {price} "
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
            f"headline is the line at the left edge, {whole(f['ratio.hours'])} times as narrow as "
            "the fleet."
        )
        blocks.append(Drawing(title="Hours times price", drawing=picture, caption=caption))
    return Section(title=f"Why {whole(f['ratio.all'])} times", blocks=blocks)


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
        blocks.append(Table(title=title, columns=columns, right=columns[1:], rows=rows, total=True))
    return Section(title="From ring to ring", blocks=blocks)


def _signed(amount: float) -> str:
    return f"+{money(amount)}" if amount >= 0 else money(amount)


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
    rows.append(("the fleet", money(total), "100%", ""))
    table = Table(
        columns=("purpose", "cost", "share", "from"),
        right=("cost", "share"),
        rows=rows,
        total=True,
        phone="2fr 1fr .8fr",
    )
    keys = Table(
        title="V3's final run, by four keys of sharing the fleet's money",
        columns=("key", "cost", "share"),
        right=("cost", "share"),
        rows=[
            (name, money(f[key]), share(f[key] / total))
            for name, key in (
                ("its hours at their pool's rate (used here)", "own.cost"),
                ("its hours at the fleet's average", "own.average"),
                ("the arithmetic its GPUs could do in them", "key.flops"),
                ("its GPUs reserved for all the years", "key.peak"),
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
