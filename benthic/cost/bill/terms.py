"""What the ledger does not hold: people, other costs, an owner's rate, and how sure a price is.

All of it is optional and stands in one TOML file, `cases/bill.toml` being the example. Every figure
has a value and a unit, and may have low, high and source. People cost count * pay * share * days
/ 365; days are those that the ledger's rows span unless the file says. Prices are the ledger's:
the catalog's rents have the range that they name, one that calls itself an assumption has ASSUMED,
and any other is taken as paid.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benthic.cost.cases.inputs import check_keys, figure, quoted, read_toml
from benthic.cost.catalog.load import CostError, Figure
from benthic.svg import visible

EXAMPLE = Path(__file__).parents[1] / "cases" / "bill.toml"
ALL = "all"  # the rate of every device that has none of its own, be it no GPU
ASSUMED = (0.5, 2.0)  # times a price that nobody gave a source for; a guess, and told as one
MOST = 50  # people, costs and rates: a page, not a database
PEOPLE = {"count": "people", "pay": "USD/person-year", "share": "share", "days": "days"}
OPTIONAL = ("share", "days")

_NUMBER = r"(\d[\d.]*(?:e[+-]?\d+)?)"
_RANGE = re.compile(rf"(?:, |\(){_NUMBER} to {_NUMBER}(?:\)|$)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """A file of terms, checked."""

    file: str = ""
    inputs: Mapping[str, Figure] = field(default_factory=dict)
    """by dotted key: rates.DEVICE, people.ROLE.pay, costs.NAME"""

    def rate(self, device: str) -> str | None:
        """The key of the owner's rate of that device, if the file has one."""
        return next((k for k in (f"rates.{device}", f"rates.{ALL}") if k in self.inputs), None)

    def idle_rates(self, devices: Iterable[str]) -> list[str]:
        """Names of rates that no such device takes, misspelt ones among them."""
        used = {self.rate(device) for device in devices}
        rates = [key for key in self.inputs if key.startswith("rates.")]
        return [key.removeprefix("rates.") for key in rates if key not in used]

    @property
    def roles(self) -> list[str]:
        ends = [key.split(".") for key in self.inputs if key.startswith("people.")]
        return [role for _, role, name in ends if name == "pay"]

    @property
    def costs(self) -> list[str]:
        return [key for key in self.inputs if key.startswith("costs.")]


def load(path: Path | None) -> Terms:
    """Read a file of terms; none: nothing is added. Raises `CostError`, with the remedy."""
    if path is None:
        return Terms()
    data = read_toml(path)
    file = quoted(path.name)
    check_keys(file, data, ("rates", "people", "costs"))
    inputs: dict[str, Figure] = {}
    for device, given in _tables(file, data, "rates").items():
        key = f"rates.{device}"
        inputs[key] = figure(path, key, given, "USD/GPU-hour", sourced=False)
        if device == ALL:
            inputs[key] = replace(inputs[key], unit="USD/device-hour")
    for role, table in _tables(file, data, "people").items():
        if "." in role:
            raise CostError(f"{file}: the role '{quoted(role)}' has a dot: take another name.")
        where = f"{file}: 'people.{quoted(role)}'"
        if not isinstance(table, dict):
            raise CostError(f"{where} is no table: give it count and pay.")
        check_keys(where, table, PEOPLE)
        for name, unit in PEOPLE.items():
            if name in table:
                key = f"people.{role}.{name}"
                inputs[key] = figure(path, key, table[name], unit, sourced=False)
            elif name not in OPTIONAL:
                raise CostError(f"{where} has no '{name}'; add it, in {unit}.")
    for name, given in _tables(file, data, "costs").items():
        key = f"costs.{name}"
        inputs[key] = figure(path, key, given, "USD", sourced=False)
    return Terms(file=visible(path.name), inputs=inputs)


def with_days(terms: Terms, days: float) -> Terms:
    """The terms with the days of the calendar, which the ledger knows, where they have none."""
    source = "the ledger's first start to its last end"
    spanned = {
        f"people.{role}.days": Figure(
            f"people.{role}.days", days, days, days, "days", source, "", "medium"
        )
        for role in terms.roles
        if f"people.{role}.days" not in terms.inputs
    }
    return Terms(file=terms.file, inputs={**terms.inputs, **spanned}) if spanned else terms


def people_cost(terms: Terms, values: Mapping[str, float]) -> float:
    """US dollars of all people, by `values` of the terms' keys."""
    return sum(
        values[f"people.{role}.count"]
        * values[f"people.{role}.pay"]
        * values.get(f"people.{role}.share", 1.0)
        * values[f"people.{role}.days"]
        / 365
        for role in terms.roles
    )


def price_range(price: float, source: str) -> tuple[float, float]:
    """Low and high of a price by what its source says of itself; both are the price if certain.

    Of a range in people's own words, such as the reason of an amendment, nothing is read.
    """
    found = _RANGE.search(source) if source.startswith("catalog: ") else None
    if found:
        low, high = (_float(end) for end in found.groups())
        if low <= price <= high:
            return low, high
    if source.startswith("assumption"):
        return ASSUMED[0] * price, ASSUMED[1] * price
    return price, price


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # two points, as in a version
        return float("nan")


def _tables(file: str, data: Mapping[str, Any], group: str) -> dict[str, Any]:
    tables = data.get(group, {})
    if not isinstance(tables, dict):
        raise CostError(f"{file}: '{group}' is no table: write [{group}] and lines under it.")
    if len(tables) > MOST:
        raise CostError(f"{file} has {len(tables)} {group}; give at most {MOST}: join some.")
    return tables
