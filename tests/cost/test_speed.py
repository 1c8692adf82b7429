"""Step times: what must hold of any layout, and measured steps that the model was not told of."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benthic.cost.catalog.load import CostError, load
from benthic.cost.network.read_shape import shape
from benthic.cost.network.shape import Shape
from benthic.cost.step import comm
from benthic.cost.step.calibrate import RATES, calibrated, load_constants
from benthic.cost.step.goodput import goodput
from benthic.cost.step.layout import Layout, parse
from benthic.cost.step.speed import CLASSES, seconds, step_time

CATALOG = load()
A100, H800 = CATALOG.gpu("A100-80GB"), CATALOG.gpu("H800")
LLAMA = Shape(
    name="llama",
    **{"layers": 32, "hidden": 4096, "vocab": 128256, "ffn": 14336},
    **{"heads": 32, "kv_heads": 8, "head_dim": 128},
)


def gpt(hidden: int, heads: int, layers: int, seq: int) -> Shape:
    return Shape(
        name="gpt",
        **{"layers": layers, "hidden": hidden, "vocab": 50257, "ffn": 4 * hidden},
        **{"heads": heads, "kv_heads": heads, "head_dim": hidden // heads},
        **{"gated": False, "tied": True, "learned_positions": True, "max_positions": seq},
        norm_vectors=2,
    )


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    power = st.sampled_from([1, 2, 4, 8])
    pipeline = draw(power)
    return Layout(
        data=draw(power),
        tensor=draw(power),
        pipeline=pipeline,
        zero=draw(st.integers(0, 3)),
        micro_batch=draw(power),
        micro_batches=draw(st.integers(1, 32)),
        interleave=draw(st.sampled_from([1, 2])) if pipeline > 1 else 1,
        recompute=draw(st.sampled_from(["none", "selective", "full"])),
        sequence_parallel=draw(st.booleans()),
        precision=draw(st.sampled_from(["bf16", "fp16", "fp8", "fp32"])),
    )


@given(layouts(), st.sampled_from(["fused", "unfused"]))
def test_parts_are_known_positive_and_finite(layout: Layout, software: str) -> None:
    parts = seconds(LLAMA, layout, H800, 4096, load_constants(software))
    assert list(parts) == list(CLASSES)
    assert all(0 <= time < 1e4 for time in parts.values())
    assert (parts["bubble"] > 0) == (layout.pipeline > 1)
    assert (parts["tensor"] > 0) == (layout.tensor > 1)
    assert (parts["data"] > 0) == (layout.data > 1)
    assert parts["experts"] == parts["expert"] == 0


@given(layouts(), st.floats(0.2, 5.0))
def test_a_calibration_reproduces_what_was_measured(layout: Layout, factor: float) -> None:
    constants = load_constants()
    predicted = sum(seconds(LLAMA, layout, H800, 2048, constants).values())
    found = calibrated(constants, [(predicted, predicted * factor)])
    again = sum(seconds(LLAMA, layout, H800, 2048, found.constants).values())
    assert again == pytest.approx(predicted * factor, rel=1e-6)
    assert found.factor == pytest.approx(factor)


@given(layouts(), st.sampled_from(RATES))
def test_faster_parts_never_make_a_slower_step(layout: Layout, rate: str) -> None:
    constants = load_constants()
    better = replace(constants, **{rate: 1.3 * getattr(constants, rate)})
    slow, fast = (sum(seconds(LLAMA, layout, H800, 4096, c).values()) for c in (constants, better))
    assert fast <= slow * (1 + 1e-12)


@given(layouts())
def test_work_grows_with_recomputation_and_with_micro_batches(layout: Layout) -> None:
    def total(**changes: object) -> float:
        changed = replace(layout, **changes)
        return sum(seconds(LLAMA, changed, H800, 4096, load_constants()).values())

    none, some, full = (total(recompute=mode) for mode in ("none", "selective", "full"))
    assert none <= some <= full
    assert total(micro_batches=layout.micro_batches + 1) > total()


def test_full_recomputation_repeats_a_forward_and_its_communication() -> None:
    kept, redone = (
        seconds(LLAMA, parse(f"tp8 recompute-{mode}"), H800, 4096, load_constants())
        for mode in ("none", "full")
    )
    assert redone["tensor"] == pytest.approx(1.5 * kept["tensor"])
    assert redone["attention"] == pytest.approx(4.5 / 3.5 * kept["attention"])


@pytest.mark.parametrize(
    ("sizes", "text", "batch", "measured"),
    [
        ((12288, 96, 96, 2048), "tp4 pp32 dp4 mb2 recompute-full", 1536, 53.938),
        ((8192, 64, 48, 2048), "tp8 pp4 dp16 mb2 recompute-full", 1536, 14.713),
        ((6144, 48, 40, 2048), "tp8 dp32 mb4 recompute-full", 1024, 9.928),
        ((3072, 32, 30, 2048), "tp4 dp16 mb16 recompute-full", 512, 4.492),
        ((2048, 16, 24, 1024), "dp8 mb8 recompute-none", 128, 0.961),
        ((1024, 16, 16, 1024), "tp2 dp4 recompute-none", 32, 0.460),  # the host is the limit
        ((2048, 16, 20, 1024), "pp4 dp2 recompute-none", 16, 0.275),
    ],
)
def test_measured_steps_of_gpts_on_a100s(
    sizes: tuple[int, int, int, int], text: str, batch: int, measured: float
) -> None:
    """arXiv:2312.12391: Megatron-DeepSpeed, fp16, scores in memory."""
    layout = parse(f"{text} nosp fp16")
    layout = replace(layout, micro_batches=batch // layout.batch)
    found = seconds(gpt(*sizes), layout, A100, sizes[-1], load_constants("unfused"))
    assert sum(found.values()) == pytest.approx(measured, rel=0.15)


def test_deepseek_v3_trains_a_trillion_tokens_in_180k_hours() -> None:
    """V3 table 1, from its layout alone; fp8 is what makes it so."""
    layout = parse("pp16 ep64 dp128 zero1 acc120 fp8")
    network = shape("deepseek-v3")
    step = step_time(network, layout, H800, 4096)
    useful = goodput(layout.gpus, CATALOG.figure("gpu_mtbf").si).useful
    hours = step.total.value * layout.gpus / 3600 / step.tokens * 1e12 / useful
    assert hours == pytest.approx(180e3, rel=0.15)
    plain = step_time(network, replace(layout, precision="bf16"), H800, 4096)
    assert plain.total.value > 1.15 * step.total.value
    assert step.parts["experts"].value > step.parts["head"].value
    assert step.parts["expert"].value > 0 and step.parts["imbalance"].value > 0


def test_ranges_hold_the_value_and_parts_make_the_total() -> None:
    step = step_time(LLAMA, parse("dp8 tp4 pp2 acc16"), H800, 8192)
    assert sum(part.value for part in step.parts.values()) == pytest.approx(step.total.value)
    for span in (*step.parts.values(), step.total, step.mfu):
        assert span.low <= span.value <= span.high
    assert step.total.low < step.total.value < step.total.high
    assert step.tokens == 8 * 16 * 8192 and step.gpus == 64
    rate = step.tokens_per_second_per_gpu * 64 * step.total.value
    assert rate == pytest.approx(step.tokens)


def test_a_long_sequence_costs_attention_and_a_window_saves_it() -> None:
    layout, constants = parse("dp8 zero1"), load_constants()
    short = seconds(LLAMA, replace(layout, micro_batch=8), H800, 4096, constants)
    long = seconds(LLAMA, layout, H800, 32768, constants)
    assert long["attention"] == pytest.approx(8 * short["attention"], rel=1e-3)
    assert long["matmul"] == pytest.approx(short["matmul"])
    windowed = replace(LLAMA, window=4096, windowed_layers=32)
    assert seconds(windowed, layout, H800, 32768, constants)["attention"] < long["attention"] / 3


def test_a_vocabulary_that_eight_does_not_divide_is_slow() -> None:
    layout, constants = parse("dp8 fp16"), load_constants("unfused")
    odd, even = (
        seconds(replace(gpt(4096, 32, 12, 1024), vocab=v), layout, A100, 1024, constants)["head"]
        for v in (50257, 50304)
    )
    assert odd > 1.5 * even


def test_bad_input_is_a_sentence() -> None:
    constants = load_constants()
    with pytest.raises(CostError, match=r"A100.* has no fp8: plan with bf16"):
        seconds(LLAMA, parse("dp8 fp8"), A100, 4096, constants)
    with pytest.raises(CostError, match="0 tokens long"):
        seconds(LLAMA, parse("dp8"), A100, 0, constants)
    with pytest.raises(CostError, match="fused or unfused"):
        load_constants("cursed")
    with pytest.raises(CostError, match="check the unit"):
        calibrated(constants, [(1.0, 3600.0)])
    for runs in ([], [(1.0, 0.0)], [(1.0, float("inf"))], [(1.0, float("nan"))]):
        with pytest.raises(CostError, match="measured steps in seconds"):
            calibrated(constants, runs)


def test_a_calibration_says_by_how_much() -> None:
    found = calibrated(load_constants(), [(1.0, 1.1), (2.0, 2.6)])
    assert found.sentence == "your machine is 20% slower than the catalog's, runs differ by 8%"
    one = calibrated(load_constants(), [(1.0, 0.9)])
    assert one.sentence == "your machine is 10% faster than the catalog's"


def test_groups_nest_from_tensor_to_pipeline() -> None:
    groups = comm.groups(Layout(data=8, tensor=4, pipeline=2, expert=4), 8)
    assert groups["tensor"] == comm.Group(4, 4)
    assert groups["data"] == comm.Group(8, 2) and groups["data"].nodes == 4
    assert groups["expert"] == comm.Group(4, 2)
    assert groups["pipeline"] == comm.Group(2, 1)
    assert comm.groups(Layout(tensor=16), 8)["tensor"] == comm.Group(16, 8)
    assert comm.groups(Layout(data=2, pipeline=4), 8)["pipeline"].nodes == 1


def test_collectives_move_the_bytes_that_a_ring_moves() -> None:
    links = comm.Links(up=100e9, out=10e9, startup=0.0)
    assert comm.all_reduce(8e9, comm.Group(8, 8), links) == pytest.approx(2 * 7 / 8 * 8e9 / 100e9)
    # Two nodes of four: four network cards carry the ring.
    assert comm.all_gather(8e9, comm.Group(8, 4), links) == pytest.approx(7 / 8 * 8e9 / 40e9)
    assert comm.all_gather(8e9, comm.Group(1, 1), links) == 0
    # One copy each to 8 nodes: 7 of 8 cross, once a node however many experts are there.
    crossing = comm.all_to_all(1e6, 64, 4, 1e3, comm.Group(64, 8), links)
    assert crossing == pytest.approx(max(1e9 * 4 * 7 / 8 / 10e9, 1e9 * 64 * 7 / 8 / 100e9))


def test_pcie_stands_in_for_a_missing_link() -> None:
    card = CATALOG.gpu("RTX-4090")
    parts = seconds(LLAMA, parse("tp8"), card, 2048, load_constants())
    assert parts["tensor"] > parts["matmul"]
