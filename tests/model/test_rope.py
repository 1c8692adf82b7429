"""Rotary angles: the papers' definitions pair by pair, and transformers' tables bit by bit."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benthic.hub.config import preset, to_hub
from benthic.model.config import ModelConfig, RopeScaling
from benthic.model.rope import (
    PLAIN,
    frequencies,
    frequency_reference,
    rope_tables,
    rotate,
    rotate_halves,
    rotate_reference,
)

EXAMPLES = 150
# Prints by how much the memory peaked while tables were made, and what they take.
PEAK = """
import re
from pathlib import Path
from benthic.model.config import RopeScaling
from benthic.model.rope import rope_tables

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

scaling = RopeScaling(rope_type="yarn", factor=2.0, original_max_position_embeddings=4096)
rope_tables(8, 64, 1e4, scaling)
before = peak()
tables = rope_tables(1 << 20, 64, 1e4, scaling)
print(peak() - before, sum(t.nbytes for t in tables))
"""
YARN = RopeScaling(rope_type="yarn", factor=40.0, original_max_position_embeddings=4096)
LONGEST = 131072

dims = st.integers(1, 64).map(lambda n: 2 * n)
thetas = st.floats(1.5, 1e7)
factors = st.floats(0.25, 128.0)
trained = st.integers(1, 1 << 20)
scalings = st.one_of(
    st.just(PLAIN),
    st.builds(RopeScaling, rope_type=st.just("linear"), factor=factors),
    st.builds(
        RopeScaling,
        rope_type=st.just("yarn"),
        factor=factors,
        original_max_position_embeddings=trained,
        beta_fast=st.floats(1, 64),
        beta_slow=st.floats(0.1, 8),
        truncate=st.booleans(),
    ),
    st.builds(
        RopeScaling,
        rope_type=st.just("llama3"),
        factor=factors,
        original_max_position_embeddings=trained,
        low_freq_factor=st.floats(0.5, 1.5),
        high_freq_factor=st.floats(2, 8),
    ),
)


@given(dims, thetas, scalings)
@settings(max_examples=EXAMPLES)
# The ramp's ends: below pair 0, beyond the last pair, crossed either way, at one pair.
@example(64, 10000.0, replace(YARN, original_max_position_embeddings=100))
@example(8, 100.0, replace(YARN, original_max_position_embeddings=1 << 20))
@example(8, 100.0, replace(YARN, original_max_position_embeddings=1 << 20, beta_fast=1.0))
@example(64, 50000.0, replace(YARN, factor=32.0, beta_fast=1.0))
@example(64, 50000.0, replace(YARN, factor=32.0, beta_fast=1.0, truncate=False))
@example(64, 10000.0, replace(YARN, original_max_position_embeddings=1))
@example(64, 1.5, YARN)
@example(64, 1.5, replace(YARN, original_max_position_embeddings=1))
@example(2, 10000.0, YARN)
def test_frequencies_are_the_papers(rope_dim: int, theta: float, scaling: RopeScaling) -> None:
    fast = frequencies(rope_dim, theta, scaling)
    slow = [frequency_reference(i, rope_dim, theta, scaling) for i in range(rope_dim // 2)]
    assert fast.dtype == torch.float32 and fast.shape == (rope_dim // 2,)
    torch.testing.assert_close(fast, torch.tensor(slow), rtol=2e-5, atol=0)


@pytest.mark.parametrize("theta", [1.0 + 2**-52, 1.0001, 1.5])
@pytest.mark.parametrize("length", [1, 100, 1 << 20])
def test_a_base_near_one_gives_numbers(theta: float, length: int) -> None:
    scaling = replace(YARN, original_max_position_embeddings=length)
    turns = frequencies(64, theta, scaling)
    assert turns.isfinite().all() and (turns > 0).all() and (turns <= 1.0).all()


def test_v3s_ramp_runs_from_pair_10_to_23() -> None:
    config, _ = preset("deepseek-v3")
    plain, turns = frequencies(64, 10000.0), frequencies(64, 10000.0, config.rope_scaling)
    assert torch.equal(turns[:11], plain[:11])
    # Divided by 40 in one rounding, and not by two.
    assert torch.equal(turns[23:], 1 / (40 * (10000 ** (torch.arange(46, 64, 2) / 64))))
    between = (turns / plain)[11:23]
    weight = torch.arange(1, 13) / 13
    torch.testing.assert_close(between, 1 - weight + weight / 40)


# Section 1.3's table: sqrt(192) and mscale squared.
SOFTMAX = {
    "deepseek-v3": 0.1352338,
    "deepseek-r1": 0.1352338,
    "deepseek-v2": 0.1147214,
    "deepseek-v2-lite": 0.1147214,
    "kimi-k2": 0.1308608,
    "moonlight-16b-a3b": 0.0721688,
    "llama-3.1-8b": 128**-0.5,
    "qwen3-8b": 128**-0.5,
}


@pytest.mark.parametrize("name", SOFTMAX)
def test_softmax_scales_are_the_published(name: str) -> None:
    config, _ = preset(name)
    assert config.softmax_scale == pytest.approx(SOFTMAX[name], abs=5e-8)
    assert config.rope_scaling.turn_factor == 1.0


def test_kimis_longer_context_scales_further() -> None:
    config, _ = preset("kimi-k2")
    longer = replace(config, rope_scaling=replace(config.rope_scaling, factor=64.0))
    assert longer.softmax_scale == pytest.approx(0.1446796, abs=5e-8)


@pytest.mark.parametrize(
    ("given_", "factor"),
    [
        ({}, 0.1 * math.log(40) + 1),
        ({"mscale": 1.0}, 0.1 * math.log(40) + 1),
        (
            {"mscale": 1.0, "mscale_all_dim": 0.5},
            (0.1 * math.log(40) + 1) / (0.05 * math.log(40) + 1),
        ),
        ({"attention_factor": 1.25, "mscale": 1.0, "mscale_all_dim": 0.5}, 1.25),
        ({"factor": 0.5}, 1.0),
    ],
)
def test_cosine_and_sine_are_scaled_as_yarn_says(given_: dict[str, float], factor: float) -> None:
    scaling = replace(YARN, **given_)  # type: ignore[arg-type]
    assert scaling.turn_factor == pytest.approx(factor, rel=1e-12)
    cos, sin = rope_tables(64, 32, 10000.0, scaling)
    torch.testing.assert_close((cos**2 + sin**2).sqrt(), torch.full_like(cos, factor))


def oracle(config: ModelConfig) -> Any:
    """Transformers' rotary module for the config."""
    transformers = pytest.importorskip("transformers", reason="install the extra 'dev'")
    transformers.logging.set_verbosity_error()
    modules = transformers.models
    theirs = {
        "deepseek_v3": ("DeepseekV3Config", "deepseek_v3", "DeepseekV3RotaryEmbedding"),
        "deepseek_v2": ("DeepseekV2Config", "deepseek_v2", "DeepseekV2RotaryEmbedding"),
        "llama": ("LlamaConfig", "llama", "LlamaRotaryEmbedding"),
        "qwen2": ("Qwen2Config", "qwen2", "Qwen2RotaryEmbedding"),
        "qwen3": ("Qwen3Config", "qwen3", "Qwen3RotaryEmbedding"),
    }
    cls, module, rotary = theirs[config.model_type]
    keys = {k: v for k, v in to_hub(config).items() if k not in ("model_type", "architectures")}
    code = getattr(getattr(modules, module), f"modeling_{module}")
    return getattr(code, rotary)(getattr(transformers, cls)(**keys))


