"""Reinforcement by reward alone (R1-Zero): sample groups, judge by rule, step.

The update replays the experts that the sampler used, weighing them by its own fresh scores, and
takes the sampler's log-probabilities for the old policy: nothing of the sampler's side is
recomputed. Router biases rest, so equal weights mean equal policies.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benthic.config import ReasonConfig
from benthic.cost.network.flops import causal_pairs, training_flops
from benthic.data.tasks.problem import Problem, Task, reward
from benthic.data.vocabulary import Vocabulary
from benthic.engine.engine import Samples
from benthic.engine.sampler import SamplingParams, uniforms
from benthic.model.config import ModelConfig
from benthic.model.moe import Routing
from benthic.model.transformer import LanguageModel, token_log_probs
from benthic.reason.loss import advantages, clipped_objective
from benthic.reason.sampler import Sampler
from benthic.train import schedule
from benthic.train.optimizer import Optimizer
from benthic.train.parallel import Ranks
from benthic.train.step import Part, StepResult, expert_load, train_step

# Streams of random numbers, told apart by an offset on the seed.
PROBLEMS, ANSWERS, COINS = 1001, 1002, 1003


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What asks, who answers, and how it is judged; the same for every step of a run.

    `sampler` samples from the policy that is trained: from its copy in another precision where
    `rl_step` is given one. `seed` is the run's.
    """

    sampler: Sampler
    task: Task
    vocabulary: Vocabulary
    config: ReasonConfig
    seed: int


@dataclass(frozen=True)
class Rollout:
    """Judged samples of one part: `rewards` and `right` float32 [P, G] on the CPU."""

    samples: Samples
    rewards: Tensor
    right: Tensor
    thought: float
    thinks: float


@dataclass(frozen=True)
class Work:
    """Tokens sampled, prompts included, and FLOPs of sampling and update, over all ranks."""

    tokens: int
    flops: int


class RolloutSums(NamedTuple):
    """Over the answers of a batch, of all ranks; float64, in which whole numbers stay exact."""

    answers: float
    rewards: float
    right: float
    thought: float
    """tokens of reasoning"""
    thinking: float
    """answers that reason"""
    groups_kept: float
    """with a spread of rewards"""
    tokens: float
    """answered, in groups kept: what the loss is a mean over"""
    fed: float
    """tokens sampled, prompts included"""
    flops: float

    @property
    def work(self) -> Work:
        return Work(int(self.fed), int(self.flops))

    def shown(self, config: ReasonConfig) -> dict[str, float]:
        """Means over the answers, for the metrics."""
        return {
            "reward": self.rewards / self.answers,
            "accuracy": self.right / self.answers,
            "thought_tokens": self.thought / self.answers,
            "think_share": self.thinking / self.answers,
            "groups_kept": self.groups_kept / config.prompts,
        }


@dataclass(frozen=True)
class RlBatch:
    """One part: tokens [B, T]; answered bool and old fp32 [B, T - 1]; replay [B, T - 1, M, K]."""

    tokens: Tensor
    answered: Tensor
    old: Tensor
    replay: Tensor
    advantage: Tensor

    @property
    def counted(self) -> Tensor:
        """Answered tokens of groups that have a spread, bool [B, T - 1]."""
        return self.answered & (self.advantage != 0)[:, None]


def rl_step(
    model: LanguageModel,
    optimizer: Optimizer,
    environment: Environment,
    step: int,
    ranks: Ranks,
    *,
    twin: LanguageModel | None = None,
) -> tuple[StepResult | None, dict[str, float], Work]:
    """One batch of groups and one update from it; none where no group has spread.

    `twin` is the policy in another precision, if there is one: it is set to the model's weights
    first, the update differentiates it, and the sampler should sample from it.

    Returns the step's result, its figures (means over the batch's answers), and the work done.
    """
    config = environment.config
    if twin is not None:
        twin.load_state_dict(model.state_dict())
    batches, sums = _sample(environment, step, ranks, model)
    if not sums.tokens:
        return None, sums.shown(config), sums.work
    ratios: list[float] = []

    def part(number: int) -> Part:
        done, highest = _part(twin or model, batches[number], sums.tokens, config)
        ratios.append(highest)
        return done

    result = train_step(
        model,
        optimizer,
        part,
        config.micro_batches,
        lr=schedule.learning_rate(step, config),
        clip=config.clip,
        bias_rate=0.0,
        ranks=ranks,
        twin=twin,
    )
    more = {"clip_share": result.sums[0] / sums.tokens, "ratio_max": max(ratios)}
    return result, sums.shown(config) | more, sums.work


