"""Which work a spent budget refuses: by its devices, beside those that the shell holds anyhow."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benthic.cost.ledger.entries import Span
from benthic.cost.ledger.ledger import Ledger
from benthic.cost.limits import Limits, OverBudget


def span(**given: Any) -> Span:
    """Eight H100 of a purpose whose hard budget is spent."""
    values = {
        "run": "/runs/one",
        "attempt": "a",
        "stage": "train",
        "purpose": "ablation",
        "project": "reef",
        "device": "H100-SXM",
        "count": 8,
        "price_per_hour": 2.0,
        "price_source": "--price",
    }
    return Span(**(values | given))


@pytest.fixture
def spent(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.budget_set("purpose", "ablation", 0.0, hard=True)
        yield ledger


@pytest.mark.parametrize(
    ("inner", "goes_on"),
    [
        ({}, True),
        ({"count": 4}, True),
        ({"count": 9}, False),  # one more than the shell holds
        ({"device": "H200"}, False),
        ({"count": 1, "device": "CPU"}, False),
    ],
)
def test_what_runs_inside_is_let_in_on_the_devices_of_the_shell(
    spent: Ledger, inner: dict[str, Any], goes_on: bool
) -> None:
    limits = Limits(spent, span(**inner), stop=False)
    assert (limits.refusal(span()) == "") == goes_on


def test_a_budget_that_did_not_let_the_shell_in_is_asked(spent: Ledger) -> None:
    shell = span(purpose="idle")
    assert "purpose ablation, $0, is spent" in Limits(spent, span(), stop=False).refusal(shell)
    spent.budget_set("project", "reef", 0.0, hard=True)
    both = Limits(spent, span(purpose="rl"), stop=False)
    assert both.refusal(shell) == "" and "project reef" in both.refusal(span(project=""))


def test_a_budget_that_stops_work_is_asked_wherever_the_work_runs(spent: Ledger) -> None:
    assert Limits(spent, span(), stop=True).refusal(span())
    spent.budget_set("purpose", "rl", 0.0)
    soft = span(purpose="rl")
    assert not Limits(spent, soft, stop=False).refusal()
    with pytest.raises(OverBudget, match=r"purpose rl, \$0, is spent \(\$0\): wait"):
        Limits(spent, soft, stop=True).check(remedy="wait")
