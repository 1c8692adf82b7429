"""`benthic meter -- COMMAND`: run any command, and bill what it held and used.

The command runs as if it were not metered (see `child`) and its exit code is passed through; the
bill is a row of the ledger that a thread keeps up to date, so a killed meter is billed up to its
last heartbeat, and the command then gets a SIGTERM. Of several ranks of one launch the first bills
for all and the others become the command at once; processor time and memory are then the first's.
A command run inside names this row as its parent (BENTHIC_METER), so nothing is billed twice, and
takes from it what was not given (`outer`).

The bill ends with the command. What it leaves running is named, and billed only with `wait`.
Exit codes: the command's, 128 + n where a signal n ended it; 2 where none is given; 3 where a
budget refuses or ended it; 125 where the meter cannot bill, 126 and 127 where the command cannot be
run or is not found.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from benthic.cost.ledger.entries import (
    Billed,
    Span,
    Status,
    Usage,
)
from benthic.cost.ledger.ledger import Ledger, LedgerError, ledger_path
from benthic.cost.ledger.purposes import Purpose, purpose_named
from benthic.cost.limits import RAISE, Limits
from benthic.cost.metering.beside import beside
from benthic.cost.metering.child import ENDING, Child, NotRun, become, program, send, start
from benthic.cost.metering.descendants import Process, below
from benthic.cost.metering.heart import Gauge, Heart, interval_of
from benthic.cost.metering.held import Holding, folder_for, hold, is_first
from benthic.cost.metering.masking import masked
from benthic.cost.metering.outer import outer_row, purpose_inside
from benthic.cost.metering.resuming import keep_earlier, last_attempt

CANNOT_BILL, OVER_BUDGET, NO_COMMAND = 125, 3, 2
GRACE = 30.0
"""seconds between the SIGTERM of a budget and the SIGKILL"""
_STOPPED = {128 + n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)}
_SCRIPTS = (".py", ".sh", ".ipynb", ".jl", ".R")


def run(
    command: Sequence[str],
    *,
    purpose: str = "",
    project: str = "",
    name: str = "",
    device: str = "",
    count: int | None = None,
    price: float | str | None = None,
    watts: float | None = None,
    heartbeat: float = 5.0,
    resumed: bool = False,
    budget_stop: bool = False,
    wait: bool = False,
    anyway: bool = False,
    quiet: bool = False,
) -> int:
    """Run and bill `command`; the exit code, see above. For a process that does nothing else.

    What is not given is the outer row's, if there is one. `price` in US dollars an hour and `watts`
    are of one of `count` devices; `resumed`: the command goes on with the last try of that name in
    this folder (see `resuming`); `budget_stop` ends the work when a budget of its purpose or
    project is spent; `wait` bills until all that the command started has ended; `anyway` starts it
    where a hard budget is spent, or unbilled where the ledger cannot be written; `quiet` leaves out
    the line at the end.
    """
    words = list(command)
    try:
        path = program(words, os.environ)
        if not is_first():
            become(path, words, os.environ)
        kind = purpose_named(purpose) if purpose.strip() else None
        interval = interval_of(heartbeat)
        folder = folder_for(name or name_of(words))
        outer = outer_row(ledger_path().absolute())
        held = hold(device=device, count=count, price=price, watts=watts, outer=outer)
        span = _span(words, folder, kind, project, name, held, outer)
    except NotRun as refusal:
        return _refuse(str(refusal), refusal.code)
    except ValueError as error:
        return _refuse(str(error), CANNOT_BILL)
    except LedgerError as error:
        return _unbilled(error, path, words, anyway)
    try:
        return _Command(
            words, path, held, span, outer, interval, resumed, budget_stop, wait, anyway, quiet
        ).run()
    except NotRun as refusal:
        return _refuse(str(refusal), refusal.code)
    except LedgerError as error:
        return _unbilled(error, path, words, anyway)


class _Command:
    """One command, from the ledger's first row to its last word."""

    def __init__(
        self,
        words: list[str],
        path: str,
        held: Holding,
        span: Span,
        outer: Billed | None,
        interval: float,
        resumed: bool,
        budget_stop: bool,
        wait: bool,
        anyway: bool,
        quiet: bool,
    ) -> None:
        self.words, self.path, self.held, self.span, self.outer = words, path, held, span, outer
        self.resumed, self.budget_stop, self.wait = resumed, budget_stop, wait
        self.anyway, self.quiet = anyway, quiet
        self.file = ledger_path().absolute()
        self.heart = Heart(
            self.file,
            Gauge(held, with_self=False),
            interval=interval,
            say=say,
            each=self._watch_budgets,
        )
        self.rate = held.count * held.price
        self.child: Child | None = None
        self.over = ""
        self.ended = threading.Event()

    def run(self) -> int:
        with Ledger(self.file) as ledger:
            ledger.close_stale()
            self.limits = Limits(ledger, self.span, stop=self.budget_stop)
            spent = self.limits.refusal(self.outer)
            if spent and self.budget_stop:
                return _refuse(f"{spent}: {RAISE}", OVER_BUDGET)
            if spent and not self.anyway:
                return _refuse(f"{spent}: {RAISE}; --anyway starts it all the same", OVER_BUDGET)
            for warning in (*self.held.warnings, *self.limits.warnings(0.0)):
                say(warning)
            if self.budget_stop and not self.limits:
                say("no budget is set for this purpose or project, so none stops the command")
            if self.outer is None and (warning := beside(ledger, self.span, self.held)):
                say(warning)
            if self.resumed:
                self._go_on(ledger)
            row = self.heart.begin(ledger, self.span)
        environ = dict(os.environ) | {"BENTHIC_METER": row}
        if os.environ.get("BENTHIC_LEDGER"):  # the command may change its folder
            environ["BENTHIC_LEDGER"] = str(self.file)
        try:
            self.child = start(self.path, self.words, environ)
        except NotRun as refusal:
            self.heart.end("failed", exit_code=refusal.code, note=str(refusal))
            raise
        self.heart.start()
        try:
            code = self.child.wait()
            self.ended.set()
            note = self._leave()
            status = _status(code, self.child.signals, stopped=bool(self.over))
            notes = [note, f"stopped: {self.over}" if self.over else "", _death(code)]
            usage = self.heart.end(status, exit_code=code, note="; ".join(filter(None, notes)))
        finally:
            self.child.release()
        if usage and not self.quiet:
            say(_summary(self.span, self.held, usage, status, row, self._inside(row)))
        return OVER_BUDGET if self.over else code

    def _go_on(self, ledger: Ledger) -> None:
        """Make it one attempt with the last of that name in this folder."""
        attempt = last_attempt(ledger, self.span)
        if not attempt:
            say(f"no earlier try of {self.span.run} is in the ledger, so this is its first")
            return
        self.span = replace(self.span, attempt=attempt)
        keep_earlier(ledger, self.span)

    def _inside(self, row: str) -> float:
        """US dollars of the row that count as those of what ran inside it."""
        try:
            with Ledger(self.file) as ledger:
                found = ledger.find(row)
        except LedgerError:
            return 0.0
        return found.seconds_nested * found.count * found.price_per_hour / 3600

    def _leave(self) -> str:
        """Say what outlives the command, or wait for it; a note for the row."""
        assert self.child is not None
        rest = self.child.outliving()
        if not rest:
            return ""
        if self.wait:
            say(f"the command has ended and {_listed(rest)}: waiting for the rest")
            self.child.wait_for_rest()
            return f"waited for {len(rest)} more processes"
        until = time.strftime("%H:%M:%S %Z").strip()
        say(f"{_listed(rest)}: billed until {until}, when it ended; --wait bills until they end")
        return f"{_listed(rest)}, billed until the command's end"

    def _watch_budgets(self, ledger: Ledger) -> None:
        """In the thread: speak of budgets, and end the command at one if asked to."""
        over = "" if self.over else self.limits.stops(ledger, self.rate)
        if over:
            self.over = over
            say(f"{over}: the command is asked to end, and killed in {GRACE:g} s")
            self._end(signal.SIGTERM)
            timer = threading.Timer(GRACE, self._end, [signal.SIGKILL])
            timer.daemon = True
            timer.start()
        for warning in [] if self.over else self.limits.warnings(self.rate):
            say(warning)

    def _end(self, number: int) -> None:
        if self.child is None or (self.ended.is_set() and not self.wait):
            return
        kills_all = number == signal.SIGKILL or self.ended.is_set()
        for pid in [p.pid for p in below(os.getpid())] if kills_all else [self.child.pid]:
            send(pid, number)


