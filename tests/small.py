"""A recipe that runs in seconds, its text, and what several files ask of a finished run."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benthic.config import Recipe, load
from benthic.console import Console
from benthic.cost.ledger.ledger import Entry, Ledger, ledger_path
from benthic.data.hub_tokenizer import save_tokenizer, train_bpe
from benthic.data.loader import Mixture
from benthic.data.tasks.running_total import RunningTotals
from benthic.data.text import load_corpus
from benthic.data.tokenizer import SPECIALS
from benthic.folder import RunFolder
from benthic.model.transformer import LanguageModel, initialise
from benthic.run import run
from benthic.train import checkpoint
from benthic.train.optimizer import Optimizer
from benthic.train.parallel import Ranks
from benthic.train.pretrain import pretrain_step

# Coins for rewards: an untrained model is never right, and without spread nothing would be learnt.
SMALL = (
    "model.hidden_size=16",
    "model.intermediate_size=16",
    "model.moe_intermediate_size=8",
    "model.num_hidden_layers=2",
    "model.num_attention_heads=2",
    "model.kv_lora_rank=8",
    "model.qk_nope_head_dim=4",
    "model.qk_rope_head_dim=4",
    "model.v_head_dim=4",
    "model.n_routed_experts=4",
    "data.sequence_length=40",
    "pretrain.steps=6",
    "pretrain.rows=4",
    "pretrain.warmup_steps=1",
    "pretrain.checkpoint_every=2",
    "reason.steps=4",
    "reason.prompts=4",
    "reason.group=4",
    "reason.max_new_tokens=18",
    "reason.warmup_steps=1",
    "reason.reward=random",
    "reason.gate_gap=-1",
    "reason.gate_share=0",
    "reason.checkpoint_every=2",
    "evaluate.problems=8",
    "evaluate.unseen=0",
    "evaluate.text_bytes=600",
)


def text_in(folder: Path, *, seed: int = 0, size: int = 24_000) -> Path:
    """A file of made-up words."""
    path = folder / f"words-{seed}.txt"
    letters = np.random.default_rng(seed).integers(ord("a"), ord("k"), size).astype(np.uint8)
    letters[::6] = ord(" ")
    path.write_bytes(letters.tobytes())
    return path


def tokenizer_in(
    folder: Path, text: Path, *, size: int = 400, bos: bool = True, layout: Sequence[str] = ()
) -> Path:
    """A folder as the Hub has them: a BPE learnt from a text; the layout's specials are its last.

    Unless `bos`, nothing is put before a text.
    """
    hub = train_bpe([text.read_text()], size, [*SPECIALS[:2], *layout])
    save_tokenizer(replace(hub, adds_bos=bos), folder)
    return folder


def small(text: Path, *overrides: str) -> Recipe:
    return load("laptop", [*SMALL, f"data.paths={json.dumps([str(text)])}", *overrides])


def run_small(recipe: Recipe, folder: Path, **options: Any) -> RunFolder:
    """Bring a run to its end in this process, silently."""
    torch.set_num_threads(1)
    place = RunFolder(folder)
    run(recipe, place, Ranks(), Console(quiet=True), **options)
    return place


def state_of(folder: Path, stage: str) -> dict[str, Tensor]:
    """Weights and optimizer at the stage's last checkpoint."""
    checkpoints = folder / "checkpoints"
    last = checkpoint.steps_of(checkpoints, stage)[-1]
    return checkpoint.load(checkpoint.path_of(checkpoints, stage, last)).tensors


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(t, other[k]) for k, t in one.items())


def bills(folder: Path) -> list[Entry]:
    with Ledger(ledger_path()) as ledger:
        return ledger.entries(folder)


def benthic(
    *words: str | Path, stdin: str = "", **options: Any
) -> subprocess.CompletedProcess[str]:
    """The command, as a user gives it."""
    return subprocess.run(
        [sys.executable, "-m", "benthic", *map(str, words)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **{"env": environment(), **options},
    )


def environment(**more: str) -> dict[str, str]:
    """Wide lines; threads that wait do not spin, for a busy machine has no core to spare."""
    return {**os.environ, "COLUMNS": "200", "OMP_WAIT_POLICY": "PASSIVE", **more}


def settings(*more: str) -> list[str]:
    """The small recipe as words of the command."""
    return [word for override in (*SMALL, *more) for word in ("--set", override)]


def trainer(
    text: Path, *overrides: str
) -> tuple[LanguageModel, Optimizer, Callable[[int], dict[str, Any]]]:
    """A fresh small model, its optimizer, and its pretraining step."""
    torch.set_num_threads(1)
    recipe = small(text, *overrides)
    model = LanguageModel(recipe.model)
    initialise(model, torch.Generator().manual_seed(0))
    optimizer = Optimizer(model, weight_decay=0.0)
    mixture = Mixture(
        corpus=load_corpus([text]),
        task=RunningTotals(),
        length=recipe.data.sequence_length,
        text_share=0.5,
        worked_share=0.5,
        seed=0,
    )

    def step(number: int) -> dict[str, Any]:
        done, figures, _ = pretrain_step(
            model, optimizer, mixture, recipe.pretrain, number, Ranks()
        )
        return {"loss": done.loss, **figures}

    return model, optimizer, step
