"""FP8 weights: fast against slow, what rounding may cost, what is refused, a model stored in it."""

import copy
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benthic.hub.layout import scale_shape
from benthic.model import fp8
from benthic.model.config import ModelConfig
from benthic.model.fp8 import (
    BLOCK,
    BlockExperts,
    BlockLinear,
    ScaleFormat,
    dequantise,
    dequantise_into,
    dequantise_reference,
    quantise,
    quantise_model,
    quantise_reference,
    to_fp8,
    weight_of,
)
from benthic.model.moe import Experts, experts_reference
from benthic.model.transformer import LanguageModel

FORMATS: list[ScaleFormat] = ["float", "ue8m0"]
BLOCKS = [(2, 3), (4, 4), (1, 5), (16, 2)]
TINY = 2.0**-126
formats = st.sampled_from(FORMATS)
shapes = st.one_of(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@st.composite
def weights(draw: st.DrawFn, spread: int = 30, shape: Any = shapes) -> Tensor:
    """Gaussian numbers, each row and column times a power of two; some zeros of both signs."""
    size = draw(shape)
    g = generator(draw(st.integers(0, 2**32)))
    w = torch.randn(size, generator=g)
    row = torch.randint(-spread, spread + 1, (size[-2], 1), generator=g)
    column = torch.randint(-spread, spread + 1, (1, size[-1]), generator=g)
    w = torch.ldexp(w, row + column)
    return w * (torch.rand(size, generator=g) > draw(st.sampled_from([0.0, 0.2, 0.9])))


def spread_out(scale: Tensor, shape: torch.Size, block: tuple[int, int]) -> Tensor:
    wide = scale.repeat_interleave(block[0], -2).repeat_interleave(block[1], -1)
    return wide[..., : shape[-2], : shape[-1]]


def codes(q: Tensor) -> Tensor:
    return q.view(torch.uint8)


def test_scales_have_the_released_shapes() -> None:
    assert BLOCK == (128, 128)
    assert scale_shape((576, 7168), BLOCK) == (5, 56)  # kv_a_proj_with_mqa
    assert scale_shape((256, 4096, 7168), BLOCK) == (256, 32, 56)
    q, scale = quantise(torch.ones(576, 7168))
    assert q.shape == (576, 7168) and q.dtype == torch.float8_e4m3fn
    assert scale.shape == (5, 56) and scale.dtype == torch.float32
    for shape in [(7,), (0, 4), (2, 4, 0)]:
        with pytest.raises(ValueError, match="has no blocks"):
            scale_shape(shape, BLOCK)


@given(w=weights(), block=st.sampled_from(BLOCKS), scale_fmt=formats)
@settings(max_examples=40)
def test_quantise_is_its_loop(w: Tensor, block: tuple[int, int], scale_fmt: ScaleFormat) -> None:
    q, scale = quantise(w, block=block, scale_fmt=scale_fmt)
    slow_q, slow_scale = quantise_reference(w, block=block, scale_fmt=scale_fmt)
    assert torch.equal(codes(q), codes(slow_q))
    assert torch.equal(scale, slow_scale)


@given(
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1),
    scale_fmt=formats,
)
@settings(max_examples=60)
def test_the_loop_agrees_out_to_subnormals_and_the_largest(
    values: list[float], scale_fmt: ScaleFormat
) -> None:
    w = torch.tensor(values)[None]
    if scale_fmt == "ue8m0":
        w = w.clamp(-448 * 2.0**119, 448 * 2.0**119)
    q, scale = quantise(w, block=(1, 4), scale_fmt=scale_fmt)
    slow_q, slow_scale = quantise_reference(w, block=(1, 4), scale_fmt=scale_fmt)
    assert torch.equal(codes(q), codes(slow_q)) and torch.equal(scale, slow_scale)
    back = dequantise(q, scale, dtype=torch.float32, block=(1, 4))
    assert back.isfinite().all()
    assert torch.equal(back, dequantise_reference(q, scale, dtype=torch.float32, block=(1, 4)))