def _sample(
    environment: Environment, step: int, ranks: Ranks, model: LanguageModel
) -> tuple[dict[int, RlBatch], RolloutSums]:
    """This rank's batches by the number of their part, and sums over all parts of the step."""
    parts, device = environment.config.micro_batches, model.cos.device
    batches: dict[int, RlBatch] = {}
    count = torch.zeros(len(RolloutSums._fields), dtype=torch.float64)
    rollouts = ranks.each(lambda number: roll_out(environment, step, number), parts)
    for number, rollout in zip(ranks.deal(parts), rollouts, strict=True):
        advantage, kept = advantages(rollout.rewards)
        batch = batches[number] = to_batch(rollout.samples, advantage.flatten(), device)
        figures = RolloutSums(
            answers=rollout.rewards.numel(),
            rewards=rollout.rewards.sum().item(),
            right=rollout.right.sum().item(),
            thought=rollout.thought,
            thinking=rollout.thinks,
            groups_kept=kept.sum().item(),
            tokens=batch.counted.sum().item(),
            fed=rollout.samples.lengths.sum(),
            flops=_flops(model.config, rollout.samples),
        )
        count += torch.tensor(figures, dtype=torch.float64)
    count = count.to(device)
    ranks.sum([count])
    return batches, RolloutSums(*count.tolist())


def roll_out(environment: Environment, step: int, part: int) -> Rollout:
    """Groups of answers to this part's problems, judged; the same on any number of ranks."""
    task, vocabulary = environment.task, environment.vocabulary
    config, seed = environment.config, environment.seed
    prompts = config.prompts // config.micro_batches
    first = step * config.prompts + part * prompts
    problems = task.problems("train", first, prompts, seed + PROBLEMS)
    group: list[Problem] = [p for p in problems for _ in range(config.group)]
    keys = list(range(first * config.group, (first + prompts) * config.group))
    params = SamplingParams(max_new_tokens=config.max_new_tokens, seed=seed + ANSWERS)
    samples = environment.sampler.sample([p.prompt(vocabulary) for p in group], params, keys)
    answers = [samples.completion(row) for row in range(len(group))]
    judged = [reward(p, a, vocabulary) for p, a in zip(group, answers, strict=True)]
    rewards = torch.tensor([r for r, _ in judged])
    if config.reward == "random":
        coins = uniforms(seed + COINS, keys, 1)[:, 0]
        rewards = torch.from_numpy((coins < 0.5).astype(np.float32))
    right = torch.tensor([float(ok) for _, ok in judged])
    lengths = [vocabulary.thought_tokens(a) for a in answers]
    shape = (prompts, config.group)
    return Rollout(
        samples,
        rewards.view(shape),
        right.view(shape),
        float(sum(lengths)),
        float(sum(n > 0 for n in lengths)),
    )


def to_batch(samples: Samples, advantage_B: Tensor, device: torch.device) -> RlBatch:
    """Shift samples into inputs and targets; position t predicts token t + 1."""
    tokens = torch.from_numpy(samples.tokens)
    at = torch.arange(1, tokens.shape[1])
    start = torch.from_numpy(samples.prompt_lengths)[:, None]
    end = torch.from_numpy(samples.lengths)[:, None]
    # Padding was never fed: any experts do, it is neither attended to nor counted.
    replay = torch.from_numpy(samples.experts[:, :-1].astype(np.int64)).clamp(min=0)
    return RlBatch(
        tokens.to(device),
        ((at >= start) & (at < end)).to(device),
        torch.from_numpy(samples.log_probs[:, 1:]).to(device),
        replay.to(device),
        advantage_B.to(device),
    )


def policy_log_probs(model: LanguageModel, batch: RlBatch) -> tuple[Tensor, Routing]:
    """The trainer's log-probabilities [B, T - 1] of the samples, under the sampler's experts."""
    routing = Routing(replay=batch.replay)
    hidden = model(batch.tokens[:, :-1], routing=routing)
    return token_log_probs(model, hidden, batch.tokens[:, 1:]), routing


def _flops(config: ModelConfig, samples: Samples) -> int:
    """What sampling took, and the update on all of it."""
    fed = samples.lengths - 1
    pairs = sum(causal_pairs(int(n)) for n in fed)
    return samples.flops + training_flops(config, tokens=int(fed.sum()), pairs=pairs)


def _part(
    model: LanguageModel, batch: RlBatch, tokens: float, config: ReasonConfig
) -> tuple[Part, float]:
    new, routing = policy_log_probs(model, batch)
    ratio = (new - batch.old).exp()
    counted = batch.counted
    objective = clipped_objective(ratio, batch.advantage, config.clip_low, config.clip_high)
    loss = -(objective * counted).sum() / tokens
    outside = (ratio < 1 - config.clip_low) | (ratio > 1 + config.clip_high)
    load = expert_load([i[batch.answered] for i in routing.ids], model.config.n_routed_experts)
    sums = torch.stack([(outside & counted).sum()]).double()
    highest = torch.where(counted, ratio.detach(), 0).max().item()
    return Part(loss, load, sums), highest
