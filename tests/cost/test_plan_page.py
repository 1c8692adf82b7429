"""Plans as answers: what the pages and the data say is what the plan holds, sources and all."""

import json
from dataclasses import fields, replace
from datetime import date as Day
from pathlib import Path

import pytest

from benthic.cost import page
from benthic.cost.catalog.load import Catalog, Figure
from benthic.cost.page import share
from benthic.cost.planner import plan_page, plan_tables, words
from benthic.cost.planner.basis import Question
from benthic.cost.planner.disclosed import disclosed
from benthic.cost.planner.plan import Plan, plan
from benthic.cost.planner.sizes import sizes
from benthic.cost.planner.sources import _grouped, sources
from benthic.cost.step.calibrate import Constants
from benthic.cost.step.layout import parse
from tests.cost.test_plan import CATALOG, SMALL, V3, own, planned


@pytest.mark.parametrize("question", [SMALL, V3, replace(SMALL, tokens=None, budget=5e4)])
def test_json_is_finite_and_comes_back_as_it_was(question: Question) -> None:
    made = plan_page.to_dict(planned(question), CATALOG, why=True)
    assert json.loads(json.dumps(made, allow_nan=False)) == json.loads(json.dumps(made))
    assert made["gpu_hours"]["p50"] == planned(question).gpu_hours.p50
    parts = sum(part["value"] for part in made["step"]["parts"].values())
    assert parts == pytest.approx(made["step"]["seconds"]["value"])


def test_the_page_says_what_the_plan_says() -> None:
    page = plan_page.story(planned(V3), CATALOG, why=True)
    assert "deepseek-v3 on 1.00T tokens takes 2,048 H800-SXM" in page.verdict
    text = str(page)
    for word in ("as you gave it", "goodput", "rent.h800-sxm", "electricity_price", "not in it"):
        assert word in text
    one = planned(V3)
    low, high = (f"{end:.2f} s" for end in (one.step.total.low, one.step.total.high))
    assert f"A clean step takes {low} to {high}" in text
    assert f", x {one.practice.factor:.2f}, by what real runs took" in text
    assert "leave only" not in page.verdict
    table = page.sections[2].blocks[0]
    shares = [row[2] for row in table.rows[:-1]]  # type: ignore[union-attr]
    assert sum(float(share.rstrip("%")) for share in shares) == pytest.approx(100, abs=5)


def test_what_failures_take_is_said_where_it_is_much(tmp_path: Path) -> None:
    catalog = own(tmp_path, "gpu_mtbf,5,h")
    one = plan(SMALL, catalog)
    assert one.good.useful < 0.8
    lost = f"of 8 GPUs leave only {one.good.useful:.0%} of the hours to training"
    assert lost in plan_page.story(one, catalog).verdict


def test_why_names_every_figure_that_the_plan_took(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    catalog, took = own(tmp_path, "rent.v100,1,USD/h"), set()
    shipped = Catalog._rows

    def rows(self: Catalog, key: str) -> list[Figure]:
        found = shipped(self, key)
        took.update(row.key for row in found)
        return found

    monkeypatch.setattr(Catalog, "_rows", rows)
    card = replace(SMALL, gpu="v100", layout=parse("dp8 zero1 fp16"), precision="fp16")
    one = plan(card, catalog)
    text = str(sources([one], catalog))
    assert len(took) > 12
    assert [key for key in took if f"{key} = " not in text] == []
    for name in (*(field.name for field in fields(Constants)), "reach.v100-sxm2-32gb"):
        assert f"{name} = " in text
    assert "practice.carried = " in text and "own.csv, line 2" in text
    for run, _ in one.practice.leans_on:
        assert f"run.{'-'.join(run.split())}" in text


def test_multipliers_of_research_are_the_catalogs(tmp_path: Path) -> None:
    assert "5.6 times the final runs' for Olmo 3, 1.5 for" in str(
        plan_page.left_out(planned(SMALL), CATALOG)
    )
    mine = own(tmp_path, "rd_multiplier.olmo-3,7,x")
    assert "7.0 times the final runs' for Olmo 3" in str(plan_page.left_out(planned(SMALL), mine))


def test_what_was_disclosed_of_the_same_run_stands_beside_the_plan() -> None:
    """DeepSeek-V3: 2.664M H800-hours for 14.8T tokens."""
    half = planned(replace(V3, tokens=7.4e12))
    (found,) = disclosed(half, CATALOG)
    assert found.run == "DeepSeek-V3" and found.hours == pytest.approx(1.332e6)
    off = round(100 * (half.gpu_hours.p50 / 1.332e6 - 1))
    assert (
        f"1.33M (DeepSeek-V3, of 14.8T tokens in proportion); the planned P50 is {off:+d}%"
        in str(plan_page.story(half, CATALOG))
    )
    assert disclosed(planned(replace(V3, gpu="h100")), CATALOG) == []
    assert disclosed(planned(SMALL), CATALOG) == []
    assert "disclosed" not in str(plan_page.story(planned(SMALL), CATALOG))


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0.0004, "$0.0004"),
        (12.345, "$12.35"),
        (99_960, "$100,000"),
        (123_456, "$123,000"),
        (999_600, "$1.00M"),
        (7_916_000, "$7.92M"),
        (2.5e9, "$2.50B"),
    ],
)
def test_dollars_are_rounded_as_sure_as_they_are(amount: float, text: str) -> None:
    assert words.dollars(amount) == text


