"""A whole run: what it leaves, that it goes on exactly, what it refuses, that all is billed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from benthic.config import Recipe
from benthic.cost.ledger.ledger import Ledger, ledger_path
from benthic.cost.limits import OverBudget
from benthic.cost.metering.span import meter
from benthic.data.tokenizer import SPECIALS
from benthic.data.vocabulary import hub_vocabulary
from benthic.engine.engine import Engine
from benthic.evaluate.order2 import Order2Model
from benthic.folder import FolderError, RunFolder
from benthic.run import NoGo, receipt_of
from benthic.train import checkpoint, metrics
from benthic.train.guard import Interrupted
from tests.dense import hub_in, recipe_from
from tests.small import (
    bills,
    environment,
    run_small,
    same,
    small,
    state_of,
    text_in,
    tokenizer_in,
)

STAGES = ["data", "pretrain", "evaluate before", "rl", "evaluate after"]
NO_GO = ("reason.gate_gap=1", "reason.gate_share=1")

# A run that kills itself: at a stage's step, or while its checkpoint is written. It waits before:
# the bill is written once a second.
VICTIM = """
import os, signal, sys, time
from pathlib import Path
from benthic.train import checkpoint, metrics
from tests.small import run_small, small

text, folder, stage, step, moment = sys.argv[1:]
append, write = metrics.append, checkpoint.write_durably

def die():
    time.sleep(1.5)
    os.kill(os.getpid(), signal.SIGKILL)

def killing_append(path, row):
    append(path, row)
    if moment == "step" and (row["stage"], row["step"]) == (stage, int(step)):
        die()

