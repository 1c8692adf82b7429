"""Plans on counts of GPUs with few powers of two: what divides, and whether fewer do better."""

from dataclasses import replace
from functools import cache

import pytest

from benthic.cost.catalog.load import Catalog, load
from benthic.cost.network.read_shape import shape
from benthic.cost.planner import fewer, plan_page
from benthic.cost.planner.basis import Basis, Question, basis
from benthic.cost.planner.choose import fastest
from benthic.cost.planner.fewer import counts
from benthic.cost.planner.plan import Plan, plan
from benthic.cost.step.layout import candidates, parse
from benthic.cost.step.memory import nearest_fit

CATALOG = load()
GPU = CATALOG.gpu("h800")
V3, SEVEN = shape("deepseek-v3"), shape("llama-3.1-8b")
ASKED = Question(shape=V3, gpu="h800", tokens=14.8e12, seq=4096, precision="fp8")


@cache
def on(gpus: int, layout: str = "") -> Plan:
    given = replace(parse(layout), precision="fp8") if layout else None
    return plan(replace(ASKED, gpus=gpus, layout=given), CATALOG)


@pytest.mark.parametrize(
    ("gpus", "layout"),
    [
        (2000, "pp25 dp80 ep16 zero1"),
        (2000, "tp2 pp25 dp40 ep8 zero1"),
        (2400, "pp15 dp160 ep32 zero1"),
        (3000, "pp25 dp120 ep8 zero1 recompute-full"),
        (10000, "pp25 dp400 ep16 zero1"),
        (1536, "pp48 dp32 ep32 zero1"),
    ],
)
def test_no_layout_given_by_hand_is_faster(gpus: int, layout: str) -> None:
    assert on(gpus).gpu_hours.p50 <= on(gpus, layout).gpu_hours.p50


@pytest.mark.parametrize(
    ("gpus", "near"), [(1000, 1024), (2000, 2048), (2400, 2048), (3000, 3072), (9984, 8192)]
)
def test_hours_do_not_jump_beside_a_power_of_two(gpus: int, near: int) -> None:
    assert on(gpus).gpu_hours.p50 < 1.5 * on(near).gpu_hours.p50


def test_fewer_gpus_are_named_where_they_finish_earlier() -> None:
    one = on(10000)
    assert one.fewer and one.fewer.gpus == 9984 and one.fewer.days < one.days.p50
    again = on(9984)
    assert one.fewer.days == pytest.approx(again.days.p50, rel=1e-3)
    assert one.fewer.gpu_hours == pytest.approx(again.gpu_hours.p50, rel=1e-3)
    said = str(plan_page.story(one, CATALOG))
    assert "9,984 of your 10,000" in said and "(--count 9984)" in said
    assert plan_page.to_dict(one, CATALOG)["fewer"]["gpus"] == 9984
    for gpus in (2048, 3072, 9984):
        assert on(gpus).fewer is None
    assert on(2000, "pp25 dp80 ep16 zero1").fewer is None


def test_fewer_gpus_keep_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """728 GPUs usually take steps of 8M tokens, 704 of 4M."""
    batches = list[float | None]()

    def noting(question: Question, catalog: Catalog, gpus: int) -> Basis:
        batches.append(question.batch)
        return basis(question, catalog, gpus)

    monkeypatch.setattr(fewer, "basis", noting)
    plan(replace(ASKED, shape=SEVEN, precision="bf16", tokens=1e12, gpus=728), CATALOG)
    assert batches and set(batches) == {2**23}


def test_counts_to_look_at_are_whole_nodes_a_little_fewer() -> None:
    assert counts(10000, GPU) == [9728, 9984]
    assert counts(2003, GPU) == [1920, 1984, 2000]
    assert counts(2048, GPU) == counts(8, GPU) == counts(96, GPU) == []


def test_what_is_computed_again_takes_time_and_saves_memory() -> None:
    """On which the search relies: against every candidate, timed one by one."""
    from benthic.cost.step.calibrate import load_constants
    from benthic.cost.step.memory import memory, usable
    from benthic.cost.step.speed import seconds

    for network, gpus in ((V3, 768), (V3, 520), (SEVEN, 24)):
        found = fastest(network, GPU, gpus, 4096, batch=1 << 23)
        best = min(
            sum(seconds(network, one, GPU, 4096, load_constants()).values()) / one.batch
            for one in _filled(network, gpus, (1 << 23) // 4096)
            if memory(network, one, 4096).total <= usable(GPU)
        )
        assert found.seconds / found.layout.batch == pytest.approx(best)


def _filled(network, gpus, sequences):  # type: ignore[no-untyped-def]
    for one in list(candidates(network, gpus, 8, seq=4096)):
        micro = sequences / (one.data * one.micro_batch)
        if micro >= 1:
            yield replace(one, micro_batches=round(micro))


def test_the_least_that_would_do_is_named() -> None:
    dense = nearest_fit(SEVEN, 1, GPU, 4096)
    assert dense.missing == 1 and "2 GPUs would do, 1 more" in dense.sentence
    enough = 96 + nearest_fit(V3, 96, GPU, 4096).missing
    assert enough == 152 + nearest_fit(V3, 152, GPU, 4096).missing <= 160
    assert nearest_fit(V3, enough, GPU, 4096).layout
