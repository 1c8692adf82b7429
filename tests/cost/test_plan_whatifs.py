"""What-ifs of a plan move hours as the clean step does; and what a plan says, or refuses."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from benthic.cost.catalog.load import CostError
from benthic.cost.network.read_shape import shape
from benthic.cost.network.widths import from_numbers
from benthic.cost.planner import plan_page, plan_tables, words
from benthic.cost.planner.asking import ask, rent_of
from benthic.cost.planner.basis import Question
from benthic.cost.planner.plan import plan
from benthic.cost.planner.sizes import sizes
from benthic.cost.planner.thrift import waterfall
from tests.cost.test_asking import LLAMA, asked
from tests.cost.test_plan import CATALOG, SMALL, own, planned

V3 = Question(
    shape=shape("deepseek-v3"), gpu="h800", gpus=2048, tokens=14.8e12, seq=4096, precision="fp8"
)


def ratios(before: Question, after: Question) -> tuple[float, float]:
    one, two = planned(before), planned(after)
    return two.gpu_hours.p50 / one.gpu_hours.p50, two.clean_hours / one.clean_hours


@pytest.mark.parametrize("seq", [2048, 8192, 32768])
def test_a_sequence_moves_hours_as_it_moves_the_clean_step(seq: int) -> None:
    hours, clean = ratios(V3, replace(V3, seq=seq))
    assert hours == pytest.approx(clean, rel=1e-6)
    assert 0.9 < hours < (1.25 if seq <= 8192 else 2.1)


def test_fp16_costs_what_bf16_does() -> None:
    plain = replace(V3, precision="bf16", usual="fp8")
    hours, clean = ratios(plain, replace(plain, precision="fp16"))
    assert hours == pytest.approx(clean) == pytest.approx(1.0)
    old = replace(V3, gpu="a100", precision="bf16", usual=None, gpus=1024)
    hours, clean = ratios(old, replace(old, precision="fp16"))
    assert hours == pytest.approx(clean, rel=1e-6)


def test_longer_than_the_config_is_remarked() -> None:
    short = replace(SMALL, shape=replace(SMALL.shape, max_positions=2048), seq=4096, layout=None)
    assert "more than the 2,048 that" in str(planned(short).assumptions)
    assert "positions" not in str(planned(replace(short, seq=2048)).assumptions)


def test_what_would_do_is_of_the_optimizer_that_was_asked() -> None:
    """Muon keeps one moment, so that fewer GPUs hold the network."""
    large, _ = from_numbers(params=400e9, layers=120)
    enough = {}
    for optimizer, called in (("adamw", "with AdamW"), ("muon", "with Muon")):
        asked = replace(SMALL, shape=large, gpus=8, layout=None, optimizer=optimizer)  # type: ignore[arg-type]
        with pytest.raises(CostError, match=called) as caught:
            plan(asked, CATALOG)
        said = re.search(r"; (\d+) GPUs would do, (\d+) more: set --count", str(caught.value))
        assert said and int(said[1]) == 8 + int(said[2])
        enough[optimizer] = int(said[1])
        assert plan(replace(asked, gpus=enough[optimizer]), CATALOG).gpus == enough[optimizer]
    assert enough["muon"] < enough["adamw"]


def test_more_gpus_are_no_remedy_where_no_number_would_do() -> None:
    endless = replace(SMALL, gpu="rtx4090", gpus=8, layout=None, seq=1_000_000)
    with pytest.raises(CostError, match=r"shorten the 1,000,000 tokens \(--seq\), or take") as no:
        plan(endless, CATALOG)
    assert "--count" not in str(no.value)


def test_a_rent_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CostError, match=r"rent.h100.* above zero.*benthic cost fleet"):
        plan(SMALL, own(tmp_path, "rent.h100,0,USD/h"))
    with pytest.raises(CostError, match=r"like 2\.10"):
        rent_of("0")


def test_a_file_without_figures_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    file.write_text("key,value,unit\n")
    with pytest.raises(CostError, match="no row below its header"):
        ask(asked(config="llama-3.2-1b", tokens="1B", prices=(file,)), why=False, as_json=False)


def test_control_characters_of_a_files_name_are_shown(tmp_path: Path) -> None:
    bad = tmp_path / "ev\033[31mil.json"
    bad.write_text(json.dumps(LLAMA | {"num_hidden_layers": -1}))
    prices = tmp_path / "ev\033[31mil.csv"
    prices.write_text("key,value,unit\nrent.h100,x,USD/h\n")
    for more in ({"config": str(bad)}, {"config": "llama-3.2-1b", "prices": (prices,)}):
        with pytest.raises(CostError) as caught:
            ask(asked(tokens="1B", **more), why=False, as_json=False)
        assert "\033" not in str(caught.value) and "[31mil" in str(caught.value)


def test_tokens_that_a_budget_buys_are_said_with_nine_chances_in_ten() -> None:
    one = plan(replace(SMALL, tokens=None, budget=50_000.0), CATALOG)
    safe = one.tokens * 50_000 / one.dollars.p90
    verdict = plan_page.story(one, CATALOG).verdict
    assert "inside in 50%" in verdict and words.dollars(one.dollars.p90) in verdict
    assert f"with nine chances in ten it is {words.count(safe)} tokens" in verdict
    sure = plan(replace(SMALL, tokens=safe, budget=50_000.0), CATALOG)
    assert sure.odds["budget"] == pytest.approx(0.9, abs=0.02)
    days = plan(replace(SMALL, tokens=None, days=30.0), CATALOG)
    assert words.time(days.days.p90) in plan_page.story(days, CATALOG).verdict


def test_the_largest_network_is_said_with_nine_chances_in_ten() -> None:
    question = replace(SMALL, layout=None, tokens=None, budget=2e4)
    found = sizes(question, CATALOG)
    page = plan_tables.largest(found, question, CATALOG)
    verdict = page.verdict
    assert "inside in 5" in verdict and "nine chances in ten" in verdict
    least = found[0].parameters * (2e4 / found[0].plan.dollars.p90) ** 0.5
    assert f"about {words.count(least)} parameters" in verdict
    assert words.dollars(found[0].plan.dollars.p90) in str(page)


def test_thrift_pays_what_the_plan_pays() -> None:
    gpu = CATALOG.gpu("h800")
    stages = waterfall(V3.shape, gpu, CATALOG, tokens=14.8e12, fp8=True, gpus=2048, seq=4096)
    assert stages[-1].dollars == pytest.approx(planned(V3).dollars.p50, rel=2e-3)


@pytest.mark.parametrize(
    ("numbers", "match"),
    [
        ({"params": 70e9, "heads": 64, "kv_heads": 5}, "give --kv-heads 4$"),
        ({"hidden": 8192, "layers": 80, "heads": 7}, "give --heads 8$"),
        ({"params": 70e9, "hidden": 7}, "--hidden is 7, .* raise --hidden"),
        ({"params": 70e9, "vocab": 99_999_999}, "between 1 and 16,777,216, like 128000"),
    ],
)
def test_widths_that_cannot_be(numbers: dict[str, float], match: str) -> None:
    with pytest.raises(CostError, match=match):
        from_numbers(**numbers)  # type: ignore[arg-type]


def test_heads_follow_the_ones_that_are_given() -> None:
    keys, _ = from_numbers(params=70e9, layers=80, kv_heads=5)
    assert keys.kv_heads == 5 and keys.heads % 5 == 0 and keys.heads > 40
    heads, _ = from_numbers(params=13e9, heads=40)
    assert heads.heads == 40 and heads.hidden % 40 == 0


@pytest.mark.parametrize(
    ("days", "text"),
    [(1 / 24, "60 min"), (0.25, "6.0 h"), (1.0, "24 h"), (30.0, "30 days"), (36500.0, "100 years")],
)
def test_days_are_said_in_the_unit_that_says_most(days: float, text: str) -> None:
    assert words.given_days(days) == text
    one = plan(replace(SMALL, tokens=None, days=days, budget=1e9), CATALOG)
    said = plan_page.story(one, CATALOG).verdict
    assert f"$1,000M within {text} trains" in said
    odds = plan_page.story(planned(replace(SMALL, days=days)), CATALOG).verdict
    assert f"within {text}" in odds


def test_a_date_that_no_count_meets_is_said_first() -> None:
    question = replace(SMALL, gpus=None, layout=None, tokens=1e13)
    late = plan(replace(question, days=1 / 24), CATALOG)
    assert late.late and late.days.p50 > 1 / 24
    verdict = plan_page.story(late, CATALOG).verdict
    assert verdict.startswith("No number of GPUs that was tried is done in 60 min. ")
    met = plan(replace(question, days=30.0, rent=500.0), CATALOG)
    compared = [plan_tables.compared(plans, CATALOG).verdict for plans in ([late], [late, met])]
    assert ["No number" in verdict for verdict in compared] == [True, False]
    assert not met.late and "No number" not in plan_page.story(met, CATALOG).verdict


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"budget": "50.000"}, "50 here and 50000 elsewhere: write 50000 or 50.00"),
        ({"pace": "0"}, "like 6200"),
        ({"rent": "0"}, "like 2.10"),
    ],
)
def test_slips_have_their_own_examples(words: dict[str, str], match: str) -> None:
    with pytest.raises(CostError, match=match):
        ask(asked(config="llama-3.2-1b", tokens="1B", gpus=8, **words), why=False, as_json=False)
    ask(asked(config="llama-3.2-1b", budget="$5.125M"), why=False, as_json=True)
