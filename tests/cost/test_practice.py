"""The planner's own layout, and how far real runs are from clean steps."""

from dataclasses import replace
from math import e, log, sqrt
from random import Random
from statistics import median, quantiles

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benthic.cost.catalog.load import CostError, load
from benthic.cost.network.read_shape import from_row
from benthic.cost.planner.choose import clean_run, fastest, usual_batch, usual_gpus
from benthic.cost.planner.practice import TENTH, Traits, published_runs, real_hours, solve
from benthic.cost.step.calibrate import figures, load_constants
from benthic.cost.step.layout import candidates
from benthic.cost.step.memory import memory, usable
from benthic.cost.step.speed import seconds

CATALOG = load()
WIDTHS = {row["model"]: row for row in CATALOG.table("run_shapes")}
LLAMA = from_row(WIDTHS["Llama 2 7B"])


def other_than(name: str) -> list[Traits]:
    return [run for run in published_runs() if run.run != name]


def test_the_choice_fits_and_nothing_that_fits_is_faster() -> None:
    gpu = CATALOG.gpu("A100-80GB")
    found = fastest(LLAMA, gpu, 64, 4096, batch=1 << 20)
    assert found.memory.total <= usable(gpu)
    pace = found.seconds / found.layout.batch
    for one in list(candidates(LLAMA, 64, 8, seq=4096))[::7]:
        micro = 256 / (one.data * one.micro_batch)
        layout = replace(one, micro_batches=max(1, round(micro)))
        if micro >= 1 and memory(LLAMA, layout, 4096).total <= usable(gpu):
            step = sum(seconds(LLAMA, layout, gpu, 4096, load_constants()).values())
            assert step / layout.batch >= pace * (1 - 1e-9)


def test_a_choice_that_is_not_there_is_a_sentence() -> None:
    gpu = CATALOG.gpu("A100-80GB")
    with pytest.raises(CostError, match="too few for 4,096 GPUs: use fewer"):
        fastest(LLAMA, gpu, 4096, 4096, batch=4096)
    with pytest.raises(CostError, match=r"fits 8 A100.* more GPUs"):
        fastest(from_row(WIDTHS["PaLM 540B"]), gpu, 8, 2048)
    with pytest.raises(CostError, match="number above zero"):
        clean_run(LLAMA, gpu, 0, 4096, CATALOG)


def test_a_clean_run_finds_gpus_enough() -> None:
    gpu = CATALOG.gpu("A100-80GB")
    small = clean_run(from_row(WIDTHS["PaLM 540B"]), gpu, 1e9, 2048, CATALOG)
    assert small.gpus > usual_gpus(small.ideal_hours)  # one node would have had the time
    one, two = (clean_run(LLAMA, gpu, tokens, 4096, CATALOG, gpus=64) for tokens in (1e12, 2e12))
    assert two.hours == pytest.approx(2 * one.hours)
    assert one.hours > one.ideal_hours
    assert usual_gpus(1) == 8 and usual_gpus(1e9) == 16384
    assert usual_batch(LLAMA, 8) == 1 << 22 and usual_batch(LLAMA, 1024) == 1 << 23


def test_the_shipped_runs_are_what_the_planner_computes() -> None:
    """Two rows of the table that `benchmarks/plan_runs.py --write` makes."""
    runs = {run.run: run for run in published_runs()}
    for name, tokens, gpus in (("Falcon-40B", 1e12, 384), ("Granite 3.0 2B", 12e12, 768)):
        gpu = CATALOG.gpu("A100-SXM4-40GB" if "Falcon" in name else "H100")
        row = WIDTHS[name]
        batch, seq = int(row["global_batch_tokens"] or 0), int(row["seq_len"])
        clean = clean_run(from_row(row), gpu, tokens, seq, CATALOG, gpus=gpus, batch=batch)
        assert clean.hours == pytest.approx(runs[name].clean_hours, rel=1e-4)
        assert clean.ideal_hours == pytest.approx(runs[name].ideal_hours, rel=1e-4)


