"""How sure a bill is: its uncertain inputs, and what they do to its sums.

Inputs are the terms' figures, the prices that have a range, those of one device and kind as one
since they err together, and the energy that was estimated. All sums are linear in them.
"""

from collections.abc import Mapping, Sequence

from benthic.cost.bill.bill import Bill, Price
from benthic.cost.bill.terms import people_cost
from benthic.cost.catalog.load import Figure
from benthic.cost.spread import monte_carlo, tornado

DRAWS = 2000


def weigh(bill: Bill) -> None:
    """Add to a bill its inputs, and how sure its sums are by them."""
    inputs = dict(bill.terms.inputs)
    for key, members in _assumed_prices(bill.prices).items():
        total = sum(price.hours for price in members)

        def mean(name: str, members: list[Price] = members, total: float = total) -> float:
            return sum(price.hours * float(getattr(price, name)) for price in members) / total

        source = members[0].source if len(members) == 1 else f"{len(members)} prices of that kind"
        inputs[key] = Figure(
            key, mean("price"), mean("low"), mean("high"), "USD/h", source, "", "assumption"
        )
    energy = bill.energy
    kwh = [joules / 3.6e6 for joules in (energy.low, energy.joules, energy.high)]
    if kwh[0] < kwh[1] or kwh[1] < kwh[2]:
        low, value, high = min(kwh[:2]), kwh[1], max(kwh[1:])
        source = "the ledger's own ranges"
        inputs["energy"] = Figure("energy", value, low, high, "kWh", source, "", "assumption")
    bill.inputs = inputs
    if any(entry.low < entry.high for entry in inputs.values()) and bill.rows:
        model = Model(bill)
        bill.spread = monte_carlo(inputs, model, count=DRAWS)
        bill.swings = tornado(inputs, model, "full")


def _price_key(price: Price) -> str:
    kind = "assumed" if price.source.startswith("assumption") else "catalog"
    return f"price.{price.device} ({kind})"


def _assumed_prices(prices: Sequence[Price]) -> dict[str, list[Price]]:
    """Prices with a range, those of one device and kind together: they err together."""
    found: dict[str, list[Price]] = {}
    for price in prices:
        if price.low < price.high and price.hours:
            found.setdefault(_price_key(price), []).append(price)
    return found


class Model:
    """Headline, full cost, ratio and energy by values of the inputs."""

    def __init__(self, bill: Bill) -> None:
        self._bill = bill
        self._headline: dict[str, float] = {}
        self._rated: dict[str, float] = {}
        self._fixed = [0.0, 0.0]  # of the headline and of what is metered
        for price in bill.prices:
            key = _price_key(price)
            if key in bill.inputs and price.low < price.high:
                weight = price.price / bill.inputs[key].value if bill.inputs[key].value else 1.0
                self._add(self._headline, key, price.headline_hours * weight)
            else:
                weight = 0.0
                self._fixed[0] += price.headline_hours * price.price
            rate = bill.terms.rate(price.device)
            if rate:
                self._add(self._rated, rate, price.hours)
            elif weight:
                self._add(self._rated, key, price.hours * weight)
            else:
                self._fixed[1] += price.hours * price.price

    @staticmethod
    def _add(sums: dict[str, float], key: str, value: float) -> None:
        sums[key] = sums.get(key, 0.0) + value

    def __call__(self, values: dict[str, float]) -> Mapping[str, float]:
        headline = self._fixed[0] + sum(values[k] * h for k, h in self._headline.items())
        full = self._fixed[1] + sum(values[k] * h for k, h in self._rated.items())
        full += people_cost(self._bill.terms, values)
        full += sum(values[key] for key in self._bill.terms.costs)
        out = {"headline": headline, "full": full}
        if self._bill.factors and headline:
            out["ratio"] = full / headline
        if "energy" in values:
            out["energy"] = values["energy"]
        return out