def test_ties_are_those_of_a_true_division() -> None:
    """Weights halfway between two codes: a product with 1 / s would fall to either side."""
    number = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
    middle = (number[1:] + number[:-1]) / 2
    amax = torch.rand(16, 1, generator=generator(0)) + 1
    scale = amax / 448
    w = torch.cat([amax, (middle * scale).float()], dim=1)
    q, got = quantise(w, block=(1, 127))
    slow_q, slow = quantise_reference(w, block=(1, 127))
    assert torch.equal(codes(q), codes(slow_q)) and torch.equal(got, slow)
    product = (w * (1 / scale)).to(torch.float8_e4m3fn)
    assert not torch.equal(codes(q), codes(product))


@given(
    seed=st.integers(0, 2**32),
    shape=shapes,
    block=st.sampled_from(BLOCKS),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    tile=st.sampled_from([1, 3, 16, 1 << 19]),
)
@settings(max_examples=60)
def test_dequantise_is_its_loop(
    seed: int, shape: tuple[int, ...], block: tuple[int, int], dtype: torch.dtype, tile: int
) -> None:
    """Any codes, any scales, tiles that end inside blocks and across them, a strided target."""
    g = generator(seed)
    byte = torch.randint(0, 127, shape, generator=g) + 128 * torch.randint(0, 2, shape, generator=g)
    q = byte.to(torch.uint8).view(torch.float8_e4m3fn)
    scale = torch.rand(scale_shape(shape, block), generator=g) * 2 + 1e-3
    expected = dequantise_reference(q, scale, dtype=dtype, block=block)
    whole = torch.full((*shape[:-1], shape[-1] + 2), 7.0, dtype=dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fp8, "TILE", tile)
        dequantise_into(whole[..., 1:-1], q, scale, block=block)
        assert torch.equal(dequantise(q, scale, dtype=dtype, block=block), expected)
    assert torch.equal(whole[..., 1:-1], expected)
    assert (whole[..., 0] == 7).all() and (whole[..., -1] == 7).all()


@given(
    w=weights(shape=st.tuples(st.integers(1, 300), st.integers(1, 300))),
    scale_fmt=formats,
)
@settings(max_examples=15)
def test_edge_blocks_of_the_real_size(w: Tensor, scale_fmt: ScaleFormat) -> None:
    """Each block alone gives what it gives inside its matrix."""
    q, scale = quantise(w, scale_fmt=scale_fmt)
    back = dequantise(q, scale, dtype=torch.bfloat16)
    for i, j in ((i, j) for i in range(scale.shape[0]) for j in range(scale.shape[1])):
        at = slice(i * 128, i * 128 + 128), slice(j * 128, j * 128 + 128)
        alone, one = quantise(w[at].contiguous(), scale_fmt=scale_fmt)
        assert torch.equal(codes(alone), codes(q[at])) and one.item() == scale[i, j].item()
        assert torch.equal((q[at].float() * one).to(torch.bfloat16), back[at])


def test_every_code_widens_as_torch_reads_it() -> None:
    byte = torch.arange(256, dtype=torch.uint8)
    q = byte[(byte & 127) != 127][None].view(torch.float8_e4m3fn)
    for s in [2.0**-127, 1e-4, 1.0, fp8.SCALE_MAX]:
        got = dequantise(q, torch.full((1, 2), s), dtype=torch.float32)
        assert torch.equal(got, q.float() * torch.tensor(s))
        assert torch.equal(got.signbit(), byte[(byte & 127) != 127][None] > 127)


@given(w=weights(spread=40), block=st.sampled_from(BLOCKS), scale_fmt=formats)
@settings(max_examples=60)
def test_error_is_half_a_step(w: Tensor, block: tuple[int, int], scale_fmt: ScaleFormat) -> None:
    """|w - dq| <= s * ulp / 2 with e4m3's ulp at w / s; float scales round in fp32 besides."""
    q, scale = quantise(w, block=block, scale_fmt=scale_fmt)
    dq = dequantise(q, scale, dtype=torch.float32, block=block).double()
    s = spread_out(scale, w.shape, block).double()
    x = (w.double() / s).abs()
    ulp = torch.exp2(x.clamp(min=2.0**-6).log2().floor().clamp(max=8) - 3)
    fp32_too = 0.0 if scale_fmt == "ue8m0" else 2.0**-22
    assert ((w.double() - dq).abs() <= s * ulp / 2 + w.double().abs() * fp32_too).all()


