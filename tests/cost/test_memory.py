"""Memory of training and serving against known cases, and one device's peak against PyTorch."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benthic.config import PretrainConfig
from benthic.cost.catalog.load import CostError, load
from benthic.cost.network.flops import parameters
from benthic.cost.network.read_shape import from_config, shape
from benthic.cost.network.shape import Shape, shape_of
from benthic.cost.step.eager import single_device
from benthic.cost.step.layout import Layout, parse
from benthic.cost.step.memory import Memory, fits, memory, nearest_fit, serving_memory, usable
from benthic.cost.step.tape import Tape
from benthic.model.config import ModelConfig
from benthic.model.transformer import LanguageModel, initialise
from benthic.train.optimizer import Optimizer
from benthic.train.parallel import Ranks
from benthic.train.pretrain import Batch, _part
from benthic.train.step import train_step

V3 = shape("deepseek-v3")
SEVEN = Shape(
    name="Llama-2-7B",
    layers=32,
    hidden=4096,
    vocab=32000,
    heads=32,
    kv_heads=32,
    head_dim=128,
    ffn=11008,
)
SEVENTY = Shape(
    name="Llama-3-70B",
    layers=80,
    hidden=8192,
    vocab=128256,
    heads=64,
    kv_heads=8,
    head_dim=128,
    ffn=28672,
)
CATALOG = load()


def static(held: Memory) -> float:
    return held.weights + held.gradients + held.optimizer


def test_bytes_a_parameter_of_mixed_precision() -> None:
    """2 + 2 + 4 + 8, and 2 more since gradients add up in fp32 (arXiv:1910.02054)."""
    count = parameters(SEVEN)["total"]
    assert static(memory(SEVEN, Layout(), 2048)) == pytest.approx(18 * count)
    assert static(memory(SEVEN, parse("fp32"), 2048)) == pytest.approx(16 * count)


def test_zero_shards_one_more_part_a_stage() -> None:
    base = memory(SEVEN, parse("dp8"), 2048)
    for stage in (1, 2, 3):
        held = memory(SEVEN, parse(f"dp8 zero{stage}"), 2048)
        for i, part in enumerate(("optimizer", "gradients", "weights")):
            share = 8 if i < stage else 1
            assert getattr(held, part) == pytest.approx(getattr(base, part) / share)


def test_deepseek_v3_fits_its_machines_as_published() -> None:
    """No tensor parallelism: PP16, EP64, ZeRO-1, FP8, 4,096 tokens, norms and up-projections
    computed again (V3 sections 3.2 and 3.3); 15,360 rows a step. DualPipe and moments in bf16, one
    more and the other less, are left out."""
    gpu = CATALOG.gpu("h800")
    layout = parse("pp16 ep64 dp128 zero1 acc120 fp8")
    layout.check(V3, 2048, gpu.per_node)
    held = fits(V3, layout, gpu, 4096)
    assert 0.6 * usable(gpu) < held.total < usable(gpu)
    with pytest.raises(CostError, match="activations alone"):
        fits(V3, replace(layout, recompute="none"), gpu, 4096)


def test_buffers_of_a_context_hold_what_is_exchanged() -> None:
    """Latents and rotated keys of the neighbour, and the ones on their way."""
    one, other = (memory(V3, parse(text), 8192) for text in ("cp2 zero1", "dp2 zero1"))
    halved = memory(V3, parse("dp2 zero1"), 4096)
    assert one.activations == halved.activations
    assert one.other - halved.other == pytest.approx(1.05 * 2 * 2 * (512 + 64) * 4096)
    assert other.total > one.total


def test_seventy_billion_do_not_train_on_eight() -> None:
    gpu = CATALOG.gpu("h100")
    fit = nearest_fit(SEVENTY, 8, gpu, 4096)
    assert fit.layout is None
    assert "does not fit 8 H100" in fit.sentence
    assert 0 < fit.missing <= 24
    again = nearest_fit(SEVENTY, 8 + fit.missing, gpu, 4096)
    assert again.layout is not None
    assert nearest_fit(SEVENTY, fit.missing, gpu, 4096).layout is None


def test_the_nearest_layout_fits_and_changes_little() -> None:
    gpu = CATALOG.gpu("a100-sxm4-80gb")
    wanted = parse("dp64 mb8 recompute-none")
    with pytest.raises(CostError, match="layout 'dp64 mb8 recompute-none' takes"):
        fits(SEVEN, wanted, gpu, 4096)
    fit = nearest_fit(SEVEN, 64, gpu, 4096, layout=wanted)
    assert fit.layout is not None
    assert fit.layout.gpus == 64
    fits(SEVEN, fit.layout, gpu, 4096)
    assert (fit.layout.tensor, fit.layout.pipeline) == (1, 1)
    assert nearest_fit(SEVEN, 64, gpu, 4096, layout=fit.layout).layout == fit.layout


def test_671_billion_in_fp8_serve_on_h20_and_h200_but_not_on_h800() -> None:
    held = serving_memory(V3, 673e9, 131072, 1, gpus=8)
    assert held.cache == pytest.approx(9.21e9, rel=0.001)
    can = {name: held.fits(CATALOG.gpu(name)) for name in ("h800", "h20", "h200")}
    assert can == {"h800": False, "h20": True, "h200": True}
    assert not serving_memory(V3, 673e9, 128, 1, gpus=8).fits(CATALOG.gpu("h800"))


def test_heads_of_the_cache_are_split_and_latents_lie_whole() -> None:
    one = serving_memory(SEVENTY, 140e9, 8192, 16)
    assert one.cache == 80 * 2 * 8 * 128 * 2 * 8192 * 16
    assert serving_memory(SEVENTY, 140e9, 8192, 16, gpus=4).cache == one.cache / 4
    assert serving_memory(SEVENTY, 140e9, 8192, 16, gpus=16).cache == one.cache / 8
    both = serving_memory(V3, 673e9, 8192, 9, gpus=8)
    assert both.cache == 2 * 8192 * 70272


def test_micro_batches_in_flight() -> None:
    """1F1B holds p - i; interleaving holds p (1 + (p - 1) / (p v)) at the first (2104.04473)."""

    bare = replace(SEVEN, vocab=8)  # without ends, so that the first stage is the fullest

    def kept(text: str) -> float:
        held = memory(bare, parse(text), 2048)
        assert held.stage == 0
        return held.activations

    one = kept("pp8 acc3") - kept("pp8 acc2")
    assert one > 0
    assert kept("pp8 acc8") - kept("pp8 acc2") == pytest.approx(6 * one)
    assert kept("pp8 acc64") == kept("pp8 acc8")
    interleaved = kept("pp8 vp2 acc64") - kept("pp8 acc2")
    assert interleaved == pytest.approx((8 * (1 + 7 / 16) - 2) * one)


def test_parallelism_takes_its_part() -> None:
    base = memory(SEVENTY, parse("dp16"), 8192)
    tensor = memory(SEVENTY, parse("tp8 dp2"), 8192)
    assert tensor.weights == pytest.approx(base.weights / 8, rel=0.01)
    assert tensor.activations == pytest.approx(base.activations / 8, rel=0.01)
    loose = memory(SEVENTY, parse("tp8 dp2 nosp"), 8192)
    assert loose.activations > 1.5 * tensor.activations
    assert memory(SEVENTY, parse("cp4 dp4"), 8192).activations == pytest.approx(
        base.activations / 4
    )
    spread = memory(V3, parse("ep32 dp32 zero1"), 4096)
    whole = memory(V3, parse("dp32 zero1"), 4096)
    experts = parameters(V3)["experts"] * (1 + 1 / 58)
    assert whole.weights - spread.weights == pytest.approx(2 * experts * 31 / 32, rel=1e-6)
    # Sharded over the data ranks that are left, experts' optimizer state is as small either way.
    assert whole.optimizer == pytest.approx(spread.optimizer)


def test_recomputation_keeps_less_and_less() -> None:
    kept = [
        memory(V3, parse(f"pp16 ep64 dp128 acc32 recompute-{mode}"), 4096).activations
        for mode in ("none", "selective", "full")
    ]
    assert kept[0] > 1.3 * kept[1] > 1.3 * kept[2]


@given(
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([512, 4096, 32768]),
    st.sampled_from(["none", "selective", "full"]),
    st.sampled_from(["dp8", "tp4 dp2", "pp4 dp2 acc9", "zero3 dp8"]),
)
def test_more_tokens_never_take_less(rows: int, seq: int, mode: str, text: str) -> None:
    layout = parse(f"{text} mb{rows} recompute-{mode}")
    held = memory(SEVEN, layout, seq)
    assert min(held.weights, held.gradients, held.optimizer, held.activations, held.other) > 0
    assert memory(SEVEN, layout, 2 * seq).total > held.total
    assert memory(SEVEN, replace(layout, micro_batch=rows + 1), seq).total > held.total


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: memory(SEVEN, Layout(), 0), "the sequence is 0"),
        (lambda: memory(SEVEN, Layout(), -4), "the sequence is -4"),
        (lambda: memory(SEVEN, Layout(), 10**12), "the sequence is 1000000000000"),
        (lambda: memory(SEVEN, Layout(zero=7), 512), "zero is 7"),
        (lambda: memory(SEVEN, parse("cp3"), 512), "does not divide by context = 3: use 510"),
        (
            lambda: memory(
                replace(SEVEN, learned_positions=True, max_positions=128), Layout(), 512
            ),
            "exceeds the 128 learned positions",
        ),
        (lambda: nearest_fit(SEVEN, 0, CATALOG.gpu("h100"), 512), "number of GPUs is 0"),
        (lambda: serving_memory(V3, -1.0, 512, 1), "weights of -1.0 bytes"),
        (lambda: serving_memory(V3, 673e9, 0, 1), "the context is 0"),
        (lambda: single_device(SEVEN, 0, 16), "the batch is 0"),
        (lambda: single_device(SEVEN, 1, 16, precision="fp8"), "precision is 'fp8'"),
        (lambda: single_device(SEVEN, 1, 16, optimizer="muon"), "is Benthic's own"),
        (
            lambda: single_device(SEVEN, 1, 16, precision="bf16", implementation="benthic"),
            "Benthic trains in fp32",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(CostError) as caught:
        call()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_number_of_gpus_holds_an_absurd_sequence() -> None:
    fit = nearest_fit(SEVENTY, 8, CATALOG.gpu("h100"), 99_999_999)
    assert fit.layout is None
    assert "no number of GPUs would do" in fit.sentence


def test_a_tape_played_by_hand() -> None:
    """x (10) -> y (20), x kept -> sum (0), y kept; a weight of 3 elements, 4 bytes each."""
    tape = Tape()
    x = tape.one([], 10.0, weights=[tape.weight(3)])
    y = tape.one([x], 20.0, saves=[x], forward=5.0)
    tape.one([y], 0.0, saves=[y])
    forward, backward, kept, end = tape.peak(100.0, 4, None)
    assert forward == 135.0
    assert kept == 30.0
    assert backward == 150.0  # x, y, and y's gradient
    assert end == 112.0


def test_a_tape_with_a_residual_and_what_is_kept_aside() -> None:
    """x (10) -> y (10), 7 bytes kept aside; x + y -> sum. The sum's gradient goes to both branches,
    so x's second gradient cannot be added in place before y's is gone, which it is."""
    tape = Tape()
    x = tape.one([], 10.0, weights=[tape.weight(1)])
    y = tape.one([x], 10.0, keeps=7.0, backward=100.0)
    z = tape.add(x, y)
    tape.one([z], 0.0)
    _, backward, kept, end = tape.peak(0.0, 4, None)
    assert kept == 7.0
    assert backward == 10 + 7 + 10 + 100  # gradient of z, aside, gradient of x by y, in passing
    assert end == 4.0


def test_a_gradient_that_others_still_read_is_summed_in_a_new_tensor() -> None:
    """x goes twice into one sum and once elsewhere: both hands-on hold one tensor."""
    tape = Tape()
    x = tape.one([], 10.0, weights=[tape.weight(1)])
    a = tape.one([x], 10.0, backward=100.0)
    b = tape.add(x, a)
    c = tape.add(b, x)
    tape.one([c], 0.0)
    _, backward, _, end = tape.peak(0.0, 0, None)
    assert backward == 130.0  # shared gradient, its sum, what a hands back, and in passing
    assert end == 0.0


def test_a_weight_used_twice_has_one_gradient() -> None:
    tape = Tape()
    table = tape.weight(5)
    x = tape.one([], 10.0, weights=[table])
    tape.one([x], 0.0, weights=[table])
    _, backward, _, end = tape.peak(0.0, 4, None)
    assert backward == 50.0  # gradient of x, both of the weight
    assert end == 20.0


def passing(step: Callable[[], None]) -> float:
    """Peak of what PyTorch's CPU allocator hands out during `step`."""
    from torch._C._profiler import _EventType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    sizes: list[tuple[int, int]] = []
    waiting = list(profiler.profiler.kineto_results.experimental_event_tree())
    while waiting:
        node = waiting.pop()
        waiting += node.children
        if node.tag == _EventType.Allocation:
            sizes.append((node.start_time_ns, node.extra_fields.alloc_size))
    now = top = 0
    for _, size in sorted(sizes, key=lambda s: s[0]):
        now += size
        top = max(top, now)
    return float(top)


