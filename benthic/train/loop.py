"""The loop that every training stage runs in: resume, step, record, save, stop when asked.

Pretraining and reinforcement differ in `Stage.step` alone. Random numbers are functions of the step
and the seed, so a checkpoint holds tensors and a count, and a run that was stopped or killed ends
with the same bits as one that was not. All ranks step; the first writes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from benthic.model.transformer import LanguageModel
from benthic.train import checkpoint, metrics
from benthic.train.guard import Interrupted, StopSignal
from benthic.train.optimizer import Optimizer
from benthic.train.parallel import Ranks


@dataclass(frozen=True)
class Stage:
    """A training stage: `step(i)` trains step i and returns its figures for the metrics."""

    name: str
    steps: int
    checkpoint_every: int
    step: Callable[[int], dict[str, Any]]


def finished(folder: Path, name: str, steps: int) -> bool:
    """Whether the stage's last checkpoint is its end."""
    done = checkpoint.steps_of(folder / "checkpoints", name)
    return bool(done) and done[-1] >= steps


def train(
    stage: Stage,
    folder: Path,
    model: LanguageModel,
    optimizer: Optimizer,
    ranks: Ranks,
    *,
    watch: Callable[[dict[str, Any]], None],
    saved: Callable[[], None],
) -> None:
    """Run the stage from its last checkpoint to its end; weights and optimizer change in place.

    `watch` sees each step's row, `saved` is called after each checkpoint. Raises Interrupted after
    a stop was asked for and the state saved.
    """
    checkpoints, log = folder / "checkpoints", folder / "metrics.jsonl"
    start = restore(checkpoints, stage.name, model, optimizer)
    if ranks.agree(start) != start:
        raise checkpoint.CheckpointError(
            f"{checkpoints} differs between ranks: put the run on storage that all of them share"
        )
    if ranks.first:
        metrics.rewind(log, stage.name, start)
    with StopSignal() as stop:
        for step in range(start, stage.steps):
            row = {"stage": stage.name, "step": step + 1, **stage.step(step)}
            if ranks.first:
                metrics.append(log, row)
            watch(row)
            stopping = ranks.any(stop.raised)
            ended = step + 1 == stage.steps
            if stopping or ended or (step + 1) % stage.checkpoint_every == 0:
                if ranks.first:
                    checkpoint.save(checkpoints, stage.name, step + 1, capture(model, optimizer))
                ranks.wait()
                saved()
            if stopping:
                raise Interrupted(
                    f"stopped on request after {stage.name} step {step + 1} of {stage.steps}; "
                    "give the same command again, without --fresh, to go on"
                )


def capture(model: LanguageModel, optimizer: Optimizer) -> checkpoint.State:
    """Everything a stage needs to continue exactly, random numbers being functions of the step."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"optimizer.{k}": v for k, v in optimizer.state_dict().items()}
    return checkpoint.State(tensors, {"optimizer_steps": optimizer.steps})


def restore(
    checkpoints: Path, name: str, model: LanguageModel, optimizer: Optimizer | None = None
) -> int:
    """Load the stage's last checkpoint, if there is one; returns the step to go on with."""
    done = checkpoint.steps_of(checkpoints, name)
    if not done:
        return 0
    path = checkpoint.path_of(checkpoints, name, done[-1])
    state = checkpoint.load(path)
    try:
        model.load_state_dict(_under("model.", state.tensors))
        if optimizer is not None:
            kept = _under("optimizer.", state.tensors)
            optimizer.load_state_dict(kept, state.facts["optimizer_steps"])
    except (RuntimeError, KeyError) as error:
        raise checkpoint.CheckpointError(
            f"the checkpoint {path} does not fit this recipe's model: use --name for another run"
        ) from error
    return done[-1]


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
