"""`with benthic.meter("my-run", purpose="final"):` bills a block of any script, in one line.

    with benthic.meter("my-run", purpose="final", price=2.5) as m:
        for batch in batches:
            train(batch)
            m.add(tokens=batch.size)

Of the ranks of one launch the first bills for all. Inside `benthic meter`, or inside another block,
the row names the outer one as its parent, takes from it what was not given, and nothing is billed
twice. An exception ends it as failed, KeyboardInterrupt as interrupted. LedgerError, ValueError,
and OverBudget where a hard budget is spent, come at the start only: once the work runs, neither
ledger nor budget ends it.
"""

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from benthic.cost.ledger.entries import Span, Status
from benthic.cost.ledger.ledger import Ledger, LedgerError, ledger_path
from benthic.cost.ledger.purposes import purpose_named
from benthic.cost.limits import RAISE, Limits
from benthic.cost.metering.beside import beside
from benthic.cost.metering.heart import Gauge, Heart, interval_of, status_of
from benthic.cost.metering.held import folder_for, hold, is_first
from benthic.cost.metering.masking import masked
from benthic.cost.metering.outer import enter, leave, outer_row, purpose_inside
from benthic.cost.metering.resuming import last_attempt

_log = logging.getLogger("benthic.meter")


class Metered:
    """`benthic.meter`: bills what runs in the block; good for one use.

    `begin` and `end` do the same for code that has no block, as a trainer's callbacks have none.
    """

    def __init__(
        self,
        name: str = "",
        *,
        purpose: str = "",
        project: str = "",
        device: str = "",
        count: int | None = None,
        price: float | str | None = None,
        watts: float | None = None,
        heartbeat: float = 5.0,
        run: str | Path = "",
        resumed: bool = False,
        anyway: bool = False,
        while_true: Callable[[], bool] | None = None,
    ) -> None:
        """`name`: of the work, the script's if empty; `purpose`, `project`, devices and price are
        the outer row's if not given, without one purpose other, and what is found; `price` in US
        dollars an hour and `watts` are of one of `count` devices; `run`: the work's own folder, if
        it has one; `resumed`: it goes on with the run's last attempt, which is no new one; `anyway`
        starts it where a hard budget is spent, or unbilled where the ledger cannot be written;
        `while_true` ends the bill as failed once it says no. ValueError names what cannot be."""
        self._name = name or Path(sys.argv[0] or "python").name or "python"
        self._purpose = purpose_named(purpose) if purpose.strip() else None
        self._project = project.strip()
        self._given = {"device": device, "count": count, "price": price, "watts": watts}
        self._interval = interval_of(heartbeat)
        self._run = str(run) or folder_for(self._name)
        self._resumed, self._anyway = resumed, anyway
        self._while_true = while_true
        self._lock = threading.RLock()
        self._heart: Heart | None = None
        self._pid = 0

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.end(status_of(error))

    @property
    def id(self) -> str:
        """Of the row; empty where another rank bills, and outside the block."""
        return self._heart.id if self._heart else ""

    def begin(self) -> None:
        """Start to bill; RuntimeError where it has billed before, as each is good for one use."""
        if self._pid:
            raise RuntimeError(f"the meter '{self._name}' has billed before: make a new one")
        if not is_first():
            return
        try:
            self._begin(ledger_path().absolute())
        except LedgerError as error:
            if not self._anyway:
                raise
            _log.warning("%s; the work runs unbilled", error)

    def _begin(self, path: Path) -> None:
        outer = outer_row(path)
        held = hold(**self._given, outer=outer)  # type: ignore[arg-type]
        for warning in held.warnings:
            _log.warning("%s", warning)
        span = Span(
            run=self._run,
            attempt=uuid4().hex,
            stage="block",
            purpose=self._purpose or purpose_inside(outer),
            device=held.device,
            count=held.count,
            price_per_hour=held.price,
            price_source=held.price_source,
            project=self._project or (outer.project if outer else ""),
            user=outer.user if outer else "",
            name=self._name,
            source="python",
            parent=outer.id if outer else None,
            command=masked([Path(sys.executable or "python").name, *sys.argv]),
        )
        heart = Heart(
            path,
            Gauge(held, with_self=True),
            interval=self._interval,
            say=lambda sentence: _log.warning("%s", sentence),
            often=self._check if self._while_true else None,
        )
        with Ledger(path) as ledger:
            ledger.close_stale()
            limits = Limits(ledger, span, stop=False)
            if not self._anyway:
                limits.check(outer, remedy=f"{RAISE}; anyway=True starts it all the same")
            for warning in limits.warnings(0.0):
                _log.warning("%s", warning)
            if outer is None and (warning := beside(ledger, span, held)):
                _log.warning("%s", warning)
            if self._resumed:
                span = replace(span, attempt=last_attempt(ledger, span) or span.attempt)
            enter(heart.begin(ledger, span))
        self._heart, self._pid = heart, os.getpid()
        atexit.register(self._at_exit)
        heart.start()

    def end(self, status: Status = "done") -> None:
        """Close the bill; a second call, and one in a forked copy of this process, does nothing."""
        with self._lock:
            heart, self._heart = self._heart, None
        if heart is None or os.getpid() != self._pid:
            return
        atexit.unregister(self._at_exit)
        leave(heart.id)
        heart.end(status)

    def add(self, *, tokens: int = 0, flops: float = 0.0) -> None:
        """Count work done, from any thread; the next heartbeat writes it."""
        if heart := self._heart:
            heart.add(tokens=tokens, flops=flops)

    def productive(self) -> None:
        """All seconds so far are kept: call it after each checkpoint."""
        if heart := self._heart:
            heart.productive()

    def _check(self) -> None:
        if self._while_true and not self._while_true():
            self.end("failed")

    def _at_exit(self) -> None:
        """The interpreter ends inside: `sys.last_value` tells whether an exception ended it."""
        error = getattr(sys, "last_value", None)
        if error is None:
            with suppress(Exception):  # of a condition that is the user's
                self._check()
        self.end(status_of(error or KeyboardInterrupt()))


meter = Metered
