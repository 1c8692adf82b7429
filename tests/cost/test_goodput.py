"""Goodput: published figures, and the interval that loses least."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benthic.cost.catalog.load import CostError
from benthic.cost.step.goodput import best_interval, goodput, slowest

MTBF = 50_677 * 3600.0  # of one GPU: Llama 3.1, 419 failures of 16,384 GPUs in 54 days


@pytest.mark.parametrize(("checkpoint", "restart", "useful"), [(30, 300, 0.90), (60, 600, 0.84)])
def test_llama_3_at_16384(checkpoint: float, restart: float, useful: float) -> None:
    found = goodput(16384, MTBF, checkpoint=checkpoint, restart=restart)
    assert found.useful == pytest.approx(useful, abs=0.005)
    assert found.job_mtbf / 3600 == pytest.approx(3.093, abs=0.001)


def test_published_times_between_failures() -> None:
    assert goodput(2048, MTBF).job_mtbf / 3600 == pytest.approx(24.7, abs=0.05)
    assert goodput(50_000, MTBF).job_mtbf / 3600 == pytest.approx(1.01, abs=0.005)


@given(st.integers(1, 20_000), st.floats(1, 60), st.floats(0, 300), st.floats(0.2, 5).filter(bool))
def test_no_other_interval_is_better(gpus: int, c: float, r: float, off: float) -> None:
    best = goodput(gpus, MTBF, checkpoint=c, restart=r)
    other = goodput(gpus, MTBF, checkpoint=c, restart=r, interval=off * best.interval)
    assert other.useful <= best.useful + 1e-12
    losses = best.checkpoints + best.lost_work + best.restarts + best.stragglers
    assert best.useful + losses == pytest.approx(1)
    assert best.checkpoints == pytest.approx(best.lost_work)  # the sign of the best interval


def test_free_checkpoints_lose_only_restarts() -> None:
    found = goodput(1024, MTBF, checkpoint=0)
    assert found.useful == pytest.approx(1 - 300 * 1024 / MTBF)
    assert best_interval(0, 1e6) == 0


def test_stragglers_slow_large_jobs_more() -> None:
    assert slowest(1, 0.05) == 1
    assert 1 < slowest(8, 0.01) < slowest(8192, 0.01) < 1.05
    assert goodput(8192, MTBF, straggle=0.01).stragglers > 0


def test_bad_input_is_a_sentence() -> None:
    with pytest.raises(CostError, match=r"sooner than .* use fewer GPUs"):
        goodput(1_000_000, MTBF)
    with pytest.raises(CostError, match="GPUs is 0"):
        goodput(0, MTBF)
    with pytest.raises(CostError, match="MTBF"):
        goodput(8, float("nan"))
    with pytest.raises(CostError, match="restart is -1"):
        goodput(8, MTBF, restart=-1)
    with pytest.raises(CostError, match="interval"):
        goodput(8, MTBF, interval=0)