def unparted(options: Sequence[str], words: Sequence[str]) -> int:
    """Refuse a command that stands before -- instead of behind it."""
    from shlex import join

    return _refuse(
        f"'{words[0]}' is no option of the meter: write -- before the command, as in: "
        f"{join(['benthic', 'meter', *options, '--', *words])}",
        NO_COMMAND,
    )


def name_of(command: Sequence[str]) -> str:
    """What people would call it: its script, else its module, else its program."""
    for before, word in zip(("", *command), command):
        if word.endswith(_SCRIPTS) or before == "-m":
            return Path(word).name
    return Path(command[0]).name


def say(sentence: str) -> None:
    """To standard error, in one write, so lines of several programs do not mix."""
    if sys.stderr is None:  # closed before the start
        return
    with suppress(OSError):  # whoever read it has left: no reason to end the work
        sys.stderr.write(f"benthic: {' '.join(sentence.split())}\n")
        sys.stderr.flush()


def _span(
    words: list[str],
    folder: str,
    purpose: Purpose | None,
    project: str,
    name: str,
    held: Holding,
    outer: Billed | None,
) -> Span:
    return Span(
        run=folder,
        attempt=uuid4().hex,
        stage="command",
        purpose=purpose or purpose_inside(outer),
        device=held.device,
        count=held.count,
        price_per_hour=held.price,
        price_source=held.price_source,
        project=project.strip() or (outer.project if outer else ""),
        user=outer.user if outer else "",
        name=name or name_of(words),
        source="meter",
        command=masked(words),
    )


