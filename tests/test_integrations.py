"""The callbacks: a real Trainer where it can be built, else its own dispatcher of events.

A transformers Trainer needs accelerate, and Lightning is no requirement here; where they are not
installed the events come from transformers' CallbackHandler and from a stub of Lightning's Trainer.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState
from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback

import benthic
from benthic.cost.ledger.ledger import Ledger
from benthic.cost.limits import OverBudget
from benthic.integrations.transformers import BillCallback
from tests.billed import eventually, row, rows

TRAIN = """
import sys, time, torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments
from benthic.integrations.transformers import BillCallback

class Fails(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == 3:
            raise RuntimeError("no luck")

shape = LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                    num_attention_heads=2, num_key_value_heads=2)
data = [{"input_ids": torch.arange(16), "labels": torch.arange(16)} for _ in range(16)]
args = TrainingArguments(output_dir=sys.argv[1], max_steps=6, per_device_train_batch_size=2,
                         save_steps=3, report_to=[], use_cpu=True, run_name="toy",
                         include_num_input_tokens_seen="all", disable_tqdm=True)
trainer = Trainer(LlamaForCausalLM(shape), args, train_dataset=data,
                  callbacks=[BillCallback(purpose="ablation", device="cpu", heartbeat=0.1)])
if sys.argv[2] == "well":
    trainer.train()
else:
    trainer.add_callback(Fails())
    try:
        trainer.train()
    except RuntimeError:  # as in a notebook: the process goes on
        time.sleep(2)
"""


class Events:
    """The Trainer's own dispatcher, with the few arguments that the callback reads."""

    def __init__(self, folder: Path, *callbacks: Any, run_name: str | None = "toy") -> None:
        self.args: Any = SimpleNamespace(output_dir=str(folder), run_name=run_name)
        self.state, self.control = TrainerState(), TrainerControl()
        self.state.logging_steps = self.state.eval_steps = self.state.save_steps = 0
        self.handler = CallbackHandler([*callbacks], torch.nn.Linear(1, 1), None, None, None)

    def tell(self, event: str) -> None:
        self.handler.call_event(event, self.args, self.state, self.control)

    def step(self, tokens: int, flops: float = 0.0) -> None:
        self.state.global_step += 1
        self.state.num_input_tokens_seen += tokens
        self.state.total_flos += flops
        self.tell("on_step_end")


def test_training_is_billed(private_ledger: Path, tmp_path: Path) -> None:
    events = Events(tmp_path / "out", BillCallback(purpose="final", device="cpu", price=3.0))
    events.state.num_input_tokens_seen, events.state.total_flos = 1000, 1e12  # resumed
    events.tell("on_train_begin")
    assert row(private_ledger).status == "running"
    events.step(32)
    events.tell("on_save")
    events.step(32, 1e9)
    events.state.total_flos += 1e9
    events.tell("on_train_end")
    found = row(private_ledger)
    assert (found.status, found.purpose, found.source) == ("done", "pretrain", "python")
    assert (found.name, found.project, found.run) == ("toy", "", str(tmp_path / "out"))
    assert (found.tokens, found.flops, found.price_per_hour) == (64, 2e9, 3.0)
    events.tell("on_train_begin")  # the same callback again: a bill of its own
    events.tell("on_train_end")
    assert len(rows(private_ledger)) == 2


def test_names(private_ledger: Path, tmp_path: Path) -> None:
    for run_name, given, name, project in [
        (None, {}, "out", ""),
        ("./runs/a", {}, "a", ""),
        ("toy", {"name": "n", "project": "p"}, "n", "p"),
    ]:
        events = Events(tmp_path / "out", BillCallback(device="cpu", **given), run_name=run_name)
        events.tell("on_train_begin")
        events.tell("on_train_end")
        newest = rows(private_ledger)[0]
        assert (newest.name, newest.project) == (name, project)


