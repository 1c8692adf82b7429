"""Machines of one's own: capital, running cost, the owner's rate an hour, and when renting is less.

For each pool of N GPUs, a year:
  capex = N (price + server) / (1 - interconnect) + its part of the storage
  capital = (capex - residual capex (1 + r)^-n) CRF(r, n),  CRF = r / (1 - (1 + r)^-n), 1/n at r = 0
  energy = N kW load PUE 8760 tariff;  hosting = N kW 12 USD/kW-month
  maintenance = share of capex;  spares = N failures price;  people by their part of capex
  owner's rate = all of it / (N 8760), over the occupancy for an hour that a job held
Costs are taken not to depend on the occupancy. Or `upkeep`, one sum a GPU, stands for energy,
hosting, maintenance and spares. Left out: taxes, growth, repair times, prices that change.
"""

import json as json_format
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benthic.cost.cases.inputs import check_keys, figure, nearest, quoted, read_toml
from benthic.cost.catalog.load import CostError, Figure
from benthic.cost.catalog.load import load as load_catalog
from benthic.cost.spread import Spread, monte_carlo

EXAMPLE = Path(__file__).with_name("fleet.toml")
HOURS = 8760.0
MOST = 50  # pools, sites and kinds of people: a page, not a database
MOST_NETWORK = 0.9  # of a cluster's price; published ones are below a fifth

FLEET = {"years": "years", "cost_of_capital": "share/year", "residual": "share", "storage": "USD"}
SITE = {"hosting": "USD/kW-month", "tariff": "USD/kWh", "pue": "PUE", "load": "share"}
PEOPLE = {"count": "people", "pay": "USD/person-year"}
POOL = {
    "count": "GPUs",
    "price": "USD/GPU",
    "server": "USD/GPU",
    "interconnect": "share",
    "kw": "kW/GPU",
    "maintenance": "share/year",
    "failures": "share/year",
    "upkeep": "USD/GPU-year",
    "occupancy": "share",
    "rent": "USD/GPU-hour",
}
OPTIONAL = {
    "cost_of_capital",
    "residual",
    "storage",
    "interconnect",
    "maintenance",
    "failures",
    "upkeep",
    "rent",
    "kw",
}
YEARLY = ("capital", "energy", "hosting", "maintenance", "spares", "upkeep", "people")

Values = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """A fleet file, checked: figures by dotted key, and which site each pool stands at."""

    file: str
    name: str
    inputs: Mapping[str, Figure]
    pools: Mapping[str, str]
    """pool -> site; empty where the pool has an upkeep"""
    people: tuple[str, ...]

    @cached_property
    def values(self) -> dict[str, float]:
        return {key: entry.value for key, entry in self.inputs.items()}


def crf(rate: float, years: float) -> float:
    """The capital recovery factor: the yearly payment for one dollar borrowed over `years`."""
    return rate / (1 - (1 + rate) ** -years) if rate > 1e-9 else 1 / years


def load(path: Path = EXAMPLE) -> Fleet:
    """Read a fleet file. Raises `CostError`, one sentence with the remedy."""
    data = read_toml(path)
    file = quoted(path.name)
    check_keys(file, data, [*FLEET, "name", "pools", "sites", "people"])
    name = data.get("name", path.stem)
    if not isinstance(name, str):
        raise CostError(f"{file}: 'name' is {quoted(name)}; write a text.")
    sites, pools, people = (_group(file, data, g) for g in ("sites", "pools", "people"))
    if not pools:
        raise CostError(f"{file} has no pools; add [pools.NAME] with count, price and the rest.")
    inputs = _figures(path, "", {key: data[key] for key in FLEET if key in data}, FLEET)
    for site, table in sites.items():
        inputs |= _figures(path, f"sites.{site}.", table, SITE)
    for role, table in people.items():
        inputs |= _figures(path, f"people.{role}.", table, PEOPLE)
    homes = {pool: _home(file, pool, table, sites) for pool, table in pools.items()}
    for pool, table in pools.items():
        numbers = {key: value for key, value in table.items() if key not in ("gpu", "site")}
        inputs |= _figures(path, f"pools.{pool}.", numbers, POOL)
        _power(file, pool, table, inputs)
        _check(f"{file}: 'pools.{quoted(pool)}", pool, inputs)
    unused = sorted(set(sites) - set(homes.values()))
    if unused:
        raise CostError(f"{file}: no pool stands at the site '{quoted(unused[0])}'; remove it.")
    return Fleet(file=file, name=name[:200], inputs=inputs, pools=homes, people=tuple(people))