@given(w=weights(spread=60), block=st.sampled_from(BLOCKS))
@settings(max_examples=40)
def test_ue8m0_scales_are_the_least_powers_of_two(w: Tensor, block: tuple[int, int]) -> None:
    _, scale = quantise(w, block=block, scale_fmt="ue8m0")
    mantissa, _ = torch.frexp(scale)
    assert (mantissa == 0.5).all()
    wide = spread_out(scale, w.shape, block).double()
    assert (wide * 448 >= w.double().abs()).all()
    _, exact = quantise(w, block=block)
    assert ((scale / 2 < exact * (1 + 2**-22)) | (scale == TINY)).all()


def test_ue8m0_at_the_edge_of_a_binade_and_below_normal_numbers() -> None:
    """Where the floating logarithm goes wrong: one last place above 448 * 2**k."""
    for k in range(-126, 120):
        top = torch.tensor(448 * 2.0**k)
        above, below = top.nextafter(torch.tensor(math.inf)), top.nextafter(torch.tensor(0.0))
        w = torch.stack([below, top, above if k < 119 else top])[:, None]
        _, scale = quantise(w, block=(1, 1), scale_fmt="ue8m0")
        assert scale[:, 0].tolist() == [2.0**k, 2.0**k, 2.0 ** (k + (k < 119))]
    for tiny in [2.0**-149, 2.0**-130, 448 * 2.0**-127]:
        for scale_fmt in FORMATS:
            q, scale = quantise(torch.full((1, 1), tiny), scale_fmt=scale_fmt)
            assert scale.item() == TINY
            assert abs(dequantise(q, scale, dtype=torch.float32).item() - tiny) <= TINY * 2.0**-10


@given(w=weights(spread=40), block=st.sampled_from(BLOCKS))
@settings(max_examples=60)
def test_float_codes_and_scales_come_back(w: Tensor, block: tuple[int, int]) -> None:
    q, scale = quantise(w, block=block)
    again, scale_again = quantise(
        dequantise(q, scale, dtype=torch.float32, block=block), block=block
    )
    assert torch.equal(codes(q), codes(again)) and torch.equal(scale, scale_again)


@given(w=weights(spread=40), block=st.sampled_from(BLOCKS))
@settings(max_examples=60)
def test_ue8m0_numbers_come_back(w: Tensor, block: tuple[int, int]) -> None:
    """Numbers always; codes and scales too, but in blocks whose largest code is 224."""
    q, scale = quantise(w, block=block, scale_fmt="ue8m0")
    numbers = dequantise(q, scale, dtype=torch.float32, block=block)
    again, scale_again = quantise(numbers, block=block, scale_fmt="ue8m0")
    back = dequantise(again, scale_again, dtype=torch.float32, block=block)
    assert torch.equal(numbers, back)
    wide, wide_again = (spread_out(s, w.shape, block) for s in (scale, scale_again))
    top = quantise(q.float(), block=block)[1] * 448  # a block's largest code
    halved = (spread_out(top, w.shape, block) - 224).abs() < 1e-3
    assert torch.equal(codes(q)[~halved], codes(again)[~halved])
    assert torch.equal(torch.where(halved, wide / 2, wide), wide_again)
    third, scale_third = quantise(back, block=block, scale_fmt="ue8m0")
    assert torch.equal(codes(third), codes(again)) and torch.equal(scale_third, scale_again)


def test_ue8m0_halves_the_scale_of_a_block_that_peaks_at_224() -> None:
    q, scale = quantise(torch.tensor([[230.0, 1.0]]), scale_fmt="ue8m0")
    assert q.float().tolist() == [[224.0, 1.0]] and scale.item() == 1.0
    again, halved = quantise(dequantise(q, scale, dtype=torch.float32), scale_fmt="ue8m0")
    assert again.float().tolist() == [[448.0, 2.0]] and halved.item() == 0.5


def test_zeros_keep_their_sign_and_take_scale_one() -> None:
    q, scale = quantise(torch.tensor([[0.0, -0.0]]))
    assert codes(q).tolist() == [[0x00, 0x80]] and scale.tolist() == [[1.0]]