ORACLES: dict[str, tuple[str, dict[str, Any]]] = {
    "v3": ("deepseek-v3", {}),
    "v3, plain": ("deepseek-v3", {"rope_scaling": PLAIN}),
    "v3, unequal mscales": (
        "deepseek-v3",
        {"rope_scaling": replace(YARN, mscale=1.0, mscale_all_dim=0.707)},
    ),
    "kimi": ("kimi-k2", {}),
    "moonlight": ("moonlight-16b-a3b", {}),
    "llama": ("llama-3.1-8b", {}),
    "llama, narrow": ("llama-3.2-1b", {}),
    "llama, linear": (
        "llama-3.1-8b",
        {"rope_scaling": RopeScaling(rope_type="linear", factor=3.0)},
    ),
    "qwen2": ("qwen2.5-7b", {}),
    "qwen3, yarn": (
        "qwen3-8b",
        {"rope_scaling": replace(YARN, factor=4.0, original_max_position_embeddings=32768)},
    ),
    "qwen3, yarn without whole pairs": (
        "qwen3-8b",
        {"rope_scaling": replace(YARN, factor=3.3, truncate=False, attention_factor=1.1)},
    ),
}
PLACES = torch.cat([torch.arange(4096), torch.arange(4096, LONGEST, 61), torch.tensor([131071])])


