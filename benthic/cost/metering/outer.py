"""The row that work runs inside, and what the work takes from it where nothing else was said.

A meter writes its row's id to BENTHIC_METER, which everything below it sees. What is metered there
takes its dollars off that row, so they have to stay what they were: of the same purpose, project
and user, on the same devices at the same price (`held.hold`), for all that was not given. Purpose
idle is the exception: a reservation is there for work of other purposes.

Blocks of one process may overlap in threads and end in any order, so their open rows are kept in a
list. A new block is inside the newest of its own thread, else the newest of the main thread, else
the newest of all; BENTHIC_METER names the newest that is open, and in the end what it named before.
"""

import os
import threading
from collections.abc import Mapping
from pathlib import Path

from benthic.cost.ledger.entries import Billed, clean
from benthic.cost.ledger.ledger import Ledger
from benthic.cost.ledger.purposes import Purpose

_METER = "BENTHIC_METER"
_lock = threading.Lock()
_open: list[tuple[int, str]] = []  # thread and row of this process's blocks, the newest last
_before: list[str] = []  # what the variable named before the first of them


def enter(row: str) -> None:
    """What starts from now on, in this process or below it, is inside that row."""
    with _lock:
        if not _open:
            _before[:] = [os.environ[_METER]] if _METER in os.environ else []
        _open.append((threading.get_ident(), row))
        os.environ[_METER] = row


def leave(row: str) -> None:
    """That row has ended."""
    with _lock:
        _open[:] = [pair for pair in _open if pair[1] != row]
        named = [_open[-1][1]] if _open else _before
        if named:
            os.environ[_METER] = named[0]
        else:
            os.environ.pop(_METER, None)


def outer_row(ledger: Path, environ: Mapping[str, str] = os.environ) -> Billed | None:
    """The row that work of this thread is inside, if it is open and in this ledger. LedgerError."""
    name = _inside() or environ.get(_METER, "")
    if not name:
        return None
    with Ledger(ledger) as opened:
        opened.close_stale()
        return next((row for row in opened.query(ids=[clean(name)]) if row.ended is None), None)


def purpose_inside(outer: Billed | None) -> Purpose:
    """What work is for of which nobody said it."""
    return outer.purpose if outer and outer.purpose != "idle" else "other"


def _inside() -> str:
    """The open block of this process that a new one is inside; empty: none."""
    with _lock:
        for thread in (threading.get_ident(), threading.main_thread().ident):
            for owner, row in reversed(_open):
                if owner == thread:
                    return row
        return _open[-1][1] if _open else ""
