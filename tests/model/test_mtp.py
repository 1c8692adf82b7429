"""The block that looks one token further: what it sees, what it shares, what it is taught."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benthic.data.loader import Rows
from benthic.data.tokenizer import BOS
from benthic.model.config import ModelConfig, RopeScaling
from benthic.model.mtp import PredictionBlock, look_ahead_reference
from benthic.model.transformer import LanguageModel
from benthic.train.pretrain import to_batch

YARN = RopeScaling(rope_type="yarn", factor=4.0, original_max_position_embeddings=4)


def look_ahead(model: LanguageModel, tokens_BT: Tensor) -> Tensor:
    """Logits [B, T - 1, V] for token i + 2 at position i."""
    with torch.no_grad():
        hidden = model(tokens_BT)
        return model.lm_head(model.look_ahead(hidden[:, :-1], tokens_BT[:, 1:]))


def tokens_of(seed: int) -> Tensor:
    return torch.randint(0, 264, (1, 12), generator=torch.Generator().manual_seed(seed))


@settings(max_examples=20)
@given(at=st.integers(0, 9), later=st.integers(2, 11), seed=st.integers(0, 100))
def test_position_i_sees_no_token_from_i_plus_2_on(
    tiny: ModelConfig, seeded: Callable[..., LanguageModel], at: int, later: int, seed: int
) -> None:
    """The token to be predicted is i + 2, so neither it nor what follows may be seen."""
    model, tokens = seeded(tiny, std=0.15), tokens_of(seed)
    other, later = tokens.clone(), min(at + later, 11)
    other[0, later] = (tokens[0, later] + 17) % 264
    before, after = look_ahead(model, tokens)[:, : at + 1], look_ahead(model, other)[:, : at + 1]
    torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("at", [0, 4, 10])
def test_position_i_sees_token_i_plus_1(model: LanguageModel, at: int) -> None:
    tokens = tokens_of(0)
    other = tokens.clone()
    other[0, at + 1] = (tokens[0, at + 1] + 17) % 264
    changed = (look_ahead(model, tokens) - look_ahead(model, other)).abs().amax(dim=(0, 2)) > 1e-3
    assert changed[at] and not changed[:at].any()


@pytest.mark.parametrize(
    "changes",
    [{}, {"n_group": 4, "topk_group": 2}, {"rope_scaling": YARN, "q_lora_rank": 12}],
    ids=["plain", "groups", "YaRN"],
)
def test_block_is_the_printed_equation(
    tiny: ModelConfig, seeded: Callable[..., LanguageModel], changes: dict[str, Any]
) -> None:
    """The embedding first, positions numbered from 0 as they were; two rows."""
    config = replace(tiny, **changes)
    model, tokens = seeded(config, std=0.15), torch.cat([tokens_of(1), tokens_of(2)])
    block = model.model.layers[-1]
    assert isinstance(block, PredictionBlock)
    with torch.no_grad():
        hidden, following = model(tokens)[:, :-1], model.model.embed_tokens(tokens[:, 1:])
        theta, scaling = config.rope_theta, config.rope_scaling
        expected = look_ahead_reference(block, hidden, following, theta, scaling)
        found = look_ahead(model, tokens)
    torch.testing.assert_close(found, model.lm_head(expected), atol=2e-5, rtol=2e-5)


def test_block_has_no_embedding_and_no_head(tiny: ModelConfig) -> None:
    names = {
        n for n, _ in LanguageModel(tiny).named_parameters() if n.startswith("model.layers.3.")
    }
    assert "model.layers.3.shared_head.norm.weight" in names
    assert not [n for n in names if "embed_tokens" in n or "shared_head.head" in n]


def test_its_loss_teaches_the_shared_embedding_and_head(model: LanguageModel) -> None:
    tokens = tokens_of(2)
    hidden = model(tokens).detach()
    ahead = model.look_ahead(hidden[:, :-1], tokens[:, 1:])
    model.lm_head(ahead).logsumexp(-1).sum().backward()
    for shared in (model.model.embed_tokens.weight, model.lm_head.weight):
        assert shared.grad is not None and shared.grad.abs().sum() > 0


def test_the_main_model_does_not_need_it(
    tiny: ModelConfig, seeded: Callable[..., LanguageModel]
) -> None:
    model, tokens = seeded(tiny), tokens_of(3)
    without = LanguageModel(replace(tiny, num_nextn_predict_layers=0))
    weights = {k: v for k, v in model.state_dict().items() if "layers.3." not in k}
    without.load_state_dict(weights)
    with torch.no_grad():
        assert torch.equal(without(tokens), model(tokens))


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_targets_stay_inside_a_document(lengths: list[int]) -> None:
    """Two tokens on, a target is taught where both steps stay inside, and only there."""
    row = [token for length in lengths for token in [BOS, *range(length)]]
    if len(row) < 3:
        return
    tokens = np.array([row])
    documents, asked = np.cumsum(tokens == BOS, axis=1), np.zeros(tokens.shape, dtype=np.bool_)
    rows = Rows(tokens, documents, asked, np.array([True]))
    batch = to_batch(rows, torch.device("cpu"))
    inside = [BOS not in row[i + 1 : i + 3] for i in range(len(row) - 2)]
    assert batch.ahead.tolist() == [inside]
