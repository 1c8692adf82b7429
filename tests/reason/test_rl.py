"""One step of reinforcement: rollouts, masks, ratios, and what the update does to the answers."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benthic.config import ReasonConfig
from benthic.data.tasks.problem import Problem, Split, Task
from benthic.data.tasks.running_total import RunningTotals
from benthic.data.tokenizer import EOS
from benthic.data.vocabulary import BYTES
from benthic.engine.engine import Engine, Samples
from benthic.engine.sampler import SamplingParams
from benthic.model.config import ModelConfig
from benthic.model.transformer import LanguageModel
from benthic.reason.rl import Environment, policy_log_probs, rl_step, roll_out, to_batch
from benthic.reason.sampler import Sampler
from benthic.train.optimizer import Optimizer
from benthic.train.parallel import Ranks

# Coins for rewards, since a random model is never right; no clipping of gradients; no warm-up.
CONFIG = ReasonConfig(
    prompts=4,
    group=4,
    micro_batches=1,
    max_new_tokens=12,
    clip=1e6,
    warmup_steps=0,
    reward="random",
)
CPU, TASK = torch.device("cpu"), RunningTotals()
Build = Callable[..., LanguageModel]


class Recorder:
    """Stands for the optimizer: keeps the gradients that a step would take, moves nothing."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.gradients: dict[str, Tensor] = {}

    def step(self, lr: float) -> None:
        for name, p in self.model.named_parameters():
            assert p.grad is not None
            self.gradients[name] = p.grad.clone()


class Impossible:
    """Problems whose answer no completion spells."""

    name = "impossible"

    def problems(self, split: Split, start: int, count: int, seed: int) -> Sequence[Problem]:
        return [Problem(f"{i}", "", "no digits" * 9) for i in range(start, start + count)]

    def ask(self, words: str) -> str:
        return words

    def invitation(self) -> str:
        return ""


def environment(sampler: Sampler, config: ReasonConfig = CONFIG, task: Task = TASK) -> Environment:
    return Environment(sampler=sampler, task=task, vocabulary=BYTES, config=config, seed=0)


def step(model: LanguageModel, optimizer: Any, config: ReasonConfig, **more: Any) -> Any:
    found = environment(Engine(model), config, **more)
    return rl_step(model, optimizer, found, 0, Ranks())


@pytest.fixture
def lively(tiny: ModelConfig, seeded: Build) -> LanguageModel:
    model = seeded(tiny, std=0.15)
    with torch.no_grad():
        model.lm_head.weight[EOS] *= 3
    return model


def test_gradient_does_not_depend_on_micro_batches(lively: LanguageModel) -> None:
    """The mean is over the tokens of the whole batch, whatever the parts and their padding."""
    found: list[dict[str, Tensor]] = []
    for parts in (1, 2, 4):
        recorder = Recorder(lively)
        step(lively, recorder, replace(CONFIG, micro_batches=parts))
        found.append(recorder.gradients)
    assert sum(g.abs().sum() for g in found[0].values()) > 0.1
    for other in found[1:]:
        for name, gradient in found[0].items():
            assert (gradient - other[name]).abs().max() <= 1e-6, name


def test_figures_do_not_depend_on_micro_batches(lively: LanguageModel) -> None:
    _, one, work = step(lively, Recorder(lively), CONFIG)
    _, two, same_work = step(lively, Recorder(lively), replace(CONFIG, micro_batches=2))
    assert one == pytest.approx(two, abs=1e-5) and work == same_work


def test_gradient_is_that_of_the_printed_loss(lively: LanguageModel) -> None:
    """Mean of -A log p over the answered tokens of kept groups: the same slope where r = 1."""
    recorder = Recorder(lively)
    step(lively, recorder, CONFIG)
    rollout = roll_out(environment(Engine(lively)), 0, 0)
    samples, loss, count = rollout.samples, torch.zeros(()), 0
    for row, rewards in enumerate(rollout.rewards.repeat_interleave(CONFIG.group, 0)):
        advantage = rollout.rewards.flatten()[row] - rewards.mean()
        if rewards.min() == rewards.max():
            continue
        tokens = torch.from_numpy(samples.tokens[row : row + 1, : samples.lengths[row]])
        log_p = lively.lm_head(lively(tokens[:, :-1])).log_softmax(-1)[0]
        for t in range(samples.prompt_lengths[row], samples.lengths[row]):
            loss, count = loss - advantage * log_p[t - 1, tokens[0, t]], count + 1
    (loss / count).backward()
    for name, p in lively.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(recorder.gradients[name], p.grad, atol=1e-5, rtol=1e-3)


def test_no_spread_means_no_step(model: LanguageModel) -> None:
    before = {name: p.clone() for name, p in model.state_dict().items()}
    result, shown, work = step(
        model,
        Optimizer(model, weight_decay=0.1),
        replace(CONFIG, reward="rule"),
        task=Impossible(),
    )
    assert result is None and shown["groups_kept"] == 0 and shown["reward"] == 0
    assert work.tokens > 0 and work.flops > 0  # the rollouts are still paid for
    assert all(torch.equal(before[n], p) for n, p in model.state_dict().items())


def test_ratio_is_one_at_the_first_update(lively: LanguageModel) -> None:
    result, shown, _ = step(lively, Recorder(lively), CONFIG)
    assert result is not None
    assert shown["ratio_max"] == pytest.approx(1, abs=1e-5) and shown["clip_share"] == 0


