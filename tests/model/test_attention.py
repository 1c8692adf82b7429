"""Latent attention: both paths against the equations read aloud; rotation; document masks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benthic.model.attention import (
    LatentAttention,
    attend_long,
    attend_short,
    attention_reference,
)
from benthic.model.config import ModelConfig
from benthic.model.rope import rope_tables, rotate, rotate_reference
from benthic.model.transformer import LanguageModel, document_mask

SHAPES: dict[str, dict[str, Any]] = {
    "values narrower than keys": {},
    "values as wide as keys": {"v_head_dim": 16},
    "values wider than keys": {"v_head_dim": 20},
    "query latent": {"q_lora_rank": 12},
    "three heads, unequal parts": {"num_attention_heads": 3, "qk_rope_head_dim": 4},
}
shapes = pytest.mark.parametrize("change", SHAPES.values(), ids=SHAPES)


def attention_of(config: ModelConfig, seed: int = 0) -> LatentAttention:
    module, generator = LatentAttention(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(1.0 if p.ndim == 1 else 0.0, 0.3, generator=generator)
    return module


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tables(config: ModelConfig, length: int) -> tuple[Tensor, Tensor]:
    return rope_tables(length, config.qk_rope_head_dim, config.rope_theta)


@shapes
def test_expanded_path_is_the_reference(tiny: ModelConfig, change: dict[str, Any]) -> None:
    config = replace(tiny, **change)
    module, x = attention_of(config), noise(2, 9, 32)
    with torch.no_grad():
        out, _ = module(x, *tables(config, 9), None)
        expected = attention_reference(module, x, config.rope_theta)
    assert expected.std() > 0.1
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


@shapes
def test_absorbed_path_is_the_expanded_path(tiny: ModelConfig, change: dict[str, Any]) -> None:
    """Rows stand at different positions; behind a row's position its cache holds noise."""
    config = replace(tiny, **change)
    module, x = attention_of(config), noise(3, 12, 32)
    cos, sin = tables(config, 12)
    at = torch.tensor([1, 7, 4])
    with torch.no_grad():
        expanded, entries = module(x, cos, sin, None)
        cache, rows = noise(3, 12, entries.shape[-1], seed=2), torch.arange(3)
        for row in rows:
            cache[row, : at[row]] = entries[row, : at[row]]
        for _ in range(5):
            token = x[rows, at]
            cache[rows, at] = module.entries(token, cos[at], sin[at])
            mask = torch.zeros(3, 12).masked_fill(torch.arange(12) > at[:, None], -torch.inf)
            out = module.decode(token, cos[at], sin[at], cache, mask)
            torch.testing.assert_close(out, expanded[rows, at], atol=1e-5, rtol=1e-5)
            at += 1


def test_decode_of_the_model_is_its_forward(
    tiny: ModelConfig, seeded: Callable[..., LanguageModel]
) -> None:
    """All blocks and their caches: prefill 4 tokens, decode the rest one by one."""
    model = seeded(tiny, std=0.15)
    tokens = torch.randint(0, 264, (2, 10), generator=torch.Generator().manual_seed(3))
    cache, rows = torch.zeros(3, 2, 10, 24), torch.arange(2)
    with torch.no_grad():
        whole = model.lm_head(model(tokens))
        model(tokens[:, :4], cache=cache)
        for t in range(4, 10):
            mask = torch.zeros(2, 10).masked_fill(torch.arange(10) > t, -torch.inf)
            logits = model.decode(tokens[:, t], rows * 0 + t, cache, mask)
            torch.testing.assert_close(logits.float(), whole[:, t], atol=1e-5, rtol=1e-5)


@given(
    position=st.integers(0, 127),
    pairs=st.integers(1, 16),
    theta=st.floats(2.0, 1e6),
    seed=st.integers(0, 2**31),
)
def test_rotation_is_complex_multiplication(
    position: int, pairs: int, theta: float, seed: int
) -> None:
    x = noise(3, 2 * pairs, seed=seed)
    cos, sin = rope_tables(128, 2 * pairs, theta)
    turned = rotate(x, cos[position], sin[position])
    torch.testing.assert_close(turned, rotate_reference(x, position, theta), atol=1e-4, rtol=1e-4)


@given(first=st.integers(0, 50), second=st.integers(0, 50), shift=st.integers(0, 70))
def test_products_depend_on_distance_alone(first: int, second: int, shift: int) -> None:
    q, k = noise(8, seed=4), noise(8, seed=5)
    cos, sin = rope_tables(128, 8, 100.0)

    def product(a: int, b: int) -> Tensor:
        return rotate(q, cos[a], sin[a]) @ rotate(k, cos[b], sin[b])

    near, far = product(first, second), product(first + shift, second + shift)
    torch.testing.assert_close(near, far, atol=1e-4, rtol=1e-4)


def test_document_mask_by_hand() -> None:
    mask = document_mask(torch.tensor([[1, 1, 2]]))
    shut = -torch.inf
    assert mask.tolist() == [[[[0, shut, shut], [0, 0, shut], [shut, shut, 0]]]]


@settings(max_examples=15)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    which=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_documents_do_not_see_each_other(
    tiny: ModelConfig,
    seeded: Callable[..., LanguageModel],
    lengths: list[int],
    which: int,
    seed: int,
) -> None:
    """New tokens in one document leave the outputs of all others as they were."""
    which %= len(lengths)
    model = seeded(tiny, std=0.15)
    documents = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 264, documents.shape, generator=generator)
    mine = documents == which
    others = torch.where(mine, (tokens + 1 + seed % 200) % 264, tokens)
    mask = document_mask(documents)
    with torch.no_grad():
        before, after = model(tokens, mask=mask), model(others, mask=mask)
    torch.testing.assert_close(before[~mine], after[~mine], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before[mine], after[mine], atol=1e-3)


def test_one_document_is_the_causal_path(model: LanguageModel) -> None:
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        masked = model(tokens, mask=document_mask(torch.ones_like(tokens)))
        torch.testing.assert_close(masked, model(tokens), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("value", [8, 16, 24])
@pytest.mark.parametrize("masked", [False, True])
def test_short_and_long_attention_agree(value: int, masked: bool) -> None:
    g = torch.Generator().manual_seed(value)
    q, k = (torch.randn(2, 40, 3, 16, generator=g) for _ in range(2))
    v = torch.randn(2, 40, 3, value, generator=g)
    mask = document_mask((torch.arange(40) // 13).expand(2, 40)) if masked else None
    short, long = (f(q, k, v, mask, 0.25) for f in (attend_short, attend_long))
    torch.testing.assert_close(short, long, atol=2e-6, rtol=1e-5)
