"""FOCUS export: it keeps the specification's rules, and its columns sum to the report's numbers."""

import csv
import json
import re
import tracemalloc
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic.cost.bill import focus
from benthic.cost.bill.bill import draw_up
from benthic.cost.bill.focus import HEADER, LONGEST, House, show, write
from benthic.cost.bill.focus_rules import COLUMNS, CROSS, MOST, validate
from benthic.cost.bill.terms import EXAMPLE, Terms, load
from benthic.cost.catalog.load import CostError
from benthic.cost.ledger.entries import Entry, external_id
from benthic.cost.ledger.ledger import Ledger

START = 1_735_689_600.0  # 2025-01-01 in UTC
HOUSE = House(account="lab", site="eu-1")
HOSTILE = ["=cmd|' /C calc'!A0", "+1+1", "-2", "@SUM(A1)", "\t=1", 'a\r\nb,"c"\x00', "\uff1d1"]


def row(key: str, **given: Any) -> Entry:
    started, hours = given.pop("started", START), given.pop("hours", 1.0)
    values = {
        "run": f"/runs/{key}",
        "attempt": "a",
        "stage": "train",
        "purpose": "pretrain",
        "device": "H100-SXM",
        "price_per_hour": 2.0,
        "price_source": "--price",
        "external": key,
        "energy_source": "nvml",
        "seconds": hours * 3600,
        "started": started,
        "heartbeat": started + hours * 3600,
        "ended": started + hours * 3600,
        "status": "done",
        "gpus": 8.0,
    }
    return Entry(**(values | given))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def written(ledger: Ledger, terms: Terms | None = None, **filters: Any) -> list[dict[str, str]]:
    target = ledger.path.with_name("out.csv")
    done = write(ledger, target, HOUSE, terms or Terms(), **filters)
    assert done.faults == []
    rows = read(target)
    assert len(rows) == done.rows and validate(rows) == []
    return rows


def total(rows: list[dict[str, str]], name: str) -> float:
    return float(sum(Decimal(found[name]) for found in rows))


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "purpose": st.sampled_from(["pretrain", "rl", "ablation", "idle"]),
            "status": st.sampled_from(["done", "failed", "interrupted"]),
            "hours": st.floats(0, 3000),
            "started": st.floats(START - 1e8, START + 1e8),
            "count": st.integers(1, 5000),
            "price_per_hour": st.floats(0, 1e4),
            "project": st.sampled_from(["", "reef", *HOSTILE]),
            "device": st.sampled_from(["H100", "=1", "\t"]),
            "run": st.sampled_from(["/r/1", "/r/2", "=x"]),
            "seconds_productive": st.none() | st.floats(0, 1e7),
            "parent": st.none() | st.just(external_id("0")),
        }
    ),
    max_size=5,
)


@given(ROWS)
@settings(max_examples=30)
def test_columns_sum_to_the_report_whatever_the_rows(
    tmp_path_factory: pytest.TempPathFactory, found: list[dict[str, Any]]
) -> None:
    with Ledger(tmp_path_factory.mktemp("f") / "l.sqlite") as ledger:
        ledger.add(row(str(number), **values) for number, values in enumerate(found))
        bill, rows = draw_up(ledger), written(ledger)
    assert total(rows, "ListCost") == pytest.approx(bill.headline.dollars, rel=1e-9, abs=1e-4)
    assert total(rows, "EffectiveCost") == pytest.approx(bill.full, rel=1e-9, abs=1e-4)
    hours = total(rows, "ConsumedQuantity")
    assert hours == pytest.approx(bill.metered.hours, rel=1e-9, abs=1e-6)


def test_people_costs_and_an_owners_rate(ledger: Ledger) -> None:
    ledger.add([row("a", hours=24 * 50, count=8), row("b", purpose="data")])
    terms = load(EXAMPLE)
    bill, rows = draw_up(ledger, terms), written(ledger, terms)
    assert total(rows, "EffectiveCost") == pytest.approx(bill.full)
    assert total(rows, "ListCost") == pytest.approx(bill.headline.dollars)
    bought = [found for found in rows if found["ChargeCategory"] == "Purchase"]
    assert [found["ServiceName"] for found in bought] == ["People", "People", "Other costs"]
    assert total(bought, "BilledCost") == pytest.approx(bill.people + 5000)
    assert all(found["ConsumedQuantity"] == "" for found in bought)


