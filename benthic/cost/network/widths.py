"""A Shape from the few numbers that one has: the other widths by usual ratios, each of them said.

A dense decoder of N parameters: heads of 128, 8 heads of keys and values from 16 heads on, hidden
some 128 times the layers, and a SwiGLU that takes up what is left of N. A sparse one of N
parameters, A of them active, K of E experts a token: what is no expert has (A E - N K) / (E - K)
elements, which fixes hidden, and an expert (N - A) / (layers (E - K)).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite, lcm

from benthic.cost.catalog.load import CostError
from benthic.cost.network.flops import parameters
from benthic.cost.network.shape import Shape

_VOCABULARIES = (128_000, 32_000, 256)  # Llama 3 and DeepSeek-V3, rounded; Llama 2; bytes
_TIED = 3e9  # parameters; smaller models mostly tie: Llama 3.2, Qwen 2.5, Gemma
_ASPECT = 128  # hidden over layers; Llama 3: 102 at 70B, 130 at 405B; DeepSeek-V3: 118
_HEAD = 128  # Llama, Qwen, Mixtral, DeepSeek
_GROUPS = 8  # heads of keys and values: Llama 2 70B, Llama 3, Mixtral, Qwen 2.5 from 14B on
_WIDEST = 100  # times hidden: no feed-forward is near it; 2.7 to 8 are usual
_OFF = 0.05  # share by which widths may miss what was asked for
_LIMITS = {"params": (1e3, 1e16), "active": (1e3, 1e16), "layers": (1, 4096)}


@dataclass(frozen=True, kw_only=True)
class _Given:
    params: float | None
    layers: int | None
    hidden: int | None
    heads: int | None
    kv_heads: int | None
    vocab: int
    ffn: int | None
    tied: bool

    def around(self, hidden: int, ffn: int) -> Shape:
        """The dense network of that width."""
        usual = min(_HEAD if hidden >= 16 * _HEAD else _HEAD // 2, hidden)
        heads = self.heads or round(hidden / usual)
        if self.heads is None and self.kv_heads:
            heads = max(round(heads / self.kv_heads), 1) * self.kv_heads
        elif self.heads is None and heads >= 2 * _GROUPS:
            heads = round(heads / _GROUPS) * _GROUPS  # so that tensor parallelism divides them
        grouped = heads >= 2 * _GROUPS and heads % _GROUPS == 0
        return Shape(
            name="numbers",
            layers=self.layers or _layers(hidden),
            hidden=hidden,
            vocab=self.vocab,
            heads=heads,
            kv_heads=self.kv_heads or (_GROUPS if grouped else heads),
            head_dim=usual if self.heads is None else max(hidden // heads, 1),
            ffn=ffn,
            tied=self.tied,
        )

    def fed(self, hidden: int) -> Shape:
        """The same with a feed-forward of the given or the usual width."""
        bare = self.around(hidden, hidden)
        usual = 3.5 if bare.kv_heads < bare.heads else 8 / 3  # Llama 3; Shazeer, 2002.05202
        return replace(bare, ffn=self.ffn or _rounded(usual * hidden))


def from_numbers(
    *,
    params: float | None = None,
    layers: int | None = None,
    hidden: int | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    vocab: int | None = None,
    ffn: int | None = None,
    experts: int | None = None,
    experts_per_token: int | None = None,
    active: float | None = None,
    name: str = "",
) -> tuple[Shape, tuple[str, ...]]:
    """A decoder of `params` elements in all, `active` of them met by a token, and a sentence for
    each width that was assumed; `ffn` is an expert's where there are experts.

    CostError where nothing fits, or where the widths contradict `params` or `active`.
    """
    given: dict[str, float | None] = {
        **{"params": params, "active": active, "layers": layers, "hidden": hidden},
        **{"heads": heads, "kv_heads": kv_heads, "vocab": vocab, "ffn": ffn},
        **{"experts": experts, "experts_per_token": experts_per_token},
    }
    for key, value in given.items():
        low, high = _LIMITS.get(key, (1, 1 << 24))
        if value is not None and not (isfinite(value) and low <= value <= high):
            like = {"params": "70B", "active": "13B", "hidden": "8192", "vocab": "128000"}
            raise CostError(
                f"{key} is {_said(value)}: it must be between {_said(low)} and {_said(high)}, like "
                f"{like.get(key, '64')}"
            )
    _check_heads(hidden, heads, kv_heads)
    if params is None and (layers is None or hidden is None):
        raise CostError(
            "neither --params nor both of --layers and --hidden are given: give --params, like 70B"
        )
    if params is not None and active is not None and active >= params:
        raise CostError(
            f"active is {active:g} of params {params:g}: give fewer, or leave active out"
        )
    notes: list[str] = []
    if active is not None and experts is None:
        experts = 256
        notes.append("256 experts a layer are assumed, as in DeepSeek-V3")
    if experts is not None and experts_per_token is None:
        experts_per_token = min(8 if experts >= 32 else 2, experts)
        verb = "is" if experts_per_token == 1 else "are"
        notes.append(f"{experts_per_token} of {experts:,} experts a token {verb} assumed")
    size = params or 12.5 * (layers or 0) * (hidden or 0) ** 2
    tied = size < _TIED
    if vocab is None:
        most = size / 3 / (hidden or 2 * size ** (1 / 3)) / (1 if tied else 2)
        vocab = next((rows for rows in _VOCABULARIES if rows <= most), _VOCABULARIES[-1])
        notes.append(f"a vocabulary of {vocab:,} is assumed")
    notes.append(f"{'one matrix' if tied else 'two matrices'} for embedding and head, as usual")
    known = _Given(
        params=params,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        vocab=vocab,
        ffn=ffn,
        tied=tied,
    )
    if experts is None or experts_per_token is None:
        made = _dense(known)
    else:
        made = _sparse(known, experts, experts_per_token, active)
    _check_sum(made, params, active)
    return replace(made, name=name or _label(made)), (*notes, *_assumed(made, given))


def _said(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def _check_heads(hidden: int | None, heads: int | None, kv_heads: int | None) -> None:
    if heads and kv_heads and heads % kv_heads:
        raise CostError(
            f"--heads is {heads} and --kv-heads {kv_heads}: equal groups of heads share keys and "
            f"values, so give --kv-heads {_divisor(heads, kv_heads)}"
        )
    if hidden and heads and hidden % heads:
        raise CostError(
            f"--hidden is {hidden} and --heads {heads}: heads share the width evenly, so give "
            f"--heads {_divisor(hidden, heads)}"
        )


def _divisor(number: int, near: int) -> int:
    """Of the divisors of a number, the nearest."""
    every = (d for d in range(1, min(number, 2 * near) + 1) if number % d == 0)
    return min(every, key=lambda d: abs(d - near))


def _dense(given: _Given) -> Shape:
    hidden = given.hidden
    if hidden is None:
        assert given.params is not None
        params = given.params
        hidden = _width(lambda width: parameters(given.fed(width))["total"], params, given.heads)
    made = given.fed(hidden)
    if given.params is None or given.ffn is not None:
        return made
    return _fill(made, given.params)


def _fill(shape: Shape, params: float) -> Shape:
    """The same dense network, its feed-forward as wide as makes `params` in all."""
    rest = parameters(shape)["total"] - parameters(shape)["dense_mlp"]
    width = (params - rest) / (shape.layers * (2 + shape.gated) * shape.hidden)
    if width < 1:
        raise CostError(
            f"hidden = {shape.hidden:,} with {shape.layers:,} layers and a vocabulary of "
            f"{shape.vocab:,} has {rest:.3g} parameters without any feed-forward, and params is "
            f"{params:.3g}: lower one, or raise params"
        )
    _check_width(shape, width, params)
    return replace(shape, ffn=_rounded(width))


def _check_width(shape: Shape, width: float, params: float) -> None:
    if width > _WIDEST * shape.hidden:
        raise CostError(
            f"--hidden is {shape.hidden:,}, and with {shape.layers:,} layers {params:.3g} "
            f"parameters take a feed-forward {width / shape.hidden:,.0f} times as wide: raise "
            "--hidden or --layers, or leave them out and usual ones are found"
        )


def _sparse(given: _Given, experts: int, chosen: int, active: float | None) -> Shape:
    def around(hidden: int) -> Shape:
        width = given.ffn or _rounded(3 * hidden / chosen)  # Qwen3-30B: 3; DeepSeek-V3: 2.6
        bare = given.around(hidden, width)
        return replace(
            bare, experts=experts, experts_per_token=chosen, expert_ffn=width, dense_layers=0
        )

    def besides(hidden: int) -> int:
        counts = parameters(around(hidden))
        return counts["total"] - counts["experts"]

    params, hidden = given.params, given.hidden
    if params is None:
        assert hidden is not None
        return around(hidden)
    if active is not None and experts > chosen and hidden is None:
        rest = (active * experts - params * chosen) / (experts - chosen)
        if rest < besides(8):
            raise CostError(
                f"active is {active:.3g} of {params:.3g} with {chosen} of {experts} experts a "
                "token, which leaves nothing for what is no expert: raise active, or name more "
                "--experts or fewer --experts-per-token"
            )
        hidden = _width(besides, rest, given.heads)
    elif hidden is None:
        hidden = _width(lambda width: parameters(around(width))["total"], params, given.heads)
    made = around(hidden)
    if given.ffn is not None:
        return made
    width = (params - besides(hidden)) / (made.layers * experts * 3 * hidden)
    _check_width(made, width, params)
    if width < 1:
        raise CostError(
            f"hidden = {hidden:,} with {made.layers:,} layers has {besides(hidden):.3g} parameters "
            f"without any expert, and params is {params:.3g}: lower one, or raise params"
        )
    return replace(made, ffn=_rounded(width), expert_ffn=_rounded(width))


def _width(count: Callable[[int], int], wanted: float, heads: int | None) -> int:
    """The hidden width, a multiple of a head from there on and of `heads`, whose `count` is
    nearest."""
    usual = _HEAD if count(2 * _HEAD) < wanted else 8
    step = lcm(usual, heads or 1)
    low, high = 1, max(1, (usual << 15) // step)
    while low < high:
        middle = (low + high) // 2
        if count(middle * step) < wanted:
            low = middle + 1
        else:
            high = middle
    pair = (max(low - 1, 1) * step, low * step)
    return min(pair, key=lambda width: abs(count(width) - wanted))


def _layers(hidden: int) -> int:
    layers = hidden / _ASPECT
    return round(layers / 4) * 4 if layers >= 16 else max(round(layers), 1)


def _rounded(width: float) -> int:
    step = 64 if width >= 4096 else 8 if width >= 512 else 1
    return max(round(width / step) * step, 1)


def _check_sum(made: Shape, params: float | None, active: float | None) -> None:
    counts = parameters(made)
    for name, wanted, found in (
        ("params", params, counts["total"]),
        ("active", active, counts["active"]),
    ):
        if wanted is not None and abs(found / wanted - 1) > _OFF:
            raise CostError(
                f"{name} is {wanted:.3g}, and {made.layers:,} layers, hidden {made.hidden:,}, ffn "
                f"{made.expert_ffn or made.ffn:,} and a vocabulary of {made.vocab:,} make "
                f"{found:.3g}: "
                "leave one of them out, and it is found"
            )


def _assumed(made: Shape, given: dict[str, float | None]) -> list[str]:
    notes, fed = [], "each expert's SwiGLU" if made.experts else "a SwiGLU"
    for key, text in (
        ("layers", f"{_some(made.layers, 'layer')} assumed, a {_ASPECT}th of hidden"),
        ("hidden", f"hidden = {made.hidden:,} follows from the number of parameters"),
        ("heads", f"{_some(made.heads, 'head', f' of {made.head_dim}')} assumed"),
        ("kv_heads", f"{_some(made.kv_heads, 'head', ' of keys and values')} assumed"),
        ("ffn", f"{fed} of width {made.ffn:,} follows"),
    ):
        if given[key] is None:
            notes.append(text)
    return notes


def _some(count: int, name: str, of: str = "") -> str:
    return f"1 {name}{of} is" if count == 1 else f"{count:,} {name}s{of} are"


def _label(made: Shape) -> str:
    counts = parameters(made)
    if made.experts:
        return f"{counts['total'] / 1e9:.3g}B, {counts['active'] / 1e9:.3g}B active"
    return f"{counts['total'] / 1e9:.3g}B"