def test_other_ranks_bill_nothing(private_ledger: Path, tmp_path: Path) -> None:
    events = Events(tmp_path, BillCallback(device="cpu"))
    events.state.is_world_process_zero = False
    events.tell("on_train_begin")
    events.step(1)
    events.tell("on_save")
    events.tell("on_train_end")
    assert not private_ledger.exists()


def test_training_that_begins_anew(private_ledger: Path, tmp_path: Path) -> None:
    events = Events(tmp_path, BillCallback(device="cpu"))
    events.tell("on_train_begin")
    events.tell("on_train_begin")
    events.tell("on_train_end")
    assert [found.status for found in rows(private_ledger)] == ["done", "failed"]


def test_training_that_is_left_by_an_exception(private_ledger: Path, tmp_path: Path) -> None:
    """The loop is one of transformers' trainer, by its module's name; the process goes on."""
    events = Events(tmp_path, BillCallback(device="cpu", heartbeat=0.05), DefaultFlowCallback())
    scope: dict[str, Any] = {"__name__": "transformers.trainer", "eventually": eventually}
    source = """
def train(events, row):
    events.tell("on_train_begin")
    eventually(lambda: row().seconds > 0.2)
    assert row().status == "running"
    raise RuntimeError("no luck")
"""
    exec(compile(source, "trainer.py", "exec"), scope)
    with pytest.raises(RuntimeError, match="no luck"):
        scope["train"](events, lambda: row(private_ledger))
    eventually(lambda: row(private_ledger).status == "failed")
    assert "BENTHIC_METER" not in os.environ


def test_arguments_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="did you mean ablation"):
        BillCallback(purpose="ablatio")
    with pytest.raises(TypeError, match="unknown"):
        BillCallback(unknown=1)


def test_an_attempt_is_carried_on_from_a_checkpoint_only(
    private_ledger: Path, tmp_path: Path
) -> None:
    for step in (0, 3, 0):
        events = Events(tmp_path / "out", BillCallback(device="cpu"))
        events.state.global_step = step
        events.tell("on_train_begin")
        events.tell("on_train_end")
    anew, resumed, first = rows(private_ledger)
    assert resumed.attempt == first.attempt != anew.attempt
    events = Events(tmp_path / "elsewhere", BillCallback(device="cpu"))
    events.state.global_step = 3  # what came before was not metered
    events.tell("on_train_begin")
    events.tell("on_train_end")
    assert rows(private_ledger)[0].attempt not in (first.attempt, anew.attempt, "")


def test_a_callback_inside_a_metered_row_takes_over_what_it_was_not_given(
    private_ledger: Path, tmp_path: Path
) -> None:
    with benthic.meter("outer", purpose="data", project="reef", device="h100", count=2, price=7):
        events = Events(tmp_path / "out", BillCallback())
        events.tell("on_train_begin")
        events.tell("on_train_end")
    found = rows(private_ledger)[0]
    assert (found.purpose, found.project, found.price_per_hour) == ("data", "reef", 7.0)
    assert (found.device, found.count) == ("H100-SXM", 2)


def test_a_spent_hard_budget_keeps_training_from_starting(
    private_ledger: Path, tmp_path: Path
) -> None:
    with Ledger(private_ledger) as ledger:
        ledger.budget_set("purpose", "ablation", 0.0, hard=True)
    events = Events(tmp_path / "out", BillCallback(purpose="ablation", device="cpu"))
    with pytest.raises(OverBudget, match="the budget of purpose ablation"):
        events.tell("on_train_begin")
    assert rows(private_ledger) == []


@pytest.mark.skipif(not importlib.util.find_spec("accelerate"), reason="needs accelerate")
@pytest.mark.parametrize(("how", "status"), [("well", "done"), ("badly", "failed")])
def test_a_real_trainer(private_ledger: Path, tmp_path: Path, how: str, status: str) -> None:
    subprocess.run([sys.executable, "-c", TRAIN, str(tmp_path / "out"), how], check=True)
    found = row(private_ledger)
    assert (found.status, found.purpose, found.name) == (status, "ablation", "toy")
    assert found.tokens == (192 if how == "well" else 96)
    assert found.flops > 0 or how == "badly"


