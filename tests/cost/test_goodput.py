"""Goodput: published figures, and the interval that loses least."""

import random
from math import sqrt
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benthic.cost.catalog.load import CostError, load
from benthic.cost.step.goodput import best_interval, goodput, usual_goodput

MTBF = 50_677 * 3600.0  # of one GPU: Llama 3.1, 419 failures of 16,384 GPUs in 54 days
CATALOG = load()


@pytest.mark.parametrize(("checkpoint", "restart", "useful"), [(30, 300, 0.90), (60, 600, 0.84)])
def test_llama_3_at_16384(checkpoint: float, restart: float, useful: float) -> None:
    found = goodput(16384, MTBF, checkpoint=checkpoint, restart=restart)
    assert found.useful == pytest.approx(useful, abs=0.005)
    assert found.job_mtbf / 3600 == pytest.approx(3.093, abs=0.001)


def test_the_catalogs_failures_are_llama_3s() -> None:
    found = usual_goodput(CATALOG, 16384)
    assert found == goodput(16384, MTBF, checkpoint=30.0, restart=300.0, straggle=0.01)
    assert usual_goodput(CATALOG, 2048).job_mtbf / 3600 == pytest.approx(24.7, abs=0.05)
    assert usual_goodput(CATALOG, 50_000).job_mtbf / 3600 == pytest.approx(1.01, abs=0.005)


@given(st.integers(1, 20_000), st.floats(1, 60), st.floats(0, 300), st.floats(0.2, 5))
def test_no_other_interval_is_better(gpus: int, c: float, r: float, off: float) -> None:
    best = goodput(gpus, MTBF, checkpoint=c, restart=r)
    lost, tau = best.checkpoints + best.lost_work, off * best.interval
    assert lost == pytest.approx(sqrt(2 * c * gpus / MTBF))
    assert c / tau + tau * gpus / (2 * MTBF) >= lost * (1 - 1e-12)
    losses = best.checkpoints + best.lost_work + best.restarts
    assert best.useful + losses == pytest.approx(1)
    assert best.checkpoints == pytest.approx(best.lost_work)  # the sign of the best interval


def test_a_job_waits_for_its_slowest_gpu() -> None:
    even, uneven = (goodput(8192, 1e12, checkpoint=0, restart=0, straggle=s) for s in (0, 0.01))
    deviates = random.Random(0)
    seen = mean(max(deviates.gauss(1, 0.01) for _ in range(8192)) for _ in range(20))
    assert even.stragglers == 0
    assert uneven.useful == pytest.approx(1 / seen, abs=0.005)
    assert uneven.useful + uneven.stragglers == pytest.approx(1)
    assert goodput(1, 1e12, checkpoint=0, restart=0, straggle=0.01).stragglers == 0


def test_free_checkpoints_lose_only_restarts() -> None:
    found = goodput(1024, MTBF, checkpoint=0, restart=300)
    assert found.useful == pytest.approx(1 - 300 * 1024 / MTBF)
    assert best_interval(0, 1e6) == 0


def test_bad_input_is_a_sentence() -> None:
    with pytest.raises(CostError, match=r"sooner than .* use fewer GPUs"):
        usual_goodput(CATALOG, 1_000_000)
    with pytest.raises(CostError, match="GPUs is 0"):
        usual_goodput(CATALOG, 0)
    with pytest.raises(CostError, match="MTBF"):
        goodput(8, float("nan"), checkpoint=30, restart=300)
    with pytest.raises(CostError, match="restart is -1"):
        goodput(8, MTBF, checkpoint=30, restart=-1)