def _status(code: int, signals: Sequence[int], *, stopped: bool) -> Status:
    asked = set(ENDING) & set(signals)
    if stopped or (code and (asked or code in _STOPPED)):
        return "interrupted"
    return "failed" if code else "done"


def _death(code: int) -> str:
    try:
        return f"ended by {signal.Signals(code - 128).name}" if code > 128 else ""
    except ValueError:
        return ""


def _listed(rest: Sequence[Process]) -> str:
    names = ", ".join(f"{process.name} {process.pid}" for process in rest[:3])
    more = f" and {len(rest) - 3} more" if len(rest) > 3 else ""
    verb = "process outlives" if len(rest) == 1 else "processes outlive"
    return f"{len(rest)} {verb} the command ({names}{more})"


def _unbilled(error: LedgerError, path: str, words: list[str], anyway: bool) -> int:
    """The command runs without a bill, if it may."""
    if not anyway:
        return _refuse(f"{error}; with --anyway the command runs unbilled", CANNOT_BILL)
    say(f"{error}; the command runs unbilled")
    try:
        become(path, words, os.environ)
    except NotRun as refusal:
        return _refuse(str(refusal), refusal.code)


def _refuse(sentence: str, code: int) -> int:
    say(sentence)
    return code


def _summary(
    span: Span, held: Holding, usage: Usage, status: Status, row: str, inside: float
) -> str:
    dollars = usage.seconds * span.count * span.price_per_hour / 3600
    assumed = ", an assumption: give --price" if held.price_assumed else ""
    parts = [
        f"{status} after {_time(usage.seconds)}",
        f"{_money(dollars)} ({span.count} x {span.device} at ${span.price_per_hour:g}/h{assumed})",
    ]
    if inside:
        parts.append(f"{_money(inside)} of it is billed to what ran inside")
    if usage.gpu_busy is not None:
        parts.append(f"GPUs {usage.gpu_busy:.0%} busy")
    parts.append(f"{_time(usage.cpu_seconds or 0.0)} of processor")
    if usage.peak_bytes:
        parts.append(f"{usage.peak_bytes / 1e9:.2g} GB at most")
    if usage.joules_low is not None and usage.joules_high is not None:
        low, high = usage.joules_low / 3600, usage.joules_high / 3600
        parts.append(f"about {usage.joules / 3600:.2g} Wh ({low:.2g} to {high:.2g})")
    else:
        parts.append(f"{usage.joules / 3600:.2g} Wh")
    return f"{'; '.join(parts)}; row {row[:8]}"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = int(seconds) // 60
    return f"{minutes // 60}:{minutes % 60:02d}:{int(seconds) % 60:02d}"


def _money(dollars: float) -> str:
    return f"${dollars:,.2f}" if dollars >= 1 else f"${dollars:.2g}"
