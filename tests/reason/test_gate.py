"""Go or no-go before reinforcement."""

from dataclasses import replace
from typing import Any

import pytest

from benthic.config import ReasonConfig
from benthic.reason.gate import judge

CONFIG = replace(ReasonConfig(), gate_gap=0.25, gate_share=0.125)


def sampled(worked: float | None, direct: float | None, share: float) -> dict[str, Any]:
    return {
        "worked_accuracy": worked,
        "direct_accuracy": direct,
        "think_share": share,
        "worked_count": 30,
        "direct_count": 70,
    }


@pytest.mark.parametrize(
    ("worked", "direct", "share", "passed"),
    [
        (0.9, 0.1, 0.5, True),
        (0.5, 0.25, 0.125, True),  # on both thresholds
        (0.49, 0.25, 0.5, False),  # thinking hardly helps
        (0.9, 0.1, 0.12, False),  # thinking is hardly sampled
        (0.1, 0.9, 0.5, False),
        (None, 0.1, 0.0, False),  # never sampled
        (0.3, None, 1.0, True),  # always sampled: a direct answer counts as wrong
    ],
)
def test_both_thresholds_must_be_met(
    worked: float | None, direct: float | None, share: float, passed: bool
) -> None:
    assert judge(sampled(worked, direct, share), CONFIG, forced=False).passed is passed


def test_force_is_told_and_changes_no_verdict() -> None:
    gate = judge(sampled(0.1, 0.1, 0.5), CONFIG, forced=True)
    assert gate.forced and not gate.passed


def test_figures_are_kept() -> None:
    assert judge(sampled(None, 0.5, 0.25), CONFIG, forced=False).to_dict() == {
        "passed": False,
        "worked_accuracy": 0.0,
        "direct_accuracy": 0.5,
        "worked_share": 0.25,
        "samples": 100,
        "forced": False,
    }
