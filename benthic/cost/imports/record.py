"""One run as another tool's file tells it, and the words and texts that all readers share.

A reader fills a `Record` with what its file says and leaves empty what it does not; `Intake` makes
the row. `project_else` is what comes nearest to a project in tools that have none: Slurm's account,
MLflow's experiment, the name of Trackio's file. It counts where neither file nor caller names one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benthic.cost.ledger.entries import Status
from benthic.svg import visible

_ENDS: dict[str, Status] = {
    **dict.fromkeys(("done", "finished", "completed", "complete", "success", "ok"), "done"),
    **dict.fromkeys(("succeeded", "successful"), "done"),
    **dict.fromkeys(("failed", "failure", "crashed", "error", "errored"), "failed"),
    **dict.fromkeys(("interrupted", "killed", "cancelled", "canceled"), "interrupted"),
    **dict.fromkeys(("preempted", "aborted", "stopped", "timeout"), "interrupted"),
    **dict.fromkeys(("running", "pending", "queued", "scheduled", "preempting"), "running"),
}


class RecordError(ValueError):
    """A record cannot be read; the text names file, row, cause and remedy."""


@dataclass(kw_only=True)
class Record:
    """One run as its file tells it; empty, None: the file does not say."""

    where: str
    """file and row, the opening of a sentence about it"""
    key: tuple[str, ...]
    """names the run whatever the file is called"""
    run: str
    name: str
    started: float
    seconds: float
    status: Status
    ended: float | None = None
    device: str = ""
    count: int | None = None
    """devices; 0: it held none, which is a processor's job"""
    price: float | None = None
    project: str = ""
    project_else: str = ""
    user: str = ""
    host: str = ""
    purpose: str = ""
    tags: Sequence[str] = ()
    note: str = ""
    command: str = ""
    exit_code: int | None = None
    joules: float = 0.0
    energy_source: str = "not recorded"
    gpu_busy: float | None = None
    parent: tuple[str, ...] | None = None
    """the key of the run inside which it ran"""
    attempt: tuple[str, ...] | None = None
    """the key of the first of those that it goes on with; none: it began anew"""
    kept: float | None = None
    """seconds whose work a later one went on with; none: not known"""


def ending(word: str) -> Status | None:
    """The status that a tool's word for an outcome means; None where it means none of ours."""
    return _ENDS.get(word.strip().lower())


def clip(text: str, length: int) -> str:
    """A stranger's text on one line, its control characters visible, cut to `length`."""
    text = text[: 4 * length]
    line = " ".join((text if text.isascii() and text.isprintable() else visible(text)).split())
    return line if len(line) <= length else line[: length - 3] + "..."


def within(value: float, what: str, unit: str, *, low: float = 0, high: float) -> float:
    """The value, where it is finite and from `low` to `high`. Raises RecordError."""
    if not (isinstance(value, int | float) and math.isfinite(value) and low <= value <= high):
        raise RecordError(f"{what} is {value}: give {unit}, {low:g} to {high:g}")
    return float(value)


def counted(number: int) -> str:
    return f"{number:,} row" if number == 1 else f"{number:,} rows"