def _group(file: str, data: Mapping[str, Any], group: str) -> dict[str, dict[str, Any]]:
    tables = data.get(group, {})
    if not isinstance(tables, dict) or not all(isinstance(t, dict) for t in tables.values()):
        raise CostError(
            f"{file}: '{group}' is no set of tables; write [{group}.NAME] and its keys."
        )
    if len(tables) > MOST:
        raise CostError(f"{file} has {len(tables)} {group}; a fleet has at most {MOST}: join some.")
    return tables


def _figures(
    path: Path, prefix: str, table: Mapping[str, Any], units: Mapping[str, str]
) -> dict[str, Figure]:
    where = quoted(path.name) + (f": '{quoted(prefix[:-1])}'" if prefix else "")
    check_keys(where, table, [*units, *(("gpu", "site") if units is POOL else ())])
    for key in units:
        if key not in table and key not in OPTIONAL:
            raise CostError(f"{where} has no '{key}'; add it, in {units[key]}.")
    found = {}
    for key, value in table.items():
        found[prefix + key] = figure(path, prefix + key, value, units[key], sourced=False)
    return found


def _home(file: str, pool: str, table: Mapping[str, Any], sites: Mapping[str, Any]) -> str:
    site = table.get("site", "")
    if "upkeep" in table:
        both = [key for key in ("site", "kw", "maintenance", "failures") if key in table]
        if both:
            raise CostError(
                f"{file}: 'pools.{quoted(pool)}' has both 'upkeep' and '{both[0]}', which upkeep "
                "already holds; remove one of them."
            )
        return ""
    if site not in sites:
        known = nearest(str(site), sites) if sites else "add a [sites.NAME]."
        raise CostError(
            f"{file}: 'pools.{quoted(pool)}' stands at the unknown site '{quoted(site)}': {known}"
        )
    return str(site)


def _check(where: str, pool: str, inputs: Mapping[str, Figure]) -> None:
    """What a pool cannot be, though each figure is within the limits of its unit."""
    count = inputs[f"pools.{pool}.count"].value
    if count != round(count):
        raise CostError(f"{where}.count' is {count:g} GPUs; give a whole number.")
    if inputs[f"pools.{pool}.occupancy"].low <= 0:
        raise CostError(
            f"{where}.occupancy' reaches 0, where no job holds an hour that has a price; give the "
            "share of hours that jobs hold, above 0, like 0.8."
        )
    network = inputs.get(f"pools.{pool}.interconnect")
    if network and network.high > MOST_NETWORK:
        raise CostError(
            f"{where}.interconnect' reaches {network.high:g} of the cluster's price, which leaves "
            f"too little for its servers; give the network's share, at most {MOST_NETWORK:g}, "
            "like 0.12."
        )


def _power(file: str, pool: str, table: Mapping[str, Any], inputs: dict[str, Figure]) -> None:
    """Take a server's power from the catalog where the file does not give it."""
    key = f"pools.{pool}.kw"
    if key in inputs or "upkeep" in table:
        return
    if not isinstance(table.get("gpu"), str):
        raise CostError(
            f"{file}: 'pools.{quoted(pool)}' has neither 'kw' nor 'gpu'; "
            "give the kW a GPU of its server, or the GPU's name."
        )
    try:
        gpu = load_catalog().gpu(table["gpu"])
    except CostError as error:
        raise CostError(f"{file}: 'pools.{quoted(pool)}': {error}") from None
    kw = gpu.server_watts / 1000
    inputs[key] = Figure(key, kw, kw, kw, "kW/GPU", f"catalog: {gpu.name}", "", "high")


