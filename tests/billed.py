"""What tests ask a ledger that others write."""

import time
from collections.abc import Callable
from pathlib import Path

from benthic.cost.ledger.entries import Billed
from benthic.cost.ledger.ledger import Ledger


def rows(path: Path) -> list[Billed]:
    with Ledger(path) as ledger:
        return list(ledger.query())


def row(path: Path) -> Billed:
    (found,) = rows(path)
    return found


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited 20 s in vain"
        time.sleep(0.01)
