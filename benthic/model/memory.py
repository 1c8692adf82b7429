"""Whether what is to be held fits: asked before anything is read or allocated.

On a CPU what counts is what the system calls available, within the control group's limit; on a GPU
what is free there. Left out: what activations, gradients and a cache take, which callers add.
"""

import os
import resource
from pathlib import Path

import torch


class MemoryNeeded(ValueError):
    """One sentence with both figures."""


def check_memory(needed: int, device: torch.device) -> None:
    """Raise MemoryNeeded if `needed` bytes exceed what the device has left."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free_memory()
    if needed > free:
        raise MemoryNeeded(
            f"the model takes {needed / 2**30:,.1f} GiB and {free / 2**30:,.1f} GiB of memory are "
            f"free on {device}: take a smaller model, a narrower dtype, or a larger machine"
        )


def _free_memory(root: Path = Path("/")) -> int:
    """Bytes that a process may still take, its own limit and the control group's heeded."""
    page = os.sysconf("SC_PAGE_SIZE")
    free = os.sysconf("SC_PHYS_PAGES") * page
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
        own, _ = resource.getrlimit(resource.RLIMIT_AS)
        if own != resource.RLIM_INFINITY:
            held = int((root / "proc/self/statm").read_text().split()[0]) * page
            free = min(free, max(0, own - held))
        group = root / "sys/fs/cgroup"
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        for line in (group / "memory.stat").read_text().splitlines():
            if line.startswith(("active_file ", "inactive_file ")):  # gives way, as in MemAvailable
                used -= int(line.split()[1])
        if limit != "max":
            free = min(free, max(0, int(limit) - used))
    except (OSError, ValueError):
        pass  # another system, or no control group
    return free
