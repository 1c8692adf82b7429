"""A fleet of one's own in words: what it costs, its owner's rate, rent against it, idle hours."""

from benthic.cost.cases import fleet as model
from benthic.cost.cases.fleet import YEARLY, Fleet
from benthic.cost.catalog.origins import origin
from benthic.cost.page import (
    Drawing,
    Number,
    Origins,
    Page,
    Prose,
    Section,
    Table,
    bars,
    money,
    rate,
    share,
    whole,
)
from benthic.cost.spread import Spread
from benthic.svg import Axis, Line, line_chart

NAMES = {
    "capital": "machines, a year",
    "energy": "energy",
    "hosting": "hosting",
    "maintenance": "maintenance",
    "spares": "spares",
    "upkeep": "upkeep, all in",
    "people": "people",
}


def story(fleet: Fleet, *, why: bool = False, drawn: bool = False) -> Page:
    """The whole answer, with sources by `why`; `drawn` for a page with drawings and sources."""
    f, spread = model.evaluate(fleet, fleet.values), model.spreads(fleet)
    years, busy = fleet.values["years"], f["fleet.busy"]
    found = spread["fleet.busy_rate"]
    sections = [_rates(fleet, f, spread, drawn), _costs(fleet, f, drawn), _idle(f)]
    if why or drawn:
        sections.append(_inputs(fleet, folded=drawn))
    return Page(
        title=fleet.name,
        verdict=_verdict(f),
        about=(
            f"From {fleet.file}: {whole(f['fleet.count'])} GPUs over {years:g} years. "
            "P10 to P90 holds four of five draws from the inputs' ranges."
        ),
        numbers=[
            Number(
                label="To buy",
                value=money(f["fleet.capex"]),
                note="machines, the network between them, storage",
            ),
            Number(
                label="To run, a year",
                value=money(f["fleet.running"]),
                note="energy, hosting, maintenance, spares, people",
            ),
            Number(
                label="An hour that a job holds",
                value=rate(f["fleet.busy_rate"]),
                note=f"at {share(busy)} occupancy; P10 {rate(found.p10)}, P50 {rate(found.p50)}, "
                f"P90 {rate(found.p90)}; {rate(f['fleet.rate'])} for each of the calendar",
            ),
            Number(
                label="Idle, a year",
                value=money(f["fleet.idle"]),
                note=f"{share(1 - busy)} of all hours, paid for and not used",
            ),
        ],
        sections=sections,
    )


def _verdict(f: dict[str, float]) -> str:
    rent, even, busy = f.get("fleet.rent"), f.get("fleet.break_even"), f["fleet.busy"]
    owned = f"Owning costs {rate(f['fleet.busy_rate'])} for an hour that a job holds"
    if rent is None or even is None:
        return f"{owned}. Give every pool a rent to compare with."
    compared = f"{owned}; renting costs {money(rent)}."
    if even > 1:
        return f"{compared} Renting is less even if the machines are never idle."
    cheaper = "Owning" if busy >= even else "Renting"
    return (
        f"{compared} They break even at {share(even)} occupancy; at the {share(busy)} of this "
        f"plan {cheaper.lower()} is less."
    )


def _rates(fleet: Fleet, f: dict[str, float], spread: dict[str, Spread], drawn: bool) -> Section:
    rows = [_rate_row(pool, f) for pool in fleet.pools]
    if len(fleet.pools) > 1:
        rows.append(_rate_row("fleet", f))
    columns = ("pool", "GPUs", "calendar", "busy", "at", "rent", "break-even", "no resale")
    table = Table(
        columns=columns,
        right=columns[1:],
        rows=rows,
        total=len(fleet.pools) > 1,
        note=(
            "Dollars an hour: of the calendar, and of hours that a job held at the occupancy "
            "given. Break-even is the occupancy at which owning and renting cost the same; "
            "'no resale' is the same where nothing is got back at the end."
        ),
    )
    found = spread["fleet.busy_rate"]
    sure = Prose(
        text=f"An hour that a job holds: P10 {rate(found.p10)}, P50 {rate(found.p50)}, "
        f"P90 {rate(found.p90)}. The occupancy is in those ranges too, if it has one."
    )
    if not drawn:
        return Section(title="Owning against renting", blocks=[table, sure])
    shown = [i / 100 for i in range(30, 101)]
    lines = [
        Line(points=[(x, f["fleet.rate"] / x) for x in shown], role="first", label="owning"),
    ]
    if "fleet.rent" in f:
        line = [(x, f["fleet.rent"]) for x in (shown[0], shown[-1])]
        lines.append(Line(points=line, role="second", label="renting"))
    caption = (
        "Owning costs the same whether the machines work or not, so its busy hours get dearer."
    )
    picture = line_chart(
        "The price of an hour by occupancy",
        caption,
        lines,
        x=Axis(name="occupancy", show=lambda v: f"{100 * v:.0f}%"),
        y=Axis(name="dollars a busy GPU-hour", show=lambda v: f"${v:.2f}", low=0.0),
    )
    draw = Drawing(
        title="The price of an hour by occupancy", drawing=picture, caption=caption, look="chart"
    )
    return Section(title="Owning against renting", blocks=[table, sure, draw])


