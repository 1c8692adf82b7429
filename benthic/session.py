"""One process's part in one run, and the meter that each of its stages runs under.

A stage is one row of the ledger, at the price of the recipe, or of the metered shell that the run
stands in. Of several ranks the first bills for all; the others' meter counts nothing. A spent hard
budget refuses the stage before it begins.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from benthic.config import BillConfig, Recipe
from benthic.console import Console
from benthic.cost.ledger.ledger import Ledger, Purpose, Span, ledger_path
from benthic.cost.limits import Limits
from benthic.cost.metering.held import catalogued
from benthic.cost.metering.meter import POWERCAP, Meter
from benthic.cost.metering.outer import outer_row
from benthic.folder import RunFolder, machine
from benthic.train.parallel import Ranks

_ASSUMED = BillConfig.price_per_hour, BillConfig.price_source


@dataclass(frozen=True)
class Session:
    """One process's part in one run."""

    recipe: Recipe
    folder: RunFolder
    ranks: Ranks
    console: Console
    attempt: str

    @contextmanager
    def billed(self, stage: str, purpose: Purpose) -> Iterator["Meter | Unbilled"]:
        """Meter a stage; ranks after the first are counted by the first.

        Raises OverBudget where a hard budget of its purpose or project is spent, and LedgerError.
        """
        if not self.ranks.first:
            yield Unbilled()
            return
        bill, gpu = self.recipe.bill, self.recipe.device == "cuda"
        outer = outer_row(ledger_path())
        device = catalogued(torch.cuda.get_device_name()) if gpu else machine()["cpu"]
        price, source = bill.price_per_hour, bill.price_source
        if outer and outer.device == device and (price, source) == _ASSUMED:
            price, source = outer.price_per_hour, outer.price_source
        span = Span(
            run=str(self.folder.path),
            attempt=self.attempt,
            stage=stage,
            purpose=purpose,
            device=device,
            count=self.ranks.size if gpu else self.ranks.machines,
            price_per_hour=price,
            price_source=source,
            project=outer.project if outer else "",
            user=outer.user if outer else "",
        )
        with Ledger(ledger_path()) as ledger:
            limits = Limits(ledger, span, stop=False)
            limits.check(outer, remedy=f"'benthic cost budget {purpose} AMOUNT' raises it")
        for warning in limits.warnings(0.0):
            self.console.say(warning)
        with Meter(
            span,
            ledger_path(),
            watts=bill.watts,
            watts_source=bill.watts_source,
            powercap=None if gpu else POWERCAP,
        ) as meter:
            yield meter


class Unbilled:
    """Stands in for the meter on ranks that the first one counts."""

    def add(self, *, tokens: int = 0, flops: int = 0) -> None: ...

    def productive(self) -> None: ...
