"""One step of pretraining: what is taught, what is counted, and parts that add up to the whole."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benthic.config import PretrainConfig
from benthic.data.loader import Mixture, Rows
from benthic.data.tasks.running_total import RunningTotals
from benthic.data.text import Corpus
from benthic.data.tokenizer import ASSISTANT, BOS, EOS, USER
from benthic.data.vocabulary import BYTES
from benthic.model.config import ModelConfig
from benthic.model.transformer import LanguageModel, document_mask
from benthic.train.optimizer import Optimizer
from benthic.train.parallel import Ranks
from benthic.train.pretrain import pretrain_step, to_batch
from benthic.train.step import StepResult, TrainingError

T, ROWS = 48, 8
# A balance loss that can be seen, no clipping, no warm-up, biases at work.
CONFIG = PretrainConfig(
    rows=ROWS, micro_batches=1, clip=1e6, warmup_steps=0, balance_alpha=0.1, bias_rate=0.01
)
CPU = torch.device("cpu")
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


def mixture_of(text_share: float) -> Mixture:
    """Short documents, so that rows hold several of either kind."""
    draw = np.random.default_rng(0)
    texts = [draw.integers(97, 110, draw.integers(5, 25)).tolist() for _ in range(40)]
    stream = np.array([t for text in texts for t in [BOS, *text, EOS]], dtype=np.uint16)
    starts = np.flatnonzero(stream == BOS)
    return Mixture(
        corpus=Corpus("made up", 40, stream.size, "", stream, stream[:100], starts, BYTES),
        task=RunningTotals(),
        length=T,
        text_share=text_share,
        worked_share=0.5,
        seed=0,
    )


def rows_of(text_share: float) -> Rows:
    return mixture_of(text_share).rows(range(ROWS))


def step(
    model: LanguageModel, optimizer: Any, config: PretrainConfig = CONFIG, share: float = 0.5
) -> tuple[StepResult, dict[str, float], int]:
    return pretrain_step(model, optimizer, mixture_of(share), config, 0, Ranks())


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_give_the_gradient_of_the_whole(tiny: ModelConfig, seeded: Build, parts: int) -> None:
    """Look-ahead and balance included: the parts hold unequal numbers of targets."""
    found: list[dict[str, Tensor]] = []
    for split in (1, parts):
        model = seeded(tiny, std=0.1)
        recorder = Recorder(model)
        step(model, recorder, replace(CONFIG, micro_batches=split))
        found.append(recorder.gradients)
    for name, gradient in found[0].items():
        assert gradient.abs().max() > 1e-5, name
        assert (gradient - found[1][name]).abs().max() <= 1e-6, name


def test_parts_give_the_figures_of_the_whole(tiny: ModelConfig, seeded: Build) -> None:
    one, two = (
        step(model := seeded(tiny), Recorder(model), replace(CONFIG, micro_batches=n))
        for n in (1, 4)
    )
    assert one[0].loss == pytest.approx(two[0].loss, rel=1e-5)
    assert torch.equal(one[0].load, two[0].load)
    assert one[1] == pytest.approx(two[1], rel=1e-5) and one[2] == two[2]


def test_loss_is_the_weighted_sum_of_the_printed_parts(tiny: ModelConfig, seeded: Build) -> None:
    model = seeded(tiny)
    result, figures, _ = step(model, Recorder(model), replace(CONFIG, balance_alpha=0.0))
    assert result.loss == pytest.approx(figures["loss"] + 0.3 * figures["loss_mtp"], rel=1e-5)


def test_loss_is_the_mean_over_targets_one_by_one(tiny: ModelConfig, seeded: Build) -> None:
    """Each document alone, by itself: attention stays inside, positions are relative."""
    model, rows = seeded(tiny, std=0.1), rows_of(0.5)
    _, figures, _ = step(model, Recorder(model), replace(CONFIG, bias_rate=0.0))
    losses = []
    for tokens, documents in zip(rows.tokens, rows.documents, strict=True):
        for number in np.unique(documents):
            own = tokens[documents == number].tolist()
            with torch.no_grad():
                log_p = model.lm_head(model(torch.tensor([own])))[0].log_softmax(-1)
            asked = False
            for t, (token, following) in enumerate(pairwise(own)):
                asked = (asked or token == USER) and token != ASSISTANT
                if not asked or following == ASSISTANT:
                    losses.append(-log_p[t, following].item())
    assert figures["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_questions_are_not_targets() -> None:
    """Neither one token on nor two: their digits are drawn at random."""
    rows = rows_of(0.0)
    batch = to_batch(rows, CPU)
    for tokens, one, two in zip(rows.tokens, batch.targets, batch.ahead, strict=True):
        asked = False
        for t, token in enumerate(tokens):
            asked = (asked or token == USER) and token != ASSISTANT
            if asked and token != USER:
                assert t < 1 or not one[t - 1]
                assert t < 2 or not two[t - 2]


def test_answers_are_targets() -> None:
    """From <Assistant> to <eos>, every token."""
    rows = rows_of(0.0)
    batch, answers = to_batch(rows, CPU), 0
    for tokens, one in zip(rows.tokens, batch.targets, strict=True):
        answering = False
        for t in range(1, T + 1):
            answering = (answering or tokens[t - 1] == ASSISTANT) and tokens[t - 1] != EOS
            if answering:
                assert one[t - 1]
                answers += 1
    assert answers > 50


def test_all_of_a_text_is_targets() -> None:
    """All but the first token of a document, which nothing of it comes before."""
    rows = rows_of(1.0)
    batch = to_batch(rows, CPU)
    assert batch.is_text.all()
    assert np.array_equal(batch.targets.numpy(), rows.tokens[:, 1:] != BOS)
    assert batch.targets.float().mean() > 0.9


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_targets_never_cross_documents(share: float) -> None:
    rows = rows_of(share)
    batch = to_batch(rows, CPU)
    starts = rows.tokens == BOS
    assert starts.sum() > 2 * ROWS
    assert not (batch.targets.numpy() & starts[:, 1:]).any()
    assert not (batch.ahead.numpy() & (starts[:, 1:-1] | starts[:, 2:])).any()


def test_load_is_tokens_times_experts_a_token(model: LanguageModel) -> None:
    """Each router of the main model at T positions, the prediction block's at T - 1."""
    result, _, _ = step(model, Recorder(model), replace(CONFIG, micro_batches=2))
    assert result.load.shape == (3, 8)
    assert result.load.sum(dim=1).tolist() == [ROWS * T * 2, ROWS * T * 2, ROWS * (T - 1) * 2]