@pytest.mark.parametrize("scale_fmt", FORMATS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_quantise_refuses_what_is_not_finite(bad: float, scale_fmt: ScaleFormat) -> None:
    w = torch.ones(2, 5, 5)
    w[1, 4, 4] = bad
    with pytest.raises(ValueError, match="finite numbers only"):
        quantise(w, block=(4, 4), scale_fmt=scale_fmt)


def test_quantise_refuses_what_it_cannot_scale() -> None:
    with pytest.raises(ValueError, match="use float scales"):
        quantise(torch.full((1, 1), 3.3e38), scale_fmt="ue8m0")
    with pytest.raises(ValueError, match="in fp32"):
        quantise(torch.full((1, 1), 1e300, dtype=torch.float64))
    wrong: Any = "UE8M0"
    with pytest.raises(ValueError, match="UE8M0"):
        quantise(torch.ones(1, 1), scale_fmt=wrong)


def test_dequantise_refuses_shapes_and_dtypes_that_do_not_fit() -> None:
    q, scale = quantise(torch.ones(130, 5))
    with pytest.raises(ValueError, match=r"\(1, 2\).*\(130, 5\).*expected \(2, 1\)"):
        dequantise(q, scale.T, dtype=torch.float32)
    with pytest.raises(ValueError, match="expected"):
        dequantise(q, scale[None], dtype=torch.float32)
    with pytest.raises(ValueError, match=r"torch\.uint8"):
        dequantise(codes(q), scale, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"scales have dtype torch\.int32"):
        dequantise(q, scale.int(), dtype=torch.float32)
    with pytest.raises(ValueError, match="do not fit"):
        dequantise_into(torch.empty(130, 6), q, scale)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -0.0, -1.0, 2.0**121])
def test_dequantise_refuses_scales_that_are_none(bad: float) -> None:
    q, scale = quantise(torch.ones(130, 5))
    scale[1, 0] = bad
    out = torch.full((130, 5), 7.0)
    with pytest.raises(ValueError, match="a scale of"):
        dequantise_into(out, q, scale)
    assert (out == 7).all()


@pytest.mark.parametrize("bad", [0x7F, 0xFF])
@pytest.mark.parametrize("other", [0x7E, 0xFE, 0x00])
def test_dequantise_refuses_nan_codes(bad: int, other: int) -> None:
    byte = torch.full((2, 130, 5), other, dtype=torch.uint8)
    byte[1, 129, 4] = bad
    out = torch.full((2, 130, 5), 7.0)
    with pytest.raises(ValueError, match="NaN codes"):
        dequantise_into(out, byte.view(torch.float8_e4m3fn), torch.ones(2, 2, 1))
    assert (out == 7).all()


def test_scales_of_other_dtypes_are_read_exactly() -> None:
    exponents = torch.arange(0, 246, dtype=torch.uint8)  # 2**-127 to 2**118
    q = torch.full((1, 246), 1.5).to(torch.float8_e4m3fn)
    power = exponents.view(torch.float8_e8m0fnu)[None]
    got = dequantise(q, power, dtype=torch.float64, block=(1, 1))
    assert got[0].tolist() == [1.5 * 2.0 ** (int(e) - 127) for e in exponents]
    with pytest.raises(ValueError, match="a scale of nan"):
        dequantise(q[:, :1], torch.tensor([[255]]).byte().view(torch.float8_e8m0fnu), dtype=q.dtype)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        s = torch.tensor([[0.375]], dtype=dtype)
        assert dequantise(q[:, :1], s, dtype=torch.float32).item() == 1.5 * 0.375
    with pytest.raises(ValueError, match="digits"):
        dequantise(q[:, :1], torch.tensor([[0.1]], dtype=torch.float64), dtype=torch.float32)


def test_rounds_once_from_fp32() -> None:
    """1.5 * (1 + 3 * 2**-9) is 1.5087...; with the scale rounded first it comes out a step up."""
    q = torch.tensor([[1.5]]).to(torch.float8_e4m3fn)
    scale = torch.tensor([[1 + 3 * 2**-9]])
    assert dequantise(q, scale, dtype=torch.bfloat16).item() == 1.5078125
    assert (q.bfloat16() * scale.bfloat16()).item() == 1.5078125 + 2**-7


