"""DeepSeek-V3 as published: both numbers, 5.576 M$ and 2,573 M$, from one file of inputs.

Four rings: the headline (final run x rent), the same run at its owner's cost, the whole programme,
the whole fleet over its years. Every figure is one line of `SHEET`, which is what is computed, what
`--why` prints, and from which the dependants of an input are known. Purposes are charged the rate
of their pool for the hours of the calendar they hold; idle and down time stay lines of their own.
The blind bottom-up of the running cost uses literature alone and is never fitted to the table.
Left out: what the table leaves out (staff, fabric, capital), which stands apart in `finance`.
"""

import json as json_format
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from benthic.cost.cases.formula import Formula, formula
from benthic.cost.cases.inputs import check_keys, figure, quoted, read_toml
from benthic.cost.catalog.load import CostError, Figure
from benthic.cost.spread import Spread, Swing, monte_carlo, tornado

SHIPPED = Path(__file__).with_name("deepseek.toml")
DRAWS = 2000
SITE = ("site.hosting", "site.tariff", "site.pue", "site.load", "site.maintenance")

SHEET = """
# the final run
run.pretrain_hours [GPU-hours] = run.hours_per_t * run.tokens
run.hours [GPU-hours] = run.pretrain_hours + run.context_hours + run.post_hours
run.days [days] = run.pretrain_hours / run.gpus / 24
run.pretrain_cost [USD] = run.pretrain_hours * price.rent
headline.cost [USD] = run.hours * price.rent
v3.flops [FLOP/token] = 3 * (2 * v3.matmul_parameters \
+ v3.layers * v3.heads * v3.head_width * 2 * v3.sequence / 2)
v3.mfu [share] = v3.flops / (run.hours_per_t * 3600 * h800.tflops)
v3.cache [bytes/token] = v3.layers * v3.latent * v3.cache_bytes
r1.hours [GPU-hours] = r1.zero_hours + r1.data_hours + r1.rl_hours
r1.cost [USD] = r1.hours * price.rent
r1.share [share] = r1.hours / run.hours

# the fleet
a100.capex [USD] = a100.count * (a100.chip + server.a100)
h20.capex [USD] = h20.count * (h20.chip + server.hopper)
h800.capex [USD] = h800.count * (h800.chip + server.hopper)
h100.capex [USD] = h100.count * (h100.chip + server.hopper)
a100.opex [USD] = a100.count * a100.upkeep * fleet.years
h20.opex [USD] = h20.count * h20.upkeep * fleet.years
h800.opex [USD] = h800.count * h800.upkeep * fleet.years
h100.opex [USD] = h100.count * h100.upkeep * fleet.years
a100.cost [USD] = a100.capex + a100.opex
h20.cost [USD] = h20.capex + h20.opex
h800.cost [USD] = h800.capex + h800.opex
h100.cost [USD] = h100.capex + h100.opex
a100.rate [USD/GPU-hour] = ((a100.chip + server.a100) / fleet.years + a100.upkeep) / 8760
h20.rate [USD/GPU-hour] = ((h20.chip + server.hopper) / fleet.years + h20.upkeep) / 8760
h800.rate [USD/GPU-hour] = ((h800.chip + server.hopper) / fleet.years + h800.upkeep) / 8760
h100.rate [USD/GPU-hour] = ((h100.chip + server.hopper) / fleet.years + h100.upkeep) / 8760
h800.hours [GPU-hours] = h800.count * 8760 * fleet.years
fleet.count [GPUs] = a100.count + h20.count + h800.count + h100.count
fleet.hours [GPU-hours] = fleet.count * 8760 * fleet.years
fleet.capex [USD] = a100.capex + h20.capex + h800.capex + h100.capex
fleet.opex [USD] = a100.opex + h20.opex + h800.opex + h100.opex
fleet.cost [USD] = fleet.capex + fleet.opex
fleet.rate [USD/GPU-hour] = fleet.cost / fleet.hours
fleet.per_year [USD/year] = fleet.cost / fleet.years
hopper.count [GPUs] = h20.count + h800.count + h100.count
hopper.capex [USD] = h20.capex + h800.capex + h100.capex
hopper.per_year [USD/year] = (h20.cost + h800.cost + h100.cost) / fleet.years
hopper.h100s [GPUs] = (h20.count * h20.tflops + h800.count * h800.tflops) / h100.tflops + h100.count
chips.without_h20 [USD] = a100.count * a100.chip + h800.count * h800.chip + h100.count * h100.chip
first.capex [USD] = a100.capex + h20.capex + h800.capex
first.opex [USD] = a100.opex + h20.opex + h800.opex
first.chips [USD/GPU] = a100.chip + h20.chip + h800.chip
first.servers [USD/GPU] = first.chips + server.a100 + 2 * server.hopper
fireflyer.usd [USD] = fireflyer.cny / fireflyer.rate
fireflyer.below [share change] = 1 - fireflyer.usd / a100.capex

# ring 1: the final run at its owner's cost
own.cost [USD] = run.hours * h800.rate
own.average [USD] = run.hours * fleet.rate
own.change [USD change] = own.cost - headline.cost
own.busy_rate [USD/GPU-hour] = h800.rate / use.occupancy
own.break_even [share] = h800.rate / price.rent

# ring 2: the programme
programme.hours [GPU-hours] = run.hours / programme.final_share
programme.failed_hours [GPU-hours] = programme.hours * programme.failed_share
programme.rl_hours [GPU-hours] = r1.zero_hours + r1.rl_hours
programme.research_hours [GPU-hours] = programme.hours - run.hours - programme.failed_hours \
- programme.rl_hours - r1.data_hours
programme.research [USD] = programme.research_hours * h800.rate
programme.failed [USD] = programme.failed_hours * h800.rate
programme.rl [USD] = programme.rl_hours * h800.rate
programme.data [USD] = r1.data_hours * h800.rate
programme.gpus [USD] = programme.hours * h800.rate
programme.staff [USD] = programme.people * programme.pay * programme.years
programme.cost [USD] = programme.gpus + programme.staff
programme.rented [USD] = programme.hours * price.rent + programme.staff
programme.multiple [x] = programme.cost / headline.cost
programme.rented_multiple [x] = programme.rented / headline.cost
programme.of_pool [share] = programme.hours / h800.hours
programme.of_fleet [share] = programme.cost / fleet.cost
programme.shared_gpus [USD] = (programme.hours - run.hours - programme.rl_hours \
- r1.data_hours) * h800.rate
programme.shared [USD] = programme.shared_gpus + programme.staff
programme.v3 [USD] = own.cost + programme.shared * programme.v3_share
programme.r1 [USD] = programme.rl + programme.data
programme.others [USD] = programme.shared * (1 - programme.v3_share)
programme.top_bill [USD/year] = programme.people * programme.top_pay

# ring 3: the fleet's money by purpose
ratio.all [x] = fleet.cost / headline.cost
ratio.hours [x] = fleet.hours / run.hours
ratio.price [x] = fleet.rate / price.rent
ratio.run_share [share] = run.hours / fleet.hours
serving.hours [GPU-hours] = serving.nodes * serving.gpus_per_node * 24 * serving.days
use_of.run [USD] = own.cost
use_of.programme [USD] = programme.gpus - own.cost
use_of.serving [USD] = serving.hours * h800.rate
use_of.science [USD] = a100.cost * use.occupancy * use.outside
use_of.h800_rest [USD] = h800.cost * use.occupancy - programme.gpus - use_of.serving
use_of.rest [USD] = use_of.h800_rest + (a100.cost + h20.cost + h100.cost) * use.occupancy \
- use_of.science
use_of.trading [USD] = use_of.rest * use.trading
use_of.other [USD] = use_of.rest * (1 - use.trading)
use_of.down [USD] = fleet.cost * use.down
use_of.idle [USD] = fleet.cost * (1 - use.occupancy - use.down)
use_of.v3 [USD] = own.cost + programme.shared_gpus * programme.v3_share
v3.sure [share] = own.cost / fleet.cost
v3.likely [share] = use_of.v3 / fleet.cost
v3.served [share] = (use_of.v3 + use_of.serving) / fleet.cost
key.flops [USD] = fleet.cost * run.hours * h800.tflops / (8760 * fleet.years * (a100.count \
* a100.tflops + h20.count * h20.tflops + h800.count * h800.tflops + h100.count * h100.tflops))
key.peak [USD] = run.gpus * 8760 * fleet.years * h800.rate

# the running cost from below, blind
blind.kw [kW] = a100.count * a100.kw + h20.count * h20.kw + h800.count * h800.kw \
+ h100.count * h100.kw
blind.kw_year [USD/kW-year] = 12 * site.hosting + 8760 * site.tariff * site.pue * site.load
blind.a100 [USD] = fleet.years * (a100.count * a100.kw * blind.kw_year \
+ site.maintenance * a100.capex)
blind.h20 [USD] = fleet.years * (h20.count * h20.kw * blind.kw_year + site.maintenance * h20.capex)
blind.h800 [USD] = fleet.years * (h800.count * h800.kw * blind.kw_year \
+ site.maintenance * h800.capex)
blind.h100 [USD] = fleet.years * (h100.count * h100.kw * blind.kw_year \
+ site.maintenance * h100.capex)
blind.opex [USD] = blind.a100 + blind.h20 + blind.h800 + blind.h100
blind.off [share change] = (blind.kw * blind.kw_year + site.maintenance * fleet.capex) \
/ (a100.count * a100.upkeep + h20.count * h20.upkeep + h800.count * h800.upkeep \
+ h100.count * h100.upkeep) - 1

# the day of serving
serving.prefill_nodes [nodes] = (serving.hit + serving.miss) * 1e9 / serving.prefill_rate / 86400
serving.decode_nodes [nodes] = serving.out * 1e9 / serving.decode_rate / 86400
serving.derived_nodes [nodes] = serving.prefill_nodes + serving.decode_nodes
serving.day [USD/day] = serving.nodes * serving.gpus_per_node * 24 * price.rent
serving.income [USD/day] = 1000 * (serving.hit * serving.price_hit \
+ serving.miss * serving.price_miss + serving.out * serving.price_out)
serving.margin [share change] = printed.income / serving.day - 1
serving.in_cost [USD/M tokens] = price.rent * serving.gpus_per_node / serving.prefill_rate \
/ 3600 * 1e6
serving.out_cost [USD/M tokens] = price.rent * serving.gpus_per_node / serving.decode_rate \
/ 3600 * 1e6

# what the published sum leaves out
finance.straight [USD/year] = fleet.capex / fleet.years
finance.annual [USD/year] = fleet.capex * crf(finance.cost_of_capital, fleet.years)
finance.annual_resold [USD/year] = finance.annual - finance.residual * fleet.capex \
* (1 + finance.cost_of_capital) ** -fleet.years * crf(finance.cost_of_capital, fleet.years)
finance.capital [USD] = finance.annual * fleet.years - fleet.capex
finance.fabric [USD] = fleet.capex / (1 - finance.interconnect) - fleet.capex
finance.staff [USD] = programme.people * programme.pay * fleet.years
finance.everything [USD] = fleet.cost + finance.fabric + finance.capital + finance.staff

# computed over printed, less one
check.hours [share change] = run.hours / printed.hours - 1
check.pretrain [share change] = run.pretrain_cost / printed.pretrain - 1
check.days [share change] = run.days / printed.days - 1
check.headline [share change] = headline.cost / printed.headline - 1
check.r1 [share change] = r1.cost / printed.r1 - 1
check.first_capex [share change] = first.capex / printed.first_capex - 1
check.first_opex [share change] = first.opex / printed.first_opex - 1
check.capex [share change] = fleet.capex / printed.capex - 1
check.opex [share change] = fleet.opex / printed.opex - 1
check.fleet [share change] = fleet.cost / printed.fleet - 1
check.per_year [share change] = fleet.per_year / printed.per_year - 1
check.hopper_capex [share change] = hopper.capex / printed.hopper_capex - 1
check.hopper_per_year [share change] = hopper.per_year / printed.hopper_per_year - 1
check.hoppers [share change] = hopper.count / printed.hoppers - 1
check.gpu_spend [share change] = chips.without_h20 / printed.gpu_spend - 1
check.serving_day [share change] = serving.day / printed.serving_day - 1
check.nodes [share change] = serving.derived_nodes / serving.nodes - 1
check.income [share change] = serving.income / printed.income - 1
"""