def test_pairs_are_those_the_mask_leaves(model: LanguageModel) -> None:
    _, _, pairs = step(model, Recorder(model))
    documents = torch.from_numpy(rows_of(0.5).documents[:, :-1])
    assert pairs == int((document_mask(documents) == 0).sum())


def test_biases_move_against_the_load_of_the_whole_batch(model: LanguageModel) -> None:
    before = [r.e_score_correction_bias.clone() for r in model.routers]
    config = replace(CONFIG, micro_batches=4)
    result, _, _ = step(model, Optimizer(model, weight_decay=0.0), config)
    for router, old, load in zip(model.routers, before, result.load.float(), strict=True):
        moved = router.e_score_correction_bias - old
        torch.testing.assert_close(moved, 0.01 * (load.mean() - load).sign(), atol=1e-6, rtol=0)


def test_clipping_scales_the_gradient_to_its_bound(tiny: ModelConfig, seeded: Build) -> None:
    model = seeded(tiny)
    recorder = Recorder(model)
    result, _, _ = step(model, recorder, replace(CONFIG, clip=0.01))
    clipped = torch.stack([g.norm() for g in recorder.gradients.values()]).norm().item()
    assert result.grad_norm > 0.1 and clipped == pytest.approx(0.01, rel=1e-3)


def test_a_loss_that_is_not_finite_moves_nothing(model: LanguageModel) -> None:
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan
    before = {n: p.clone() for n, p in model.state_dict().items()}
    with pytest.raises(TrainingError, match="not finite"):
        step(model, Optimizer(model, weight_decay=0.1))
    after = model.state_dict()
    assert all(torch.equal(before[n].nan_to_num(7), t.nan_to_num(7)) for n, t in after.items())


def test_a_few_steps_lower_the_loss(tiny: ModelConfig, seeded: Build) -> None:
    model = seeded(tiny, std=0.08)
    optimizer = Optimizer(model, weight_decay=0.0)
    losses = [step(model, optimizer, replace(CONFIG, clip=1.0))[1]["loss"] for _ in range(8)]
    assert losses[-1] < losses[0] - 0.5
