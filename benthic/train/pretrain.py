"""Pretraining: next token, the token after it (V3 section 2.2), and the balance of the experts.

Loss = main + lambda * look-ahead + alpha * sequence-wise balance (V3 eq. 20, 24, 25). Targets stay
inside a document and leave questions out: their digits are drawn at random, there is nothing to
learn in them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from benthic.config import PretrainConfig
from benthic.data.loader import Mixture, Rows
from benthic.model.moe import Routing
from benthic.model.transformer import LanguageModel, document_mask, token_log_probs
from benthic.train import schedule
from benthic.train.optimizer import Optimizer
from benthic.train.parallel import Ranks
from benthic.train.step import Part, StepResult, expert_load, train_step


@dataclass(frozen=True)
class Batch:
    """One part on its device: tokens [B, T + 1]; targets and ahead: bool [B, T] and [B, T - 1]."""

    tokens: Tensor
    documents: Tensor
    targets: Tensor
    ahead: Tensor
    is_text: Tensor


def to_batch(rows: Rows, device: torch.device) -> Batch:
    tokens = torch.from_numpy(rows.tokens).to(device)
    documents = torch.from_numpy(rows.documents).to(device)
    learnt = ~torch.from_numpy(rows.asked).to(device)
    targets = learnt[:, 1:] & (documents[:, 1:] == documents[:, :-1])
    ahead = learnt[:, 2:] & (documents[:, 2:] == documents[:, :-2])
    return Batch(tokens, documents, targets, ahead, torch.from_numpy(rows.is_text).to(device))


def pretrain_step(
    model: LanguageModel,
    optimizer: Optimizer,
    mixture: Mixture,
    config: PretrainConfig,
    step: int,
    ranks: Ranks,
) -> tuple[StepResult, dict[str, float], int]:
    """Step number `step` on rows step * rows .. (step + 1) * rows - 1.

    Returns the step's result, figures (means over the batch, nats), and the query-key pairs
    attended to.
    """
    size = config.rows // config.micro_batches
    device = model.cos.device
    batches: dict[int, Batch] = {}
    for number in ranks.deal(config.micro_batches):
        first = step * config.rows + number * size
        batches[number] = to_batch(mixture.rows(range(first, first + size)), device)
    counts = torch.zeros(2, dtype=torch.float64, device=device)
    for batch in batches.values():
        counts += torch.stack([batch.targets.sum(), batch.ahead.sum()])
    ranks.sum([counts])
    lam = schedule.mtp_weight(step, config)

    def part(number: int) -> Part:
        return _part(model, batches[number], counts.clamp(min=1), lam, config)

    result = train_step(
        model,
        optimizer,
        part,
        config.micro_batches,
        lr=schedule.learning_rate(step, config),
        clip=config.clip,
        bias_rate=schedule.bias_rate(step, config),
        ranks=ranks,
    )
    main, ahead, text, text_count, pairs = result.sums
    problem_count = counts[0].item() - text_count
    figures = {"loss": main / max(counts[0].item(), 1)}
    if model.config.num_nextn_predict_layers:
        figures["loss_mtp"] = ahead / max(counts[1].item(), 1)
    if text_count:
        figures["loss_text"] = text / text_count
    if problem_count:
        figures["loss_problems"] = (main - text) / problem_count
    return result, figures, int(pairs)


def _part(
    model: LanguageModel, batch: Batch, counts: Tensor, lam: float, config: PretrainConfig
) -> Part:
    inputs, following = batch.tokens[:, :-1], batch.tokens[:, 1:]
    mask = document_mask(batch.documents[:, :-1])
    routing = Routing(balance_loss=config.balance_alpha > 0)
    hidden = model(inputs, mask=mask, routing=routing)
    nll = -token_log_probs(model, hidden, following) * batch.targets
    loss = nll.sum() / counts[0].float()
    further = torch.zeros((), device=nll.device)
    if model.config.num_nextn_predict_layers:
        # Always run: with lambda 0 the block trains on nothing but its experts' load stays known.
        seen = mask[:, :, :-1, :-1]
        deeper = model.look_ahead(hidden[:, :-1], following[:, :-1], mask=seen, routing=routing)
        further = (-token_log_probs(model, deeper, following[:, 1:]) * batch.ahead).sum()
        loss = loss + lam * further / counts[1].float()
    if routing.balance:
        share = config.micro_batches
        loss = loss + config.balance_alpha * torch.stack(routing.balance).sum() / share
    load = expert_load(routing.ids, model.config.n_routed_experts)
    text = nll[batch.is_text].sum()
    text_targets, pairs = batch.targets[batch.is_text].sum(), (mask == 0).sum()
    sums = torch.stack([nll.sum(), further, text, text_targets, pairs])
    return Part(loss, load, sums.detach().double())
