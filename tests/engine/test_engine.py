"""The engine against slow loops and against the trainer; rows that know nothing of their batch."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benthic.data.tokenizer import EOS
from benthic.engine.engine import Engine, Samples
from benthic.engine.sampler import SamplingParams
from benthic.model.checkpoint import import_hub
from benthic.model.config import ModelConfig, RopeScaling
from benthic.model.export import export_hub
from benthic.model.moe import Routing
from benthic.model.transformer import LanguageModel
from benthic.reason.rl import policy_log_probs, to_batch

PROMPTS = [[5, 9, 200], [7], [256, 258, 1, 2, 3, 4, 259], [11, 12, 13, 14, 15]]
CPU = torch.device("cpu")
Build = Callable[..., LanguageModel]


@pytest.fixture(scope="module", params=["folded", "plain"])
def engine(tiny: ModelConfig, seeded: Build, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Ends now and then: <eos> is made likelier. Both ways to decode."""
    model = seeded(tiny, std=0.15)
    with torch.no_grad():
        model.lm_head.weight[EOS] *= 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benthic.engine.folded.pays", lambda model: request.param == "folded")
        yield Engine(model)


def greedy_slowly(model: LanguageModel, prompt: list[int], new: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(new):
        with torch.no_grad():
            logits = model.lm_head(model(torch.tensor([tokens])))[0, -1]
        tokens.append(int(logits.argmax()))
        if tokens[-1] == EOS:
            break
    return tokens[len(prompt) :]


def completions(samples: Samples) -> list[list[int]]:
    return [samples.completion(row) for row in range(len(samples.lengths))]


def test_greedy_is_the_argmax_of_whole_forwards(engine: Engine) -> None:
    samples = engine.sample(PROMPTS, SamplingParams(temperature=0, max_new_tokens=20))
    expected = [greedy_slowly(engine.model, p, 20) for p in PROMPTS]
    assert completions(samples) == expected


@pytest.mark.parametrize("seed", range(4))
def test_trainer_agrees_on_log_probabilities(engine: Engine, seed: int) -> None:
    """Ragged prompts and ends, experts replayed: within 1e-5 at every sampled token."""
    samples = engine.sample(PROMPTS * 3, SamplingParams(max_new_tokens=24, seed=seed))
    batch = to_batch(samples, torch.zeros(12), CPU)
    with torch.no_grad():
        ours, routing = policy_log_probs(engine.model, batch)
    assert len(set(samples.lengths.tolist())) > 3
    assert int(batch.answered.sum()) == int((samples.lengths - samples.prompt_lengths).sum())
    assert torch.equal(routing.chosen(), batch.replay)
    assert (ours - batch.old)[batch.answered].abs().max() <= 1e-5


def test_trainer_picks_the_experts_that_were_used(engine: Engine) -> None:
    """Left to itself, the router of a whole forward takes what prefill and decoding took."""
    (prompt,) = PROMPTS[:1]
    samples = engine.sample([prompt], SamplingParams(max_new_tokens=12))
    fed = int(samples.lengths[0]) - 1
    routing = Routing()
    with torch.no_grad():
        engine.model(torch.from_numpy(samples.tokens[:, :fed]), routing=routing)
    assert np.array_equal(np.sort(routing.chosen()[0].numpy()), np.sort(samples.experts[0, :fed]))


@settings(max_examples=10)
@given(order=st.permutations(range(12)), count=st.integers(1, 12))
def test_rows_know_nothing_of_their_batch(engine: Engine, order: list[int], count: int) -> None:
    """Key k draws the same answer alone, in any company and at any place, whoever ends early."""
    params, prompts = SamplingParams(max_new_tokens=20, seed=3), PROMPTS * 3
    together = completions(engine.sample(prompts, params, keys=range(40, 52)))
    assert len({len(answer) for answer in together}) > 2
    chosen = order[:count]
    samples = engine.sample([prompts[i] for i in chosen], params, keys=[40 + i for i in chosen])
    assert completions(samples) == [together[i] for i in chosen]


def test_same_seed_same_samples(engine: Engine) -> None:
    params = SamplingParams(max_new_tokens=10, seed=5)
    first, second = engine.sample(PROMPTS, params), engine.sample(PROMPTS, params)
    assert np.array_equal(first.tokens, second.tokens)
    assert np.array_equal(first.log_probs, second.log_probs)


def test_other_seeds_other_samples(engine: Engine) -> None:
    runs = [engine.sample(PROMPTS, SamplingParams(max_new_tokens=10, seed=s)) for s in (1, 2)]
    assert completions(runs[0]) != completions(runs[1])


def test_repeated_prompts_are_answered_one_by_one(engine: Engine) -> None:
    """One prefill serves them; answers, experts and log-probabilities are each row's own."""
    params, keys = SamplingParams(max_new_tokens=10), [3, 1, 3, 2, 3]
    prompts = [PROMPTS[0], PROMPTS[2], PROMPTS[0], PROMPTS[1], PROMPTS[0]]
    many = engine.sample(prompts, params, keys)
    for row, (prompt, key) in enumerate(zip(prompts, keys, strict=True)):
        alone = engine.sample([prompt], params, [key])
        end = int(alone.lengths[0])
        assert many.completion(row) == alone.completion(0)
        assert np.array_equal(many.experts[row, : end - 1], alone.experts[0, : end - 1])
        np.testing.assert_allclose(many.log_probs[row, :end], alone.log_probs[0, :end], atol=1e-5)


@settings(max_examples=10)
@given(new=st.integers(1, 20), seed=st.integers(0, 50))
def test_a_completion_ends_at_eos_or_at_its_bound(engine: Engine, new: int, seed: int) -> None:
    samples = engine.sample(PROMPTS, SamplingParams(max_new_tokens=new, seed=seed))
    for prompt, answer, row in zip(PROMPTS, completions(samples), samples.tokens, strict=True):
        assert row[: len(prompt)].tolist() == prompt
        assert EOS not in answer[:-1]
        assert len(answer) == new or (len(answer) < new and answer[-1] == EOS)


def test_some_completions_end_early(engine: Engine) -> None:
    """Without this, the test above could pass on bounds alone."""
    answers = completions(engine.sample(PROMPTS * 5, SamplingParams(max_new_tokens=20)))
    assert {a[-1] == EOS and len(a) < 20 for a in answers} == {True, False}


def test_experts_are_missing_exactly_where_nothing_was_fed(engine: Engine) -> None:
    samples = engine.sample(PROMPTS * 3, SamplingParams(max_new_tokens=16))
    S = samples.tokens.shape[1]
    fed = np.arange(S) < samples.lengths[:, None] - 1
    assert samples.experts.shape == (12, S, 2, 2) and samples.experts.max() < 8
    assert np.array_equal((samples.experts >= 0).all(axis=(2, 3)), fed)
    assert np.array_equal((samples.experts == -1).all(axis=(2, 3)), ~fed)


def test_log_probabilities_stand_at_the_completion_alone(engine: Engine) -> None:
    samples = engine.sample(PROMPTS * 3, SamplingParams(max_new_tokens=16))
    at = np.arange(samples.tokens.shape[1])
    answered = (at >= samples.prompt_lengths[:, None]) & (at < samples.lengths[:, None])
    assert np.array_equal(samples.log_probs != 0, answered)
    assert (samples.log_probs <= 0).all()


def test_unrecorded_experts_change_no_token(engine: Engine) -> None:
    params = SamplingParams(max_new_tokens=10)
    bare = Engine(engine.model, record_experts=False).sample(PROMPTS, params)
    assert completions(bare) == completions(engine.sample(PROMPTS, params))
    assert bare.experts.size == 0


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("prompt", PROMPTS, ids=len)
def test_stream_is_the_sample(engine: Engine, prompt: list[int], temperature: float) -> None:
    params = SamplingParams(temperature=temperature, max_new_tokens=15, seed=2)
    assert list(engine.stream(prompt, params)) == engine.sample([prompt], params).completion(0)


class Largest(TorchDispatchMode):
    """Sees the number of elements of the largest tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.elements = max(self.elements, made.numel())
        return made


@pytest.mark.parametrize("prompts", [PROMPTS[:1] * 2, PROMPTS[:2]], ids=["level", "ragged"])
def test_nothing_grows_with_the_square_of_the_length(
    tiny: ModelConfig, seeded: Build, prompts: list[list[int]]
) -> None:
    """Room for 5,000 tokens, of which few are used: the cache is the largest, linear in them."""
    model = seeded(replace(tiny, max_position_embeddings=5_100))
    engine, params = Engine(model, ends=range(0, 264, 8)), SamplingParams(max_new_tokens=5_000)
    bound = 2 * 3 * 5_010 * model.config.cache_width
    with Largest() as seen:
        samples = engine.sample(prompts, params)
        list(engine.stream(prompts[0], params))
    assert (samples.lengths - samples.prompt_lengths).max() > 2
    assert 0 < seen.elements <= bound < 5_000**2 / 10


def test_expert_ids_reach_as_far_as_a_config_does(tiny: ModelConfig, seeded: Build) -> None:
    narrow = {"hidden_size": 8, "moe_intermediate_size": 4, "num_hidden_layers": 1}
    config = replace(
        tiny, **narrow, first_k_dense_replace=0, n_routed_experts=40_000, num_nextn_predict_layers=0
    )
    model = seeded(config)
    model.routers[0].e_score_correction_bias[-2:] = 10
    samples = Engine(model).sample([[1, 2, 3]], SamplingParams(max_new_tokens=2))
    assert set(samples.experts[0, :3].flatten().tolist()) == {39_998, 39_999}


def test_a_reader_of_a_stream_is_not_in_inference_mode(engine: Engine) -> None:
    for _ in engine.stream(PROMPTS[0], SamplingParams(max_new_tokens=3)):
        assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("prompts", "word"), [([[1], []], "empty"), ([[1] * 120], "positions")], ids=["empty", "long"]
)
def test_prompts_that_cannot_be_answered_are_refused(
    engine: Engine, prompts: list[list[int]], word: str
) -> None:
    params = SamplingParams(max_new_tokens=9)  # 120 + 9 exceed the 128 positions
    with pytest.raises(ValueError, match=word):
        engine.sample(prompts, params)
    with pytest.raises(ValueError, match=word):
        list(engine.stream(prompts[-1], params))


def test_the_last_position_can_be_used(engine: Engine) -> None:
    samples = engine.sample([[1] * 120], SamplingParams(temperature=0, max_new_tokens=8))
    assert samples.completion(0) == greedy_slowly(engine.model, [1] * 120, 8)


def test_any_end_ends_a_completion(engine: Engine) -> None:
    """As <eos> alone does, cut at whichever comes first; padding is an end too."""
    params = SamplingParams(max_new_tokens=20, seed=4, ignore_eos=True)
    whole = completions(engine.sample(PROMPTS * 5, params))
    other = next(t for answer in whole for t in answer[3:10] if t not in (EOS, 0))
    ends = {EOS, other}
    samples = Engine(engine.model, ends=ends).sample(PROMPTS * 5, replace(params, ignore_eos=False))
    cuts = [next((n + 1 for n, t in enumerate(a) if t in ends), 20) for a in whole]
    assert completions(samples) == [a[:cut] for a, cut in zip(whole, cuts, strict=True)]
    assert {samples.completion(row)[-1] for row in range(20)} >= ends
    for row, end in zip(samples.tokens, samples.lengths, strict=True):
        assert set(row[end:].tolist()) <= ends


def test_a_stream_ends_at_any_end(engine: Engine) -> None:
    params = SamplingParams(max_new_tokens=20, temperature=0, ignore_eos=True)
    whole = list(engine.stream(PROMPTS[0], params))
    other = whole[3]
    found = Engine(engine.model, ends=[other]).stream(PROMPTS[0], replace(params, ignore_eos=False))
    assert list(found) == whole[: whole.index(other) + 1]


@pytest.mark.parametrize("ends", [(), (-1, 10**6)])
def test_without_an_end_the_bound_ends(engine: Engine, ends: tuple[int, ...]) -> None:
    samples = Engine(engine.model, ends=ends).sample(PROMPTS, SamplingParams(max_new_tokens=20))
    assert (samples.lengths - samples.prompt_lengths == 20).all()


YARN = RopeScaling(
    rope_type="yarn",
    factor=4.0,
    original_max_position_embeddings=16,
    mscale=1.0,
    mscale_all_dim=0.7,
)
LLAMA3 = RopeScaling(rope_type="llama3", factor=8.0, original_max_position_embeddings=16)
V2 = {
    "model_type": "deepseek_v2",
    "topk_method": "greedy",
    "norm_topk_prob": False,
    "num_nextn_predict_layers": 0,
}
DENSE = {"vocab_size": 264, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
DENSE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
FAMILIES: dict[str, dict[str, Any]] = {
    "V3, all at once": {
        "q_lora_rank": 12,
        "n_group": 4,
        "topk_group": 2,
        "num_experts_per_tok": 3,
        "routed_scaling_factor": 2.5,
        "rope_scaling": YARN,
    },
    "V3, tied, eps of the latents apart": {"tie_word_embeddings": True, "rms_norm_eps": 1e-5},
    "V2-Lite": {**V2, "rope_scaling": YARN},
    "V2": {
        **V2,
        "q_lora_rank": 12,
        "topk_method": "group_limited_greedy",
        "n_group": 4,
        "topk_group": 2,
        "n_shared_experts": 2,
        "routed_scaling_factor": 4.0,
    },
    "Llama 2": {**DENSE, "model_type": "llama", "num_key_value_heads": 4},
    "Llama 3.2": {
        **DENSE,
        "model_type": "llama",
        "head_dim": 12,
        "rope_scaling": LLAMA3,
        "tie_word_embeddings": True,
    },
    "Llama with biases": {
        **DENSE,
        "model_type": "llama",
        "attention_bias": True,
        "mlp_bias": True,
    },
    "Qwen2": {**DENSE, "model_type": "qwen2", "num_key_value_heads": 1},
    "Qwen3": {**DENSE, "model_type": "qwen3", "head_dim": 16},
}


def of_family(tiny: ModelConfig, name: str) -> ModelConfig:
    changes = FAMILIES[name]
    return ModelConfig(**changes) if "vocab_size" in changes else replace(tiny, **changes)


def check_greedy(model: LanguageModel) -> None:
    """Ragged prompts, a repeated one among them, and rows that end before others."""
    prompts = [*PROMPTS, PROMPTS[0], [3] * 30]
    with torch.no_grad():
        model.lm_head.weight[EOS] *= 2
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter -= 1  # about zero, or nothing else would count
    found = Engine(model, ends=[EOS]).sample(
        prompts, SamplingParams(temperature=0, max_new_tokens=20)
    )
    assert completions(found) == [greedy_slowly(model, p, 20) for p in prompts]
    assert len({tuple(answer) for answer in completions(found)}) > 3


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_decodes_greedily_as_it_reads(
    tiny: ModelConfig, seeded: Build, name: str
) -> None:
    check_greedy(seeded(of_family(tiny, name)))


@pytest.mark.parametrize("name", ["V3, all at once", "V2-Lite", "Llama 3.2", "Qwen3"])
def test_weights_kept_in_fp8_decode_as_they_read(
    tiny: ModelConfig, seeded: Build, name: str, tmp_path: Path
) -> None:
    export_hub(seeded(of_family(tiny, name)), tmp_path, precision="fp8")
    model = import_hub(tmp_path, dtype=torch.float32, keep_fp8=True)
    assert any(p.dtype == torch.float8_e4m3fn for p in model.parameters())
    check_greedy(model)
