"""Decoding speed against transformers' `generate`, same weights, same prompts, fp32, end of text
off.

Claim: at least 4 times the tokens a second at batch 1 and at batch 64. The peer runs with each of
its expert implementations, and the fastest counts; both sides try one thread and all cores. Runs
alternate; the ratio is pair by pair. Greedy tokens must agree, or the comparison says nothing.

    python benchmarks/decode.py [RUN_FOLDER]
"""

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from machine import heading, spread

from benthic.config import load
from benthic.data.tasks.running_total import RunningTotals
from benthic.data.vocabulary import BYTES
from benthic.engine.engine import Engine
from benthic.engine.sampler import SamplingParams
from benthic.folder import RunFolder
from benthic.model.export import export_hub
from benthic.model.transformer import LanguageModel, initialise
from benthic.train.parallel import available_cores
from benthic.weights import load_run

NEW, TRIALS, RUNS = 64, 5, 7


def model_of(arguments: list[str]) -> LanguageModel:
    """A run's weights, or random ones of the laptop recipe."""
    if arguments:
        return load_run(RunFolder(Path(arguments[0]).absolute()))[0]
    model = LanguageModel(load("laptop").model)
    initialise(model, torch.Generator().manual_seed(0))
    return model


def main() -> None:
    from transformers import DeepseekV3ForCausalLM, logging

    logging.set_verbosity_error()  # the look-ahead block is told to be left out, three times
    logging.disable_progress_bar()
    heading("transformers")
    model = model_of(sys.argv[1:])
    engine = Engine(model, record_experts=False)
    params = SamplingParams(temperature=0, max_new_tokens=NEW, ignore_eos=True)
    with tempfile.TemporaryDirectory() as folder:
        export_hub(model, Path(folder))
        peers = {
            name: DeepseekV3ForCausalLM.from_pretrained(
                folder, dtype=torch.float32, experts_implementation=name
            ).eval()
            for name in ("eager", "batched_mm", "grouped_mm")
        }
    for batch in (1, 64):
        prompts = [p.prompt(BYTES) for p in RunningTotals().problems("held_out", 0, batch, 5)]
        tokens = torch.tensor(prompts)

        def ours(threads: int, prompts: list[list[int]] = prompts) -> tuple[float, list[list[int]]]:
            torch.set_num_threads(threads)
            began = time.perf_counter()
            samples = engine.sample(prompts, params)
            seconds = time.perf_counter() - began
            return len(prompts) * NEW / seconds, samples.tokens.tolist()

        def theirs(
            name: str, threads: int, tokens: torch.Tensor = tokens
        ) -> tuple[float, list[list[int]]]:
            torch.set_num_threads(threads)
            began = time.perf_counter()
            out = peers[name].generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=NEW,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
            seconds = time.perf_counter() - began
            return len(tokens) * NEW / seconds, out.tolist()

        cores = sorted({1, available_cores()})
        own = {n: median(ours(n)[0] for _ in range(TRIALS)) for n in cores}
        mine = max(own, key=lambda n: own[n])
        for n, rate in own.items():
            print(f"batch {batch:2}: benthic {'':15} {n} threads {rate:8.0f} tokens/s")
        trials = {
            (n, t): median(theirs(n, t)[0] for _ in range(TRIALS)) for n in peers for t in cores
        }
        for (name, threads), rate in trials.items():
            print(f"batch {batch:2}: transformers {name:10} {threads} threads {rate:8.0f} tokens/s")
        name, threads = max(trials, key=lambda key: trials[key])
        assert ours(mine)[1] == theirs(name, threads)[1], "greedy tokens differ"
        pairs = [(ours(mine)[0], theirs(name, threads)[0]) for _ in range(RUNS)]
        print(
            f"batch {batch:2}: benthic, {mine} threads "
            f"{spread([a for a, _ in pairs], ' tokens/s')}; "
            f"transformers, {name}, {threads} threads {spread([b for _, b in pairs], ' tokens/s')}"
        )
        print(f"batch {batch:2}: ratio {spread([a / b for a, b in pairs])} (reach: 4)")


if __name__ == "__main__":
    main()