def evaluate(fleet: Fleet, values: Values) -> dict[str, float]:
    """All figures, USD, USD/year, USD/GPU-hour and shares, by `pool.figure` and `fleet.figure`."""

    def of(key: str) -> float:
        return values.get(key, 0.0)

    years, rate = values["years"], of("cost_of_capital")
    capex = {
        pool: values[f"pools.{pool}.count"]
        * (values[f"pools.{pool}.price"] + values[f"pools.{pool}.server"])
        / (1 - of(f"pools.{pool}.interconnect"))
        for pool in fleet.pools
    }
    bought = sum(capex.values())
    people = sum(of(f"people.{role}.count") * of(f"people.{role}.pay") for role in fleet.people)
    out: dict[str, float] = {}
    for pool, site in fleet.pools.items():
        part = capex[pool] / bought if bought else 1 / len(capex)
        whole = capex[pool] + part * of("storage")
        count, kw = values[f"pools.{pool}.count"], of(f"pools.{pool}.kw")
        left = of("residual") * (1 + rate) ** -years
        figures = {
            "capex": whole,
            "capital": whole * (1 - left) * crf(rate, years),
            "energy": count
            * kw
            * of(f"sites.{site}.load")
            * of(f"sites.{site}.pue")
            * HOURS
            * of(f"sites.{site}.tariff"),
            "hosting": count * kw * 12 * of(f"sites.{site}.hosting"),
            "maintenance": of(f"pools.{pool}.maintenance") * whole,
            "spares": count * of(f"pools.{pool}.failures") * of(f"pools.{pool}.price"),
            "upkeep": count * of(f"pools.{pool}.upkeep"),
            "people": part * people,
        }
        unsold = whole * left * crf(rate, years)
        busy = values[f"pools.{pool}.occupancy"]
        out |= _rates(pool, figures, count, busy, years, values.get(f"pools.{pool}.rent"), unsold)
    return out | _total(fleet, values, out)


def _rates(
    pool: str,
    figures: dict[str, float],
    count: float,
    busy: float,
    years: float,
    rent: float | None,
    unsold: float,
) -> dict[str, float]:
    """The figures of one pool, or of all; `unsold` is what a year costs more without residual."""
    year = sum(figures[key] for key in YEARLY)
    hours = count * HOURS
    figures |= {
        "count": count,
        "running": year - figures["capital"],
        "year": year,
        "cost": year * years,
        "hours": hours,
        "busy": busy,
        "unsold": unsold,
        "rate": year / hours,
        "busy_rate": year / hours / busy,
        "idle": year * (1 - busy),
    }
    if rent:
        figures |= {
            "rent": rent,
            "break_even": year / hours / rent,
            "break_even_unsold": (year + unsold) / hours / rent,
            "rented": rent * hours * busy,
            "saved": rent * hours * busy - year,
        }
    return {f"{pool}.{key}": value for key, value in figures.items()}


def _total(fleet: Fleet, values: Values, out: dict[str, float]) -> dict[str, float]:
    def total(key: str) -> float:
        return sum(out[f"{pool}.{key}"] for pool in fleet.pools)

    hours = total("hours")
    busy = sum(out[f"{pool}.hours"] * out[f"{pool}.busy"] for pool in fleet.pools) / hours
    rents = [values.get(f"pools.{pool}.rent") for pool in fleet.pools]
    rent = None
    if all(rents):  # what the same busy hours would cost, over those hours
        paid = sum(out[f"{pool}.rented"] for pool in fleet.pools)
        rent = paid / (hours * busy)
    figures = {key: total(key) for key in ("capex", *YEARLY)}
    unsold = total("unsold")
    return _rates("fleet", figures, total("count"), busy, values["years"], rent, unsold)


def spreads(fleet: Fleet, *, count: int = 2000, seed: int = 0) -> dict[str, Spread]:
    """P10, P50 and P90 of every figure."""
    return monte_carlo(fleet.inputs, lambda values: evaluate(fleet, values), count=count, seed=seed)


def to_dict(fleet: Fleet) -> dict[str, Any]:
    """For JSON: the inputs and each figure with its spread."""
    spread = spreads(fleet)
    return {
        "fleet": fleet.name,
        "inputs": {key: asdict(entry) for key, entry in fleet.inputs.items()},
        "figures": {
            key: {"value": value, **asdict(spread[key])}
            for key, value in evaluate(fleet, fleet.values).items()
        },
    }


def show(
    path: Path | None = None, *, json: bool = False, html: Path | None = None, why: bool = False
) -> int:
    """Print what a fleet costs, and write its page where one is asked for; returns the exit code.

    Without a path: the example, a lab's four nodes of eight H100. `why` prints each input's source.
    Raises `CostError`.
    """
    fleet = load(path or EXAMPLE)
    if json:
        print(json_format.dumps(to_dict(fleet), indent=1))
    from benthic.cost import page  # what draws is loaded only where it is used
    from benthic.cost.cases.owning import story

    if not json:
        page.print_page(story(fleet, why=why))
    if html:
        page.write_page(story(fleet, drawn=True), html)
        if not json:
            page.say(f"Page: {html}")
    return 0