@pytest.mark.parametrize("muon", [False, True])
@pytest.mark.parametrize("seq", [8, 96, 264])
@pytest.mark.parametrize("sparse", [False, True])
def test_one_device_peaks_as_a_step_of_ours_does(sparse: bool, seq: int, muon: bool) -> None:
    common: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 160,
        "vocab_size": 300,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
    }
    latent = {
        "q_lora_rank": 24,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "first_k_dense_replace": 1,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "moe_intermediate_size": 48,
        "n_group": 1,
        "topk_group": 1,
        "num_nextn_predict_layers": 1,
    }
    grouped = {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 16}
    config = ModelConfig(**common, **(latent if sparse else grouped))
    model = LanguageModel(config)
    initialise(model, torch.Generator().manual_seed(0))
    optimizer = Optimizer(model, weight_decay=0.0, muon=muon)
    batch = Batch(
        tokens=torch.zeros(2, seq + 1, dtype=torch.int64),
        documents=torch.zeros(2, seq + 1, dtype=torch.int64),
        targets=torch.ones(2, seq, dtype=torch.bool),
        ahead=torch.ones(2, seq - 1, dtype=torch.bool),
        is_text=torch.ones(2, dtype=torch.bool),
    )
    counts = torch.ones(2, dtype=torch.float64)

    def step() -> None:
        train_step(
            model,
            optimizer,
            lambda _: _part(model, batch, counts, 0.3, PretrainConfig(micro_batches=1)),
            1,
            lr=1e-4,
            clip=1.0,
            bias_rate=0.0,
            ranks=Ranks(),
        )

    step()
    held = [*model.parameters(), *model.buffers(), *optimizer.state.values()]
    measured = sum(t.numel() * t.element_size() for t in held) + passing(step)
    peak = single_device(
        shape_of(config),
        2,
        seq,
        implementation="benthic",
        optimizer="muon" if muon else "adamw",
    )
    assert peak.total == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["llama", "llama, few tokens", "gpt2", "mixtral", "deepseek_v3"])
