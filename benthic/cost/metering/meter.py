"""The meter: a context around work that writes its bill while the work runs.

A thread with its own connection updates the ledger row every second, so a killed process is billed
to its last heartbeat. Durations come from the monotonic clock, which no change of the time of day
moves; wall time only stamps. A ledger that fails on the way is logged once and tried again, and
never ends the work; one that fails at the start does, before anything is spent.

Energy is read from the processor's package counters (RAPL) where the kernel lets the user read
them, else estimated as watts * seconds, and the row says which. RAPL counts all that the processor
does, other people's work included, and nothing of memory, disks, fans or accelerators.
"""

import logging
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from benthic.cost.ledger.ledger import Ledger, LedgerError, Span, Status, Usage
from benthic.cost.ledger.pending import End
from benthic.cost.metering.closing import close_row

POWERCAP = Path("/sys/class/powercap")
_log = logging.getLogger(__name__)


class Meter:
    """Bills one span to the ledger, from `with` to the end of the block; good for one use.

    The end is `done`, with all seconds productive, when the block is left normally; `interrupted`
    on KeyboardInterrupt, SystemExit or an exception whose attribute `interrupted` is true; `failed`
    on any other. LedgerError where the ledger refuses the first row.
    """

    def __init__(
        self,
        span: Span,
        ledger: Path,
        *,
        watts: float,
        watts_source: str,
        interval: float = 1.0,
        powercap: Path | None = POWERCAP,
    ) -> None:
        """`watts`: of one device, for the estimate; `interval`: seconds between heartbeats;
        `powercap`: where RAPL counters lie, none for a span whose device is not the processor."""
        self._span = span
        self._path = ledger
        self._watts = watts * span.count
        self._watts_source = watts_source
        self._interval = interval
        self._powercap = powercap
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="benthic-meter", daemon=True)
        self._tokens, self._flops = 0, 0
        self._productive: float | None = None

    def __enter__(self) -> Self:
        self._rapl = None if self._powercap is None else Rapl.find(self._powercap)
        source = "rapl" if self._rapl else f"estimate: {self._watts:g} W, {self._watts_source}"
        self._start = time.monotonic()
        with Ledger(self._path) as ledger:
            self._id = ledger.begin(self._span, energy_source=source)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._stop.set()
        status = _status(error)
        usage, now = self._measure(status), time.time()
        self._thread.join()
        try:
            failure = close_row(self._path, End(id=self._id, usage=usage, status=status, at=now))
        except LedgerError as refusal:
            failure = str(refusal)
        if failure:
            _log.error("This bill is not in the ledger: %s, %s, since %s", status, usage, failure)

    def add(self, *, tokens: int = 0, flops: int = 0) -> None:
        """Count work done, from any thread; the next heartbeat writes it."""
        with self._lock:
            self._tokens += int(tokens)
            self._flops += int(flops)

    def productive(self) -> None:
        """All seconds so far are kept: call it after each checkpoint."""
        with self._lock:
            self._productive = time.monotonic() - self._start

    def _beat(self) -> None:
        ledger, warned = None, False
        while not self._stop.wait(self._interval):
            usage = self._measure("running")
            try:
                ledger = ledger or Ledger(self._path)
                ledger.beat(self._id, usage)
            except LedgerError as failure:
                if not warned and not self._stop.is_set():
                    _log.warning("The work goes on, its bill is kept in memory: %s", failure)
                warned = True
                if ledger:
                    ledger.close()
                ledger = None
        if ledger:
            ledger.close()

    def _measure(self, status: Status) -> Usage:
        with self._lock:
            seconds = time.monotonic() - self._start
            tokens, flops, productive = self._tokens, self._flops, self._productive
            joules = self._rapl.joules() if self._rapl else self._watts * seconds
        if status == "done":
            productive = seconds
        elif status != "running":
            productive = productive or 0.0
        return Usage(
            seconds=seconds,
            seconds_productive=productive,
            tokens=tokens,
            flops=float(flops),
            joules=joules,
        )


class Rapl:
    """Energy of all processor packages since it was found. A counter wraps at some 260 kJ, which
    350 W fill in 12 minutes, and one turn between two readings is all that can be seen: call
    `joules` once a minute."""

    def __init__(self, packages: list[Path]) -> None:
        self._counters = [package / "energy_uj" for package in packages]
        self._ranges = [_microjoules(package / "max_energy_range_uj") for package in packages]
        self._last = [_microjoules(counter) for counter in self._counters]
        self._total = 0
        self._failed = False

    @classmethod
    def find(cls, root: Path) -> "Rapl | None":
        """The packages below `root`, or none where there are none or the user may not read them.

        The parts of a package, and `psys` which holds them all, would count energy twice.
        """
        try:
            zones = sorted(root.glob("intel-rapl:*"))
            packages = [z for z in zones if (z / "name").read_text().startswith("package")]
            return cls(packages) if packages else None
        except OSError:
            return None

    def joules(self) -> float:
        """Joules so far; where the counters stop to be readable, those until then, logged once."""
        try:
            now = [_microjoules(counter) for counter in self._counters]
        except (OSError, ValueError) as error:
            if not self._failed:
                _log.warning("The energy of this span is counted no further: %s", error)
            self._failed = True
            return self._total / 1e6
        for value, last, turn in zip(now, self._last, self._ranges, strict=True):
            self._total += value - last + (turn if value < last else 0)
        self._last = now
        return self._total / 1e6


def _microjoules(path: Path) -> int:
    return int(path.read_text())


def _status(error: BaseException | None) -> Status:
    if error is None:
        return "done"
    stopped = isinstance(error, KeyboardInterrupt | SystemExit)
    return "interrupted" if stopped or getattr(error, "interrupted", False) else "failed"