_SIGNED = " change"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A file of inputs, checked."""

    name: str
    inputs: Mapping[str, Figure]

    def values(self) -> dict[str, float]:
        return {key: entry.value for key, entry in self.inputs.items()}


@lru_cache
def formulas() -> tuple[Formula, ...]:
    """The sheet, in an order in which each line reads only inputs and lines above it."""
    return tuple(formula(line) for line in SHEET.splitlines() if line and line[0] != "#")


@lru_cache
def roots() -> dict[str, frozenset[str]]:
    """For each figure of the sheet, the inputs that it depends on, through other figures too."""
    found: dict[str, frozenset[str]] = {}
    for line in formulas():
        found[line.key] = frozenset().union(*(found.get(key, {key}) for key in line.reads))
    return found


def load(path: Path | None = None) -> Case:
    """Read a case: the shipped one, or an edited copy with all of its keys. Raises `CostError`."""
    shipped = _flat(SHIPPED)
    given = _flat(path) if path else shipped
    file = path or SHIPPED
    name = quoted(file.name)
    check_keys(name, given, shipped)
    for key in shipped:
        if key not in given:
            raise CostError(f"{name} has no '{key}'; copy that table from {SHIPPED.name}.")
    units = {key: table["unit"] for key, table in shipped.items()}
    inputs = {key: figure(file, key, given[key], unit) for key, unit in units.items()}
    case = Case(name=name, inputs=inputs)
    solve(case)
    return case


def _flat(path: Path) -> dict[str, Any]:
    """The tables of a file by dotted key; a loose value keeps its own name."""
    out: dict[str, Any] = {}
    for group, tables in read_toml(path).items():
        if isinstance(tables, Mapping):
            out |= {f"{group}.{key}": table for key, table in tables.items()}
        else:
            out[group] = tables
    return out


def evaluate(values: Mapping[str, float]) -> dict[str, float]:
    """All figures of the sheet from the inputs' values; `CostError` where one is not a number."""
    found = dict(values)
    for line in formulas():
        try:
            found[line.key] = line.rule(found)
        except (ZeroDivisionError, OverflowError):
            raise CostError(
                f"'{line.key}' = {line.text} is no number; change {_listed(line.key)}."
            ) from None
    return {line.key: found[line.key] for line in formulas()}