def test_a_row_is_cut_at_the_months_of_utc(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        ledger.add([row("a", started=START - 86400.5, hours=24 * 32)])
        rows = written(ledger)
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
    spans = [(found["ChargePeriodStart"], found["ChargePeriodEnd"]) for found in rows]
    assert spans == [
        ("2024-12-30T23:59:59Z", "2025-01-01T00:00:00Z"),
        ("2025-01-01T00:00:00Z", "2025-02-01T00:00:00Z"),
    ]
    assert total(rows, "ConsumedQuantity") == 24 * 32
    assert float(rows[1]["ConsumedQuantity"]) == pytest.approx(24 * 31, rel=1e-4)


def test_what_an_attempt_begun_anew_threw_away_is_no_list_cost(ledger: Ledger) -> None:
    cut = {"run": "/runs/x", "status": "interrupted", "seconds_productive": 1800.0}
    ledger.add(
        [
            row("a", attempt="first", **cut),
            row("b", attempt="second", **cut),
            row("c", attempt="second", run="/runs/x", hours=2.0),
        ]
    )
    rows = written(ledger)
    lost = [float(found["ListCost"]) for found in rows if found["x_Outcome"] == "interrupted"]
    assert sorted(lost) == [0, 1]
    assert total(rows, "ListCost") == pytest.approx(draw_up(ledger).headline.dollars) == 5.0


@pytest.mark.parametrize("given", [{"name": "   "}, {"run": "  "}, {"user": " "}, {"name": " a "}])
def test_blanks_are_no_text(ledger: Ledger, given: dict[str, str]) -> None:
    ledger.add([row("a", **given)])
    (found,) = written(ledger)
    assert all(cell == cell.strip() for cell in found.values())
    assert found["ResourceName"] == ("" if "run" in given else "a")


def test_the_mapping(ledger: Ledger) -> None:
    ledger.add(
        [
            row("a", run="/home/x/runs/final", project="reef", user="ana", joules=3.6e6),
            row("b", status="failed", purpose="ablation", gpus=0.0, device="CPU", project=""),
        ]
    )
    found = {one["ResourceName"]: one for one in written(ledger)}
    final, failed = found["final"], found["b"]
    assert (final["ListCost"], final["EffectiveCost"], final["BilledCost"]) == ("2.0", "2.0", "2.0")
    assert (failed["ListCost"], failed["EffectiveCost"]) == ("0.0", "2.0")
    assert final["ResourceId"] == "/home/x/runs/final" and final["SubAccountId"] == "reef"
    assert final["SkuId"] == "H100-SXM" and final["RegionId"] == "eu-1"
    assert final["ConsumedUnit"] == "GPU-Hours" and failed["ConsumedUnit"] == "Device-Hours"
    assert final["x_Purpose"] == "pretrain" and failed["x_Outcome"] == "failed"
    assert failed["SubAccountId"] == failed["SubAccountName"] == ""
    assert json.loads(final["Tags"])["benthic/user"] == "ana"
    assert float(final["x_EnergyKilowattHours"]) == 1
    assert final["BillingPeriodStart"] == "2025-01-01T00:00:00Z"
    assert final["BillingCurrency"] == "USD" and final["ChargeClass"] == ""


def test_no_cell_is_longer_than_a_text_may_be(ledger: Ledger) -> None:
    names = ("run", "name", "device", "project", "user", "stage", "price_source")
    for end in ("a", "b"):
        ledger.add([row(end, **dict.fromkeys(names, "\u202e" * 100_000 + end))])
    first, second = written(ledger)
    assert all(len(cell) <= LONGEST for name, cell in first.items() if name != "Tags")
    assert all(len(tag) <= LONGEST for tag in json.loads(first["Tags"]).values())
    for name in ("ResourceId", "SkuId", "SkuPriceId", "SubAccountId"):
        assert first[name] != second[name]


def test_cells_never_start_a_formula(ledger: Ledger) -> None:
    ledger.add(
        row(str(i), project=text, user=text, name=text, device=text, price_source=text, run=text)
        for i, text in enumerate(HOSTILE)
    )
    target = ledger.path.with_name("out.csv")
    write(ledger, target, House(account="=1", site="@3"), Terms())
    raw = target.read_bytes()
    assert b"\x00" not in raw
    for found in read(target):
        for name, value in found.items():
            harmless = re.fullmatch(r"-?[\d.]*", value)
            assert harmless or not value.lstrip().startswith(("=", "+", "-", "@", "\uff1d")), name


def test_two_projects_and_filters(ledger: Ledger) -> None:
    ledger.add([row("a", project="reef"), row("b", project="sonar", started=START + 86400)])
    (one,) = written(ledger, project="reef")
    assert one["SubAccountId"] == "reef"
    (other,) = written(ledger, since=START + 1)
    assert other["SubAccountId"] == "sonar"


def test_an_empty_ledger_is_a_header(ledger: Ledger) -> None:
    assert written(ledger) == []
    assert tuple(ledger.path.with_name("out.csv").read_text().strip().split(",")) == HEADER


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lab.sqlite"
    with Ledger(path) as ledger:
        ledger.add([row("a"), row("b", purpose="data", started=START + 86400)])
    target = tmp_path / "out.csv"
    assert show(target, ledger=path) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "2 rows of FOCUS 1.2; list cost $2.00, effective cost $4.00" in told
    assert read(target)[0]["BillingAccountName"] == "lab"
    with pytest.raises(CostError, match="cannot be written"):
        show(tmp_path / "no" / "out.csv", ledger=path)
    assert not list(tmp_path.glob(".partial*"))


def test_a_failure_on_the_way_leaves_the_old_file(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.add([row("a")])
    target = ledger.path.with_name("out.csv")
    target.write_text("old")
    monkeypatch.setattr(focus, "_months", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(ledger, target, HOUSE, Terms())
    assert target.read_text() == "old" and not list(target.parent.glob(".partial*"))


def test_a_file_with_many_faults_is_whole_and_says_so(ledger: Ledger) -> None:
    ledger.add(row(str(i)) for i in range(MOST + 50))
    target = ledger.path.with_name("out.csv")
    done = write(ledger, target, House(account="lab", site=" "), Terms())
    assert len(done.faults) == MOST and len(read(target)) == done.rows == MOST + 50


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    peaks = []
    for count in (200, 1200):
        with Ledger(tmp_path / f"{count}.sqlite") as ledger:
            ledger.add(row(str(i), run="/r/1", purpose="data") for i in range(count))
            tracemalloc.start()
            write(ledger, tmp_path / "out.csv", HOUSE, Terms())
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 100_000


@pytest.fixture
def good(ledger: Ledger) -> dict[str, str]:
    ledger.add([row("a", project="reef")])
    (found,) = written(ledger)
    return found


WRONG = {
    "text": ["  "],
    "decimal": ["1,5", "+1", "$2", "1/2", "1e5", "NaN", "--1"],
    "time": [
        "2025-01-01",
        "2025-01-01T00:00:00",
        "2025-01-01T00:00:00+01:00",
        "2025-13-01T00:00:00Z",
    ],
    "currency": ["usd", "US$", "DOLLAR"],
    "object": ["[1]", "{'a': 1}", '{"a": {"b": 1}}', '{"a": 1, "a": 2}', "text"],
}


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
def test_each_columns_rule_finds_what_breaks_it(column: Any, good: dict[str, str]) -> None:
    assert validate([good]) == []
    for wrong in WRONG[column.kind]:
        (fault, *_) = validate([good | {column.name: wrong}])
        assert column.name in fault and "row 1" in fault
    if column.allowed:
        assert "none of its values" in validate([good | {column.name: "usage"}])[0]
    nulled = validate([good | {column.name: ""}])
    assert column.nulls or "is null, which it must not be" in nulled[0]
    without = {name: value for name, value in good.items() if name != column.name}
    missing = [fault for fault in validate([without]) if "mandatory" in fault]
    assert bool(missing) == column.mandatory


CROSSED = [
    ({"Tags": '{"stage": "train"}'}, "each tag is the provider's"),
    ({"BillingPeriodEnd": "2025-01-01T00:00:00Z"}, "BillingPeriodStart is before"),
    ({"ChargePeriodEnd": "2025-01-01T00:00:00Z"}, "ChargePeriodStart is before"),
    ({"ChargePeriodEnd": "2025-02-01T00:00:01Z"}, "within its billing period"),
    ({"ChargeCategory": "Purchase", "ConsumedQuantity": "", "ConsumedUnit": ""}, "Usage-Based"),
    ({"ConsumedQuantity": "", "ConsumedUnit": ""}, "ConsumedQuantity is given"),
    ({"ConsumedUnit": ""}, "ConsumedUnit is null where"),
    ({"PricingQuantity": "", "PricingUnit": ""}, "PricingQuantity is given"),
    ({"PricingUnit": ""}, "PricingUnit is null where"),
    ({"ListUnitPrice": ""}, "ListUnitPrice is given"),
    ({"PricingCategory": ""}, "PricingCategory is given"),
    ({"SkuId": "", "SkuMeter": ""}, "SkuId is given"),
    ({"SkuPriceId": ""}, "SkuPriceId is given"),
    ({"ChargeCategory": "Tax"}, "SkuId is null for Tax"),
    ({"ListCost": "3"}, "ListUnitPrice times PricingQuantity"),
    ({"ContractedCost": "3"}, "ContractedCost is BilledCost"),
    ({"RegionName": ""}, "RegionName is null where"),
    ({"ResourceType": ""}, "ResourceType is null where"),
    ({"ResourceName": "/runs/a"}, "never repeats it"),
    ({"SkuId": ""}, "SkuMeter is null where"),
    ({"SubAccountName": ""}, "SubAccountName is null where"),
    ({"ServiceSubcategory": "Bits"}, "belongs to ServiceCategory"),
]


@pytest.mark.parametrize(("change", "says"), CROSSED)
def test_each_rule_between_columns_finds_what_breaks_it(
    change: dict[str, str], says: str, good: dict[str, str]
) -> None:
    assert any(says in fault for fault in validate([good | change]))


def test_every_rule_between_columns_was_broken_once() -> None:
    told = {says for _, says in CROSSED}
    untold = [
        rule.text
        for rule in CROSS
        if not any(says in rule.text for says in told) and "is null for Tax" not in rule.text
    ]
    assert untold == []


def test_names_of_columns_are_checked(good: dict[str, str]) -> None:
    assert "prefix it with x_" in validate([good | {"Colour": "red"}])[0]
    early = {"x_Early": "1"} | good
    assert "stands after custom ones" in validate([early])[0]
    twice = [good, good | {"SkuId": "other"}]
    assert "two SkuIds" in validate(twice)[0]
    assert len(validate([good | {"BilledCost": ""}] * 500)) == MOST
