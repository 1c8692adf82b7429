"""Counts of a Shape against the tensors of a checkpoint, published sums, and slow ways to count."""

import subprocess
import sys
from dataclasses import replace
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic.cost.catalog.load import CostError
from benthic.cost.network import flops
from benthic.cost.network.activations import activation_bytes
from benthic.cost.network.flops import parameters
from benthic.cost.network.shape import Shape, shape_of
from benthic.cost.network.twins import as_dense, as_mha, class_size, dense_twin
from benthic.hub.config import preset, presets
from benthic.hub.layout import is_copy, layout
from benthic.model.config import ModelConfig
from tests.hub.test_config import configs

V3 = shape_of(ModelConfig())
GPT = Shape(
    name="gpt", layers=4, hidden=64, vocab=100, heads=4, kv_heads=4, head_dim=16, ffn=256,
    gated=False, norm_vectors=2,
)  # fmt: skip


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """Of every kind of attention, with experts and without, with windows and without."""
    size = st.integers(1, 24)
    layers, heads = draw(st.integers(1, 7)), draw(st.sampled_from([1, 2, 4, 8]))
    latent, sparse = draw(st.booleans()), draw(st.booleans())
    experts = draw(st.integers(1, 9)) if sparse else 0
    rope, window = draw(size), draw(st.integers(0, 40))
    return Shape(
        name="drawn",
        layers=layers,
        hidden=draw(size),
        vocab=draw(size),
        heads=heads,
        kv_heads=heads if latent else draw(st.sampled_from([1, heads])),
        head_dim=draw(size) + (rope if latent else 0),
        value_dim=draw(size) if latent else 0,
        ffn=draw(size),
        gated=draw(st.booleans()),
        q_rank=draw(st.integers(0, 9)) if latent else 0,
        kv_rank=draw(size) if latent else 0,
        rope_dim=rope if latent else 0,
        experts=experts,
        experts_per_token=draw(st.integers(1, experts)) if sparse else 0,
        shared_experts=draw(st.integers(0, 2)) if sparse else 0,
        expert_ffn=draw(size) if sparse else 0,
        dense_layers=draw(st.integers(0, layers)) if sparse else 0,
        moe_every=draw(st.integers(1, 3)),
        tied=draw(st.booleans()),
        mtp=draw(st.integers(0, 1)),
        window=window,
        windowed_layers=draw(st.integers(0, layers)) if window else 0,
    )


def part_of(name: str, config: ModelConfig) -> str:
    if name.startswith(f"model.layers.{config.num_hidden_layers}."):
        return "mtp"
    for word, part in (
        ("self_attn", "attention"),
        (".experts.", "experts"),
        ("shared_experts", "shared_experts"),
        ("mlp.gate.", "router"),
        (".mlp.", "dense_mlp"),
        ("norm", "norms"),
        ("embed", "embedding"),
        ("lm_head", "head"),
    ):
        if word in name:
            return part
    raise AssertionError(name)


def check_parts(config: ModelConfig) -> None:
    """Each part is the sum of the tensors of that part, one by one."""
    found: dict[str, int] = {}
    for name, dims in layout(config).items():
        if not is_copy(name):
            part = part_of(name, config)
            found[part] = found.get(part, 0) + prod(dims)
    counts = parameters(config)
    whole = ("total", "total_with_mtp", "active")
    assert {k: n for k, n in counts.items() if n and k not in whole} == found
    assert counts["total_with_mtp"] == sum(found.values())
    assert counts == parameters(shape_of(config))


@given(configs())
@settings(max_examples=60)
def test_parameters_are_those_of_the_tensors(config: ModelConfig) -> None:
    check_parts(config)


@pytest.mark.parametrize("name", [name for name in presets() if "r1" not in name])
def test_presets(name: str) -> None:
    config, _ = preset(name)
    config = replace(config, num_hidden_layers=min(config.num_hidden_layers, 5))
    check_parts(config)


@given(shapes(), st.integers(1, 60))
@settings(max_examples=60)
def test_parts_of_a_forward_add_up(shape: Shape, context: int) -> None:
    parts = flops.forward_parts(shape, context=context)
    full = replace(shape, window=0, windowed_layers=0)
    pairs = flops.causal_pairs(context)
    whole = flops.forward_flops(full, tokens=context, pairs=pairs, mtp=shape.mtp > 0)
    assert sum(flops.forward_parts(full, context=context).values()) == pytest.approx(
        whole / context
    )
    assert all(parts[part] <= count for part, count in full_parts(full, context).items())


def full_parts(shape: Shape, context: int) -> dict[str, float]:
    return flops.forward_parts(shape, context=context)


def test_v3_forward_by_part() -> None:
    """83.5 GFLOP a token at 4096 without prediction, a third of 250.5."""
    parts = flops.forward_parts(replace(V3, mtp=0), context=4096)
    assert sum(parts.values()) == pytest.approx(250.5e9 / 3, abs=0.02e9)
    assert parts["attention_scores"] == 2 * 61 * 128 * (192 + 128) * 4097 / 2
    assert parts["experts"] == 2 * 58 * 8 * 44_040_192
    with_mtp = flops.forward_parts(V3, context=4096)
    assert 3 * with_mtp["mtp"] == pytest.approx(10.2e9, abs=0.05e9)


@given(st.integers(1, 50), st.integers(0, 60))
def test_windowed_pairs_one_by_one(length: int, window: int) -> None:
    slow = sum(min(t + 1, window or length) for t in range(length))
    assert flops.windowed_pairs(length, window) == slow