def test_ratios_move_with_the_weights(lively: LanguageModel) -> None:
    """The old policy is the sampler's record, not the model asked again."""
    rollout = roll_out(environment(Engine(lively)), 0, 0)
    batch = to_batch(rollout.samples, torch.zeros(16), CPU)
    with torch.no_grad():
        lively.lm_head.weight.mul_(1.1)
        ours, _ = policy_log_probs(lively, batch)
    assert (ours - batch.old)[batch.answered].abs().max() > 0.01


def test_the_update_replays_the_experts_of_the_sampler(lively: LanguageModel) -> None:
    """Also where the trainer's router, left alone, would now choose others."""
    rollout = roll_out(environment(Engine(lively)), 0, 0)
    batch = to_batch(rollout.samples, torch.zeros(16), CPU)
    for router in lively.routers:
        router.e_score_correction_bias.copy_(torch.arange(8.0))  # the last two, for every token
    with torch.no_grad():
        _, routing = policy_log_probs(lively, batch)
    assert torch.equal(routing.chosen(), batch.replay)
    assert (batch.replay < 6).any()


def test_an_update_favours_the_rewarded_answers(lively: LanguageModel) -> None:
    rollout = roll_out(environment(Engine(lively)), 0, 0)
    centred = (rollout.rewards - rollout.rewards.mean(1, keepdim=True)).flatten()
    batch = to_batch(rollout.samples, centred, CPU)
    step(lively, Optimizer(lively, weight_decay=0.0), replace(CONFIG, learning_rate=1e-4))
    with torch.no_grad():
        moved = (policy_log_probs(lively, batch)[0] - batch.old) * batch.answered
    assert (moved.sum(1) * centred).sum() > 0


def test_router_biases_rest(lively: LanguageModel) -> None:
    before = [r.e_score_correction_bias.clone() for r in lively.routers]
    step(lively, Optimizer(lively, weight_decay=0.0), CONFIG)
    after = [r.e_score_correction_bias for r in lively.routers]
    assert all(torch.equal(b, a) for b, a in zip(before, after, strict=True))


def test_load_counts_the_answered_tokens(lively: LanguageModel) -> None:
    result, _, _ = step(lively, Recorder(lively), CONFIG)
    rollout = roll_out(environment(Engine(lively)), 0, 0)
    answered = int((rollout.samples.lengths - rollout.samples.prompt_lengths).sum())
    assert result.load.sum(dim=1).tolist() == [answered * 2] * 2


def test_random_reward_knows_nothing_of_the_answers(tiny: ModelConfig, seeded: Build) -> None:
    one, two = (roll_out(environment(Engine(seeded(tiny, seed=s))), 3, 0) for s in (1, 2))
    assert not np.array_equal(one.samples.tokens[:, 19:24], two.samples.tokens[:, 19:24])
    assert torch.equal(one.rewards, two.rewards)


def test_random_reward_is_a_fair_coin_that_changes_with_the_step(model: LanguageModel) -> None:
    many = replace(CONFIG, prompts=256, max_new_tokens=1)
    one, two = (roll_out(environment(Engine(model), many), s, 0).rewards for s in (0, 1))
    assert set(one.flatten().tolist()) == {0.0, 1.0}
    assert one.mean().item() == pytest.approx(0.5, abs=0.05)
    assert not torch.equal(one, two)


def test_rule_rewards_are_the_right_answers() -> None:
    """A sampler that knows the answers, every other one malformed."""

    class Knows:
        def sample(
            self,
            prompts: Sequence[Sequence[int]],
            params: SamplingParams,
            keys: Sequence[int] | None = None,
        ) -> Samples:
            known = {tuple(p.prompt(BYTES)): p for p in TASK.problems("train", 0, 4, 1001)}
            rows = []
            for i, prompt in enumerate(prompts):
                whole = known[tuple(prompt)].document(BYTES, worked=i % 2 == 0)
                rows.append(whole if i % 4 < 2 else [*whole, 65])
            return samples_of(prompts, rows)

    rollout = roll_out(environment(Knows(), replace(CONFIG, reward="rule")), 0, 0)
    assert rollout.right.tolist() == [[1, 1, 1, 1]] * 4
    assert rollout.rewards.tolist() == [[1, 1, 0, 0]] * 4
    assert rollout.thinks == 8


def samples_of(prompts: Sequence[Sequence[int]], rows: list[list[int]]) -> Samples:
    S = max(map(len, rows))
    tokens = np.array([[*row, *[EOS] * (S - len(row))] for row in rows], dtype=np.int64)
    return Samples(
        tokens,
        np.array([len(p) for p in prompts], dtype=np.int64),
        np.array([len(r) for r in rows], dtype=np.int64),
        np.zeros(tokens.shape, dtype=np.float32),
        np.zeros((*tokens.shape, 2, 2), dtype=np.int32),
    )


def test_batch_marks_exactly_the_completions() -> None:
    """Position t predicts token t + 1: from the prompt's last token to the one before the end."""
    samples = samples_of([[1, 2, 3], [1]], [[1, 2, 3, 9, EOS], [1, 8, 7]])
    samples.experts[1, 2:] = -1
    batch = to_batch(samples, torch.zeros(2), CPU)
    assert batch.answered.tolist() == [[False, False, True, True], [True, True, False, False]]
    assert batch.replay.shape == (2, 4, 2, 2) and batch.replay.min() == 0
