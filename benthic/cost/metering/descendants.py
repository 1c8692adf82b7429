"""The processes below one: their processor time and memory, read from /proc.

Processor time is what the kernel has summed for children that were waited for, and what each living
descendant has used, its own dead children included; so short ones count without being seen. Memory
is the proportional share of each (PSS), in which pages that several hold count once.
"""

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_PAGE = resource.getpagesize()
SHARE = 0.0025
"""of one core that looking may take; at first there is a little more, so short work is seen"""
_AT_FIRST = 0.05
_WALKABLE = 32 << 30
"""bytes; the walk for the share of a larger process would hold up its own allocations"""


@dataclass(frozen=True)
class Process:
    """One line of /proc; seconds include those of its own children that it has waited for."""

    pid: int
    parent: int
    name: str
    seconds: float
    resident: int


def below(root: int) -> list[Process]:
    """All living descendants of `root`, which is not among them; empty where there is no /proc."""
    children: dict[int, list[Process]] = {}
    for process in _all():
        children.setdefault(process.parent, []).append(process)
    found = children.pop(root, [])
    for process in found:
        found += children.pop(process.pid, [])
    return found


def seconds_of_dead() -> float:
    """Processor seconds of all descendants that this process, or those below it, waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def largest_dead() -> int:
    """Bytes that the largest of them had resident at once."""
    return _bytes(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def largest_self() -> int:
    """Bytes that this process had resident at once."""
    return _bytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def memory(pids: list[int], resident: int, known: int) -> int:
    """Bytes of memory in `pids`; `resident` is their sum, in which shared pages count often.

    That sum is an upper bound, so a better figure is asked for only if it could exceed `known`.
    """
    if len(pids) < 2 or resident <= known:
        return resident
    if resident <= _WALKABLE:
        shares = [_share(pid) for pid in pids]
        if None not in shares:
            return sum(share or 0 for share in shares)
    return _counted_once(pids)


def resident_of(pid: int) -> int:
    return sum(_statm(pid))


def _counted_once(pids: list[int]) -> int:
    """Private pages of all, and shared ones of the process that has most: without a walk."""
    found = [_statm(pid) for pid in pids]
    return sum(private for private, _ in found) + max((shared for _, shared in found), default=0)


def _statm(pid: int) -> tuple[int, int]:
    """Bytes resident that are the process's own, and those it shares with files and others."""
    try:
        fields = (_PROC / str(pid) / "statm").read_text().split()
        return (int(fields[1]) - int(fields[2])) * _PAGE, int(fields[2]) * _PAGE
    except (OSError, ValueError, IndexError):  # gone meanwhile
        return 0, 0


def _share(pid: int) -> int | None:
    """Bytes; None where the kernel does not tell."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        return 0  # gone meanwhile
    except OSError:
        return None
    return None


def _all() -> list[Process]:
    found = []
    try:
        names = os.listdir(_PROC)
    except OSError:
        return []
    for name in names:
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                head, _, tail = file.read().rpartition(b")")
        except OSError:
            continue
        fields = tail.split()
        if len(fields) > 21 and fields[0] not in (b"Z", b"X"):
            found.append(
                Process(
                    pid=int(name),
                    parent=int(fields[1]),
                    name=head.partition(b"(")[2].decode("utf-8", "replace"),
                    seconds=sum(map(int, fields[11:15])) / _TICK,
                    resident=int(fields[21]) * _PAGE,
                )
            )
    return found


def _bytes(maxrss: int) -> int:
    return maxrss if os.uname().sysname == "Darwin" else maxrss * 1024


class Tree:
    """What the descendants of this process have used since it was made; with its own, if asked.

    One look costs milliseconds on a machine with many processes, so it is left out where looks
    would take more than SHARE of one core: `cpu_seconds` and `peak` are as of the last.
    """

    def __init__(self, *, with_self: bool) -> None:
        self._self = with_self
        self._offset = 0.0
        self._floor = max(largest_self(), largest_dead())
        self._start, self._cost = time.monotonic(), 0.0
        self.cpu_seconds = 0.0
        self.peak = 0
        if with_self:
            self._offset = self._seconds(below(os.getpid()))

    def look(self, *, last: bool = False) -> None:
        if not last and self._cost > _AT_FIRST + SHARE * (time.monotonic() - self._start):
            return
        began = time.thread_time()
        living = below(os.getpid())
        self.cpu_seconds = max(self.cpu_seconds, self._seconds(living) - self._offset)
        pids = [process.pid for process in living]
        resident = sum(process.resident for process in living)
        if self._self:
            pids.append(os.getpid())
            resident += resident_of(os.getpid())
        if pids:
            self.peak = max(self.peak, memory(pids, resident, self.peak))
        if last:
            self._add_largest()
        self._cost += time.thread_time() - began

    def _seconds(self, living: list[Process]) -> float:
        own = time.process_time() if self._self else 0.0
        return own + seconds_of_dead() + sum(process.seconds for process in living)

    def _add_largest(self) -> None:
        """The kernel's own high-water mark of the largest one, which falls between no two looks.

        It counts only what is new: below this process's own mark it says nothing, since a child
        begins as a copy of its parent.
        """
        marks = [largest_dead(), *([largest_self()] if self._self else [])]
        self.peak = max([self.peak, *(mark for mark in marks if mark > self._floor)])