def solve(case: Case) -> dict[str, float]:
    """All figures of a case; `CostError` also where one comes out as less than nothing."""
    try:
        found = evaluate(case.values())
    except CostError as error:
        raise CostError(f"{case.name}: {error}") from None
    for line in formulas():
        value = found[line.key]
        if not math.isfinite(value) or (value < 0 and not line.unit.endswith(_SIGNED)):
            raise CostError(
                f"{case.name}: '{line.key}' = {line.text} comes out as {value:,.4g} {line.unit}; "
                f"change {_listed(line.key)}."
            )
    return found


def _listed(figure: str) -> str:
    keys = sorted(roots()[figure])
    more = " and others" if len(keys) > 8 else ""
    return keys[0] if len(keys) == 1 else f"one of {', '.join(keys[:8])}{more}"


def spreads(case: Case, *, count: int = DRAWS, seed: int = 0) -> dict[str, Spread]:
    """P10, P50 and P90 of every figure."""
    return monte_carlo(case.inputs, evaluate, count=count, seed=seed)


def swings(case: Case, output: str) -> list[Swing]:
    """The inputs that move a figure, the widest first."""
    used = {key: entry for key, entry in case.inputs.items() if key in roots()[output]}
    fixed = case.values()
    return tornado(used, lambda values: evaluate(fixed | values), output)


