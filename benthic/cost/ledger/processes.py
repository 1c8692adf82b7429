"""Is the process that wrote a row still there? A process id alone may belong to another by now.

The kernel's id of this boot, the process's namespace and its start time name a process once. What
this process cannot see (another boot's clock, another namespace, a system without /proc) is not
known, and said so: a caller must then go by the age of the last heartbeat.
"""

import os
import time
from pathlib import Path

_PROC = Path("/proc")


def identity(pid: int) -> str:
    """ "boot/namespace/start" of a process that lives, as seen from here; else, or unknown, ""."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink(_PROC / "self/ns/pid")
    except OSError:
        return ""
    state = _state(pid)
    return f"{boot}/{namespace}/{state[19]}" if len(state) > 19 and state[0] not in "ZX" else ""


def is_gone(pid: int, recorded: str, heartbeat: float) -> bool | None:
    """True: ended for sure; False: alive; None: cannot be told from here.

    `recorded` is its identity then, "" where none was stored; `heartbeat` its last unix time.
    """
    if os.name != "posix" or pid <= 0:
        return None
    here, then = identity(os.getpid()).split("/"), recorded.split("/")
    if len(here) == len(then) == 3:
        if then[0] != here[0]:
            return True if heartbeat < _booted() else None
        if then[1] != here[1]:
            return None
        now = identity(pid)
        if now:
            return now != recorded
    return _state(pid)[:1] in (["Z"], ["X"]) or not _exists(pid)


def _state(pid: int) -> list[str]:
    """Fields 3 and on of the kernel's line; the second, a name, may hold anything."""
    try:
        return (_PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return []


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _booted() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
