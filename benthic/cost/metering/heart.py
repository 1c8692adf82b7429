"""What keeps a bill alive: a gauge that reads what the work uses, and a thread that writes it down.

The thread writes soon after the start, then at doubled distances up to the heartbeat, so that short
work is seen too. Durations come from the monotonic clock: no change of the time of day moves them,
and a machine that sleeps is not billed for it. A ledger that fails on the way is reported once and
tried again; it never ends the work.

Energy is what counters say (NVML of the GPUs, RAPL of the processor), else an estimate with its
least and greatest value; the row names which. Counters wrap, so they are read each minute however
long the heartbeat. Where those of the GPUs fall silent, an estimate stands in for the rest, and the
row's note says for how long, once it is closed.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benthic.cost.ledger.entries import Span, Status, Usage
from benthic.cost.ledger.ledger import Ledger, LedgerError
from benthic.cost.ledger.pending import End
from benthic.cost.metering.closing import close_row
from benthic.cost.metering.descendants import Tree
from benthic.cost.metering.held import Holding
from benthic.cost.metering.rapl import POWERCAP, Rapl

SHORTEST, LONGEST = 0.05, 3600.0
"""seconds between heartbeats"""
_FIRST = 0.25
_PATIENCE = 10.0
_LOOK = 60.0
"""seconds between two readings of the counters, at most"""
_OFTEN = 1.0
_log = logging.getLogger(__name__)


class Gauge:
    """Reads what the work has used since the gauge was made."""

    def __init__(self, held: Holding, *, with_self: bool, powercap: Path = POWERCAP) -> None:
        """`with_self`: this process is part of the work, not only what is below it."""
        self._held = held
        self._start = time.monotonic()
        self._tree = Tree(with_self=with_self)
        self._gpus = held.gpus
        if self._gpus:
            self._gpus.start(self._start)
        self._boards = self._gpus if self._gpus and self._gpus.metered else None
        alone = held.count == (len(self._boards.names) if self._boards else 1)
        wanted = alone and (self._boards or not held.is_gpu)
        self._rapl = Rapl.find(powercap) if wanted else None
        self.energy_source = self._source(alone)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def look(self) -> None:
        """Read the counters alone."""
        if self._gpus:
            self._gpus.look(time.monotonic())
        if self._rapl:
            self._rapl.joules()

    def read(
        self, *, tokens: int, flops: float, productive: float | None, last: bool = False
    ) -> Usage:
        now = time.monotonic()
        self._tree.look(last=last)
        if self._gpus:
            self._gpus.look(now)
        seconds = now - self._start
        low, joules, high = self._energy(seconds)
        return Usage(
            seconds=seconds,
            seconds_productive=productive if productive is None else min(productive, seconds),
            tokens=tokens,
            flops=flops,
            joules=joules,
            joules_low=low if low < high else None,
            joules_high=high if low < high else None,
            gpus=float(self._held.count) if self._held.is_gpu else 0.0,
            gpu_busy=self._gpus.busy if self._gpus else None,
            cpu_seconds=self._tree.cpu_seconds,
            peak_bytes=self._tree.peak or None,
        )

    @property
    def gap(self) -> str:
        """What no counter told of the energy up to the last reading; empty where they told all."""
        unread = self._boards.unread if self._boards else 0.0
        if not unread:
            return ""
        return (
            f"energy of the last {unread:.0f} s is an estimate, since NVML did not answer: "
            f"{self._held.watts_source}"
        )

    def _energy(self, seconds: float) -> tuple[float, float, float]:
        """Least, likely and greatest; equal where all is counted."""
        if self._boards:
            joules = self._boards.joules * self._held.count / len(self._boards.names)
            joules += self._rapl.joules() if self._rapl else 0.0
            low, mid, high = self._held.joules(self._boards.unread, 0.0)
            return joules + low, joules + mid, joules + high
        if self._rapl:
            joules = self._rapl.joules()
            return joules, joules, joules
        return self._held.joules(seconds, self._tree.cpu_seconds)

    def _source(self, alone: bool) -> str:
        if self._boards and not alone:
            return (
                f"estimate: nvml of {len(self._boards.names)} GPUs, as if each of "
                f"{self._held.count} drew as much"
            )
        counters = ["nvml"] * bool(self._boards) + ["rapl"] * bool(self._rapl)
        return "+".join(counters) or f"estimate: {self._held.watts_source}"


class Heart:
    """One row of the ledger, from `begin` to `end`, and the thread in between."""

    def __init__(
        self,
        ledger: Path,
        gauge: Gauge,
        *,
        interval: float,
        say: Callable[[str], None] = _log.warning,
        each: Callable[[Ledger], None] | None = None,
        often: Callable[[], None] | None = None,
    ) -> None:
        """In the thread `each` is called after every heartbeat, and `often` at least each second;
        `say` tells the user."""
        self._path = ledger
        self._gauge = gauge
        self._interval = interval_of(interval)
        self._say = say
        self._each = each
        self._often = often
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="benthic-heart", daemon=True)
        self._tokens, self._flops = 0, 0.0
        self._productive: float | None = None
        self._refused = False
        self._note = ""
        self.id = ""

    @property
    def seconds(self) -> float:
        return self._gauge.seconds

    def begin(self, ledger: Ledger, span: Span) -> str:
        """Write the row and return its id; LedgerError before anything is spent."""
        self.id = ledger.begin(span, energy_source=self._gauge.energy_source)
        self._note = span.note
        return self.id

    def start(self) -> None:
        self._thread.start()

    def add(self, *, tokens: int = 0, flops: float = 0.0) -> None:
        """Count work done, from any thread. What is no count is left out, and said once."""
        try:
            new, more = int(tokens), float(flops)
            good = 0 <= new < 2**53 and 0 <= more < 1e60
        except (TypeError, ValueError, OverflowError):
            good = False
        if not good:
            if not self._refused:
                self._say(f"tokens {tokens} and flops {flops} are not counted: give 0 or more")
            self._refused = True
            return
        with self._lock:
            self._tokens += new
            self._flops += more

    def productive(self) -> None:
        """All seconds so far are kept: call it after each checkpoint."""
        with self._lock:
            self._productive = self._gauge.seconds

    def end(self, status: Status, *, exit_code: int | None = None, note: str = "") -> Usage | None:
        """Close the row for good; what the ledger does not take is said, with the figures.

        None where the end is written nowhere, neither in the ledger nor beside it: then the row is
        closed by whoever reads it next, at its last heartbeat.
        """
        self._stop.set()
        usage, now = self._usage(status, last=True), time.time()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_PATIENCE)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._say(
                f"the ledger {self._path} does not answer for {_PATIENCE:g} s: this work is billed "
                "up to its last heartbeat there"
            )
            return None
        note = "; ".join(filter(None, [self._note, note, self._gauge.gap]))
        end = End(
            id=self.id, usage=usage, status=status, exit_code=exit_code, note=note or None, at=now
        )
        there = True
        try:
            failure = close_row(self._path, end)
        except LedgerError as error:
            failure, there = str(error), False
        if failure:
            self._say(
                f"the end of this bill is not in the ledger, row {self.id}: {status} after "
                f"{usage.seconds:.3f} s, {usage.cpu_seconds:.3f} CPU s, {usage.joules:.0f} J, "
                f"since {failure}"
            )
        return usage if there else None

    def _usage(self, status: Status, *, last: bool = False) -> Usage:
        with self._lock:
            tokens, flops, productive = self._tokens, self._flops, self._productive
        if status == "done":
            productive = float("inf")  # all of it
        with self._reading:
            return self._gauge.read(tokens=tokens, flops=flops, productive=productive, last=last)

    def _run(self) -> None:
        ledger, warned, pause = None, False, min(_FIRST, self._interval)
        while not self._stopped_within(pause):
            pause = min(2 * pause, self._interval)
            try:
                usage = self._usage("running")
                ledger = ledger or Ledger(self._path)
                ledger.beat(self.id, usage)
                if self._each:
                    self._each(ledger)
                self._look_often()
            except Exception as failure:  # whatever it is, the work goes on
                if not warned and not self._stop.is_set():
                    self._say(f"the work goes on, its bill is kept in memory: {failure}")
                warned = True
                if ledger:
                    ledger.close()
                ledger = None
        if ledger:
            ledger.close()

    def _look_often(self) -> None:
        """Whatever is looked at, the work and its bill go on."""
        if self._often is None:
            return
        try:
            self._often()
        except Exception as failure:
            self._often = None
            self._say(f"the work is looked at no further: {failure}")

    def _stopped_within(self, seconds: float) -> bool:
        """Whether the end comes in that time; counters are read meanwhile."""
        until, look = time.monotonic() + seconds, _OFTEN if self._often else _LOOK
        while (left := until - time.monotonic()) > look:
            if self._stop.wait(look):
                return True
            with self._reading:
                self._gauge.look()
            self._look_often()
        return self._stop.wait(max(0.0, left))


@contextmanager
def beating(
    path: Path, span: Span, held: Holding, *, interval: float, powercap: Path = POWERCAP
) -> Iterator[Heart]:
    """Bill a block of this process to the ledger at `path`.

    It ends `done`, with all seconds productive, when the block is left normally, else as
    `status_of` says of the exception. LedgerError where the ledger refuses the first row; one that
    fails later never ends the work.
    """
    heart = Heart(path, Gauge(held, with_self=True, powercap=powercap), interval=interval)
    with Ledger(path) as ledger:
        heart.begin(ledger, span)
    heart.start()
    try:
        yield heart
    except BaseException as error:
        heart.end(status_of(error))
        raise
    heart.end("done")


def interval_of(seconds: float) -> float:
    """Seconds between heartbeats, if they can be."""
    if not SHORTEST <= seconds <= LONGEST:
        raise ValueError(
            f"heartbeat is {seconds}: give seconds between two, {SHORTEST:g} to {LONGEST:g}"
        )
    return float(seconds)


def status_of(error: BaseException | None) -> Status:
    """How work ended that this exception left; none: it ended well."""
    if error is None:
        return "done"
    if isinstance(error, SystemExit) and error.code in (None, 0):
        return "done"
    stopped = isinstance(error, KeyboardInterrupt | SystemExit)
    return "interrupted" if stopped or getattr(error, "interrupted", False) else "failed"
