"""How well a model solves held-out problems, and whether it thinks first."""

import math
from collections.abc import Sequence
from typing import Any

from benthic.data.tasks.problem import Problem, reward
from benthic.data.tokenizer import parse, thought_tokens
from benthic.engine.engine import Samples
from benthic.engine.sampler import SamplingParams
from benthic.reason.sampler import Sampler

_BATCH = 512
EVALUATION = 2001  # offset on the seed of the sampled answers


def evaluate_problems(
    sampler: Sampler,
    problems: Sequence[Problem],
    *,
    max_new_tokens: int,
    seed: int,
) -> dict[str, Any]:
    """Greedy and sampled (temperature 1, one answer each) figures on the given problems.

    Accuracies are shares of answers that are right in the right form; `greedy_interval` is Wilson's
    at 95 %.
    """
    greedy = answers(
        sampler, problems, SamplingParams(temperature=0, max_new_tokens=max_new_tokens)
    )
    drawn = answers(
        sampler, problems, SamplingParams(max_new_tokens=max_new_tokens, seed=seed + EVALUATION)
    )
    right = [reward(p, a)[0] for p, a in zip(problems, greedy, strict=True)]
    worked = [reward(p, a)[0] for p, a in zip(problems, drawn, strict=True) if thought_tokens(a)]
    direct = [
        reward(p, a)[0] for p, a in zip(problems, drawn, strict=True) if not thought_tokens(a)
    ]
    return {
        "problems": len(problems),
        "greedy_accuracy": _mean(right),
        "greedy_interval": list(wilson(sum(right), len(right))),
        "thought_tokens": _mean([thought_tokens(a) for a in greedy]),
        "think_share": _mean([thought_tokens(a) > 0 for a in greedy]),
        "sampled": {
            "worked_accuracy": _mean(worked),
            "worked_count": len(worked),
            "direct_accuracy": _mean(direct),
            "direct_count": len(direct),
            "think_share": len(worked) / len(drawn),
            "thought_tokens": _mean([thought_tokens(a) for a in drawn]),
        },
        "example": _example(problems[0], greedy[0]),
    }


def greedy_accuracy(
    sampler: Sampler, problems: Sequence[Problem], *, max_new_tokens: int
) -> dict[str, float]:
    """Share of problems answered right, and how many they were."""
    greedy = answers(
        sampler, problems, SamplingParams(temperature=0, max_new_tokens=max_new_tokens)
    )
    right = [reward(p, a)[0] for p, a in zip(problems, greedy, strict=True)]
    return {"accuracy": sum(right) / len(right), "count": len(right)}


def answers(
    sampler: Sampler, problems: Sequence[Problem], params: SamplingParams
) -> list[list[int]]:
    """One completion for each problem, in batches; the draws belong to the problem's place."""
    out: list[list[int]] = []
    for start in range(0, len(problems), _BATCH):
        batch = problems[start : start + _BATCH]
        keys = list(range(start, start + len(batch)))
        samples: Samples = sampler.sample([p.prompt() for p in batch], params, keys)
        out += [samples.completion(row) for row in range(len(batch))]
    return out


def wilson(successes: float, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval for a share (Wilson 1927)."""
    z, share = 1.959964, successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def _example(problem: Problem, completion: list[int]) -> dict[str, Any]:
    reply = parse(completion)
    return {
        "question": problem.question.strip(),
        "thinking": reply.thinking,
        "answer": reply.answer,
        "expected": problem.answer,
        "right": bool(reward(problem, completion)[0]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
