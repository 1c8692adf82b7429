"""DeepSeek's FP8 weights: codes in e4m3, one scale for each block of 128 x 128 (README_WEIGHTS).

w is stored as the byte of w / s, s = amax / 448 over the block; `weight_scale_inv` is s itself, the
multiplier, despite its name. V3.1 rounds s up to a power of two ("ue8m0"). Blocks at the edges are
smaller. Weights stay in FP8 in memory (`BlockLinear`, `BlockExperts`) and are widened when used.
Left out: FP8 products and FP8 activations; FP4 experts; training, for FP8 weights take no gradient.

Shapes: M out, N in, E experts, F expert width, D hidden, T tokens, K experts a token.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benthic.hub.layout import scale_shape
from benthic.model.moe import Experts

BLOCK = (128, 128)
ScaleFormat = Literal["float", "ue8m0"]

CODE_MAX = 448.0  # the largest e4m3fn number
# Below the smallest normal fp32 a scale loses digits, and accelerators may flush it to zero.
SCALE_MIN = 2.0**-126
SCALE_MAX = torch.finfo(torch.float32).max / CODE_MAX  # code 448 stays finite in fp32
TILE = 1 << 19  # numbers widened at a time: 3 MB of scratch, and each step outlasts its launch


@torch.no_grad()
def quantise(
    w: Tensor, *, block: tuple[int, int] = BLOCK, scale_fmt: ScaleFormat = "float"
) -> tuple[Tensor, Tensor]:
    """w [..., M, N] to codes (float8_e4m3fn, same shape) and fp32 scales (`scale_shape`).

    s = amax / 448, or with "ue8m0" the smallest power of two not below that; at least 2**-126; 1
    for a block of zeros. Codes are fp32(w) / s, rounded to nearest, ties to even. ValueError for
    NaN, Inf, and what a finite scale cannot reach.

    Quantising the fp32 result of `dequantise` again gives the same codes and scales with "float":
    s = fl(amax / 448) survives the product by 448 and the division (none of 48,000 blocks moved).
    With "ue8m0" the numbers are the same, and so are codes and scales but where a block's largest
    code is 224: it returns with half the scale and twice the codes, once and for good (5.1 % of
    48,000 blocks with amax spread evenly over the binades: those in (224 s, 232 s]). A block that
    vanishes (amax up to 2**-136) returns with scale 1.
    """
    rows, cols = block
    q = torch.empty(w.shape, dtype=torch.float8_e4m3fn, device=w.device)
    amax = torch.empty(scale_shape(tuple(w.shape), block), dtype=torch.float32, device=w.device)
    for w_MN, amax_MN in _matrices(w, amax):
        for i, part in enumerate(w_MN.split(rows)):
            spare = amax_MN.shape[1] * cols - part.shape[1]
            size = F.pad(part.float().abs(), (0, spare))
            amax_MN[i] = size.view(len(part), -1, cols).amax((0, 2))
    scale = _scale(amax, scale_fmt)
    for w_MN, scale_MN, q_MN in _matrices(w, scale, q):
        for part, s, out in zip(w_MN.split(rows), scale_MN, q_MN.split(rows), strict=True):
            # The largest may come out one last place above 448; the cast itself need not saturate.
            codes = part.float() / _spread(s, cols, slice(0, part.shape[1]))
            out.copy_(codes.clamp_(-CODE_MAX, CODE_MAX))
    return q, scale


def _scale(amax: Tensor, scale_fmt: ScaleFormat) -> Tensor:
    """Scales for blocks whose largest magnitudes are `amax`, fp32."""
    top = amax.max().item()
    if not math.isfinite(top):
        raise ValueError(f"the weight holds {top} (in fp32): FP8 takes finite numbers only")
    if scale_fmt == "ue8m0":
        if top > CODE_MAX * 2.0**119:
            raise ValueError(
                f"the weight holds a magnitude of {top:g}: a power of two as scale reaches up to "
                f"{CODE_MAX * 2.0**119:g}; use float scales"
            )
        # amax = m * 2**e, 448 = 0.875 * 2**9; the exponent goes straight into its bits.
        mantissa, exponent = torch.frexp(amax)
        exponent = (exponent - 9 + (mantissa > 0.875)).clamp(min=-126)
        scale = (exponent + 127).to(torch.int32).bitwise_left_shift_(23).view(torch.float32)
    elif scale_fmt == "float":
        # A tensor as divisor: by a plain number, CUDA multiplies with the rounded reciprocal.
        scale = (amax / torch.full_like(amax, CODE_MAX)).clamp(min=SCALE_MIN)
    else:
        raise ValueError(f'scale_fmt is {scale_fmt!r}: choose "float" or "ue8m0"')
    return torch.where(amax == 0, 1.0, scale)


def dequantise(
    q: Tensor, scale: Tensor, *, dtype: torch.dtype, block: tuple[int, int] = BLOCK
) -> Tensor:
    """Codes [..., M, N] and their scales to numbers; `dequantise_into` says how."""
    out = torch.empty(q.shape, dtype=dtype, device=q.device)
    dequantise_into(out, q, scale, block=block)
    return out


@torch.no_grad()
def dequantise_into(
    out: Tensor, q: Tensor, scale: Tensor, *, block: tuple[int, int] = BLOCK
) -> None:
    """out [..., M, N] = q * scale, computed in fp32 and rounded once to out's dtype.

    Scratch memory is 3 MB whatever the size. Scales may have any float dtype that fp32 holds
    exactly (fp32, bf16, float8_e8m0fnu). ValueError, and `out` untouched, for shapes or dtypes that
    do not fit, for scales that are not positive and finite or take 448 past fp32, and for NaN codes
    (0x7F, 0xFF). What is past a narrower dtype of `out` becomes Inf, as in any cast.
    """
    if q.dtype != torch.float8_e4m3fn:
        raise ValueError(f"codes have dtype {q.dtype}: this format stores torch.float8_e4m3fn")
    if out.shape != q.shape:
        raise ValueError(f"codes of shape {tuple(q.shape)} do not fit into {tuple(out.shape)}")
    scale = _checked(scale, tuple(q.shape), block)
    if q.view(torch.int8).amax() == 0x7F or q.view(torch.uint8).amax() == 0xFF:
        raise ValueError("the weight holds NaN codes (0x7F or 0xFF): the file is damaged")
    for out_MN, q_MN, scale_MN in _matrices(out, q, scale):
        _widen(out_MN, q_MN, scale_MN, block)


def _checked(scale: Tensor, shape: tuple[int, ...], block: tuple[int, int]) -> Tensor:
    """The scales in fp32, or an error that says what is wrong with them."""
    expected = scale_shape(shape, block)
    if tuple(scale.shape) != expected:
        raise ValueError(
            f"scales of shape {tuple(scale.shape)} for a weight of shape {shape}: expected "
            f"{expected}, one for each block of {block[0]} x {block[1]}"
        )
    if not scale.is_floating_point():
        raise ValueError(f"scales have dtype {scale.dtype}: a float dtype is needed")
    single = scale.to(torch.float32)
    fits = (single > 0) & (single <= SCALE_MAX)  # NaN fails both
    if not fits.all():
        raise ValueError(
            f"the weight has a scale of {single[~fits][0].item():g}: scales lie above 0 and up to "
            f"{SCALE_MAX:g}; the file is damaged"
        )
    if not torch.equal(single.double(), scale.double()):
        raise ValueError(f"scales of dtype {scale.dtype} have digits that fp32 cannot hold")
    return single


def _widen(out_MN: Tensor, q_MN: Tensor, scale: Tensor, block: tuple[int, int]) -> None:
    """One matrix, tile by tile.

    e4m3's sign, exponent and mantissa fall into fp16's by a shift of seven and mean 2**-8 of their
    number there, subnormals too: on a CPU seven times faster than torch's own cast. The 2**8 comes
    back with the scale, exactly: SCALE_MAX leaves room for it.
    """
    M, N = q_MN.shape
    width = min(N, TILE)
    height = min(M, TILE // width)
    shifted = torch.empty(height * width, dtype=torch.int16, device=q_MN.device)
    widened = torch.empty(height * width, dtype=torch.float32, device=q_MN.device)
    for top, left in itertools.product(range(0, M, height), range(0, N, width)):
        bottom, columns = min(top + height, M), slice(left, min(left + width, N))
        tile, code = out_MN[top:bottom, columns], q_MN[top:bottom, columns].view(torch.int8)
        half = shifted[: code.numel()].view(code.shape).copy_(code)
        half.mul_(1 << 7).bitwise_and_(0xBF80 - 0x10000)  # the sign came along to bit 14
        in_place = tile.dtype == torch.float32
        wide = tile if in_place else widened[: code.numel()].view(code.shape)
        wide.copy_(half.view(torch.float16))
        for i in range(top // block[0], -(-bottom // block[0])):
            start, stop = max(top, i * block[0]), (i + 1) * block[0]
            wide[start - top : stop - top].mul_(_spread(scale[i] * 256, block[1], columns))
        if not in_place:
            tile.copy_(wide)


def _spread(scale: Tensor, block: int, columns: slice) -> Tensor:
    """A row of scales, one for each of the columns."""
    first = columns.start // block
    wide = scale[first : -(-columns.stop // block)].repeat_interleave(block)
    return wide[columns.start - first * block : columns.stop - first * block]


def _matrices(*stacks: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The matrices in tensors [..., M, N] that share their leading dimensions."""
    for at in itertools.product(*map(range, stacks[0].shape[:-2])):
        yield tuple(stack[at] for stack in stacks)


