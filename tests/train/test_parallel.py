"""Ranks: every part is dealt once, and two ranks train what one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benthic.train import metrics
from benthic.train.parallel import Ranks, available_cores, connect, disconnect
from tests.small import benthic, settings, state_of, text_in

DRAWN = settings("pretrain.micro_batches=2", "reason.micro_batches=2", "reason.steps=2")


@given(st.integers(1, 12), st.integers(1, 12))
def test_every_part_is_dealt_once_and_evenly(size: int, each: int) -> None:
    hands = [list(Ranks(rank, size).deal(size * each)) for rank in range(size)]
    assert sorted(part for hand in hands for part in hand) == list(range(size * each))
    assert {len(hand) for hand in hands} == {each}


@given(st.integers(2, 12), st.integers(1, 100))
def test_parts_that_do_not_divide_are_refused_with_the_remedy(size: int, parts: int) -> None:
    if parts % size:
        with pytest.raises(ValueError, match=f"micro_batches = {parts} .* {size} ranks.*divides"):
            Ranks(0, size).deal(parts)


def test_one_rank_sums_nothing_and_agrees_with_itself() -> None:
    x = torch.tensor([1.5])
    Ranks().sum([x])
    assert x.item() == 1.5 and Ranks().agree("a") == "a"
    assert Ranks().any(True) and not Ranks().any(False)


def test_machines_are_counted_from_their_ranks() -> None:
    assert (Ranks(0, 8, 4).machines, Ranks().machines) == (2, 1)
    assert Ranks(0, 2).first and not Ranks(1, 2).first


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="use --set device=cpu"):
        connect("cuda", 2)


def test_alone_a_process_takes_all_its_cores() -> None:
    before = torch.get_num_threads()
    assert connect("cpu", 1) == Ranks()
    assert torch.get_num_threads() == available_cores()
    torch.set_num_threads(before)


@pytest.mark.skipif(available_cores() < 2, reason="one core: parts run one after the other")
def test_parts_side_by_side_share_the_cores() -> None:
    before = torch.get_num_threads()
    ranks = connect("cpu", available_cores())
    assert torch.get_num_threads() == 1
    found = ranks.each(lambda part: (part, torch.get_num_threads()), 2)
    assert list(found) == [(0, 1), (1, 1)]
    disconnect(ranks)
    torch.set_num_threads(before)


def torchrun(*words: str | Path) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [sys.executable, *launcher, "-m", "benthic", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_two_ranks_train_what_one_does(tmp_path: Path) -> None:
    words = ["run", "--data", text_in(tmp_path), "--out", tmp_path, *DRAWN, "--name"]
    one, two = benthic(*words, "one"), torchrun(*words, "two")
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    rows = [metrics.read(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    assert [r["step"] for r in rows[0]] == [r["step"] for r in rows[1]] == [*range(1, 7), 1, 2]
    for a, b in zip(*rows):
        for key in ("loss", "grad_norm", "reward"):
            assert a.get(key) == pytest.approx(b.get(key), abs=1e-5), (a["stage"], a["step"], key)
    for stage in ("pretrain", "rl"):
        alone, together = (state_of(tmp_path / name, stage) for name in ("one", "two"))
        for name, tensor in alone.items():
            torch.testing.assert_close(together[name], tensor, atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.slow
def test_two_ranks_and_one_part_end_in_one_sentence(tmp_path: Path) -> None:
    words = ["run", "--data", text_in(tmp_path), "--out", tmp_path]
    done = torchrun(*words, *settings("pretrain.micro_batches=1"))
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("benthic: ")]
    assert said and all("micro_batches = 1 cannot be dealt to 2 ranks" in line for line in said)