def corner(case: Case, *, low: Iterable[str] = (), high: Iterable[str] = ()) -> dict[str, float]:
    """All figures with some inputs at their low and some at their high end."""
    ends = {key: case.inputs[key].low for key in low} | {key: case.inputs[key].high for key in high}
    return evaluate(case.values() | ends)


def blind_range(case: Case) -> tuple[float, float]:
    """The bottom-up of the running cost with all inputs of the site at their low, and high, ends.

    US dollars. Wider than P10 to P90: here they all err to one side.
    """
    return corner(case, low=SITE)["blind.opex"], corner(case, high=SITE)["blind.opex"]


def blind_spread(case: Case) -> Spread:
    """The bottom-up's P10, P50 and P90 for the fleet as the table has it, US dollars."""
    varied = {k: entry for k, entry in case.inputs.items() if k in SITE or k.endswith(".kw")}
    fixed = case.values()
    found = monte_carlo(varied, lambda v: {"opex": evaluate(fixed | v)["blind.opex"]}, count=DRAWS)
    return found["opex"]


def programme_range(case: Case) -> tuple[dict[str, float], dict[str, float]]:
    """The figures where share of the final run, people and pay make the programme least, and most.

    The owner's rate and the rent stay at their values.
    """
    share, staff = ("programme.final_share",), ("programme.people", "programme.pay")
    return corner(case, high=share, low=staff), corner(case, low=share, high=staff)


def to_dict(case: Case) -> dict[str, Any]:
    """For JSON: inputs with their sources; figures with formula, spread and the inputs behind."""
    figures, spread = solve(case), spreads(case)
    return {
        "case": case.name,
        "draws": DRAWS,
        "inputs": {key: asdict(entry) for key, entry in case.inputs.items()},
        "figures": {
            line.key: {
                "value": figures[line.key],
                "unit": line.unit.removesuffix(_SIGNED),
                **asdict(spread[line.key]),
                "formula": line.text,
                "inputs": sorted(roots()[line.key]),
            }
            for line in formulas()
        },
    }


def show(
    path: Path | None = None, *, json: bool = False, html: Path | None = None, why: bool = False
) -> int:
    """Print the case, and write its page where one is asked for; returns the exit code.

    `why` prints each figure's formula and each input's source. Raises `CostError`.
    """
    case = load(path)
    if json:
        print(json_format.dumps(to_dict(case), indent=1))
    from benthic.cost import page  # what draws is loaded only where it is used
    from benthic.cost.cases import rings

    if not json:
        page.print_page(rings.story(case, why=why))
    if html:
        page.write_page(rings.story(case, why=True, drawn=True), html)
        if not json:
            page.say(f"Page: {html}")
    return 0
