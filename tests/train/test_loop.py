"""The loop of a stage: going on is exact, nothing is told twice, and a stop saves."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from benthic.train import checkpoint, metrics
from benthic.train.checkpoint import CheckpointError
from benthic.train.guard import Interrupted, StopSignal
from benthic.train.loop import Stage, capture, finished, restore, train
from benthic.train.parallel import Ranks
from tests.small import same, text_in, trainer

STEPS = 6


class Killed(Exception):
    """Stands in for whatever ends a process between two checkpoints."""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_in(tmp_path_factory.mktemp("text"))


def go(
    text: Path, folder: Path, watch: Callable[[int], None] = lambda step: None
) -> dict[str, Tensor]:
    """Train to the end, or to what `watch` raises; from a fresh model, as a new process would."""
    model, optimizer, step = trainer(text)
    train(
        Stage("pretrain", STEPS, 2, step),
        folder,
        model,
        optimizer,
        Ranks(),
        watch=lambda row: watch(row["step"]),
        saved=lambda: None,
    )
    return capture(model, optimizer).tensors


@pytest.fixture(scope="module")
def undisturbed(text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return {"state": go(text, folder), "rows": metrics.read(folder / "metrics.jsonl")}


def at(step: int, action: Callable[[], None]) -> Callable[[int], None]:
    return lambda now: action() if now == step else None


def killed() -> None:
    raise Killed


def stopped(number: int = signal.SIGINT, times: int = 1) -> Callable[[], None]:
    def action() -> None:
        for _ in range(times):
            os.kill(os.getpid(), number)

    return action


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_going_on_after_a_kill_is_exact(
    text: Path, tmp_path: Path, undisturbed: dict[str, Any], step: int
) -> None:
    with pytest.raises(Killed):
        go(text, tmp_path, at(step, killed))
    assert not finished(tmp_path, "pretrain", STEPS)
    assert same(go(text, tmp_path), undisturbed["state"])
    assert metrics.read(tmp_path / "metrics.jsonl") == undisturbed["rows"]


def test_going_on_starts_at_the_last_checkpoint(text: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        go(text, tmp_path, at(5, killed))
    seen: list[int] = []
    go(text, tmp_path, seen.append)
    assert seen == [5, 6]


def test_a_line_cut_short_by_a_kill_is_dropped(
    text: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    with pytest.raises(Killed):
        go(text, tmp_path, at(3, killed))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"stage": "pretrain", "step": 4, "lo')
    go(text, tmp_path)
    assert metrics.read(tmp_path / "metrics.jsonl") == undisturbed["rows"]


def test_rows_of_other_stages_stay(text: Path, tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    metrics.append(log, {"stage": "rl", "step": 99})
    go(text, tmp_path)
    assert [row["step"] for row in metrics.read(log)] == [99, *range(1, STEPS + 1)]


def test_a_finished_stage_trains_no_further(
    text: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    go(text, tmp_path)
    assert finished(tmp_path, "pretrain", STEPS)
    assert not finished(tmp_path, "pretrain", STEPS + 1) and not finished(tmp_path, "rl", 1)
    seen: list[int] = []
    assert same(go(text, tmp_path, seen.append), undisturbed["state"]) and not seen


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_saves_and_says_how_to_go_on(
    text: Path, tmp_path: Path, undisturbed: dict[str, Any], number: int
) -> None:
    with pytest.raises(Interrupted, match="after pretrain step 3 of 6; give the same command"):
        go(text, tmp_path, at(3, stopped(number)))
    assert checkpoint.steps_of(tmp_path / "checkpoints", "pretrain") == [2, 3]
    assert same(go(text, tmp_path), undisturbed["state"])
    assert metrics.read(tmp_path / "metrics.jsonl") == undisturbed["rows"]


def test_a_stop_in_the_last_step_is_a_stop_with_the_stage_finished(
    text: Path, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        go(text, tmp_path, at(STEPS, stopped()))
    assert finished(tmp_path, "pretrain", STEPS)


def test_a_second_stop_ends_at_once(
    text: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(text, tmp_path, at(3, stopped(times=2)))
    assert checkpoint.steps_of(tmp_path / "checkpoints", "pretrain") == [2]
    assert same(go(text, tmp_path), undisturbed["state"])


def test_the_signals_are_given_back() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with StopSignal() as stop:
        assert signal.getsignal(signal.SIGINT) != before[0]
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.raised
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_every_save_is_told(text: Path, tmp_path: Path) -> None:
    model, optimizer, step = trainer(text)
    saves: list[list[int]] = []
    train(
        Stage("pretrain", 5, 2, step),
        tmp_path,
        model,
        optimizer,
        Ranks(),
        watch=lambda row: None,
        saved=lambda: saves.append(checkpoint.steps_of(tmp_path / "checkpoints", "pretrain")),
    )
    assert saves == [[2], [2, 4], [4, 5]]


def test_a_checkpoint_of_another_shape_is_refused(text: Path, tmp_path: Path) -> None:
    go(text, tmp_path)
    model, optimizer, _ = trainer(text, "model.hidden_size=32")
    with pytest.raises(CheckpointError, match="does not fit this recipe's model"):
        restore(tmp_path / "checkpoints", "pretrain", model, optimizer)


def test_without_a_checkpoint_the_model_stays_as_it_is(text: Path, tmp_path: Path) -> None:
    model, optimizer, _ = trainer(text)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert restore(tmp_path, "pretrain", model, optimizer) == 0
    assert same(before, model.state_dict())
