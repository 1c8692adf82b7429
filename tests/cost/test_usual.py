"""What a plan asks of practice: no steps, no discount by name, no GPU faster than a better one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic.cost.catalog.load import CostError, load
from benthic.cost.network.read_shape import shape
from benthic.cost.network.shape import Shape
from benthic.cost.network.widths import from_numbers
from benthic.cost.planner.practice import published_runs
from benthic.cost.planner.usual import most_alike, usual_practice, usual_run

CATALOG = load()
EIGHT = shape("llama-3.1-8b")


def factor(network: Shape, gpu: str = "h100", **told: Any) -> float:
    """What real runs take over clean ones."""
    return usual_practice(network, CATALOG.gpu(gpu), "bf16", **told).factor


@settings(max_examples=15, deadline=None)
@given(st.floats(9.0, 11.0), st.sampled_from(["h100", "a100", "a100-40gb"]))
def test_a_hundredth_of_the_parameters_moves_practice_by_less_than_three(
    decades: float, gpu: str
) -> None:
    small, large = (
        from_numbers(params=size, layers=32)[0] for size in (10**decades, 1.01 * 10**decades)
    )
    assert factor(large, gpu) == pytest.approx(factor(small, gpu), rel=0.03)


def test_a_vocabulary_of_ones_own_is_the_same_network() -> None:
    other = replace(EIGHT, vocab=128_000)
    assert factor(other) == pytest.approx(factor(EIGHT), rel=2e-3)


def test_experts_that_every_token_meets_are_a_dense_network() -> None:
    dense, _ = from_numbers(params=8e9, layers=32)
    named, _ = from_numbers(params=8e9, layers=32, experts=1, experts_per_token=1)
    gpu = CATALOG.gpu("h100")
    assert not usual_run(named, gpu, "bf16").experts
    hours = [usual_practice(network, gpu, "bf16").p50 for network in (dense, named)]
    assert hours[0] <= hours[1] < 1.1 * hours[0]
    assert usual_run(shape("deepseek-v3"), CATALOG.gpu("h800"), "fp8").experts


def test_a_gpu_without_runs_takes_those_of_the_one_most_alike() -> None:
    likes = {"h100-pcie": "H100-SXM", "h200": "H100-SXM", "b200": "H100-SXM", "l40s": "A100"}
    for name, like in likes.items():
        assert most_alike(CATALOG.gpu(name)).name.startswith(like)
        assert factor(EIGHT, name) == factor(EIGHT, most_alike(CATALOG.gpu(name)).name)
    for name in {run.gpu for run in published_runs()}:
        assert most_alike(CATALOG.gpu(name)).name == name


def test_software_before_2023_was_slower() -> None:
    assert factor(EIGHT, "a100", date=2022.0) > 1.1 * factor(EIGHT, "a100", date=2024.0)
    assert factor(EIGHT, "a100") == pytest.approx(factor(EIGHT, "a100", date=2024.0))


def test_what_is_published_moves_what_is_planned() -> None:
    slower = [replace(run, hours=2 * run.hours) for run in published_runs()]
    assert factor(EIGHT, published=slower) == pytest.approx(2 * factor(EIGHT), rel=1e-3)


def test_a_precision_that_the_published_gpu_lacks_is_asked_in_16_bits() -> None:
    a100, v100 = CATALOG.gpu("a100"), most_alike(CATALOG.gpu("v100"))
    assert usual_run(EIGHT, a100, "fp8") == usual_run(EIGHT, a100, "bf16")
    assert usual_run(EIGHT, v100, "fp16").clean_hours > 0


def test_positions_that_are_none_are_no_reason_to_stop(tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 2, "vocab_size": 100}
    (tmp_path / "config.json").write_text(json.dumps(config | {"n_positions": 0}))
    assert usual_practice(shape(str(tmp_path)), CATALOG.gpu("h100"), "bf16").factor > 0


def test_a_network_beyond_all_that_was_trained_is_a_sentence() -> None:
    huge, _ = from_numbers(params=3e14)
    with pytest.raises(CostError, match="larger than anything that was trained"):
        usual_practice(huge, CATALOG.gpu("h100"), "bf16")