def test_an_old_price_is_said_to_be_old() -> None:
    asked = replace(SMALL, date="2026-03")
    old = planned(asked)
    assert old.rent_age == (Day(2026, 3, 31) - Day(2025, 3, 3)).days
    said = "The price, $3.95 an hour, is of 2025-03-03, 393 days before 2026-03, and nothing newer"
    assert said in plan_page.story(old, CATALOG).verdict
    assert plan_page.to_dict(old, CATALOG)["rent"]["days_old"] == 393
    bought = replace(asked, layout=None, tokens=None, budget=2e4)
    assert said in plan_tables.largest(sizes(bought, CATALOG), bought, CATALOG).verdict
    for fresh in (replace(SMALL, date="2026-05"), replace(asked, rent=2.0)):
        assert planned(fresh).rent_age <= 11
        assert "The price, " not in plan_page.story(planned(fresh), CATALOG).verdict
    undated = planned(SMALL)
    assert undated.rent_age == (Day.today() - Day(2026, 5, 20)).days


def test_prices_of_another_year_are_marked_where_gpus_are_compared() -> None:
    def compared(date: str) -> tuple[str, dict[str, str]]:
        bare = replace(SMALL, layout=None, batch=2**19, date=date)
        plans = [planned(replace(bare, gpu=name)) for name in ("a100", "a100-40gb")]
        page = plan_tables.compared(plans, CATALOG)
        return page.verdict, {row[0]: row[6] for row in page.sections[0].blocks[0].rows}  # type: ignore[union-attr]

    verdict, rent = compared("2026-05")
    assert "Over a year old (*) is the price of A100-SXM4-40GB: --prices sets" in verdict
    assert rent["A100-SXM4-40GB"].endswith("*") and not rent["A100-SXM4-80GB"].endswith("*")
    verdict, rent = compared("2025-04")
    assert "(*)" not in verdict and not any(text.endswith("*") for text in rent.values())


@pytest.mark.parametrize("question", [SMALL, V3, replace(SMALL, rent=2.5)])
def test_rent_is_hours_times_price_and_what_the_range_adds(question: Question) -> None:
    one = planned(question)
    product = one.gpu_hours.p50 * one.rent.value
    note = plan_page.story(one, CATALOG).sections[0].blocks[0].note  # type: ignore[union-attr]
    hours, price = words.count(one.gpu_hours.p50), words.price(one.rent.value)
    assert f"{hours} hours x {price} = {words.dollars(product)}" in note
    off = one.dollars.p50 / product - 1
    if question.rent:
        assert off == pytest.approx(0) and "above" not in note and "below" not in note
    else:
        assert abs(off) > 0.005
        way = "above" if off > 0 else "below"
        assert f"{share(abs(off))} {way} that, {words.price(one.price)} an hour" in note


def test_compared_puts_the_cheapest_or_the_longest_first() -> None:
    bare = replace(SMALL, layout=None, batch=2**19)
    plans = [plan(replace(bare, gpu=name), CATALOG) for name in ("h100", "a100")]
    page = plan_tables.compared(plans, CATALOG, [("T4", "why not")], why=True)
    rows = page.sections[0].blocks[0].rows  # type: ignore[union-attr]
    for key in ("reach.a100", "reach.h100", "rent.a100", "h100-sxm.bandwidth", "practice.noise"):
        assert key in str(page.sections[-1])
    cheapest = min(plans, key=lambda p: p.dollars.p50)
    assert rows[0][0] == cheapest.gpu.name
    bought = replace(bare, tokens=None, budget=1e4)
    plans = [plan(replace(bought, gpu=name), CATALOG) for name in ("h100", "a100")]
    verdict = plan_tables.compared(plans, CATALOG).verdict
    assert f"longest on {max(plans, key=lambda p: p.tokens).gpu.name}" in verdict


def test_why_is_grouped_and_no_address_is_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    one = planned(SMALL)
    page.print_page(plan_page.story(one, CATALOG, why=True))
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    titles = ["Prices and energy", "Hardware and failures", "Published runs"]
    places = [lines.index(title) for title in (*titles, "Constants of the step")]
    assert places == sorted(places)
    assert CATALOG.figure("rd_multiplier").source.split(" ; ")[1] in lines
    # Whoever asked the lowest and the highest price is named beside the median.
    named = "\n".join(lines)
    assert one.rent.low < one.rent.value < one.rent.high
    assert "rent.h100-sxm, its low = " in named and "rent.h100-sxm, its high = " in named
    past = plan(replace(SMALL, date="2024-12"), CATALOG)
    ends = [one.date for one in sources_of(past) if ", its " in one.key]
    assert ends and all(date <= "2024-12" for date in ends)


def sources_of(one: Plan) -> list[Figure]:
    return [figure for found in _grouped([one], CATALOG).values() for figure in found]


def test_a_gpu_of_ones_own_is_planned_on_and_explained(tmp_path: Path) -> None:
    rows = ("bf16_flops,312,TFLOP/s", "memory,85,GB", "bandwidth,2.039,TB/s", "scale_up,300,GB/s")
    more = ("tdp,400,W", "server_watts,812.5,W", "per_node,8,GPU", "scale_out,200,Gbit/s")
    catalog = own(tmp_path, *(f"mine.{row}" for row in (*rows, *more)), "rent.mine,1,USD/h")
    one, like = plan(replace(SMALL, gpu="mine"), catalog), planned(replace(SMALL, gpu="a100"))
    assert one.clean_hours == pytest.approx(like.clean_hours, rel=1e-3)  # as an A100 of those rates
    assert one.dollars.p50 == pytest.approx(one.gpu_hours.p50, rel=1e-3)
    text = str(sources([one], catalog))
    assert "mine.bf16_flops = 312 TFLOP/s" in text and "rent.mine = 1 USD/h" in text