def killing_write(path, data):
    dying = moment == "save" and path.parent.name.endswith(f"{stage}-{step:0>7}")
    write(path, data[: len(data) // 2] if dying else data)
    if dying:
        die()

metrics.append, checkpoint.write_durably = killing_append, killing_write
run_small(small(Path(text)), Path(folder))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def text(place: Path) -> Path:
    return text_in(place)


@pytest.fixture(scope="module")
def shared_ledger(place: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTHIC_LEDGER", str(place / "ledger.sqlite"))
        yield str(place / "ledger.sqlite")


@pytest.fixture(scope="module")
def done(place: Path, text: Path, shared_ledger: str) -> RunFolder:
    """A finished run that nothing disturbed; tests only look at it."""
    return run_small(small(text), place / "done")


@pytest.fixture
def ledger(shared_ledger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger that `done` is billed in."""
    monkeypatch.setenv("BENTHIC_LEDGER", shared_ledger)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("lock", "report.html")
    }


def test_a_run_leaves_recipe_manifest_metrics_results_and_page(done: RunFolder, text: Path) -> None:
    assert done.recipe() == small(text)
    assert {
        "attempt",
        "commit",
        "torch",
        "machine",
        "seed",
        "corpus",
        "vocabulary",
    } <= done.manifest().keys()
    assert set(done.results()) == {"baseline", "before", "after", "gate"}
    assert "<html" in (done.path / "report.html").read_text()
    rows = [(row["stage"], row["step"]) for row in metrics.read(done.metrics)]
    assert rows == [("pretrain", i) for i in range(1, 7)] + [("rl", i) for i in range(1, 5)]


def test_a_run_leaves_the_last_two_checkpoints_of_each_stage(done: RunFolder) -> None:
    assert checkpoint.steps_of(done.checkpoints, "pretrain") == [4, 6]
    assert checkpoint.steps_of(done.checkpoints, "rl") == [2, 4]
    assert not list(done.path.rglob(".partial-*"))


def test_both_stages_train(done: RunFolder) -> None:
    pretrained, reinforced = (state_of(done.path, stage) for stage in ("pretrain", "rl"))
    for name, tensor in pretrained.items():
        if name.startswith("model.") and "layers.2" not in name and "bias" not in name:
            assert not same({"": tensor}, {"": reinforced[name]}), name


@pytest.mark.usefixtures("ledger")
def test_every_stage_is_billed_as_done(done: RunFolder) -> None:
    rows = bills(done.path)
    assert [row.stage for row in rows] == STAGES
    for row in rows:
        assert row.status == "done" and row.seconds > 0 and row.seconds_productive == row.seconds
        assert (row.tokens > 0) == (row.flops > 0) == (row.stage != "data")
    assert rows[1].tokens == 6 * 4 * 40
    assert {row.attempt for row in rows} == {done.manifest()["attempt"]}


@pytest.mark.usefixtures("ledger")
def test_a_finished_run_is_shown_again_and_not_run_again(done: RunFolder, text: Path) -> None:
    before, rows = contents(done.path), bills(done.path)
    (done.path / "report.html").unlink()
    run_small(small(text), done.path)
    assert contents(done.path) == before and bills(done.path) == rows
    assert (done.path / "report.html").exists()


@pytest.mark.usefixtures("ledger")
def test_the_same_recipe_gives_the_same_run(done: RunFolder, text: Path, tmp_path: Path) -> None:
    again = run_small(small(text), tmp_path / "again")
    for stage in ("pretrain", "rl"):
        assert same(state_of(again.path, stage), state_of(done.path, stage))
    assert again.results() == done.results()
    assert again.metrics.read_bytes() == done.metrics.read_bytes()


@pytest.mark.usefixtures("ledger")
def test_another_recipe_is_refused_and_nothing_is_touched(done: RunFolder, text: Path) -> None:
    before = contents(done.path)
    with pytest.raises(FolderError, match=r"pretrain\.steps: 6 there, 7 here.*--fresh"):
        run_small(small(text, "pretrain.steps=7"), done.path)
    assert contents(done.path) == before


def stop_in(recipe: Recipe, folder: Path, stage: str) -> None:
    """Have the run stopped, as by Ctrl-C, in the stage's third step."""
    append = metrics.append

    def stopping(path: Path, row: dict[str, object]) -> None:
        append(path, row)
        if (row["stage"], row["step"]) == (stage, 3):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "append", stopping)
        with pytest.raises(Interrupted, match=f"stopped on request after {stage} step 3"):
            run_small(recipe, folder)


@pytest.fixture
def begun(text: Path, tmp_path: Path) -> RunFolder:
    """A run that was stopped in its pretraining."""
    stop_in(small(text), tmp_path / "begun", "pretrain")
    return RunFolder(tmp_path / "begun")


def test_a_stop_is_billed_as_interrupted(begun: RunFolder) -> None:
    assert [(r.stage, r.status) for r in bills(begun.path)] == [
        ("data", "done"),
        ("pretrain", "interrupted"),
    ]


def test_another_corpus_is_refused(begun: RunFolder, text: Path, tmp_path: Path) -> None:
    own = tmp_path / text.name
    own.write_bytes(text.read_bytes())
    run_small(small(own, "reason.steps=0"), tmp_path / "other")
    results = tmp_path / "other" / "results.json"
    kept = json.loads(results.read_text())
    results.write_text(json.dumps({"baseline": kept["baseline"]}))
    own.write_bytes(b"?" + text.read_bytes()[1:])
    with pytest.raises(FolderError, match=r"another corpus \(24000 bytes.*--fresh"):
        run_small(small(own, "reason.steps=0"), tmp_path / "other")


def test_fresh_starts_anew_and_the_earlier_attempt_stays_in_the_bill(
    begun: RunFolder, text: Path, done: RunFolder
) -> None:
    first, spent = begun.manifest()["attempt"], sum(row.seconds for row in bills(begun.path))
    (begun.path / "notes.txt").write_text("mine")
    run_small(small(text), begun.path, fresh=True)
    assert begun.manifest()["attempt"] != first
    assert same(state_of(begun.path, "rl"), state_of(done.path, "rl"))
    receipt = receipt_of(begun)
    assert receipt is not None
    bridge = dict(receipt.bridge)
    assert float(bridge["discarded attempts"].seconds) == pytest.approx(spent, abs=1e-5)
    everything = sum(row.seconds for row in bills(begun.path))
    assert float(receipt.everything.seconds) == pytest.approx(everything, abs=1e-5)
    assert (begun.path / "notes.txt").read_text() == "mine"


def test_fresh_deletes_nothing_in_a_folder_that_no_run_made(text: Path, tmp_path: Path) -> None:
    (tmp_path / "photos" / "checkpoints").mkdir(parents=True)
    (tmp_path / "photos" / "cat.png").touch()
    with pytest.raises(FolderError, match="is not a run's folder"):
        run_small(small(text), tmp_path / "photos", fresh=True)
    assert (tmp_path / "photos" / "checkpoints").exists()


def test_a_second_process_is_refused(text: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time; from filelock import FileLock\n"
        "with FileLock(sys.argv[1]):\n    print('held', flush=True); time.sleep(60)"
    )
    path = tmp_path / "run" / "lock"
    path.parent.mkdir()
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout and holder.stdout.readline() == b"held\n"
        with pytest.raises(FolderError, match="another process is running"):
            run_small(small(text), tmp_path / "run")
    finally:
        holder.kill()
        holder.wait()
    assert not (tmp_path / "run" / "manifest.json").exists()
    FileLock(path).acquire(timeout=0)  # a dead process holds nothing


def test_a_run_gives_its_lock_back(done: RunFolder) -> None:
    lock = FileLock(done.path / "lock")
    lock.acquire(timeout=0)
    assert lock.is_locked


def test_the_gate_stops_keeps_and_can_be_forced(text: Path, tmp_path: Path) -> None:
    recipe, folder = small(text, *NO_GO), RunFolder(tmp_path / "run")
    for _ in range(2):  # stays a no-go when asked again
        with pytest.raises(NoGo, match=r"pretrain longer .*--force-rl"):
            run_small(recipe, folder.path)
        assert set(folder.results()) == {"baseline", "before", "gate"}
        assert folder.results()["gate"]["passed"] is False
        assert (folder.path / "report.html").exists()
        assert not checkpoint.steps_of(folder.checkpoints, "rl")
    run_small(recipe, folder.path, force_rl=True)
    assert "after" in folder.results() and folder.results()["gate"]["forced"] is True
    assert [row.stage for row in bills(folder.path)].count("pretrain") == 1


@pytest.mark.usefixtures("ledger")
def test_a_spent_hard_budget_stops_a_run_before_the_stage_it_is_for(
    text: Path, tmp_path: Path
) -> None:
    """And what is inside a metered shell is of that shell's project."""
    folder = RunFolder(tmp_path / "run")
    with Ledger(ledger_path()) as ledger:
        ledger.budget_set("purpose", "pretrain", 0.0, hard=True)
    with (
        meter("shell", project="reef", price=5.0),
        pytest.raises(OverBudget, match="the budget of purpose pretrain, \\$0, is spent"),
    ):
        run_small(small(text), folder.path)
    with Ledger(ledger_path()) as ledger:
        (data,) = ledger.query(run=str(folder.path))
        assert (data.stage, data.project, data.price_per_hour) == ("data", "reef", 5.0)
        ledger.budget_set("purpose", "pretrain", None)
    run_small(small(text), folder.path)
    assert (folder.path / "results.json").exists()


def test_a_fork_takes_the_pretraining_over(done: RunFolder, text: Path, tmp_path: Path) -> None:
    recipe = small(text, "reason.steps=2")
    fork = run_small(recipe, tmp_path / "fork", base=done)
    assert same(state_of(fork.path, "pretrain"), state_of(done.path, "pretrain"))
    assert [row.stage for row in bills(fork.path)] == [s for s in STAGES if s != "pretrain"]
    assert fork.results()["before"] == done.results()["before"]
    assert fork.manifest()["base"] == str(done.path)
    straight = run_small(recipe, tmp_path / "straight")
    assert same(state_of(fork.path, "rl"), state_of(straight.path, "rl"))


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("seed=1", "seed"),
        ("model.hidden_size=32", "model"),
        ("data.text_share=0.25", "data"),
        ("pretrain.clip=2", "pretrain"),
    ],
)
def test_a_fork_of_what_disagrees_is_refused(
    done: RunFolder, text: Path, tmp_path: Path, override: str, part: str
) -> None:
    with pytest.raises(FolderError, match=f"with another '{part}'"):
        run_small(small(text, override), tmp_path / "fork", base=done)
    assert not (tmp_path / "fork" / "manifest.json").exists()


def test_a_fork_of_an_unfinished_run_is_refused(begun: RunFolder, text: Path) -> None:
    with pytest.raises(FolderError, match="has not finished its pretraining"):
        run_small(small(text), begun.path.parent / "fork", base=begun)


def test_a_fork_of_no_run_is_refused(text: Path, tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"is .* a run's folder"):
        run_small(small(text), tmp_path / "fork", base=RunFolder(tmp_path / "none"))


@pytest.mark.parametrize("cut", [0, 5])
def test_results_cut_short_end_in_one_sentence(begun: RunFolder, text: Path, cut: int) -> None:
    path = begun.path / "results.json"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(FolderError, match=r"cannot be read .*--fresh"):
        run_small(small(text), begun.path)


@pytest.mark.parametrize("stage", ["pretrain", "rl"])
def test_a_stop_and_a_second_call_end_as_one_call(
    text: Path, tmp_path: Path, done: RunFolder, stage: str
) -> None:
    stop_in(small(text), tmp_path / "run", stage)
    again = run_small(small(text), tmp_path / "run")
    assert same(state_of(again.path, "rl"), state_of(done.path, "rl"))
    assert again.results() == done.results()
    assert again.metrics.read_bytes() == done.metrics.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "step", "moment"), [("pretrain", 3, "step"), ("rl", 3, "step"), ("rl", 4, "save")]
)
def test_a_kill_loses_time_and_nothing_else(
    text: Path, tmp_path: Path, done: RunFolder, stage: str, step: int, moment: str
) -> None:
    words = [str(text), str(tmp_path / "run"), stage, str(step), moment]
    root = Path(__file__).parents[1]
    victim = subprocess.run(
        [sys.executable, "-c", VICTIM, *words], check=False, cwd=root, env=environment()
    )
    assert victim.returncode == -signal.SIGKILL
    again = run_small(small(text), tmp_path / "run")
    assert same(state_of(again.path, "rl"), state_of(done.path, "rl"))
    assert again.results() == done.results()
    assert again.metrics.read_bytes() == done.metrics.read_bytes()
    killed = [row for row in bills(again.path) if row.status == "interrupted"]
    assert [row.stage for row in killed] == [stage] and killed[0].seconds > 0.7
    receipt = receipt_of(again)
    assert receipt is not None and float(dict(receipt.bridge)["lost to interruptions"].seconds) > 0
    whole = sum(row.seconds for row in bills(again.path))
    assert float(receipt.everything.seconds) == pytest.approx(whole, abs=1e-5)