def quantise_reference(
    w: Tensor, *, block: tuple[int, int] = BLOCK, scale_fmt: ScaleFormat = "float"
) -> tuple[Tensor, Tensor]:
    """`quantise` as a loop over blocks and their elements."""
    codes = [_number(byte) for byte in range(0x7F)]
    q = torch.zeros(w.shape, dtype=torch.uint8)
    scale = torch.zeros(scale_shape(tuple(w.shape), block))
    for w_MN, q_MN, scale_MN in _matrices(w, q, scale):
        for i, j in itertools.product(*map(range, scale_MN.shape)):
            rows = range(i * block[0], min((i + 1) * block[0], w_MN.shape[0]))
            cols = range(j * block[1], min((j + 1) * block[1], w_MN.shape[1]))
            values = {(r, c): w_MN[r, c].float().item() for r in rows for c in cols}
            amax = max(abs(v) for v in values.values())
            if amax == 0:
                s = 1.0
            elif scale_fmt == "ue8m0":
                s = SCALE_MIN
                while s * CODE_MAX < amax:
                    s *= 2
            else:
                s = max(float(np.float32(amax) / np.float32(CODE_MAX)), SCALE_MIN)
            scale_MN[i, j] = s
            for (r, c), v in values.items():
                x = float(np.float32(v) / np.float32(s))
                near = min(range(0x7F), key=lambda b: (abs(codes[b] - abs(x)), b % 2))
                q_MN[r, c] = near + (0x80 if math.copysign(1, x) < 0 else 0)
    return q.view(torch.float8_e4m3fn), scale


