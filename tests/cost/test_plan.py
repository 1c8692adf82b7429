"""Plans: what must hold whatever the figures are, both ways round, and what each input moves."""

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic.cost.catalog.load import Catalog, CostError, load
from benthic.cost.network.read_shape import shape
from benthic.cost.network.widths import from_numbers
from benthic.cost.planner import basis, plan_page, plan_tables
from benthic.cost.planner.basis import Question, nodes
from benthic.cost.planner.plan import Plan, plan
from benthic.cost.planner.sizes import sizes
from benthic.cost.step.layout import parse
from benthic.cost.step.memory import DoesNotFit

CATALOG = load()
SPREADS = ("days", "gpu_hours", "dollars", "megawatt_hours", "energy_dollars", "pace", "mfu")
SMALL = Question(shape=shape("llama-3.2-1b"), gpu="h100", gpus=8, tokens=1e11, layout=parse("dp8"))
V3 = Question(
    shape=shape("deepseek-v3"),
    gpu="h800",
    gpus=2048,
    tokens=1e12,
    seq=4096,
    batch=15360 * 4096,
    layout=parse("dp128 pp16 ep64 zero1 fp8"),
    precision="fp8",
)


@cache
def planned(question: Question) -> Plan:
    return plan(question, CATALOG)


def own(folder: Path, *rows: str) -> Catalog:
    file = folder / "own.csv"
    file.write_text("\n".join(["key,value,unit", *rows]) + "\n")
    return load([file])


@pytest.mark.parametrize("question", [SMALL, V3])
def test_percentiles_are_in_order_and_medians_multiply_out(question: Question) -> None:
    one = planned(question)
    for name in SPREADS:
        found = getattr(one, name)
        assert 0 < found.p10 <= found.p50 <= found.p90, name
    assert one.gpu_hours.p50 == pytest.approx(one.practice.p50, rel=1e-3)
    assert one.gpu_hours.p90 == pytest.approx(one.practice.p90, rel=5e-3)
    assert one.days.p50 == pytest.approx(one.gpu_hours.p50 / 24 / one.gpus)
    assert one.pace.p50 == pytest.approx(one.tokens / 3600 / one.gpu_hours.p50, rel=1e-3)
    low, high = one.rent.low * one.gpu_hours.p50, one.rent.high * one.gpu_hours.p50
    assert low <= one.dollars.p50 <= high


def test_a_price_without_a_range_multiplies_out_exactly() -> None:
    one = planned(replace(SMALL, rent=2.5))
    for share in ("p10", "p50", "p90"):
        assert getattr(one.dollars, share) == pytest.approx(2.5 * getattr(one.gpu_hours, share))


@settings(max_examples=5)
@given(st.floats(1e9, 1e14), st.floats(1.1, 4))
def test_hours_go_with_tokens_at_a_fixed_layout(tokens: float, more: float) -> None:
    once = plan(replace(SMALL, tokens=tokens), CATALOG)
    often = plan(replace(SMALL, tokens=more * tokens), CATALOG)
    for name in ("gpu_hours", "days", "dollars", "megawatt_hours", "energy_dollars"):
        assert getattr(often, name).p50 == pytest.approx(more * getattr(once, name).p50, rel=0.01)
    assert often.mfu.p50 == pytest.approx(once.mfu.p50, rel=0.01)


@settings(max_examples=5)
@given(st.floats(0.01, 500), st.floats(1, 3))
def test_dearer_rent_is_never_cheaper(rent: float, more: float) -> None:
    cheap = plan(replace(SMALL, rent=rent), CATALOG)
    dear = plan(replace(SMALL, rent=rent * more), CATALOG)
    assert dear.dollars.p10 >= cheap.dollars.p10 and dear.dollars.p90 >= cheap.dollars.p90
    assert dear.gpu_hours == cheap.gpu_hours and dear.energy_dollars == cheap.energy_dollars


