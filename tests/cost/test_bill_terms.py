"""What a bill is uncertain of: terms, ranges of prices, energy that is known for a part."""

import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from benthic.cost.bill import bill as room
from benthic.cost.bill.bill import draw_up
from benthic.cost.bill.page import story
from benthic.cost.bill.report import to_dict
from benthic.cost.bill.spread import Model
from benthic.cost.bill.terms import ASSUMED, EXAMPLE, load, price_range
from benthic.cost.catalog.load import CostError
from benthic.cost.ledger.entries import external_id
from benthic.cost.ledger.ledger import Ledger
from benthic.cost.page import render
from tests.cost.test_bill import HOUR, START, billed, row, terms_file


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


def test_an_owners_rate_and_people(ledger: Ledger, tmp_path: Path) -> None:
    terms = terms_file(
        tmp_path,
        """
        [rates]
        H100-SXM = { value = 1.5, low = 1, high = 2, unit = "USD/GPU-hour" }
        [people.research]
        count = { value = 2, unit = "people" }
        pay = { value = 36_500, low = 30_000, high = 40_000, unit = "USD/person-year" }
        share = { value = 0.5, unit = "share" }
        [costs]
        data = { value = 10, unit = "USD" }
        """,
    )
    bill = billed(
        ledger,
        row("a", hours=10),
        row("b", hours=14, purpose="ablation", started=START + 10 * HOUR),
        row("c", hours=1, device="CPU", purpose="data"),
        terms=terms,
    )
    assert bill.headline.dollars == pytest.approx(20)
    assert bill.owned == pytest.approx(-5)
    assert bill.metered.dollars == pytest.approx(24 * 1.5 + 2)
    assert bill.people == pytest.approx(2 * 36_500 * 0.5 / 365)  # one day of the calendar
    assert bill.full == pytest.approx(38 + 100 + 10)
    assert sum(amount for _, amount in bill.waterfall) == pytest.approx(bill.full)
    factors = bill.factors
    assert factors and factors[0] * factors[1] * factors[2] == pytest.approx(bill.full / 20)
    assert bill.spread["full"].p10 < bill.full < bill.spread["full"].p90
    assert bill.spread["headline"].p10 == bill.spread["headline"].p90  # rent is as paid
    assert [swing.key for swing in bill.swings] == ["people.research.pay", "rates.H100-SXM"]
    widths = [swing.width for swing in bill.swings]  # of one day of two halves, of 24 hours
    assert widths == pytest.approx([10_000 / 365, 24 * 1.0])
    told = render(story(bill, drawn=True))
    assert "From bill.toml" in told and "people.research.pay" in told


