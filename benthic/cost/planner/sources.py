"""Where every figure of a plan is from: prices, hardware, published runs, constants of the step."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date as Day

from benthic.cost.catalog.figures import Figure, days, explain
from benthic.cost.catalog.load import Catalog
from benthic.cost.catalog.origins import ends, origin
from benthic.cost.page import Origins, Section
from benthic.cost.planner.plan import POWER, TARIFF, Plan
from benthic.cost.planner.usual import most_alike
from benthic.cost.step import calibrate
from benthic.cost.step.goodput import FAILURES

_SPECIFIED = (
    *("bf16_flops", "fp16_flops", "fp8_flops", "memory", "visible", "bandwidth"),
    *("scale_up", "scale_out", "per_node", "server_watts"),
)
PROGRAMMES = ("rd_multiplier", "rd_multiplier.olmo-3", "rd_multiplier.olmo-2")


def sources(plans: Sequence[Plan], catalog: Catalog) -> Section:
    """Each figure that the plans took, once, with its sources."""
    groups = _grouped(plans, catalog)
    return Section(
        title="Sources",
        blocks=[
            Origins(title=title, items=[origin(figure) for figure in found])
            for title, found in groups.items()
        ],
    )


def lines(plans: Sequence[Plan], catalog: Catalog) -> list[str]:
    """The same, a line a figure."""
    return [explain(one) for found in _grouped(plans, catalog).values() for one in found]


def _grouped(plans: Sequence[Plan], catalog: Catalog) -> dict[str, list[Figure]]:
    gpus = [gpu for plan in plans for gpu in (plan.gpu, most_alike(plan.gpu))]
    names = list(dict.fromkeys(gpu.name.lower() for gpu in gpus))
    keys = [f"{name}.{part}" for name in names for part in _SPECIFIED]
    groups = {
        "Prices and energy": [
            *(one for plan in plans for one in _rent(plan, catalog)),
            *map(catalog.figure, (TARIFF, *POWER)),
        ],
        "Hardware and failures": [
            *(catalog.figure(key) for key in keys if catalog.get(key)),
            *map(catalog.figure, FAILURES),
        ],
        "Published runs": [*_runs(plans, catalog), *map(catalog.figure, PROGRAMMES)],
        "Constants of the step": [one for name in names for one in calibrate.used(name)],
    }
    return {title: list(dict.fromkeys(found)) for title, found in groups.items()}


def _rent(plan: Plan, catalog: Catalog) -> list[Figure]:
    """The price that was taken, and who asked its lowest and its highest."""
    if plan.question.rent is not None:  # yours, whatever the catalog has
        return [plan.rent]
    until = days(plan.question.date)[1] if plan.question.date else Day.max
    rows = catalog.observations(plan.rent.key)
    others = ends(plan.rent, rows, until)
    return [plan.rent, *(replace(row, key=f"{row.key}, its {end}") for end, row in others)]


def _runs(plans: Sequence[Plan], catalog: Catalog) -> list[Figure]:
    """The published runs that the plans lean on."""
    leans = {name for plan in plans for name, _ in plan.practice.leans_on}
    found = []
    for row in catalog.table("runs"):
        if row["model"] in leans:
            key, hours = f"run.{'-'.join(row['model'].split())}", float(row["gpu_hours"])
            source, date, sure = row["source_url"], row["date"], row["confidence"]
            found.append(Figure(key, hours, hours, hours, "GPU-hours", source, date, sure))
    return found
