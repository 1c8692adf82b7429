"""The GPUs of NVIDIA that this process may use: their names, how busy they are, their energy.

Read through `pynvml`, of the package nvidia-ml-py, where it is installed; else names alone, from
the driver's files, or where a container hides those, the number of device files. All obey
CUDA_VISIBLE_DEVICES. Busy is the driver's share of time in which a kernel ran, whoever's it was;
energy is the board's own counter (Volta and later), the rest of the server not in it. Numbers in
CUDA_VISIBLE_DEVICES are taken in the driver's order, which is CUDA's on machines of one kind of
GPU. A slice of a GPU (MIG) has a name, and neither counter. The energy counters are absolute, so a
reading that fails loses nothing once a later one succeeds; `unread` is the time since the last.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

DRIVER = Path("/proc/driver/nvidia/gpus")
DEVICES = Path("/dev")
_MISSING = (
    "neither how busy the GPUs are nor their energy is measured, since the package nvidia-ml-py is "
    "missing: pip install nvidia-ml-py"
)
_UNKNOWN = "NVIDIA GPU"
_log = logging.getLogger(__name__)


@dataclass
class Gpus:
    """Those that are visible; `look` reads the counters, the rest is as of the last look."""

    names: list[str]
    installed: int
    """in the machine, visible or not"""
    unread_for: str = ""
    """why neither counter can be read, and the remedy, in a sentence; empty where they can"""
    _nvml: Any = None
    _handles: list[Any] = field(default_factory=list)
    _last: list[int] = field(default_factory=list)
    _at: float = 0.0
    _counted: float = 0.0
    _millijoules: int = 0
    _warned: bool = False
    _busy: float = 0.0
    _seen: float = 0.0

    def start(self, now: float) -> None:
        """Count from here; `now` on the monotonic clock."""
        self._at = self._counted = now
        try:
            self._last = [self._nvml.nvmlDeviceGetTotalEnergyConsumption(h) for h in self._handles]
        except Exception:  # the part has no such counter
            self._last = []

    def look(self, now: float) -> None:
        """Read both counters; energy that cannot be read is logged once and asked for again."""
        if not self._handles:
            return
        try:
            rates = [self._nvml.nvmlDeviceGetUtilizationRates(h).gpu for h in self._handles]
        except Exception:  # a slice, or a part that does not say
            rates = []
        if rates:
            self._busy += sum(rates) / len(rates) / 100 * (now - self._at)
            self._seen += now - self._at
        self._at = now
        if not self._last:
            return
        try:
            read = [self._nvml.nvmlDeviceGetTotalEnergyConsumption(h) for h in self._handles]
        except Exception as error:
            if not self._warned:
                _log.warning(
                    "The energy of the GPUs cannot be read (%s): it is estimated until it can",
                    error,
                )
            self._warned = True
            return
        self._millijoules += sum(max(0, new - old) for new, old in zip(read, self._last))
        self._last, self._counted = read, now

    @property
    def busy(self) -> float | None:
        """Mean share of time, 0 to 1, over all of them; None where it is not known."""
        return min(1.0, self._busy / self._seen) if self._seen else None

    @property
    def metered(self) -> bool:
        """Whether they count energy."""
        return bool(self._last)

    @property
    def unread(self) -> float:
        """Seconds before the last look that no reading of energy covers; 0 where that look read."""
        return self._at - self._counted if self._last else 0.0

    @property
    def joules(self) -> float:
        return self._millijoules / 1000


def find(environ: Mapping[str, str], driver: Path = DRIVER, devices: Path = DEVICES) -> Gpus | None:
    """The visible GPUs, or None where there are none."""
    visible = _visible(environ)
    if visible == []:
        return None
    nvml = _library()
    found = _by_library(nvml, visible) if nvml else None
    return found or _by_driver(visible, driver, devices, "" if nvml else _MISSING)


def _visible(environ: Mapping[str, str]) -> list[str] | None:
    """What CUDA_VISIBLE_DEVICES names, up to its first invalid entry; None: it is not set."""
    given = environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return None
    found = []
    for name in (part.strip() for part in given.split(",")):
        if not re.fullmatch(r"\d+|(?:GPU|MIG)-[\w/-]+", name):
            break
        found.append(name)
    return found


def _library() -> Any:
    try:
        return import_module("pynvml")
    except ImportError:
        return None


def _by_library(pynvml: Any, visible: Sequence[str] | None) -> Gpus | None:
    try:
        pynvml.nvmlInit()
        installed = pynvml.nvmlDeviceGetCount()
        if visible is None:
            handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(installed)]
        else:
            handles = [h for name in visible if (h := _handle(pynvml, name, installed)) is not None]
        names = [_text(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
    except Exception as error:  # no driver, or not one that answers
        _log.debug("NVML does not answer: %s", error)
        return None
    return Gpus(names, installed, _nvml=pynvml, _handles=handles) if handles else None


def _handle(nvml: Any, name: str, installed: int) -> Any:
    if not name.isdigit():
        return nvml.nvmlDeviceGetHandleByUUID(name)
    return nvml.nvmlDeviceGetHandleByIndex(int(name)) if int(name) < installed else None


def _by_driver(
    visible: Sequence[str] | None, driver: Path, devices: Path, unread_for: str
) -> Gpus | None:
    names = []
    try:
        for file in sorted(driver.glob("*/information")):
            line = re.search(r"(?m)^Model:\s*(.+?)\s*$", file.read_text("utf-8", "replace"))
            names.append(line[1] if line else _UNKNOWN)
        names = names or [_UNKNOWN for _ in devices.glob("nvidia[0-9]*")]
    except OSError:
        return None
    if visible is None or not names:
        return Gpus(names, len(names), unread_for) if names else None
    numbers = [int(name) if name.isdigit() else 0 for name in visible]
    chosen = [names[number] for number in numbers if number < len(names)]
    return Gpus(chosen, len(names), unread_for) if chosen else None


def _text(name: str | bytes) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name