def test_the_example_of_terms_loads() -> None:
    terms = load(EXAMPLE)
    assert terms.roles == ["research"] and terms.costs == ["costs.data"]
    assert terms.rate("anything") == "rates.all"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[people.a]\ncount = { value = 1, unit = 'people' }", "no 'pay'"),
        ("[people]\na = 3", "no table"),
        ("rates = 3", "no table"),
        ("[rate]", "did you mean 'rates'"),
        ("[costs]\ndata = { value = 5, unit = 'EUR' }", "two currencies"),
        ("[costs]\ndata = 5", "without a unit"),
        ("[rates]\nall = { value = -1, unit = 'USD/GPU-hour' }", "must be from"),
        ("[people.'a.b']\n", "a dot"),
        ("[costs", "not valid TOML"),
    ],
)
def test_a_wrong_file_of_terms_is_a_sentence(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(CostError, match=re.escape(says)):
        load(terms_file(tmp_path, text))


def test_a_cost_called_pay_is_no_role(tmp_path: Path) -> None:
    text = "[costs]\n'x.pay' = { value = 5, unit = 'USD' }"
    assert load(terms_file(tmp_path, text)).roles == []


def test_ranges_of_prices() -> None:
    assert price_range(2.0, "catalog: rent of H100 at 2025-01, 1.7 to 2.95") == (1.7, 2.95)
    metered = "catalog: rent.h100-sxm (1.7 to 2.95), 2026-03, https://x.org/1 to 9"
    assert price_range(2.35, metered) == (1.7, 2.95)
    assert price_range(2.0, "assumption: a guess") == (2 * ASSUMED[0], 2 * ASSUMED[1])
    assert price_range(2.0, "--price") == (2.0, 2.0)
    assert price_range(5.0, "catalog: x, 1 to 2") == (5.0, 5.0)  # an amended price left its range
    assert price_range(2.0, "v1.2.3 to 4.5.6") == (2.0, 2.0)


def test_uncertain_prices_move_headline_and_full_alike(ledger: Ledger) -> None:
    source = "catalog: rent of H100-SXM at 2025-01, 1 to 4"
    bill = billed(
        ledger,
        row("a", price_source=source),
        row("b", purpose="ablation", price_source=source, price_per_hour=3.0, hours=1 / 3),
        row("c", purpose="data", device="CPU", price_source="assumption: a guess"),
        row("d", purpose="chat"),
    )
    assert set(bill.inputs) == {"price.H100-SXM (catalog)", "price.CPU (assumed)"}
    price = bill.inputs["price.H100-SXM (catalog)"]
    assert (price.low, price.value, price.high) == (1.0, 2.25, 4.0)
    central = Model(bill)({key: entry.value for key, entry in bill.inputs.items()})
    assert central["headline"] == pytest.approx(bill.headline.dollars)
    assert central["full"] == pytest.approx(bill.full)
    assert central["ratio"] == pytest.approx(bill.full / bill.headline.dollars)
    low, high = (asdict(s) for s in bill.swings)
    first = {s.key: s for s in bill.swings}["price.H100-SXM (catalog)"]
    assert (first.at_low, first.at_high) == pytest.approx((4 / 3 + 4, 16 / 3 + 4))
    assert bill.spread["full"].p10 < bill.spread["full"].p50 < bill.spread["full"].p90
    assert low["key"] != high["key"]


def test_energy_by_source_with_its_range(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        row("a", joules=3.6e6),
        row(
            "b",
            joules=7.2e6,
            joules_low=3.6e6,
            joules_high=1.08e7,
            energy_source="estimate: 300 W, a guess",
        ),
    ]
    bill = billed(ledger, *rows)
    assert bill.energy.kinds["nvml"] == (3.6e6, 3.6e6, 3.6e6)
    assert bill.energy.kinds["estimate"] == (7.2e6, 3.6e6, 1.08e7)
    assert 2 < bill.spread["energy"].p10 < 3 < bill.spread["energy"].p90 < 4
    page = render(story(bill))
    assert "2.00 kWh" in page and page.count("measured") == 1
    monkeypatch.setattr(room, "EXACT", 1)
    large = draw_up(ledger)
    assert large.energy.sampled and set(large.energy.sources.values()) == {1}
    assert "by the newest rows" in render(story(large))


def test_an_estimate_without_a_range_is_not_called_measured(ledger: Ledger) -> None:
    rows = [row("a", joules=5.0, energy_source=s) for s in ("estimate: 30 W, given",)]
    assert "no range given" in render(story(billed(ledger, *rows)))


def test_a_median_that_is_not_the_figure_is_explained(ledger: Ledger) -> None:
    source = "catalog: rent.x (2.45 to 12.29), 2026-03"
    priced = {"price_per_hour": 3.95, "price_source": source}
    one = billed(ledger, row("a", **priced), row("b", purpose="ablation", **priced))
    assert one.spread["headline"].p50 == pytest.approx(one.headline.dollars, rel=0.03)
    assert one.spread["full"].p50 == pytest.approx(one.full, rel=0.03)
    assert "P50 of" not in render(story(one))
    several = billed(ledger, *(row(f"c{i}", device=f"d{i}", **priced) for i in range(4)))
    assert several.spread["full"].p50 > 1.1 * several.full
    told = render(story(several))
    assert "P50 of headline and everything lies above the bill&#39;s own figure since" in told


def test_energy_says_what_it_is_known_for(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    blind = {"energy_source": "not recorded", "hours": 175}
    bill = billed(ledger, row("a", hours=4, joules=3.6e6))
    assert "all of it" in render(story(bill)) and "known for" not in render(story(bill))
    assert to_dict(bill)["energy"]["device_hours_known"] == 4
    bill = billed(ledger, row("b", **blind))
    page = render(story(bill))
    assert "known for 4.0 of 179 device-hours" in page
    assert to_dict(bill)["energy"]["device_hours_known"] == pytest.approx(4)
    monkeypatch.setattr(room, "EXACT", 1)
    large = draw_up(ledger)
    assert "known for 1 of the newest 2 rows" in render(story(large))
    assert to_dict(large)["energy"]["device_hours_known"] is None


def test_amended_seconds_bring_no_energy(ledger: Ledger) -> None:
    ledger.add([row("a", hours=1, joules=40.0, project="p"), row("b", hours=2, joules=3.6e6)])
    ledger.amend(external_id("a"), "seconds", 4 * HOUR, reason="the clock stood")
    bill = draw_up(ledger)
    assert bill.metered.hours == 6 and bill.energy.hours == pytest.approx(1 + 2)
    assert bill.energy.amended == to_dict(bill)["energy"]["rows_of_amended_seconds"] == 1
    page = render(story(bill))
    assert "known for 3.0 of 6.0 device-hours" in page
    assert "1 row with amended seconds: the energy is that of the seconds recorded." in page
    assert draw_up(ledger, project="").energy.amended == 0
    ledger.amend(external_id("a"), "seconds", HOUR / 2, reason="less")
    less = draw_up(ledger)
    assert less.energy.hours == pytest.approx(2.5) and less.energy.amended == 1
    ledger.amend(external_id("a"), "seconds", HOUR, reason="it was right")
    assert draw_up(ledger).energy.amended == 0
