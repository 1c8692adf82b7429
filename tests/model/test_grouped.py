"""Grouped-query attention: both paths against one head and one position at a time."""

from typing import Any

import pytest
import torch
from torch import Tensor

from benthic.model.attention import SHORT
from benthic.model.config import ModelConfig, RopeScaling
from benthic.model.grouped import GroupedAttention, grouped_reference
from benthic.model.rope import rope_tables
from benthic.model.transformer import LanguageModel, initialise

YARN = RopeScaling(
    rope_type="yarn", factor=4.0, original_max_position_embeddings=16, mscale=1.0, beta_fast=2.0
)
LLAMA3 = RopeScaling(rope_type="llama3", factor=8.0, original_max_position_embeddings=16)
LINEAR = RopeScaling(rope_type="linear", factor=3.0)
SWITCHES: dict[str, dict[str, Any]] = {
    "llama": {},
    "one head a group": {"num_key_value_heads": 6},
    "one group": {"num_key_value_heads": 1},
    "heads narrower than the stream": {"head_dim": 2},
    "heads by division": {"head_dim": 0, "hidden_size": 36},
    "all biases": {"attention_bias": True},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3"},
    "qwen3 with biases": {"model_type": "qwen3", "attention_bias": True, "rms_norm_eps": 1e-2},
    "bands": {"rope_scaling": LLAMA3},
    "bands, normed": {"rope_scaling": LLAMA3, "model_type": "qwen3"},
    "yarn": {"rope_scaling": YARN},
    "yarn, biased": {"rope_scaling": YARN, "model_type": "qwen2"},
    "linear": {"rope_scaling": LINEAR},
}
switches = pytest.mark.parametrize("change", SWITCHES.values(), ids=SWITCHES)


def shape(**change: Any) -> ModelConfig:
    given: dict[str, Any] = {
        **{"model_type": "llama", "vocab_size": 50, "hidden_size": 20, "intermediate_size": 28},
        **{"num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2},
        **{"head_dim": 8, "max_position_embeddings": 64, "rope_theta": 100.0},
    }
    return ModelConfig(**(given | change))


def attention_of(config: ModelConfig, seed: int = 0) -> GroupedAttention:
    """Norms scatter about one and biases about a half, so that leaving one out shows."""
    module, generator = GroupedAttention(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            mean = 1.0 if "norm" in name else 0.5 if "bias" in name else 0.0
            p.normal_(mean, 0.3, generator=generator)
    return module


def noise(*size: int, seed: int = 1) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def tables(config: ModelConfig, length: int) -> tuple[Tensor, Tensor]:
    return rope_tables(length, config.head_dim, config.rope_theta, config.rope_scaling)


@switches
def test_whole_sequences_are_the_reference(change: dict[str, Any]) -> None:
    config = shape(**change)
    module, x = attention_of(config), noise(2, 9, config.hidden_size)
    with torch.no_grad():
        out, entries = module(x, *tables(config, 9), None)
        expected = grouped_reference(module, x, config.rope_theta, config.rope_scaling)
    assert expected.std() > 0.1
    assert entries.shape == (2, 9, config.cache_width)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


@switches
def test_decoding_is_the_reference(change: dict[str, Any]) -> None:
    """Rows stand at different positions; behind a row's position its cache holds noise."""
    config = shape(**change)
    module, x = attention_of(config), noise(3, 12, config.hidden_size)
    cos, sin = tables(config, 12)
    at = torch.tensor([1, 7, 4])
    with torch.no_grad():
        expected = grouped_reference(module, x, config.rope_theta, config.rope_scaling)
        _, entries = module(x, cos, sin, None)
        cache, rows = noise(3, 12, config.cache_width, seed=2), torch.arange(3)
        for row in rows:
            cache[row, : at[row]] = entries[row, : at[row]]
        for _ in range(4):
            token = x[rows, at]
            cache[rows, at] = module.entries(token, cos[at], sin[at])
            mask = torch.zeros(3, 12).masked_fill(torch.arange(12) > at[:, None], -torch.inf)
            out = module.decode(token, cos[at], sin[at], cache, mask)
            torch.testing.assert_close(out, expected[rows, at], atol=1e-5, rtol=1e-5)
            at += 1


@pytest.mark.parametrize("change", [{}, {"model_type": "qwen3"}], ids=["llama", "qwen3"])
def test_long_sequences_take_the_other_kernel_to_the_same_end(change: dict[str, Any]) -> None:
    config = shape(**change, max_position_embeddings=SHORT + 4)
    module, length = attention_of(config), SHORT + 4
    x, (cos, sin) = noise(1, length, config.hidden_size), tables(config, length)
    with torch.no_grad():
        out, cache = module(x, cos, sin, None)
        for t in (0, SHORT - 1, SHORT, length - 1):
            mask = torch.zeros(1, length).masked_fill(torch.arange(length) > t, -torch.inf)
            one = module.decode(x[:, t], cos[t : t + 1], sin[t : t + 1], cache, mask)
            torch.testing.assert_close(one, out[:, t], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_decode_of_the_model_is_its_forward(family: str) -> None:
    """All blocks and their caches: prefill 4 tokens, decode the rest one by one."""
    config = shape(model_type=family, tie_word_embeddings=family == "qwen3")
    model, generator = LanguageModel(config), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(1.0 if p.ndim == 1 else 0.0, 0.2, generator=generator)
    tokens = torch.randint(0, 50, (2, 10), generator=generator)
    cache, rows = torch.zeros(2, 2, 10, config.cache_width), torch.arange(2)
    with torch.no_grad():
        whole = model.lm_head(model(tokens))
        assert whole.std() > 0.1
        model(tokens[:, :4], cache=cache)
        for t in range(4, 10):
            mask = torch.zeros(2, 10).masked_fill(torch.arange(10) > t, -torch.inf)
            logits = model.decode(tokens[:, t], rows * 0 + t, cache, mask)
            torch.testing.assert_close(logits, whole[:, t], atol=1e-5, rtol=1e-5)


def test_a_mask_shuts_documents_off() -> None:
    """Two documents in a row come out as each for itself, at their own places."""
    config = shape(model_type="qwen2")
    module, x = attention_of(config), noise(1, 9, config.hidden_size)
    cos, sin = tables(config, 9)
    first = torch.arange(9) < 4
    seen = (first[:, None] == first) & (torch.arange(9)[:, None] >= torch.arange(9))
    mask = torch.zeros(1, 1, 9, 9).masked_fill(~seen, -torch.inf)
    with torch.no_grad():
        out, _ = module(x, cos, sin, mask)
        head, _ = module(x[:, :4], cos[:4], sin[:4], None)
        tail, _ = module(x[:, 4:], cos[4:], sin[4:], None)
    torch.testing.assert_close(out, torch.cat([head, tail], 1), atol=1e-5, rtol=1e-5)


def test_a_model_starts_the_same_whatever_was_drawn_before() -> None:
    """Biases at zero: what torch puts there by itself depends on the global seed."""
    config = shape(model_type="qwen2", attention_bias=True)
    first = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = LanguageModel(config)
        initialise(model, torch.Generator().manual_seed(0))
        first.append(model.state_dict())
    assert first[0].keys() == first[1].keys()
    for name, tensor in first[0].items():
        assert torch.equal(tensor, first[1][name]), name
        assert not name.endswith("bias") or not tensor.any()
