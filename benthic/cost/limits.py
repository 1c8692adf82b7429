"""Budgets held against a piece of work: may it start, and may it go on.

A hard budget that is spent refuses work; any other is only spoken of, once when four fifths are
gone and once when all is, unless the user asks to be stopped by it. What others spend meanwhile is
asked of the ledger anew, seldom enough not to be felt; in between, this work's own dollars count.
"""

import time

from benthic.cost.ledger.entries import Budget, Purpose
from benthic.cost.ledger.ledger import Ledger

_NEAR = 0.8
_ANEW = 60.0  # seconds between two questions to the ledger, at least


class Limits:
    """The budgets of one purpose and one project."""

    def __init__(self, ledger: Ledger, *, purpose: Purpose, project: str, stop: bool) -> None:
        """`stop`: every budget is hard, and ends the work once it is spent. LedgerError."""
        keys = {("purpose", purpose), ("project", project)}
        self._budgets = [b for b in ledger.budgets() if (b.scope, b.key) in keys]
        self._stop = stop
        self._spent = [0.0] * len(self._budgets)
        self._said = [0.0] * len(self._budgets)
        self._asked = self._next = 0.0
        self._ask(ledger)

    def __bool__(self) -> bool:
        return bool(self._budgets)

    def refusal(self) -> str:
        """Why the work may not start; empty where it may."""
        for budget, spent in zip(self._budgets, self._spent):
            if (budget.hard or self._stop) and spent >= (budget.dollars or 0.0):
                return f"{_is_spent(budget, spent)}: raise it, or give another purpose or project"
        return ""

    def warnings(self, rate: float) -> list[str]:
        """What has not been said yet; `rate` in dollars an hour since the ledger was asked."""
        found = []
        for index, (budget, spent) in enumerate(zip(self._budgets, self._now(rate))):
            share = spent / budget.dollars if budget.dollars else 1.0
            level = 1.0 if share >= 1 else _NEAR if share >= _NEAR else 0.0
            if level > self._said[index]:
                self._said[index] = level
                found.append(
                    _is_spent(budget, spent)
                    if level == 1
                    else f"of {_named(budget)} {share:.0%} are spent"
                )
        return found

    def stops(self, ledger: Ledger, rate: float) -> str:
        """Why the work must end now; empty where it need not. LedgerError."""
        if not self._budgets:
            return ""
        if time.monotonic() >= self._next:
            self._ask(ledger)
        for budget, spent in zip(self._budgets, self._now(rate)):
            if self._stop and spent >= (budget.dollars or 0.0):
                return _is_spent(budget, spent)
        return ""

    def _ask(self, ledger: Ledger) -> None:
        began = time.monotonic()
        self._spent = [ledger.spent(budget.scope, budget.key) for budget in self._budgets]
        self._asked = time.monotonic()
        self._next = self._asked + max(_ANEW, 400 * (self._asked - began))

    def _now(self, rate: float) -> list[float]:
        own = rate * (time.monotonic() - self._asked) / 3600
        return [spent + own for spent in self._spent]


def _named(budget: Budget) -> str:
    return f"the budget of {budget.scope} {budget.key}, ${budget.dollars or 0.0:,.6g},"


def _is_spent(budget: Budget, spent: float) -> str:
    return f"{_named(budget)} is spent (${spent:,.6g})"