class Allocations(TorchDispatchMode):
    """The largest new tensor, in bytes."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {a.untyped_storage().data_ptr() for a in args if isinstance(a, Tensor)}
        known |= {
            a.untyped_storage().data_ptr() for a in (kwargs or {}).values() if isinstance(a, Tensor)
        }
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.untyped_storage().data_ptr() not in known:
            self.largest = max(self.largest, out.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("shape", [(2500, 600), (3, 500_000), (1, 1_500_000)])
def test_scratch_memory_does_not_grow(shape: tuple[int, int]) -> None:
    q = torch.ones(shape).to(torch.float8_e4m3fn)
    scale = torch.ones(scale_shape(shape, BLOCK))
    out = torch.empty(shape, dtype=torch.bfloat16)
    with Allocations() as seen:
        dequantise_into(out, q, scale)
    assert (out == 1).all()
    assert seen.largest <= 4 * (fp8.TILE + 2 * 128)


def peer(scale_fmt: ScaleFormat) -> tuple[Any, Any]:
    """transformers' operations, which read their quantiser for its configuration alone."""
    theirs = pytest.importorskip("transformers.integrations.finegrained_fp8")
    wanted = SimpleNamespace(weight_block_size=(128, 128), scale_fmt=scale_fmt)
    quantiser = SimpleNamespace(quantization_config=wanted)
    return theirs.Fp8Quantize(quantiser), theirs.Fp8Dequantize(quantiser)