@given(shapes(), st.integers(1, 60))
@settings(max_examples=40)
def test_decoding_without_latents_is_the_last_place_of_a_forward(
    shape: Shape, context: int
) -> None:
    parts = flops.decode_parts(shape, context=context)
    full = replace(shape, window=0, windowed_layers=0)
    whole = flops.decode_flops(full, tokens=1, pairs=context)
    assert sum(flops.decode_parts(full, context=context).values()) == whole
    if not shape.latent and not shape.mtp:
        longer = flops.forward_parts(shape, context=context)
        shorter = flops.forward_parts(shape, context=context - 1) if context > 1 else {}
        for part, count in parts.items():
            last = context * longer[part] - (context - 1) * shorter.get(part, 0)
            assert count == pytest.approx(last)


def test_cache() -> None:
    assert flops.cache_bytes(V3, context=1) == 70_272
    assert flops.cache_bytes(V3, context=131_072) == pytest.approx(9.21e9, rel=1e-3)
    windowed = replace(GPT, window=8, windowed_layers=3)
    per_layer = 2 * 2 * 64
    assert flops.cache_bytes(windowed, context=20) == per_layer * (20 + 3 * 8)
    assert flops.cache_bytes(windowed, context=5) == per_layer * 4 * 5


def test_activations_of_2205_05198() -> None:
    """34 s b h + 5 a s^2 b bytes a layer; selective: 34 s b h; full: 2 s b h."""
    for context in (16, 1024):
        kept = activation_bytes(GPT, context=context, recompute="none", flash=False)
        assert sum(kept["dense"].values()) == 34 * 64 + 5 * 4 * context
    lean = activation_bytes(GPT, context=1024, recompute="selective", flash=False)
    assert sum(lean["dense"].values()) == 34 * 64
    assert activation_bytes(GPT, context=8, recompute="full")["dense"] == {"stream": 2 * 64}


def test_activations_of_v3_by_hand() -> None:
    kept = activation_bytes(V3, context=4096, recompute="none")
    assert kept.keys() == {"dense", "sparse", "head", "mtp"}
    sparse = kept["sparse"]
    assert sparse["stream"] == 2 * 4 * 7168
    heads = 128 * (192 + 192 + 128 + 128)
    assert sparse["attention"] == 2 * (2 * (1536 + 512) + heads) + 4 * 128
    assert sparse["dispatch"] == 2 * 2 * 8 * 7168 + 4 * (256 + 16)
    assert sparse["experts"] == 2 * 8 * 3 * 2048
    lean = activation_bytes(V3, context=4096, recompute="selective")["sparse"]
    assert lean["stream"] == 2 * 2 * 7168
    assert lean["attention"] == 2 * (1536 + 512 + 64 + 128 * 128) + 4 * 128
    assert lean["experts"] == 2 * 8 * 2 * 2048
    assert lean["dispatch"] == 2 * 8 * 7168 + 4 * (256 + 16)  # in alone, weighed between products


@given(shapes(), st.booleans(), st.booleans())
@settings(max_examples=40)
def test_recomputation_keeps_less(shape: Shape, flash: bool, fused: bool) -> None:
    modes = [
        activation_bytes(shape, context=64, recompute=mode, flash=flash, fused=fused)
        for mode in ("full", "selective", "none")
    ]
    for kind in modes[0]:
        full, lean, all_of_it = (sum(kept[kind].values()) for kept in modes)
        assert 0 < full <= lean <= all_of_it


def test_twins_of_v3() -> None:
    total, active = parameters(V3)["total"], parameters(V3)["active"]
    assert class_size(V3, "quality") == pytest.approx((total * active) ** 0.5)
    full = as_mha(V3)
    assert full.attention == "mha" and full.head_dim == full.value_dim == 128
    grown = parameters(full)["attention"] - parameters(V3)["attention"]
    assert grown == 61 * (4 * 7168 * 128 * 128 - 187_107_328)
    assert flops.cache_bytes(full, context=1) == 2 * 61 * 2 * 128 * 128


@pytest.mark.parametrize("by", ["total", "active", "quality"])
@pytest.mark.parametrize("name", ["deepseek-v3", "deepseek-v2", "deepseek-v2-lite", "kimi-k2"])
def test_twins_have_the_size_of_their_class(name: str, by: str) -> None:
    shape = shape_of(preset(name)[0])
    for made, kind in ((as_dense(shape, by=by), "mla"), (dense_twin(shape, by=by), "mha")):  # type: ignore[arg-type]
        assert parameters(made)["total"] == pytest.approx(class_size(shape, by), rel=5e-3)  # type: ignore[arg-type]
        assert made.attention == kind and not made.experts and made.heads % 2 == 0
        assert 60 < made.hidden / made.layers < 160 and 2 < made.ffn / made.hidden < 6


def test_a_dense_shape_is_its_own_twin_but_for_its_heads() -> None:
    shape = shape_of(preset("llama-3.3-70b")[0])
    assert as_dense(shape) == shape
    plain = dense_twin(shape)
    assert (plain.layers, plain.hidden, plain.attention) == (80, 8192, "mha")
    assert parameters(plain)["total"] == pytest.approx(parameters(shape)["total"], rel=1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": 0}, "layers is 0"),
        ({"ffn": -1}, "ffn is -1"),
        ({"hidden": 10**9}, "hidden is 1000000000"),
        ({"kv_heads": 5}, "kv_heads = 5 exceeds heads = 4"),
        ({"experts": 8}, "need experts_per_token"),
        ({"ffn": 0}, "4 layers are dense"),
    ],
)
def test_a_shape_that_cannot_be(change: dict[str, int], words: str) -> None:
    with pytest.raises(CostError, match=words):
        replace(GPT, **change)


def test_neither_torch_nor_numpy_is_imported() -> None:
    code = (
        "import sys; "
        "from benthic.cost.network import activations, read_shape, twins, units, widths; "
        "read_shape.shape('deepseek-v3'); "
        "assert not {'torch', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
