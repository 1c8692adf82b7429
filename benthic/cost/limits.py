"""Budgets held against a piece of work: may it start, and may it go on.

A hard budget that is spent refuses work; any other is only spoken of, once when four fifths are
gone and once when all is, unless the user asks to be stopped by it. What others spend meanwhile is
asked of the ledger anew, seldom enough not to be felt; in between, this work's own dollars count.
So do those that work inside it took over under another name: the devices are held all the same.
"""

import time

from benthic.cost.ledger.entries import Budget, Span
from benthic.cost.ledger.ledger import Ledger

RAISE = "raise it, or give another purpose or project"
_NEAR = 0.8
_ANEW = 60.0  # seconds between two questions to the ledger, at least


class OverBudget(Exception):
    """A hard budget is spent, so the work may not start; the text names the budget and a remedy."""

    no_go = True


class Limits:
    """The budgets of one purpose and one project."""

    def __init__(self, ledger: Ledger, span: Span, *, stop: bool) -> None:
        """`span`: of the work; `stop`: every budget is hard, and ends the work once it is spent.
        LedgerError."""
        self._span = span
        keys = {("purpose", span.purpose), ("project", span.project)}
        self._budgets = [b for b in ledger.budgets() if (b.scope, b.key) in keys]
        self._stop = stop
        self._spent = [0.0] * len(self._budgets)
        self._said = [0.0] * len(self._budgets)
        self._asked = self._next = 0.0
        self._ask(ledger)
        self._begun, self._at_first = self._asked, self._spent

    def __bool__(self) -> bool:
        return bool(self._budgets)

    def refusal(self, outer: Span | None = None) -> str:
        """What budget refuses the work; empty where it may start.

        `outer`, inside which it runs, goes on anyhow: a budget that let it in is not asked again
        for devices which that one holds.
        """
        within = outer and outer.device == self._span.device and outer.count >= self._span.count
        let_in = (
            {("purpose", outer.purpose), ("project", outer.project)} if outer and within else ()
        )
        for budget, spent in zip(self._budgets, self._spent):
            if (budget.scope, budget.key) in let_in and not self._stop:
                continue
            if (budget.hard or self._stop) and spent >= (budget.dollars or 0.0):
                return _is_spent(budget, spent)
        return ""

    def check(self, outer: Span | None = None, *, remedy: str) -> None:
        """OverBudget where the work may not start; `remedy` ends its sentence."""
        if refusal := self.refusal(outer):
            raise OverBudget(f"{refusal}: {remedy}")

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
        with ledger.one_moment():
            self._spent = [ledger.spent(budget.scope, budget.key) for budget in self._budgets]
        self._asked = time.monotonic()
        self._next = self._asked + max(_ANEW, 400 * (self._asked - began))

    def _now(self, rate: float) -> list[float]:
        """Never less than this work's own gross dollars on top of what was spent at its start."""
        now, dollars = time.monotonic(), rate / 3600
        since, whole = dollars * (now - self._asked), dollars * (now - self._begun)
        return [max(s + since, first + whole) for s, first in zip(self._spent, self._at_first)]


def _named(budget: Budget) -> str:
    return f"the budget of {budget.scope} {budget.key}, ${budget.dollars or 0.0:,.6g},"


def _is_spent(budget: Budget, spent: float) -> str:
    return f"{_named(budget)} is spent (${spent:,.6g})"
