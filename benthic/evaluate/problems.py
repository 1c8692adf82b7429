"""How well a model solves held-out problems, and whether it thinks first.

Greedy answers give the accuracy, with Wilson's interval at 95 %. One answer each at temperature 1
is split by whether it shows its working: the gate before reinforcement asks whether those that do
are right more often. An answer is right only in the right form, by the rule that rewards use.
"""

import math
from collections.abc import Sequence
from typing import Any

from benthic.data.tasks.problem import Problem, reward
from benthic.data.vocabulary import Vocabulary
from benthic.engine.engine import Samples
from benthic.engine.sampler import SamplingParams
from benthic.reason.sampler import Sampler

_BATCH = 512
EVALUATION = 2001  # offset on the seed of the sampled answers


def evaluate_problems(
    sampler: Sampler,
    problems: Sequence[Problem],
    vocabulary: Vocabulary,
    *,
    max_new_tokens: int,
    seed: int,
) -> dict[str, Any]:
    """Greedy and sampled (temperature 1, one answer each) figures on the given problems.

    Accuracies are shares of answers that are right in the right form; `greedy_interval` is Wilson's
    at 95 %.
    """
    first = SamplingParams(temperature=0, max_new_tokens=max_new_tokens)
    second = SamplingParams(max_new_tokens=max_new_tokens, seed=seed + EVALUATION)
    greedy, drawn = (answers(sampler, problems, vocabulary, p) for p in (first, second))
    right, paid = (_rewards(problems, found, vocabulary) for found in (greedy, drawn))
    thought, sampled = ([vocabulary.thought_tokens(a) for a in found] for found in (greedy, drawn))
    worked = [r for r, tokens in zip(paid, sampled, strict=True) if tokens]
    direct = [r for r, tokens in zip(paid, sampled, strict=True) if not tokens]
    return {
        "problems": len(problems),
        "greedy_accuracy": _mean(right),
        "greedy_interval": list(wilson(sum(right), len(right))),
        "thought_tokens": _mean(thought),
        "think_share": _mean([tokens > 0 for tokens in thought]),
        "sampled": {
            "worked_accuracy": _mean(worked),
            "worked_count": len(worked),
            "direct_accuracy": _mean(direct),
            "direct_count": len(direct),
            "think_share": len(worked) / len(drawn),
            "thought_tokens": _mean(sampled),
        },
        "example": _example(problems[0], greedy[0], vocabulary),
    }


def greedy_accuracy(
    sampler: Sampler, problems: Sequence[Problem], vocabulary: Vocabulary, *, max_new_tokens: int
) -> dict[str, float]:
    """Share of problems answered right, and how many they were."""
    params = SamplingParams(temperature=0, max_new_tokens=max_new_tokens)
    right = _rewards(problems, answers(sampler, problems, vocabulary, params), vocabulary)
    return {"accuracy": sum(right) / len(right), "count": len(right)}


def answers(
    sampler: Sampler,
    problems: Sequence[Problem],
    vocabulary: Vocabulary,
    params: SamplingParams,
) -> list[list[int]]:
    """One completion for each problem, in batches; the draws belong to the problem's place."""
    out: list[list[int]] = []
    for start in range(0, len(problems), _BATCH):
        batch = problems[start : start + _BATCH]
        keys = list(range(start, start + len(batch)))
        prompts = [p.prompt(vocabulary) for p in batch]
        samples: Samples = sampler.sample(prompts, params, keys)
        out += [samples.completion(row) for row in range(len(batch))]
    return out


def wilson(successes: float, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval for a share (Wilson 1927)."""
    z, share = 1.959964, successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def _rewards(
    problems: Sequence[Problem], found: list[list[int]], vocabulary: Vocabulary
) -> list[float]:
    return [reward(p, a, vocabulary)[0] for p, a in zip(problems, found, strict=True)]


def _example(problem: Problem, completion: list[int], vocabulary: Vocabulary) -> dict[str, Any]:
    reply = vocabulary.parse(completion)
    return {
        "question": problem.question.strip(),
        "thinking": reply.thinking,
        "answer": reply.answer,
        "expected": problem.answer,
        "right": bool(reward(problem, completion, vocabulary)[0]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
