"""Checkpoints: bit for bit, whole or not counted, and the earlier ones survive whatever happens."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic.train import checkpoint
from benthic.train.checkpoint import FACTS, TENSORS, CheckpointError, State
from benthic.train.loop import capture, restore
from tests.small import same, text_in, trainer


def state(seed: int = 0) -> State:
    draw = torch.Generator().manual_seed(seed)
    tensors = {
        "model.a": torch.randn(5, 3, generator=draw),
        "model.turned": torch.randn(4, 6, generator=draw).T,
        "optimizer.count": torch.arange(7),
        "odd": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
        "scalar": torch.tensor(0.1, dtype=torch.float64),
    }
    return State(tensors, {"optimizer_steps": 3})


def bits(tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {
        k: t.contiguous().view(torch.uint8).numpy().tobytes() for k, t in tensors.items() if t.ndim
    }


def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, "pretrain", 3, state())
    found = checkpoint.load(path)
    assert bits(found.tensors) == bits(state().tensors)
    assert found.tensors["scalar"].item() == torch.tensor(0.1, dtype=torch.float64).item()
    assert (found.facts["optimizer_steps"], found.facts["step"]) == (3, 3)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["float32", "float64", "bfloat16", "int64", "bool"]),
    st.lists(st.integers(0, 4), max_size=3),
)
def test_every_kind_and_shape_comes_back(
    tmp_path_factory: pytest.TempPathFactory, kind: str, shape: list[int]
) -> None:
    tensor = (torch.rand(shape) * 9).to(getattr(torch, kind))
    path = checkpoint.save(tmp_path_factory.mktemp("c"), "s", 1, State({"x": tensor}, {}))
    found = checkpoint.load(path).tensors["x"]
    assert found.dtype == tensor.dtype and torch.equal(found, tensor)


def test_steps_are_told_in_order_and_by_stage(tmp_path: Path) -> None:
    for step in (20, 3, 100):
        checkpoint.save(tmp_path, "pretrain", step, state(), keep=9)
    checkpoint.save(tmp_path, "rl", 7, state())
    assert checkpoint.steps_of(tmp_path, "pretrain") == [3, 20, 100]
    assert checkpoint.steps_of(tmp_path, "rl") == [7]
    assert checkpoint.steps_of(tmp_path / "none", "rl") == []


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "rl", 1, state())
    for step in (2, 4, 6, 8):
        checkpoint.save(tmp_path, "pretrain", step, state())
    assert checkpoint.steps_of(tmp_path, "pretrain") == [6, 8]
    assert checkpoint.steps_of(tmp_path, "rl") == [1]


def test_a_partial_folder_is_never_counted(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "pretrain", 2, state())
    (tmp_path / ".partial-pretrain-0000004").mkdir()
    (tmp_path / "pretrain-old").mkdir()
    (tmp_path / "pretrain-0000009").write_text("a file")
    assert checkpoint.steps_of(tmp_path, "pretrain") == [2]


@pytest.mark.parametrize("name", [TENSORS, FACTS])
def test_a_file_cut_anywhere_is_noticed(tmp_path: Path, name: str) -> None:
    path = checkpoint.save(tmp_path, "pretrain", 2, state())
    whole = (path / name).read_bytes()
    for end in [*range(0, len(whole), 64 if name == TENSORS else 7), len(whole) - 1]:
        (path / name).write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match="delete that folder") as refusal:
            checkpoint.load(path)
        assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_bit_turned_anywhere_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = checkpoint.save(tmp_path_factory.mktemp("c"), "pretrain", 2, state())
    raw = bytearray((path / TENSORS).read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (path / TENSORS).write_bytes(raw)
    with pytest.raises(CheckpointError, match="cut short or altered"):
        checkpoint.load(path)


@pytest.mark.parametrize("content", ["[]", '"text"', "{}", "null"])
def test_facts_of_another_form_are_noticed(tmp_path: Path, content: str) -> None:
    path = checkpoint.save(tmp_path, "pretrain", 2, state())
    (path / FACTS).write_text(content)
    with pytest.raises(CheckpointError, match="cut short or altered"):
        checkpoint.load(path)


@pytest.mark.parametrize("name", [TENSORS, FACTS])
def test_a_missing_file_is_noticed(tmp_path: Path, name: str) -> None:
    path = checkpoint.save(tmp_path, "pretrain", 2, state())
    (path / name).unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(path)


@pytest.mark.parametrize("writes", [0, 1])
def test_a_full_disk_leaves_the_earlier_ones_and_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, "pretrain", step, state(step))
    write, done = checkpoint.write_durably, []

    def full(path: Path, data: bytes) -> None:
        if len(done) == writes:
            path.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done.append(write(path, data))

    monkeypatch.setattr(checkpoint, "write_durably", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*the rest is intact"):
        checkpoint.save(tmp_path, "pretrain", 3, state(3))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pretrain-0000001", "pretrain-0000002"]
    for step in (1, 2):
        found = checkpoint.load(checkpoint.path_of(tmp_path, "pretrain", step))
        assert bits(found.tensors) == bits(state(step).tensors)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot be written"):
        checkpoint.save(tmp_path / "file", "pretrain", 1, state())


@pytest.mark.parametrize("moment", ["write_durably", "flush_folder"])
def test_a_kill_while_saving_leaves_a_whole_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    checkpoint.save(tmp_path, "pretrain", 1, state(1))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, moment, killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, "pretrain", 2, state(2))
    last = checkpoint.steps_of(tmp_path, "pretrain")[-1]
    found = checkpoint.load(checkpoint.path_of(tmp_path, "pretrain", last))
    assert bits(found.tensors) == bits(state(last).tensors)


def test_a_kill_between_writing_and_renaming_does_not_count_and_does_not_hinder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, "pretrain", 1, state(1))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path, "pretrain", 2, state(9))
    assert (tmp_path / ".partial-pretrain-0000002").exists()
    assert checkpoint.steps_of(tmp_path, "pretrain") == [1]
    path = checkpoint.save(tmp_path, "pretrain", 2, state(2))
    assert bits(checkpoint.load(path).tensors) == bits(state(2).tensors)
    assert not list(tmp_path.glob(".partial-*"))


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    for seed in (1, 2):
        path = checkpoint.save(tmp_path, "pretrain", 1, state(seed))
    assert bits(checkpoint.load(path).tensors) == bits(state(2).tensors)


@pytest.mark.parametrize("renames", [0, 1])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "an I/O error"), KeyboardInterrupt()])
def test_a_step_saved_again_is_there_at_every_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int, error: BaseException
) -> None:
    """The first rename moves the old state aside, the second puts the new one in its place."""
    checkpoint.save(tmp_path, "pretrain", 1, state(1))
    rename, done = Path.rename, []

    def stopped(path: Path, target: Path) -> None:
        if len(done) == renames:
            raise error
        done.append(rename(path, target))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stopped)
        with pytest.raises((CheckpointError, KeyboardInterrupt)):
            checkpoint.save(tmp_path, "pretrain", 1, state(2))
    assert checkpoint.steps_of(tmp_path, "pretrain") == [1]
    found = checkpoint.load(checkpoint.path_of(tmp_path, "pretrain", 1))
    assert bits(found.tensors) == bits(state(1).tensors)
    path = checkpoint.save(tmp_path, "pretrain", 1, state(3))
    assert bits(checkpoint.load(path).tensors) == bits(state(3).tensors)
    assert [p.name for p in tmp_path.iterdir()] == ["pretrain-0000001"]


def test_a_checkpoint_is_data_and_never_code(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, "pretrain", 1, state())
    assert {p.name for p in path.iterdir()} == {TENSORS, FACTS}
    assert json.loads((path / FACTS).read_text())["step"] == 1
    header = (path / TENSORS).read_bytes()
    assert json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])


def test_optimizer_and_router_bias_come_back_and_are_not_zero(tmp_path: Path) -> None:
    text = text_in(tmp_path)
    model, optimizer, step = trainer(text)
    for number in range(2):
        step(number)
    checkpoint.save(tmp_path, "pretrain", 2, capture(model, optimizer))
    other, fresh, _ = trainer(text)
    assert restore(tmp_path, "pretrain", other, fresh) == 2
    assert same(other.state_dict(), model.state_dict())
    assert same(fresh.state_dict(), optimizer.state_dict()) and fresh.steps == 2
    assert all(t.abs().sum() > 0 for t in fresh.state_dict().values())
    assert all(router.e_score_correction_bias.abs().sum() > 0 for router in other.routers)


def test_every_weight_is_in_the_checkpoint(tmp_path: Path) -> None:
    model, optimizer, _ = trainer(text_in(tmp_path))
    kept = capture(model, optimizer).tensors
    for name, _ in [*model.named_parameters(), *optimizer.state_dict().items()]:
        assert f"model.{name}" in kept or f"optimizer.{name}" in kept
    assert sum("e_score_correction_bias" in name for name in kept) == len(model.routers)