@settings(max_examples=5)
@given(st.floats(0.5, 200), st.floats(1, 5))
def test_more_days_never_train_on_fewer_tokens(days: float, more: float) -> None:
    question = replace(SMALL, tokens=None)
    few = plan(replace(question, days=days), CATALOG)
    many = plan(replace(question, days=more * days), CATALOG)
    assert many.tokens >= few.tokens
    assert few.days.p50 == pytest.approx(days, rel=0.01)
    assert few.solved == "tokens"


@settings(max_examples=5)
@given(st.floats(500, 1e9))
def test_a_budget_is_spent_by_the_median_run(budget: float) -> None:
    one = plan(replace(SMALL, tokens=None, budget=budget), CATALOG)
    assert one.dollars.p50 == pytest.approx(budget, rel=0.03)
    assert one.odds["budget"] == pytest.approx(0.5, abs=0.02)


def test_days_and_budget_together_take_the_tighter() -> None:
    question = replace(SMALL, tokens=None)
    days = plan(replace(question, days=10.0), CATALOG)
    both = plan(replace(question, days=10.0, budget=1e7), CATALOG)
    assert both.tokens == pytest.approx(days.tokens)
    poor = plan(replace(question, days=10.0, budget=1e3), CATALOG)
    assert poor.dollars.p50 == pytest.approx(1e3, rel=0.03) and poor.tokens < days.tokens


def test_odds_say_how_many_draws_stay_within_the_limits() -> None:
    one = planned(replace(SMALL, budget=1.0, days=1e4))
    assert one.odds == {"budget": 0.0, "days": 1.0} and one.solved == ""
    middle = planned(replace(SMALL, days=planned(SMALL).days.p90))
    assert middle.odds["days"] == pytest.approx(0.9, abs=0.01)
    assert "90% within" in plan_page.story(middle, CATALOG).verdict


