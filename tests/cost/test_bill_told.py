"""The bill in words: figures that agree wherever they stand, and sentences that are true."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic.cost.bill.bill import Bill, draw_up
from benthic.cost.bill.page import story
from benthic.cost.bill.report import card, page_of, show, to_dict
from benthic.cost.bill.terms import load
from benthic.cost.ledger.entries import Entry
from benthic.cost.ledger.ledger import Ledger
from benthic.cost.page import Page, Points, Table, digits, render
from tests.cost.test_bill import HOSTILE, START, billed, row, terms_file


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


def table(page: Page, section: str, column: str) -> Table:
    blocks = next(s.blocks for s in page.sections if s.title == section)
    return next(b for b in blocks if isinstance(b, Table) and b.columns[0] == column)


def assumed(bill: Bill) -> dict[str, str]:
    blocks = next(s.blocks for s in page_of(bill).sections if s.title == "What is assumed")
    return {name: text for b in blocks if isinstance(b, Points) for name, text in b.items}


def dollars(cell: str) -> float:
    return float(cell.strip("+").replace("$", "").replace(",", ""))


def test_a_step_has_one_figure_wherever_it_is_told(ledger: Ledger) -> None:
    """5,600.5 dollars are 5,601 alone, and 5,600 after 10,000.5 in a column that adds up."""
    bill = billed(
        ledger,
        row("a", price_per_hour=10_000.5),
        row("b", price_per_hour=5_600.5, status="failed"),
        row("c", price_per_hour=7_000.25, purpose="idle"),
    )
    page = story(bill)
    steps = next(s for s in page.sections if s.title == "From headline to all of it")
    told = {cells[0]: cells[2].strip("+") for cells in steps.blocks[-1].rows}  # type: ignore[union-attr]
    numbers = {number.label: number.value for number in page.numbers}
    assert numbers["Failed and interrupted"] == told["failed and interrupted"] == "$5,600"
    assert numbers["Idle"] == told["idle: paid for, unused"] == "$7,000"
    assert f"{numbers['Idle']}, 1.0 device-hours" in render(page)
    assert numbers["Headline: final runs"] == "$10,001" and numbers["Everything"] == "$22,601"
    assert page.verdict.startswith("$10,001 is the headline")


def test_a_headline_of_next_to_nothing_has_no_ratio(ledger: Ledger) -> None:
    bill = billed(ledger, row("a", price_per_hour=2e-309), row("b", status="failed"))
    assert bill.factors is None
    page = render(story(bill, drawn=True))
    assert "count $0.00, next to nothing beside it." in page and "times as much" not in page
    card(bill)
    free = billed(ledger, row("c", price_per_hour=0.0, project="p"))
    billed(ledger, row("d", status="failed", project="p"))
    free = draw_up(ledger, project="p")
    assert "count $0.00, for they had no price." in story(free).verdict
    assert (digits(float("inf")), digits(2e16), digits(2572.56)) == ("inf", "2e+16", "2,573")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "holds no row"),
        ([row("a")], "all of it"),
        ([row("a", status="failed")], "no final run has ended well"),
        ([row("a", price_per_hour=0.0)], "no hour has a price"),
        ([row("a"), row("b", purpose="ablation")], "2.00 times as much"),
    ],
)
def test_each_kind_of_ledger_reads_well(
    rows: list[Entry], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "l.sqlite"
    with Ledger(path) as ledger:
        ledger.add(rows)
    html, markdown = tmp_path / "bill.html", tmp_path / "bill.md"
    assert show(ledger=path, html=html, markdown=markdown) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert says in told
    assert says in html.read_text() and says in markdown.read_text()
    assert "nan" not in told and "inf" not in told.replace("information", "")
    show(ledger=path, json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == len(rows)
    assert not list(tmp_path.glob(".partial*"))


def test_hostile_names_are_shown_and_never_run(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        row(
            str(i),
            project=HOSTILE,
            user=f"{HOSTILE}{i}",
            run=f"/home/secret/{HOSTILE}{i}",
            name=HOSTILE,
            device=HOSTILE,
            price_source=HOSTILE,
            energy_source=HOSTILE,
            joules=5.0,
            purpose="ablation" if i else "pretrain",
        )
        for i in range(3)
    ]
    bill = billed(ledger, *rows)
    page = render(story(bill, drawn=True))
    assert "<script" not in page and "\x1b" not in page and "\u202e" not in page
    assert "&lt;script&gt;" in page
    show(ledger=ledger.path, project=HOSTILE)
    told = capsys.readouterr().out
    assert "\x1b[31m" not in told and "\u202e" not in told
    public = card(replace(bill, filters={}))
    assert "secret" not in public and "alert" not in public.partition("### Energy")[0]
    assert "\x1b" not in public and "<script>" not in public


def test_the_page_stands_alone(ledger: Ledger) -> None:
    bill = billed(ledger, row("a"), row("b", purpose="ablation"))
    page = render(story(bill, drawn=True))
    assert "<script" not in page and "<svg" in page and "src=" not in page
    assert not re.findall(r"(?:href|url)\s*[=(]\s*[\"']?(?!data:)https?:", page)
    assert "prefers-color-scheme: dark" in page
    assert "<title>The bill, 2025-01-01 to 2025-01-01</title>" in page
    assert re.search(r"Drawn up 20\d\d-\d\d-\d\d by Benthic \S+ from ledger\.sqlite\.", page)


def test_ten_users_by_name_and_the_rest_in_one_line(ledger: Ledger) -> None:
    bill = billed(ledger, *(row(str(i), user=f"u{i:02}", hours=1 + i) for i in range(14)))
    section = next(s for s in story(bill).sections if s.title == "Who and what used it")
    users = next(block for block in section.blocks if getattr(block, "title", "") == "Users")
    names = [cells[0] for cells in users.rows]  # type: ignore[union-attr]
    assert len(names) == 11 and names[0] == "u13" and names[-1] == "4 others"
    amounts = [float(cells[-1].strip("$")) for cells in users.rows]  # type: ignore[union-attr]
    assert sum(amounts) == pytest.approx(bill.metered.dollars)


def test_two_prices_in_one_table_are_told(ledger: Ledger, tmp_path: Path) -> None:
    rate = "[rates]\nall = { value = 9, unit = 'USD/GPU-hour' }"
    bill = billed(ledger, row("a", user="u"), row("b", user="v"))
    assert not table(story(bill), "Who and what used it", "user").note
    bill = draw_up(ledger, load(terms_file(tmp_path, rate)))
    note = table(story(bill), "Who and what used it", "user").note
    assert note == "The headline is at the ledger's price, the rest at the owner's."


def test_a_bill_below_a_dollar_has_digits(ledger: Ledger) -> None:
    bill = billed(ledger, row("a", hours=0.01, price_per_hour=0.05), row("b", purpose="data"))
    assert bill.full > 1
    small = billed(ledger, row("c", hours=0.001, project="tiny", price_per_hour=0.05))
    small = draw_up(ledger, project="tiny")
    assert "$0.0000500" in story(small).verdict
    assert to_dict(small)["full"] == pytest.approx(5e-5)


@given(st.lists(st.integers(1, 20_000), min_size=2, max_size=6))
@settings(max_examples=30)
def test_a_run_and_its_device_cost_the_same_and_columns_add_up(mills: list[int]) -> None:
    """Tenths of cents, so that many are halves; each run has a device of its own."""
    with Ledger(Path(":memory:")) as opened:
        rows = (row(f"r{i}", device=f"r{i}", price_per_hour=m / 1e3) for i, m in enumerate(mills))
        page = story(billed(opened, *rows))
    runs = {cells[0]: cells[3] for cells in table(page, "Who and what used it", "run").rows}
    prices = {cells[0]: cells[3] for cells in table(page, "Prices and sources", "device").rows}
    assert runs == prices
    (total,) = (number.value for number in page.numbers if number.label == "Everything")
    assert sum(map(dollars, runs.values())) == pytest.approx(dollars(total), abs=1e-9)
    assert f"{total} is " in page.verdict


def test_what_was_asked_for_is_a_sentence(ledger: Ledger) -> None:
    def verdict(**filters: Any) -> str:
        return story(draw_up(ledger, **filters)).verdict.partition(". ")[0]

    assert verdict() == "The ledger holds no row"
    assert verdict(since=START) == "The ledger holds no row since 2025-01-01"
    assert verdict(project="reef", user="ana", since=START, until=START + 60) == (
        "The ledger holds no row of project reef, user ana since 2025-01-01 until 2025-01-01 00:01"
    )


def test_json_is_not_rounded_and_adds_up(ledger: Ledger) -> None:
    bill = billed(
        ledger,
        row("a", price_per_hour=1e-3),
        row("b", price_per_hour=1 / 3, status="failed"),
        row("c", price_per_hour=100 / 3, purpose="idle"),
    )
    found = to_dict(bill)
    steps = {step["step"]: step["dollars"] for step in found["waterfall"]}
    assert steps["headline"] == found["headline"]["dollars"] == 1e-3
    assert found["full"] == found["metered"]["dollars"]
    assert sum(steps.values()) == pytest.approx(found["full"], rel=1e-12)
    assert found["ratio"] == pytest.approx(found["full"] / found["headline"]["dollars"])
    assert "rows" not in found["headline"]


def test_a_name_is_cut_only_where_it_is_a_folder(ledger: Ledger) -> None:
    bill = billed(ledger, row("a", run='=cmd|"/c calc"!A1'), row("b", run="/runs/deep/b", hours=2))
    cells = [cells[0] for cells in table(story(bill), "Who and what used it", "run").rows]
    assert cells == ["b", '=cmd|"/c calc"!A1']


def test_a_price_is_told_once_with_its_span_of_dates(ledger: Ledger) -> None:
    source = "catalog: rent of H100-SXM at 2025-{:02}-11, 1 to 4"
    rows = [row(f"r{i}", price_source=source.format(i), project="p") for i in range(1, 10)]
    other = "catalog: rent.h100-sxm (1 to 5), 2026-03, https://x.org/2026-03"
    rows += [row("dear", price_source=other, hours=0.5)]
    rows += [row(f"own{i}", price_source=f"paid on 2025-0{i}-01") for i in (1, 2)]
    page = story(billed(ledger, *rows))
    cells = table(page, "Prices and sources", "device").rows
    assert [(c[2], c[4]) for c in cells] == [
        ("9.0", "catalog: rent of H100-SXM at 2025-01-11 to 2025-09-11, 1 to 4"),
        ("1.0", "paid on 2025-01-01"),
        ("1.0", "paid on 2025-02-01"),
        ("0.50", other),
    ]


def test_the_unpriced_count_nothing_unless_a_rate_is_given(ledger: Ledger, tmp_path: Path) -> None:
    rows = [row("a", price_per_hour=0.0, hours=2), row("b", device="CPU", price_per_hour=0.0)]
    assert assumed(billed(ledger, *rows))["without a price"].startswith("3.0 device-hours count $0")
    rate = "= { value = 9, unit = 'USD/GPU-hour' }"
    one = assumed(draw_up(ledger, load(terms_file(tmp_path, f"[rates]\nCPU {rate}"))))
    assert one["without a price"].startswith("2.0 device-hours")
    assert one["no ledger's price"].startswith("1.0 device-hours count $0 in the headline")
    bill = draw_up(ledger, load(terms_file(tmp_path, f"[rates]\nall {rate}")))
    every = assumed(bill)
    assert bill.full == 27 and "without a price" not in every
    assert "processors that work alone" in every["rate 'all'"]
    assert bill.terms.inputs["rates.all"].unit == "USD/device-hour"


def test_an_unused_rate_has_a_remedy_that_helps(ledger: Ledger, tmp_path: Path) -> None:
    rate = "= { value = 9, unit = 'USD/GPU-hour' }\n"
    text = f"[rates]\nH100-SXM {rate}H100-SMX {rate}all {rate}"
    told = assumed(billed(ledger, row("a"), terms=terms_file(tmp_path, text)))["unused rates"]
    assert "of 'H100-SMX' in bill.toml matches no row here" in told
    assert told.endswith("'all' in bill.toml counts nothing: each device here has its own rate.")
    text = f"[rates]\nH100-SXM {rate}all {rate}"
    one = assumed(draw_up(ledger, load(terms_file(tmp_path, text))))["unused rate"]
    assert "write a device" not in one and "each device here has its own" in one