def test_one_device_peaks_as_transformers_does(family: str, precision: str, attention: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    widths = {
        "hidden_size": 64,
        "intermediate_size": 160,
        "vocab_size": 320,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4 if family == "deepseek_v3" else 2,
        "max_position_embeddings": 256,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if family == "gpt2":
        widths = {"n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": 320, "n_positions": 256}
        widths |= {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}  # type: ignore[dict-item]
    elif family == "mixtral":
        widths |= {"num_local_experts": 6, "num_experts_per_tok": 4, "vocab_size": 48}
        widths |= {"intermediate_size": 32}  # so that the copies for experts are the peak
    elif family == "deepseek_v3":
        widths |= {"q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 16}
        widths |= {"qk_rope_head_dim": 8, "v_head_dim": 16, "first_k_dense_replace": 1}
        widths |= {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1}
        widths |= {"moe_intermediate_size": 48, "n_group": 1, "topk_group": 1}
    config = AutoConfig.for_model(family.partition(",")[0], **widths)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)
    optimizer = torch.optim.AdamW(model.train().parameters())
    ids = torch.zeros(2, 4 if "few" in family else 128, dtype=torch.int64)

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    measured = 3 * weights + passing(step)
    network = from_config(config.to_dict())
    peak = single_device(
        network,
        *ids.shape,
        precision=precision,  # type: ignore[arg-type]
        attention=attention,  # type: ignore[arg-type]
    )
    assert peak.weights == pytest.approx(weights, rel=1e-3)
    assert peak.total == pytest.approx(measured, rel=0.02)