@pytest.mark.parametrize("scale_fmt", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transformers_reads_and_writes_the_same(scale_fmt: ScaleFormat, dtype: torch.dtype) -> None:
    """Widened bit for bit; quantised too with ue8m0, their float scale being 1 / (448 / amax)."""
    write, read = peer(scale_fmt)
    w = torch.randn(2, 256, 384, generator=generator(0)) * 0.006
    w = (w * torch.logspace(-3, 3, 384)).to(dtype)
    q, scale = quantise(w, scale_fmt=scale_fmt)
    theirs = write.convert({"w.weight": w})
    if scale_fmt == "ue8m0":
        assert torch.equal(codes(theirs["w.weight"]), codes(q))
        assert torch.equal(theirs["w.weight_scale_inv"].float(), scale)
    else:
        torch.testing.assert_close(theirs["w.weight_scale_inv"], scale, rtol=2**-22, atol=0.0)
    for out in (torch.float32, torch.bfloat16):
        got = dequantise(theirs["w.weight"], theirs["w.weight_scale_inv"], dtype=out)
        for scales in (theirs["w.weight_scale_inv"], theirs["w.weight_scale_inv"].float()):
            assert torch.equal(read._dequantize_one(theirs["w.weight"], scales, out), got)


def test_block_linear_is_linear_on_the_widened_weight() -> None:
    dense = nn.Linear(40, 24, bias=False)
    model = nn.ModuleDict({"mlp": nn.ModuleDict({"up_proj": dense})})
    quantise_model(model, block=(16, 16))
    stored = model.get_submodule("mlp.up_proj")
    assert isinstance(stored, BlockLinear) and stored.weight_scale_inv.shape == (2, 3)
    q, scale = quantise(dense.weight, block=(16, 16))
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        expected = dequantise(q, scale, dtype=dtype, block=(16, 16))
        x = torch.randn(3, 5, 40, dtype=dtype, generator=generator(1)).requires_grad_()
        y = stored(x)
        torch.testing.assert_close(y, nn.functional.linear(x, expected))
        y.sum().backward()
        assert x.grad is not None and x.grad.abs().sum() > 0
        assert torch.equal(weight_of(stored, dtype), expected)
    assert torch.equal(weight_of(stored), dequantise(q, scale, dtype=torch.float32, block=(16, 16)))
    assert weight_of(dense) is dense.weight
    assert torch.equal(weight_of(dense, torch.bfloat16), dense.weight.bfloat16())


def test_a_change_of_dtype_leaves_the_stored_weights() -> None:
    linear, experts = BlockLinear(3, 2), BlockExperts(2, 3, 4)
    for module in (linear, experts):
        for tensor in module.state_dict().values():
            tensor.copy_(torch.full(tensor.shape, 0.3))
        before = copy.deepcopy(module.state_dict())
        for moved in (module.bfloat16(), module.double(), module.to(torch.float16)):
            after = moved.state_dict()
            for name, tensor in before.items():
                assert after[name].dtype == tensor.dtype
                assert torch.equal(after[name].float(), tensor.float())
        assert not any(p.requires_grad for p in module.parameters())


def stored_experts(E: int, D: int, F: int, block: tuple[int, int]) -> BlockExperts:
    g = generator(2)
    model = nn.ModuleDict({"mlp": nn.Module()})
    config = SimpleNamespace(n_routed_experts=E, moe_intermediate_size=F, hidden_size=D)
    dense: Any = Experts(config)  # type: ignore[arg-type]
    for p in dense.parameters():
        p.data.normal_(0.0, 0.3, generator=g)
    dense.gate_up_proj.data[:, F:] *= 50  # so that a block across gate and up would show
    model["mlp"].experts = dense
    quantise_model(model, block=block)
    return model["mlp"].experts


@given(
    seed=st.integers(0, 2**32),
    E=st.integers(1, 6),
    D=st.integers(1, 9),
    F=st.integers(1, 9),
    N=st.integers(1, 7),
)
@settings(max_examples=30)
def test_block_experts_are_the_loop_over_widened_experts(
    seed: int, E: int, D: int, F: int, N: int
) -> None:
    stored = stored_experts(E, D, F, (4, 4))
    assert stored.gate_up_scale.shape == (E, 2, -(-F // 4), -(-D // 4))
    assert stored.down_scale.shape == (E, -(-D // 4), -(-F // 4))
    pairs = [stored.dense(e, torch.float32) for e in range(E)]
    widened: Any = SimpleNamespace(
        gate_up_proj=torch.stack([gate_up for gate_up, _ in pairs]),
        down_proj=torch.stack([down for _, down in pairs]),
    )
    g = generator(seed)
    K = min(E, 2)
    x = torch.randn(N, D, generator=g)
    ids = torch.rand(N, E, generator=g).topk(K).indices
    weight = torch.rand(N, K, generator=g)
    expected = experts_reference(widened, x, ids, weight)
    torch.testing.assert_close(stored(x, ids, weight), expected, rtol=1e-5, atol=1e-5)


def test_gate_and_up_keep_blocks_of_their_own() -> None:
    """Each half quantises as it would alone, although 6 rows end inside a block of 4."""
    E, D, F, block = 3, 5, 6, (4, 4)
    stored = stored_experts(E, D, F, block)
    for e in range(E):
        gate_up, _ = stored.dense(e, torch.float32)
        for half, rows in enumerate((slice(0, F), slice(F, 2 * F))):
            q, scale = stored.gate_up_proj[e, rows], stored.gate_up_scale[e, half]
            assert torch.equal(
                dequantise(q, scale, dtype=torch.float32, block=block), gate_up[rows]
            )
            q_alone, scale_alone = quantise(gate_up[rows], block=block)
            assert torch.equal(codes(q_alone), codes(q)) and torch.equal(scale_alone, scale)


def test_only_chosen_experts_are_widened() -> None:
    stored = stored_experts(4, 8, 4, (4, 4))
    stored.gate_up_proj.view(torch.uint8)[2] = 0x7F  # to widen this one is an error
    x, weight = torch.ones(3, 8), torch.ones(3, 1)
    assert stored(x, torch.tensor([[0], [3], [0]]), weight).isfinite().all()
    with pytest.raises(ValueError, match="NaN codes"):
        stored(x, torch.tensor([[0], [2], [0]]), weight)


def replaced(model: nn.Module) -> dict[str, nn.Module]:
    return {n: m for n, m in model.named_modules() if isinstance(m, (BlockLinear, BlockExperts))}


def expected_names(config: ModelConfig) -> set[str]:
    """What the released checkpoints hold in FP8 (README_WEIGHTS), with experts stacked."""
    names = set()
    for i in range(config.num_hidden_layers + config.num_nextn_predict_layers):
        layer = f"model.layers.{i}."
        query = ["q_proj"] if config.q_lora_rank is None else ["q_a_proj", "q_b_proj"]
        names |= {f"{layer}self_attn.{n}" for n in [*query, "kv_a_proj_with_mqa", "kv_b_proj"]}
        names.add(f"{layer}self_attn.o_proj")
        dense = i < config.first_k_dense_replace
        mlp = "mlp." if dense else "mlp.shared_experts."
        names |= {f"{layer}{mlp}{n}_proj" for n in ("gate", "up", "down")}
        if not dense:
            names.add(f"{layer}mlp.experts")
    return names


def test_to_fp8_on_meta_replaces_what_the_format_stores(tiny: ModelConfig) -> None:
    for rank in (None, 16):
        config = ModelConfig(**{**vars(tiny), "q_lora_rank": rank})
        with torch.device("meta"):
            model = LanguageModel(config)
        dense = {n: tuple(p.shape) for n, p in model.named_parameters()}
        to_fp8(model)
        assert set(replaced(model)) == expected_names(config)
        assert {n: tuple(p.shape) for n, p in model.named_parameters()} == dense
        for name, tensor in model.state_dict().items():
            assert tensor.is_meta
            owner = name.rpartition(".")[0]
            coded = owner in replaced(model) and "scale" not in name
            assert tensor.dtype == (torch.float8_e4m3fn if coded else torch.float32), name
        to_fp8(model)  # nothing left to do
        assert set(replaced(model)) == expected_names(config)


@pytest.mark.parametrize("scale_fmt", FORMATS)
def test_a_quantised_model_is_the_model_on_widened_weights(
    tiny: ModelConfig, seeded: Callable[..., LanguageModel], scale_fmt: ScaleFormat
) -> None:
    dense, block = seeded(tiny), (16, 16)
    model = copy.deepcopy(dense)
    quantise_model(model, scale_fmt, block=block)
    assert set(replaced(model)) == expected_names(tiny)
    with torch.no_grad():
        for name, stored in replaced(model).items():
            target: Any = dense.get_submodule(name)
            if isinstance(stored, BlockLinear):
                assert not torch.equal(target.weight, stored.dense(torch.float32))
                torch.testing.assert_close(
                    target.weight, stored.dense(torch.float32), rtol=2**-4, atol=2e-3
                )
                target.weight.copy_(stored.dense(torch.float32))
            else:
                assert isinstance(stored, BlockExperts)
                for e in range(tiny.n_routed_experts):
                    for p, d in zip(
                        (target.gate_up_proj[e], target.down_proj[e]),
                        stored.dense(e, torch.float32),
                        strict=True,
                    ):
                        torch.testing.assert_close(p, d, rtol=2**-4, atol=2e-3)
                        p.copy_(d)
        tokens = torch.randint(0, 256, (2, 9), generator=generator(3))
        hidden, expected = model(tokens), dense(tokens)
        torch.testing.assert_close(hidden, expected)
        torch.testing.assert_close(
            model.look_ahead(hidden, tokens), dense.look_ahead(expected, tokens)
        )


def test_state_travels_by_name(tiny: ModelConfig, model: LanguageModel) -> None:
    quantise_model(model)
    with torch.device("meta"):
        shell = LanguageModel(tiny)
    to_fp8(shell)
    shell.load_state_dict(model.state_dict(), strict=False, assign=True)
    for name, stored in replaced(model).items():
        for key, tensor in stored.state_dict().items():
            other = shell.get_submodule(name).state_dict()[key]
            assert other.dtype == tensor.dtype
            assert torch.equal(other.float(), tensor.float())


def test_conversion_names_what_it_cannot_store() -> None:
    model = nn.ModuleDict(
        {"mlp": nn.ModuleDict({"up_proj": nn.Linear(2, 2, bias=False), "x": nn.Linear(2, 2)})}
    )
    for convert in (to_fp8, quantise_model):
        with pytest.raises(ValueError, match=r"mlp\.x has a bias"):
            convert(model)
        assert not replaced(model)
    sound = nn.ModuleDict({"self_attn": nn.ModuleDict({"o_proj": nn.Linear(2, 2, bias=False)})})
    sound.get_submodule("self_attn.o_proj").weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"self_attn\.o_proj: the weight holds nan"):
        quantise_model(sound)
