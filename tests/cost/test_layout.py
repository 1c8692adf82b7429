"""Layouts: what divides, what is nearest, and the text that they are written in."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benthic.cost.catalog.load import CostError
from benthic.cost.network.read_shape import shape
from benthic.cost.network.shape import Shape
from benthic.cost.step.layout import Layout, candidates, distance, nearest, parse, stages

V3 = shape("deepseek-v3")
DENSE = Shape(
    name="dense",
    layers=80,
    hidden=8192,
    vocab=128256,
    heads=64,
    kv_heads=8,
    head_dim=128,
    ffn=28672,
)


def test_deepseeks_own_layout_divides() -> None:
    layout = parse("pp16 ep64 dp128 zero1")
    layout.check(V3, 2048, 8)
    assert layout == Layout(pipeline=16, expert=64, data=128, zero=1)
    assert layout.gpus == 2048


@pytest.mark.parametrize(
    ("network", "text", "gpus", "says", "nearby"),
    [
        (
            V3,
            "pp16 ep60 dp128",
            2048,
            "256 experts do not divide by expert = 60",
            "dp128 pp16 ep64",
        ),
        (
            V3,
            "pp16 ep256 dp128",
            2048,
            "data * context = 128 does not divide by expert = 256",
            "ep",
        ),
        (DENSE, "dp4 ep4", 4, "dense has no experts", "'dp4'"),
        (DENSE, "tp6 dp4", 24, "tensor = 6 neither divides nor fills nodes of 8", "tp"),
        (DENSE, "pp81 dp1", 81, "80 layers are fewer than the 81 stages", "dp3 pp27"),
        (DENSE, "pp4 vp3 dp2", 8, "80 layers do not divide by pipeline * interleave = 12", "pp4"),
        (DENSE, "dp8 vp2", 8, "interleave = 2 needs a pipeline", "dp8"),
        (DENSE, "dp8", 16, "takes 8 GPUs, not 16", "'dp16'"),
    ],
)
def test_what_does_not_divide_is_named_with_the_nearest(
    network: Shape, text: str, gpus: int, says: str, nearby: str
) -> None:
    with pytest.raises(CostError) as caught:
        parse(text).check(network, gpus, 8)
    assert says in str(caught.value)
    assert nearby in str(caught.value)
    nearest(parse(text), network, gpus, 8).check(network, gpus, 8)


def test_heads_and_widths_divide_by_tensor() -> None:
    odd = replace(DENSE, heads=12, kv_heads=12)
    with pytest.raises(CostError, match="12 heads do not divide by tensor = 8"):
        parse("tp8").check(odd, 8, 8)
    with pytest.raises(CostError, match="6 heads of keys and values"):
        parse("tp8").check(replace(DENSE, heads=48, kv_heads=6), 8, 8)
    parse("tp16 dp2").check(DENSE, 32, 8)  # 8 heads of keys and values, each twice
    with pytest.raises(CostError, match="feed-forward width 28670"):
        parse("tp4").check(replace(DENSE, ffn=28670), 4, 8)
    with pytest.raises(CostError, match="expert width 2046"):
        parse("tp4").check(replace(V3, expert_ffn=2046), 4, 8)


def test_nearest_is_the_least_distance_of_all_that_divide() -> None:
    """Against every factorisation of the GPUs by brute force."""
    wanted = parse("tp4 pp3 dp2 ep5")
    small = replace(V3, experts=12, layers=7, heads=8, kv_heads=8)
    every = []
    sizes = [1, 2, 3, 4, 6, 8, 12, 24]
    for t, p, c, e in product(sizes, repeat=4):
        if 24 % (t * p * c) == 0:
            one = replace(wanted, tensor=t, pipeline=p, context=c, expert=e, data=24 // (t * p * c))
            try:
                one.check(small, 24, 8)
            except CostError:
                continue
            every.append(distance(wanted, one))
    found = nearest(wanted, small, 24, 8)
    found.check(small, 24, 8)
    assert distance(wanted, found) == pytest.approx(min(every))


SIZES = st.integers(1, 500)


@given(
    st.builds(
        Layout,
        data=SIZES,
        tensor=SIZES,
        pipeline=SIZES,
        expert=SIZES,
        context=SIZES,
        zero=st.integers(0, 3),
        micro_batch=SIZES,
        micro_batches=SIZES,
        interleave=SIZES,
        recompute=st.sampled_from(["none", "selective", "full"]),
        sequence_parallel=st.booleans(),
        precision=st.sampled_from(["bf16", "fp16", "fp8", "fp32"]),
    )
)
def test_parse_reads_what_describe_writes(layout: Layout) -> None:
    assert parse(layout.describe()) == layout


def test_data_is_what_is_left_of_the_gpus() -> None:
    assert parse("tp8 pp4", 256).data == 8
    with pytest.raises(CostError, match="groups of 32 GPUs, which do not divide 100: use 96"):
        parse("tp8 pp4", 100)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dp0", "data is 0"),
        ("dp-8", "holds 'dp-8'"),
        ("zero4", "zero is 4"),
        ("tp2 tp4", "sets tensor twice"),
        ("banana", "holds 'banana'"),
        ("", "holds ''"),
        ("dp99999999", "data is 99999999"),
        ("recompute-some", "holds 'recompute-some'"),
    ],
)
def test_bad_words_are_one_sentence(text: str, says: str) -> None:
    with pytest.raises(CostError) as caught:
        parse(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "layout",
    [
        Layout(data=-1),
        Layout(zero=5),
        Layout(micro_batch=0),
        Layout(tensor=1.5),  # type: ignore[arg-type]
        Layout(recompute="all"),  # type: ignore[arg-type]
        Layout(precision="int8"),  # type: ignore[arg-type]
    ],
)
def test_sizes_that_cannot_be_are_refused(layout: Layout) -> None:
    with pytest.raises(CostError):
        layout.check(DENSE, 8, 8)


@pytest.mark.parametrize("gpus", [0, -8, 10**9, 2.0])
def test_machines_that_cannot_be_are_refused(gpus: int) -> None:
    with pytest.raises(CostError, match="number of GPUs"):
        Layout().check(DENSE, gpus, 8)
    with pytest.raises(CostError, match="number of GPUs"):
        list(candidates(DENSE, gpus, 8))


@given(st.integers(1, 100_000), st.sampled_from([V3, DENSE]), st.sampled_from([0, 8192, 131072]))
def test_candidates_divide_and_stay_few(gpus: int, network: Shape, seq: int) -> None:
    found = list(candidates(network, gpus, 8, seq=seq))
    assert 0 < len(found) < 50_000
    assert len(set(found)) == len(found)
    for layout in found[:: max(1, len(found) // 20)]:
        layout.check(network, gpus, 8)
        assert layout.tensor <= 8


def test_candidates_hold_what_people_run() -> None:
    v3 = {(c.pipeline, c.expert, c.zero, c.tensor) for c in candidates(V3, 2048, 8)}
    assert (16, 64, 1, 1) in v3
    dense = list(candidates(DENSE, 64, 8))
    assert {c.zero for c in dense} == {0, 1, 2, 3}
    assert {c.micro_batch for c in dense} == {1, 2, 4, 8}
    assert {c.recompute for c in dense} == {"none", "selective", "full"}
    assert {c.tensor for c in dense} == {1, 2, 4, 8}
    assert 16 in {c.context for c in candidates(DENSE, 64, 8, seq=131072)}


def test_candidates_are_lazy() -> None:
    assert next(candidates(V3, 100_000, 8)).gpus == 100_000


def test_the_ends_of_a_pipeline_hold_the_fewer() -> None:
    assert stages(V3, 16) == [3, *[4] * 14, 3]  # 61 layers and one that predicts
    assert stages(DENSE, 3) == [26, 27, 27]
    assert stages(DENSE, 1) == [80]


@given(st.integers(1, 61))
def test_stages_hold_every_block_and_differ_by_one(pipeline: int) -> None:
    held = stages(V3, pipeline)
    assert sum(held) == 62
    assert max(held) - min(held) <= 1