def test_left_out_runs_are_met_as_claimed() -> None:
    """And half as far off, in the median, as the median utilisation of the chips' generation."""
    off, naive, inside = [], [], 0
    for run in published_runs():
        others = other_than(run.run)
        found = real_hours(run, others)
        off.append(abs(found.p50 / run.hours - 1))
        inside += found.p10 <= run.hours <= found.p90
        alike = [o.ideal_hours / o.hours for o in others if (o.peak > 6e14) == (run.peak > 6e14)]
        naive.append(abs(run.ideal_hours / median(alike) / run.hours - 1))
    assert median(off) <= 0.15
    assert quantiles(off, n=10, method="inclusive")[-1] <= 0.40
    assert median(off) <= 0.5 * median(naive)
    assert 0.65 <= inside / len(off) <= 0.95


def test_strangers_are_met_by_the_width_that_is_theirs() -> None:
    """The least in steps of 0.05 at which P10 to P90 holds 85 % of the runs of organisations left
    out, the width in the file among them."""
    runs, held = published_runs(), dict.fromkeys((0.2, 0.25, 0.3), 0)
    for run in runs:
        found = real_hours(run, [other for other in runs if other.org != run.org])
        own = (log(found.p90 / found.p50) / TENTH) ** 2 - figures("practice.")["stranger"] ** 2
        for width in held:
            wide = TENTH * sqrt(own + width**2)
            held[width] += abs(log(run.hours / found.p50)) <= wide
    enough = [width for width, count in held.items() if count / len(runs) >= 0.85]
    assert min(enough) == figures("practice.")["stranger"]


@pytest.mark.parametrize("name", ["Llama 2 13B", "DeepSeek-V2", "Phi-3.5-mini"])
def test_knowing_a_run_draws_the_prediction_to_it_and_narrows_it(name: str) -> None:
    run = next(one for one in published_runs() if one.run == name)
    blind, told = real_hours(run, other_than(name)), real_hours(run)
    assert abs(told.p50 - run.hours) < abs(blind.p50 - run.hours)
    assert told.p90 / told.p10 < blind.p90 / blind.p10
    assert told.leans_on[0][0] == name and told.leans_on[0][1] == 1


def test_practice_of_other_clean_hours_goes_in_proportion() -> None:
    run = published_runs()[0]
    found = real_hours(run)
    twice = found.of(2 * run.clean_hours)
    for share in ("p10", "p50", "p90"):
        assert getattr(twice, share) == pytest.approx(2 * getattr(found, share))
    assert twice.factor == found.factor and found.of(run.clean_hours).p50 == pytest.approx(
        found.p50
    )


def test_a_prediction_knows_its_factor_and_its_range() -> None:
    run = replace(published_runs()[0], hours=0.0)
    found = real_hours(run)
    assert found.p10 < found.p50 < found.p90
    assert found.factor * run.clean_hours == pytest.approx(found.p50)
    twice = replace(run, ideal_hours=2 * run.ideal_hours, clean_hours=2 * run.clean_hours)
    assert real_hours(twice).p50 == pytest.approx(2 * found.p50)


def test_a_step_slower_than_any_published_one_carries_over_in_full() -> None:
    run = replace(published_runs()[0], ideal_hours=1e6, clean_hours=4 * e * 1e6)
    slower = replace(run, clean_hours=3 * run.clean_hours)
    assert real_hours(slower).p50 == pytest.approx(3 * real_hours(run).p50)
    quick = replace(run, clean_hours=1.2e6)
    assert real_hours(replace(run, clean_hours=2.4e6)).p50 < 1.5 * real_hours(quick).p50


def test_what_cannot_be_predicted_is_a_sentence() -> None:
    run = published_runs()[0]
    with pytest.raises(CostError, match="no published run is left"):
        real_hours(run, [])
    with pytest.raises(CostError, match="give its tokens and GPU"):
        real_hours(replace(run, ideal_hours=0.0))


@given(st.integers(1, 8), st.integers(0, 1000))
def test_solve_solves(size: int, seed: int) -> None:
    random = Random(seed)
    factor = [[random.gauss(0, 1) for _ in range(size)] for _ in range(size)]
    matrix = [
        [sum(a * b for a, b in zip(x, y, strict=True)) + (x is y) for y in factor] for x in factor
    ]
    wanted = [random.gauss(0, 1) for _ in range(size)]
    right = [sum(a * b for a, b in zip(row, wanted, strict=True)) for row in matrix]
    assert solve(matrix, right) == pytest.approx(wanted, abs=1e-6)