@pytest.mark.parametrize("case", ORACLES.values(), ids=ORACLES)
def test_tables_are_transformers_to_the_last_bit(case: tuple[str, dict[str, Any]]) -> None:
    name, changes = case
    config = replace(preset(name)[0], **changes)
    rotary = oracle(config)
    theta, scaling = config.rope_theta, config.rope_scaling
    assert torch.equal(frequencies(config.rotary_dim, theta, scaling), rotary.inv_freq)
    cos, sin = rope_tables(LONGEST, config.rotary_dim, theta, scaling)
    their_cos, their_sin = rotary(torch.zeros(1), PLACES[None])
    half = config.rotary_dim // 2
    assert torch.equal(cos[PLACES], their_cos[0, :, :half])
    assert torch.equal(sin[PLACES], their_sin[0, :, :half])


@pytest.mark.parametrize("name", ["deepseek-v2", "deepseek-v2-lite"])
def test_tables_of_v2_are_transformers_complex_ones(name: str) -> None:
    """Their angles are the same bits; polar form rounds sine and cosine to within one place."""
    config, _ = preset(name)
    rotary = oracle(config)
    turns = frequencies(64, config.rope_theta, config.rope_scaling)
    assert torch.equal(turns, rotary.inv_freq)
    cos, sin = rope_tables(LONGEST, 64, config.rope_theta, config.rope_scaling)
    theirs = rotary(torch.zeros(1), PLACES[None])[0]
    ulp = 2.0**-23
    assert (cos[PLACES] - theirs.real).abs().max() <= ulp
    assert (sin[PLACES] - theirs.imag).abs().max() <= ulp


@given(dims, st.sampled_from([100.0, 10000.0]), scalings, st.integers(0, 500))
@settings(max_examples=60)
def test_rotations_are_complex_products(
    rope_dim: int, theta: float, scaling: RopeScaling, place: int
) -> None:
    x = torch.randn(3, rope_dim, generator=torch.Generator().manual_seed(rope_dim))
    cos, sin = rope_tables(place + 1, rope_dim, theta, scaling)
    for fast, halves in ((rotate, False), (rotate_halves, True)):
        slow = rotate_reference(x, place, theta, scaling, halves=halves)
        torch.testing.assert_close(fast(x, cos[place], sin[place]), slow, atol=1e-2, rtol=1e-2)


def test_products_depend_on_distance_alone() -> None:
    q, k = torch.randn(2, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for turn in (rotate, rotate_halves):
        cos, sin = (t.double() for t in rope_tables(200, 32, 10000.0, YARN))
        near = turn(q, cos[7], sin[7]) @ turn(k, cos[3], sin[3])
        far = turn(q, cos[107], sin[107]) @ turn(k, cos[103], sin[103])
        torch.testing.assert_close(near, far, atol=1e-4, rtol=0)
        assert abs(near - turn(q, cos[8], sin[8]) @ turn(k, cos[3], sin[3])) > 1e-2


def test_on_meta_tables_are_shapes() -> None:
    with torch.device("meta"):
        cos, sin = rope_tables(10, 6, 10000.0, YARN)
    assert cos.shape == sin.shape == (10, 3)
    assert cos.is_meta and cos.dtype == torch.float32


def test_tables_take_no_more_memory_on_the_way() -> None:
    root = Path(__file__).parents[2]
    words = [sys.executable, "-c", PEAK]
    done = subprocess.run(words, check=True, cwd=root, capture_output=True, text=True)
    peak, tables = map(int, done.stdout.split())
    assert peak < 1.25 * tables
