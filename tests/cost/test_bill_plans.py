"""Plans of runs: what cannot be read is a sentence, and a run that is not there has neighbours."""

import json
from pathlib import Path
from typing import Any

import pytest

from benthic.cost.bill.page import story
from benthic.cost.bill.plans import keep
from benthic.cost.catalog.load import CostError
from benthic.cost.ledger.ledger import Ledger
from benthic.cost.page import render
from tests.cost.test_bill import billed, row

GOOD = {quantity: {"p10": 1, "p50": 2, "p90": 3} for quantity in ("gpu_hours", "dollars")}


def out(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_a_closed_standard_input_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(CostError, match="standard input is closed"):
        keep("/runs/a", Path("-"), ledger=tmp_path / "l.sqlite")


@pytest.mark.parametrize(
    "numbers",
    [
        (10**400, 10**401, 10**402),
        (1.0, 2.0, float("inf")),
        (-3, -2, -1),
        (3, 2, 1),
        ("1", "2", "3"),
    ],
)
def test_a_plan_of_another_program_is_passed_over(numbers: Any, tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        spread = dict(zip(("p10", "p50", "p90"), numbers, strict=True))
        text = json.dumps({"gpu_hours": spread, "dollars": GOOD["dollars"]})
        values = ("/runs/a", 0.0, text)
        ledger._connection.execute("INSERT INTO plans (run, at, document) VALUES (?, ?, ?)", values)
        bill = billed(ledger, row("a"))
    assert [held.quantity for held in bill.plans] == ["dollars"]


def test_an_unknown_run_is_told_its_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path, file = tmp_path / "l.sqlite", tmp_path / "plan.json"
    file.write_text(json.dumps(GOOD))
    with Ledger(path) as ledger:
        runs = (str(tmp_path / "train.py"), "wandb:3fk2", "/else/where/altogether" + "x" * 500)
        ledger.add(row(str(i), run=run) for i, run in enumerate(runs))
    keep("runs/train", file, ledger=path)
    told = out(capsys)
    assert "no row of that run yet" in told and "'benthic cost list'" in told
    assert "train.py" in told.partition("It has rows of ")[2] and "altogether" not in told
    keep("wandb:3fk3", file, ledger=path)
    assert "It has rows of wandb:3fk2" in out(capsys)
    keep("train.py", file, ledger=path)
    assert "no row" not in out(capsys)


def test_planned_money_is_rounded_by_its_own_size(tmp_path: Path) -> None:
    dear = {"p10": 95.676202, "p50": 150.0, "p90": 262.437749}
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.plan_set("/runs/a", GOOD | {"dollars": dear})
        page = render(story(billed(ledger, row("a", price_per_hour=0.00123))))
    assert "$95.68 - $262.44" in page and "$150.00" in page and "$0.00123" in page
