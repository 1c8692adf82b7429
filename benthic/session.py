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
from benthic.cost.ledger.entries import Billed
from benthic.cost.ledger.ledger import Ledger, Purpose, Span, ledger_path
from benthic.cost.limits import Limits
from benthic.cost.metering.heart import Heart, beating
from benthic.cost.metering.held import Holding, hold
from benthic.cost.metering.outer import outer_row
from benthic.folder import RunFolder
from benthic.train.parallel import Ranks

_ASSUMED = BillConfig.price_per_hour, BillConfig.price_source
_HEARTBEAT = 1.0  # seconds


@dataclass(frozen=True)
class Session:
    """One process's part in one run."""

    recipe: Recipe
    folder: RunFolder
    ranks: Ranks
    console: Console
    attempt: str

    @contextmanager
    def billed(self, stage: str, purpose: Purpose) -> Iterator["Heart | Unbilled"]:
        """Meter a stage; ranks after the first are counted by the first.

        Raises OverBudget where a hard budget of its purpose or project is spent, and LedgerError.
        """
        if not self.ranks.first:
            yield Unbilled()
            return
        path = ledger_path()
        outer = outer_row(path)
        held, source = self._held(outer)
        span = Span(
            run=str(self.folder.path),
            attempt=self.attempt,
            stage=stage,
            purpose=purpose,
            device=held.device,
            count=held.count,
            price_per_hour=held.price,
            price_source=source,
            project=outer.project if outer else "",
            user=outer.user if outer else "",
        )
        with Ledger(path) as ledger:
            limits = Limits(ledger, span, stop=False)
            limits.check(outer, remedy=f"'benthic cost budget {purpose} AMOUNT' raises it")
        for warning in (*held.warnings, *limits.warnings(0.0)):
            self.console.say(warning)
        with beating(path, span, held, interval=_HEARTBEAT) as heart:
            yield heart

    def _held(self, outer: Billed | None) -> tuple[Holding, str]:
        """The devices with their price, and where that is from: the recipe, if it names one."""
        bill, gpu = self.recipe.bill, self.recipe.device == "cuda"
        given = (bill.price_per_hour, bill.price_source) != _ASSUMED
        held = hold(
            device=torch.cuda.get_device_name() if gpu else "cpu",
            count=self.ranks.size if gpu else self.ranks.machines,
            price=bill.price_per_hour if given else None,
            watts=bill.watts or None,
            outer=outer,
            named=False,
        )
        return held, bill.price_source if given else held.price_source


class Unbilled:
    """Stands in for the meter on ranks that the first one counts."""

    def add(self, *, tokens: int = 0, flops: int = 0) -> None: ...

    def productive(self) -> None: ...