def dequantise_reference(
    q: Tensor, scale: Tensor, *, dtype: torch.dtype, block: tuple[int, int] = BLOCK
) -> Tensor:
    """`dequantise` as a loop over elements."""
    out = torch.zeros(q.shape, dtype=dtype)
    for out_MN, q_MN, scale_MN in _matrices(out, q.view(torch.uint8), scale.float()):
        for r, c in itertools.product(*map(range, q_MN.shape)):
            s = np.float32(scale_MN[r // block[0], c // block[1]].item())
            out_MN[r, c] = float(np.float32(_number(int(q_MN[r, c].item()))) * s)
    return out


def _number(byte: int) -> float:
    """What an e4m3fn byte stands for."""
    sign = -1.0 if byte & 0x80 else 1.0
    exponent, mantissa = byte >> 3 & 0xF, byte & 0x7
    if byte & 0x7F == 0x7F:
        return math.nan
    size = mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10)
    return sign * size


class _Stored(nn.Module):
    """Weights that `.to(dtype)` must leave as they are: rounding a scale would change them all."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def moved(t: Tensor) -> Tensor:
            there = fn(t)
            return there if there.dtype == t.dtype else t.to(there.device)

        return super()._apply(moved, recurse)


class BlockLinear(_Stored):
    """nn.Linear without bias whose weight [M, N] stays in FP8; names are the Hub's."""

    weight_scale_inv: Tensor

    def __init__(
        self, in_features: int, out_features: int, *, block: tuple[int, int] = BLOCK
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.block = in_features, out_features, block
        shape = (out_features, in_features)
        self.weight = _codes(*shape)
        self.register_buffer("weight_scale_inv", _scales(shape, block))

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The weight [M, N] in full."""
        return dequantise(self.weight, self.weight_scale_inv, dtype=dtype, block=self.block)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dense(x.dtype))


class BlockExperts(_Stored):
    """`Experts` in FP8: gate_up_proj [E, 2F, D] with scales [E, 2, F/128, D/128] (rounded up).

    Gate and up have scales of their own, for a block must not straddle them where 128 does not
    divide F. down_proj [E, D, F] has scales [E, D/128, F/128].
    """

    gate_up_scale: Tensor
    down_scale: Tensor

    def __init__(
        self, experts: int, width: int, inner: int, *, block: tuple[int, int] = BLOCK
    ) -> None:
        super().__init__()
        self.width, self.inner, self.block = width, inner, block
        self.gate_up_proj = _codes(experts, 2 * inner, width)
        self.down_proj = _codes(experts, width, inner)
        self.register_buffer("gate_up_scale", _scales((experts, 2, inner, width), block))
        self.register_buffer("down_scale", _scales((experts, width, inner), block))

    def dense(self, expert: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """One expert in full: gate and up [2F, D], down [D, F]."""
        codes = self.gate_up_proj[expert].view(2, self.inner, self.width)
        gate_up = dequantise(codes, self.gate_up_scale[expert], dtype=dtype, block=self.block)
        down = dequantise(
            self.down_proj[expert], self.down_scale[expert], dtype=dtype, block=self.block
        )
        return gate_up.flatten(0, 1), down

    def forward(self, x_TD: Tensor, ids_TK: Tensor, weight_TK: Tensor) -> Tensor:
        """Weighted sum of each token's experts, [T, D]; without gradients one is in full at a time.

        Experts that no token chose are not read. The slow twin is `moe.experts_reference` on the
        widened weights.
        """
        out = torch.zeros_like(x_TD)
        for e in ids_TK.unique().tolist():
            token, slot = (ids_TK == e).nonzero(as_tuple=True)
            y = self._one(e, x_TD[token])
            out.index_add_(0, token, y * weight_TK[token, slot, None])
        return out

    def _one(self, expert: int, x: Tensor) -> Tensor:
        # In a function of its own, so that the weights go before the next expert's come.
        gate_up, down = self.dense(expert, x.dtype)
        gate, up = F.linear(x, gate_up).chunk(2, dim=-1)
        return F.linear(F.silu(gate) * up, down)


def _codes(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=torch.float8_e4m3fn), requires_grad=False)


def _scales(shape: tuple[int, ...], block: tuple[int, int]) -> Tensor:
    return torch.empty(scale_shape(shape, block), dtype=torch.float32)


def weight_of(module: nn.Linear | BlockLinear, dtype: torch.dtype | None = None) -> Tensor:
    """The weight [M, N] in full, in `dtype`; without one, as stored, and FP8 as fp32."""
    if isinstance(module, BlockLinear):
        return module.dense(dtype or torch.float32)
    return module.weight if dtype is None else module.weight.to(dtype)


def to_fp8(model: nn.Module, *, block: tuple[int, int] = BLOCK) -> None:
    """Replace, in place, what DeepSeek stores in FP8 by FP8 modules whose weights are yet unset.

    These are the projections and experts inside `self_attn` and `mlp`, the prediction block's too;
    not the router, norms, embeddings, `eh_proj` or `lm_head`. Works on the meta device. ValueError,
    and nothing replaced, for a projection with a bias.
    """
    for path, module in _stored_in_fp8(model):
        model.set_submodule(path, _twin(module, block))


@torch.no_grad()
def quantise_model(
    model: nn.Module, scale_fmt: ScaleFormat = "float", *, block: tuple[int, int] = BLOCK
) -> None:
    """`to_fp8`, with the weights quantised; module by module, so memory peaks at one in both."""
    for path, module in _stored_in_fp8(model):
        twin = _twin(module, block)
        try:
            if isinstance(twin, BlockLinear):
                _store(twin.weight, twin.weight_scale_inv, module.weight, block, scale_fmt)
            else:
                for side in ("gate_up", "down"):
                    codes, scale = getattr(twin, f"{side}_proj"), getattr(twin, f"{side}_scale")
                    dense = getattr(module, f"{side}_proj")
                    split = (*scale.shape[:-2], -1, dense.shape[-1])
                    _store(codes.view(split), scale, dense.view(split), block, scale_fmt)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        model.set_submodule(path, twin)


def _store(
    codes: Tensor, scale: Tensor, dense: Tensor, block: tuple[int, int], scale_fmt: ScaleFormat
) -> None:
    for codes_MN, scale_MN, dense_MN in _matrices(codes, scale, dense):
        q, s = quantise(dense_MN, block=block, scale_fmt=scale_fmt)
        codes_MN.copy_(q)
        scale_MN.copy_(s)


def _stored_in_fp8(model: nn.Module) -> list[tuple[str, Any]]:
    """Path and module of every dense module that the format stores in FP8."""
    found = []
    for path, module in model.named_modules():
        inside = not {"self_attn", "mlp"}.isdisjoint(path.split("."))
        if not inside or not isinstance(module, (nn.Linear, Experts)):
            continue
        if isinstance(module, nn.Linear) and module.bias is not None:
            raise ValueError(f"{path} has a bias: DeepSeek's FP8 format has no place for one")
        found.append((path, module))
    return found


def _twin(module: nn.Linear | Experts, block: tuple[int, int]) -> BlockLinear | BlockExperts:
    """An FP8 module of the same shape on the same device, weights unset."""
    if isinstance(module, nn.Linear):
        with module.weight.device:
            return BlockLinear(module.in_features, module.out_features, block=block)
    experts, width, inner = module.down_proj.shape
    with module.down_proj.device:
        return BlockExperts(experts, width, inner, block=block)
