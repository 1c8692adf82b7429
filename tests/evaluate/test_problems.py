"""Figures on problems, from a sampler whose answers are right, wrong and worked by construction."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benthic.data.tasks.problem import Problem
from benthic.data.tokenizer import EOS
from benthic.data.vocabulary import BYTES
from benthic.engine.engine import Samples
from benthic.engine.sampler import SamplingParams
from benthic.evaluate.problems import evaluate_problems, greedy_accuracy, wilson

PROBLEMS = [Problem(f"{i:04d}", "12345", str(i % 10)) for i in range(1030)]
completion = BYTES.completion
Answer = Callable[[int, float], list[int]]


class Scripted:
    """Answers problem i, at a temperature, as the script says; keeps what it was asked."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[tuple[list[int], SamplingParams]] = []

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        keys: Sequence[int] | None = None,
    ) -> Samples:
        assert keys is not None
        self.asked.append((list(keys), params))
        rows = []
        for prompt in prompts:
            i = int(bytes(t for t in prompt if t < 256))
            rows.append([*prompt, *self.answer(i, params.temperature)])
        S = max(map(len, rows))
        tokens = np.array([[*row, *[EOS] * (S - len(row))] for row in rows], dtype=np.int64)
        lengths = np.array([len(r) for r in rows], dtype=np.int64)
        starts = np.array([len(p) for p in prompts], dtype=np.int64)
        empty = np.zeros((*tokens.shape, 0, 0), dtype=np.int32)
        return Samples(tokens, starts, lengths, np.zeros(tokens.shape, dtype=np.float32), empty)


def script(i: int, temperature: float) -> list[int]:
    """Greedy: every fourth wrong, all worked. Sampled: odd ones worked and right, even ones direct;
    of the direct ones those divisible by 4 are right."""
    right, wrong = str(i % 10), str((i + 1) % 10)
    if temperature == 0:
        return completion("12345", wrong if i % 4 == 0 else right)
    if i % 2:
        return completion("123", right)
    return completion("", right if i % 4 == 0 else wrong)


def test_figures_are_what_was_scripted() -> None:
    found = evaluate_problems(Scripted(script), PROBLEMS[:200], BYTES, max_new_tokens=24, seed=0)
    assert found["problems"] == 200
    assert found["greedy_accuracy"] == 0.75
    assert found["greedy_interval"] == list(wilson(150, 200))
    assert found["thought_tokens"] == 5 and found["think_share"] == 1
    assert found["sampled"] == {
        "worked_accuracy": 1.0,
        "worked_count": 100,
        "direct_accuracy": 0.5,
        "direct_count": 100,
        "think_share": 0.5,
        "thought_tokens": 1.5,
    }


def test_the_example_is_the_first_problem() -> None:
    found = evaluate_problems(Scripted(script), PROBLEMS[3:5], BYTES, max_new_tokens=24, seed=0)
    assert found["example"] == {
        "question": "0003",
        "thinking": "12345",
        "answer": "3",
        "expected": "3",
        "right": True,
    }


def test_a_kind_never_sampled_has_no_accuracy() -> None:
    direct = Scripted(lambda i, temperature: completion("", str(i % 10)))
    found = evaluate_problems(direct, PROBLEMS[:10], BYTES, max_new_tokens=24, seed=0)["sampled"]
    assert found["worked_accuracy"] is None and found["worked_count"] == 0
    assert found["direct_accuracy"] == 1


def test_right_in_the_wrong_form_is_not_counted() -> None:
    trailing = Scripted(lambda i, temperature: [*completion("1", str(i % 10)), 65])
    found = evaluate_problems(trailing, PROBLEMS[:10], BYTES, max_new_tokens=24, seed=0)
    assert found["greedy_accuracy"] == 0 and not found["example"]["right"]


def test_draws_belong_to_a_problems_place() -> None:
    """Batches hand on their problems' numbers; greedy and sampled, each over all of them."""
    sampler = Scripted(script)
    evaluate_problems(sampler, PROBLEMS, BYTES, max_new_tokens=7, seed=5)
    for temperature in (0, 1):
        keys = [k for ks, params in sampler.asked if params.temperature == temperature for k in ks]
        assert keys == list(range(len(PROBLEMS)))
    assert {params.max_new_tokens for _, params in sampler.asked} == {7}


def test_the_seed_reaches_the_sampled_answers() -> None:
    seeds = []
    for seed in (0, 1):
        sampler = Scripted(script)
        evaluate_problems(sampler, PROBLEMS[:2], BYTES, max_new_tokens=7, seed=seed)
        seeds.append({params.seed for _, params in sampler.asked if params.temperature == 1})
    assert seeds[0] != seeds[1]


def test_greedy_accuracy_alone() -> None:
    found = greedy_accuracy(Scripted(script), PROBLEMS[:8], BYTES, max_new_tokens=24)
    assert found == {"accuracy": 0.75, "count": 8}


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # Newcombe 1998, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_by_published_values(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


@given(trials=st.integers(1, 2000), data=st.data())
def test_wilson_holds_the_share_and_mirrors(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    low, high = wilson(successes, trials)
    assert 0 <= low <= successes / trials + 1e-12 and successes / trials - 1e-12 <= high <= 1
    mirrored = wilson(trials - successes, trials)
    assert mirrored == pytest.approx((1 - high, 1 - low))
