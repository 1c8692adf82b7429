"""The engine's log-probabilities against the trainer's: same weights and tokens, replayed experts.

Claim: within 1e-5 over 100,000 tokens sampled at temperature 1, with nothing of the sampler's
side recomputed, in the precision that the recipe reinforces in; the other precision is printed
beside it. Also printed: how many expert choices differ when the trainer's routers choose for
themselves.

    python benchmarks/sampler_trainer.py RUN_FOLDER [TOKENS]
"""

import copy
import sys
from pathlib import Path

import torch
from machine import heading

from benthic.data.tasks.running_total import RunningTotals
from benthic.data.vocabulary import BYTES
from benthic.engine.engine import Engine
from benthic.engine.sampler import SamplingParams
from benthic.folder import RunFolder
from benthic.model.moe import Routing
from benthic.model.transformer import LanguageModel
from benthic.reason.rl import policy_log_probs, to_batch
from benthic.weights import load_run

ROWS = 256


@torch.no_grad()
def compare(model: LanguageModel, wanted: int) -> float:
    engine, gaps, differ, choices, rows = Engine(model), [], 0, 0, 0
    while sum(g.numel() for g in gaps) < wanted:
        prompts = [p.prompt(BYTES) for p in RunningTotals().problems("train", rows, ROWS, 77)]
        keys = list(range(rows, rows + ROWS))
        samples = engine.sample(prompts, SamplingParams(max_new_tokens=24, seed=7), keys)
        batch = to_batch(samples, torch.zeros(ROWS), torch.device("cpu"))
        trained, _ = policy_log_probs(model, batch)
        gaps.append((trained - batch.old)[batch.answered].abs())
        routing = Routing()
        model(batch.tokens[:, :-1], routing=routing)
        fed = torch.from_numpy(samples.experts[:, :-1, 0, 0] >= 0)
        free, kept = routing.chosen()[fed].sort().values, batch.replay[fed].sort().values
        differ += int((free != kept).any(-1).sum())
        choices += free.shape[0] * free.shape[1]
        rows += ROWS
    gap = torch.cat(gaps).float()
    middle, high = gap.quantile(torch.tensor([0.5, 0.9999])).tolist()
    print(
        f"  {gap.numel():,} tokens: median {middle:.1e}, 99.99 % {high:.1e}, "
        f"largest {gap.max().item():.2e}"
    )
    print(f"  expert choices that differ without replay: {differ} of {choices:,}")
    return gap.max().item()


def main() -> None:
    heading()
    folder = RunFolder(Path(sys.argv[1]).absolute())
    wanted = int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
    model, stage = load_run(folder)
    own = folder.recipe().reason.precision
    print(
        f"weights after {stage}; the recipe reinforces in {own}; largest difference (reach: 1e-5)"
    )
    worst = {}
    for precision in ("fp32", "fp64"):
        print(precision)
        worst[precision] = compare(
            copy.deepcopy(model).double() if precision == "fp64" else model, wanted
        )
    sys.exit(worst[own] > 1e-5)


if __name__ == "__main__":
    main()
