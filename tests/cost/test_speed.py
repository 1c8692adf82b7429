"""Step times: what must hold of any layout, and measured steps that the model was not told of."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benthic.cost.catalog.load import CostError, load
from benthic.cost.network.flops import parameters
from benthic.cost.network.read_shape import shape
from benthic.cost.network.shape import Shape
from benthic.cost.step import comm, speed
from benthic.cost.step.calibrate import Constants, load_constants
from benthic.cost.step.goodput import usual_goodput
from benthic.cost.step.layout import Layout, parse
from benthic.cost.step.speed import CLASSES, seconds, step_time
from benthic.cost.step.work import Work, reach

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


@given(
    layouts(), st.sampled_from(["matmul", "fp8_matmul", "flash", "memory", "scale_up", "scale_out"])
)
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


@pytest.mark.parametrize(("zero", "passes"), [(0, 2), (1, 2), (2, 9), (3, 24)])
def test_what_replicas_exchange_in_a_step_of_eight_micro_batches(zero: int, passes: int) -> None:
    """A scatter and a gather; of ZeRO-2 a scatter a micro-batch; of ZeRO-3 two gathers, too."""
    bare = replace(load_constants(), data_hidden=0.0)
    layout = parse(f"dp64 acc8 zero{zero}")
    once = comm.all_gather(2 * parameters(LLAMA)["total"], comm.Group(64, 8), link(bare))
    found = seconds(LLAMA, layout, H800, 4096, bare)["data"]
    assert found == pytest.approx(passes * once)


def link(constants: Constants) -> comm.Links:
    assert H800.scale_up and H800.scale_out
    up, out = constants.scale_up * H800.scale_up, constants.scale_out * H800.scale_out
    return comm.Links(up, out, constants.startup)


@pytest.mark.parametrize("name", CATALOG.gpus())
def test_every_gpu_reaches_a_share_with_a_range(name: str) -> None:
    value, low, high = reach(CATALOG.gpu(name))
    assert 0.5 <= low <= value <= high <= 1.05 and low < high


def test_what_a_gpu_reaches_slows_it_and_is_in_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    card, layout = CATALOG.gpu("MI300X"), parse("dp8 zero1")
    step = step_time(LLAMA, layout, card, 4096)
    monkeypatch.setattr(speed, "reach", lambda _: (1.0, 1.0, 1.0))
    sure = step_time(LLAMA, layout, card, 4096)
    assert step.total.value == sure.total.value
    constants, (value, *ends) = load_constants(), reach(card)
    slow, fast = (
        seconds(
            LLAMA, layout, card, 4096, replace(constants, matmul=constants.matmul * end / value)
        )
        for end in ends
    )
    middle = step.total.value
    for end, was, moved in (
        (step.total.high, sure.total.high, slow),
        (step.total.low, sure.total.low, fast),
    ):
        change = sum(moved.values()) - middle
        assert (end - middle) ** 2 == pytest.approx((was - middle) ** 2 + change**2)
    assert sum(fast.values()) < middle < sum(slow.values())
    alike = replace(card, name="H100-SXM")
    quick = seconds(LLAMA, layout, alike, 4096, constants)
    assert seconds(LLAMA, layout, card, 4096, constants)["matmul"] > 1.2 * quick["matmul"]


def test_a_gpu_that_nobody_knows_is_a_sentence_and_a_measured_one_reaches_its_peak() -> None:
    odd = replace(A100, name="Z9")
    with pytest.raises(CostError, match=r"no row reach\.z9: give it that of the nearest"):
        reach(odd)
    assert reach(replace(odd, vendor="")) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("name", "single"),
    [
        ("a100", 156e12),
        ("h100", 494.7e12),
        ("rtx-4090", 82.6e12),
        ("v100", 15.7e12),
        ("t4", 8.1e12),
    ],
)
def test_fp32_is_tf32_where_there_is_bf16_and_plain_where_not(name: str, single: float) -> None:
    card, constants = CATALOG.gpu(name), load_constants()
    assert Work(LLAMA, parse("fp32"), card, 512, constants).peak == pytest.approx(single, rel=2e-3)
    wide = seconds(LLAMA, parse("fp32"), card, 512, constants)["matmul"]
    narrow = seconds(LLAMA, parse("bf16" if card.has_bf16 else "fp16"), card, 512, constants)
    assert wide > 1.9 * narrow["matmul"]


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
def test_steps_that_the_constants_were_fitted_to(
    sizes: tuple[int, int, int, int], text: str, batch: int, measured: float
) -> None:
    """arXiv:2312.12391: Megatron-DeepSpeed, fp16, scores in memory. A guard against slips in the
    code; `benchmarks/plan_vtrain.py` leaves rows out."""
    layout = parse(f"{text} nosp fp16")
    layout = replace(layout, micro_batches=batch // layout.batch)
    found = seconds(gpt(*sizes), layout, A100, sizes[-1], load_constants("unfused"))
    assert sum(found.values()) == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize(
    ("sizes", "text", "measured"),
    [
        ((6144, 64, 48), "tp8 mb4", 1.10),
        ((12288, 96, 96), "tp8 pp8 vp3 acc64", 13.75),
        ((20480, 128, 105), "tp8 pp35 vp3 acc280", 37.83),
        ((25600, 160, 128), "tp8 pp64 acc512", 71.49),
    ],
)
def test_steps_of_megatron_that_nothing_was_fitted_to(
    sizes: tuple[int, int, int], text: str, measured: float
) -> None:
    """arXiv:2205.05198 table 5 (recalled): 22B to 1T parameters, scores computed again."""
    layout, network = parse(f"{text} fp16"), replace(gpt(*sizes, 2048), vocab=51200)
    found = seconds(network, layout, A100, 2048, load_constants("unfused"))
    assert sum(found.values()) == pytest.approx(measured, rel=0.12)


@pytest.mark.parametrize(
    ("text", "seq", "mfu"),
    [
        ("tp8 pp16 dp64 acc32", 8192, 0.43),
        ("tp8 pp16 dp128 acc16", 8192, 0.41),
        ("tp8 cp16 pp16 dp8 acc16", 131072, 0.38),
    ],
)
def test_llama_3_405b_that_nothing_was_fitted_to(text: str, seq: int, mfu: float) -> None:
    """arXiv:2407.21783 table 4: H100s in bf16, nothing computed again."""
    network = replace(LLAMA, layers=126, hidden=16384, ffn=53248, heads=128)
    step = step_time(network, parse(f"{text} zero1 recompute-none"), CATALOG.gpu("h100"), seq)
    assert step.tokens == 2**24
    assert step.mfu.value == pytest.approx(mfu, rel=0.16)
    assert step.mfu.low < mfu < step.mfu.high


def test_deepseek_v3_trains_a_trillion_tokens_in_180k_hours() -> None:
    """V3 table 1, from its layout alone; fp8 is what makes it so."""
    layout = parse("pp16 ep64 dp128 zero1 acc120 fp8")
    network = shape("deepseek-v3")
    step = step_time(network, layout, H800, 4096)
    useful = usual_goodput(CATALOG, layout.gpus).useful
    hours = step.total.value * layout.gpus / 3600 / step.tokens * 1e12 / useful
    assert hours == pytest.approx(180e3, rel=0.15)
    plain = step_time(network, replace(layout, precision="bf16"), H800, 4096)
    assert plain.total.value > 1.15 * step.total.value
    assert step.parts["experts"].value > step.parts["head"].value
    assert step.parts["expert"].value > 0 and step.parts["imbalance"].value > 0


def test_fp8_products_reach_of_their_peak_what_the_chip_does_beside_hopper() -> None:
    layout, constants = parse("dp8 fp8"), load_constants()
    shares = {}
    for name in ("h800", "mi300x"):
        gpu = CATALOG.gpu(name)
        assert gpu.fp8_flops
        shares[name] = Work(LLAMA, layout, gpu, 4096, constants).fast / gpu.fp8_flops
    beside = reach(CATALOG.gpu("mi300x"))[0] / reach(CATALOG.gpu("h800"))[0]
    assert shares["h800"] == pytest.approx(constants.fp8_matmul)
    assert shares["mi300x"] == pytest.approx(constants.fp8_matmul * beside) and beside < 0.8


def test_ranges_hold_the_value_and_parts_make_the_total() -> None:
    step = step_time(LLAMA, parse("dp8 tp4 pp2 acc16"), H800, 8192)
    assert sum(part.value for part in step.parts.values()) == pytest.approx(step.total.value)
    for span in (*step.parts.values(), step.total, step.mfu):
        assert span.low <= span.value <= span.high
    assert step.total.low < step.total.value < step.total.high
    assert step.tokens == 8 * 16 * 8192 and step.gpus == 64


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