def test_a_recipe_without_reinforcement_ends_after_its_evaluation(
    text: Path, tmp_path: Path
) -> None:
    folder = run_small(small(text, "reason.steps=0"), tmp_path / "run")
    assert set(folder.results()) == {"baseline", "before"}
    rows = bills(folder.path)
    run_small(small(text, "reason.steps=0"), tmp_path / "run")
    assert bills(folder.path) == rows


def test_a_small_file_of_problems_is_evaluated_once_each(text: Path, tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl"
    rows = [{"question": f"{i}", "working": "", "answer": f"{i % 7}"} for i in range(300)]
    path.write_text("\n".join(map(json.dumps, rows)))
    recipe = small(text, f"data.tasks={path}", "evaluate.problems=200", "reason.steps=0")
    folder = run_small(recipe, tmp_path / "run")
    assert 10 <= folder.results()["before"]["problems"] < 60


def hub_recipe(text: Path, folder: Path, *more: str) -> Recipe:
    """The small recipe with the folder's vocabulary; rows and answers hold its longer tags."""
    v = hub_vocabulary(folder)
    marks = (f"model.bos_token_id={v.bos or 0}", f"model.eos_token_id={v.eos}")
    longer = ("data.sequence_length=72", "reason.max_new_tokens=32", "evaluate.text_bytes=5000")
    sizes = (f"model.vocab_size={v.size + 4}", *longer)
    return small(text, f"data.tokenizer={folder}", *marks, *sizes, *more)


@pytest.mark.parametrize(
    ("layout", "bos"), [((), False), (SPECIALS[2:], True)], ids=["spelt", "R1"]
)
def test_a_run_with_a_vocabulary_of_the_hub(
    text: Path, tmp_path: Path, layout: tuple[str, ...], bos: bool
) -> None:
    """All stages; text is measured by its bytes, so the yardstick is that of the bytes."""
    hub = tokenizer_in(tmp_path / "hub", text, bos=bos, layout=layout)
    own, other = hub_vocabulary(hub).eos, hub_vocabulary(hub).encode("~")[0]
    (hub / "generation_config.json").write_text(json.dumps({"eos_token_id": [own, other]}))
    engines: list[Engine] = []

    class Kept(Engine):
        def __init__(self, *words: Any, **options: Any) -> None:
            super().__init__(*words, **options)
            engines.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benthic.run.Engine", Kept)
        folder = run_small(hub_recipe(text, hub), tmp_path / "run")
    assert [engine.ends for engine in engines] == [{own, other}] * 3
    results, raw = folder.results(), text.read_bytes()
    cut = int(0.95 * len(raw))
    order2 = Order2Model(np.frombuffer(raw[:cut], np.uint8))
    bits = order2.bits_per_byte(np.frombuffer(raw[cut:], np.uint8))
    assert results["baseline"]["order2_bits_per_byte"] == bits
    assert 3.5 < results["before"]["text_bits_per_byte"] < 9  # untrained, 1.8 bytes a token
    assert results["before"]["text_bits_per_byte"] != results["after"]["text_bits_per_byte"]
    rows = [(row["stage"], row["step"]) for row in metrics.read(folder.metrics)]
    assert rows == [("pretrain", i) for i in range(1, 7)] + [("rl", i) for i in range(1, 5)]
    assert folder.manifest()["vocabulary"] == hub_vocabulary(hub).describe()


def test_another_vocabulary_is_refused(text: Path, tmp_path: Path) -> None:
    """The recipe names the same folder, which has changed."""
    hub = tokenizer_in(tmp_path / "hub", text, layout=SPECIALS[2:])
    recipe = hub_recipe(text, hub, "reason.steps=0")
    stop_at = run_small(recipe, tmp_path / "run")
    results = stop_at.results()
    stop_at.keep("results", {"baseline": results["baseline"]})
    base = text_in(tmp_path, seed=1)
    tokenizer_in(hub, base, layout=SPECIALS[2:])
    with pytest.raises(FolderError, match=r"another vocabulary \(hub there, hub here.*--fresh"):
        run_small(recipe, stop_at.path)
    with pytest.raises(FolderError, match="another vocabulary"):
        run_small(recipe, tmp_path / "fork", base=stop_at)
    tokenizer_in(hub, text, layout=SPECIALS[2:])
    assert run_small(recipe, stop_at.path).results() == results


@pytest.mark.parametrize("stage", ["pretrain", "rl"])
def test_a_run_on_a_checkpoints_weights_stops_and_goes_on(
    text: Path, tmp_path: Path, stage: str
) -> None:
    """As one call, and with the weights that it began with named in the manifest."""
    hub = hub_in(tmp_path / "hub", model_type="qwen3", head_dim=8, num_key_value_heads=1)
    whole = run_small(recipe_from(hub, text), tmp_path / "whole")
    stop_in(recipe_from(hub, text), tmp_path / "run", stage)
    again = run_small(recipe_from(hub, text), tmp_path / "run")
    assert same(state_of(again.path, "rl"), state_of(whole.path, "rl"))
    assert again.results() == whole.results()
    assert again.metrics.read_bytes() == whole.metrics.read_bytes()
    assert again.recipe().init_from == str(hub)
    assert len(again.manifest()["init_sha"]) == 32


def test_weights_at_random_have_no_digest(done: RunFolder) -> None:
    """So that a run of an earlier version, whose manifest has none, goes on."""
    assert done.manifest()["init_sha"] == ""