class StubCallback:
    """As much of Lightning's base class as is used."""


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The callback's module over a stub of Lightning's."""
    pytorch = ModuleType("lightning.pytorch")
    pytorch.Callback = StubCallback  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lightning", ModuleType("lightning"))
    monkeypatch.setitem(sys.modules, "lightning.pytorch", pytorch)
    sys.modules.pop("benthic.integrations.lightning", None)
    yield importlib.import_module("benthic.integrations.lightning")
    sys.modules.pop("benthic.integrations.lightning", None)


def test_a_fit_is_billed(lightning: Any, private_ledger: Path, tmp_path: Path) -> None:
    trainer = SimpleNamespace(is_global_zero=True, world_size=2, default_root_dir=str(tmp_path))
    callback = lightning.BillCallback(purpose="rl", device="cpu", tokens=len)
    assert isinstance(callback, StubCallback)
    module = torch.nn.Linear(1, 1)
    callback.on_fit_start(trainer, module)
    callback.on_train_batch_end(trainer, module, None, [0] * 5, 0)
    callback.on_save_checkpoint(trainer, module, {})
    callback.on_train_batch_end(trainer, module, None, [0] * 4, 1)
    callback.on_fit_end(trainer, module)
    found = row(private_ledger)
    assert (found.status, found.purpose, found.tokens) == ("done", "rl", 18)
    assert (found.name, found.run) == ("Linear", str(tmp_path))


def test_a_fit_goes_on_from_a_checkpoint(
    lightning: Any, private_ledger: Path, tmp_path: Path
) -> None:
    """Then what the first fit kept counts; a fit from the start is an attempt of its own."""
    for checkpoint in (None, "last.ckpt", None):
        trainer = SimpleNamespace(
            is_global_zero=True, default_root_dir=str(tmp_path), ckpt_path=checkpoint
        )
        callback = lightning.BillCallback(device="cpu")
        callback.on_fit_start(trainer, torch.nn.Linear(1, 1))
        callback.on_fit_end(trainer, None)
    anew, resumed, first = rows(private_ledger)
    assert resumed.attempt == first.attempt != anew.attempt


@pytest.mark.parametrize("root", ["", "."])
def test_fits_in_the_current_folder_are_runs_of_their_own(
    lightning: Any, private_ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for logger in (SimpleNamespace(log_dir=str(tmp_path / "logs" / "version_3")), None):
        trainer = SimpleNamespace(
            is_global_zero=True, world_size=1, default_root_dir=root, logger=logger
        )
        callback = lightning.BillCallback(device="cpu")
        callback.on_fit_start(trainer, torch.nn.Linear(1, 1))
        callback.on_fit_end(trainer, None)
    without, logged = rows(private_ledger)
    assert logged.run == str(tmp_path / "logs" / "version_3")
    assert without.run == str(tmp_path / "Linear")


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError(), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_a_fit_that_ends_badly(
    lightning: Any, private_ledger: Path, tmp_path: Path, error: BaseException, status: str
) -> None:
    trainer = SimpleNamespace(is_global_zero=True, world_size=1, default_root_dir=str(tmp_path))
    callback = lightning.BillCallback(device="cpu")
    callback.on_fit_start(trainer, None)
    callback.on_save_checkpoint(trainer, None, {})
    callback.on_exception(trainer, None, error)
    callback.on_fit_end(trainer, None)
    found = row(private_ledger)
    assert found.status == status and found.seconds_productive is not None


def test_a_fit_on_another_rank(lightning: Any, private_ledger: Path) -> None:
    trainer = SimpleNamespace(is_global_zero=False, world_size=2, default_root_dir="")
    callback = lightning.BillCallback(device="cpu", tokens=len)
    callback.on_fit_start(trainer, None)
    callback.on_train_batch_end(trainer, None, None, [0], 0)
    callback.on_fit_end(trainer, None)
    assert not private_ledger.exists()