def _rate_row(pool: str, f: dict[str, float]) -> tuple[str, ...]:
    def even(key: str) -> str:
        value = f.get(f"{pool}.{key}")
        return "-" if value is None else share(value) if value <= 1 else "never"

    rent = f.get(f"{pool}.rent")
    return (
        pool,
        whole(f[f"{pool}.count"]),
        rate(f[f"{pool}.rate"]),
        rate(f[f"{pool}.busy_rate"]),
        share(f[f"{pool}.busy"]),
        "-" if rent is None else money(rent),
        even("break_even"),
        even("break_even_unsold"),
    )


def _costs(fleet: Fleet, f: dict[str, float], drawn: bool) -> Section:
    used = [key for key in YEARLY if f[f"fleet.{key}"]]
    year = f["fleet.year"]
    rows = [
        (NAMES[key], money(f[f"fleet.{key}"]), share(f[f"fleet.{key}"] / year), _hour(f, key))
        for key in used
    ]
    rows.append(("a year", money(year), "100%", rate(f["fleet.rate"])))
    columns = ("line", "USD a year", "share", "an hour")
    note = (
        f"Over {fleet.values['years']:g} years: {money(f['fleet.cost'])}. Machines are "
        f"{money(f['fleet.capex'])} at the start, less what is got back, spread with the cost of "
        "capital."
    )
    table = Table(columns=columns, right=columns[1:], rows=rows, total=True, note=note)
    if not drawn:
        return Section(title="What a year costs", blocks=[table])
    marks = [
        (NAMES[key], money(f[f"fleet.{key}"]), [(0.0, f[f"fleet.{key}"], "total")]) for key in used
    ]
    caption = "All bars on one scale."
    picture = bars("What a year costs", caption, marks)
    draw = Drawing(title="A year by line", drawing=picture, caption=caption)
    return Section(title="What a year costs", blocks=[table, draw])


def _hour(f: dict[str, float], key: str) -> str:
    return rate(f[f"fleet.{key}"] / f["fleet.hours"])


def _idle(f: dict[str, float]) -> Section:
    busy = f["fleet.busy"]
    steps = sorted({0.5, 0.6, 0.7, 0.8, 0.9, 0.96, round(busy, 4)})
    rows = [
        (
            share(step) + (", planned" if step == round(busy, 4) else ""),
            rate(f["fleet.rate"] / step) if step else "-",
            money(f["fleet.year"] * (1 - step)),
            _against(f, step),
        )
        for step in steps
    ]
    columns = ("occupancy", "a busy hour", "idle, a year", "renting is")
    table = Table(columns=columns, right=columns[1:], rows=rows)
    text = (
        f"Every point of occupancy is worth {money(f['fleet.year'] / 100)} a year. Costs are taken "
        "to be the same however busy the machines are; energy follows the site's mean load."
    )
    return Section(title="The price of idle hours", blocks=[Prose(text=text), table])


def _against(f: dict[str, float], step: float) -> str:
    if "fleet.rent" not in f:
        return "-"
    saved = f["fleet.rent"] * f["fleet.hours"] * step - f["fleet.year"]
    return f"{money(abs(saved))} {'more' if saved >= 0 else 'less'}"


def _inputs(fleet: Fleet, folded: bool) -> Section:
    title = f"All {len(fleet.inputs)} inputs"
    if not folded:
        told = Origins(title=title, items=[origin(entry) for entry in fleet.inputs.values()])
        return Section(title="Where every figure is from", blocks=[told])
    rows = [
        (
            entry.key,
            f"{entry.value:,.10g}",
            f"{entry.low:,.10g} - {entry.high:,.10g}" if entry.low < entry.high else "",
            entry.unit,
            entry.confidence,
            entry.date,
            entry.source,
            entry.note,
        )
        for entry in fleet.inputs.values()
    ]
    table = Table(
        title=title,
        columns=("input", "value", "low - high", "unit", "confidence", "date", "source", "note"),
        right=("value", "low - high"),
        rows=rows,
        folded=True,
    )
    return Section(title="Where every figure is from", blocks=[table])