def test_gpus_are_solved_for_days() -> None:
    question = replace(SMALL, gpus=None, layout=None, tokens=5e11)
    counts = []
    for days in (40.0, 10.0):
        one = plan(replace(question, days=days), CATALOG)
        assert one.solved == "gpus" and one.days.p50 <= days
        counts.append(one.gpus)
        fewer = replace(question, gpus=one.gpus // 2, days=days)
        assert plan(fewer, CATALOG).days.p50 > days * 0.9
    assert counts[0] < counts[1]


def test_too_few_days_are_said_to_be_so() -> None:
    question = replace(SMALL, gpus=None, layout=None, tokens=1e15, days=0.01)
    one = plan(question, CATALOG)
    assert one.odds["days"] == 0.0
    assert one.late and "is done in 14 min" in plan_page.story(one, CATALOG).verdict


@settings(max_examples=40)
@given(st.floats(0, 1e6))
def test_gpus_come_in_whole_nodes(wanted: float) -> None:
    count = nodes(wanted, CATALOG.gpu("h100"))
    assert count >= min(wanted, 1e6) and (count < 8 or count % 8 == 0)
    assert count <= max(8, 2 * wanted)


def test_a_network_that_does_not_fit_says_how_many_gpus_do() -> None:
    question = replace(SMALL, shape=shape("llama-3.1-8b"), gpus=1, layout=None)
    with pytest.raises(CostError, match=r"would do, \d+ more: set --count"):
        plan(question, CATALOG)
    question = replace(question, gpus=8, layout=parse("dp8"))
    with pytest.raises(CostError, match=r"alone .* 'dp8 .*' fits"):
        plan(question, CATALOG)
    with pytest.raises(CostError, match="the nearest layout that does"):
        plan(replace(question, layout=parse("dp1 tp8 pp1 ep3")), CATALOG)
    with pytest.raises(CostError, match=r"does is 'dp16', or set --count 8$"):
        plan(replace(question, gpus=16), CATALOG)
    odd = replace(question, gpus=64, layout=parse("tp7 dp9"))
    with pytest.raises(CostError, match=r"is 'dp8 tp8'$"):  # 63 would not divide either
        plan(odd, CATALOG)


def test_a_budget_takes_as_many_gpus_as_hold_the_network() -> None:
    question = Question(shape=shape("llama-3.1-8b"), gpu="a100-40gb", budget=100.0)
    one = plan(question, CATALOG)
    assert one.gpus >= 4 and any("to hold it" in note for note in one.assumptions)
    with pytest.raises(CostError, match="less than one step"):
        plan(replace(question, budget=0.01), CATALOG)


def test_a_measured_pace_takes_the_place_of_published_runs() -> None:
    one = planned(replace(SMALL, pace=20_000.0))
    assert one.pace.p50 == pytest.approx(20_000 * one.good.useful, rel=1e-3)
    assert one.practice.leans_on == []
    assert any("calibrated by your 20,000 tokens/s a GPU, " in note for note in one.assumptions)
    text = str(plan_page.story(one, CATALOG))
    assert "your measurement" in text and "most alike" not in text
    usual = planned(SMALL)
    rate = usual.pace.p50 / usual.good.useful
    off = f"{abs(20_000 / rate - 1):.0%} {'above' if rate < 20_000 else 'below'} the {rate:,.0f}"
    assert any(off in note for note in one.assumptions)
    most = usual.gpu.peak / usual.mfu.p50 / (usual.gpu.peak / usual.pace.p50)  # at an MFU of one
    with pytest.raises(CostError, match="divide by the number of GPUs"):
        plan(replace(SMALL, pace=1.01 * most), CATALOG)
    assert "large products alone" in str(plan(replace(SMALL, pace=0.9 * most), CATALOG).assumptions)
    assert "large products alone" not in str(one.assumptions)


ENERGY = {"megawatt_hours", "energy_dollars"}


@pytest.mark.parametrize(
    ("row", "moves", "times"),
    [
        ("rent.h100-sxm,1.25,USD/h", {"dollars"}, None),
        ("pue,1.4,x", ENERGY, 1.4 / CATALOG.figure("pue").value),
        (
            "avg_power_fraction,0.5,fraction",
            ENERGY,
            0.5 / CATALOG.figure("avg_power_fraction").value,
        ),
        ("h100-sxm.server_watts,900,W", ENERGY, 900 / CATALOG.gpu("h100").server_watts),
        ("electricity_price,0.3,USD/kWh", {"energy_dollars"}, None),
        ("gpu_mtbf,1000,h", set(SPREADS), None),
        ("checkpoint_seconds,900,s", set(SPREADS), None),
        ("restart_seconds,30000,s", set(SPREADS), None),
        ("h100-sxm.bf16_flops,500,TFLOP/s", set(SPREADS), None),
        ("h100-sxm.bandwidth,1.5,TB/s", set(SPREADS), None),
        ("h100-sxm.scale_up,20,GB/s", set(SPREADS), None),
    ],
)
def test_each_input_moves_what_depends_on_it_and_by_how_much(
    tmp_path: Path, row: str, moves: set[str], times: float | None
) -> None:
    before, after = planned(SMALL), plan(SMALL, own(tmp_path, row))
    changed = {name for name in SPREADS if getattr(before, name) != getattr(after, name)}
    assert changed == moves
    if times:
        for name in moves:
            ratio = getattr(after, name).p50 / getattr(before, name).p50
            assert ratio == pytest.approx(times, rel=0.06), name  # medians of products
    if moves == {"dollars"}:
        assert after.dollars.p50 == pytest.approx(1.25 * after.gpu_hours.p50)
    if moves == {"energy_dollars"}:
        assert after.energy_dollars.p50 == pytest.approx(300 * after.megawatt_hours.p50)
    if moves == set(SPREADS):  # hours go as the clean ones, whatever of the user's own moves them
        ratio = after.gpu_hours.p50 / before.gpu_hours.p50
        clean = after.clean_hours / after.good.useful / (before.clean_hours / before.good.useful)
        assert ratio > 1 and ratio == pytest.approx(clean)
        for name in ("days", "dollars", "megawatt_hours", "energy_dollars"):
            share = getattr(after, name).p50 / getattr(before, name).p50
            assert share == pytest.approx(ratio, rel=1e-6), name
        assert after.pace.p50 == pytest.approx(before.pace.p50 / ratio)
        peaks = before.gpu.peak / after.gpu.peak
        assert after.mfu.p50 == pytest.approx(before.mfu.p50 / ratio * peaks)


@pytest.mark.parametrize("row", ["gpu_mtbf,1000,h", "restart_seconds,30000,s"])
def test_failures_take_hours_as_goodput_says(tmp_path: Path, row: str) -> None:
    wide = replace(SMALL, gpus=64, layout=parse("dp64"), batch=64 * 4096.0 * 4)
    before, after = planned(wide), plan(wide, own(tmp_path, row))
    assert after.clean_hours == before.clean_hours
    lost = before.good.useful / after.good.useful
    assert lost > 1.01
    assert after.gpu_hours.p50 == pytest.approx(before.gpu_hours.p50 * lost)


def test_a_layout_with_twice_the_clean_hours_costs_twice() -> None:
    """What practice adds is asked of the planner's own layout, so it is the same for any other."""
    quick = planned(replace(SMALL, layout=None, batch=2**19))
    for text in ("tp8 recompute-full nosp", "pp8 acc2", "dp8 zero3 recompute-full"):
        slow = planned(replace(SMALL, layout=parse(text), batch=2**19))
        assert slow.practice.factor == pytest.approx(quick.practice.factor)
        more = slow.clean_hours / quick.clean_hours
        assert more > 1.02
        for name in ("gpu_hours", "days", "dollars", "energy_dollars"):
            ratio = getattr(slow, name).p50 / getattr(quick, name).p50
            assert ratio == pytest.approx(more, rel=1e-6), name


def test_fp8_saves_what_clean_steps_save() -> None:
    """Another precision than the network's usual one is a layout of the user's own."""
    bare = replace(V3, layout=None)
    fp8, bf16 = (planned(replace(bare, precision=p, usual="fp8")) for p in ("fp8", "bf16"))  # type: ignore[arg-type]
    more = bf16.clean_hours / fp8.clean_hours
    assert more > 1.1
    assert bf16.gpu_hours.p50 / fp8.gpu_hours.p50 == pytest.approx(more)
    assert planned(replace(bare, usual=None)).gpu_hours == fp8.gpu_hours


def test_network_cards_and_memory_count_too(tmp_path: Path) -> None:
    wide = replace(SMALL, gpus=64, layout=parse("dp64 zero3 acc1"), batch=64 * 4096.0)
    slow = plan(wide, own(tmp_path, "h100-sxm.scale_out,10,Gbit/s"))
    assert slow.gpu_hours.p50 > planned(wide).gpu_hours.p50
    with pytest.raises(CostError, match=r"has 20\.0 GB"):
        plan(SMALL, own(tmp_path, "h100-sxm.memory,20,GB"))


def test_v3s_clean_step_is_near_its_180_thousand_hours_a_trillion_tokens() -> None:
    one = planned(V3)
    assert one.step.tokens == 15360 * 4096
    assert one.clean_hours / one.good.useful == pytest.approx(180e3, rel=0.15)


def test_only_what_does_not_fit_is_tried_on_more_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = replace(SMALL, gpus=None, layout=None)
    tried: list[int] = []

    def failing(error: CostError) -> Any:
        def instead(_: Question, __: Catalog, gpus: int) -> Any:
            tried.append(gpus)
            raise error

        return instead

    monkeypatch.setattr(basis, "basis", failing(CostError("a slip")))
    with pytest.raises(CostError, match="a slip"):
        basis.held(asked, CATALOG, 8)
    assert tried == [8]
    monkeypatch.setattr(basis, "basis", failing(DoesNotFit("too large")))
    with pytest.raises(CostError, match="no number of H100-SXM"):
        basis.held(asked, CATALOG, 8)
    assert tried[1:4] == [8, 16, 32] and tried[-1] == basis.MOST_GPUS


def test_a_budget_alone_finds_the_largest_network() -> None:
    asked = replace(SMALL, gpus=None, layout=None, tokens=None, budget=2e4)
    found = sizes(asked, CATALOG)
    assert [size.ratio for size in found] == [20, 100, 500]
    assert found[0].parameters > found[1].parameters > found[2].parameters
    for size in found:
        assert size.plan.dollars.p50 == pytest.approx(2e4, rel=0.03)
        assert size.plan.tokens == pytest.approx(size.ratio * size.parameters)
    page = plan_tables.largest(found, asked, CATALOG, why=True)
    verdict = page.verdict
    assert "rent.h100-sxm" in str(page.sections[-1]) and "matmul" in str(page.sections[-1])
    assert verdict.startswith("$20,000 trains") and "with" in verdict


def test_a_budget_with_tokens_finds_the_network_for_them() -> None:
    asked = replace(SMALL, gpus=8, layout=None, tokens=1e11, budget=2e4)
    (size,) = sizes(asked, CATALOG)
    assert size.plan.tokens == 1e11
    assert size.plan.dollars.p50 == pytest.approx(2e4, rel=0.03)
    with pytest.raises(CostError, match="train no network"):
        sizes(replace(asked, tokens=1e15, budget=1.0), CATALOG)


@pytest.mark.parametrize(("budget", "gpus"), [(50_000.0, 3), (5_000.0, 4), (1e6, 512)])
def test_the_largest_network_keeps_within_what_there_is(budget: float, gpus: int) -> None:
    asked = replace(SMALL, gpus=gpus, layout=None, tokens=None, budget=budget)
    for size in sizes(asked, CATALOG):
        assert 0.9 * budget < size.plan.dollars.p50 <= budget and not size.full
    days = replace(asked, budget=None, days=30.0)
    assert all(29 < size.plan.days.p50 <= 30 for size in sizes(days, CATALOG))


def test_what_the_memory_holds_is_said_where_it_binds() -> None:
    asked = replace(SMALL, gpus=8, layout=None, tokens=None, budget=1e8)
    found = sizes(asked, CATALOG)
    assert found[0].full and found[0].about.endswith("no larger one fits 8 GPUs")
    assert found[0].plan.odds["budget"] == 1.0
    verdict = plan_tables.largest(found, asked, CATALOG).verdict
    assert "no larger one fits 8 GPUs." in verdict and "nine chances" not in verdict
    larger, _ = from_numbers(params=1.1 * found[0].parameters)
    with pytest.raises(DoesNotFit):
        plan(replace(asked, shape=larger, tokens=1e12), CATALOG)


def test_a_budget_beyond_all_gpus_is_refused_or_said_to_take_longer() -> None:
    asked = replace(SMALL, gpus=None, layout=None, tokens=None, budget=1e12)
    for solve in (lambda: sizes(asked, CATALOG), lambda: plan(asked, CATALOG)):
        with pytest.raises(CostError, match=r"years of 262,144, .* 10.0 years at most: lower"):
            solve()
    long = plan(replace(asked, budget=1e10), CATALOG)
    assert any(
        "262,144 GPUs, the most that a plan takes, for 539 days" in note
        for note in long.assumptions
    )
    first = sizes(replace(asked, budget=1e10), CATALOG)[0].plan
    assert any("262,144 GPUs, the most" in note for note in first.assumptions)
    short = plan(replace(asked, days=30.0), CATALOG)
    assert any(
        "262,144 GPUs, the most that a plan takes, for 30 days at most" in note
        for note in short.assumptions
    )


def test_every_gpu_with_a_rent_plans_a_small_network() -> None:
    for name in CATALOG.gpus():
        gpu = CATALOG.gpu(name)
        precision = "bf16" if gpu.has_bf16 else "fp16"
        layout = parse(f"dp2 zero1 recompute-full {precision}")
        asked = replace(SMALL, gpu=name, gpus=2, seq=1024, layout=layout, rent=1.0)
        if gpu.memory < 30e9:
            asked = replace(asked, shape=shape("qwen2.5-0.5b"))
        one = plan(asked, CATALOG)
        assert math.isfinite(one.dollars.p90) and 0 < one.mfu.p90 < 1, name
