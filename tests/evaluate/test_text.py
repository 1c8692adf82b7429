"""Bits per byte: each byte once, under the context that its window gives it."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benthic.data.vocabulary import BYTES, ByteVocabulary
from benthic.evaluate.text import bits_per_byte
from benthic.model.config import ModelConfig
from benthic.model.transformer import LanguageModel

Build = Callable[..., LanguageModel]


def text_of(size: int, seed: int = 0) -> list[int]:
    """Bytes with a document's end and beginning among them."""
    tokens = np.random.default_rng(seed).integers(0, 256, size).tolist()
    tokens[0] = 256
    if size > 8:
        tokens[size // 2 : size // 2 + 2] = [257, 256]
    return tokens


def slowly(model: LanguageModel, tokens: list[int], window: int) -> float:
    """One byte at a time, in the first window, half a window apart, that holds it as a target."""
    stride, bits = max(1, window // 2), []
    for t in range(1, len(tokens)):
        if tokens[t] < 256:
            start = math.ceil(max(0, t - window) / stride) * stride
            with torch.no_grad():
                logits = model.lm_head(model(torch.tensor([tokens[start:t]])))[0, -1]
            bits.append(-logits.log_softmax(-1)[tokens[t]].item() / math.log(2))
    return sum(bits) / len(bits)


@settings(max_examples=25)
@given(size=st.integers(3, 60), window=st.integers(1, 24))
def test_figure_is_the_slow_loop(tiny: ModelConfig, seeded: Build, size: int, window: int) -> None:
    model, tokens = seeded(tiny, std=0.15), text_of(size)
    ours = bits_per_byte(model, np.array(tokens, dtype=np.uint16), window, BYTES)
    assert ours == pytest.approx(slowly(model, tokens, window), abs=1e-4)


class Costs(torch.nn.Module):
    """Stands for a model where a byte costs its own value, so the sum tells what was scored."""

    cos = torch.zeros(1)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens


@given(size=st.integers(2, 300), window=st.integers(1, 40), marks=st.sets(st.integers(0, 299)))
def test_every_byte_is_scored_once(size: int, window: int, marks: set[int]) -> None:
    """Every byte after the first token adds its own weight once; specials add none."""
    tokens = np.array([256 if i in marks else i % 256 for i in range(size)], dtype=np.uint16)
    scored = tokens[1:][tokens[1:] < 256].astype(np.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "benthic.evaluate.text.token_log_probs",
            lambda model, hidden, following: -following.double(),
        )
        if not scored.size:
            with pytest.raises(ValueError, match="too short"):
                bits_per_byte(Costs(), tokens, window, BYTES)  # type: ignore[arg-type]
            return
        ours = bits_per_byte(Costs(), tokens, window, BYTES)  # type: ignore[arg-type]
    assert ours * math.log(2) * scored.size == pytest.approx(scored.sum())


def test_uniform_model_needs_the_logarithm_of_its_vocabulary(model: LanguageModel) -> None:
    with torch.no_grad():
        model.lm_head.weight.zero_()
    ours = bits_per_byte(model, np.array(text_of(50), dtype=np.uint16), 16, BYTES)
    assert ours == pytest.approx(math.log2(264), abs=1e-5)


def test_a_token_of_many_bytes_is_scored_once_and_counts_them_all(
    tiny: ModelConfig, seeded: Build
) -> None:
    """Bits of all text tokens over bytes of all text tokens, whatever each stands for."""
    model, tokens = seeded(tiny, std=0.15), text_of(60)
    other = ByteVocabulary()
    other.byte_lengths = np.arange(other.size, dtype=np.int32) % 4
    other.byte_lengths[256:] = 0
    targets = [t for t in tokens[1:] if other.byte_lengths[t]]
    with torch.no_grad():
        log_p = model.lm_head(model(torch.tensor([tokens])))[0].log_softmax(-1)
    nats = -sum(log_p[at, t].item() for at, t in enumerate(tokens[1:]) if other.byte_lengths[t])
    bits = nats / math.log(2) / sum(int(other.byte_lengths[t]) for t in targets)
    ours = bits_per_byte(model, np.array(tokens, dtype=np.uint16), 64, other)
    assert ours == pytest.approx(bits, abs=1e-4)
